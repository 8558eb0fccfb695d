package pebblekv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

var update = flag.Bool("update", false, "rewrite the files under testdata")

// start opens a store and joins it.
func start(t *testing.T, dir string, opts Options) (*Engine, storage.Session) {
	t.Helper()
	e, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Join(t.Context(), storage.Node{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	return e, s
}

// claim returns the shard of an object.
func claim(t *testing.T, s storage.Session, o storage.ObjectID) storage.Shard {
	t.Helper()
	got, err := s.Claim(t.Context(), []storage.ShardID{o.Shard()})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	return got[0]
}

func batch(o storage.ObjectID, kv ...string) *storage.Batch {
	b := &storage.Batch{Object: o, Create: &storage.Meta{Name: "name", Created: time.UnixMilli(1000)}}
	for i := 0; i < len(kv); i += 2 {
		b.Put = append(b.Put, storage.Pair{Key: []byte(kv[i]), Val: []byte(kv[i+1])})
	}
	return b
}

// TestBubble: virtual time passes while a store is open, and no goroutine stays
// behind, or synctest would fail.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s := start(t, "store", Options{FS: vfs.NewMem()})
		o := storage.ObjectID{Type: 1}
		sh := claim(t, s, o)
		for i := range 100 {
			p := sh.Commit(batch(o, "k", fmt.Sprint(i)))
			if i%10 == 0 {
				time.Sleep(time.Hour)
				if ok, err := p.Resolved(); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
		}
		if err := e.Churn(0); err != nil {
			t.Fatal(err)
		}
		if err := e.Churn(1); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBubbleFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, broken := breakable(vfs.NewMem())
		e, s := start(t, "store", Options{FS: fs})
		o := storage.ObjectID{Type: 1}
		sh := claim(t, s, o)
		broken.Store(true)
		if err := sh.Commit(batch(o)).Wait(); !errors.Is(err, storage.ErrLost) {
			t.Fatal(err)
		}
		<-sh.Done()
		time.Sleep(time.Hour)
		if err := e.Close(); !errors.Is(err, errorfs.ErrInjected) {
			t.Fatalf("close of a store that failed: %v", err)
		}
	})
}

// breakable returns a file system whose syncs fail while the flag is up.
func breakable(fs vfs.FS) (vfs.FS, *atomic.Bool) {
	broken := new(atomic.Bool)
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		isSync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if isSync && broken.Load() {
			return errorfs.ErrInjected
		}
		return nil
	})), broken
}

// TestSyncFails: after one failed sync nothing is acknowledged any more, even
// when the disk has recovered.
func TestSyncFails(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs, broken := breakable(mem)
	e, s := start(t, "store", Options{FS: fs})
	o := storage.ObjectID{Type: 1}
	sh := claim(t, s, o)
	if err := sh.Commit(batch(o, "k", "1")).Wait(); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	p, q := sh.Commit(batch(o, "k", "2")), sh.Commit(batch(o, "k", "3"))
	if p, q := p.Wait(), q.Wait(); !errors.Is(p, storage.ErrLost) || !errors.Is(q, storage.ErrLost) {
		t.Fatalf("commits while syncs fail: %v, %v", p, q)
	}
	broken.Store(false)
	<-s.Done()
	<-sh.Done()
	if err := s.Err(); !errors.Is(err, storage.ErrLost) || !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("session: %v", err)
	}
	if err := sh.Commit(batch(o, "k", "4")).Wait(); !errors.Is(err, storage.ErrLost) {
		t.Errorf("commit after a failed sync: %v", err)
	}
	if _, err := e.Join(t.Context(), storage.Node{ID: "a"}); !errors.Is(err, storage.ErrLost) {
		t.Errorf("join after a failed sync: %v", err)
	}
	if err := sh.Confirm(t.Context()); !errors.Is(err, storage.ErrLost) {
		t.Errorf("confirm after a failed sync: %v", err)
	}
	if err := e.Close(); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("close: %v", err)
	}
	e, s = start(t, "store", Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
	defer e.Close()
	if val, ok, err := claim(t, s, o).Get(t.Context(), o, []byte("k")); string(val) != "1" || !ok || err != nil {
		t.Errorf("after reopening: %q, %t, %v", val, ok, err)
	}
}

