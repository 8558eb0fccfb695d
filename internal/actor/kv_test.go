package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// model is the state of one object as a plain map.
type model map[string]string

func (m model) list(o listCase) []durable.Entry {
	var entries []durable.Entry
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch {
		case o.start != nil && key < *o.start,
			o.startAfter != nil && key <= *o.startAfter,
			o.end != nil && key >= *o.end,
			!strings.HasPrefix(key, o.prefix):
			continue
		}
		entries = append(entries, durable.Entry{Key: key, Value: []byte(m[key])})
	}
	if o.reverse {
		slices.Reverse(entries)
	}
	if o.limit > 0 && len(entries) > o.limit {
		entries = entries[:o.limit]
	}
	return entries
}

// A listCase is one choice of list options.
type listCase struct {
	start, startAfter, end *string
	prefix                 string
	limit                  int
	reverse                bool
}

func (o listCase) options() (opts []durable.ListOption) {
	if o.start != nil {
		opts = append(opts, durable.ListStart(*o.start))
	}
	if o.startAfter != nil {
		opts = append(opts, durable.ListStartAfter(*o.startAfter))
	}
	if o.end != nil {
		opts = append(opts, durable.ListEnd(*o.end))
	}
	if o.prefix != "" {
		opts = append(opts, durable.ListPrefix(o.prefix))
	}
	if o.limit > 0 {
		opts = append(opts, durable.ListLimit(o.limit))
	}
	if o.reverse {
		opts = append(opts, durable.ListReverse())
	}
	return opts
}

// A kvTester runs random operations on an object and on a model of it.
type kvTester struct {
	t   *testing.T
	rng *rand.Rand

	committed model // as of the last commit point
	now       model // as the turn sees it
	dirty     bool  // written since the last commit point
	depth     int   // of savepoints
	open      []openList
}

// An openList is an iteration under way, and what it has yet to show. (KV-30,
// KV-31)
type openList struct {
	next func() (durable.Entry, error, bool)
	stop func()
	want []durable.Entry
}

// key returns a key of few letters, so that keys collide and lie next to one
// another. Their order is that of bytes: "Z" < "a" < "é" < U+FFFF < U+1F600.
// (KV-15, KV-32)
func (k *kvTester) key() string {
	letters := []string{"\x00", "Z", "a", "b", "é", "\uffff", "\U0001F600", "\xff"}
	var b strings.Builder
	for range k.rng.IntN(4) {
		b.WriteString(letters[k.rng.IntN(len(letters))])
	}
	return b.String()
}

func (k *kvTester) listCase() (o listCase) {
	maybe := func() *string {
		if k.rng.IntN(3) > 0 {
			return nil
		}
		key := k.key()
		return &key
	}
	o.start, o.end = maybe(), maybe()
	if o.start == nil {
		o.startAfter = maybe()
	}
	if k.rng.IntN(3) == 0 {
		o.prefix = k.key()
	}
	if k.rng.IntN(2) == 0 {
		o.limit = 1 + k.rng.IntN(8)
	}
	o.reverse = k.rng.IntN(2) == 0
	return o
}

// read runs a random read of a turn.
func (k *kvTester) read(ctx context.Context, kv durable.KVReader) {
	t := k.t
	switch k.rng.IntN(4) {
	case 0:
		key := k.key()
		got, ok, err := kv.Get(ctx, key)
		want, wantOK := k.now[key]
		if err != nil || ok != wantOK || string(got) != want {
			t.Fatalf("get %q: %q %v %v, want %q %v", key, got, ok, err, want, wantOK)
		}
		if ok {
			clear(got) // it is ours (KV-10)
		}
	case 1: // in order, the present ones, each once (KV-03, KV-17)
		var keys []string
		found := model{}
		for range k.rng.IntN(6) {
			key := k.key()
			keys = append(keys, key, key)
			if value, ok := k.now[key]; ok {
				found[key] = value
			}
		}
		got, err := kv.GetMany(ctx, keys...)
		if err != nil || cmp.Diff(found.list(listCase{}), got) != "" {
			t.Fatalf("get %q: %v %s", keys, err, cmp.Diff(found.list(listCase{}), got))
		}
		for _, e := range got {
			clear(e.Value)
		}
	case 2: // KV-20 .. KV-29
		o := k.listCase()
		var got []durable.Entry
		for e, err := range kv.List(ctx, o.options()...) {
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			got = append(got, durable.Entry{Key: e.Key, Value: bytes.Clone(e.Value)})
			clear(e.Value)
		}
		if want := k.now.list(o); cmp.Diff(want, got) != "" {
			t.Fatalf("list %+v: %s", o, cmp.Diff(want, got))
		}
	case 3: // one that goes on while others and writes are made
		o := k.listCase()
		l := openList{want: k.now.list(o)}
		l.next, l.stop = iter.Pull2(kv.List(ctx, o.options()...))
		k.open = append(k.open, l)
		k.advance(len(k.open)-1, 1)
	}
	if len(k.open) > 0 {
		k.advance(k.rng.IntN(len(k.open)), k.rng.IntN(3))
	}
}

