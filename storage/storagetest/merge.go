package storagetest

import (
	"strings"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

func testMerge(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "k", "hello world")
	merge := func(key, old, new string) {
		f.Helper()
		op := patch.AppendDiff(nil, []byte(old), []byte(new))
		f.commit(sh, &storage.Batch{Object: o, Merge: []storage.Pair{{Key: []byte(key), Val: op}}})
	}
	merge("k", "hello world", "hello there")
	merge("none", "", "from nothing")
	merge("none", "from nothing", "from")
	f.wantScan(sh, o, storage.Range{}, "k", "hello there", "none", "from")
	f.commit(sh, &storage.Batch{Object: o, Put: pairsOf("k", "whole")})
	merge("k", "whole", "wholesome")
	f.commit(sh, &storage.Batch{Object: o, Del: [][]byte{[]byte("none")}})
	merge("none", "", "x")
	f.wantScan(sh, o, storage.Range{Reverse: true}, "none", "x", "k", "wholesome")
	f.refused(sh, &storage.Batch{Object: o, Merge: pairsOf("k", "not an operand")}, storage.ErrInvalid)
	f.refused(sh, &storage.Batch{Object: o, Merge: pairsOf("k", "")}, storage.ErrInvalid)
	f.reopen()
	f.wantScan(f.claim(o.Shard()), o, storage.Range{}, "k", "wholesome", "none", "x")
}

// diff returns the operand for a key that turns the value old into the value
// new.
func diff(key, old, new string) []storage.Pair {
	return []storage.Pair{{Key: []byte(key), Val: patch.AppendDiff(nil, []byte(old), []byte(new))}}
}

func (f *fixture) wantPatched(r storage.Reader, o storage.ObjectID, key, want string, patches int) {
	f.Helper()
	val, n, ok, err := r.GetPatched(f.ctx, o, []byte(key))
	f.must(err)
	if !ok || string(val) != want || n != patches {
		f.Errorf("get %q = %q after %d patches, %t, want %q after %d", key, clip(val), n, ok, clip([]byte(want)), patches)
	}
	f.wantGet(r, o, key, want)
	scribble(val)
	f.wantGet(r, o, key, want)
}

func (f *fixture) churn() {
	f.Helper()
	if f.h.Churn != nil {
		f.h.Churn(f.T, 0)
		f.h.Churn(f.T, 1)
	}
}

// testPatched: patches are counted from the last whole value on, through
// snapshots, upkeep and reopening.
func testPatched(f *fixture) {
	o := f.object(1)
	page := strings.Repeat("0123456789abcdef", 256)
	sh := f.made(o, "k", "0", "page", page)
	f.wantPatched(sh, o, "k", "0", 0)
	f.wantPatched(sh, o, "page", page, 0)
	if _, n, ok, err := sh.GetPatched(f.ctx, o, []byte("none")); n != 0 || ok || err != nil {
		f.Errorf("get of no key: %d patches, %t, %v", n, ok, err)
	}
	snap := func() storage.Snapshot {
		f.Helper()
		s, err := sh.Snapshot(f.ctx)
		f.must(err)
		return s
	}
	before := snap()
	defer before.Close()
	digits := "0123456789"
	for n := range 3 {
		f.commit(sh, &storage.Batch{Object: o, Merge: diff("k", digits[n:n+1], digits[n+1:n+2])})
		f.wantPatched(sh, o, "k", digits[n+1:n+2], n+1)
	}
	f.commit(sh, &storage.Batch{Object: o, Merge: diff("new", "", "made by a patch")})
	f.wantPatched(sh, o, "new", "made by a patch", 1)
	f.commit(sh, &storage.Batch{Object: o, Merge: diff("page", page, page[:4000])})
	after := snap()
	defer after.Close()
	f.churn()
	for n := 3; n < 5; n++ {
		f.commit(sh, &storage.Batch{Object: o, Merge: diff("k", digits[n:n+1], digits[n+1:n+2])})
	}
	f.churn()
	f.wantPatched(sh, o, "k", "5", 5)
	f.wantPatched(before, o, "k", "0", 0)
	f.wantPatched(before, o, "page", page, 0)
	f.wantNone(before, o, "new")
	f.wantPatched(after, o, "k", "3", 3)
	f.wantPatched(after, o, "page", page[:4000], 1)

	// A whole value begins again, and so does one that was deleted.
	f.commit(sh, &storage.Batch{Object: o, Put: pairsOf("k", "5"), Del: [][]byte{[]byte("new")}})
	f.wantPatched(sh, o, "k", "5", 0)
	f.commit(sh, &storage.Batch{Object: o, Merge: append(diff("k", "5", "6"), diff("new", "", "again")...)})
	f.commit(sh, &storage.Batch{Object: o, Drop: []storage.Range{{Lo: []byte("new"), Hi: []byte("p")}}, Merge: diff("page", page[:4000], page)})
	f.commit(sh, &storage.Batch{Object: o, Merge: diff("new", "", "and again")})
	want := func(r storage.Reader) {
		f.Helper()
		f.wantPatched(r, o, "k", "6", 1)
		f.wantPatched(r, o, "new", "and again", 1)
		f.wantPatched(r, o, "page", page, 2)
	}
	want(sh)
	f.wantPatched(after, o, "k", "3", 3)
	before.Close()
	after.Close()
	f.reopen()
	sh = f.claim(o.Shard())
	want(sh)
	f.churn()
	want(sh)
	f.commit(sh, &storage.Batch{Object: o, Merge: diff("k", "6", "7")})
	f.wantPatched(sh, o, "k", "7", 2)
}

