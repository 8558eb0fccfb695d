// Package memkv keeps a store in memory, for tests. Many nodes can join one
// [Store], as they would join a database, and the test says what goes wrong
// between them and it:
//
//   - [Store.Pause]: commits are applied but do not become durable.
//   - [Store.Crash]: what is not durable is gone, and so is every session.
//   - [Store.Cut] and [Store.Heal]: a node loses contact, its lease runs out,
//     and what it sent arrives late.
//   - [Store.LoseAck]: a commit becomes durable but its node never hears of it.
//   - [Store.Fill]: the disk is full.
//
// Time comes from package time, so that a testing/synctest bubble moves leases.
// Objects are copied by each commit, so keep them to a few thousand keys. Patches
// are folded into the value at once, and counted as other engines count them.
package memkv

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/durable-go/durable/storage"
)

// Options tunes a store. The zero value is usable.
type Options struct {
	// Lease is how long a node without contact keeps its shards. Zero is for
	// ever, except that a [Store.Cut] ends the session at once.
	Lease time.Duration
	// CommitDelay is how long a commit takes to become durable. With zero it
	// is durable when Commit returns.
	CommitDelay time.Duration
}

// A Store is a store in memory; its zero value is not usable. See
// [storage.Engine] for its methods. They and those of its sessions, shards and
// snapshots may be called by several goroutines at once.
type Store struct {
	opts Options
	info storage.Info

	mu struct {
		sync.Mutex
		sessions map[storage.NodeID]*session
		owners   map[storage.ShardID]*shard
		fence    map[storage.ShardID]storage.Epoch // the latest epoch of each shard
		epoch    storage.Epoch
		types    map[string]storage.TypeID
		durable  map[storage.ShardID]objects

		queue  []*entry                    // applied and on the way to being durable
		held   map[storage.NodeID][]*entry // sent by nodes without contact
		timer  *time.Timer                 // runs when the queue is not empty
		paused bool
		full   bool
		deaf   map[storage.NodeID]int // how many acknowledgements are lost
		closed bool
	}
}

var _ storage.Engine = (*Store)(nil)

// New returns an empty store.
func New(opts Options) *Store {
	s := &Store{opts: opts}
	_, _ = rand.Read(s.info.Store[:])
	s.info.Format = 1
	s.info.MaxBatch = 64 << 20
	s.info.MaxValue = 4 << 20
	s.info.MaxKey = 4 << 10
	s.info.Shared = true
	s.info.CommitHint = opts.CommitDelay
	s.mu.sessions = map[storage.NodeID]*session{}
	s.mu.owners = map[storage.ShardID]*shard{}
	s.mu.fence = map[storage.ShardID]storage.Epoch{}
	s.mu.types = map[string]storage.TypeID{}
	s.mu.durable = map[storage.ShardID]objects{}
	s.mu.held = map[storage.NodeID][]*entry{}
	s.mu.deaf = map[storage.NodeID]int{}
	return s
}

// Info describes the store. It does not fail.
func (s *Store) Info(context.Context) (storage.Info, error) { return s.info, nil }

// Join makes the caller a member.
func (s *Store) Join(ctx context.Context, node storage.Node) (storage.Session, error) {
	if node.ID == "" {
		return nil, fmt.Errorf("%w: join without a node id", storage.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, storage.ErrClosed
	}
	if old := s.mu.sessions[node.ID]; old != nil {
		s.endSession(old, storage.ErrLost)
	}
	n := &session{store: s, node: node, done: make(chan struct{})}
	s.mu.sessions[node.ID] = n
	return n, nil
}

// Close makes durable what is applied, paused or not, and ends every session.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil
	}
	s.mu.closed, s.mu.paused = true, false
	s.land()
	for _, n := range s.mu.sessions {
		s.endSession(n, storage.ErrClosed)
	}
	clear(s.mu.held)
	return nil
}

// endSession ends a session with all its shards. What it has in the queue will
// never happen. The caller holds mu.
func (s *Store) endSession(n *session, err error) {
	if n.err != nil {
		return
	}
	n.err = err
	close(n.done)
	if n.expiry != nil {
		n.expiry.Stop()
	}
	if s.mu.sessions[n.node.ID] == n {
		delete(s.mu.sessions, n.node.ID)
	}
	for _, sh := range s.mu.owners {
		if sh.s == n {
			s.endShard(sh, err)
		}
	}
	// A commit that is on its way in the network can still arrive.
	for _, e := range s.mu.held[n.node.ID] {
		e.pending.Resolve(storage.ErrLost)
	}
}

// endShard gives a shard up. The caller holds mu.
func (s *Store) endShard(sh *shard, err error) {
	sh.end(err)
	if s.mu.owners[sh.id] == sh {
		delete(s.mu.owners, sh.id)
	}
	s.drop(func(e *entry) bool { return e.sh == sh })
}

// drop removes entries from the queue. The caller holds mu.
func (s *Store) drop(these func(*entry) bool) {
	kept := s.mu.queue[:0]
	for _, e := range s.mu.queue {
		if these(e) {
			e.pending.Resolve(storage.ErrLost)
		} else {
			kept = append(kept, e)
		}
	}
	clear(s.mu.queue[len(kept):])
	s.mu.queue = kept
}

// An entry is a commit on its way.
type entry struct {
	sh      *shard
	seq     int64 // counts the commits of a shard's handle
	id      storage.ObjectID
	after   *object // nil when the batch wiped it
	pending *storage.Pending
}

// push sends a commit on its way. The caller holds mu.
func (s *Store) push(e *entry) {
	if e.sh.s.cut {
		s.mu.held[e.sh.s.node.ID] = append(s.mu.held[e.sh.s.node.ID], e)
		return
	}
	s.mu.queue = append(s.mu.queue, e)
	switch {
	case s.mu.paused || s.mu.timer != nil:
	case s.opts.CommitDelay == 0:
		s.land()
	default:
		s.mu.timer = time.AfterFunc(s.opts.CommitDelay, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.mu.timer = nil
			s.land()
		})
	}
}

// land makes the queue durable, unless paused. The caller holds mu.
func (s *Store) land() {
	if s.mu.paused {
		return
	}
	if s.mu.timer != nil {
		s.mu.timer.Stop()
		s.mu.timer = nil
	}
	for len(s.mu.queue) > 0 {
		e := s.mu.queue[0]
		s.mu.queue = s.mu.queue[1:]
		if !s.accept(e) {
			e.pending.Resolve(storage.ErrLost)
			continue
		}
		if node := e.sh.s.node.ID; s.mu.deaf[node] > 0 {
			s.mu.deaf[node]--
			e.pending.Resolve(storage.ErrLost)
			s.endShard(e.sh, storage.ErrLost)
			continue
		}
		e.pending.Resolve(nil)
	}
}

// accept is the fence: it makes an entry durable, unless the shard has a newer
// epoch by now or the entry did arrive before. The caller holds mu.
func (s *Store) accept(e *entry) bool {
	sh := e.sh
	if s.mu.fence[sh.id] != sh.epoch || e.seq <= sh.landed {
		return false
	}
	sh.landed = e.seq
	of := s.mu.durable[sh.id]
	if of == nil {
		of = objects{}
		s.mu.durable[sh.id] = of
	}
	if e.after == nil {
		delete(of, e.id)
	} else {
		of[e.id] = e.after
	}
	if after, ok := sh.applied[e.id]; ok && after == e.after && sh.last[e.id] == e.seq {
		delete(sh.applied, e.id)
		delete(sh.last, e.id)
	}
	return true
}
