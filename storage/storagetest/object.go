package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/durable-go/durable/storage"
)

func testInfo(f *fixture) {
	info, err := f.e.Info(f.ctx)
	f.must(err)
	if info.Store == [16]byte{} {
		f.Error("the store has no identity")
	}
	if info.Format < 1 || info.MaxKey < 2050 || info.MaxValue < 1<<20 || info.MaxBatch < info.MaxValue {
		f.Errorf("info: %+v", info)
	}
}

func testReadYourWrites(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	f.wantNone(sh, o, "k")
	p := sh.Commit(&storage.Batch{Object: o, Create: created(""), Put: pairsOf("k", "v", "l", "w")})
	f.wantGet(sh, o, "k", "v") // durable or not
	q := sh.Commit(&storage.Batch{Object: o, Put: pairsOf("k", "v2"), Del: [][]byte{[]byte("l"), []byte("none")}})
	f.wantGet(sh, o, "k", "v2")
	f.wantNone(sh, o, "l")
	f.must(p.Wait())
	f.must(q.Wait())
	f.commit(sh, &storage.Batch{Object: o})
	f.wantScan(sh, o, storage.Range{}, "k", "v2")
	f.reopen()
	f.wantScan(f.claim(o.Shard()), o, storage.Range{}, "k", "v2")
}

func testEmpty(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "", "", "\x00", "a", "\xff\xff", "")
	f.wantGet(sh, o, "", "")
	f.wantGet(sh, o, "\xff\xff", "")
	f.wantScan(sh, o, storage.Range{}, "", "", "\x00", "a", "\xff\xff", "")
	f.wantScan(sh, o, storage.Range{Lo: []byte{}, Hi: []byte{}})
	f.wantScan(sh, o, storage.Range{Hi: []byte{0}}, "", "")
	f.commit(sh, &storage.Batch{Object: o, Del: [][]byte{nil}})
	f.wantScan(sh, o, storage.Range{}, "\x00", "a", "\xff\xff", "")
}

func testBuffers(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "a", "1", "b", "2")
	val, _, err := sh.Get(f.ctx, o, []byte("a"))
	f.must(err)
	scribble(val)
	for p, err := range sh.Scan(f.ctx, o, storage.Range{}) {
		f.must(err)
		scribble(p.Key)
		scribble(p.Val)
		_ = append(p.Key, "xxxx"...)
	}
	f.wantScan(sh, o, storage.Range{}, "a", "1", "b", "2")
}

func scribble(b []byte) {
	for i := range b {
		b[i] = '#'
	}
}

func testScan(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "a", "1", "b", "2", "ba", "3", "c", "4")
	b := func(s string) []byte { return []byte(s) }
	f.wantScan(sh, o, storage.Range{}, "a", "1", "b", "2", "ba", "3", "c", "4")
	f.wantScan(sh, o, storage.Range{Reverse: true}, "c", "4", "ba", "3", "b", "2", "a", "1")
	f.wantScan(sh, o, storage.Range{Lo: b("b")}, "b", "2", "ba", "3", "c", "4")
	f.wantScan(sh, o, storage.Range{Hi: b("b")}, "a", "1")
	f.wantScan(sh, o, storage.Range{Lo: b("b"), Hi: b("c")}, "b", "2", "ba", "3")
	f.wantScan(sh, o, storage.Range{Lo: b("b"), Hi: b("c"), Reverse: true}, "ba", "3", "b", "2")
	f.wantScan(sh, o, storage.Range{Lo: b("aa"), Hi: b("az")})
	f.wantScan(sh, o, storage.Range{Lo: b("c"), Hi: b("a")})
	f.wantScan(sh, o, storage.Range{Lo: b("c"), Hi: b("a"), Reverse: true})
}

