package pebblekv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/check"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

// maxPointDeletes is how many keys are deleted one by one. More go as a range:
// Pebble deletes that at once, but each such deletion slows every later read
// until it is compacted away.
const maxPointDeletes = 1024

// A syncing is a batch on its way to the disk. A nil batch stands for none.
type syncing struct {
	batch   *pebble.Batch
	pending *storage.Pending
}

// Commit may be called by several goroutines for different objects.
func (sh *shard) Commit(b *storage.Batch) *storage.Pending {
	if sh.over.Load() {
		return storage.ResolvedPending(storage.ErrLost)
	}
	if err := check.Batch(b, &sh.e.info); err != nil {
		return storage.ResolvedPending(err)
	}
	e := sh.e
	if err := e.space.check(b); err != nil {
		return storage.ResolvedPending(err)
	}
	if !e.inside.enter() {
		return storage.ResolvedPending(storage.ErrLost)
	}
	defer e.inside.leave()

	w := writer{db: e.db, o: b.Object}
	w.prefix = keyspace.AppendObject(w.space[:0], b.Object)
	if err := sh.check(w.prefix); err != nil {
		return storage.ResolvedPending(err)
	}
	if check.Enabled && check.NeedsObject(b) {
		if _, ok, err := sh.Meta(context.Background(), b.Object); err == nil && !ok {
			return storage.ResolvedPending(check.ErrNoObject)
		}
	}
	w.batch = e.db.NewBatchWithSize(b.Size() + (len(b.Put)+len(b.Del)+len(b.Merge))*(len(w.prefix)+8) + 256)
	if err := w.write(b); err != nil {
		// A read went wrong on the way. Nobody can say what the object holds,
		// so the shard goes.
		_ = w.batch.Close()
		e.log.Error("commit", "error", err)
		sh.lose(err)
		return storage.ResolvedPending(storage.ErrLost)
	}

	p := storage.NewPending()
	e.mu.Lock()
	defer e.mu.Unlock()
	if sh.err != nil {
		_ = w.batch.Close()
		p.Resolve(storage.ErrLost)
		return p
	}
	e.batches.Add(1)
	return e.apply(w.batch, p)
}

// apply applies a batch and hands it to the resolver. The caller holds mu, which
// makes the order of the log, of the resolver and of epochs the same. It is held
// while Pebble changes its log or waits for a flush.
func (e *Engine) apply(b *pebble.Batch, p *storage.Pending) *storage.Pending {
	if e.mu.closing || e.mu.stuck || e.dead() {
		_ = b.Close()
		p.Resolve(storage.ErrLost)
		return p
	}
	if err := e.applyToPebble(b); err != nil {
		e.fs.seal("apply", err)
		p.Resolve(storage.ErrLost)
		return p
	}
	e.syncs <- syncing{b, p}
	return p
}

// applyToPebble turns a panic into an error. The file system keeps from Pebble
// what it would panic on, so there should be none; but Pebble's locks may be
// held after one.
func (e *Engine) applyToPebble(b *pebble.Batch) (err error) {
	done := false
	defer func() {
		if !done {
			e.mu.stuck = true
			err = fmt.Errorf("pebble panicked: %v", recover())
		}
	}()
	err = e.db.ApplyNoSyncWait(b, pebble.Sync)
	done = true
	return err
}

// barrier returns a commit of nothing. The caller holds mu.
func (e *Engine) barrier() *storage.Pending {
	p := storage.NewPending()
	if e.mu.closing || e.dead() {
		p.Resolve(storage.ErrLost)
		return p
	}
	e.syncs <- syncing{nil, p}
	return p
}

// resolve waits for the syncs and resolves the commits, in order.
func (e *Engine) resolve() {
	defer e.resolver.Done()
	for s := range e.syncs {
		var err error
		if s.batch != nil {
			if err = s.batch.SyncWait(); err != nil {
				e.fs.seal("sync", err)
			}
		}
		// After a failure a sync that seems to have worked proves nothing.
		if e.dead() {
			err = storage.ErrLost
		}
		s.pending.Resolve(err)
		if s.batch != nil {
			_ = s.batch.Close()
		}
	}
}

// A writer fills a Pebble batch with what a batch says about its object. What
// it reads are the object's own rows, and commits of one object come one after
// another.
type writer struct {
	db     *pebble.DB
	batch  *pebble.Batch
	o      storage.ObjectID
	prefix []byte
	space  [keyspace.PrefixLen]byte
}

