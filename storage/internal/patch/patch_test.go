package patch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// value returns the value in a stored value.
func value(t *testing.T, stored []byte) []byte {
	t.Helper()
	val, _, err := Decode(stored)
	if err != nil {
		t.Fatal(err)
	}
	return val
}

// FuzzDiff: a value goes through every stored form, and through a patch, as it
// was.
func FuzzDiff(f *testing.F) {
	f.Add([]byte("hello world"), []byte("hello there"))
	f.Add([]byte{}, []byte("new"))
	f.Add([]byte("old"), []byte{})
	f.Add(make([]byte, 40), append(make([]byte, 50), 1))
	f.Add([]byte("the first eight, the rest"), []byte("The first eiGht, the resT, and mOre\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	r := rand.New(rand.NewPCG(1, 2))
	p := page(r, 3000)
	f.Add(p, change(r, p))
	f.Add(p, p[:1024])
	f.Add(p[:1000], p)
	f.Add(page(r, 100), p)
	f.Add(noise(r, 300), noise(r, 300))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		op := AppendDiff(nil, a, b)
		if n, err := Check(op); n != len(b) || err != nil {
			t.Fatalf("check: %d, %v", n, err)
		}
		if d := AppendDiff([]byte("before"), a, b); string(d) != "before"+string(op) {
			t.Errorf("diff after what was there: %q", d)
		}
		if len(a) == len(b) && bytes.Equal(a, b) && len(op) > 1+binary.MaxVarintLen32 {
			t.Errorf("%d bytes for no change", len(op))
		}
		short, coded := AppendShort([]byte("before"), a)
		if string(short[:6]) != "before" || !coded && len(short) > 6 || coded && len(short)-6 > len(a)-len(a)/8 {
			t.Errorf("%d bytes are %d, coded: %t", len(a), len(short)-6, coded)
		}
		bases := [][]byte{AppendRaw(nil, a), AppendS2(nil, a)}
		if coded {
			bases = append(bases, short[6:])
		}
		for _, base := range bases {
			before := bytes.Clone(base)
			got, err := Apply(base, op)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(value(t, got), b) {
				t.Errorf("%q becomes %q, want %q", a, value(t, got), b)
			}
			if !bytes.Equal(base, before) {
				t.Error("the base was changed")
			}
		}
	})
}

// FuzzDecode: no bytes cause a panic or an error but [ErrCorrupt], what [Check]
// accepts can be applied, and all ways to read a value agree.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	p := page(r, 3000)
	pageOp := AppendDiff(nil, p, change(r, p))
	op := AppendDiff(nil, []byte("aaaa"), []byte("abab"))
	joined, _ := (&Merge{operands: [][]byte{op, op}}).Finish(false)
	merged, _ := Apply(AppendRaw(nil, []byte("x")), op)
	mergedPage, _ := Apply(AppendS2(nil, p), pageOp, pageOp)
	most := append(binary.AppendUvarint([]byte{tagMerged}, maxMerged), "x"...)
	for _, stored := range [][]byte{
		nil,
		{0},
		AppendRaw(nil, []byte("x")), AppendS2(nil, []byte("xxxx")), op, joined, merged, most,
		AppendRaw(nil, p), AppendS2(nil, p), pageOp, mergedPage,
	} {
		f.Add(stored, AppendRaw(nil, []byte("base")))
		f.Add(op, stored)
		f.Add(stored, op)
		f.Add(pageOp, stored)
	}
	f.Fuzz(func(t *testing.T, stored, base []byte) {
		val, _, err := Decode(stored)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("decode: %v", err)
		}
		if out, _, aerr := AppendValue([]byte("before"), stored); (aerr == nil) != (err == nil) ||
			err == nil && string(out) != "before"+string(val) {
			t.Errorf("append: %q, %v, decode: %q, %v", out, aerr, val, err)
		}
		if n, lerr := Len(stored); err == nil && (lerr != nil || n != len(val)) {
			t.Errorf("length: %d, %v, want %d", n, lerr, len(val))
		}
		n, cerr := Check(stored)
		if IsOperand(stored) && (cerr == nil) != (err == nil) {
			t.Errorf("decode: %v, check: %v", err, cerr)
		}
		// A store applies anything to anything, in both directions.
		newer, err := mergeRun([][]byte{base, stored}, false, true)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("merge: %v", err)
		}
		older, olderr := mergeRun([][]byte{base, stored}, true, true)
		if err == nil && (olderr != nil || !bytes.Equal(older, newer)) {
			t.Errorf("merge backwards: %q, %v, want %q", older, olderr, newer)
		}
		if err == nil && cerr == nil && len(value(t, newer)) != n {
			t.Errorf("merge: %d bytes, want %d", len(value(t, newer)), n)
		}
		if half, err := mergeRun([][]byte{base, stored}, true, false); err == nil && len(half) == 0 {
			t.Error("merge of a part: nothing")
		}
		if _, _, err := Decode(base); err != nil || cerr != nil {
			return
		}
		got, err := Apply(base, stored)
		if err != nil || !bytes.Equal(got, newer) {
			t.Errorf("apply: %q, %v, want %q", got, err, newer)
		}
	})
}

