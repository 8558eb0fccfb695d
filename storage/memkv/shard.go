package memkv

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/check"
)

type shard struct {
	s     *session
	id    storage.ShardID
	epoch storage.Epoch
	done  chan struct{}

	// Guarded by the store's mu.
	err     error
	applied objects                    // what is not durable yet; nil for a wiped object
	last    map[storage.ObjectID]int64 // the commit that made each of them
	seq     int64
	landed  int64
	latest  *entry
}

func (sh *shard) ID() storage.ShardID   { return sh.id }
func (sh *shard) Epoch() storage.Epoch  { return sh.epoch }
func (sh *shard) Done() <-chan struct{} { return sh.done }

func (sh *shard) Err() error {
	sh.s.store.mu.Lock()
	defer sh.s.store.mu.Unlock()
	return sh.err
}

func (sh *shard) end(err error) {
	if sh.err == nil {
		sh.err = err
		close(sh.done)
	}
}

func (sh *shard) Commit(b *storage.Batch) *storage.Pending {
	s := sh.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.err != nil {
		return storage.ResolvedPending(storage.ErrLost)
	}
	if err := check.Batch(b, &s.info); err != nil {
		return storage.ResolvedPending(err)
	}
	if b.Object.Shard() != sh.id {
		return storage.ResolvedPending(fmt.Errorf("%w: the object is in another shard", storage.ErrInvalid))
	}
	if s.mu.full {
		return storage.ResolvedPending(&storage.LimitError{What: "bytes free", Max: 1, Err: storage.ErrNoSpace})
	}
	before := sh.object(b.Object)
	if (before == nil || before.meta == nil || b.Wipe) && check.NeedsObject(b) {
		return storage.ResolvedPending(check.ErrNoObject)
	}
	after, err := before.after(b)
	if err != nil {
		return storage.ResolvedPending(fmt.Errorf("%w: %w", storage.ErrInvalid, err))
	}
	sh.seq++
	sh.applied[b.Object], sh.last[b.Object] = after, sh.seq
	e := &entry{sh: sh, seq: sh.seq, id: b.Object, after: after, pending: storage.NewPending()}
	sh.latest = e
	s.push(e)
	return e.pending
}

// object returns the object as this shard sees it. The caller holds mu.
func (sh *shard) object(id storage.ObjectID) *object {
	if o, ok := sh.applied[id]; ok {
		return o
	}
	return sh.s.store.mu.durable[sh.id][id]
}

// view returns all objects as this shard sees them. The caller holds mu.
func (sh *shard) view() objects {
	all := objects{}
	maps.Copy(all, sh.s.store.mu.durable[sh.id])
	for id, o := range sh.applied {
		if o == nil {
			delete(all, id)
		} else {
			all[id] = o
		}
	}
	return all
}

// read returns an object for a read.
func (sh *shard) read(id storage.ObjectID) (*object, error) {
	s := sh.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.closed:
		return nil, storage.ErrClosed
	case sh.err != nil:
		return nil, storage.ErrLost
	case sh.s.cut:
		return nil, storage.ErrUnavailable
	case id.Shard() != sh.id:
		return nil, fmt.Errorf("%w: the object is in another shard", storage.ErrInvalid)
	}
	return sh.object(id), nil
}

func (sh *shard) Meta(_ context.Context, o storage.ObjectID) (storage.Meta, bool, error) {
	return getMeta(sh.read(o))
}

func (sh *shard) Get(_ context.Context, o storage.ObjectID, key []byte) ([]byte, bool, error) {
	obj, err := sh.read(o)
	val, _, ok, err := get(obj, key, err)
	return val, ok, err
}

func (sh *shard) GetPatched(_ context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	obj, err := sh.read(o)
	return get(obj, key, err)
}

func (sh *shard) Scan(ctx context.Context, o storage.ObjectID, r storage.Range) iter.Seq2[storage.Pair, error] {
	return scan(ctx, func() (*object, error) { return sh.read(o) }, r)
}

func (sh *shard) Confirm(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := sh.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.err != nil {
		return storage.ErrLost
	}
	return sh.s.usable()
}

// Release gives up what is pending when the context ends first.
func (sh *shard) Release(ctx context.Context) error {
	s := sh.s.store
	s.mu.Lock()
	if sh.err != nil {
		defer s.mu.Unlock()
		return sh.err
	}
	// No commit comes from here on, and nobody else gets the shard before the
	// last one is settled.
	sh.end(storage.ErrClosed)
	latest := sh.latest
	s.mu.Unlock()
	var err error
	if latest != nil {
		select {
		case <-latest.pending.Done():
			_, err = latest.pending.Resolved()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endShard(sh, storage.ErrClosed)
	return err
}

func (sh *shard) Snapshot(ctx context.Context) (storage.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := sh.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.closed:
		return nil, storage.ErrClosed
	case sh.err != nil:
		return nil, storage.ErrLost
	case sh.s.cut:
		return nil, storage.ErrUnavailable
	}
	return &snapshot{store: s, id: sh.id, view: sh.view()}, nil
}

type snapshot struct {
	store  *Store
	id     storage.ShardID
	view   objects
	closed bool // guarded by the store's mu
}

func (v *snapshot) read(id storage.ObjectID) (*object, error) {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	if v.closed || v.store.mu.closed {
		return nil, storage.ErrClosed
	}
	if id.Shard() != v.id {
		return nil, fmt.Errorf("%w: the object is in another shard", storage.ErrInvalid)
	}
	return v.view[id], nil
}

func (v *snapshot) Meta(_ context.Context, o storage.ObjectID) (storage.Meta, bool, error) {
	return getMeta(v.read(o))
}

func (v *snapshot) Get(_ context.Context, o storage.ObjectID, key []byte) ([]byte, bool, error) {
	obj, err := v.read(o)
	val, _, ok, err := get(obj, key, err)
	return val, ok, err
}

func (v *snapshot) GetPatched(_ context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	obj, err := v.read(o)
	return get(obj, key, err)
}

func (v *snapshot) Scan(ctx context.Context, o storage.ObjectID, r storage.Range) iter.Seq2[storage.Pair, error] {
	return scan(ctx, func() (*object, error) { return v.read(o) }, r)
}

func (v *snapshot) Close() {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	v.closed = true
}

func getMeta(o *object, err error) (storage.Meta, bool, error) {
	if err != nil || o == nil || o.meta == nil {
		return storage.Meta{}, false, err
	}
	return *o.meta, true, nil
}

func get(o *object, key []byte, err error) (val []byte, patches int, ok bool, _ error) {
	if err != nil || o == nil {
		return nil, 0, false, err
	}
	i, ok := o.find(key)
	if !ok {
		return nil, 0, false, nil
	}
	return copied(o.pairs[i].Val), o.pairs[i].patches, true, nil
}

func scan(ctx context.Context, read func() (*object, error), r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		o, err := read()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(storage.Pair{}, err)
			return
		}
		if o == nil {
			return
		}
		lo, hi := o.bounds(r)
		pairs := o.pairs[lo:hi]
		if r.Reverse {
			pairs = slices.Clone(pairs)
			slices.Reverse(pairs)
		}
		for _, p := range pairs {
			if !yield(storage.Pair{Key: copied(p.Key), Val: copied(p.Val)}, nil) {
				return
			}
		}
	}
}

// copied returns a copy that is never nil.
func copied(b []byte) []byte { return append([]byte{}, b...) }
