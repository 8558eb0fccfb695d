package durable_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// FuzzListOptionsRange: the folded range holds a key exactly when every option
// by itself lets it through.
func FuzzListOptionsRange(f *testing.F) {
	f.Add("b", "", "", "", uint8(1), "b")
	f.Add("", "b", "", "", uint8(2), "b\x00")
	f.Add("", "b", "", "", uint8(2), "b")
	f.Add("", "", "b", "", uint8(4), "b")
	f.Add("a", "", "c", "b", uint8(5), "bb")
	f.Add("", "", "", "\xff\xff", uint8(0), "\xff\xff\xff")
	f.Add("", "", "", "a\xff", uint8(4), "b")
	f.Add("x", "x", "", "", uint8(3), "x")
	f.Fuzz(func(t *testing.T, start, after, end, prefix string, present uint8, key string) {
		var o durable.ListOptions
		want := strings.HasPrefix(key, prefix)
		durable.ListPrefix(prefix)(&o)
		if present&1 != 0 {
			durable.ListStart(start)(&o)
			want = want && key >= start
		}
		if present&2 != 0 {
			durable.ListStartAfter(after)(&o)
			want = want && key > after
		}
		if present&4 != 0 {
			durable.ListEnd(end)(&o)
			want = want && key < end
		}
		lo, hi, bounded, err := o.Range()
		if present&3 == 3 {
			if !errors.Is(err, durable.ErrInvalidArgument) {
				t.Fatalf("start and startAfter: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := key >= lo && (!bounded || key < hi); got != want {
			t.Errorf("%q is listed: %v, want %v; range %q to %q (%v)", key, got, want, lo, hi, bounded)
		}
	})
}

func TestListOptionsLimit(t *testing.T) {
	for n, ok := range map[int]bool{-1: false, 0: false, 1: true, 1 << 40: true} {
		var o durable.ListOptions
		durable.ListLimit(n)(&o)
		if _, _, _, err := o.Range(); (err == nil) != ok || err != nil && !errors.Is(err, durable.ErrInvalidArgument) {
			t.Errorf("limit %d: %v", n, err)
		}
	}
	if _, _, _, err := new(durable.ListOptions).Range(); err != nil {
		t.Errorf("no limit: %v", err)
	}
}

// garbage holds one value that is no message.
type garbage struct{ durable.KVReader }

func (garbage) Get(context.Context, string) ([]byte, bool, error) { return []byte{0xff}, true, nil }

func (garbage) List(context.Context, ...durable.ListOption) iter.Seq2[durable.Entry, error] {
	return func(yield func(durable.Entry, error) bool) {
		if yield(durable.Entry{Key: "a", Value: []byte{0xff}}, nil) {
			panic("it went on")
		}
	}
}

func TestMalformedValues(t *testing.T) {
	_, err := durable.GetProto(t.Context(), garbage{}, "a", &wrapperspb.StringValue{})
	if !errors.Is(err, durable.ErrMalformedValue) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("get: %v", err)
	}
	for _, err := range durable.ListProto[wrapperspb.StringValue](t.Context(), garbage{}) {
		if !errors.Is(err, durable.ErrMalformedValue) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("list: %v", err)
		}
	}
}