// TestBounded: lengths that nothing stands behind cost no memory beyond the
// longest value.
func TestBounded(t *testing.T) {
	varint := func(tag byte, n uint64, more ...byte) []byte {
		return append(binary.AppendUvarint([]byte{tag}, n), more...)
	}
	sparse := varint(tagPatch, MaxLen)
	twice := append([]byte{tagPatches}, bytes.Repeat(append([]byte{byte(len(sparse) - 1)}, sparse[1:]...), 2)...)
	for name, c := range map[string]struct {
		stored []byte
		bytes  uint64
		ok     bool
	}{
		"S2 too long":     {varint(tagS2, MaxLen+1, 0), 1 << 12, false},
		"S2 of 4 GiB":     {varint(tagS2, 1<<32-1, 0), 1 << 12, false},
		"S2 of 2^63":      {varint(tagS2, 1<<63, 0), 1 << 12, false},
		"S2 but nothing":  {varint(tagS2, MaxLen, 0), MaxLen + 1<<16, false},
		"patch too long":  {varint(tagPatch, MaxLen+1), 1 << 12, false},
		"patch of 2^64":   {varint(tagPatch, 1<<64-1), 1 << 12, false},
		"gap of 2^64":     {append(varint(tagPatch, 9), varint(1, 1<<64-1, 1, 1)[1:]...), 1 << 12, false},
		"range of 2^64":   {append(varint(tagPatch, 9, 1), varint(1, 1<<64-1, 1, 1)[1:]...), 1 << 12, false},
		"patches of 2^64": {varint(tagPatches, 1<<64-1, 1), 1 << 12, false},
		"merged 2^64":     {varint(tagMerged, 1<<64-1, 1), 1 << 12, false},
		"sparse":          {sparse, MaxLen + 1<<16, true},
		"sparse, twice":   {twice, MaxLen + 1<<16, true},
	} {
		ways := map[string]func() error{
			"decode": func() error { _, _, err := Decode(c.stored); return err },
			"append": func() error { _, _, err := AppendValue(nil, c.stored); return err },
			"merge": func() error {
				_, err := mergeRun([][]byte{AppendRaw(nil, []byte("base")), c.stored}, false, true)
				return err
			},
			"length": func() error {
				if _, err := Len(c.stored); c.bytes < MaxLen {
					return err
				}
				_, _, err := Decode(c.stored)
				return err
			},
		}
		for way, do := range ways {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := do()
			runtime.ReadMemStats(&after)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: %v", name, way, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > c.bytes {
				t.Errorf("%s, %s: %d bytes of memory, want at most %d", name, way, n, c.bytes)
			}
		}
	}
}

// TestCountStops: the count of patches has an end, and the value can be read
// there.
func TestCountStops(t *testing.T) {
	stored := append(binary.AppendUvarint([]byte{tagMerged}, maxMerged-1), "x"...)
	op := AppendDiff(nil, []byte("x"), []byte("y"))
	for range 3 {
		var err error
		if stored, err = Apply(stored, op); err != nil {
			t.Fatal(err)
		}
		if val, n, err := Decode(stored); string(val) != "y" || n != maxMerged || err != nil {
			t.Errorf("%q after %d patches, %v", val, n, err)
		}
	}
}

// TestDiffEdges compares the diff with one that looks at byte by byte, at every
// alignment.
func TestDiffEdges(t *testing.T) {
	slow := func(old, new []byte, i int, want bool) int {
		for i < len(new) && same(old, new, i) != want {
			i++
		}
		return i
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		old, new := make([]byte, r.IntN(300)), make([]byte, r.IntN(300))
		for range r.IntN(6) {
			fill := func(b []byte, at, n int, c byte) {
				for i := at; i < min(len(b), at+n); i++ {
					b[i] = c
				}
			}
			at, n, c := r.IntN(300), r.IntN(40), byte(r.Uint32())
			fill(new, at, n, c)
			if r.IntN(2) == 0 {
				fill(old, at, n, c+byte(r.IntN(2))<<7)
			}
		}
		i := r.IntN(len(new) + 1)
		if got, want := differs(old, new, i), slow(old, new, i, false); got != want {
			t.Fatalf("differs(%x, %x, %d) = %d, want %d", old, new, i, got, want)
		}
		if got, want := equals(old, new, i), slow(old, new, i, true); got != want {
			t.Fatalf("equals(%x, %x, %d) = %d, want %d", old, new, i, got, want)
		}
	}
}

