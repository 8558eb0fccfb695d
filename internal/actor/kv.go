package actor

import (
	"context"
	"fmt"
	"iter"
	"slices"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// A kvReader is the reading half of a turn's key-value pairs, and all that a
// view has of them.
type kvReader turn

func (k *kvReader) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return (*turn)(k).get(ctx, key)
}

func (k *kvReader) GetMany(ctx context.Context, keys ...string) ([]durable.Entry, error) {
	return (*turn)(k).getMany(ctx, keys)
}

func (k *kvReader) List(ctx context.Context, opts ...durable.ListOption) iter.Seq2[durable.Entry, error] {
	return (*turn)(k).list(ctx, opts)
}

// A kvWriter is the [durable.KV] of a turn.
type kvWriter struct {
	*kvReader
	confirmed bool // its writes hold replies back
}

func (k *kvWriter) turn() *turn             { return (*turn)(k.kvReader) }
func (k *kvWriter) Unconfirmed() durable.KV { return &k.turn().unconfirmed }

func (k *kvWriter) Put(_ context.Context, key string, value []byte) error {
	return k.turn().put(key, value, k.confirmed)
}

func (k *kvWriter) PutMany(_ context.Context, entries ...durable.Entry) error {
	return k.turn().putMany(entries, k.confirmed)
}

func (k *kvWriter) Delete(ctx context.Context, key string) (bool, error) {
	n, err := k.turn().delete(ctx, []string{key}, k.confirmed)
	return n == 1, err
}

func (k *kvWriter) DeleteMany(ctx context.Context, keys ...string) (int, error) {
	return k.turn().delete(ctx, keys, k.confirmed)
}

func (t *turn) get(ctx context.Context, key string) ([]byte, bool, error) {
	if err := t.checkKey("get", key); err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	if err := t.live(); err != nil {
		t.mu.Unlock()
		return nil, false, err
	}
	value, known := t.overlay.get(key)
	t.mu.Unlock()
	if known {
		return slices.Clone(value), value != nil, nil
	}
	value, ok, err := t.act.shard.Get(ctx, t.o.id, kvKey(key))
	if err != nil {
		return nil, false, readFailed("get", err)
	}
	t.mu.Lock()
	err = t.live() // the turn may have ended meanwhile, and the next one written
	t.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	return value, ok, nil
}

func (t *turn) getMany(ctx context.Context, keys []string) ([]durable.Entry, error) {
	if err := t.checkCount("get", len(keys)); err != nil {
		return nil, err
	}
	keys = slices.Clone(keys)
	slices.Sort(keys)
	var entries []durable.Entry
	for _, key := range slices.Compact(keys) {
		value, ok, err := t.get(ctx, key)
		if err != nil {
			return nil, err
		}
		if ok {
			entries = append(entries, durable.Entry{Key: key, Value: value})
		}
	}
	return entries, nil
}

func (t *turn) put(key string, value []byte, confirmed bool) error {
	if err := t.checkEntry(key, value); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	return t.write(key, append(make([]byte, 0, len(value)), value...), confirmed)
}

func (t *turn) putMany(entries []durable.Entry, confirmed bool) error {
	if err := t.checkCount("put", len(entries)); err != nil {
		return err
	}
	size := 0
	for _, e := range entries {
		if err := t.checkEntry(e.Key, e.Value); err != nil {
			return err
		}
		size += 1 + len(e.Key) + len(e.Value)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if err := t.checkSize("put", size); err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.write(e.Key, append(make([]byte, 0, len(e.Value)), e.Value...), confirmed); err != nil {
			return err
		}
	}
	return nil
}

// write puts a value that it owns into the overlay, or nil to delete. The
// caller holds mu.
func (t *turn) write(key string, value []byte, confirmed bool) error {
	what := "put"
	if value == nil {
		what = "delete"
	}
	if err := t.checkSize(what, 1+len(key)+len(value)); err != nil {
		return err
	}
	t.overlay.set(key, value, confirmed, len(t.levels) > 0)
	return nil
}

func (t *turn) delete(ctx context.Context, keys []string, confirmed bool) (int, error) {
	if err := t.checkCount("delete", len(keys)); err != nil {
		return 0, err
	}
	for _, key := range keys {
		if err := t.checkKey("delete", key); err != nil {
			return 0, err
		}
	}
	// Look first and delete then, so that a failed read deletes nothing.
	found, err := t.getMany(ctx, keys)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return 0, err
	}
	size := 0
	for _, e := range found {
		size += 1 + len(e.Key)
	}
	if err := t.checkSize("delete", size); err != nil {
		return 0, err
	}
	for _, e := range found {
		if err := t.write(e.Key, nil, confirmed); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}

