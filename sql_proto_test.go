package durable_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	durable "github.com/durable-go/durable"
)

// A kinds is a message with a field of every kind, in the place of a generated
// one: its fields are reached by reflection alone, as with the opaque API.
type kinds struct{ m *dynamicpb.Message }

func (k *kinds) ProtoReflect() protoreflect.Message {
	if k == nil {
		return dynamicpb.NewMessageType(kindsDesc).Zero()
	}
	if k.m == nil {
		k.m = dynamicpb.NewMessage(kindsDesc)
	}
	return k.m
}

var kindsDesc = func() protoreflect.MessageDescriptor {
	field := func(number int32, name string, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		name, typeName, typed := strings.Cut(name, "@")
		f.Name = &name
		if typed {
			f.TypeName = &typeName
		}
		return f
	}
	msg := &descriptorpb.DescriptorProto{
		Name:      new("Kinds"),
		OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: new("choice")}, {Name: new("_maybe")}},
	}
	for kind := int32(1); kind <= 18; kind++ {
		name := strings.ToLower(strings.TrimPrefix(descriptorpb.FieldDescriptorProto_Type(kind).String(), "TYPE_")) + "_value"
		switch descriptorpb.FieldDescriptorProto_Type(kind) {
		case descriptorpb.FieldDescriptorProto_TYPE_GROUP:
			continue
		case descriptorpb.FieldDescriptorProto_TYPE_MESSAGE:
			name += "@.test.Kinds"
		case descriptorpb.FieldDescriptorProto_TYPE_ENUM:
			name += "@.test.Color"
		}
		msg.Field = append(msg.Field, field(kind, name, descriptorpb.FieldDescriptorProto_Type(kind)))
	}
	const message, text, integer = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_INT32
	many, maybe := field(30, "many", integer), field(35, "maybe", integer)
	many.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	maybe.Proto3Optional, maybe.OneofIndex = new(true), new(int32(1))
	counts := field(31, "counts@.test.Kinds.CountsEntry", message)
	counts.Label = many.Label
	left, right := field(32, "left", text), field(33, "right", integer)
	left.OneofIndex, right.OneofIndex = new(int32(0)), new(int32(0))
	msg.Field = append(msg.Field, many, counts, left, right, maybe,
		field(40, "at@.google.protobuf.Timestamp", message), field(41, "took@.google.protobuf.Duration", message),
		field(42, "wrapped@.google.protobuf.UInt64Value", message), field(43, "label@.google.protobuf.StringValue", message),
		field(44, "free@.google.protobuf.Struct", message))
	msg.NestedType = []*descriptorpb.DescriptorProto{{
		Name: new("CountsEntry"), Options: &descriptorpb.MessageOptions{MapEntry: new(true)},
		Field: []*descriptorpb.FieldDescriptorProto{field(1, "key", text), field(2, "value", integer)},
	}}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("test/kinds.proto"), Package: new("test"), Syntax: new("proto3"),
		Dependency:  []string{"google/protobuf/timestamp.proto", "google/protobuf/duration.proto", "google/protobuf/wrappers.proto", "google/protobuf/struct.proto"},
		MessageType: []*descriptorpb.DescriptorProto{msg},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: new("Color"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: new("COLOR_NONE"), Number: new(int32(0))}, {Name: new("COLOR_RED"), Number: new(int32(3))},
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		panic(err)
	}
	return file.Messages().Get(0)
}()

