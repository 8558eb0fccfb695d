package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

// A model is what a store should hold, in the plainest form.
type model map[storage.ObjectID]*modelObject

type modelObject struct {
	meta    *storage.Meta
	pairs   map[string]string
	patches map[string]int  // merged into each pair, where there are any
	timers  map[uint8]int64 // milliseconds
}

func newModelObject() *modelObject {
	return &modelObject{pairs: map[string]string{}, patches: map[string]int{}, timers: map[uint8]int64{}}
}

func (m model) clone() model {
	c := model{}
	for id, o := range m {
		c[id] = &modelObject{
			pairs: maps.Clone(o.pairs), patches: maps.Clone(o.patches), timers: maps.Clone(o.timers), meta: o.meta,
		}
	}
	return c
}

func (m model) apply(b *storage.Batch) {
	o := m[b.Object]
	if o == nil || b.Wipe {
		o = newModelObject()
		m[b.Object] = o
	}
	if b.Create != nil {
		o.meta = b.Create
	}
	for _, r := range b.Drop {
		for k := range o.pairs {
			if (r.Lo == nil || k >= string(r.Lo)) && (r.Hi == nil || k < string(r.Hi)) {
				o.remove(k)
			}
		}
	}
	for _, p := range b.Put {
		o.remove(string(p.Key))
		o.pairs[string(p.Key)] = string(p.Val)
	}
	for _, k := range b.Del {
		o.remove(string(k))
	}
	for _, p := range b.Merge {
		stored, err := patch.Apply(patch.AppendRaw(nil, []byte(o.pairs[string(p.Key)])), p.Val)
		if err != nil {
			panic(err)
		}
		val, patches, _ := patch.Decode(stored)
		o.pairs[string(p.Key)] = string(val)
		o.patches[string(p.Key)] += patches
	}
	for _, t := range b.Timers {
		delete(o.timers, t.Kind)
		if !t.Due.IsZero() {
			o.timers[t.Kind] = t.Due.UnixMilli()
		}
	}
	if o.meta == nil {
		delete(m, b.Object)
	}
}

func (o *modelObject) remove(key string) {
	delete(o.pairs, key)
	delete(o.patches, key)
}

// dump writes the model as text, with all objects of a shard, or of every shard
// when of is nil.
func (m model) dump(of *storage.ShardID) string {
	var sb strings.Builder
	for _, id := range m.ids() {
		if of != nil && id.Shard() != *of {
			continue
		}
		o := m[id]
		fmt.Fprintf(&sb, "%x %q %d\n", id.ID[:2], o.meta.Name, o.meta.Created.UnixMilli())
		for _, k := range slices.Sorted(maps.Keys(o.pairs)) {
			fmt.Fprintf(&sb, "%x %q = %q", id.ID[:2], k, o.pairs[k])
			if n := o.patches[k]; n > 0 {
				fmt.Fprintf(&sb, " after %d patches", n)
			}
			sb.WriteByte('\n')
		}
		for _, k := range slices.Sorted(maps.Keys(o.timers)) {
			fmt.Fprintf(&sb, "%x timer %d at %d\n", id.ID[:2], k, o.timers[k])
		}
	}
	return sb.String()
}

func (m model) ids() []storage.ObjectID {
	ids := slices.Collect(maps.Keys(m))
	sort.Slice(ids, func(i, j int) bool { return bytes.Compare(ids[i].ID[:], ids[j].ID[:]) < 0 })
	return ids
}

// read returns what a store holds in the objects with the given ids. It fails
// when the listing or the time index does not match the objects.
func read(ctx context.Context, s storage.Session, shards map[storage.ShardID]storage.Shard, ids []storage.ObjectID) (model, error) {
	got := model{}
	var names []storage.Object
	for _, id := range ids {
		sh := shards[id.Shard()]
		meta, ok, err := sh.Meta(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("meta: %w", err)
		}
		o := newModelObject()
		for p, err := range sh.Scan(ctx, id, storage.Range{}) {
			if err != nil {
				return nil, fmt.Errorf("scan: %w", err)
			}
			o.pairs[string(p.Key)] = string(p.Val)
			val, patches, ok, err := sh.GetPatched(ctx, id, p.Key)
			if err != nil {
				return nil, fmt.Errorf("get: %w", err)
			}
			if !ok || !bytes.Equal(val, p.Val) {
				return nil, fmt.Errorf("get of %q: %q, %t, but the scan found %q", p.Key, val, ok, p.Val)
			}
			if patches > 0 {
				o.patches[string(p.Key)] = patches
			}
		}
		if ok {
			o.meta = &meta
			got[id] = o
			names = append(names, storage.Object{ObjectID: id, Meta: meta})
		} else if len(o.pairs) > 0 {
			return nil, fmt.Errorf("object %x does not exist but has %d keys", id.ID[:2], len(o.pairs))
		}
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := names[i], names[j]
		return a.Name < b.Name || a.Name == b.Name && bytes.Compare(a.ID[:], b.ID[:]) < 0
	})
	if len(ids) == 0 {
		return got, nil
	}
	var listed []storage.Object
	for o, err := range s.Objects(ctx, storage.ObjectQuery{Type: ids[0].Type}) {
		if err != nil {
			return nil, fmt.Errorf("objects: %w", err)
		}
		listed = append(listed, o)
	}
	if d := cmp.Diff(names, listed); d != "" {
		return nil, fmt.Errorf("the listing differs from the objects (-objects +listing):\n%s", d)
	}
	last := time.UnixMilli(-1 << 60)
	for t, err := range s.Timers(ctx, time.UnixMilli(1<<50)) {
		if err != nil {
			return nil, fmt.Errorf("timers: %w", err)
		}
		o := got[t.Object]
		if o == nil {
			return nil, fmt.Errorf("timer of object %x, which does not exist", t.Object.ID[:2])
		}
		if t.Due.Before(last) {
			return nil, fmt.Errorf("timers out of order: %v after %v", t.Due, last)
		}
		last = t.Due
		o.timers[t.Kind] = t.Due.UnixMilli()
	}
	return got, nil
}