// testMergeLengths: a patch may cut the value, and reach beyond its end; what is
// between is zeros, not what once was there.
func testMergeLengths(f *fixture) {
	o := f.object(1)
	sh := f.made(o, "k", "abcdef")
	merge := func(old, new string) {
		f.Helper()
		f.commit(sh, &storage.Batch{Object: o, Merge: diff("k", old, new)})
		f.wantGet(sh, o, "k", new)
	}
	merge("abcdef", "abc")
	merge("abc", "abc\x00\x00\x00")
	merge("abc\x00\x00\x00", "")
	merge("", strings.Repeat("\x00", 4096)+"end")
	f.churn()
	f.wantPatched(sh, o, "k", strings.Repeat("\x00", 4096)+"end", 4)
	merge(strings.Repeat("\x00", 4096)+"end", "\x00")
	f.wantScan(sh, o, storage.Range{}, "k", "\x00")

	// Patches that do not know the value: the last two bytes of eight.
	f.commit(sh, &storage.Batch{Object: o, Put: pairsOf("l", "ab"), Merge: diff("m", strings.Repeat("\x00", 6), "\x00\x00\x00\x00\x00\x00yz")})
	f.commit(sh, &storage.Batch{Object: o, Merge: diff("l", strings.Repeat("\x00", 6), "\x00\x00\x00\x00\x00\x00yz")})
	f.wantPatched(sh, o, "l", "ab\x00\x00\x00\x00yz", 1)
	f.wantPatched(sh, o, "m", "\x00\x00\x00\x00\x00\x00yz", 1)
	f.reopen()
	f.wantScan(f.claim(o.Shard()), o, storage.Range{}, "k", "\x00", "l", "ab\x00\x00\x00\x00yz", "m", "\x00\x00\x00\x00\x00\x00yz")
}

// testMergeAfterWipe: a patch in a batch that wipes or drops meets no value,
// whether the engine deletes keys one by one or as a range.
func testMergeAfterWipe(f *fixture) {
	o := f.object(1)
	sh := f.claim(o.Shard())
	keep := "\x00\x00\x00d" // one byte of four, the others as they were
	for _, n := range []int{2, 3000} {
		for _, how := range []storage.Batch{{Wipe: true, Create: created("")}, {Drop: []storage.Range{{Lo: []byte("a")}}}} {
			b := storage.Batch{Object: o, Wipe: true, Create: created("")}
			for i := range n {
				b.Put = append(b.Put, storage.Pair{Key: append([]byte("k"), byte(i>>8), byte(i)), Val: []byte("abc")})
			}
			b.Put = append(b.Put, pairsOf("k", "abc", "l", "abc")...)
			f.commit(sh, &b)
			f.commit(sh, &storage.Batch{Object: o, Merge: diff("l", "abc", "abcd")})
			how.Object = o
			how.Merge = append(diff("k", "\x00\x00\x00", keep), diff("l", "\x00\x00\x00", keep)...)
			f.commit(sh, &how)
			want := func() {
				f.Helper()
				f.wantPatched(sh, o, "k", keep, 1)
				f.wantPatched(sh, o, "l", keep, 1)
				f.wantScan(sh, o, storage.Range{}, "k", keep, "l", keep)
			}
			want()
			f.churn()
			want()
			f.reopen()
			sh = f.claim(o.Shard())
			want()
		}
	}
}