// advance takes n entries from an iteration.
func (k *kvTester) advance(i, n int) {
	l := &k.open[i]
	for range n {
		e, err, ok := l.next()
		if err != nil || ok != (len(l.want) > 0) || ok && cmp.Diff(l.want[0], e) != "" {
			k.t.Fatalf("an iteration goes on with %q %v %v, want %q", e, ok, err, l.want)
		}
		if !ok {
			return
		}
		l.want = l.want[1:]
	}
}

// write runs a random write of a turn.
func (k *kvTester) write(ctx context.Context, tx durable.Tx) {
	kv := tx.KV()
	if k.rng.IntN(3) == 0 {
		kv = kv.Unconfirmed()
	}
	check := func(what string, err error) {
		if err != nil {
			k.t.Fatalf("%s: %v", what, err)
		}
	}
	value := fmt.Append(nil, k.rng.IntN(1000))
	if k.rng.IntN(8) == 0 {
		value = []byte{}
	}
	switch n := k.rng.IntN(20); {
	case n < 8:
		key := k.key()
		k.now[key], k.dirty = string(value), true
		check("put", kv.Put(ctx, key, value))
		clear(value) // it is still ours
	case n < 11:
		var entries []durable.Entry
		for range k.rng.IntN(5) {
			e := durable.Entry{Key: k.key(), Value: value}
			k.now[e.Key], k.dirty = string(value), true
			entries = append(entries, e)
		}
		check("put many", kv.PutMany(ctx, entries...))
	case n < 15: // KV-06, KV-07
		key := k.key()
		_, want := k.now[key]
		existed, err := kv.Delete(ctx, key)
		check("delete", err)
		if existed != want {
			k.t.Fatalf("delete %q: %v", key, existed)
		}
		delete(k.now, key)
		k.dirty = k.dirty || want
	case n < 17:
		var keys []string
		want := 0
		for range k.rng.IntN(5) {
			key := k.key()
			keys = append(keys, key)
			if _, ok := k.now[key]; ok {
				want++
				k.dirty = true
				delete(k.now, key)
			}
		}
		n, err := kv.DeleteMany(ctx, keys...)
		check("delete many", err)
		if n != want {
			k.t.Fatalf("delete %q: %d, want %d", keys, n, want)
		}
	case n == 17 && k.depth == 0 && k.rng.IntN(3) == 0: // KV-40, KV-46
		check("delete all", tx.DeleteAll(ctx))
		k.now, k.dirty = model{}, true
	case n == 18 && k.depth == 0:
		check("sync", tx.Sync(ctx))
		k.committed, k.dirty = maps.Clone(k.now), false
	case n == 19 && k.depth < 3: // TXN-06
		before := maps.Clone(k.now)
		undo := errors.New("undo")
		k.depth++
		err := tx.Savepoint(func() error {
			for range k.rng.IntN(8) {
				k.write(ctx, tx)
				k.read(ctx, tx.KV())
			}
			if k.rng.IntN(2) == 0 {
				return undo
			}
			return nil
		})
		k.depth--
		if err != nil {
			if !errors.Is(err, undo) {
				k.t.Fatalf("savepoint: %v", err)
			}
			k.now = before // the fields may know of what was undone: still dirty
		}
	}
}

// endLists ends the iterations under way.
func (k *kvTester) endLists() {
	for _, l := range k.open {
		l.stop()
	}
	k.open = nil
}

