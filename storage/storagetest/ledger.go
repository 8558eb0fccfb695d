package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/google/go-cmp/cmp"

	"github.com/durable-go/durable/storage"
)

// A Ledger is a workload that knows what it asked a store to do and what the
// store has acknowledged. After a crash it tells whether the store kept its
// word: in each shard, all that was acknowledged is there, nothing is there by
// half, and of the rest there is a prefix.
//
// Its methods may be called by several goroutines, but [Ledger.Run] only once.
type Ledger struct {
	r *rand.Rand

	mu struct {
		sync.Mutex
		typ     storage.TypeID
		commits map[storage.ShardID][]ledgerCommit
	}
}

type ledgerCommit struct {
	batch   *storage.Batch
	pending *storage.Pending
}

// A Mark is what was acknowledged at one moment.
type Mark struct {
	typ     storage.TypeID
	commits map[storage.ShardID]int // how many of each shard
}

// NewLedger returns a workload that depends on the seed alone.
func NewLedger(seed uint64) *Ledger {
	l := &Ledger{r: rand.New(rand.NewPCG(seed, 1))}
	l.mu.commits = map[storage.ShardID][]ledgerCommit{}
	return l
}

const ledgerType = "ledger"

// Run joins the store and commits so many random batches, waiting for some and
// not for others, then for all. It stops at the first that does not succeed and
// returns the error. between, if not nil, is called before each commit.
func (l *Ledger) Run(ctx context.Context, e storage.Engine, commits int, between func(n int)) error {
	s, err := e.Join(ctx, storage.Node{ID: "ledger"})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	typ, err := s.Type(ctx, ledgerType)
	if err != nil {
		return fmt.Errorf("type: %w", err)
	}
	l.mu.Lock()
	l.mu.typ = typ
	l.mu.Unlock()
	ids := objectIDs(typ, 4)
	shards, err := claimAll(ctx, s, ids)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	m := model{}
	var all []*storage.Pending
	for n := range commits {
		if between != nil {
			between(n)
		}
		b := randomBatch(l.r, m, ids)
		m.apply(b)
		p := l.commit(shards[b.Object.Shard()], b)
		all = append(all, p)
		if l.r.IntN(4) == 0 {
			if err := p.Wait(); err != nil {
				break
			}
		}
	}
	var failed error
	for _, p := range all {
		err := p.Wait()
		switch {
		case err == nil && failed != nil:
			return errors.New("a commit was acknowledged after one before it had failed")
		case err != nil && failed == nil:
			failed = err
		}
	}
	if failed != nil {
		if !errors.Is(failed, storage.ErrLost) {
			return fmt.Errorf("a commit resolved to %w, which is not ErrLost", failed)
		}
		return failed
	}
	return s.Leave(ctx)
}

// commit records a batch and then commits it, so that no crash in between goes
// unnoticed.
func (l *Ledger) commit(sh storage.Shard, b *storage.Batch) *storage.Pending {
	p := storage.NewPending()
	l.mu.Lock()
	i := len(l.mu.commits[sh.ID()])
	l.mu.commits[sh.ID()] = append(l.mu.commits[sh.ID()], ledgerCommit{b, p})
	l.mu.Unlock()
	p = sh.Commit(b)
	l.mu.Lock()
	l.mu.commits[sh.ID()][i].pending = p
	l.mu.Unlock()
	return p
}

// Mark returns what is acknowledged by now. Take it before the crash.
func (l *Ledger) Mark() Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	mark := Mark{typ: l.mu.typ, commits: map[storage.ShardID]int{}}
	for id, commits := range l.mu.commits {
		for n, c := range commits {
			if ok, err := c.pending.Resolved(); ok && err == nil {
				mark.commits[id] = n + 1
			}
		}
	}
	return mark
}

// Check compares a store that was opened after a crash with what the ledger
// knows.
func (l *Ledger) Check(ctx context.Context, e storage.Engine, mark Mark) error {
	s, err := e.Join(ctx, storage.Node{ID: "ledger"})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	types, err := s.Types(ctx)
	if err != nil {
		return fmt.Errorf("types: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	typ, ok := types[ledgerType]
	if !ok && mark.typ == 0 {
		return s.Leave(ctx) // the workload had not begun
	}
	if typ != l.mu.typ && l.mu.typ != 0 {
		return fmt.Errorf("the object type has number %d, was %d", typ, l.mu.typ)
	}
	ids := objectIDs(typ, 4)
	shards, err := claimAll(ctx, s, ids)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	got, err := read(ctx, s, shards, ids)
	if err != nil {
		return err
	}
	for id := range shards {
		if err := l.checkShard(id, got.dump(&id), mark.commits[id]); err != nil {
			return err
		}
	}
	return s.Leave(ctx)
}

// checkShard looks for the prefix of the commits that leads to the state. The
// caller holds mu.
func (l *Ledger) checkShard(id storage.ShardID, got string, acknowledged int) error {
	commits := l.mu.commits[id]
	m := model{}
	var want string
	for n := range len(commits) + 1 {
		if n > 0 {
			m.apply(commits[n-1].batch)
		}
		state := m.dump(nil)
		if n < acknowledged {
			continue
		}
		if n == acknowledged {
			want = state
		}
		if state == got {
			return nil
		}
	}
	return fmt.Errorf("shard %d matches no state from commit %d, which was acknowledged, to %d (-acknowledged +store):\n%s",
		id, acknowledged, len(commits), cmp.Diff(want, got))
}