func TestMetrics(t *testing.T) {
	var syncs atomic.Int64
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) {
			syncs.Add(1)
		}
		return nil
	}))
	e, s := start(t, "store", Options{FS: fs})
	o := storage.ObjectID{Type: 1}
	sh := claim(t, s, o)
	before := e.Metrics()
	for range 10 {
		if err := sh.Commit(batch(o, "k", "v")).Wait(); err != nil {
			t.Fatal(err)
		}
	}
	m := e.Metrics()
	if m.WALSyncs != syncs.Load() || m.WALSyncs-before.WALSyncs != 10 {
		t.Errorf("%d syncs, and %d for 10 commits; the files saw %d", m.WALSyncs, m.WALSyncs-before.WALSyncs, syncs.Load())
	}
	if m.Batches != 10 || m.WALBytes <= before.WALBytes || m.DiskBytes == 0 {
		t.Errorf("metrics: %+v", m)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if m := e.Metrics(); m.Batches != 10 {
		t.Errorf("metrics after close: %+v", m)
	}
}

func TestNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		e, s := start(t, "store", Options{FS: mem, ReserveBytes: 1000})
		defer e.Close()
		o := storage.ObjectID{Type: 1}
		sh := claim(t, s, o)
		free := func(n uint64) {
			mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 30})
			time.Sleep(2 * spaceInterval)
		}
		if err := sh.Commit(batch(o, "k", "1")).Wait(); err != nil {
			t.Fatal(err)
		}
		free(999)
		ok, err := sh.Commit(batch(o, "k", "2")).Resolved()
		var limit *storage.LimitError
		if !ok || !errors.Is(err, storage.ErrNoSpace) || !errors.As(err, &limit) || limit.Actual != 999 || limit.Max != 1000 {
			t.Errorf("commit to a full disk: %t, %v", ok, err)
		}
		if val, _, err := sh.Get(t.Context(), o, []byte("k")); string(val) != "1" || err != nil {
			t.Errorf("get from a full disk: %q, %v", val, err)
		}
		clear := &storage.Batch{Object: o, Del: [][]byte{[]byte("other")}}
		if err := sh.Commit(clear).Wait(); err != nil {
			t.Errorf("deleting on a full disk: %v", err)
		}
		free(499)
		if err := sh.Commit(clear).Wait(); !errors.Is(err, storage.ErrNoSpace) {
			t.Errorf("deleting beyond half of the reserve: %v", err)
		}
		free(1000)
		if err := sh.Commit(batch(o, "k", "3")).Wait(); err != nil {
			t.Errorf("commit when there is space again: %v", err)
		}
	})
}