// TestKVAgainstModel runs random turns on an object and on a plain map, with
// rollbacks, savepoints, wipes and evictions, and compares every read. Some
// iterations last while writes are made.
func TestKVAgainstModel(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	k := &kvTester{t: t, rng: rand.New(rand.NewPCG(seed(t), 0)), committed: model{}}
	memory := 0 // what the field of the handler should be
	for range 400 {
		no := errors.New("no")
		if k.rng.IntN(4) == 0 {
			k.now = maps.Clone(k.committed)
			err := h.view(t.Context(), "a", func(ctx context.Context, _ *counter, view durable.View) error {
				for range k.rng.IntN(10) {
					k.read(ctx, view.KV())
				}
				k.endLists()
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		k.now, k.dirty = maps.Clone(k.committed), false
		fails, keeps := false, false
		err := h.update(t.Context(), "a", func(ctx context.Context, s *counter, tx durable.Tx) error {
			if s.n != memory {
				t.Fatalf("the activation is %d, want %d", s.n, memory)
			}
			for range k.rng.IntN(12) {
				k.write(ctx, tx)
				k.read(ctx, tx.KV())
			}
			k.endLists()
			s.n++
			switch k.rng.IntN(6) {
			case 0:
				fails = true
				return no
			case 1:
				keeps = true
				return durable.Keep(no)
			}
			return nil
		})
		if (fails || keeps) != errors.Is(err, no) || err != nil && !fails && !keeps {
			t.Fatal(err)
		}
		memory++
		if fails && k.dirty { // rolled back, and dropped
			memory = 0
		}
		if !fails {
			k.committed = k.now
		}
		if k.rng.IntN(20) == 0 {
			if _, err := h.Evict(t.Context(), h.typ, durable.IDFromName("counter", "a")); err != nil {
				t.Fatal(err)
			}
			memory = 0
		}
	}
}

// TestListErrors: options that contradict one another, and iterations that
// outlive their turn. (KV-22, KV-26)
func TestListErrors(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	var left iter.Seq2[durable.Entry, error]
	var next func() (durable.Entry, error, bool)
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		kv := tx.KV()
		for i := range 5 {
			if err := kv.Put(ctx, fmt.Sprint(i), []byte("v")); err != nil {
				return err
			}
		}
		for _, opts := range [][]durable.ListOption{
			{durable.ListStart(""), durable.ListStartAfter("")},
			{durable.ListLimit(0)},
			{durable.ListLimit(-1)},
		} {
			n := 0
			for _, err := range kv.List(ctx, opts...) {
				if n++; !errors.Is(err, durable.ErrInvalidArgument) {
					t.Errorf("got %v", err)
				}
			}
			if n != 1 {
				t.Errorf("%d results, want one error", n)
			}
		}
		// An iteration ends when the turn is left, even if it is entered again.
		resting, stop := iter.Pull2(kv.List(ctx))
		defer stop()
		_, _, _ = resting()
		if err := tx.Await(ctx, func(context.Context) error { return nil }); err != nil {
			return err
		}
		if _, err, _ := resting(); !errors.Is(err, durable.ErrTxDone) {
			t.Errorf("after Await: %v", err)
		}
		// Sync does not end one.
		syncing, stop := iter.Pull2(kv.List(ctx))
		defer stop()
		_, _, _ = syncing()
		if err := tx.DeleteAll(ctx); err != nil {
			return err
		}
		if err := tx.Sync(ctx); err != nil {
			return err
		}
		n := 1
		for e, err, ok := syncing(); ok; e, err, ok = syncing() {
			if n++; err != nil || string(e.Value) != "v" {
				t.Errorf("after Sync: %q %v", e, err)
			}
		}
		if n != 5 {
			t.Errorf("%d pairs, want those of the start", n)
		}
		if err := kv.PutMany(ctx, durable.Entry{Key: "a", Value: []byte{}}, durable.Entry{Key: "b", Value: []byte{}}); err != nil {
			return err
		}
		left = kv.List(ctx)
		next, _ = iter.Pull2(kv.List(ctx))
		_, err, ok := next()
		if err != nil || !ok {
			t.Errorf("%v %v", err, ok)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err, _ := next(); !errors.Is(err, durable.ErrTxDone) {
		t.Errorf("the iteration went on after its turn: %v", err)
	}
	if _, _, ok := next(); ok {
		t.Error("the iteration went on after an error")
	}
	for _, err := range left {
		if !errors.Is(err, durable.ErrTxDone) {
			t.Errorf("an iteration began after its turn: %v", err)
		}
	}
}