func (t *turn) list(ctx context.Context, opts []durable.ListOption) iter.Seq2[durable.Entry, error] {
	return func(yield func(durable.Entry, error) bool) {
		var o durable.ListOptions
		for _, opt := range opts {
			opt(&o)
		}
		lo, hi, bounded, err := o.Range()
		t.mu.Lock()
		if lerr := t.live(); lerr != nil {
			err = lerr
		}
		if err != nil {
			t.mu.Unlock()
			yield(durable.Entry{}, fmt.Errorf("list: %w", err))
			return
		}
		if bounded && lo >= hi {
			t.mu.Unlock()
			return
		}
		l := lister{t: t, stint: t.stint, left: o.Limit, limited: o.Limit > 0, yield: yield}
		l.written = t.overlay.sorted(lo, hi, bounded, o.Reverse)
		l.reverse = o.Reverse
		wiped := t.overlay.wiped
		t.mu.Unlock()

		r := storage.Range{Lo: kvKey(lo), Hi: []byte{spaceKV + 1}, Reverse: o.Reverse}
		if bounded {
			r.Hi = kvKey(hi)
		}
		if !wiped {
			for pair, err := range t.act.shard.Scan(ctx, t.o.id, r) {
				if err != nil {
					yield(durable.Entry{}, readFailed("list", err))
					return
				}
				if !l.stored(durable.Entry{Key: string(pair.Key[1:]), Value: pair.Val}) {
					return
				}
			}
		}
		l.rest()
	}
}

// A lister merges what is stored with what the turn wrote.
type lister struct {
	t       *turn
	stint   int
	written []durable.Entry // what is left of the overlay, nil values deleted
	reverse bool
	limited bool
	left    int
	yield   func(durable.Entry, error) bool
}

// stored takes the next stored pair. It returns false to stop.
func (l *lister) stored(e durable.Entry) bool {
	for len(l.written) > 0 {
		w := l.written[0]
		if w.Key == e.Key {
			l.written = l.written[1:]
			return l.emitWritten(w)
		}
		if (w.Key > e.Key) != l.reverse {
			break
		}
		l.written = l.written[1:]
		if !l.emitWritten(w) {
			return false
		}
	}
	return l.emit(e)
}

// rest lists what was written beyond the last stored pair.
func (l *lister) rest() {
	for _, w := range l.written {
		if !l.emitWritten(w) {
			return
		}
	}
}

func (l *lister) emitWritten(w durable.Entry) bool {
	if w.Value == nil {
		return true // deleted
	}
	return l.emit(durable.Entry{Key: w.Key, Value: append([]byte{}, w.Value...)})
}

func (l *lister) emit(e durable.Entry) bool {
	l.t.mu.Lock()
	err := l.t.live()
	if err == nil && l.t.stint != l.stint {
		err = durable.ErrTxDone // the turn was left meanwhile
	}
	l.t.mu.Unlock()
	if err != nil {
		l.yield(durable.Entry{}, fmt.Errorf("list: %w", err))
		return false
	}
	if !l.yield(e, nil) {
		return false
	}
	l.left--
	return !l.limited || l.left > 0
}

func (t *turn) checkCount(what string, n int) error {
	if limit := t.o.typ.Limits.MaxBatchKeys; n > limit {
		return fmt.Errorf("%s: %w", what, &durable.LimitError{Name: "keys in one call", Max: int64(limit), Actual: int64(n)})
	}
	return nil
}

func (t *turn) checkKey(what, key string) error {
	if limit := t.o.typ.Limits.MaxKeyBytes; len(key) > limit {
		return fmt.Errorf("%s: %w", what, &durable.LimitError{Name: "key bytes", Max: int64(limit), Actual: int64(len(key))})
	}
	return nil
}

func (t *turn) checkEntry(key string, value []byte) error {
	if err := t.checkKey("put", key); err != nil {
		return err
	}
	if value == nil {
		return fmt.Errorf("put: %w: the value is nil", durable.ErrInvalidArgument)
	}
	if limit := t.o.typ.Limits.MaxValueBytes; len(value) > limit {
		return fmt.Errorf("put: %w", &durable.LimitError{Name: "value bytes", Max: int64(limit), Actual: int64(len(value))})
	}
	return nil
}

// reservedBytes is how much of a commit is for what the runtime adds to it. A
// reply that is remembered may need more: then the commit fails.
const reservedBytes = 1 << 10

// checkSize refuses n more bytes than one commit can take. The caller holds mu.
func (t *turn) checkSize(what string, n int) error {
	if limit := t.o.host.info.MaxBatch - reservedBytes; limit > 0 && t.overlay.bytes+n > limit {
		return fmt.Errorf("%s: %w", what, &durable.LimitError{Name: "bytes written in one commit", Max: int64(limit), Actual: int64(t.overlay.bytes + n)})
	}
	return nil
}
