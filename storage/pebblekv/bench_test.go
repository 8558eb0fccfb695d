package pebblekv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

// openBench opens a store and claims the shard of one object, which it creates.
func openBench(b *testing.B, dir string, opts Options) (*Engine, storage.Shard, storage.ObjectID) {
	b.Helper()
	ctx := context.Background()
	e, err := Open(dir, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.Error(err)
		}
	})
	s, err := e.Join(ctx, storage.Node{ID: "a"})
	if err != nil {
		b.Fatal(err)
	}
	typ, err := s.Type(ctx, "room")
	if err != nil {
		b.Fatal(err)
	}
	o := storage.ObjectID{Type: typ}
	shards, err := s.Claim(ctx, []storage.ShardID{o.Shard()})
	if err != nil {
		b.Fatal(err)
	}
	first := &storage.Batch{Object: o, Create: &storage.Meta{Name: "bench", Created: time.Now()}}
	if err := shards[0].Commit(first).Wait(); err != nil {
		b.Fatal(err)
	}
	return e, shards[0], o
}

// put returns the batch that puts val at one of 1,000 keys.
func put(o storage.ObjectID, i int, val []byte) *storage.Batch {
	key := binary.BigEndian.AppendUint32(make([]byte, 0, 4), uint32(i%1000))
	return &storage.Batch{Object: o, Put: []storage.Pair{{Key: key, Val: val}}}
}

// BenchmarkCommitPipelined commits one pair at a time without waiting for the
// disk in between: the cost of a commit itself.
func BenchmarkCommitPipelined(b *testing.B) {
	_, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
	val := make([]byte, 100)
	b.ReportAllocs()
	var last *storage.Pending
	for i := 0; b.Loop(); i++ {
		last = sh.Commit(put(o, i, val))
	}
	if err := last.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCommitWait waits for each commit, on the disk of this machine.
func BenchmarkCommitWait(b *testing.B) {
	e, sh, o := openBench(b, b.TempDir(), Options{})
	val := make([]byte, 100)
	b.ReportAllocs()
	before := e.Metrics().WALSyncs
	for i := 0; b.Loop(); i++ {
		if err := sh.Commit(put(o, i, val)).Wait(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(e.Metrics().WALSyncs-before)/float64(b.N), "syncs/op")
}

// BenchmarkCommitGroup waits for each commit, with many goroutines beside each
// other, on the disk of this machine.
func BenchmarkCommitGroup(b *testing.B) {
	e, sh, o := openBench(b, b.TempDir(), Options{})
	val := make([]byte, 100)
	b.ReportAllocs()
	b.SetParallelism(32)
	before := e.Metrics().WALSyncs
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := sh.Commit(put(o, i, val)).Wait(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(e.Metrics().WALSyncs-before)/float64(b.N), "syncs/op")
}

// BenchmarkCommitKeys commits several pairs at once.
func BenchmarkCommitKeys(b *testing.B) {
	for _, n := range []int{10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
			val := make([]byte, 100)
			b.ReportAllocs()
			var last *storage.Pending
			for i := 0; b.Loop(); i++ {
				batch := &storage.Batch{Object: o}
				for j := range n {
					batch.Put = append(batch.Put, put(o, i+j, val).Put[0])
				}
				last = sh.Commit(batch)
			}
			if err := last.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkCommitTimer moves a timer, which reads and writes the index.
func BenchmarkCommitTimer(b *testing.B) {
	_, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
	b.ReportAllocs()
	var last *storage.Pending
	for i := 0; b.Loop(); i++ {
		due := time.UnixMilli(int64(i))
		last = sh.Commit(&storage.Batch{Object: o, Timers: []storage.Timer{{Object: o, Due: due}}})
	}
	if err := last.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCommitValues puts long values, and reports how many bytes of the log
// a byte of them takes.
func BenchmarkCommitValues(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, val := range map[string][]byte{
		"4 KiB page":  append(make([]byte, 1096), text(r, 3000)...),
		"1 KiB JSON":  text(r, 1024),
		"4 KiB noise": noise(r, 4096), "1 MiB noise": noise(r, 1<<20),
	} {
		b.Run(name, func(b *testing.B) {
			e, sh, o := openBench(b, "store", Options{FS: vfs.NewMem(), MinSyncInterval: -1})
			b.SetBytes(int64(len(val)))
			b.ReportAllocs()
			before := e.Metrics().WALBytes
			for i := 0; b.Loop(); i++ {
				p := sh.Commit(put(o, i, val))
				if i%64 > 0 {
					continue
				}
				if err := p.Wait(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(e.Metrics().WALBytes-before)/float64(b.N*len(val)), "log-ratio")
		})
	}
}

// BenchmarkGetPage reads a page that was put whole, and one with 24 patches,
// from memory and from a table.
func BenchmarkGetPage(b *testing.B) {
	for _, patches := range []int{0, 24} {
		for _, flush := range []bool{false, true} {
			name := fmt.Sprintf("patches=%d/%s", patches, map[bool]string{false: "memtable", true: "table"}[flush])
			b.Run(name, func(b *testing.B) {
				ctx := context.Background()
				r := rand.New(rand.NewPCG(1, 1))
				e, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
				page := text(r, 4096)
				key := put(o, 0, page).Put[0].Key
				sh.Commit(put(o, 0, page))
				for range patches {
					next := bytes.Clone(page)
					for range 4 {
						copy(next[r.IntN(4000):], noise(r, 20))
					}
					op := patch.AppendDiff(nil, page, next)
					sh.Commit(&storage.Batch{Object: o, Merge: []storage.Pair{{Key: key, Val: op}}})
					page = next
				}
				if flush {
					if err := e.db.Flush(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, n, ok, err := sh.GetPatched(ctx, o, key); n != patches || !ok || err != nil {
						b.Fatal(n, ok, err)
					}
				}
			})
		}
	}
}

// BenchmarkGet reads one of 1,000 keys, from memory and from a table.
func BenchmarkGet(b *testing.B) {
	for _, flush := range []bool{false, true} {
		name := map[bool]string{false: "memtable", true: "table"}[flush]
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			e, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
			for i := range 1000 {
				sh.Commit(put(o, i, make([]byte, 100)))
			}
			if flush {
				if err := e.db.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			key := make([]byte, 4)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				binary.BigEndian.PutUint32(key, uint32(i%1000))
				if _, ok, err := sh.Get(ctx, o, key); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// BenchmarkGetAbsent looks for keys that do not exist.
func BenchmarkGetAbsent(b *testing.B) {
	ctx := context.Background()
	_, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := sh.Get(ctx, o, []byte("none")); ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// BenchmarkScan100 iterates over 100 pairs.
func BenchmarkScan100(b *testing.B) {
	ctx := context.Background()
	_, sh, o := openBench(b, "store", Options{FS: vfs.NewMem()})
	for i := range 100 {
		sh.Commit(put(o, i, make([]byte, 100)))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range sh.Scan(ctx, o, storage.Range{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}
