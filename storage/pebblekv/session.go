package pebblekv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

type session struct {
	e    *Engine
	node storage.Node
	done chan struct{}
	err  error // guarded by e.mu
}

// An objectType is a number given out, and when that became durable.
type objectType struct {
	id      storage.TypeID
	durable *storage.Pending
}

// Lease: nobody else can have the folder.
func (s *session) Lease() time.Time { return time.Time{} }

func (s *session) Done() <-chan struct{} { return s.done }

func (s *session) Err() error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	return s.err
}

func (s *session) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, id := range want {
		if id >= storage.Shards {
			return nil, fmt.Errorf("%w: claim of shard %d", storage.ErrInvalid, id)
		}
	}
	e := s.e
	e.mu.Lock()
	if s.err != nil {
		defer e.mu.Unlock()
		return nil, s.err
	}
	var got []storage.Shard
	for _, id := range want {
		if e.mu.owners[id] == nil {
			sh := &shard{reader: reader{e: e, src: e.db, id: id}, s: s, epoch: e.mu.epoch + 1, done: make(chan struct{})}
			sh.reader.alive = sh.alive
			e.mu.owners[id] = sh
			got = append(got, sh)
		}
	}
	if len(got) == 0 {
		e.mu.Unlock()
		return nil, nil
	}
	raised := e.raiseEpoch()
	e.mu.Unlock()
	// Earlier commits stand before this one in the log.
	if err := raised.Wait(); err != nil {
		return nil, e.lost()
	}
	return got, nil
}

// raiseEpoch starts to store the next epoch. The caller holds mu.
func (e *Engine) raiseEpoch() *storage.Pending {
	e.mu.epoch++
	b := e.db.NewBatch()
	_ = b.Set(keyspace.Epoch, patch.AppendRaw(nil, binary.BigEndian.AppendUint64(nil, uint64(e.mu.epoch))), nil)
	return e.apply(b, storage.NewPending())
}

func (s *session) Type(ctx context.Context, name string) (storage.TypeID, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if name == "" {
		return 0, fmt.Errorf("%w: object type without a name", storage.ErrInvalid)
	}
	if len(name) > maxKey {
		return 0, &storage.LimitError{What: "name bytes", Max: maxKey, Actual: int64(len(name)), Err: storage.ErrTooLarge}
	}
	e := s.e
	e.mu.Lock()
	if s.err != nil {
		defer e.mu.Unlock()
		return 0, s.err
	}
	t := e.mu.types[name]
	if t == nil {
		t = &objectType{id: e.mu.next}
		e.mu.next++
		b := e.db.NewBatch()
		_ = b.Set(keyspace.AppendType(nil, name), patch.AppendRaw(nil, number4(t.id)), nil)
		_ = b.Set(keyspace.NextType, patch.AppendRaw(nil, number4(e.mu.next)), nil)
		t.durable = e.apply(b, storage.NewPending())
		e.mu.types[name] = t
	}
	e.mu.Unlock()
	if err := t.durable.Wait(); err != nil {
		return 0, e.lost()
	}
	return t.id, nil
}

func number4(id storage.TypeID) []byte { return binary.BigEndian.AppendUint32(nil, uint32(id)) }

func (s *session) Types(context.Context) (map[string]storage.TypeID, error) {
	e := s.e
	e.mu.Lock()
	if s.err != nil {
		defer e.mu.Unlock()
		return nil, s.err
	}
	types := maps.Clone(e.mu.types)
	e.mu.Unlock()
	all := make(map[string]storage.TypeID, len(types))
	for name, t := range types {
		if t.durable.Wait() != nil {
			return nil, e.lost()
		}
		all[name] = t.id
	}
	return all, nil
}

func (s *session) Objects(ctx context.Context, q storage.ObjectQuery) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		lo, hi := keyspace.Names(q)
		s.index(ctx, lo, hi, func(k, stored []byte) (bool, error) {
			o, name, err := keyspace.CutName(k)
			if err != nil {
				return false, err
			}
			val, _, err := patch.Decode(stored)
			if err != nil {
				return false, err
			}
			created, err := parseTime(val)
			if err != nil {
				return false, err
			}
			m := storage.Meta{Name: name, Created: time.UnixMilli(created)}
			return yield(storage.Object{ObjectID: o, Meta: m}, nil), nil
		}, func(err error) { yield(storage.Object{}, err) })
	}
}

func (s *session) Timers(ctx context.Context, until time.Time) iter.Seq2[storage.Timer, error] {
	return func(yield func(storage.Timer, error) bool) {
		lo, hi := keyspace.Times(until)
		s.index(ctx, lo, hi, func(k, _ []byte) (bool, error) {
			t, err := keyspace.CutTime(k)
			if err != nil {
				return false, err
			}
			if !s.owns(t.Object.Shard()) {
				return true, nil
			}
			return yield(t, nil), nil
		}, func(err error) { yield(storage.Timer{}, err) })
	}
}

// index walks an index until f says no, and calls fail with what went wrong.
func (s *session) index(ctx context.Context, lo, hi []byte, f func(k, stored []byte) (bool, error), fail func(error)) {
	e := s.e
	if err := s.Err(); err != nil {
		fail(err)
		return
	}
	if err := e.enter(); err != nil {
		fail(err)
		return
	}
	defer e.inside.leave()
	n := 0
	err := each(e.db, lo, hi, func(k, stored []byte) error {
		if n++; n%256 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		more, err := f(k, stored)
		if err != nil {
			return fmt.Errorf("%w: index: %w", storage.ErrCorrupt, err)
		}
		if !more {
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		fail(err)
	}
}

func (s *session) owns(id storage.ShardID) bool {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	sh := s.e.mu.owners[id]
	return sh != nil && sh.s == s
}

// Leave releases every shard and ends the session.
func (s *session) Leave(context.Context) error {
	e := s.e
	e.mu.Lock()
	if s.err != nil {
		defer e.mu.Unlock()
		return s.err
	}
	e.endSession(storage.ErrClosed)
	settled := e.barrier()
	e.mu.Unlock()
	if settled.Wait() != nil {
		return e.lost()
	}
	return nil
}
