package server

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/storage/memkv"
)

// routeOf returns the route of a method of the lab.
func routeOf(tb testing.TB, procedure string, opts ...durable.ObjectOption) *route {
	tb.Helper()
	engine := memkv.New(memkv.Options{})
	s, err := New(tb.Context(), engine)
	if err != nil {
		tb.Fatal(err)
	}
	if err := (&lab.Lab{Options: opts}).Register(s); err != nil {
		tb.Fatal(err)
	}
	value, ok := s.routes.Load(procedure)
	if !ok {
		tb.Fatalf("no route for %s", procedure)
	}
	return value.(*route)
}

func TestResolve(t *testing.T) {
	const recorder = "lab.recorder"
	id := durable.IDFromName(recorder, "a").String()
	other := durable.IDFromName("lab.kv", "a").String()
	random := durable.NewUniqueID(recorder).String()
	header := func(text string) candidate {
		return candidate{source: "header Durable-Name", text: text, escaped: true}
	}
	headerID := func(text string) candidate { return candidate{source: "header Durable-Id", text: text, isID: true} }
	inURL := func(text string) candidate { return candidate{source: "URL", text: text, escaped: true} }
	urlID := func(text string) candidate {
		return candidate{source: "URL", text: text, escaped: true, isID: true}
	}
	plain := func(text string) candidate { return candidate{source: "header X-Tenant", text: text} }
	for _, c := range []struct {
		name  string
		outer []candidate
		field string
		want  string // the name
		id    string // where there is no name
		fails durable.KeyProblem
	}{
		{name: "field", field: "a", want: "a"},
		{name: "header", outer: []candidate{header("a")}, want: "a"},
		{name: "header, escaped", outer: []candidate{header("%E2%82%AC%2f%20")}, want: "€/ "},
		{name: "header, plus is plus", outer: []candidate{header("a+b")}, want: "a+b"},
		{name: "header as it is", outer: []candidate{plain("100%")}, want: "100%"},
		{name: "URL", outer: []candidate{inURL("a%2Fb")}, want: "a/b"},
		{name: "id", outer: []candidate{headerID(random)}, id: random},
		{name: "id in upper case", outer: []candidate{headerID(strings.ToUpper(random))}, id: random},
		{name: "id in the URL", outer: []candidate{urlID(random)}, id: random},
		{name: "all agree", outer: []candidate{header("a"), headerID(id), plain("a"), inURL("%61"), urlID(id)}, field: "a", want: "a"},
		{name: "the name is learnt after the id", outer: []candidate{headerID(id), header("a")}, want: "a"},
		{name: "the name is learnt from the field", outer: []candidate{headerID(id)}, field: "a", want: "a"},

		{name: "nothing", fails: durable.KeyMissing},
		{name: "two names", outer: []candidate{header("a"), header("b")}, fails: durable.KeyConflict},
		{name: "field and header", outer: []candidate{header("a")}, field: "b", fails: durable.KeyConflict},
		{name: "letter case counts", outer: []candidate{header("a")}, field: "A", fails: durable.KeyConflict},
		{name: "name and id", outer: []candidate{header("b"), headerID(id)}, fails: durable.KeyConflict},
		{name: "id and name", outer: []candidate{headerID(id), header("b")}, fails: durable.KeyConflict},
		{name: "id and field", outer: []candidate{headerID(random)}, field: "a", fails: durable.KeyConflict},
		{name: "two ids", outer: []candidate{headerID(id), urlID(random)}, fails: durable.KeyConflict},
		{name: "an empty header", outer: []candidate{header("")}, fails: durable.KeyInvalid},
		{name: "an empty header beside a field", outer: []candidate{header("")}, field: "a", fails: durable.KeyInvalid},
		{name: "bad escape", outer: []candidate{header("%zz")}, fails: durable.KeyInvalid},
		{name: "cut escape", outer: []candidate{inURL("a%2")}, fails: durable.KeyInvalid},
		{name: "escaped NUL", outer: []candidate{header("a%00")}, fails: durable.KeyInvalid},
		{name: "escaped bad UTF-8", outer: []candidate{header("%ff")}, fails: durable.KeyInvalid},
		{name: "too long", outer: []candidate{header(strings.Repeat("x", 1025))}, fails: durable.KeyInvalid},
		{name: "short id", outer: []candidate{headerID("abc")}, fails: durable.KeyInvalid},
		{name: "letters in an id", outer: []candidate{headerID(strings.Repeat("z", 64))}, fails: durable.KeyInvalid},
		{name: "an empty id", outer: []candidate{headerID("")}, fails: durable.KeyInvalid},
		{name: "id of another type", outer: []candidate{headerID(other)}, fails: durable.KeyWrongType},
		{name: "made up id", outer: []candidate{headerID(strings.Repeat("0", 64))}, fails: durable.KeyWrongType},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := routeOf(t, "/lab.v1.RecorderService/Append")
			req := &labv1.AppendRequest{Name: c.field}
			k, err := r.resolve(c.outer, req)
			if c.fails != 0 {
				var ke *durable.KeyError
				if !errors.As(err, &ke) || ke.Problem != c.fails {
					t.Errorf("error %v, want problem %d", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := key{name: c.want, where: k.where, id: durable.IDFromName(recorder, c.want)}
			if c.id != "" {
				want.id, _ = durable.ParseID(recorder, c.id)
			}
			if diff := cmp.Diff(want, k, cmp.AllowUnexported(key{})); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
			if req.GetName() != c.want {
				t.Errorf("the field became %q, want %q", req.GetName(), c.want)
			}
		})
	}
	t.Run("default name", func(t *testing.T) {
		r := routeOf(t, "/lab.v1.RecorderService/Append", durable.WithDefaultName("main"))
		req := &labv1.AppendRequest{}
		k, err := r.resolve(nil, req)
		if err != nil || k.name != "main" || req.GetName() != "main" {
			t.Errorf("key %+v, field %q, error %v", k, req.GetName(), err)
		}
		if k, err = r.resolve([]candidate{header("a")}, &labv1.AppendRequest{}); err != nil || k.name != "a" {
			t.Errorf("key %+v, error %v", k, err)
		}
		if _, err = r.resolve([]candidate{header("")}, &labv1.AppendRequest{}); err == nil {
			t.Error("an empty header reached the default")
		}
	})
	t.Run("id field", func(t *testing.T) {
		r := routeOf(t, "/lab.v1.UniqueService/Touch")
		id := durable.IDFromName("lab.unique", "a").String()
		req := &labv1.TouchRequest{}
		if _, err := r.resolve([]candidate{header("a")}, req); err != nil || req.GetId() != id {
			t.Errorf("field %q, error %v, want %s", req.GetId(), err, id)
		}
		k, err := r.resolve([]candidate{header("a")}, &labv1.TouchRequest{Id: strings.ToUpper(id)})
		if err != nil || k.name != "a" {
			t.Errorf("key %+v, error %v", k, err)
		}
	})
}

// FuzzResolve: the resolver agrees with a model that looks at every candidate
// by itself, and in no order.
func FuzzResolve(f *testing.F) {
	id := durable.IDFromName("lab.recorder", "a").String()
	f.Add("a", "a", id, "a", id, uint8(0xff))
	f.Add("", "a%2Fb", "", "a/b", "", uint8(0b01010))
	f.Add("b", "%zz", "zz", "%00", durable.IDFromName("lab.kv", "a").String(), uint8(0b10110))
	f.Add("", "", "", "", "", uint8(0))
	r := routeOf(f, "/lab.v1.RecorderService/Append")
	f.Fuzz(func(t *testing.T, field, name, id, urlName, urlID string, present uint8) {
		all := []candidate{
			{source: "1", text: name, escaped: true},
			{source: "2", text: id, isID: true},
			{source: "3", text: urlName, escaped: true},
			{source: "4", text: urlID, escaped: true, isID: true},
			{source: "5", text: name},
		}
		var outer, told []candidate
		for i, c := range all {
			if present&(1<<i) != 0 {
				outer = append(outer, c)
			}
		}
		told = outer
		if field != "" {
			told = append(told[:len(told):len(told)], candidate{text: field})
		}
		problems := map[durable.KeyProblem]bool{}
		ids := map[durable.ID]bool{}
		names := map[string]bool{}
		for _, c := range told {
			text, err := c.text, error(nil)
			if c.escaped {
				if text, err = url.PathUnescape(c.text); err != nil {
					problems[durable.KeyInvalid] = true
					continue
				}
			}
			var id durable.ID
			if c.isID {
				id, err = durable.ParseID("lab.recorder", text)
			} else if err = durable.CheckName(text); err == nil {
				id = durable.IDFromName("lab.recorder", text)
			}
			var ke *durable.KeyError
			if errors.As(err, &ke) {
				problems[ke.Problem] = true
				continue
			}
			ids[id] = true
			if !c.isID {
				names[text] = true
			}
		}
		if len(ids) > 1 {
			problems[durable.KeyConflict] = true
		}
		if len(told) == 0 {
			problems[durable.KeyMissing] = true
		}

		req := &labv1.AppendRequest{Name: field}
		k, err := r.resolve(outer, req)
		if len(problems) > 0 {
			var ke *durable.KeyError
			if !errors.As(err, &ke) || !problems[ke.Problem] {
				t.Fatalf("error %v, want one of %v", err, problems)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !ids[k.id] {
			t.Errorf("id %v, want %v", k.id, ids)
		}
		if len(names) > 0 != names[k.name] || req.GetName() != k.name {
			t.Errorf("name %q, field %q, want %v", k.name, req.GetName(), names)
		}
	})
}

func TestCutURLKey(t *testing.T) {
	for _, c := range []struct {
		escaped    string
		kind, text string // empty: refused
		path       string
	}{
		{"/-/name/a/p.S/M", "name", "a", "/p.S/M"},
		{"/-/name/a%2Fb/p.S/M", "name", "a%2Fb", "/p.S/M"},
		{"/-/id/00/p.S/M", "id", "00", "/p.S/M"},
		{"/-/name//p.S/M", "name", "", "/p.S/M"},
		{"/-/name/a/p%2ES/M", "name", "a", "/p.S/M"},
		{"/-/name/-/-/name/a/p.S/M", "name", "-", "/-/name/a/p.S/M"},
		{"/-/name/a/%zz", "", "", ""},
		{"/-/name/a//p.S/M", "", "", ""},
		{"/-/name/a/x/../p.S/M", "", "", ""},
		{"/-/name/a/%2e%2e/p.S/M", "", "", ""},
		{"/-/name/a/p.S/M/", "", "", ""},
		{"/-/name/a", "", "", ""},
		{"/-/name", "", "", ""},
		{"/-/", "", "", ""},
		{"/-/key/a/p.S/M", "", "", ""},
		{"/-/Name/a/p.S/M", "", "", ""},
	} {
		t.Run(c.escaped, func(t *testing.T) {
			key, path, ok := cutURLKey(c.escaped)
			if ok != (c.kind != "") {
				t.Errorf("taken: %v", ok)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff([]string{c.kind, c.text, c.path}, []string{key.kind, key.text, path}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
