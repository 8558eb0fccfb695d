package durable

import (
	"context"
	"fmt"
	"reflect"
)

// One runs query by the rules of [SQL].Exec and returns the one row of its
// result as a T, by the rules of [All]. It returns [ErrNoRow] if there is none and
// [ErrManyRows] if there are several.
func One[T any](ctx context.Context, s SQL, query string, args ...any) (T, error) {
	var value, zero T
	c, err := s.Exec(ctx, query, args...)
	if err != nil {
		return zero, err
	}
	defer c.Close()
	scan, err := planRow(reflect.TypeFor[T](), c.columns)
	if err != nil {
		return zero, err
	}
	row, err := c.One()
	if err != nil {
		return zero, err
	}
	if err := scan(reflect.ValueOf(&value).Elem(), row.values); err != nil {
		return zero, err
	}
	return value, nil
}

// All runs query by the rules of [SQL].Exec and returns its rows, within the
// limit of [Cursor].All. A T may be
//
//   - a struct, or a pointer to one. A column goes to the field of its name: that
//     of the tag db:"name" in any case, otherwise the field's own, in any case and
//     without regard to underscores. Fields of embedded structs count as the
//     struct's; db:"-" leaves a field out. Fields without a column stay zero.
//   - a pointer to a protobuf message. A column goes to the field whose name, or
//     JSON name, is exactly its own, and NULL leaves the field unset. A nested
//     message is read from a blob, its binary encoding, or from JSON; lists and
//     maps from JSON.
//   - map[string]any, where the last of several columns of one name is kept, or
//     []any, the values
//   - one value, for a result of one column
//
// A value, or field, may be of any integer type or time.Duration, where the value
// must be in range; a float; a string; bool, from 0 and 1; []byte, from a blob or
// text; time.Time, see below; an enum of protobuf, from its number or name; the
// protobuf messages Timestamp, from what is a time, Duration, from nanoseconds,
// and wrappers; another message in a struct; a [database/sql.Scanner]; and any.
// Kinds are not converted but a whole float to an integer and an integer to a
// float, where nothing is lost. NULL is nil for a []byte, an any, a message and a
// pointer to one of the others; those themselves refuse it.
//
// Times are text by [SQLTimeFormat] or RFC 3339, or in SQLite's forms YYYY-MM-DD
// and YYYY-MM-DD HH:MM[:SS[.SSS]], with or without a zone; UTC is assumed without,
// and the result is in UTC. A field with the option unix, unixmilli, unixmicro or
// unixnano in its tag, such as db:"created,unix", reads an integer instead.
//
// It returns a [ScanError] for a value that does not fit, which names its column,
// and [ErrInvalidArgument] for a T that cannot take the result at all, such as one
// without a field for a column. What the statement wrote stays in both cases.
func All[T any](ctx context.Context, s SQL, query string, args ...any) ([]T, error) {
	c, err := s.Exec(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	scan, err := planRow(reflect.TypeFor[T](), c.columns)
	if err != nil {
		return nil, err
	}
	var all []T
	var value, zero T
	dst := reflect.ValueOf(&value).Elem()
	err = c.each(func(values []any) error {
		value = zero
		if err := scan(dst, values); err != nil {
			return err
		}
		all = append(all, value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Scan stores the values of the row in what dest points to, one for each column,
// by the rules that [All] has for one value. It returns a [ScanError] for the first
// that does not fit; those before it are stored.
func (r Row) Scan(dest ...any) error {
	if len(dest) != len(r.values) {
		return fmt.Errorf("%w: scan: the row has %d columns, not %d", ErrInvalidArgument, len(r.values), len(dest))
	}
	for i, d := range dest {
		v := r.values[i]
		switch d := d.(type) { // without reflection
		case *any:
			if d != nil {
				*d = v
				continue
			}
		case *int64:
			if v, ok := v.(int64); ok && d != nil {
				*d = v
				continue
			}
		case *string:
			if v, ok := v.(string); ok && d != nil {
				*d = v
				continue
			}
		}
		rv := reflect.ValueOf(d)
		if rv.Kind() != reflect.Pointer || rv.IsNil() {
			return fmt.Errorf("%w: scan: destination %d is not a pointer to anything", ErrInvalidArgument, i+1)
		}
		decode, err := decoderOf(rv.Type().Elem(), noUnit)
		if err != nil {
			return fmt.Errorf("%w: scan: destination %d: %w", ErrInvalidArgument, i+1, err)
		}
		if err := decode(rv.Elem(), v); err != nil {
			return &ScanError{Column: r.columns[i], Err: err}
		}
	}
	return nil
}

// A rowScan stores the values of a row in dst, which is zero.
type rowScan func(dst reflect.Value, values []any) error

var (
	mapRowType  = reflect.TypeFor[map[string]any]()
	listRowType = reflect.TypeFor[[]any]()
)

// planRow returns what reads rows of these columns as values of type t.
func planRow(t reflect.Type, columns []string) (rowScan, error) {
	switch {
	case t == mapRowType:
		return func(dst reflect.Value, values []any) error {
			dst.Set(reflect.ValueOf(Row{columns, values}.Map()))
			return nil
		}, nil
	case t == listRowType:
		return func(dst reflect.Value, values []any) error {
			dst.Set(reflect.ValueOf(values))
			return nil
		}, nil
	case isMessage(t) && !isValueMessage(t):
		return planMessage(t, columns)
	case isRecord(t):
		return planStruct(t, columns)
	case t.Kind() == reflect.Pointer && isRecord(t.Elem()):
		scan, err := planStruct(t.Elem(), columns)
		if err != nil {
			return nil, err
		}
		return func(dst reflect.Value, values []any) error {
			dst.Set(reflect.New(t.Elem()))
			return scan(dst.Elem(), values)
		}, nil
	}
	decode, err := decoderOf(t, noUnit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidArgument, err)
	}
	if len(columns) != 1 {
		return nil, fmt.Errorf("%w: the result has %d columns, and %s takes one", ErrInvalidArgument, len(columns), t)
	}
	return func(dst reflect.Value, values []any) error {
		if err := decode(dst, values[0]); err != nil {
			return &ScanError{Column: columns[0], Err: err}
		}
		return nil
	}, nil
}

// isRecord reports whether t is a struct that takes a row rather than a value.
func isRecord(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != timeType && !isMessage(reflect.PointerTo(t)) && !reflect.PointerTo(t).Implements(scannerType)
}
