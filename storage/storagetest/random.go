package storagetest

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/durable-go/durable/storage"
)

// Random runs random batches, reads, held snapshots, upkeep and reopening on an
// empty store and compares it with a model all along. It logs the seed; the
// environment variable STORAGETEST_SEED replays it.
func Random(t *testing.T, open func(t *testing.T) Harness, steps int) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("STORAGETEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("STORAGETEST_SEED=%d", seed)
	h := open(t)
	w := &walk{fixture: &fixture{T: t, h: h, ctx: t.Context()}, r: rand.New(rand.NewPCG(seed, 0)), m: model{}}
	w.start(h.Engine)
	w.ids = objectIDs(w.typ, 6)
	w.claimAll()
	for range steps {
		w.step()
		if t.Failed() {
			t.FailNow()
		}
	}
	w.compare()
	w.reopen()
	w.claimAll()
	w.compare()
}

// A walk is a random run.
type walk struct {
	*fixture
	r      *rand.Rand
	m      model
	ids    []storage.ObjectID
	shards map[storage.ShardID]storage.Shard
	held   []heldSnapshot
	last   *storage.Pending
}

type heldSnapshot struct {
	storage.Snapshot
	shard storage.ShardID
	m     model
}

func (w *walk) claimAll() {
	w.Helper()
	var err error
	w.shards, err = claimAll(w.ctx, w.s, w.ids)
	w.must(err)
}

func (w *walk) step() {
	switch n := w.r.IntN(100); {
	case n < 55:
		b := randomBatch(w.r, w.m, w.ids)
		w.last = w.shards[b.Object.Shard()].Commit(b)
		w.m.apply(b)
		if ok, err := w.last.Resolved(); ok && err != nil {
			w.Fatalf("commit %+v: %v", b, err)
		}
	case n < 80:
		id := w.ids[w.r.IntN(len(w.ids))]
		w.check(w.shards[id.Shard()], id, w.m)
	case n < 86:
		w.snapshots()
	case n < 92:
		if w.last != nil {
			w.must(w.last.Wait())
		}
	case n < 95:
		if w.h.Churn != nil {
			w.h.Churn(w.T, w.r.IntN(2))
		}
	case n < 99:
		w.compare()
	default:
		if w.r.IntN(3) > 0 {
			return
		}
		if w.last != nil {
			w.must(w.last.Wait())
		}
		for _, snap := range w.held {
			snap.Close()
		}
		w.held = nil
		w.reopen()
		w.claimAll()
	}
}

// check reads an object by key and by range.
func (w *walk) check(r storage.Reader, id storage.ObjectID, m model) {
	w.Helper()
	pairs, patches := map[string]string{}, map[string]int{}
	if o := m[id]; o != nil {
		pairs, patches = o.pairs, o.patches
	}
	key := randomKey(w.r)
	if want, ok := pairs[string(key)]; ok {
		w.wantPatched(r, id, string(key), want, patches[string(key)])
	} else {
		w.wantNone(r, id, string(key))
	}
	rng := randomRange(w.r)
	var keys []string
	for k := range pairs {
		if (rng.Lo == nil || k >= string(rng.Lo)) && (rng.Hi == nil || k < string(rng.Hi)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if rng.Reverse {
		slices.Reverse(keys)
	}
	var want []string
	for _, k := range keys {
		want = append(want, k, pairs[k])
	}
	w.wantScan(r, id, rng, want...)
}

// snapshots takes a snapshot, or reads one that is held and perhaps closes it.
func (w *walk) snapshots() {
	w.Helper()
	if len(w.held) < 3 {
		sh := w.shards[w.ids[w.r.IntN(len(w.ids))].Shard()]
		snap, err := sh.Snapshot(w.ctx)
		w.must(err)
		w.held = append(w.held, heldSnapshot{snap, sh.ID(), w.m.clone()})
		return
	}
	i := w.r.IntN(len(w.held))
	snap := w.held[i]
	for _, id := range w.ids {
		if id.Shard() == snap.shard {
			w.check(snap, id, snap.m)
		}
	}
	if w.r.IntN(2) == 0 {
		snap.Close()
		w.held = slices.Delete(w.held, i, i+1)
	}
}

func (w *walk) compare() {
	w.Helper()
	got, err := read(w.ctx, w.s, w.shards, w.ids)
	w.must(err)
	if d := cmp.Diff(w.m.dump(nil), got.dump(nil)); d != "" {
		w.Fatalf("the store differs from the model (-model +store):\n%s", d)
	}
}