// claimAll claims the shards of the objects.
func claimAll(ctx context.Context, s storage.Session, ids []storage.ObjectID) (map[storage.ShardID]storage.Shard, error) {
	var want []storage.ShardID
	for _, id := range ids {
		if !slices.Contains(want, id.Shard()) {
			want = append(want, id.Shard())
		}
	}
	got, err := s.Claim(ctx, want)
	if err != nil {
		return nil, err
	}
	if len(got) != len(want) {
		return nil, fmt.Errorf("claimed %d of %d shards", len(got), len(want))
	}
	shards := map[storage.ShardID]storage.Shard{}
	for _, sh := range got {
		shards[sh.ID()] = sh
	}
	return shards, nil
}

// objectIDs returns n objects; the first two are in one shard.
func objectIDs(typ storage.TypeID, n int) []storage.ObjectID {
	a, b := sameShard(typ)
	ids := []storage.ObjectID{a, b}
	for i := 1; len(ids) < n; i++ {
		if o := testObject(typ, i); o != b {
			ids = append(ids, o)
		}
	}
	return ids[:n]
}

// randomKey draws from few keys, so that they meet again.
func randomKey(r *rand.Rand) []byte {
	const alphabet = "\x00\x01a\xff"
	key := make([]byte, r.IntN(4))
	for i := range key {
		key[i] = alphabet[r.IntN(len(alphabet))]
	}
	return key
}

func randomVal(r *rand.Rand) []byte {
	n := r.IntN(20)
	if r.IntN(20) == 0 {
		n = r.IntN(4000)
	}
	return bytes.Repeat([]byte{byte('a' + r.IntN(26))}, n)
}

func randomRange(r *rand.Rand) (rng storage.Range) {
	if r.IntN(3) > 0 {
		rng.Lo = randomKey(r)
	}
	if r.IntN(3) > 0 {
		rng.Hi = randomKey(r)
	}
	rng.Reverse = r.IntN(2) == 0
	return rng
}

// randomBatch draws a batch that makes sense for the model.
func randomBatch(r *rand.Rand, m model, ids []storage.ObjectID) *storage.Batch {
	b := &storage.Batch{Object: ids[r.IntN(len(ids))]}
	o := m[b.Object]
	b.Wipe = r.IntN(25) == 0
	if (o == nil || b.Wipe) && r.IntN(10) == 0 {
		return b // nothing, or a wipe and no more
	}
	if o == nil || b.Wipe || r.IntN(30) == 0 {
		b.Create = &storage.Meta{Name: string(randomKey(r)), Created: time.UnixMilli(r.Int64N(1 << 40))}
	}
	if r.IntN(15) == 0 {
		b.Drop = append(b.Drop, randomRange(r))
	}
	used := map[string]bool{}
	for range r.IntN(5) {
		key := randomKey(r)
		if used[string(key)] {
			continue
		}
		used[string(key)] = true
		switch r.IntN(4) {
		case 0:
			b.Del = append(b.Del, key)
		case 1:
			old := ""
			if o != nil {
				old = o.pairs[string(key)]
			}
			op := patch.AppendDiff(nil, []byte(old), randomVal(r))
			b.Merge = append(b.Merge, storage.Pair{Key: key, Val: op})
		default:
			b.Put = append(b.Put, storage.Pair{Key: key, Val: randomVal(r)})
		}
	}
	if r.IntN(5) == 0 {
		t := storage.Timer{Object: b.Object, Kind: uint8(r.IntN(3))}
		if r.IntN(3) > 0 {
			t.Due = time.UnixMilli(r.Int64N(1 << 20))
		}
		b.Timers = append(b.Timers, t)
	}
	return b
}
