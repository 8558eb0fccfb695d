package storagetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/durable-go/durable/storage"
)

func testLimits(f *fixture) {
	info, err := f.e.Info(f.ctx)
	f.must(err)
	o := f.object(1)
	sh := f.made(o)
	key, val := make([]byte, info.MaxKey), make([]byte, info.MaxValue)
	put := func(k, v []byte) *storage.Batch {
		return &storage.Batch{Object: o, Put: []storage.Pair{{Key: k, Val: v}}}
	}
	f.refused(sh, put(append(key, 0), nil), storage.ErrTooLarge)
	f.refused(sh, put(nil, append(val, 0)), storage.ErrTooLarge)
	f.refused(sh, &storage.Batch{Object: o, Del: [][]byte{append(key, 0)}}, storage.ErrTooLarge)
	huge := &storage.Batch{Object: o}
	for i := range info.MaxBatch/info.MaxValue + 1 {
		huge.Put = append(huge.Put, storage.Pair{Key: []byte{byte(i)}, Val: val})
	}
	f.refused(sh, huge, storage.ErrTooLarge)
	err = sh.Commit(put(nil, append(val, 0))).Wait()
	var limit *storage.LimitError
	if !errors.As(err, &limit) || limit.Max != int64(info.MaxValue) || limit.Actual != limit.Max+1 {
		f.Errorf("error over a limit: %#v", err)
	}
	f.wantScan(sh, o, storage.Range{})
	f.commit(sh, put(key, val))
	f.wantGet(sh, o, string(key), string(val))
}