// TestMergeOrder merges chains in every grouping and both directions, as a store
// does when it compacts, and expects the same value.
func TestMergeOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() []byte {
		b := make([]byte, r.IntN(40))
		for i := range b {
			b[i] = byte(r.IntN(3))
		}
		return b
	}
	for range 2000 {
		var chain [][]byte // oldest first
		var want []byte
		if r.IntN(2) == 0 {
			want = random()
			chain = append(chain, AppendRaw(nil, want))
		}
		based := len(chain) == 1
		for range 1 + r.IntN(5) {
			next := random()
			chain = append(chain, AppendDiff(nil, want, next))
			want = next
		}
		patches := len(chain)
		if based {
			patches--
		}
		// Join runs of neighbours until one is left.
		for len(chain) > 1 {
			i := r.IntN(len(chain) - 1)
			j := i + 2 + r.IntN(len(chain)-i-1)
			complete := i == 0 && j == len(chain)
			joined, err := mergeRun(chain[i:j], r.IntN(2) == 0, complete)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain[:i:i], append([][]byte{joined}, chain[j:]...)...)
		}
		got, merged, err := Decode(chain[0])
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("merged to %q, %v, want %q", got, err, want)
		}
		if merged != patches {
			t.Fatalf("%d patches were counted, want %d", merged, patches)
		}
	}
}

func mergeRun(run [][]byte, backwards, complete bool) ([]byte, error) {
	var m Merge
	if !backwards {
		for _, stored := range run {
			if err := m.Newer(stored); err != nil {
				return nil, err
			}
		}
		return m.Finish(complete)
	}
	if err := m.Newer(run[len(run)-1]); err != nil {
		return nil, err
	}
	for i := len(run) - 2; i >= 0; i-- {
		if err := m.Older(run[i]); err != nil {
			return nil, err
		}
	}
	return m.Finish(complete)
}

// TestForm holds the bytes to the package comment: they are stored for ever.
func TestForm(t *testing.T) {
	op := AppendDiff(nil, []byte("abcdefghijkl"), []byte("aXcdefghiYk"))
	joined, _ := (&Merge{operands: [][]byte{op, {tagPatch, 0}}}).Finish(false)
	merged, _ := Apply(AppendRaw(nil, []byte("abcdefghijkl")), op)
	for name, c := range map[string]struct{ got, want []byte }{
		"raw":     {AppendRaw(nil, []byte("v")), []byte("\x01v")},
		"patch":   {op, []byte("\x03\x0b\x01\x01X\x07\x01Y")},
		"patches": {joined, []byte("\x04\x07\x0b\x01\x01X\x07\x01Y\x01\x00")},
		"merged":  {merged, []byte("\x05\x01aXcdefghiYk")},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s = %q, want %q", name, c.got, c.want)
		}
	}
	// An encoder may find other S2 blocks for a value, but this is one.
	s2 := []byte("\x02\xac\x02\x04ab\x11\x02\x19\x00\x1e\x00")
	if val := value(t, s2); string(val) != strings.Repeat("ab", 150) {
		t.Errorf("%q is %q", s2, val)
	}
}

func TestCorrupt(t *testing.T) {
	huge := binary.AppendUvarint([]byte{tagPatch}, MaxLen+1)
	for name, stored := range map[string][]byte{
		"empty":             {},
		"unknown tag":       {0x09, 1},
		"no length":         {tagPatch},
		"huge length":       huge,
		"range beyond end":  {tagPatch, 2, 1, 2, 'a', 'b'},
		"range without end": {tagPatch, 9, 1},
		"bytes missing":     {tagPatch, 9, 1, 5, 'a'},
		"no patches":        {tagPatches},
		"patch cut short":   {tagPatches, 9, 1},
		"bad S2":            {tagS2, 0xFF, 0xFF},
		"no count":          {tagMerged},
	} {
		if _, _, err := Decode(stored); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		var m Merge
		if err := m.Newer(stored); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s in a merge: %v", name, err)
		}
		if err := m.Older(stored); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s in a merge: %v", name, err)
		}
	}
}
