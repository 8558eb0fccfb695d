package memkv

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"sort"
	"strings"
	"time"

	"github.com/durable-go/durable/storage"
)

type session struct {
	store *Store
	node  storage.Node
	done  chan struct{}

	// Guarded by the store's mu.
	err    error
	cut    bool
	lease  time.Time   // when the lease runs out, while cut
	expiry *time.Timer // ends the session then
}

// Lease is extended all the time while the node has contact.
func (n *session) Lease() time.Time {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.opts.Lease == 0:
		return time.Time{}
	case n.cut:
		return n.lease
	}
	return time.Now().Add(s.opts.Lease)
}

func (n *session) Done() <-chan struct{} { return n.done }

func (n *session) Err() error {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	return n.err
}

// usable returns nil when the session can talk to the store. The caller holds
// mu.
func (n *session) usable() error {
	if n.err != nil {
		return n.err
	}
	if n.cut {
		return storage.ErrUnavailable
	}
	return nil
}

func (n *session) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, id := range want {
		if id >= storage.Shards {
			return nil, fmt.Errorf("%w: claim of shard %d", storage.ErrInvalid, id)
		}
	}
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.usable(); err != nil {
		return nil, err
	}
	var got []storage.Shard
	for _, id := range want {
		if s.mu.owners[id] != nil {
			continue
		}
		if len(got) == 0 {
			s.mu.epoch++
		}
		sh := &shard{
			s: n, id: id, epoch: s.mu.epoch, done: make(chan struct{}),
			applied: objects{}, last: map[storage.ObjectID]int64{},
		}
		s.mu.owners[id] = sh
		s.mu.fence[id] = sh.epoch
		got = append(got, sh)
	}
	return got, nil
}

func (n *session) Type(ctx context.Context, name string) (storage.TypeID, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s := n.store
	if name == "" {
		return 0, fmt.Errorf("%w: object type without a name", storage.ErrInvalid)
	}
	if limit := s.info.MaxKey; len(name) > limit {
		return 0, &storage.LimitError{What: "name bytes", Max: int64(limit), Actual: int64(len(name)), Err: storage.ErrTooLarge}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.usable(); err != nil {
		return 0, err
	}
	id, ok := s.mu.types[name]
	if !ok {
		id = storage.TypeID(len(s.mu.types) + 1)
		s.mu.types[name] = id
	}
	return id, nil
}

func (n *session) Types(context.Context) (map[string]storage.TypeID, error) {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.usable(); err != nil {
		return nil, err
	}
	return maps.Clone(s.mu.types), nil
}

// view returns the objects of a shard as this session sees them: with what it
// has applied. The caller holds mu.
func (n *session) view(id storage.ShardID) objects {
	s := n.store
	all := maps.Clone(s.mu.durable[id])
	if sh := s.mu.owners[id]; sh != nil && sh.s == n {
		all = sh.view()
	}
	return all
}

func (n *session) Objects(ctx context.Context, q storage.ObjectQuery) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		found, err := n.objects(q)
		for _, o := range found {
			if err = ctx.Err(); err != nil || !yield(o, nil) {
				break
			}
		}
		if err != nil {
			yield(storage.Object{}, err)
		}
	}
}

func (n *session) objects(q storage.ObjectQuery) ([]storage.Object, error) {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.usable(); err != nil {
		return nil, err
	}
	after := func(storage.Object) bool { return true }
	if q.After != nil {
		after = func(o storage.Object) bool { return less(*q.After, o) }
	}
	var found []storage.Object
	for id := range storage.ShardID(storage.Shards) {
		for oid, obj := range n.view(id) {
			if oid.Type != q.Type || obj == nil || obj.meta == nil {
				continue
			}
			o := storage.Object{ObjectID: oid, Meta: *obj.meta}
			if strings.HasPrefix(o.Name, q.Prefix) && after(o) {
				found = append(found, o)
			}
		}
	}
	sort.Slice(found, func(i, j int) bool { return less(found[i], found[j]) })
	return found, nil
}

// less is the order of a listing: by name, then id.
func less(a, b storage.Object) bool {
	if a.Name != b.Name {
		return a.Name < b.Name
	}
	return string(a.ID[:]) < string(b.ID[:])
}

func (n *session) Timers(ctx context.Context, until time.Time) iter.Seq2[storage.Timer, error] {
	return func(yield func(storage.Timer, error) bool) {
		due, err := n.timers(until)
		for _, t := range due {
			if err = ctx.Err(); err != nil || !yield(t, nil) {
				break
			}
		}
		if err != nil {
			yield(storage.Timer{}, err)
		}
	}
}

func (n *session) timers(until time.Time) ([]storage.Timer, error) {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.usable(); err != nil {
		return nil, err
	}
	var due []storage.Timer
	for _, sh := range s.mu.owners {
		if sh.s != n {
			continue
		}
		for id, o := range sh.view() {
			for kind, at := range o.timers {
				if !at.After(until) {
					due = append(due, storage.Timer{Object: id, Kind: kind, Due: at})
				}
			}
		}
	}
	sortTimers(due)
	return due, nil
}

// Leave waits for pending commits.
func (n *session) Leave(ctx context.Context) error {
	s := n.store
	s.mu.Lock()
	if n.err != nil {
		defer s.mu.Unlock()
		return n.err
	}
	var shards []*shard
	for _, sh := range s.mu.owners {
		if sh.s == n {
			shards = append(shards, sh)
		}
	}
	s.mu.Unlock()
	var err error
	for _, sh := range shards {
		if e := sh.Release(ctx); err == nil {
			err = e
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endSession(n, storage.ErrClosed)
	return err
}