func (w *writer) write(b *storage.Batch) error {
	if b.Wipe {
		if err := w.wipe(); err != nil {
			return err
		}
	}
	if b.Create != nil {
		if err := w.create(b.Create, b.Wipe); err != nil {
			return err
		}
	}
	if !b.Wipe {
		for _, r := range b.Drop {
			lo, hi := keyspace.AppendBounds(nil, nil, w.o, r)
			if err := w.deleteAll(lo, hi, nil); err != nil {
				return err
			}
		}
	}
	if err := w.put(b.Put); err != nil {
		return err
	}
	for _, k := range b.Del {
		op := w.batch.DeleteDeferred(keyspace.CallerLen + len(k))
		w.key(op.Key, k)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	for _, p := range b.Merge {
		op := w.batch.MergeDeferred(keyspace.CallerLen+len(p.Key), len(p.Val))
		w.key(op.Key, p.Key)
		copy(op.Value, p.Val)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	for _, t := range b.Timers {
		if err := w.timer(t.Kind, t.Due, b.Wipe); err != nil {
			return err
		}
	}
	return nil
}

// values are buffers for values on their way to Pebble.
var values = sync.Pool{New: func() any { return new([]byte) }}

// put writes whole values, S2-coded if that pays: the log and the memtable get
// them before Pebble compresses the blocks of its tables.
func (w *writer) put(pairs []storage.Pair) error {
	if len(pairs) == 0 {
		return nil
	}
	buf := values.Get().(*[]byte)
	defer values.Put(buf)
	for _, p := range pairs {
		var coded bool
		*buf, coded = patch.AppendShort((*buf)[:0], p.Val)
		size := 1 + len(p.Val)
		if coded {
			size = len(*buf)
		}
		op := w.batch.SetDeferred(keyspace.CallerLen+len(p.Key), size)
		w.key(op.Key, p.Key)
		if coded {
			copy(op.Value, *buf)
		} else {
			patch.AppendRaw(op.Value[:0], p.Val)
		}
		if err := op.Finish(); err != nil {
			return err
		}
	}
	return nil
}

// key writes the key of a caller's pair.
func (w *writer) key(dst, key []byte) {
	keyspace.AppendPair(dst[:0], w.prefix, key)
}

// wipe deletes the range of the object and what the indexes say of it.
func (w *writer) wipe() error {
	end := keyspace.AppendObjectEnd(nil, w.o)
	return w.deleteAll(w.prefix, end, func(k, stored []byte) error {
		_, what, kind, err := keyspace.CutRecord(k)
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
		}
		if what == keyspace.RecordPair {
			return nil
		}
		val, _, err := patch.Decode(stored)
		if err != nil {
			return readError(err)
		}
		if what == keyspace.RecordMeta {
			m, err := parseMeta(val)
			if err != nil {
				return err
			}
			return w.batch.Delete(keyspace.AppendName(nil, w.o, m.Name), nil)
		}
		due, err := parseTime(val)
		if err != nil {
			return err
		}
		return w.batch.Delete(keyspace.AppendTime(nil, due, w.o, kind), nil)
	})
}

// deleteAll deletes the keys of a range and calls f, if not nil, with those at
// its beginning.
func (w *writer) deleteAll(lo, hi []byte, f func(k, stored []byte) error) error {
	n := 0
	err := each(w.db, lo, hi, func(k, stored []byte) error {
		if n++; n > maxPointDeletes {
			return errStop
		}
		if f != nil {
			if err := f(k, stored); err != nil {
				return err
			}
		}
		return w.batch.Delete(k, nil)
	})
	if errors.Is(err, errStop) {
		return w.batch.DeleteRange(lo, hi, nil)
	}
	return err
}

func (w *writer) create(m *storage.Meta, wiped bool) error {
	key := keyspace.AppendMeta(nil, w.o)
	if !wiped {
		old, ok, err := getMeta(w.db, key)
		if err != nil {
			return err
		}
		if ok && old.Name != m.Name {
			if err := w.batch.Delete(keyspace.AppendName(nil, w.o, old.Name), nil); err != nil {
				return err
			}
		}
	}
	if err := w.batch.Set(key, appendMeta(nil, m), nil); err != nil {
		return err
	}
	return w.batch.Set(keyspace.AppendName(nil, w.o, m.Name), appendTime(nil, m.Created.UnixMilli()), nil)
}

func (w *writer) timer(kind uint8, due time.Time, wiped bool) error {
	row := keyspace.AppendTimer(nil, w.o, kind)
	if !wiped {
		val, ok, err := get(w.db, row)
		if err != nil {
			return err
		}
		if ok {
			old, err := parseTime(val)
			if err != nil {
				return err
			}
			if err := w.batch.Delete(keyspace.AppendTime(nil, old, w.o, kind), nil); err != nil {
				return err
			}
		}
	}
	if due.IsZero() {
		return w.batch.Delete(row, nil)
	}
	ms := keyspace.Due(due)
	if err := w.batch.Set(row, appendTime(nil, ms), nil); err != nil {
		return err
	}
	return w.batch.Set(keyspace.AppendTime(nil, ms, w.o, kind), patch.AppendRaw(nil, nil), nil)
}
