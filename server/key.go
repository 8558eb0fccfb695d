package server

import (
	"fmt"
	"net/url"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// A candidate is one place that names the object of a call.
type candidate struct {
	source  string // for errors
	text    string
	escaped bool // percent-encoded
	isID    bool
}

// A key is the object that a call is for.
type key struct {
	id    durable.ID
	name  string // empty when the object was named by its id alone
	where string // the candidate that told
}

// resolve finds the object that a call is for, in the keys that came beside the
// message and in the message, and writes it into an empty key field. Every
// candidate must name the same object. It returns a [durable.KeyError].
func (r *route) resolve(outer []candidate, req proto.Message) (key, error) {
	k, err := r.outer(outer)
	if err != nil {
		return key{}, err
	}
	if k, err = r.inner(k, req); err != nil {
		return key{}, err
	}
	if k.where == "" {
		if k, err = r.missing(); err != nil {
			return key{}, err
		}
	}
	r.fill(k, req)
	return k, nil
}

// outer folds the keys beside the message.
func (r *route) outer(candidates []candidate) (key, error) {
	var k key
	for _, c := range candidates {
		var err error
		if k, err = r.add(k, c); err != nil {
			return key{}, err
		}
	}
	return k, nil
}

// inner adds the key field of a message, if it has one and it is not empty.
func (r *route) inner(k key, req proto.Message) (key, error) {
	if r.method.KeyField == nil {
		return k, nil
	}
	text := req.ProtoReflect().Get(r.method.KeyField).String()
	if text == "" {
		return k, nil
	}
	return r.add(k, candidate{
		source: "field " + string(r.method.KeyField.Name()),
		text:   text,
		isID:   r.method.KeyKind == durablev1.KeyKind_KEY_KIND_ID,
	})
}

// missing returns the key of a call that has none.
func (r *route) missing() (key, error) {
	if name := r.typ.DefaultName; name != "" {
		return key{id: durable.IDFromName(r.typ.Name, name), name: name, where: "default"}, nil
	}
	places := "the header " + headerName + " or " + headerID + ", or a URL under /-/name/ or /-/id/"
	if f := r.method.KeyField; f != nil {
		places = fmt.Sprintf("the field %s, %s", f.Name(), places)
	}
	return key{}, &durable.KeyError{Problem: durable.KeyMissing, Detail: "the call does not say which object it is for: use " + places}
}

// add folds one more candidate into a key.
func (r *route) add(k key, c candidate) (key, error) {
	text := c.text
	if c.escaped {
		var err error
		if text, err = url.PathUnescape(text); err != nil {
			return key{}, keyError(c, "is not valid percent-encoding")
		}
	}
	var id durable.ID
	name := ""
	if c.isID {
		var err error
		if id, err = durable.ParseID(r.typ.Name, text); err != nil {
			return key{}, fromSource(c, err)
		}
	} else {
		if err := durable.CheckName(text); err != nil {
			return key{}, fromSource(c, err)
		}
		if k.where != "" && k.name == text {
			return k, nil
		}
		id, name = durable.IDFromName(r.typ.Name, text), text
	}
	if k.where == "" {
		return key{id: id, name: name, where: c.source}, nil
	}
	if k.id != id {
		return key{}, &durable.KeyError{
			Problem: durable.KeyConflict,
			Detail:  fmt.Sprintf("the %s and the %s name different objects", k.where, c.source),
		}
	}
	if name != "" {
		k.name = name
	}
	return k, nil
}

// fill writes the key into the key field of a message that left it empty.
func (r *route) fill(k key, req proto.Message) {
	f := r.method.KeyField
	if f == nil {
		return
	}
	m := req.ProtoReflect()
	if m.Get(f).String() != "" {
		return
	}
	if r.method.KeyKind == durablev1.KeyKind_KEY_KIND_ID {
		m.Set(f, protoreflect.ValueOfString(k.id.String()))
	} else if k.name != "" {
		m.Set(f, protoreflect.ValueOfString(k.name))
	}
}

func keyError(c candidate, problem string) error {
	return &durable.KeyError{Problem: durable.KeyInvalid, Detail: fmt.Sprintf("the key in the %s %s", c.source, problem)}
}

// fromSource says where a malformed key was.
func fromSource(c candidate, err error) error {
	if ke, ok := err.(*durable.KeyError); ok { //nolint:errorlint // made by this module, never wrapped
		return &durable.KeyError{Problem: ke.Problem, Detail: "key in the " + c.source + ": " + ke.Detail}
	}
	return err
}
