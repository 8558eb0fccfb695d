package model

import (
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// checkVersion looks in a file for signs of a newer options.proto than the one
// this plugin was built with: options that it does not know, and the
// options.proto itself, if it came with the request. Editions from 2024 on can
// keep it out of there.
func (l *loader) checkVersion(file *protogen.File) {
	ours := durablev1.File_durable_v1_options_proto
	switch {
	case file.Desc.Path() == ours.Path():
		l.checkVendored(file, ours)
	case file.Generate:
		l.checkKnown(file, file.Desc, protoreflect.SourcePath{8})
		for _, enum := range file.Enums {
			l.checkEnum(file, enum)
		}
		for _, ext := range file.Extensions {
			l.checkKnown(file, ext.Desc, at(ext.Location.Path, 8))
		}
		for m := range messages(file.Messages) {
			l.checkKnown(file, m.Desc, at(m.Location.Path, 7))
			for _, field := range m.Fields {
				l.checkKnown(file, field.Desc, at(field.Location.Path, 8))
			}
			for _, oneof := range m.Oneofs {
				l.checkKnown(file, oneof.Desc, at(oneof.Location.Path, 2))
			}
			for _, enum := range m.Enums {
				l.checkEnum(file, enum)
			}
			for _, ext := range m.Extensions {
				l.checkKnown(file, ext.Desc, at(ext.Location.Path, 8))
			}
		}
		for _, service := range file.Services {
			l.checkKnown(file, service.Desc, at(service.Location.Path, 3))
			for _, method := range service.Methods {
				l.checkKnown(file, method.Desc, at(method.Location.Path, 4))
			}
		}
	}
}

func (l *loader) checkEnum(file *protogen.File, enum *protogen.Enum) {
	l.checkKnown(file, enum.Desc, at(enum.Location.Path, 3))
	for _, value := range enum.Values {
		l.checkKnown(file, value.Desc, at(value.Location.Path, 3))
	}
}

// checkKnown checks that this plugin knows all of our options that d has. Those
// options are at path.
func (l *loader) checkKnown(file *protogen.File, d protoreflect.Descriptor, path protoreflect.SourcePath) {
	number := durablev1.E_Service.TypeDescriptor().Number()
	opts := d.Options().ProtoReflect()
	known := true
	for unknown := opts.GetUnknown(); len(unknown) > 0; {
		n, _, size := protowire.ConsumeField(unknown)
		if size < 0 {
			break
		}
		known = known && n != number
		unknown = unknown[size:]
	}
	opts.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if field.IsExtension() && field.Number() == number {
			known = known && allKnown(v.Message())
		}
		return true
	})
	if !known {
		name := d.FullName()
		if _, ok := d.(protoreflect.FileDescriptor); ok {
			name = "the file"
		}
		l.diags.addf(file.Proto, at(path, number), OptionsNewer,
			"%s has options of a newer durable/v1/options.proto than this plugin's: update protoc-gen-durable", name)
	}
}

// allKnown reports whether the descriptor of m describes all that m holds.
func allKnown(m protoreflect.Message) bool {
	known := len(m.GetUnknown()) == 0
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap(): // there are none yet
		case field.IsList():
			for i := range v.List().Len() {
				known = known && valueKnown(field, v.List().Get(i))
			}
		default:
			known = known && valueKnown(field, v)
		}
		return known
	})
	return known
}

// valueKnown is allKnown for one value of a field.
func valueKnown(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch {
	case field.Enum() != nil:
		return field.Enum().Values().ByNumber(v.Enum()) != nil
	case field.Message() != nil:
		return allKnown(v.Message())
	}
	return true
}

// checkVendored checks that everything in the options.proto of the request is in
// ours. An older one is fine.
func (l *loader) checkVendored(file *protogen.File, ours protoreflect.FileDescriptor) {
	newer := func(what protoreflect.FullName, path protoreflect.SourcePath) {
		l.diags.addf(file.Proto, path, OptionsNewer,
			"options.proto is newer than this plugin, which does not know %s: update protoc-gen-durable", what)
	}
	for _, ext := range file.Extensions {
		if e := ours.Extensions().ByName(ext.Desc.Name()); e == nil || !sameField(e, ext.Desc) {
			newer(ext.Desc.FullName(), ext.Location.Path)
		}
	}
	for _, enum := range file.Enums {
		e := ours.Enums().ByName(enum.Desc.Name())
		if e == nil {
			newer(enum.Desc.FullName(), enum.Location.Path)
			continue
		}
		for _, value := range enum.Values {
			if e.Values().ByNumber(value.Desc.Number()) == nil {
				newer(value.Desc.FullName(), value.Location.Path)
			}
		}
	}
	for _, msg := range file.Messages {
		m := ours.Messages().ByName(msg.Desc.Name())
		if m == nil {
			newer(msg.Desc.FullName(), msg.Location.Path)
			continue
		}
		for _, field := range msg.Fields {
			if f := m.Fields().ByNumber(field.Desc.Number()); f == nil || !sameField(f, field.Desc) {
				newer(field.Desc.FullName(), field.Location.Path)
			}
		}
	}
}

// sameField reports whether two descriptors of a field agree on its bytes. Names
// may change.
func sameField(a, b protoreflect.FieldDescriptor) bool {
	return a.Number() == b.Number() && a.Kind() == b.Kind() && a.Cardinality() == b.Cardinality()
}
