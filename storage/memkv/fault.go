package memkv

import (
	"time"

	"github.com/durable-go/durable/storage"
)

// Pause keeps commits from becoming durable until [Store.Resume]. They are
// applied all the same.
func (s *Store) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.paused = true
}

// Resume ends a [Store.Pause]; all commits that waited are durable when it
// returns.
func (s *Store) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.paused = false
	s.land()
}

// Crash loses what is not durable, and every session with it. The store itself
// goes on: nodes may join again.
func (s *Store) Crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(func(*entry) bool { return true })
	for _, n := range s.mu.sessions {
		s.endSession(n, storage.ErrLost)
	}
	clear(s.mu.held)
}

// Cut takes a node's contact with the store. Its reads fail, its commits are
// held in the network, and when its lease has run out its session ends and its
// shards are free.
func (s *Store) Cut(node storage.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.mu.sessions[node]
	if n == nil || n.cut {
		return
	}
	n.cut = true
	kept := s.mu.queue[:0]
	for _, e := range s.mu.queue {
		if e.sh.s == n {
			s.mu.held[node] = append(s.mu.held[node], e)
		} else {
			kept = append(kept, e)
		}
	}
	s.mu.queue = kept
	if s.opts.Lease == 0 {
		s.endSession(n, storage.ErrLost)
		return
	}
	n.lease = time.Now().Add(s.opts.Lease)
	n.expiry = time.AfterFunc(s.opts.Lease, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n.cut {
			s.endSession(n, storage.ErrLost)
		}
	})
}

// Heal gives a node its contact back and delivers the commits that were held.
// It returns how many of them became durable and how many the fence refused,
// because the shard has a newer owner or the commit was there before. A commit
// that arrives after the lease has run out may become durable although its node
// saw [storage.ErrLost].
func (s *Store) Heal(node storage.NodeID) (landed, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.mu.sessions[node]; n != nil && n.cut {
		n.cut = false
		n.expiry.Stop()
	}
	held := s.mu.held[node]
	delete(s.mu.held, node)
	for _, e := range held {
		if s.accept(e) {
			landed++
			e.pending.Resolve(nil)
		} else {
			refused++
			e.pending.Resolve(storage.ErrLost)
		}
	}
	return landed, refused
}

// LoseAck makes the next commit of a node become durable without the node
// hearing of it: it sees [storage.ErrLost] and the shard is lost.
func (s *Store) LoseAck(node storage.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.deaf[node]++
}

// Resend lets the latest commit of a shard arrive once more, as a message that
// was sent twice would. It reports whether the store let it in, which is a bug.
func (s *Store) Resend(of storage.Shard) bool {
	sh := of.(*shard)
	s.mu.Lock()
	defer s.mu.Unlock()
	return sh.latest != nil && sh.latest.seq <= sh.landed && s.accept(sh.latest)
}

// Fill makes the disk full, so that commits resolve to [storage.ErrNoSpace], or
// ends that state.
func (s *Store) Fill(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.full = full
}
