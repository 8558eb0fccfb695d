package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var messageType = reflect.TypeFor[proto.Message]()

// isMessage reports whether t is a pointer to a protobuf message.
func isMessage(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct && t.Implements(messageType)
}

// isValueMessage reports whether a message stands for a single value: a
// Timestamp, a Duration or a wrapper.
func isValueMessage(t reflect.Type) bool {
	desc := reflect.New(t.Elem()).Interface().(proto.Message).ProtoReflect().Descriptor()
	return desc != nil && (desc.FullName() == timestampName || desc.FullName() == durationName || isWrapper(desc))
}

const (
	timestampName protoreflect.FullName = "google.protobuf.Timestamp"
	durationName  protoreflect.FullName = "google.protobuf.Duration"
)

func isWrapper(desc protoreflect.MessageDescriptor) bool {
	switch desc.FullName() {
	case "google.protobuf.BoolValue", "google.protobuf.Int32Value", "google.protobuf.Int64Value",
		"google.protobuf.UInt32Value", "google.protobuf.UInt64Value", "google.protobuf.FloatValue",
		"google.protobuf.DoubleValue", "google.protobuf.StringValue", "google.protobuf.BytesValue":
		return true
	}
	return false
}

// planMessage returns what reads rows of these columns into messages of type t.
func planMessage(t reflect.Type, columns []string) (rowScan, error) {
	desc := reflect.New(t.Elem()).Interface().(proto.Message).ProtoReflect().Descriptor()
	if desc == nil {
		return nil, fmt.Errorf("%w: %s is not a generated message", ErrInvalidArgument, t)
	}
	fields := make([]protoreflect.FieldDescriptor, len(columns))
	for i, column := range columns {
		fd := desc.Fields().ByName(protoreflect.Name(column))
		if fd == nil {
			fd = desc.Fields().ByJSONName(column)
		}
		if fd == nil {
			return nil, fmt.Errorf("%w: %s has no field for column %q", ErrInvalidArgument, desc.FullName(), column)
		}
		for j := range i {
			if fields[j] == fd {
				return nil, fmt.Errorf("%w: %s: the columns %q and %q are both for field %s", ErrInvalidArgument, desc.FullName(), columns[j], column, fd.Name())
			}
		}
		fields[i] = fd
	}
	return func(dst reflect.Value, values []any) error {
		p := reflect.New(t.Elem())
		m := p.Interface().(proto.Message).ProtoReflect()
		for i, fd := range fields {
			if values[i] == nil {
				continue
			}
			if err := setField(m, fd, values[i]); err != nil {
				return &ScanError{Column: columns[i], Err: err}
			}
		}
		dst.Set(p)
		return nil
	}, nil
}

// setField sets one field of m, which is not set yet.
func setField(m protoreflect.Message, fd protoreflect.FieldDescriptor, v any) error {
	if oneof := fd.ContainingOneof(); oneof != nil {
		if other := m.WhichOneof(oneof); other != nil {
			return fmt.Errorf("%s is set already, and the oneof %s holds one field", other.Name(), oneof.Name())
		}
	}
	switch {
	case fd.IsList() || fd.IsMap():
		return setMany(m, fd, v)
	case fd.Message() != nil:
		return setMessage(m.Mutable(fd).Message(), v)
	}
	value, err := toProto(fd, v)
	if err == nil {
		m.Set(fd, value)
	}
	return err
}

// setMany sets a list or a map from its JSON.
func setMany(m protoreflect.Message, fd protoreflect.FieldDescriptor, v any) error {
	text, ok := v.(string)
	if !ok {
		return misfit(v, "a list or a map")
	}
	if !json.Valid([]byte(text)) { // which also keeps it from naming other fields
		return errors.New("the text is not JSON")
	}
	name, err := json.Marshal(fd.JSONName())
	if err != nil {
		return err
	}
	parsed := m.New()
	if err := protojson.Unmarshal([]byte("{"+string(name)+":"+text+"}"), parsed.Interface()); err != nil {
		return err
	}
	if parsed.Has(fd) {
		m.Set(fd, parsed.Get(fd))
	}
	return nil
}

