package pebblekv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

// text returns n bytes like those of a page of SQLite or of JSON.
func text(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+100)
	for len(b) < n {
		b = fmt.Appendf(b, `{"id":%d,"email":"user-%d@example.com","state":"active"},`, r.IntN(1e6), r.IntN(1e6))
	}
	return b[:n]
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestCoded: long values are stored S2-coded if that makes them shorter by an
// eighth, and all come back as they were.
func TestCoded(t *testing.T) {
	const raw, coded, merged = 1, 2, 5 // tags, as in the README of package storage
	r := rand.New(rand.NewPCG(1, 1))
	page := text(r, 4096)
	limit := text(r, 4096)
	copy(limit, noise(r, 3800)) // 300 bytes of 4,096 are too few
	for name, c := range map[string]struct {
		val     []byte
		tag     byte
		percent int // of its length that it takes at most
	}{
		"empty":               {nil, raw, 0},
		"short":               {bytes.Repeat([]byte("a"), 256), raw, 101},
		"just long enough":    {bytes.Repeat([]byte("a"), 257), coded, 10},
		"1 KiB of text":       {text(r, 1024), coded, 60},
		"page":                {page, coded, 50},
		"page of zeros":       {make([]byte, 4096), coded, 1},
		"page of noise":       {noise(r, 4096), raw, 101},
		"page mostly noise":   {limit, raw, 101},
		"1 MiB of text":       {text(r, 1<<20), coded, 50},
		"1 MiB of noise":      {noise(r, 1<<20), raw, 101},
		"as long as it gets":  {bytes.Repeat(page, maxValue/4096), coded, 10},
		"as long, with noise": {noise(r, maxValue), raw, 101},
	} {
		t.Run(name, func(t *testing.T) {
			e, s := start(t, "store", Options{FS: vfs.NewMem()})
			defer e.Close()
			o := storage.ObjectID{Type: 1}
			sh := claim(t, s, o)
			before := e.Metrics().WALBytes
			// A short value after it must not meet what is left in the buffer.
			b := batch(o, "a", string(c.val), "b", "short", "c", string(page))
			if err := sh.Commit(b).Wait(); err != nil {
				t.Fatal(err)
			}
			logged := int(e.Metrics().WALBytes - before)

			stored, closer, err := e.db.Get(keyspace.AppendKey(nil, o, []byte("a")))
			if err != nil {
				t.Fatal(err)
			}
			size := len(stored)
			if stored[0] != c.tag || size > 1+len(c.val)*c.percent/100 {
				t.Errorf("%d bytes are stored as %d with tag %d", len(c.val), size, stored[0])
			}
			if logged > size+len(page)+2000 {
				t.Errorf("the log took %d bytes", logged)
			}
			_ = closer.Close()

			check := func() {
				t.Helper()
				for key, want := range map[string][]byte{"a": c.val, "b": []byte("short"), "c": page} {
					val, n, ok, err := sh.GetPatched(t.Context(), o, []byte(key))
					if err != nil || !ok || n != 0 || val == nil || !bytes.Equal(val, want) {
						t.Errorf("get %s: %d bytes after %d patches, %t, %v", key, len(val), n, ok, err)
					}
				}
				for p, err := range sh.Scan(t.Context(), o, storage.Range{Hi: []byte("b")}) {
					if err != nil || string(p.Key) != "a" || !bytes.Equal(p.Val, c.val) || cap(p.Key) != 1 {
						t.Errorf("scan: %q, %d bytes, %v", p.Key, len(p.Val), err)
					}
				}
			}
			check()
			if err := e.Churn(0); err != nil {
				t.Fatal(err)
			}
			check()

			// A patch on top of it.
			next := append(bytes.Clone(c.val), "and more"...)
			if len(next) > maxValue {
				next = next[len("and more"):]
			}
			op := patch.AppendDiff(nil, c.val, next)
			if len(op) > maxValue {
				return
			}
			if err := sh.Commit(&storage.Batch{Object: o, Merge: []storage.Pair{{Key: []byte("a"), Val: op}}}).Wait(); err != nil {
				t.Fatal(err)
			}
			if err := e.Churn(1); err != nil {
				t.Fatal(err)
			}
			val, n, ok, err := sh.GetPatched(t.Context(), o, []byte("a"))
			if err != nil || !ok || n != 1 || !bytes.Equal(val, next) {
				t.Errorf("get of a patched value: %d bytes after %d patches, %t, %v", len(val), n, ok, err)
			}
			stored, closer, err = e.db.Get(keyspace.AppendKey(nil, o, []byte("a")))
			if err != nil {
				t.Fatal(err)
			}
			defer closer.Close()
			if stored[0] != merged {
				t.Errorf("a merged value has tag %d", stored[0])
			}
		})
	}
}
