package actor

import (
	"context"
	"sync"

	"github.com/durable-go/durable/storage"
)

// A losingSession loses the next commit of a shard, and the shard with it, once
// it is armed. The shard can be claimed again.
type losingSession struct {
	storage.Session
	mu struct {
		sync.Mutex
		armed  bool
		claims map[storage.ShardID]storage.Shard // as the store gave them
	}
}

type losingShard struct {
	storage.Shard
	s    *losingSession
	done chan struct{}
}

// arm makes the next commit the one that is lost.
func (s *losingSession) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.armed = true
}

func (s *losingSession) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.claims == nil {
		claimed, err := s.Session.Claim(ctx, want)
		if err != nil {
			return nil, err
		}
		s.mu.claims = map[storage.ShardID]storage.Shard{}
		for _, shard := range claimed {
			s.mu.claims[shard.ID()] = shard
		}
	}
	var got []storage.Shard
	for _, id := range want {
		if shard, ok := s.mu.claims[id]; ok {
			got = append(got, &losingShard{shard, s, make(chan struct{})})
		}
	}
	return got, nil
}

func (s *losingShard) Done() <-chan struct{} { return s.done }

func (s *losingShard) Err() error {
	select {
	case <-s.done:
		return storage.ErrLost
	default:
		return s.Shard.Err()
	}
}

func (s *losingShard) Commit(b *storage.Batch) *storage.Pending {
	s.s.mu.Lock()
	lose := s.s.mu.armed
	s.s.mu.armed = false
	s.s.mu.Unlock()
	switch {
	case s.Err() != nil:
		return storage.ResolvedPending(storage.ErrLost)
	case !lose:
		return s.Shard.Commit(b)
	}
	p := storage.NewPending()
	go func() { // the turn ends before it learns of it
		close(s.done)
		p.Resolve(storage.ErrLost)
	}()
	return p
}