func testScanBeginning(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "a", "1", "b", "2", "c", "3")
	var got []string
	for p, err := range sh.Scan(f.ctx, o, storage.Range{}) {
		f.must(err)
		got = append(got, string(p.Key))
		f.commit(sh, &storage.Batch{Object: o, Put: pairsOf("d", "4"), Del: [][]byte{[]byte("c")}})
		f.wantGet(sh, o, "d", "4")
	}
	if strings.Join(got, "") != "abc" {
		f.Errorf("scan beside a writer: %q", got)
	}
	for range sh.Scan(f.ctx, o, storage.Range{}) {
		break
	}
}

func testObjectsApart(f *fixture) {
	a, b := sameShard(f.typ)
	sh := f.made(a, "k", "a")
	f.commit(sh, &storage.Batch{Object: b, Create: created(""), Put: pairsOf("k", "b")})
	f.wantScan(sh, a, storage.Range{}, "k", "a")
	f.wantScan(sh, b, storage.Range{}, "k", "b")
	f.commit(sh, &storage.Batch{Object: a, Drop: []storage.Range{{}}})
	f.wantScan(sh, a, storage.Range{})
	f.wantScan(sh, b, storage.Range{}, "k", "b")
	f.commit(sh, &storage.Batch{Object: b, Wipe: true})
	f.wantScan(sh, b, storage.Range{})
	if _, ok, err := sh.Meta(f.ctx, a); !ok || err != nil {
		f.Errorf("the other object has gone: %v", err)
	}
}

// sameShard returns two objects of one shard.
func sameShard(typ storage.TypeID) (a, b storage.ObjectID) {
	a = testObject(typ, 0)
	for n := 1; ; n++ {
		if b = testObject(typ, n); b.Shard() == a.Shard() {
			return a, b
		}
	}
}

func testDrop(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "a", "1", "b", "2", "c", "3", "d", "4")
	f.commit(sh, &storage.Batch{
		Object: o,
		Drop:   []storage.Range{{Lo: []byte("b"), Hi: []byte("d")}, {Lo: []byte("z")}, {Lo: []byte("y"), Hi: []byte("x")}},
		Put:    pairsOf("c", "again"),
	})
	f.wantScan(sh, o, storage.Range{}, "a", "1", "c", "again", "d", "4")
	f.commit(sh, &storage.Batch{Object: o, Drop: []storage.Range{{}}})
	f.wantScan(sh, o, storage.Range{})
	if _, ok, err := sh.Meta(f.ctx, o); !ok || err != nil {
		f.Errorf("the object went with its keys: %v", err)
	}
}

func testWipe(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	f.commit(sh, &storage.Batch{
		Object: o, Create: created("name"), Put: pairsOf("a", "1", "b", "2"),
		Timers: []storage.Timer{{Object: o, Kind: 1, Due: time.UnixMilli(5)}, {Object: o, Kind: 2, Due: time.UnixMilli(6)}},
	})
	f.commit(sh, &storage.Batch{Object: o, Wipe: true})
	f.commit(sh, &storage.Batch{Object: o, Wipe: true})
	wantGone := func() {
		f.Helper()
		f.wantScan(sh, o, storage.Range{})
		if _, ok, err := sh.Meta(f.ctx, o); ok || err != nil {
			f.Errorf("meta of a wiped object: %t, %v", ok, err)
		}
		f.wantObjects(storage.ObjectQuery{Type: f.typ})
		f.wantTimers(time.UnixMilli(100))
	}
	wantGone()
	f.reopen()
	sh = f.claim(o.Shard())
	wantGone()
}

