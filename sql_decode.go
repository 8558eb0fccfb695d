package durable

import (
	"database/sql"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A decoder stores a value of SQLite in dst. Its errors do not name the column.
type decoder func(dst reflect.Value, v any) error

var (
	timeType        = reflect.TypeFor[time.Time]()
	nullTimeType    = reflect.TypeFor[sql.NullTime]()
	genericTimeType = reflect.TypeFor[sql.Null[time.Time]]()
	scannerType     = reflect.TypeFor[sql.Scanner]()
	enumType        = reflect.TypeFor[protoreflect.Enum]()
)

// decoders holds the decoders of types, made once. It grows with the types that
// the program scans into.
var decoders sync.Map // of a decoderKey to a decoder

type decoderKey struct {
	t    reflect.Type
	unit timeUnit
}

// decoderOf returns what stores values in a t.
func decoderOf(t reflect.Type, unit timeUnit) (decoder, error) {
	key := decoderKey{t, unit}
	if d, ok := decoders.Load(key); ok {
		return d.(decoder), nil
	}
	d, err := newDecoder(t, unit)
	if err != nil {
		return nil, err
	}
	decoders.Store(key, d)
	return d, nil
}

func newDecoder(t reflect.Type, unit timeUnit) (decoder, error) {
	switch {
	case t == timeType:
		return decodeTime(unit), nil
	case t == nullTimeType, t == genericTimeType:
		return decodeNullTime(unit), nil
	case t.Kind() == reflect.Pointer && !isMessage(t):
		return newPointerDecoder(t, unit)
	case unit != noUnit:
		return nil, fmt.Errorf("a %s is no time, and takes no option %s", t, unit)
	case reflect.PointerTo(t).Implements(scannerType):
		return func(dst reflect.Value, v any) error {
			return dst.Addr().Interface().(sql.Scanner).Scan(v)
		}, nil
	case isMessage(t):
		return decodeMessage, nil
	case t.Kind() == reflect.Int32 && t.Implements(enumType):
		return decodeEnum, nil
	}
	switch t.Kind() {
	case reflect.Bool:
		return decodeBool, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return decodeInt, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return decodeUint, nil
	case reflect.Float32, reflect.Float64:
		return decodeFloat, nil
	case reflect.String:
		return decodeString, nil
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return decodeBytes, nil
		}
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return decodeAny, nil
		}
	}
	return nil, fmt.Errorf("a %s takes no value of SQLite", t)
}

func newPointerDecoder(t reflect.Type, unit timeUnit) (decoder, error) {
	decode, err := decoderOf(t.Elem(), unit)
	if err != nil {
		return nil, err
	}
	return func(dst reflect.Value, v any) error {
		if v == nil {
			dst.SetZero()
			return nil
		}
		p := reflect.New(t.Elem())
		if err := decode(p.Elem(), v); err != nil {
			return err
		}
		dst.Set(p)
		return nil
	}, nil
}

// misfit says that v is not of a kind that a t takes.
func misfit(v any, t any) error {
	kind := "NULL"
	switch v.(type) {
	case int64:
		kind = "an integer"
	case float64:
		kind = "a float"
	case string:
		kind = "text"
	case []byte:
		kind = "a blob"
	}
	return fmt.Errorf("%s does not fit into %v", kind, t)
}

func overflow(v, t any) error { return fmt.Errorf("%v is out of the range of %v", v, t) }

func decodeAny(dst reflect.Value, v any) error {
	if v == nil {
		dst.SetZero()
		return nil
	}
	dst.Set(reflect.ValueOf(v))
	return nil
}

func decodeBool(dst reflect.Value, v any) error {
	b, err := toBool(v, dst.Type())
	if err == nil {
		dst.SetBool(b)
	}
	return err
}

func toBool(v, t any) (bool, error) {
	n, ok := v.(int64)
	switch {
	case !ok:
		return false, misfit(v, t)
	case n != 0 && n != 1:
		return false, overflow(v, t)
	}
	return n == 1, nil
}

func decodeInt(dst reflect.Value, v any) error {
	n, err := toInt(v, dst.Type())
	if err == nil && dst.OverflowInt(n) {
		err = overflow(v, dst.Type())
	}
	if err == nil {
		dst.SetInt(n)
	}
	return err
}

// toInt returns an integer, or a float that is one.
func toInt(v, t any) (int64, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case float64:
		switch {
		case v != math.Trunc(v):
			return 0, fmt.Errorf("%v is not a whole number", v)
		case v < math.MinInt64 || v >= math.MaxInt64: // the float of MaxInt64 is one more
			return 0, overflow(v, t)
		}
		return int64(v), nil
	}
	return 0, misfit(v, t)
}

func decodeUint(dst reflect.Value, v any) error {
	n, err := toInt(v, dst.Type())
	if err == nil && (n < 0 || dst.OverflowUint(uint64(n))) {
		err = overflow(v, dst.Type())
	}
	if err == nil {
		dst.SetUint(uint64(n))
	}
	return err
}

func decodeFloat(dst reflect.Value, v any) error {
	f, err := toFloat(v, dst.Type())
	if err == nil && dst.OverflowFloat(f) {
		err = overflow(v, dst.Type())
	}
	if err == nil {
		dst.SetFloat(f)
	}
	return err
}

// toFloat returns a float, or an integer that is one.
func toFloat(v, t any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int64:
		const exact = 1 << 53
		if v < -exact || v > exact {
			return 0, fmt.Errorf("%d has more digits than %v", v, t)
		}
		return float64(v), nil
	}
	return 0, misfit(v, t)
}

func decodeString(dst reflect.Value, v any) error {
	s, ok := v.(string)
	if !ok {
		return misfit(v, dst.Type())
	}
	dst.SetString(s)
	return nil
}

func decodeBytes(dst reflect.Value, v any) error {
	switch v := v.(type) {
	case nil:
		dst.SetZero()
	case []byte:
		dst.SetBytes(v)
	case string:
		dst.SetBytes([]byte(v))
	default:
		return misfit(v, dst.Type())
	}
	return nil
}

func decodeEnum(dst reflect.Value, v any) error {
	n, err := toEnum(v, dst.Interface().(protoreflect.Enum).Descriptor())
	if err == nil {
		dst.SetInt(int64(n))
	}
	return err
}

// decodeMessage stores v in a pointer to a message.
func decodeMessage(dst reflect.Value, v any) error {
	if v == nil {
		dst.SetZero()
		return nil
	}
	p := reflect.New(dst.Type().Elem())
	if err := setMessage(p.Interface().(proto.Message).ProtoReflect(), v); err != nil {
		return err
	}
	dst.Set(p)
	return nil
}
