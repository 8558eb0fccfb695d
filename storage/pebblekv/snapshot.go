package pebblekv

import (
	"context"
	"iter"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage"
)

// A snapshot keeps Pebble's open until it was closed and nobody reads from it.
type snapshot struct {
	reader reader
	src    *pebble.Snapshot
	refs   atomic.Int64
	closed atomic.Bool
}

func newSnapshot(sh *shard) *snapshot {
	src := sh.e.db.NewSnapshot()
	v := &snapshot{reader: reader{e: sh.e, src: src, id: sh.id}, src: src}
	v.refs.Store(1)
	return v
}

func (v *snapshot) Meta(ctx context.Context, o storage.ObjectID) (storage.Meta, bool, error) {
	if !v.hold() {
		return storage.Meta{}, false, storage.ErrClosed
	}
	defer v.drop()
	return v.reader.Meta(ctx, o)
}

func (v *snapshot) Get(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, bool, error) {
	if !v.hold() {
		return nil, false, storage.ErrClosed
	}
	defer v.drop()
	return v.reader.Get(ctx, o, key)
}

func (v *snapshot) GetPatched(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	if !v.hold() {
		return nil, 0, false, storage.ErrClosed
	}
	defer v.drop()
	return v.reader.GetPatched(ctx, o, key)
}

func (v *snapshot) Scan(ctx context.Context, o storage.ObjectID, r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		if !v.hold() {
			yield(storage.Pair{}, storage.ErrClosed)
			return
		}
		defer v.drop()
		v.reader.Scan(ctx, o, r)(yield)
	}
}

// Close does nothing when the engine was closed before.
func (v *snapshot) Close() {
	if !v.reader.e.inside.enter() {
		return
	}
	defer v.reader.e.inside.leave()
	if !v.closed.Swap(true) {
		v.release()
	}
}

// hold reports whether the caller may read, and must drop.
func (v *snapshot) hold() bool {
	e := v.reader.e
	if !e.inside.enter() {
		return false
	}
	for n := v.refs.Load(); n > 0 && !v.closed.Load(); n = v.refs.Load() {
		if v.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
	e.inside.leave()
	return false
}

func (v *snapshot) drop() {
	v.release()
	v.reader.e.inside.leave()
}

func (v *snapshot) release() {
	if v.refs.Add(-1) > 0 {
		return
	}
	e := v.reader.e
	e.mu.Lock()
	delete(e.mu.views, v)
	e.mu.Unlock()
	_ = v.src.Close()
}