func testWipeBig(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	var pairs []string
	for i := range 3000 {
		pairs = append(pairs, fmt.Sprintf("%05d", i), "v")
	}
	f.commit(sh, &storage.Batch{
		Object: o, Create: created("big"), Put: pairsOf(pairs...),
		Timers: []storage.Timer{{Object: o, Kind: 9, Due: time.UnixMilli(5)}},
	})
	f.wantScan(sh, o, storage.Range{}, pairs...)
	f.commit(sh, &storage.Batch{Object: o, Drop: []storage.Range{{Lo: []byte("00500")}}, Put: pairsOf("02000", "back")})
	f.wantScan(sh, o, storage.Range{}, append(pairs[:1000:1000], "02000", "back")...)
	f.commit(sh, &storage.Batch{Object: o, Put: pairsOf(pairs...)})
	f.commit(sh, &storage.Batch{Object: o, Wipe: true, Create: created("new"), Put: pairsOf("00001", "x")})
	f.wantScan(sh, o, storage.Range{}, "00001", "x")
	f.wantObjects(storage.ObjectQuery{Type: f.typ}, "new")
	f.wantTimers(time.UnixMilli(100))
}

func testWipeAndCreate(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	f.commit(sh, &storage.Batch{
		Object: o, Create: created("old"), Put: pairsOf("a", "1", "b", "2"),
		Timers: []storage.Timer{{Object: o, Kind: 1, Due: time.UnixMilli(5)}},
	})
	f.commit(sh, &storage.Batch{
		Object: o, Wipe: true, Create: created("new"), Put: pairsOf("b", "3"),
		Timers: []storage.Timer{{Object: o, Kind: 1, Due: time.UnixMilli(7)}},
	})
	f.wantScan(sh, o, storage.Range{}, "b", "3")
	f.wantObjects(storage.ObjectQuery{Type: f.typ}, "new")
	f.wantTimers(time.UnixMilli(100), storage.Timer{Object: o, Kind: 1, Due: time.UnixMilli(7)})
}

func testSnapshot(f *fixture) {
	a, b := sameShard(f.typ)
	sh := f.made(a, "k", "1", "l", "2")
	sh.Commit(&storage.Batch{Object: b, Create: created("b")})
	snap, err := sh.Snapshot(f.ctx)
	f.must(err)
	f.commit(sh, &storage.Batch{Object: a, Put: pairsOf("k", "9", "m", "3"), Del: [][]byte{[]byte("l")}})
	f.commit(sh, &storage.Batch{Object: b, Wipe: true})
	f.churn()
	f.wantScan(snap, a, storage.Range{}, "k", "1", "l", "2")
	f.wantScan(snap, a, storage.Range{Reverse: true}, "l", "2", "k", "1")
	f.wantGet(snap, a, "k", "1")
	f.wantNone(snap, a, "m")
	if m, ok, err := snap.Meta(f.ctx, b); !ok || m.Name != "b" || err != nil {
		f.Errorf("meta in a snapshot: %v, %t, %v", m, ok, err)
	}
	f.wantScan(sh, a, storage.Range{}, "k", "9", "m", "3")
	snap.Close()
	snap.Close()
	if _, _, err := snap.Get(f.ctx, a, []byte("k")); !errors.Is(err, storage.ErrClosed) {
		f.Errorf("get from a closed snapshot: %v", err)
	}
	if _, _, _, err := snap.GetPatched(f.ctx, a, []byte("k")); !errors.Is(err, storage.ErrClosed) {
		f.Errorf("get from a closed snapshot: %v", err)
	}
	for _, err := range snap.Scan(f.ctx, a, storage.Range{}) {
		if !errors.Is(err, storage.ErrClosed) {
			f.Errorf("scan of a closed snapshot: %v", err)
		}
	}
}

func testMeta(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	if _, ok, err := sh.Meta(f.ctx, o); ok || err != nil {
		f.Errorf("meta of no object: %t, %v", ok, err)
	}
	want := func(name string) {
		f.Helper()
		m, ok, err := sh.Meta(f.ctx, o)
		if !ok || err != nil || m.Name != name || !m.Created.Equal(created("").Created) {
			f.Errorf("meta = %v, %t, %v, want %q", m, ok, err, name)
		}
	}
	m := created("a\x00b")
	m.Created = m.Created.Add(300 * time.Microsecond) // stored to the millisecond
	f.commit(sh, &storage.Batch{Object: o, Create: m})
	want("a\x00b")
	f.commit(sh, &storage.Batch{Object: o, Create: created("")})
	want("")
	f.wantObjects(storage.ObjectQuery{Type: f.typ}, "")
	f.reopen()
	sh = f.claim(o.Shard())
	want("")
}

