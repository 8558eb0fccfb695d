// Package storagetest holds the tests that every engine passes.
//
// [Run] is the contract, case by case. [Random] runs random batches against a
// plain model. A [Ledger] is a workload that knows what a store may hold after a
// crash; the crash and fault suites of an engine are built from it.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/durable-go/durable/storage"
)

// A Harness is an empty store under test.
type Harness struct {
	Engine storage.Engine
	// Reopen ends the engine, or all its sessions, and returns an engine over
	// what was durable.
	Reopen func(t *testing.T) storage.Engine
	// Churn does some of the engine's upkeep, such as a flush. It may be nil.
	Churn func(t *testing.T, n int)
}

// Scale returns n, a quarter of it under -short, or n times the number in the
// environment variable STORAGETEST_SCALE.
func Scale(n int) int {
	if k, err := strconv.Atoi(os.Getenv("STORAGETEST_SCALE")); err == nil && k > 0 {
		return n * k
	}
	if testing.Short() {
		return max(1, n/4)
	}
	return n
}

// Run runs the cases of the contract, each on a harness of its own, which open
// returns and cleans up.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := open(t)
			f := &fixture{T: t, h: h, ctx: t.Context()}
			f.start(h.Engine)
			c.run(f)
		})
	}
}

var cases = []struct {
	name string
	run  func(*fixture)
}{
	{"info", testInfo},
	{"read your writes", testReadYourWrites},
	{"empty keys and values", testEmpty},
	{"buffers belong to the caller", testBuffers},
	{"scan", testScan},
	{"scan shows its beginning", testScanBeginning},
	{"objects do not mix", testObjectsApart},
	{"drop", testDrop},
	{"merge", testMerge},
	{"count of patches", testPatched},
	{"merge and lengths", testMergeLengths},
	{"merge after wipe and drop", testMergeAfterWipe},
	{"wipe", testWipe},
	{"wipe of a big object", testWipeBig},
	{"wipe and create", testWipeAndCreate},
	{"snapshot", testSnapshot},
	{"meta", testMeta},
	{"listing", testListing},
	{"types", testTypes},
	{"timers", testTimers},
	{"timers of other shards", testTimersElsewhere},
	{"limits", testLimits},
	{"invalid", testInvalid},
	{"big values", testBig},
	{"order", testOrder},
	{"concurrent", testConcurrent},
	{"claim", testClaim},
	{"release", testRelease},
	{"join again", testJoinAgain},
	{"second node", testSecondNode},
	{"leave", testLeave},
	{"reopen", testReopen},
	{"close", testClose},
}

// A fixture is one case under way: a session with helpers that fail the test.
type fixture struct {
	*testing.T
	h   Harness
	e   storage.Engine
	s   storage.Session
	typ storage.TypeID
	ctx context.Context
}

func (f *fixture) start(e storage.Engine) {
	f.Helper()
	f.e = e
	f.s = f.join("a")
	var err error
	f.typ, err = f.s.Type(f.ctx, "room")
	f.must(err)
}

func (f *fixture) reopen() {
	f.Helper()
	f.start(f.h.Reopen(f.T))
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) join(id storage.NodeID) storage.Session {
	f.Helper()
	s, err := f.e.Join(f.ctx, storage.Node{ID: id})
	f.must(err)
	return s
}

// object returns the nth object of the test.
func (f *fixture) object(n int) storage.ObjectID { return testObject(f.typ, n) }

func testObject(typ storage.TypeID, n int) storage.ObjectID {
	o := storage.ObjectID{Type: typ}
	o.ID[0], o.ID[1], o.ID[31] = byte(n>>8), byte(n), 0xFF
	return o
}

func (f *fixture) claim(id storage.ShardID) storage.Shard {
	f.Helper()
	return claimOf(f, f.s, id)
}

func claimOf(f *fixture, s storage.Session, id storage.ShardID) storage.Shard {
	f.Helper()
	got, err := s.Claim(f.ctx, []storage.ShardID{id})
	f.must(err)
	if len(got) != 1 || got[0].ID() != id {
		f.Fatalf("claim of shard %d returned %v", id, got)
	}
	return got[0]
}

// made returns the shard of an object that it makes, with some pairs.
func (f *fixture) made(o storage.ObjectID, pairs ...string) storage.Shard {
	f.Helper()
	sh := f.claim(o.Shard())
	f.commit(sh, &storage.Batch{Object: o, Create: created(""), Put: pairsOf(pairs...)})
	return sh
}

func (f *fixture) commit(sh storage.Shard, b *storage.Batch) {
	f.Helper()
	f.must(sh.Commit(b).Wait())
}

// refused commits a batch that must fail at once and leave the shard alive.
func (f *fixture) refused(sh storage.Shard, b *storage.Batch, want error) {
	f.Helper()
	ok, err := sh.Commit(b).Resolved()
	if !ok || !errors.Is(err, want) {
		f.Errorf("commit resolved %t with %v, want %v", ok, err, want)
	}
	if sh.Err() != nil {
		f.Errorf("shard after a refused commit: %v", sh.Err())
	}
}

func (f *fixture) wantGet(r storage.Reader, o storage.ObjectID, key, want string) {
	f.Helper()
	val, ok, err := r.Get(f.ctx, o, []byte(key))
	f.must(err)
	if !ok || string(val) != want {
		f.Errorf("get %q = %q, %t, want %q", key, clip(val), ok, clip([]byte(want)))
	}
}

func (f *fixture) wantNone(r storage.Reader, o storage.ObjectID, key string) {
	f.Helper()
	val, ok, err := r.Get(f.ctx, o, []byte(key))
	f.must(err)
	if ok {
		f.Errorf("get %q = %q, want none", key, clip(val))
	}
}

// wantScan compares a range with pairs, given as key, value, key, value, ….
func (f *fixture) wantScan(r storage.Reader, o storage.ObjectID, rng storage.Range, want ...string) {
	f.Helper()
	var got []string
	for p, err := range r.Scan(f.ctx, o, rng) {
		f.must(err)
		got = append(got, string(p.Key), string(p.Val))
	}
	if len(got) != len(want) {
		f.Errorf("scan of %q to %q: %q, want %q", rng.Lo, rng.Hi, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			f.Errorf("scan of %q to %q: %q, want %q", rng.Lo, rng.Hi, got, want)
			return
		}
	}
}

// wantLost checks that a handle is dead for good.
func (f *fixture) wantLost(sh storage.Shard, o storage.ObjectID) {
	f.Helper()
	select {
	case <-sh.Done():
	case <-time.After(10 * time.Second):
		f.Fatal("the shard is not done")
	}
	if sh.Err() == nil {
		f.Error("a lost shard has no error")
	}
	if err := sh.Commit(&storage.Batch{Object: o, Create: created("")}).Wait(); !errors.Is(err, storage.ErrLost) {
		f.Errorf("commit to a lost shard: %v", err)
	}
	if err := sh.Confirm(f.ctx); err == nil {
		f.Error("a lost shard is confirmed")
	}
}

func created(name string) *storage.Meta {
	return &storage.Meta{Name: name, Created: time.UnixMilli(1_700_000_000_123)}
}

func pairsOf(kv ...string) []storage.Pair {
	var pairs []storage.Pair
	for i := 0; i < len(kv); i += 2 {
		pairs = append(pairs, storage.Pair{Key: []byte(kv[i]), Val: []byte(kv[i+1])})
	}
	return pairs
}

func clip(b []byte) []byte {
	if len(b) > 40 {
		return append(bytes.Clone(b[:40]), "…"...)
	}
	return b
}
