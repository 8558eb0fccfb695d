package model

import (
	"iter"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// A role is a meaning that an option gives to a request field.
type role struct {
	name, aName    string
	number         protoreflect.FieldNumber // of the option in FieldOptions
	is             func(*durablev1.FieldOptions) bool
	defaultWouldDo string // what a default value would do
	notInObject    Code
	repeated       Code
	notString      Code
	oneof          Code
	hasDefault     Code
	duplicate      Code
}

var (
	keyRole = role{
		name: "key", aName: "a key", number: 1,
		is: func(opts *durablev1.FieldOptions) bool {
			return opts.GetKey() != durablev1.KeyKind_KEY_KIND_UNSPECIFIED
		},
		defaultWouldDo: "it would name an object where the caller did not",
		notInObject:    KeyNotInObject, repeated: KeyRepeated, notString: KeyType, oneof: KeyOneof,
		hasDefault: KeyDefault, duplicate: KeyDuplicate,
	}
	idempotencyRole = role{
		name: "idempotency key", aName: "an idempotency key", number: 2,
		is:             (*durablev1.FieldOptions).GetIdempotencyKey,
		defaultWouldDo: "callers who gave none would share it",
		notInObject:    IdempotencyNotInObject, repeated: IdempotencyRepeated, notString: IdempotencyType, oneof: IdempotencyOneof,
		hasDefault: IdempotencyDefault, duplicate: IdempotencyDuplicate,
	}
)

// of reports whether a field has the role.
func (r *role) of(field *protogen.Field) bool {
	opts := field.Desc.Options().(*descriptorpb.FieldOptions)
	return r.is(proto.GetExtension(opts, durablev1.E_Field).(*durablev1.FieldOptions))
}

// path is where a field is given the role.
func (r *role) path(field *protogen.Field) protoreflect.SourcePath {
	return at(field.Location.Path, 8, durablev1.E_Field.TypeDescriptor().Number(), r.number)
}

// checkKeys checks every field for a key or an idempotency key of the files to
// generate, and those of the requests of their objects. That a request has none is
// no mistake: they may come from header or URL.
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

// A request says of what methods a message is the request.
type request struct {
	object, other bool             // of objects, of other services
	writes        bool             // of an object's that may write
	stream        *protogen.Method // one of an object's that streams
}

func (l *loader) requests() map[*protogen.Message]request {
	objects := map[*protogen.Service]*Object{}
	for _, f := range l.all {
		for _, o := range f.Objects {
			objects[o.service] = o
		}
	}
	res := map[*protogen.Message]request{}
	for _, file := range l.plugin.Files {
		for _, service := range file.Services {
			o := objects[service]
			for i, method := range service.Methods {
				r := res[method.Input]
				if o == nil {
					r.other = true
				} else {
					r.object = true
					r.writes = r.writes || !o.Methods[i].ReadOnly
					if r.stream == nil && o.Methods[i].Shape != Unary {
						r.stream = method
					}
				}
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
	l.checkRole(&keyRole, m, requested[m], hasObject)
	l.checkRole(&idempotencyRole, m, requested[m], hasObject)
	for _, field := range m.Fields {
		if idempotencyRole.of(field) {
			l.checkIdempotency(field, requested[m])
		}
	}
}

// checkRole checks what has a role in a message.
func (l *loader) checkRole(role *role, m *protogen.Message, r request, hasObject bool) {
	file := l.fileOf(m.Desc).Proto
	var first *protogen.Field
	for _, field := range m.Fields {
		if !role.of(field) {
			continue
		}
		where, name := role.path(field), field.Desc.FullName()
		switch {
		case r.object:
		case r.other:
			l.diags.addf(file, where, role.notInObject, "%s is %s, but no object has requests of type %s: only other services have",
				name, role.aName, m.Desc.FullName())
			continue
		case hasObject:
			l.diags.addf(file, where, role.notInObject, "%s is %s, but no object has requests of type %s", name, role.aName, m.Desc.FullName())
			continue
		}
		switch {
		case field.Desc.IsList() || field.Desc.IsMap():
			l.diags.addf(file, where, role.repeated, "the %s field %s is repeated: a request has one %[1]s", role.name, name)
		case field.Desc.Kind() != protoreflect.StringKind:
			l.diags.addf(file, where, role.notString, "the %s field %s is a %s: %[1]ss are strings", role.name, name, field.Desc.Kind())
		case field.Oneof != nil && !field.Oneof.Desc.IsSynthetic():
			l.diags.addf(file, where, role.oneof, "the %s field %s is part of the oneof %s: another field could unset it",
				role.name, name, field.Oneof.Desc.Name())
		case field.Desc.HasDefault():
			l.diags.addf(file, where, role.hasDefault, "the %s field %s has a default value: %s", role.name, name, role.defaultWouldDo)
		}
		if first != nil {
			l.diags.addf(file, where, role.duplicate, "%s is a second %s beside %s: a request has one %[2]s", name, role.name, first.Desc.Name())
		} else {
			first = field
		}
	}
}

// checkIdempotency checks that an idempotency key can do what it says.
func (l *loader) checkIdempotency(field *protogen.Field, r request) {
	file, where, name := l.fileOf(field.Desc).Proto, idempotencyRole.path(field), field.Desc.FullName()
	if keyRole.of(field) {
		l.diags.addf(file, where, IdempotencyIsKey, "%s is the key of the object, and cannot be that of the call too", name)
	}
	switch {
	case r.stream != nil:
		l.diags.addf(file, where, IdempotencyStream, "%s is an idempotency key, which streaming methods as %s cannot have: "+
			"give it a request of its own", name, r.stream.Desc.FullName())
	case r.object && !r.writes:
		l.diags.addf(file, where, IdempotencyReadOnly, "%s is an idempotency key, but only methods with NO_SIDE_EFFECTS have requests of type %s",
			name, field.Parent.Desc.FullName())
	}
}

// checkExtension refuses keys outside the message, where the runtime does not
// look for them.
func (l *loader) checkExtension(ext *protogen.Extension) {
	for _, role := range []*role{&keyRole, &idempotencyRole} {
		if role.of(ext) {
			l.diags.addf(l.fileOf(ext.Desc).Proto, role.path(ext), role.notInObject, "%s is %s, but an extension cannot be one",
				ext.Desc.FullName(), role.aName)
		}
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
