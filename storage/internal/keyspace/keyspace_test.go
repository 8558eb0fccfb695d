package keyspace

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/durable-go/durable/storage"
)

func objectOf(typ uint32, id []byte) storage.ObjectID {
	o := storage.ObjectID{Type: storage.TypeID(typ)}
	copy(o.ID[:], id)
	return o
}

func FuzzKey(f *testing.F) {
	f.Add(uint32(1), []byte{1}, []byte("a"), []byte("b"))
	f.Add(uint32(1), []byte{}, []byte{}, []byte{0})
	f.Add(uint32(9), []byte{0xFF}, []byte{0xFF, 0xFF}, []byte{0xFF})
	f.Fuzz(func(t *testing.T, typ uint32, id, a, b []byte) {
		o := objectOf(typ, id)
		ka, kb := AppendKey(nil, o, a), AppendKey(nil, o, b)
		if bytes.Compare(ka, kb) != bytes.Compare(a, b) {
			t.Errorf("%q and %q change their order", a, b)
		}
		got, key, err := CutKey(ka)
		if err != nil || got != o || !bytes.Equal(key, a) {
			t.Errorf("cut of the key of %q: %v, %q, %v", a, got, key, err)
		}
		if !bytes.Equal(ka, AppendPair(nil, AppendObject(nil, o), a)) {
			t.Error("AppendPair differs from AppendKey")
		}
		lo, hi := AppendObject(nil, o), AppendObjectEnd(nil, o)
		for _, k := range [][]byte{ka, AppendMeta(nil, o), AppendTimer(nil, o, 0xFF)} {
			if bytes.Compare(k, lo) < 0 || bytes.Compare(k, hi) >= 0 {
				t.Errorf("%x is outside of its object", k)
			}
			if bytes.Compare(k, ObjectsEnd) >= 0 {
				t.Errorf("%x is outside of the objects", k)
			}
		}
		if _, what, _, err := CutRecord(ka); what != RecordPair || err != nil {
			t.Error(what, err)
		}
		if bytes.Compare(AppendMeta(nil, o), ka) >= 0 || bytes.Compare(AppendTimer(nil, o, 0xFF), ka) >= 0 {
			t.Error("the engine's records do not come before the pairs")
		}
		// Bounds select what they say.
		for _, rng := range []storage.Range{{}, {Lo: a}, {Hi: a}, {Lo: a, Hi: b}} {
			lo, hi := AppendBounds(nil, nil, o, rng)
			if bytes.Compare(lo, hi) > 0 {
				t.Errorf("bounds of %+v: %x, %x", rng, lo, hi)
			}
			for _, key := range [][]byte{a, b, nil} {
				k := AppendKey(nil, o, key)
				in := bytes.Compare(k, lo) >= 0 && bytes.Compare(k, hi) < 0
				want := bytes.Compare(key, rng.Lo) >= 0 && (rng.Hi == nil || bytes.Compare(key, rng.Hi) < 0)
				if in != want {
					t.Errorf("%q in %+v: %t, want %t", key, rng, in, want)
				}
			}
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add(uint32(1), "a", "b", []byte{1}, []byte{2})
	f.Add(uint32(1), "a", "a\x00", []byte{1}, []byte{2})
	f.Add(uint32(0xFFFFFFFF), "", "\x00\x01", []byte{0xFF}, []byte{})
	f.Fuzz(func(t *testing.T, typ uint32, a, b string, ida, idb []byte) {
		oa, ob := objectOf(typ, ida), objectOf(typ, idb)
		ka, kb := AppendName(nil, oa, a), AppendName(nil, ob, b)
		want := strings.Compare(a, b)
		if want == 0 {
			want = bytes.Compare(oa.ID[:], ob.ID[:])
		}
		if bytes.Compare(ka, kb) != want {
			t.Errorf("%q and %q change their order", a, b)
		}
		o, name, err := CutName(ka)
		if err != nil || o != oa || name != a {
			t.Errorf("cut of the name %q: %v, %q, %v", a, o, name, err)
		}
		within := func(k []byte, q storage.ObjectQuery) bool {
			lo, hi := Names(q)
			return bytes.Compare(k, lo) >= 0 && bytes.Compare(k, hi) < 0
		}
		q := storage.ObjectQuery{Type: oa.Type, Prefix: b}
		if within(ka, q) != strings.HasPrefix(a, b) {
			t.Errorf("%q with the prefix %q: %t", a, b, within(ka, q))
		}
		q.After = &storage.Object{ObjectID: ob, Meta: storage.Meta{Name: b}}
		if within(ka, q) != (strings.HasPrefix(a, b) && want > 0) {
			t.Errorf("%q after %q: %t", a, b, within(ka, q))
		}
	})
}

func FuzzTime(f *testing.F) {
	f.Add(int64(0), int64(1), uint8(0))
	f.Add(int64(-1), int64(1), uint8(0xFF))
	f.Fuzz(func(t *testing.T, a, b int64, kind uint8) {
		o := objectOf(1, nil)
		ka, kb := AppendTime(nil, a, o, kind), AppendTime(nil, b, o, kind)
		if (bytes.Compare(ka, kb) < 0) != (a < b) {
			t.Errorf("%d and %d change their order", a, b)
		}
		got, err := CutTime(ka)
		if err != nil || got.Object != o || got.Kind != kind || got.Due.UnixMilli() != a {
			t.Errorf("cut of %d: %+v, %v", a, got, err)
		}
		lo, hi := Times(time.UnixMilli(b))
		if in := bytes.Compare(ka, lo) >= 0 && bytes.Compare(ka, hi) < 0; in != (a <= b) {
			t.Errorf("%d until %d: %t", a, b, in)
		}
	})
}

// FuzzCut: no bytes make the cutters panic, and what they accept is what the
// appenders make.
func FuzzCut(f *testing.F) {
	o := objectOf(1, []byte{1})
	for _, k := range [][]byte{
		nil, Info, AppendKey(nil, o, []byte("k")), AppendMeta(nil, o), AppendTimer(nil, o, 3),
		AppendName(nil, o, "a\x00"), AppendTime(nil, 5, o, 1), AppendType(nil, "room"),
	} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, k []byte) {
		if o, key, err := CutKey(k); err == nil && !bytes.Equal(AppendKey(nil, o, key), k) {
			t.Errorf("key %x", k)
		}
		if o, name, err := CutName(k); err == nil && !bytes.Equal(AppendName(nil, o, name), k) {
			t.Errorf("name %x", k)
		}
		if tm, err := CutTime(k); err == nil && !bytes.Equal(AppendTime(nil, tm.Due.UnixMilli(), tm.Object, tm.Kind), k) {
			t.Errorf("time %x", k)
		}
		if name, err := CutType(k); err == nil && !bytes.Equal(AppendType(nil, name), k) {
			t.Errorf("type %x", k)
		}
		if o, what, kind, err := CutRecord(k); err == nil {
			switch what {
			case RecordMeta:
				if !bytes.Equal(AppendMeta(nil, o), k) {
					t.Errorf("meta %x", k)
				}
			case RecordTimer:
				if !bytes.Equal(AppendTimer(nil, o, kind), k) {
					t.Errorf("timer %x", k)
				}
			}
		}
	})
}

func TestDue(t *testing.T) {
	at := time.UnixMilli(1000)
	for _, c := range []struct {
		t    time.Time
		want int64
	}{{at, 1000}, {at.Add(1), 1001}, {at.Add(999_999), 1001}, {at.Add(-1), 1000}, {time.UnixMilli(-5).Add(1), -4}} {
		if got := Due(c.t); got != c.want {
			t.Errorf("due %v = %d, want %d", c.t, got, c.want)
		}
	}
}
