package memkv

import (
	"bytes"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

type objects map[storage.ObjectID]*object

// An object is never changed: a commit makes a new one. So whoever holds one has
// a snapshot.
type object struct {
	meta   *storage.Meta // nil when the object does not exist
	pairs  []pair
	timers map[uint8]time.Time
}

// A pair is a key and its value, with the number of patches that were merged into
// the value since it was last put whole.
type pair struct {
	storage.Pair
	patches int
}

// after returns the object after a batch, or nil when nothing is left of it.
func (o *object) after(b *storage.Batch) (*object, error) {
	next := new(object)
	if o != nil && !b.Wipe {
		next.meta = o.meta
		next.pairs = slices.Clone(o.pairs)
		next.timers = maps.Clone(o.timers)
	}
	if b.Create != nil {
		next.meta = &storage.Meta{Name: b.Create.Name, Created: time.UnixMilli(b.Create.Created.UnixMilli())}
	}
	for _, r := range b.Drop {
		lo, hi := next.bounds(r)
		next.pairs = slices.Delete(next.pairs, lo, hi)
	}
	for _, p := range b.Put {
		next.put(p, 0)
	}
	for _, k := range b.Del {
		if i, ok := next.find(k); ok {
			next.pairs = slices.Delete(next.pairs, i, i+1)
		}
	}
	for _, p := range b.Merge {
		if err := next.merge(p); err != nil {
			return nil, err
		}
	}
	for _, t := range b.Timers {
		if t.Due.IsZero() {
			delete(next.timers, t.Kind)
			continue
		}
		if next.timers == nil {
			next.timers = map[uint8]time.Time{}
		}
		next.timers[t.Kind] = roundUp(t.Due)
	}
	if next.meta == nil && len(next.pairs) == 0 && len(next.timers) == 0 {
		return nil, nil
	}
	return next, nil
}

func (o *object) put(p storage.Pair, patches int) {
	i, ok := o.find(p.Key)
	if ok {
		o.pairs[i].Val, o.pairs[i].patches = p.Val, patches
		return
	}
	o.pairs = slices.Insert(o.pairs, i, pair{p, patches})
}

func (o *object) merge(p storage.Pair) error {
	var base []byte
	before := 0
	if i, ok := o.find(p.Key); ok {
		base = patch.AppendRaw(nil, o.pairs[i].Val)
		before = o.pairs[i].patches
	}
	stored, err := patch.Apply(base, p.Val)
	if err != nil {
		return err
	}
	val, patches, err := patch.Decode(stored)
	if err != nil {
		return err
	}
	o.put(storage.Pair{Key: p.Key, Val: val}, before+patches)
	return nil
}

func (o *object) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(o.pairs, key, func(p pair, key []byte) int {
		return bytes.Compare(p.Key, key)
	})
}

// bounds returns the indexes of the pairs in a range.
func (o *object) bounds(r storage.Range) (lo, hi int) {
	if r.Lo != nil {
		lo, _ = o.find(r.Lo)
	}
	hi = len(o.pairs)
	if r.Hi != nil {
		hi, _ = o.find(r.Hi)
	}
	return lo, max(lo, hi)
}

// roundUp returns t in whole milliseconds.
func roundUp(t time.Time) time.Time {
	ms := time.UnixMilli(t.UnixMilli())
	if ms.Before(t) {
		ms = ms.Add(time.Millisecond)
	}
	return ms
}

// sortTimers puts timers in the order of an index.
func sortTimers(ts []storage.Timer) {
	sort.Slice(ts, func(i, j int) bool {
		a, b := ts[i], ts[j]
		if !a.Due.Equal(b.Due) {
			return a.Due.Before(b.Due)
		}
		if c := compareIDs(a.Object, b.Object); c != 0 {
			return c < 0
		}
		return a.Kind < b.Kind
	})
}

func compareIDs(a, b storage.ObjectID) int {
	if a.Type != b.Type {
		if a.Type < b.Type {
			return -1
		}
		return 1
	}
	return bytes.Compare(a.ID[:], b.ID[:])
}
