package durable

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// A structField is a field that takes a column.
type structField struct {
	name   string
	index  []int
	decode decoder
	err    error // why it takes none after all
}

// structFields are the fields of a struct type by what their columns are called:
// by tag, in lower case, and by the names of the others, normalized.
type structFields struct {
	byTag, byName map[string]*structField
}

// structs holds the fields of types, read once.
var structs sync.Map // of a reflect.Type to a *structFields

func fieldsOf(t reflect.Type) *structFields {
	if f, ok := structs.Load(t); ok {
		return f.(*structFields)
	}
	f := newStructFields(t)
	structs.Store(t, f)
	return f
}

// newStructFields reads the fields of t, those of t first and those of deeper
// embedded structs later, so that the outer one of a name is taken, as in Go.
func newStructFields(t reflect.Type) *structFields {
	type level struct {
		t     reflect.Type
		index []int
	}
	f := &structFields{byTag: map[string]*structField{}, byName: map[string]*structField{}}
	seen := map[reflect.Type]bool{} // at an outer level: recursion ends here
	for levels := []level{{t: t}}; len(levels) > 0; {
		var next []level
		for _, l := range levels {
			seen[l.t] = true
		}
		for _, l := range levels {
			for i := range l.t.NumField() {
				field := l.t.Field(i)
				tag, tagged := field.Tag.Lookup("db")
				name, option, _ := strings.Cut(tag, ",")
				if tag == "-" {
					continue
				}
				index := append(append([]int(nil), l.index...), i)
				if field.Anonymous && name == "" {
					inner, pointer := field.Type, field.Type.Kind() == reflect.Pointer
					if pointer {
						inner = inner.Elem()
					}
					if isRecord(inner) {
						// A pointer to an unexported struct cannot be set.
						if (field.IsExported() || !pointer) && !seen[inner] {
							next = append(next, level{inner, index})
						}
						continue
					}
				}
				if !field.IsExported() {
					continue
				}
				sf := &structField{name: field.Name, index: index}
				if _, known := timeUnits[timeUnit(option)]; !known && (option != "" || tagged && strings.HasSuffix(tag, ",")) {
					sf.err = fmt.Errorf("the tag of field %s has an unknown option %q", field.Name, option)
				} else if sf.decode, sf.err = decoderOf(field.Type, timeUnit(option)); sf.err != nil {
					sf.err = fmt.Errorf("field %s: %w", field.Name, sf.err)
				}
				if name != "" {
					add(f.byTag, strings.ToLower(name), sf)
				} else {
					add(f.byName, normalize(field.Name), sf)
				}
			}
		}
		levels = next
	}
	return f
}

// add adds a field, unless an outer one has the name; of two equally deep ones
// neither can be meant.
func add(fields map[string]*structField, name string, sf *structField) {
	switch outer := fields[name]; {
	case outer == nil:
		fields[name] = sf
	case len(outer.index) == len(sf.index):
		outer.err = fmt.Errorf("the fields %s and %s have the same name", outer.name, sf.name)
	}
}

// normalize returns a name without case and underscores.
func normalize(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// planStruct returns what reads rows of these columns into a struct.
func planStruct(t reflect.Type, columns []string) (rowScan, error) {
	fields := fieldsOf(t)
	plan := make([]*structField, len(columns))
	for i, column := range columns {
		sf := fields.byTag[strings.ToLower(column)]
		if sf == nil {
			sf = fields.byName[normalize(column)]
		}
		if sf == nil {
			return nil, fmt.Errorf("%w: %s has no field for column %q", ErrInvalidArgument, t, column)
		}
		if sf.err != nil {
			return nil, fmt.Errorf("%w: %s, column %q: %w", ErrInvalidArgument, t, column, sf.err)
		}
		for j := range i {
			if plan[j] == sf {
				return nil, fmt.Errorf("%w: %s: the columns %q and %q are both for field %s", ErrInvalidArgument, t, columns[j], column, sf.name)
			}
		}
		plan[i] = sf
	}
	return func(dst reflect.Value, values []any) error {
		for i, sf := range plan {
			if err := sf.decode(fieldAt(dst, sf.index), values[i]); err != nil {
				return &ScanError{Column: columns[i], Err: err}
			}
		}
		return nil
	}, nil
}

// fieldAt returns a field of v and makes the embedded structs on the way to it.
func fieldAt(v reflect.Value, index []int) reflect.Value {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v
}