func testInvalid(f *fixture) {
	a, b := f.object(1), f.object(2)
	sh := f.made(a)
	f.refused(sh, &storage.Batch{Object: b, Create: created("")}, storage.ErrInvalid)
	f.refused(sh, &storage.Batch{Object: a, Timers: []storage.Timer{{Object: b, Due: time.UnixMilli(1)}}}, storage.ErrInvalid)
	if _, _, err := sh.Get(f.ctx, b, nil); !errors.Is(err, storage.ErrInvalid) {
		f.Errorf("get from another shard: %v", err)
	}
	if _, _, err := sh.Meta(f.ctx, b); !errors.Is(err, storage.ErrInvalid) {
		f.Errorf("meta from another shard: %v", err)
	}
	for _, err := range sh.Scan(f.ctx, b, storage.Range{}) {
		if !errors.Is(err, storage.ErrInvalid) {
			f.Errorf("scan of another shard: %v", err)
		}
	}
	if _, err := f.s.Claim(f.ctx, []storage.ShardID{storage.Shards}); !errors.Is(err, storage.ErrInvalid) {
		f.Errorf("claim of a shard that does not exist: %v", err)
	}
	if _, err := f.e.Join(f.ctx, storage.Node{}); !errors.Is(err, storage.ErrInvalid) {
		f.Errorf("join without an id: %v", err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if _, err := f.s.Claim(ctx, []storage.ShardID{1}); !errors.Is(err, context.Canceled) {
		f.Errorf("claim with a context that has ended: %v", err)
	}
	f.wantScan(sh, a, storage.Range{})
}

func testBig(f *fixture) {
	o := f.object(1)
	sh := f.made(o)
	b := &storage.Batch{Object: o}
	var want []string
	for i := range 6 {
		val := bytes.Repeat([]byte{byte('a' + i)}, 4<<20)
		b.Put = append(b.Put, storage.Pair{Key: []byte{byte(i)}, Val: val})
		want = append(want, string([]byte{byte(i)}), string(val))
	}
	p := sh.Commit(b)
	f.wantGet(sh, o, "\x05", want[11])
	f.must(p.Wait())
	f.wantScan(sh, o, storage.Range{}, want...)
	f.reopen()
	f.wantScan(f.claim(o.Shard()), o, storage.Range{}, want...)
}

func testOrder(f *fixture) {
	a, b := sameShard(f.typ)
	sh := f.made(a)
	f.commit(sh, &storage.Batch{Object: b, Create: created("")})
	var pending []*storage.Pending
	for i := range 500 {
		o := a
		if i%3 == 0 {
			o = b
		}
		val := binary.BigEndian.AppendUint32(nil, uint32(i))
		pending = append(pending, sh.Commit(&storage.Batch{Object: o, Put: []storage.Pair{{Key: []byte("n"), Val: val}}}))
	}
	f.must(pending[len(pending)-1].Wait())
	for i, p := range pending {
		if ok, err := p.Resolved(); !ok || err != nil {
			f.Fatalf("commit %d of %d: resolved %t, %v", i, len(pending), ok, err)
		}
	}
	f.wantGet(sh, a, "n", string(binary.BigEndian.AppendUint32(nil, 499)))
	f.wantGet(sh, b, "n", string(binary.BigEndian.AppendUint32(nil, 498)))
}

func testConcurrent(f *fixture) {
	const writers, commits = 8, 50
	a, b := sameShard(f.typ)
	shared := f.made(a)
	objects := []storage.ObjectID{a, b}
	shards := []storage.Shard{shared, shared}
	for n := 1; len(objects) < writers; n++ {
		if o := f.object(n); o != b {
			objects = append(objects, o)
			shards = append(shards, f.owner(o))
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() { errs[i] = hammer(f.ctx, shards[i], objects[i], commits) })
	}
	wg.Wait()
	f.must(errors.Join(errs...))
	for i := range writers {
		f.wantGet(shards[i], objects[i], "n", fmt.Sprint(commits-1))
	}
}

// hammer writes two keys together and checks that they are never seen apart.
func hammer(ctx context.Context, sh storage.Shard, o storage.ObjectID, commits int) error {
	var last *storage.Pending
	for i := range commits {
		val := fmt.Sprint(i)
		last = sh.Commit(&storage.Batch{Object: o, Create: created(""), Put: pairsOf("m", val, "n", val)})
		for p, err := range sh.Scan(ctx, o, storage.Range{}) {
			if err != nil {
				return err
			}
			if string(p.Val) != val {
				return fmt.Errorf("%s = %s after commit %s", p.Key, p.Val, val)
			}
		}
	}
	return last.Wait()
}

func testClaim(f *fixture) {
	got, err := f.s.Claim(f.ctx, []storage.ShardID{3, 5, 3})
	f.must(err)
	if len(got) != 2 || got[0].ID() == got[1].ID() {
		f.Fatalf("claim of 3, 5, 3: %v", got)
	}
	again, err := f.s.Claim(f.ctx, []storage.ShardID{5, 7})
	f.must(err)
	if len(again) != 1 || again[0].ID() != 7 || again[0].Epoch() <= got[0].Epoch() {
		f.Fatalf("claim of 5, 7 when 5 is taken: %v", again)
	}
	f.must(again[0].Confirm(f.ctx))
	if again[0].Err() != nil {
		f.Error(again[0].Err())
	}
	none, err := f.s.Claim(f.ctx, []storage.ShardID{5})
	if len(none) != 0 || err != nil {
		f.Errorf("claim of a shard that is taken: %v, %v", none, err)
	}
	if lease := f.s.Lease(); !lease.IsZero() && !lease.After(time.Now()) {
		f.Errorf("lease ended at %v", lease)
	}
}

func testRelease(f *fixture) {
	o := f.object(1)
	sh := f.made(o)
	p := sh.Commit(&storage.Batch{Object: o, Put: pairsOf("k", "v")})
	f.must(sh.Release(f.ctx))
	if ok, err := p.Resolved(); !ok || err != nil {
		f.Errorf("commit before a release: resolved %t, %v", ok, err)
	}
	f.wantLost(sh, o)
	next := f.claim(o.Shard())
	if next.Epoch() <= sh.Epoch() {
		f.Errorf("epoch %d after %d", next.Epoch(), sh.Epoch())
	}
	f.wantLost(sh, o)
	f.wantGet(next, o, "k", "v")
	if _, _, err := sh.Get(f.ctx, o, []byte("k")); err == nil {
		f.Error("a released shard can be read")
	}
}

func testJoinAgain(f *fixture) {
	o := f.object(1)
	old, oldSession := f.made(o, "k", "1"), f.s
	f.s = f.join("a")
	select {
	case <-oldSession.Done():
	default:
		f.Error("the first session is not done")
	}
	if !errors.Is(oldSession.Err(), storage.ErrLost) {
		f.Errorf("error of the first session: %v", oldSession.Err())
	}
	if _, err := oldSession.Claim(f.ctx, []storage.ShardID{1}); err == nil {
		f.Error("the first session can still claim")
	}
	f.wantLost(old, o)
	sh := f.claim(o.Shard())
	if sh.Epoch() <= old.Epoch() {
		f.Errorf("epoch %d after %d", sh.Epoch(), old.Epoch())
	}
	// The fence: what the old owner sends has no effect.
	err := old.Commit(&storage.Batch{Object: o, Put: pairsOf("k", "stale")}).Wait()
	if !errors.Is(err, storage.ErrLost) {
		f.Errorf("commit under a stale epoch: %v", err)
	}
	f.wantGet(sh, o, "k", "1")
	f.commit(sh, &storage.Batch{Object: o, Put: pairsOf("k", "2")})
	if !errors.Is(old.Err(), storage.ErrLost) {
		f.Errorf("error of the old shard: %v", old.Err())
	}
}

func testSecondNode(f *fixture) {
	info, err := f.e.Info(f.ctx)
	f.must(err)
	if !info.Shared {
		if _, err := f.e.Join(f.ctx, storage.Node{ID: "b"}); !errors.Is(err, storage.ErrInvalid) {
			f.Errorf("second node of a store that is not shared: %v", err)
		}
		f.made(f.object(1)) // the first is none the worse
		return
	}
	b := f.join("b")
	o := f.object(1)
	mine := f.made(o, "k", "1")
	none, err := b.Claim(f.ctx, []storage.ShardID{o.Shard()})
	f.must(err)
	if len(none) != 0 {
		f.Fatal("two nodes own one shard")
	}
	f.must(mine.Release(f.ctx))
	theirs := claimOf(f, b, o.Shard())
	f.wantGet(theirs, o, "k", "1")
	f.commit(theirs, &storage.Batch{Object: o, Put: pairsOf("k", "2")})
	f.must(theirs.Release(f.ctx))
	f.wantGet(f.claim(o.Shard()), o, "k", "2")
}

func testLeave(f *fixture) {
	o := f.object(1)
	sh := f.made(o)
	p := sh.Commit(&storage.Batch{Object: o, Put: pairsOf("k", "v")})
	f.must(f.s.Leave(f.ctx))
	if ok, err := p.Resolved(); !ok || err != nil {
		f.Errorf("commit before leaving: resolved %t, %v", ok, err)
	}
	f.wantLost(sh, o)
	<-f.s.Done()
	if !errors.Is(f.s.Err(), storage.ErrClosed) {
		f.Errorf("error of a session that was left: %v", f.s.Err())
	}
	f.s = f.join("b") // the place is free
	f.wantGet(f.claim(o.Shard()), o, "k", "v")
}

func testReopen(f *fixture) {
	before, err := f.e.Info(f.ctx)
	f.must(err)
	o := f.object(1)
	sh := f.made(o, "k", "1")
	session := f.s
	f.reopen()
	<-session.Done()
	f.wantLost(sh, o)
	after, err := f.e.Info(f.ctx)
	f.must(err)
	if before != after {
		f.Errorf("info changed from %+v to %+v", before, after)
	}
	next := f.claim(o.Shard())
	if next.Epoch() <= sh.Epoch() {
		f.Errorf("epoch %d after %d", next.Epoch(), sh.Epoch())
	}
	f.wantGet(next, o, "k", "1")
}

func testClose(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "k", "1")
	snap, err := sh.Snapshot(f.ctx)
	f.must(err)
	var pending []*storage.Pending
	for range 50 {
		pending = append(pending, sh.Commit(&storage.Batch{Object: o, Put: pairsOf("k", "2")}))
	}
	f.must(f.e.Close())
	for _, p := range pending {
		if ok, err := p.Resolved(); !ok || err != nil && !errors.Is(err, storage.ErrLost) {
			f.Fatalf("commit before close: resolved %t, %v", ok, err)
		}
	}
	<-f.s.Done()
	f.wantLost(sh, o)
	if _, _, err := sh.Get(f.ctx, o, nil); err == nil {
		f.Error("a closed engine can be read")
	}
	if _, _, err := snap.Get(f.ctx, o, nil); err == nil {
		f.Error("a snapshot of a closed engine can be read")
	}
	snap.Close()
	for _, err := range f.s.Objects(f.ctx, storage.ObjectQuery{Type: f.typ}) {
		if err == nil {
			f.Error("a closed engine lists objects")
		}
	}
	for _, err := range f.s.Timers(f.ctx, time.Now()) {
		if err == nil {
			f.Error("a closed engine lists timers")
		}
	}
	if _, err := f.s.Claim(f.ctx, []storage.ShardID{1}); err == nil {
		f.Error("a closed engine gives out shards")
	}
	if _, err := f.e.Join(f.ctx, storage.Node{ID: "a"}); !errors.Is(err, storage.ErrClosed) {
		f.Errorf("join of a closed engine: %v", err)
	}
	if err := f.e.Close(); err != nil {
		f.Errorf("second close: %v", err)
	}
}
