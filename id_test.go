package durable_test

import (
	"errors"
	"strings"
	"testing"

	durable "github.com/durable-go/durable"
)

// TestIDGolden holds ids as they are stored and printed: another layout would
// lose every object.
func TestIDGolden(t *testing.T) {
	for _, c := range []struct{ objectType, name, id string }{
		{"counter", "a", "0155d18a29c1bfcfb31371066aec64ff0d682d15a153703c388a7492c996fdd1"},
		{"counter", "", "01ea81104f4d654e222383165e2f2a9c07e67129538693d3a2a11f449f80a10e"},
		{"counter", "日本語/é", "01c71dbe4557be110158dc64db0034f91c34cfdc657e91a3a08c78766e8feb2c"},
		{"account", "a", "0152fea35dac814192fca1b5ac6bc7597191b3e43f101a6909f06a16dbb657d6"},
		{"acme.v1.RoomService", strings.Repeat("x", 1024), "01293574524a85cab1d956beb6a17eb2bb215558882d9a44e85e78701d430ab1"},
	} {
		t.Run(c.objectType+"/"+c.name[:min(len(c.name), 8)], func(t *testing.T) {
			id := durable.IDFromName(c.objectType, c.name)
			if id.String() != c.id {
				t.Errorf("id %s, want %s", id, c.id)
			}
			if parsed, err := durable.ParseID(c.objectType, c.id); err != nil || parsed != id {
				t.Errorf("parsed: %s, error %v", parsed, err)
			}
		})
	}
	t.Run("random", func(t *testing.T) { // one that NewUniqueID once returned
		const text = "022056a25315d95cacf4a832742830a7aa71318e71950bbed675ad0e6682827b"
		if id, err := durable.ParseID("counter", text); err != nil || id.String() != text {
			t.Errorf("parsed: %s, error %v", id, err)
		}
	})
}

func TestIDs(t *testing.T) {
	const objectType = "counter"
	id := durable.IDFromName(objectType, "a")
	t.Run("ID-03 64 lower case digits", func(t *testing.T) {
		for _, id := range []durable.ID{id, durable.NewUniqueID(objectType), {}} {
			if text := id.String(); len(text) != 64 || strings.Trim(text, "0123456789abcdef") != "" {
				t.Errorf("%q", text)
			}
		}
	})
	t.Run("ID-05 random ids differ", func(t *testing.T) {
		seen := map[durable.ID]bool{}
		for range 1000 {
			id := durable.NewUniqueID(objectType)
			if seen[id] || id.IsZero() {
				t.Fatalf("%s again", id)
			}
			if err := durable.CheckID(objectType, id); err != nil {
				t.Fatal(err)
			}
			seen[id] = true
		}
	})
	t.Run("ID-02 ID-17 close pairs of type and name differ", func(t *testing.T) {
		seen := map[durable.ID]string{}
		for _, objectType := range []string{"a", "ab", "a\x00", "b"} {
			for _, name := range []string{"", "b", "\x00", "ab", "a"} {
				id := durable.IDFromName(objectType, name)
				if other, ok := seen[id]; ok {
					t.Errorf("%q of %q has the id of %s", name, objectType, other)
				}
				seen[id] = objectType + "/" + name
			}
		}
	})
	t.Run("ID-08 ID-09 ID-10 parsing", func(t *testing.T) {
		for name, c := range map[string]struct {
			text string
			want durable.KeyProblem // 0: the id
		}{
			"lower case":     {id.String(), 0},
			"upper case":     {strings.ToUpper(id.String()), 0},
			"empty":          {"", durable.KeyInvalid},
			"short":          {id.String()[:63], durable.KeyInvalid},
			"long":           {id.String() + "0", durable.KeyInvalid},
			"other letters":  {id.String()[:63] + "g", durable.KeyInvalid},
			"64 bytes UTF-8": {strings.Repeat("é", 32), durable.KeyInvalid},
			"prefixed":       {"0x" + id.String()[2:], durable.KeyInvalid},
			"another type's": {durable.IDFromName("account", "a").String(), durable.KeyWrongType},
			"random, another type's": {
				durable.NewUniqueID("account").String(), durable.KeyWrongType,
			},
			"zero":        {strings.Repeat("0", 64), durable.KeyWrongType},
			"other kind":  {"03" + id.String()[2:], durable.KeyWrongType},
			"swapped":     {"02" + id.String()[2:], durable.KeyWrongType},
			"a digit off": {id.String()[:20] + flip(id.String()[20:21]) + id.String()[21:], durable.KeyWrongType},
			"check off":   {id.String()[:63] + flip(id.String()[63:]), durable.KeyWrongType},
		} {
			t.Run(name, func(t *testing.T) {
				got, err := durable.ParseID(objectType, c.text)
				if c.want == 0 {
					if err != nil || got != id {
						t.Errorf("%s, error %v", got, err)
					}
					return
				}
				var ke *durable.KeyError
				if !errors.As(err, &ke) || ke.Problem != c.want || !got.IsZero() {
					t.Errorf("%s, error %v, want problem %d", got, err, c.want)
				}
			})
		}
	})
	t.Run("ID-17 ID-24 names", func(t *testing.T) {
		for name, ok := range map[string]bool{
			"a": true, " ": true, "日本語": true, strings.Repeat("x", 1024): true, "\n": true,
			"": false, strings.Repeat("x", 1025): false, "a\x00": false, "\xff": false, "a\xe6\x97": false,
		} {
			err := durable.CheckName(name)
			var ke *durable.KeyError
			if ok != (err == nil) || err != nil && (!errors.As(err, &ke) || ke.Problem != durable.KeyInvalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func flip(digit string) string {
	if digit == "0" {
		return "1"
	}
	return "0"
}

// FuzzParseID: what parses prints as it was, in lower case, and belongs to the
// type; every id parses back.
func FuzzParseID(f *testing.F) {
	f.Add("a", durable.IDFromName("counter", "a").String())
	f.Add("b", strings.ToUpper(durable.NewUniqueID("counter").String()))
	f.Add("", strings.Repeat("0", 64))
	f.Add("\xff", "x")
	f.Fuzz(func(t *testing.T, name, text string) {
		named := durable.IDFromName("counter", name)
		for _, text := range []string{named.String(), strings.ToUpper(named.String())} {
			if id, err := durable.ParseID("counter", text); err != nil || id != named {
				t.Errorf("%q: %s, error %v", name, id, err)
			}
		}
		if _, err := durable.ParseID("account", named.String()); err == nil {
			t.Errorf("%q: the id is taken for another type's", name)
		}
		id, err := durable.ParseID("counter", text)
		var ke *durable.KeyError
		switch {
		case err == nil && (id.String() != strings.ToLower(text) || durable.CheckID("counter", id) != nil):
			t.Errorf("%q was parsed as %s", text, id)
		case err != nil && (!errors.As(err, &ke) || !id.IsZero()):
			t.Errorf("%q: %s, error %v", text, id, err)
		}
	})
}