func TestScanMessages(t *testing.T) {
	s, _ := newSQL(t)
	ctx := t.Context()
	nested, err := proto.Marshal(func() proto.Message {
		m := dynamicpb.NewMessage(kindsDesc)
		m.Set(kindsDesc.Fields().ByName("int32_value"), protoreflect.ValueOfInt32(9))
		return m
	}())
	if err != nil {
		t.Fatal(err)
	}
	for column, c := range map[string]struct {
		value any
		want  string // as text of the field
	}{
		"double_value":   {0.1, "double_value: 0.1"},
		"doubleValue":    {int64(2), "double_value: 2"},
		"float_value":    {0.5, "float_value: 0.5"},
		"int64_value":    {int64(math.MinInt64), "int64_value: -9223372036854775808"},
		"uint64_value":   {int64(math.MaxInt64), "uint64_value: 9223372036854775807"},
		"int32_value":    {int64(math.MinInt32), "int32_value: -2147483648"},
		"fixed64_value":  {int64(5), "fixed64_value: 5"},
		"fixed32_value":  {int64(math.MaxUint32), "fixed32_value: 4294967295"},
		"bool_value":     {int64(1), "bool_value: true"},
		"string_value":   {"é", `string_value: "é"`},
		"message_value":  {nested, "message_value: {int32_value: 9}"},
		"messageValue":   {`{"int32Value": 9, "many": [1]}`, "message_value: {int32_value: 9 many: 1}"},
		"bytes_value":    {[]byte{0}, `bytes_value: "\x00"`},
		"bytesValue":     {"x", `bytes_value: "x"`},
		"uint32_value":   {int64(math.MaxUint32), "uint32_value: 4294967295"},
		"enum_value":     {int64(3), "enum_value: COLOR_RED"},
		"enumValue":      {"COLOR_RED", "enum_value: COLOR_RED"},
		"sfixed32_value": {int64(-1), "sfixed32_value: -1"},
		"sfixed64_value": {int64(-1), "sfixed64_value: -1"},
		"sint32_value":   {int64(-1), "sint32_value: -1"},
		"sint64_value":   {int64(-1), "sint64_value: -1"},
		"many":           {"[1, 2]", "many: 1 many: 2"},
		"counts":         {` {"a": 1} `, `counts: {key: "a" value: 1}`},
		"left":           {"x", `left: "x"`},
		"maybe":          {int64(0), "maybe: 0"},
		"at":             {"2026-03-04 00:00", "at: {seconds: 1772582400}"},
		"took":           {int64(-1_500_000_000), "took: {seconds: -1 nanos: -500000000}"},
		"wrapped":        {int64(0), "wrapped: {}"},
		"label":          {"x", `label: {value: "x"}`},
		"free":           {`{"a": [true]}`, `free: {fields: {key: "a" value: {list_value: {values: {bool_value: true}}}}}`},
	} {
		t.Run(column, func(t *testing.T) {
			want := dynamicpb.NewMessage(kindsDesc)
			if err := prototext.Unmarshal([]byte(c.want), want); err != nil {
				t.Fatal(err)
			}
			got, err := durable.One[*kinds](ctx, s, "SELECT ? AS "+column, c.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(proto.Message(want), got.ProtoReflect().Interface(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			got, err = durable.One[*kinds](ctx, s, "SELECT NULL AS "+column)
			if err != nil || proto.Size(got) != 0 || got.m.Has(kindsDesc.Fields().ByName("maybe")) {
				t.Errorf("NULL: %v, %v", got, err)
			}
		})
	}
	for name, c := range map[string]struct {
		column string
		value  any
		want   string
	}{
		"int32":                   {"int32_value", int64(math.MaxInt32 + 1), "2147483648 is out of the range of int32"},
		"uint32":                  {"uint32_value", int64(-1), "-1 is out of the range of uint32"},
		"uint64":                  {"uint64_value", int64(-1), "-1 is out of the range of uint64"},
		"fraction":                {"int64_value", 1.5, "1.5 is not a whole number"},
		"float":                   {"float_value", 1e39, "1e+39 is out of the range of float"},
		"double":                  {"double_value", "x", "text does not fit into double"},
		"bool":                    {"bool_value", int64(2), "2 is out of the range of bool"},
		"string":                  {"string_value", int64(1), "an integer does not fit into string"},
		"string, not UTF-8":       {"string_value", "\xff", "not valid UTF-8"},
		"bytes":                   {"bytes_value", 1.5, "a float does not fit into bytes"},
		"enum":                    {"enum_value", "RED", `test.Color has no value "RED"`},
		"message of integer":      {"message_value", int64(1), "an integer does not fit into test.Kinds"},
		"message of a torn blob":  {"message_value", []byte{8}, "proto:"},
		"message of no JSON":      {"message_value", "{", "proto:"},
		"list of a blob":          {"many", []byte{1}, "a blob does not fit into a list or a map"},
		"list of no list":         {"many", `{"a": 1}`, "proto:"},
		"list that names another": {"many", `[1], "left": "x"`, "the text is not JSON"},
		"time":                    {"at", "soon", "the text is not a time"},
		"wrapper":                 {"wrapped", int64(-1), "-1 is out of the range of uint64"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := durable.All[*kinds](ctx, s, "SELECT ? AS "+c.column, c.value)
			var scan *durable.ScanError
			if !errors.As(err, &scan) || scan.Column != c.column || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Run("a oneof", func(t *testing.T) {
		got, err := durable.One[*kinds](ctx, s, "SELECT NULL AS left, 1 AS right")
		if err != nil || got.m.WhichOneof(kindsDesc.Oneofs().Get(0)).Name() != "right" {
			t.Errorf("%v, %v", got, err)
		}
		var scan *durable.ScanError
		if _, err := durable.One[*kinds](ctx, s, "SELECT 'x' AS left, 1 AS right"); !errors.As(err, &scan) || scan.Column != "right" {
			t.Errorf("both: %v", err)
		}
	})
	t.Run("columns without a field", func(t *testing.T) {
		for query, want := range map[string]string{
			"SELECT 1 AS INT32_VALUE":                  `test.Kinds has no field for column "INT32_VALUE"`,
			"SELECT 1 AS int32_value, 2 AS int32Value": `the columns "int32_value" and "int32Value" are both for field int32_value`,
		} {
			if _, err := durable.One[*kinds](ctx, s, query); !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		if _, err := durable.One[*dynamicpb.Message](ctx, s, "SELECT 1"); !errors.Is(err, durable.ErrInvalidArgument) {
			t.Errorf("a dynamic message: %v", err)
		}
	})
	t.Run("a generated message, there and back", func(t *testing.T) {
		want := &descriptorpb.FieldDescriptorProto{
			Name: new("n"), Number: new(int32(7)), Type: descriptorpb.FieldDescriptorProto_TYPE_BOOL.Enum(), Proto3Optional: new(true),
			Options: &descriptorpb.FieldOptions{Deprecated: new(true)},
		}
		got, err := durable.All[*descriptorpb.FieldDescriptorProto](ctx, s, "SELECT ? AS name, ? AS number, ? AS type, ? AS proto3_optional, ? AS options, ? AS label",
			want.Name, want.Number, want.Type, want.Proto3Optional, want.Options, want.Label)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		if diff := cmp.Diff(want, got[0], protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("times and durations come back", func(t *testing.T) {
		at := time.Date(1969, 12, 31, 23, 59, 59, 5, time.UTC)
		got, err := durable.One[*kinds](ctx, s, "SELECT ? AS at, ? AS took", at, -time.Nanosecond)
		if err != nil {
			t.Fatal(err)
		}
		want := dynamicpb.NewMessage(kindsDesc)
		if err := prototext.Unmarshal([]byte("at: {seconds: -1 nanos: 5} took: {nanos: -1}"), want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(proto.Message(want), got.ProtoReflect().Interface(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}