// TestQuota: KV-53. A store over its quota takes deletions alone.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s := start(t, "store", Options{FS: vfs.NewMem(), ReserveBytes: -1, MaxBytes: 100_000})
		defer e.Close()
		o := storage.ObjectID{Type: 1}
		sh := claim(t, s, o)
		var err error
		n := 0
		for ; err == nil && n < 1000; n++ {
			err = sh.Commit(batch(o, strconv.Itoa(n), strings.Repeat("x", 1000))).Wait()
			time.Sleep(2 * spaceInterval)
		}
		var limit *storage.LimitError
		if !errors.Is(err, storage.ErrNoSpace) || !errors.As(err, &limit) || limit.What != "bytes stored" || limit.Max != 100_000 || limit.Actual < limit.Max {
			t.Fatalf("after %d commits of 1,000 bytes: %v", n, err)
		}
		if n < 10 {
			t.Errorf("refused after %d commits of 1,000 bytes", n)
		}
		if err := sh.Commit(&storage.Batch{Object: o, Del: [][]byte{[]byte("0")}}).Wait(); err != nil {
			t.Errorf("deleting from a full store: %v", err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	t.Run("locked", func(t *testing.T) {
		for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
			dir := "store"
			if fs == vfs.Default {
				dir = filepath.Join(t.TempDir(), "a", "b")
			}
			e, _ := start(t, dir, Options{FS: fs})
			_, err := Open(dir, Options{FS: fs})
			if !errors.Is(err, storage.ErrLocked) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", name, err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if e, err = Open(dir, Options{FS: fs}); err != nil {
				t.Fatalf("%s: open after close: %v", name, err)
			}
			_ = e.Close()
		}
	})
	t.Run("newer store", func(t *testing.T) {
		fs := vfs.NewMem()
		e, _ := start(t, "store", Options{FS: fs})
		record := append([]byte{format + 1}, make([]byte, 30)...)
		if err := e.db.Set(keyspace.Info, patch.AppendRaw(nil, record), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		_ = e.Close()
		_, err := Open("store", Options{FS: fs})
		if !errors.Is(err, storage.ErrNewerFormat) || !strings.Contains(err.Error(), "format 2, this version reads up to 1") {
			t.Error(err)
		}
	})
	t.Run("newer files", func(t *testing.T) {
		fs := vfs.NewMem()
		e, _ := start(t, "store", Options{FS: fs})
		_ = e.Close()
		ls, _ := fs.List("store")
		for _, name := range ls {
			if strings.HasPrefix(name, "marker.format-version.") {
				to := name[:strings.LastIndex(name, ".")] + ".999"
				if err := fs.Rename("store/"+name, "store/"+to); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, err := Open("store", Options{FS: fs})
		if !errors.Is(err, storage.ErrNewerFormat) || !strings.Contains(err.Error(), "999") {
			t.Error(err)
		}
	})
	t.Run("another store", func(t *testing.T) {
		fs := vfs.NewMem()
		db, err := pebble.Open("store", &pebble.Options{FS: fs, Merger: merger, Logger: logger{slog: slog.New(slog.DiscardHandler)}})
		if err != nil {
			t.Fatal(err)
		}
		_ = db.Set([]byte("a"), []byte("b"), pebble.Sync)
		_ = db.Close()
		if _, err := Open("store", Options{FS: fs}); !errors.Is(err, storage.ErrCorrupt) {
			t.Error(err)
		}
	})
	t.Run("missing manifest", func(t *testing.T) {
		fs := vfs.NewMem()
		e, _ := start(t, "store", Options{FS: fs})
		_ = e.Close()
		ls, _ := fs.List("store")
		for _, name := range ls {
			if strings.HasPrefix(name, "MANIFEST") {
				if err := fs.Remove("store/" + name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := Open("store", Options{FS: fs}); !errors.Is(err, storage.ErrCorrupt) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want one line of ErrCorrupt", err)
		}
	})
	t.Run("damaged manifest", func(t *testing.T) {
		fs := vfs.NewMem()
		e, _ := start(t, "store", Options{FS: fs})
		_ = e.Close()
		ls, _ := fs.List("store")
		for _, name := range ls {
			if strings.HasPrefix(name, "MANIFEST") {
				f, err := fs.Create("store/"+name, vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Fatal(err)
				}
				_ = f.Close()
			}
		}
		if _, err := Open("store", Options{FS: fs}); err == nil {
			t.Error("opened without a manifest")
		}
	})
	t.Run("no folder", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(filepath.Join(file, "store"), Options{}); err == nil {
			t.Error("opened below a file")
		}
	})
}

// TestCorrupt: a table whose bytes changed is reported, not read.
func TestCorrupt(t *testing.T) {
	fs := vfs.NewMem()
	e, s := start(t, "store", Options{FS: fs})
	o := storage.ObjectID{Type: 1}
	sh := claim(t, s, o)
	if err := sh.Commit(batch(o, "k", strings.Repeat("v", 100))).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := e.Churn(0); err != nil {
		t.Fatal(err)
	}
	_ = e.Close()
	ls, _ := fs.List("store")
	for _, name := range ls {
		if strings.HasSuffix(name, ".sst") {
			data, err := fs.UnsafeGetFileDataBuffer("store/" + name)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				data[i] ^= 0x55
			}
		}
	}
	e, err := Open("store", Options{FS: fs})
	if err == nil {
		defer e.Close()
		s, err = e.Join(t.Context(), storage.Node{ID: "a"})
		if err == nil {
			_, _, err = claim(t, s, o).Get(t.Context(), o, []byte("k"))
		}
	}
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("reading a damaged table: %v", err)
	}
}

// small fills a store with one of everything.
func small(t *testing.T, e *Engine, s storage.Session) storage.ObjectID {
	t.Helper()
	typ, err := s.Type(t.Context(), "room")
	if err != nil {
		t.Fatal(err)
	}
	o := storage.ObjectID{Type: typ}
	o.ID[0], o.ID[31] = 0xAA, 0xBB
	sh := claim(t, s, o)
	b := batch(o, "", "empty key", "key", "value")
	b.Create.Name = "a\x00b"
	b.Timers = []storage.Timer{{Object: o, Kind: 7, Due: time.UnixMilli(1234)}}
	b.Merge = []storage.Pair{{Key: []byte("patched"), Val: patch.AppendDiff(nil, nil, []byte("hello"))}}
	if err := sh.Commit(b).Wait(); err != nil {
		t.Fatal(err)
	}
	return o
}

// dump writes all keys and values as text.
func dump(t *testing.T, e *Engine) string {
	t.Helper()
	var sb strings.Builder
	err := each(e.db, nil, nil, func(k, stored []byte) error {
		if string(k) == string(keyspace.Info) {
			stored = append(stored[:2:2], "(identity)"...)
		}
		_, err := fmt.Fprintf(&sb, "%q = %q\n", k, stored)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sb.String()
}

// TestLayout holds the keys and values of a small store to what the README of
// package storage says. A change here needs a new format version.
func TestLayout(t *testing.T) {
	e, s := start(t, "store", Options{FS: vfs.NewMem()})
	defer e.Close()
	small(t, e, s)
	got := dump(t, e)
	file := filepath.Join("testdata", "layout.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("the layout has changed (-want +got):\n%s", d)
	}
}

// TestFixture opens a store that the first version of this software wrote.
func TestFixture(t *testing.T) {
	dir := filepath.Join("testdata", "v1")
	if *update {
		_ = os.RemoveAll(dir)
		e, s := start(t, dir, Options{})
		small(t, e, s)
		if err := errors.Join(e.Churn(0), e.Close()); err != nil {
			t.Fatal(err)
		}
	}
	mem := vfs.NewMem()
	if ok, err := vfs.Clone(vfs.Default, mem, dir, "store"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	e, s := start(t, "store", Options{FS: mem})
	defer e.Close()
	types, err := s.Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := storage.ObjectID{Type: types["room"]}
	o.ID[0], o.ID[31] = 0xAA, 0xBB
	sh := claim(t, s, o)
	var got []string
	for p, err := range sh.Scan(t.Context(), o, storage.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(p.Key), string(p.Val))
	}
	want := []string{"", "empty key", "key", "value", "patched", "hello"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for o, err := range s.Objects(t.Context(), storage.ObjectQuery{Type: o.Type}) {
		if err != nil || o.Name != "a\x00b" || o.Created.UnixMilli() != 1000 {
			t.Error(o, err)
		}
	}
	if sh.Epoch() < 3 {
		t.Errorf("epoch %d of a store that had been claimed", sh.Epoch())
	}
}

func TestRebuildIndexes(t *testing.T) {
	e, s := start(t, "store", Options{FS: vfs.NewMem()})
	defer e.Close()
	o := small(t, e, s)
	want := dump(t, e)
	for _, del := range [][]byte{
		keyspace.AppendName(nil, o, "a\x00b"),
		keyspace.AppendTime(nil, 1234, o, 7),
	} {
		if err := e.db.Delete(del, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.db.Set(keyspace.AppendName(nil, o, "stray"), appendTime(nil, 0), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if dump(t, e) == want {
		t.Fatal("nothing was damaged")
	}
	if err := e.rebuildIndexes(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, dump(t, e)); d != "" {
		t.Error(d)
	}
}

// TestCheckedBuild: checked builds refuse a batch that was not folded.
func TestCheckedBuild(t *testing.T) {
	e, s := start(t, "store", Options{FS: vfs.NewMem()})
	defer e.Close()
	o := storage.ObjectID{Type: 1}
	sh := claim(t, s, o)
	twice := batch(o, "k", "1", "k", "2")
	orphan := &storage.Batch{Object: o, Put: []storage.Pair{{}}}
	for name, b := range map[string]*storage.Batch{"twice": twice, "no object": orphan} {
		if err := sh.Commit(b).Wait(); checkedBuild != errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%s: %v, in a checked build: %t", name, err, checkedBuild)
		}
	}
}

// TestIterationHoldsClose: Close waits for an iteration under way.
func TestIterationHoldsClose(t *testing.T) {
	e, s := start(t, "store", Options{FS: vfs.NewMem()})
	o := storage.ObjectID{Type: 1}
	sh := claim(t, s, o)
	sh.Commit(batch(o, "a", "1", "b", "2"))
	closed := make(chan error)
	n := 0
	for _, err := range sh.Scan(context.Background(), o, storage.Range{}) {
		if n++; n == 1 {
			go func() { closed <- e.Close() }()
			<-sh.Done()
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := <-closed; err != nil || n != 2 {
		t.Error(n, err)
	}
}