// wantObjects compares a listing with names.
func (f *fixture) wantObjects(q storage.ObjectQuery, want ...string) []storage.Object {
	f.Helper()
	var all []storage.Object
	got := []string{}
	for o, err := range f.s.Objects(f.ctx, q) {
		f.must(err)
		all = append(all, o)
		got = append(got, o.Name)
	}
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		f.Errorf("objects %+v: %q, want %q", q, got, want)
	}
	return all
}

func testListing(f *fixture) {
	other, err := f.s.Type(f.ctx, "other")
	f.must(err)
	names := []string{"b", "", "a\x00", "ab", "a", "", "a\xff", "\x00", "b\x00\x01"}
	for i, name := range names {
		o := f.object(i)
		f.commit(f.owner(o), &storage.Batch{Object: o, Create: created(name)})
	}
	o := testObject(other, 1)
	f.commit(f.owner(o), &storage.Batch{Object: o, Create: created("elsewhere")})

	sorted := []string{"", "", "\x00", "a", "a\x00", "ab", "a\xff", "b", "b\x00\x01"}
	all := f.wantObjects(storage.ObjectQuery{Type: f.typ}, sorted...)
	f.wantObjects(storage.ObjectQuery{Type: other}, "elsewhere")
	f.wantObjects(storage.ObjectQuery{Type: 999})
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "a"}, "a", "a\x00", "ab", "a\xff")
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "a\x00"}, "a\x00")
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "\x00"}, "\x00")
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "zz"})
	for i := range all {
		if !all[i].Created.Equal(created("").Created) {
			f.Errorf("object %q created %v", all[i].Name, all[i].Created)
		}
		f.wantObjects(storage.ObjectQuery{Type: f.typ, After: &all[i]}, sorted[i+1:]...)
	}
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "a", After: &all[0]}, "a", "a\x00", "ab", "a\xff")
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "a", After: &all[4]}, "ab", "a\xff")
	f.wantObjects(storage.ObjectQuery{Type: f.typ, Prefix: "a", After: &all[8]})
	for range f.s.Objects(f.ctx, storage.ObjectQuery{Type: f.typ}) {
		break
	}
	// An object that comes after another of the same name.
	if all[0].Name == all[1].Name && string(all[0].ID[:]) >= string(all[1].ID[:]) {
		f.Error("objects of one name are not in order of id")
	}
}

// owner returns the handle of an object's shard, claiming it at first.
func (f *fixture) owner(o storage.ObjectID) storage.Shard {
	f.Helper()
	got, err := f.s.Claim(f.ctx, []storage.ShardID{o.Shard()})
	f.must(err)
	if len(got) == 0 {
		f.Fatal("two objects of the test are in one shard")
	}
	return got[0]
}

func testTypes(f *fixture) {
	a, err := f.s.Type(f.ctx, "a")
	f.must(err)
	b, err := f.s.Type(f.ctx, "b")
	f.must(err)
	again, err := f.s.Type(f.ctx, "a")
	f.must(err)
	if a == b || a == 0 || b == 0 || a != again || a == f.typ || b == f.typ {
		f.Errorf("types: %d, %d, %d, %d", f.typ, a, b, again)
	}
	if _, err := f.s.Type(f.ctx, ""); !errors.Is(err, storage.ErrInvalid) {
		f.Errorf("type without a name: %v", err)
	}
	if _, err := f.s.Type(f.ctx, strings.Repeat("x", 1<<20)); !errors.Is(err, storage.ErrTooLarge) {
		f.Errorf("type with a long name: %v", err)
	}
	var wg sync.WaitGroup
	ids := make([]storage.TypeID, 8)
	for i := range ids {
		wg.Go(func() { ids[i], _ = f.s.Type(f.ctx, "raced") })
	}
	wg.Wait()
	for _, id := range ids {
		if id == 0 || id != ids[0] {
			f.Errorf("one type got several numbers: %v", ids)
			break
		}
	}
	f.reopen()
	types, err := f.s.Types(f.ctx)
	f.must(err)
	if len(types) != 4 || types["a"] != a || types["b"] != b || types["raced"] != ids[0] || types["room"] != f.typ {
		f.Errorf("types after reopening: %v", types)
	}
	c, err := f.s.Type(f.ctx, "c")
	f.must(err)
	if c == a || c == b || c == f.typ || c == ids[0] {
		f.Errorf("type number %d was given out again", c)
	}
}

