package patch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
)

// page returns a page as SQLite lays out a table leaf: a header, cell pointers,
// zeros, and records of text and numbers from the end.
func page(r *rand.Rand, fill int) []byte {
	const size = 4096
	p := make([]byte, size)
	p[0] = 0x0d
	at, n := size, 0
	for at > size-fill {
		rec := fmt.Appendf(nil, "user-%d@example.com\x00%s", r.IntN(1e6), words[r.IntN(len(words))])
		rec = binary.AppendUvarint(rec, r.Uint64N(1<<40))
		if at-len(rec)-4 < 8+2*(n+1) {
			break
		}
		at -= len(rec) + 2
		p[at], p[at+1] = byte(len(rec)), byte(n)
		copy(p[at+2:], rec)
		binary.BigEndian.PutUint16(p[8+2*n:], uint16(at))
		n++
	}
	binary.BigEndian.PutUint16(p[3:], uint16(n))
	binary.BigEndian.PutUint16(p[5:], uint16(at))
	return p
}

var words = []string{"the quick brown fox", "jumped", "over the lazy dog", "2026-01-02T15:04:05Z", "active", "suspended"}

// change returns p after an update of a record or two: a few short ranges.
func change(r *rand.Rand, p []byte) []byte {
	p = append([]byte(nil), p...)
	p[4]++
	binary.BigEndian.PutUint32(p[24:], r.Uint32())
	for range 3 {
		at := 100 + r.IntN(len(p)-200)
		for i := range 20 {
			p[at+i] = byte(r.Uint32())
		}
	}
	return p
}

func document(r *rand.Rand) []byte {
	type row struct {
		ID    int     `json:"id"`
		Email string  `json:"email"`
		State string  `json:"state"`
		Score float64 `json:"score"`
	}
	var rows []row
	for {
		rows = append(rows, row{r.IntN(1e6), fmt.Sprintf("user-%d@example.com", r.IntN(1e6)), words[r.IntN(len(words))], r.Float64()})
		if b, _ := json.Marshal(rows); len(b) >= 1024 {
			return b[:1024]
		}
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 1))
	return map[string][]byte{
		"full page": page(r, 4000), "half page": page(r, 2000), "1 KiB of JSON": document(r), "1 MiB of noise": noise(r, 1<<20),
	}
}

// BenchmarkAppendDiff compares a page with one after an update of three records.
func BenchmarkAppendDiff(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	old := page(r, 3500)
	new := change(r, old)
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = AppendDiff(dst[:0], old, new)
	}
	b.ReportMetric(float64(len(dst)), "patch-bytes")
}

func BenchmarkAppendS2(b *testing.B) {
	for name, val := range samples() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(val)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = AppendS2(dst[:0], val)
			}
			b.ReportMetric(float64(len(dst))/float64(len(val)), "ratio")
		})
	}
}

func BenchmarkDecodeS2(b *testing.B) {
	for name, val := range samples() {
		b.Run(name, func(b *testing.B) {
			stored := AppendS2(nil, val)
			b.SetBytes(int64(len(val)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Decode(stored); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMerge folds a chain of 24 patches into a page, as a read does.
func BenchmarkMerge(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	p := page(r, 3500)
	chain := [][]byte{AppendS2(nil, p)}
	for range 24 {
		next := change(r, p)
		chain = append(chain, AppendDiff(nil, p, next))
		p = next
	}
	b.ReportAllocs()
	for b.Loop() {
		var m Merge
		if err := m.Newer(chain[24]); err != nil {
			b.Fatal(err)
		}
		for i := 23; i >= 0; i-- {
			if err := m.Older(chain[i]); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := m.Finish(true); err != nil {
			b.Fatal(err)
		}
	}
}
