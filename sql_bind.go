package durable

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bindArgs returns args as a [SQLPort] takes them: args itself if they are so
// already.
func bindArgs(args []any) ([]any, error) {
	bound := args
	copied := false
	for i, arg := range args {
		switch a := arg.(type) {
		case nil, int64, string:
			continue
		case float64:
			if !math.IsNaN(a) {
				continue
			}
		case []byte:
			if a != nil {
				continue
			}
		}
		if !copied {
			bound, copied = append(make([]any, 0, len(args)), args...), true
		}
		value, err := bindArg(i+1, arg)
		if err != nil {
			return nil, err
		}
		bound[i] = value
	}
	return bound, nil
}

// bindArg returns the nth argument as a [SQLPort] takes it.
func bindArg(n int, arg any) (any, error) {
	named, ok := arg.(sql.NamedArg)
	if ok {
		arg = named.Value
	}
	value, err := bindValue(arg)
	if ok && named.Name == "" {
		err = errors.New("its name is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: SQL argument %d: %w", ErrInvalidArgument, n, err)
	}
	if ok {
		return sql.NamedArg{Name: named.Name, Value: value}, nil
	}
	return value, nil
}

// bindValue returns what SQLite is given for v: nil, int64, float64, string or
// []byte.
func bindValue(v any) (any, error) {
	switch v := v.(type) {
	case nil, int64, string:
		return v, nil
	case []byte:
		if v == nil {
			return nil, nil
		}
		return v, nil
	case float64:
		return bindFloat(v)
	case int:
		return int64(v), nil
	case bool:
		return bindBool(v), nil
	case time.Time:
		return bindTime(v)
	}
	return bindOther(v)
}

// bindOther is bindValue for what needs reflection.
func bindOther(v any) (any, error) {
	rv := reflect.ValueOf(v)
	isNil := rv.Kind() == reflect.Pointer && rv.IsNil()
	switch v := v.(type) {
	case driver.Valuer:
		// A nil pointer to a type whose values are valuers has no value to ask.
		if isNil && rv.Type().Elem().Implements(valuerType) {
			return nil, nil
		}
		return bindValuer(v)
	case proto.Message:
		if isNil {
			return nil, nil
		}
		return bindMessage(v)
	case protoreflect.Enum:
		if isNil {
			return nil, nil
		}
		return int64(v.Number()), nil
	}
	switch rv.Kind() {
	case reflect.Pointer:
		if isNil {
			return nil, nil
		}
		return bindValue(rv.Elem().Interface())
	case reflect.Bool:
		return bindBool(rv.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return bindUint(rv.Uint())
	case reflect.Float32, reflect.Float64:
		return bindFloat(rv.Float())
	case reflect.String:
		return rv.String(), nil
	case reflect.Slice:
		if rv.Type().Elem().Kind() != reflect.Uint8 {
			break
		}
		if rv.IsNil() {
			return nil, nil
		}
		return rv.Bytes(), nil
	}
	return nil, fmt.Errorf("a %s cannot be stored", rv.Type())
}

var valuerType = reflect.TypeFor[driver.Valuer]()

func bindValuer(v driver.Valuer) (any, error) {
	value, err := v.Value()
	if err != nil {
		return nil, err
	}
	if _, again := value.(driver.Valuer); again {
		return nil, fmt.Errorf("the Value of a %T is a driver.Valuer again", v)
	}
	return bindValue(value)
}

// bindMessage returns the blob of a message, or the value of one of those that
// stand for a single value.
func bindMessage(msg proto.Message) (any, error) {
	switch m := msg.(type) {
	case *timestamppb.Timestamp:
		if err := m.CheckValid(); err != nil {
			return nil, err
		}
		return bindTime(m.AsTime())
	case *durationpb.Duration:
		if err := m.CheckValid(); err != nil {
			return nil, err
		}
		d := m.AsDuration()
		if !proto.Equal(durationpb.New(d), m) {
			return nil, fmt.Errorf("the duration of %d seconds has more nanoseconds than an integer holds", m.GetSeconds())
		}
		return int64(d), nil
	case *wrapperspb.BoolValue:
		return bindBool(m.GetValue()), nil
	case *wrapperspb.Int32Value:
		return int64(m.GetValue()), nil
	case *wrapperspb.Int64Value:
		return m.GetValue(), nil
	case *wrapperspb.UInt32Value:
		return int64(m.GetValue()), nil
	case *wrapperspb.UInt64Value:
		return bindUint(m.GetValue())
	case *wrapperspb.FloatValue:
		return bindFloat(float64(m.GetValue()))
	case *wrapperspb.DoubleValue:
		return bindFloat(m.GetValue())
	case *wrapperspb.StringValue:
		return m.GetValue(), nil
	case *wrapperspb.BytesValue:
		return append([]byte{}, m.GetValue()...), nil
	}
	// The capacity keeps the blob of an empty message from being nil.
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 0, proto.Size(msg)), msg)
}

func bindBool(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func bindUint(u uint64) (any, error) {
	if u > math.MaxInt64 {
		return nil, fmt.Errorf("%d is over the largest integer, %d", u, int64(math.MaxInt64))
	}
	return int64(u), nil
}

func bindFloat(f float64) (any, error) {
	if math.IsNaN(f) {
		return nil, errors.New("SQLite cannot hold NaN")
	}
	return f, nil
}

func bindTime(t time.Time) (any, error) {
	t = t.UTC()
	if year := t.Year(); year < 0 || year > 9999 {
		return nil, fmt.Errorf("the time is in the year %d, and SQLite's are 0 to 9999", year)
	}
	return t.Format(SQLTimeFormat), nil
}