func (f *fixture) wantTimers(until time.Time, want ...storage.Timer) {
	f.Helper()
	var got []storage.Timer
	for t, err := range f.s.Timers(f.ctx, until) {
		f.must(err)
		got = append(got, t)
	}
	same := slices.EqualFunc(got, want, func(a, b storage.Timer) bool {
		return a.Object == b.Object && a.Kind == b.Kind && a.Due.Equal(b.Due)
	})
	if !same {
		f.Errorf("timers until %v: %v, want %v", until, got, want)
	}
}

func testTimers(f *fixture) {
	a, b := sameShard(f.typ)
	sh := f.made(a)
	f.commit(sh, &storage.Batch{Object: b, Create: created("")})
	set := func(o storage.ObjectID, kind uint8, due time.Time) storage.Timer {
		f.Helper()
		f.commit(sh, &storage.Batch{Object: o, Timers: []storage.Timer{{Object: o, Kind: kind, Due: due}}})
		return storage.Timer{Object: o, Kind: kind, Due: due}
	}
	ms := time.UnixMilli
	late := ms(1 << 42)
	a1, a0, b1 := set(a, 1, ms(300)), set(a, 0, ms(100)), set(b, 1, ms(200))
	f.wantTimers(late, a0, b1, a1)
	f.wantTimers(ms(99))
	f.wantTimers(ms(100), a0)
	f.wantTimers(ms(200).Add(time.Microsecond), a0, b1)
	f.wantTimers(ms(200).Add(-time.Microsecond), a0)
	a1 = set(a, 1, ms(50))
	f.wantTimers(late, a1, a0, b1)
	set(a, 0, time.Time{})
	set(a, 7, time.Time{}) // clearing none is fine
	f.wantTimers(late, a1, b1)
	// A timer is never early: its time is rounded up.
	set(a, 1, ms(60).Add(time.Nanosecond))
	a1.Due = ms(61)
	f.wantTimers(late, a1, b1)
	old := set(b, 2, ms(-5000)) // before 1970
	f.wantTimers(late, old, a1, b1)
	f.reopen()
	f.wantTimers(late)
	sh = f.claim(a.Shard())
	f.wantTimers(late, old, a1, b1)
	set(b, 1, ms(1))
	f.wantTimers(ms(1), old, storage.Timer{Object: b, Kind: 1, Due: ms(1)})
}

func testTimersElsewhere(f *fixture) {
	a, b := f.object(1), f.object(2)
	at := func(o storage.ObjectID) storage.Timer { return storage.Timer{Object: o, Due: time.UnixMilli(1)} }
	sa, sb := f.claim(a.Shard()), f.claim(b.Shard())
	f.commit(sa, &storage.Batch{Object: a, Create: created(""), Timers: []storage.Timer{at(a)}})
	f.commit(sb, &storage.Batch{Object: b, Create: created(""), Timers: []storage.Timer{at(b)}})
	f.must(sb.Release(f.ctx))
	f.wantTimers(time.UnixMilli(10), at(a))
	f.claim(b.Shard())
	f.wantTimers(time.UnixMilli(10), at(a), at(b))
}
