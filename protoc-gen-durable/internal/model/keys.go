package model

import (
	"iter"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// checkKeys checks every key field of the files to generate, and those of the
// requests of their objects. That a request has none is no mistake: its key may
// come from header or URL.
func (l *loader) checkKeys() {
	requested := l.requests()
	checked := map[*protogen.Message]bool{}
	for _, file := range l.plugin.Files {
		if !file.Generate {
			continue
		}
		hasObject := false
		for _, o := range l.objectsOf(file) {
			hasObject = true
			l.checkKinds(file, o)
		}
		for _, ext := range file.Extensions {
			l.checkExtension(ext)
		}
		for m := range messages(file.Messages) {
			checked[m] = true
			l.checkMessage(m, requested, hasObject)
			for _, ext := range m.Extensions {
				l.checkExtension(ext)
			}
		}
	}
	for _, f := range l.all {
		for _, o := range f.Objects {
			for _, m := range o.Methods {
				if l.fileOf(o.service.Desc).Generate && !checked[m.method.Input] {
					checked[m.method.Input] = true
					l.checkMessage(m.method.Input, requested, false)
				}
			}
		}
	}
}

// A request says by what sort of services a message is requested.
type request struct{ object, other bool }

func (l *loader) requests() map[*protogen.Message]request {
	objects := map[*protogen.Service]bool{}
	for _, f := range l.all {
		for _, o := range f.Objects {
			objects[o.service] = true
		}
	}
	res := map[*protogen.Message]request{}
	for _, file := range l.plugin.Files {
		for _, service := range file.Services {
			for _, method := range service.Methods {
				r := res[method.Input]
				r.object = r.object || objects[service]
				r.other = r.other || !objects[service]
				res[method.Input] = r
			}
		}
	}
	return res
}

func (l *loader) objectsOf(file *protogen.File) []*Object {
	for _, f := range l.all {
		if f.Source == file.Desc.Path() {
			return f.Objects
		}
	}
	return nil
}

func (l *loader) checkMessage(m *protogen.Message, requested map[*protogen.Message]request, hasObject bool) {
	file := l.fileOf(m.Desc).Proto
	var first *protogen.Field
	for _, field := range m.Fields {
		if keyKind(field) == durablev1.KeyKind_KEY_KIND_UNSPECIFIED {
			continue
		}
		where, name := keyPath(field), field.Desc.FullName()
		switch r := requested[m]; {
		case r.object:
		case r.other:
			l.diags.addf(file, where, KeyNotInObject, "%s is a key, but no object has requests of type %s: only other services have",
				name, m.Desc.FullName())
			continue
		case hasObject:
			l.diags.addf(file, where, KeyNotInObject, "%s is a key, but no object has requests of type %s", name, m.Desc.FullName())
			continue
		}
		switch {
		case field.Desc.IsList() || field.Desc.IsMap():
			l.diags.addf(file, where, KeyRepeated, "the key field %s is repeated: a request has one key", name)
		case field.Desc.Kind() != protoreflect.StringKind:
			l.diags.addf(file, where, KeyType, "the key field %s is a %s: keys are strings", name, field.Desc.Kind())
		case field.Oneof != nil && !field.Oneof.Desc.IsSynthetic():
			l.diags.addf(file, where, KeyOneof, "the key field %s is part of the oneof %s: another field could unset it",
				name, field.Oneof.Desc.Name())
		case field.Desc.HasDefault():
			l.diags.addf(file, where, KeyDefault, "the key field %s has a default value: it would name an object where the caller did not", name)
		}
		if first != nil {
			l.diags.addf(file, where, KeyDuplicate, "%s is a second key beside %s: a request has one key", name, first.Desc.Name())
		} else {
			first = field
		}
	}
}

// checkExtension refuses keys outside the message, where the runtime does not
// look for them.
func (l *loader) checkExtension(ext *protogen.Extension) {
	if keyKind(ext) != durablev1.KeyKind_KEY_KIND_UNSPECIFIED {
		l.diags.addf(l.fileOf(ext.Desc).Proto, keyPath(ext), KeyNotInObject, "%s is a key, but an extension cannot be one", ext.Desc.FullName())
	}
}

// checkKinds compares the keys of the methods of an object.
func (l *loader) checkKinds(file *protogen.File, o *Object) {
	var first *Method
	var firstKind durablev1.KeyKind
	for _, m := range o.Methods {
		for _, field := range m.method.Input.Fields {
			kind := keyKind(field)
			switch {
			case kind == durablev1.KeyKind_KEY_KIND_UNSPECIFIED:
				continue
			case first == nil:
				first, firstKind = m, kind
			case kind != firstKind:
				l.diags.addf(file.Proto, at(m.method.Location.Path, 1), KeyDifferentKind, "the key of %s is of kind %s, that of %s is of kind %s",
					m.method.Desc.Name(), kind, first.method.Desc.Name(), firstKind)
			}
			break // a second key is a mistake of its own
		}
	}
}

func keyKind(field *protogen.Field) durablev1.KeyKind {
	opts := field.Desc.Options().(*descriptorpb.FieldOptions)
	return proto.GetExtension(opts, durablev1.E_Field).(*durablev1.FieldOptions).GetKey()
}

// keyPath is where a field is said to be a key.
func keyPath(field *protogen.Field) protoreflect.SourcePath {
	return at(field.Location.Path, 8, durablev1.E_Field.TypeDescriptor().Number(), 1)
}

// messages yields all messages, also the nested ones.
func messages(list []*protogen.Message) iter.Seq[*protogen.Message] {
	return func(yield func(*protogen.Message) bool) {
		for _, m := range list {
			if !yield(m) {
				return
			}
			for inner := range messages(m.Messages) {
				if !yield(inner) {
					return
				}
			}
		}
	}
}
