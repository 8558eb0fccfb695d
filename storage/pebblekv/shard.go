package pebblekv

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
)

type shard struct {
	reader
	s     *session
	epoch storage.Epoch
	done  chan struct{}
	err   error // guarded by e.mu; set once
	over  atomic.Bool
}

func (sh *shard) ID() storage.ShardID   { return sh.id }
func (sh *shard) Epoch() storage.Epoch  { return sh.epoch }
func (sh *shard) Done() <-chan struct{} { return sh.done }

func (sh *shard) Err() error {
	sh.e.mu.Lock()
	defer sh.e.mu.Unlock()
	return sh.err
}

// end makes the handle dead. The caller holds e.mu.
func (sh *shard) end(err error) {
	if sh.err == nil {
		sh.err = err
		sh.over.Store(true)
		close(sh.done)
	}
}

// alive returns nil as long as the handle is good for reads.
func (sh *shard) alive() error {
	if sh.over.Load() {
		return storage.ErrLost
	}
	return nil
}

// lose gives the shard up because something stands in the way of its commits.
func (sh *shard) lose(err error) {
	e := sh.e
	e.mu.Lock()
	defer e.mu.Unlock()
	sh.end(fmt.Errorf("%w: %w", storage.ErrLost, err))
	if e.mu.owners[sh.id] == sh {
		e.mu.owners[sh.id] = nil
	}
}

func (sh *shard) Confirm(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if sh.over.Load() || sh.e.dead() {
		return storage.ErrLost
	}
	return nil
}

func (sh *shard) Release(context.Context) error {
	e := sh.e
	e.mu.Lock()
	if sh.err != nil {
		defer e.mu.Unlock()
		return sh.err
	}
	// The shard has no owner from here on, so no commit comes in between. A
	// later claim of it stands behind the pending ones in the log.
	sh.end(storage.ErrClosed)
	e.mu.owners[sh.id] = nil
	settled := e.barrier()
	e.mu.Unlock()
	if settled.Wait() != nil {
		return e.lost()
	}
	return nil
}

// Size implements [storage.Sizer].
func (sh *shard) Size(ctx context.Context, o storage.ObjectID) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := sh.alive(); err != nil {
		return 0, err
	}
	e := sh.e
	if err := e.enter(); err != nil {
		return 0, err
	}
	defer e.inside.leave()
	n, err := e.db.EstimateDiskUsage(keyspace.AppendObject(nil, o), keyspace.AppendObjectEnd(nil, o))
	return int64(n), err
}

func (sh *shard) Snapshot(ctx context.Context) (storage.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := sh.alive(); err != nil {
		return nil, err
	}
	e := sh.e
	if err := e.enter(); err != nil {
		return nil, err
	}
	defer e.inside.leave()
	v := newSnapshot(sh)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.views[v] = struct{}{}
	return v, nil
}
