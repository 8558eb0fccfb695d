package patch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
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

func FuzzDiff(f *testing.F) {
	f.Add([]byte("hello world"), []byte("hello there"))
	f.Add([]byte{}, []byte("new"))
	f.Add([]byte("old"), []byte{})
	f.Add(make([]byte, 40), append(make([]byte, 50), 1))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		op := AppendDiff(nil, a, b)
		if n, err := Check(op); n != len(b) || err != nil {
			t.Fatalf("check: %d, %v", n, err)
		}
		for _, base := range [][]byte{AppendRaw(nil, a), AppendS2(nil, a)} {
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

// FuzzDecode: no bytes cause a panic, and what [Check] accepts can be applied.
func FuzzDecode(f *testing.F) {
	op := AppendDiff(nil, []byte("aaaa"), []byte("abab"))
	joined, _ := (&Merge{operands: [][]byte{op, op}}).Finish(false)
	merged, _ := Apply(AppendRaw(nil, []byte("x")), op)
	for _, stored := range [][]byte{nil, {0}, AppendRaw(nil, []byte("x")), AppendS2(nil, []byte("xxxx")), op, joined, merged} {
		f.Add(stored, []byte("base"))
	}
	f.Fuzz(func(t *testing.T, stored, base []byte) {
		_, _, err := Decode(stored)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("decode: %v", err)
		}
		n, cerr := Check(stored)
		if IsOperand(stored) && (cerr == nil) != (err == nil) {
			t.Errorf("decode: %v, check: %v", err, cerr)
		}
		if cerr != nil {
			return
		}
		got, err := Apply(AppendRaw(nil, base), stored)
		if err != nil || len(value(t, got)) != n {
			t.Errorf("apply: %d bytes, %v, want %d", len(got), err, n)
		}
	})
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

func BenchmarkDiff(b *testing.B) {
	old := bytes.Repeat([]byte("0123456789abcdef"), 256)
	new := bytes.Clone(old)
	new[100], new[3000] = 'x', 'y'
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = AppendDiff(dst[:0], old, new)
	}
}