// setMessage sets m, which is empty, from a value that is not NULL.
func setMessage(m protoreflect.Message, v any) error {
	desc := m.Descriptor()
	if desc == nil {
		return errors.New("the message was not generated")
	}
	blob, isBlob := v.([]byte)
	switch {
	case isWrapper(desc):
		fd := desc.Fields().ByNumber(1)
		value, err := toProto(fd, v)
		if err == nil {
			m.Set(fd, value)
		}
		return err
	case isBlob:
		return proto.Unmarshal(blob, m.Interface())
	case desc.FullName() == timestampName:
		t, err := toTime(v, noUnit)
		if err == nil {
			setSeconds(m, t.Unix(), int32(t.Nanosecond()))
		}
		return err
	case desc.FullName() == durationName:
		n, err := toInt(v, durationName)
		if err == nil {
			setSeconds(m, n/1e9, int32(n%1e9))
		}
		return err
	}
	text, ok := v.(string)
	if !ok {
		return misfit(v, desc.FullName())
	}
	return protojson.Unmarshal([]byte(text), m.Interface())
}

// setSeconds sets a Timestamp or a Duration.
func setSeconds(m protoreflect.Message, seconds int64, nanos int32) {
	fields := m.Descriptor().Fields()
	m.Set(fields.ByNumber(1), protoreflect.ValueOfInt64(seconds))
	m.Set(fields.ByNumber(2), protoreflect.ValueOfInt32(nanos))
}

// toProto returns v as a value of the kind of fd, which is not a message.
func toProto(fd protoreflect.FieldDescriptor, v any) (protoreflect.Value, error) {
	kind := fd.Kind()
	switch kind {
	case protoreflect.BoolKind:
		b, err := toBool(v, kind)
		return protoreflect.ValueOfBool(b), err
	case protoreflect.EnumKind:
		n, err := toEnum(v, fd.Enum())
		return protoreflect.ValueOfEnum(n), err
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := toRange(v, kind, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := toRange(v, kind, 0, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(n)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := toInt(v, kind)
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := toRange(v, kind, 0, math.MaxInt64)
		return protoreflect.ValueOfUint64(uint64(n)), err
	case protoreflect.FloatKind:
		f, err := toFloat(v, kind)
		if err == nil && math.Abs(f) > math.MaxFloat32 && !math.IsInf(f, 0) {
			err = overflow(v, kind)
		}
		return protoreflect.ValueOfFloat32(float32(f)), err
	case protoreflect.DoubleKind:
		f, err := toFloat(v, kind)
		return protoreflect.ValueOfFloat64(f), err
	case protoreflect.StringKind:
		if s, ok := v.(string); ok {
			if !utf8.ValidString(s) {
				return protoreflect.Value{}, errors.New("the text is not valid UTF-8")
			}
			return protoreflect.ValueOfString(s), nil
		}
	case protoreflect.BytesKind:
		switch v := v.(type) {
		case []byte:
			return protoreflect.ValueOfBytes(v), nil
		case string:
			return protoreflect.ValueOfBytes([]byte(v)), nil
		}
	}
	return protoreflect.Value{}, misfit(v, kind)
}

func toRange(v, t any, low, high int64) (int64, error) {
	n, err := toInt(v, t)
	if err == nil && (n < low || n > high) {
		return 0, overflow(v, t)
	}
	return n, err
}

// toEnum returns the number of an enum's value, given as a number, also an
// unknown one, or by name.
func toEnum(v any, desc protoreflect.EnumDescriptor) (protoreflect.EnumNumber, error) {
	if name, ok := v.(string); ok {
		value := desc.Values().ByName(protoreflect.Name(name))
		if value == nil {
			return 0, fmt.Errorf("%s has no value %q", desc.FullName(), name)
		}
		return value.Number(), nil
	}
	n, err := toRange(v, desc.FullName(), math.MinInt32, math.MaxInt32)
	return protoreflect.EnumNumber(n), err
}
