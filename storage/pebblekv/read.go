package pebblekv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

// enter lets a read into the engine; the caller leaves e.inside after nil.
func (e *Engine) enter() error {
	if e.dead() {
		return fmt.Errorf("%w: the store has failed", storage.ErrUnavailable)
	}
	if !e.inside.enter() {
		return storage.ErrClosed
	}
	return nil
}

// A reader reads the objects of one shard.
type reader struct {
	e     *Engine
	src   pebble.Reader // the database or a snapshot of it
	id    storage.ShardID
	alive func() error // nil means always
}

// begin is the head of every read.
func (r *reader) begin() error {
	if r.alive != nil {
		if err := r.alive(); err != nil {
			return err
		}
	}
	return r.e.enter()
}

// keys are buffers for keys on their way to Pebble.
var keys = sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }}

func (r *reader) Meta(_ context.Context, o storage.ObjectID) (m storage.Meta, ok bool, err error) {
	if err := r.begin(); err != nil {
		return m, false, err
	}
	defer r.e.inside.leave()
	buf := keys.Get().(*[]byte)
	defer keys.Put(buf)
	*buf = keyspace.AppendMeta((*buf)[:0], o)
	if err := r.check(*buf); err != nil {
		return m, false, err
	}
	return getMeta(r.src, *buf)
}

func (r *reader) Get(ctx context.Context, o storage.ObjectID, key []byte) (val []byte, ok bool, err error) {
	val, _, ok, err = r.GetPatched(ctx, o, key)
	return val, ok, err
}

func (r *reader) GetPatched(_ context.Context, o storage.ObjectID, key []byte) (val []byte, patches int, ok bool, err error) {
	if err := r.begin(); err != nil {
		return nil, 0, false, err
	}
	defer r.e.inside.leave()
	buf := keys.Get().(*[]byte)
	defer keys.Put(buf)
	*buf = keyspace.AppendKey((*buf)[:0], o, key)
	if err := r.check(*buf); err != nil {
		return nil, 0, false, err
	}
	return getPatched(r.src, *buf)
}

// check returns an error for a key of another shard.
func (r *reader) check(key []byte) error {
	if storage.ShardID(binary.BigEndian.Uint16(key)) != r.id {
		return fmt.Errorf("%w: the object is in another shard", storage.ErrInvalid)
	}
	return nil
}

func (r *reader) Scan(ctx context.Context, o storage.ObjectID, rng storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		if err := r.scan(ctx, o, rng, yield); err != nil {
			yield(storage.Pair{}, err)
		}
	}
}

func (r *reader) scan(ctx context.Context, o storage.ObjectID, rng storage.Range, yield func(storage.Pair, error) bool) (err error) {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.e.inside.leave()
	lo, hi := keyspace.AppendBounds(nil, nil, o, rng)
	if err := r.check(lo); err != nil {
		return err
	}
	it, err := r.src.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return readError(err)
	}
	defer func() { _ = it.Close() }()
	first, next := it.First, it.Next
	if rng.Reverse {
		first, next = it.Last, it.Prev
	}
	n := 0
	for ok := first(); ok; ok = next() {
		if n++; n%256 == 1 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		stored, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		size, err := patch.Len(stored)
		if err != nil {
			return readError(err)
		}
		key := it.Key()[keyspace.CallerLen:]
		buf, _, err := patch.AppendValue(append(make([]byte, 0, len(key)+size), key...), stored)
		if err != nil {
			return readError(err)
		}
		if !yield(storage.Pair{Key: buf[:len(key):len(key)], Val: buf[len(key):]}, nil) {
			return nil
		}
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// get returns the value of a key; it belongs to the caller.
func get(src pebble.Reader, key []byte) (val []byte, ok bool, err error) {
	val, _, ok, err = getPatched(src, key)
	return val, ok, err
}

// getPatched is get, and tells how many patches were merged into the value.
func getPatched(src pebble.Reader, key []byte) (val []byte, patches int, ok bool, err error) {
	stored, closer, err := src.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, 0, false, nil
	}
	if err != nil {
		return nil, 0, false, readError(err)
	}
	defer func() { _ = closer.Close() }()
	val, patches, err = patch.AppendValue(nil, stored)
	if err != nil {
		return nil, 0, false, readError(err)
	}
	return val, patches, true, nil
}

func getNumber(src pebble.Reader, key []byte, size int) (uint64, error) {
	val, _, err := get(src, key)
	if err != nil {
		return 0, err
	}
	if len(val) != size {
		return 0, fmt.Errorf("%w: number in the record of the store", storage.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(append(make([]byte, 8-size, 8), val...)), nil
}

func getMeta(src pebble.Reader, key []byte) (m storage.Meta, ok bool, err error) {
	val, ok, err := get(src, key)
	if err != nil || !ok {
		return m, false, err
	}
	m, err = parseMeta(val)
	return m, err == nil, err
}

// The record of an object holds the time of its first commit and its name. Times
// are stored as milliseconds since 1970.
func appendMeta(dst []byte, m *storage.Meta) []byte {
	return append(appendTime(dst, m.Created.UnixMilli()), m.Name...)
}

func parseMeta(val []byte) (m storage.Meta, err error) {
	if len(val) < 8 {
		return m, fmt.Errorf("%w: record of an object", storage.ErrCorrupt)
	}
	ms, _ := parseTime(val[:8])
	return storage.Meta{Name: string(val[8:]), Created: time.UnixMilli(ms)}, nil
}

func appendTime(dst []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(patch.AppendRaw(dst, nil), uint64(ms))
}

func parseTime(val []byte) (ms int64, err error) {
	if len(val) != 8 {
		return 0, fmt.Errorf("%w: stored time", storage.ErrCorrupt)
	}
	return int64(binary.BigEndian.Uint64(val)), nil
}

var errStop = errors.New("stop")

// each calls f with the keys and stored values of a range, until f fails. What
// it passes is good during the call only.
func each(src pebble.Reader, lo, hi []byte, f func(k, stored []byte) error) error {
	it, err := src.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return readError(err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		stored, err := it.ValueAndErr()
		if err != nil {
			return readError(err)
		}
		if err := f(it.Key(), stored); err != nil {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

// readError tells damage from a read that may work later.
func readError(err error) error {
	if pebble.IsCorruptionError(err) || errors.Is(err, patch.ErrCorrupt) {
		return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
	}
	return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
}
