package durable

import (
	"database/sql"
	"errors"
	"reflect"
	"time"
)

// SQLTimeFormat is how a [time.Time] argument is stored: as text, in UTC, with
// all nanoseconds, so that the order of the text is that of the times. SQLite's
// date and time functions understand it.
const SQLTimeFormat = "2006-01-02T15:04:05.000000000Z"

// A timeUnit is how an integer becomes a time.
type timeUnit string

const noUnit timeUnit = ""

// timeUnits are the options of the tag of a time.
var timeUnits = map[timeUnit]func(int64) time.Time{
	"unix":      func(n int64) time.Time { return time.Unix(n, 0) },
	"unixmilli": time.UnixMilli,
	"unixmicro": time.UnixMicro,
	"unixnano":  func(n int64) time.Time { return time.Unix(0, n) },
}

func decodeTime(unit timeUnit) decoder {
	return func(dst reflect.Value, v any) error {
		t, err := toTime(v, unit)
		if err == nil {
			*dst.Addr().Interface().(*time.Time) = t
		}
		return err
	}
}

// decodeNullTime is for the Scanners of database/sql that know no text.
func decodeNullTime(unit timeUnit) decoder {
	return func(dst reflect.Value, v any) error {
		if v != nil {
			t, err := toTime(v, unit)
			if err != nil {
				return err
			}
			v = t
		}
		return dst.Addr().Interface().(sql.Scanner).Scan(v)
	}
}

func toTime(v any, unit timeUnit) (time.Time, error) {
	if unit != noUnit {
		n, ok := v.(int64)
		if !ok {
			return time.Time{}, misfit(v, "a time of the option "+string(unit))
		}
		return timeUnits[unit](n).UTC(), nil
	}
	s, ok := v.(string)
	if !ok {
		return time.Time{}, misfit(v, timeType)
	}
	t, ok := parseTime(s)
	if !ok {
		return time.Time{}, errors.New("the text is not a time")
	}
	return t, nil
}

// parseTime reads the forms of times that [All] lists.
func parseTime(s string) (time.Time, bool) {
	if len(s) == len(time.DateOnly) {
		t, err := time.Parse(time.DateOnly, s)
		return t, err == nil
	}
	if len(s) < len("2006-01-02T15:04") {
		return time.Time{}, false
	}
	if s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	layout := "2006-01-02T15:04"
	rest := s[len(layout):]
	zoned := rest != "" && (rest[len(rest)-1] == 'Z' || len(rest) >= 6 && (rest[len(rest)-6] == '+' || rest[len(rest)-6] == '-'))
	seconds := rest != "" && rest[0] == ':'
	switch {
	case seconds && zoned:
		layout = time.RFC3339
	case seconds:
		layout = "2006-01-02T15:04:05"
	case zoned:
		layout = "2006-01-02T15:04Z07:00"
	}
	t, err := time.Parse(layout, s)
	return t.UTC(), err == nil
}
