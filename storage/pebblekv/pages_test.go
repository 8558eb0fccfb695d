package pebblekv

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
	"github.com/durable-go/durable/storage/storagetest"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replays a random test; 0 draws a seed")
	stepsFlag = flag.Int("steps", 0, "the length of a random test; 0 means a few seconds")
)

// TestPages writes pages as SQL does, whole and as patches, under flushes,
// compactions of ranges, held snapshots, reopening and power cuts, and compares
// with a plain map all along.
func TestPages(t *testing.T) {
	seed, steps := *seedFlag, *stepsFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	if steps == 0 {
		steps = storagetest.Scale(15_000)
	}
	t.Logf("replay with -run=TestPages -seed=%d -steps=%d", seed, steps)
	w := &pageWalk{
		T: t, fs: vfs.NewCrashableMem(),
		objects: make([]storage.ObjectID, 4), now: pageModel{}, durable: pageModel{},
	}
	w.open()
	typ, err := w.s.Type(t.Context(), "pages")
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.objects {
		w.objects[i].Type = typ
		w.objects[i].ID[0] = byte(i)
	}
	w.claim()
	for ; w.steps < steps; w.steps++ {
		// After a power cut the state depends on the disk. What is drawn in later
		// steps does not.
		w.r = rand.New(rand.NewPCG(seed, uint64(w.steps)))
		w.step()
		if t.Failed() {
			t.Fatalf("in step %d", w.steps)
		}
	}
	w.compare()
	w.reopen()
	w.compare()
	w.shut()
	t.Logf("%+v", w.did)
}

// A pageModel is what the objects hold. Pages in it are never changed.
type pageModel map[pageKey]modelPage

type pageKey struct {
	object int
	number uint32
}

type modelPage struct {
	val     []byte
	patches int
}

func (m pageModel) apply(c pageCommit) {
	if c.wipe {
		maps.DeleteFunc(m, func(k pageKey, _ modelPage) bool { return k.object == c.object })
	}
	for number, p := range c.pages {
		if k := (pageKey{c.object, number}); p == nil {
			delete(m, k)
		} else {
			m[k] = *p
		}
	}
}

// A pageCommit is what a batch does to the model. A nil page is deleted.
type pageCommit struct {
	object  int
	wipe    bool
	pages   map[uint32]*modelPage
	pending *storage.Pending
}

type pageWalk struct {
	*testing.T
	r       *rand.Rand
	fs      *vfs.MemFS
	e       *Engine
	s       storage.Session
	objects []storage.ObjectID
	shards  []storage.Shard // of the objects

	now     pageModel
	durable pageModel    // without the commits that follow
	commits []pageCommit // not known to be durable
	held    []heldPages
	steps   int
	did     struct{ puts, merges, wipes, flushes, compactions, snapshots, reopened, cuts, lost int }
}

type heldPages struct {
	storage.Snapshot
	object int
	m      pageModel
	at     int
}

func (w *pageWalk) open() {
	w.Helper()
	// A small memtable is flushed often, and its tables compacted.
	w.e, w.s = start(w.T, "store", Options{FS: w.fs, MemTableSize: 256 << 10, MinSyncInterval: -1})
}

func (w *pageWalk) claim() {
	w.Helper()
	w.shards = nil
	for _, o := range w.objects {
		w.shards = append(w.shards, claim(w.T, w.s, o))
	}
}

func (w *pageWalk) shut() {
	w.Helper()
	for _, h := range w.held {
		h.Close()
	}
	w.held = nil
	if err := w.e.Close(); err != nil {
		w.Error(err)
	}
}

func (w *pageWalk) step() {
	switch n := w.r.IntN(1000); {
	case n < 700:
		w.commit()
	case n < 900:
		i := w.r.IntN(len(w.objects))
		w.read(w.shards[i], w.now, i)
	case n < 930:
		w.snapshot()
	case n < 945:
		w.flush()
	case n < 960:
		w.compact()
	case n < 980:
		w.settle()
	case n < 990:
		w.compare()
	case n < 991:
		w.reopen()
	case n < 993:
		w.cut()
	}
}

// commit commits random changes of one object.
func (w *pageWalk) commit() {
	i := w.r.IntN(len(w.objects))
	c := pageCommit{object: i, wipe: w.r.IntN(150) == 0, pages: map[uint32]*modelPage{}}
	b := &storage.Batch{Object: w.objects[i], Create: &storage.Meta{Created: time.UnixMilli(1)}, Wipe: c.wipe}
	if c.wipe {
		w.did.wipes++
	}
	for range w.r.IntN(8) {
		number := 1 + uint32(w.r.IntN(60))
		if w.r.IntN(2) == 0 {
			number = 1 + number%5 // some pages change more often than others
		}
		if _, ok := c.pages[number]; ok {
			continue
		}
		old := w.now[pageKey{i, number}]
		if c.wipe {
			old = modelPage{}
		}
		key := pageNumber(number)
		switch n := w.r.IntN(20); {
		case n == 0:
			c.pages[number] = nil
			b.Del = append(b.Del, key)
		case n < 3 || old.patches > 24 && w.r.IntN(4) > 0:
			val := w.page()
			c.pages[number] = &modelPage{val: val}
			b.Put = append(b.Put, storage.Pair{Key: key, Val: val})
			w.did.puts++
		default:
			val := w.change(old.val)
			c.pages[number] = &modelPage{val, old.patches + 1}
			b.Merge = append(b.Merge, storage.Pair{Key: key, Val: patch.AppendDiff(nil, old.val, val)})
			w.did.merges++
		}
	}
	c.pending = w.shards[i].Commit(b)
	if ok, err := c.pending.Resolved(); ok && err != nil {
		w.Fatal(err)
	}
	w.commits = append(w.commits, c)
	w.now.apply(c)
}

func pageNumber(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{'s'}, n) }

// page draws a page: mostly like a page of SQLite, sometimes noise or short.
func (w *pageWalk) page() []byte {
	size := 4096
	if w.r.IntN(10) == 0 {
		size = w.r.IntN(1000)
	}
	p := make([]byte, size)
	switch w.r.IntN(8) {
	case 0: // zeros
	case 1:
		for i := range p {
			p[i] = byte(w.r.Uint32())
		}
	default:
		for at := w.r.IntN(size + 1); at < size; {
			at += copy(p[at:], fmt.Sprintf("record %d of this page;", w.r.IntN(1e6)))
		}
	}
	return p
}

// change returns a page after an update: a few ranges, perhaps another length.
func (w *pageWalk) change(old []byte) []byte {
	p := bytes.Clone(old)
	if len(p) < 4096 && w.r.IntN(3) > 0 || w.r.IntN(30) == 0 {
		size := 4096
		if w.r.IntN(3) == 0 {
			size = w.r.IntN(5000)
		}
		p = append(p[:min(size, len(p))], make([]byte, max(0, size-len(p)))...)
	}
	if len(p) == 0 {
		return p
	}
	for range w.r.IntN(5) {
		at := w.r.IntN(len(p))
		for i := at; i < min(len(p), at+1+w.r.IntN(60)); i++ {
			p[i] = byte(w.r.IntN(3)) // often what was there
		}
	}
	return p
}

// read compares some pages of an object, by key and by range, with a model.
func (w *pageWalk) read(r storage.Reader, m pageModel, object int) {
	w.Helper()
	o := w.objects[object]
	for range 5 {
		k := pageKey{object, 1 + uint32(w.r.IntN(60))}
		val, patches, ok, err := r.GetPatched(w.Context(), o, pageNumber(k.number))
		want, exists := m[k]
		if err != nil || ok != exists || patches != want.patches || !bytes.Equal(val, want.val) {
			w.Errorf("page %v: %t, %d patches, %x, %v\nwant %t, %d, %x", k, ok, patches, val, err, exists, want.patches, want.val)
			return
		}
	}
	lo, hi := uint32(w.r.IntN(61)), uint32(w.r.IntN(62))
	rng := storage.Range{Lo: pageNumber(lo), Hi: pageNumber(hi), Reverse: w.r.IntN(2) == 0}
	var numbers []uint32
	for k := range m {
		if k.object == object && k.number >= lo && k.number < hi {
			numbers = append(numbers, k.number)
		}
	}
	slices.Sort(numbers)
	if rng.Reverse {
		slices.Reverse(numbers)
	}
	n := 0
	for p, err := range r.Scan(w.Context(), o, rng) {
		if err != nil || n == len(numbers) || !bytes.Equal(p.Key, pageNumber(numbers[n])) ||
			!bytes.Equal(p.Val, m[pageKey{object, numbers[n]}].val) {
			w.Errorf("scan of object %d from %d to %d: wrong at %q, the %dth: %v", object, lo, hi, p.Key, n, err)
			return
		}
		n++
	}
	if n != len(numbers) {
		w.Errorf("scan of object %d from %d to %d: %d pages, want %d", object, lo, hi, n, len(numbers))
	}
}

// snapshot takes a snapshot, or reads the oldest and perhaps closes it.
func (w *pageWalk) snapshot() {
	if len(w.held) < 4 {
		i := w.r.IntN(len(w.objects))
		snap, err := w.shards[i].Snapshot(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		w.held = append(w.held, heldPages{snap, i, maps.Clone(w.now), w.steps})
		w.did.snapshots++
		return
	}
	i := w.r.IntN(len(w.held))
	h := w.held[i]
	w.compareObject(h, h.m, h.object)
	w.read(h, h.m, h.object)
	if w.Failed() {
		w.Fatalf("in a snapshot that was taken at step %d", h.at)
	}
	if w.r.IntN(3) == 0 {
		h.Close()
		w.held = slices.Delete(w.held, i, i+1)
	}
}

func (w *pageWalk) flush() {
	w.did.flushes++
	if err := w.e.db.Flush(); err != nil {
		w.Fatal(err)
	}
}

// compact compacts all, an object or some of its pages.
func (w *pageWalk) compact() {
	w.did.compactions++
	lo, hi := []byte{0}, []byte{0xFF}
	if w.r.IntN(3) > 0 {
		o := w.objects[w.r.IntN(len(w.objects))]
		rng := storage.Range{Lo: pageNumber(uint32(w.r.IntN(30)))}
		if w.r.IntN(2) == 0 {
			rng.Hi = pageNumber(uint32(31 + w.r.IntN(30)))
		}
		lo, hi = keyspace.AppendBounds(nil, nil, o, rng)
	}
	if err := w.e.db.Compact(w.Context(), lo, hi, w.r.IntN(2) == 0); err != nil {
		w.Fatal(err)
	}
}

// settle waits for all commits.
func (w *pageWalk) settle() {
	w.Helper()
	for _, c := range w.commits {
		if err := c.pending.Wait(); err != nil {
			w.Fatal(err)
		}
	}
	w.commits = nil
	w.durable = maps.Clone(w.now)
}

func (w *pageWalk) compare() {
	w.Helper()
	for i := range w.objects {
		w.compareObject(w.shards[i], w.now, i)
	}
}

// compareObject compares every page of an object.
func (w *pageWalk) compareObject(r storage.Reader, m pageModel, object int) {
	w.Helper()
	got, err := w.load(r, object)
	if err != nil {
		w.Fatal(err)
	}
	for number := range uint32(62) {
		k := pageKey{object, number}
		a, b := m[k], got[k]
		if a.patches != b.patches || !bytes.Equal(a.val, b.val) {
			w.Errorf("page %v: %d patches, %x, want %d, %x", k, b.patches, b.val, a.patches, a.val)
		}
	}
}

// load returns what is stored of an object.
func (w *pageWalk) load(r storage.Reader, object int) (pageModel, error) {
	o := w.objects[object]
	got := pageModel{}
	for p, err := range r.Scan(w.Context(), o, storage.Range{}) {
		if err != nil {
			return nil, err
		}
		val, patches, _, err := r.GetPatched(w.Context(), o, p.Key)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(val, p.Val) {
			return nil, fmt.Errorf("page %q: scan and get differ", p.Key)
		}
		got[pageKey{object, binary.BigEndian.Uint32(p.Key[1:])}] = modelPage{val, patches}
	}
	return got, nil
}

func (w *pageWalk) reopen() {
	w.did.reopened++
	w.settle()
	w.shut()
	w.open()
	w.claim()
}

// cut takes the power away, with anything from none to all of the unsynced data
// kept, and goes on with what is left: all that was acknowledged, and of the
// rest the first so many commits.
func (w *pageWalk) cut() {
	w.did.cuts++
	for len(w.commits) > 0 {
		ok, err := w.commits[0].pending.Resolved()
		if err != nil {
			w.Fatal(err)
		}
		if !ok {
			break
		}
		w.durable.apply(w.commits[0])
		w.commits = w.commits[1:]
	}
	clone := w.fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: []int{0, 0, 30, 70, 100}[w.r.IntN(5)], RNG: rand.New(rand.NewPCG(w.r.Uint64(), 0)),
	})
	w.shut()
	w.fs = clone
	w.open()
	w.claim()
	got := pageModel{}
	for i := range w.objects {
		m, err := w.load(w.shards[i], i)
		if err != nil {
			w.Fatal(err)
		}
		maps.Copy(got, m)
	}
	same := func(a, b modelPage) bool { return a.patches == b.patches && bytes.Equal(a.val, b.val) }
	lost := w.commits
	for !maps.EqualFunc(w.durable, got, same) {
		if len(lost) == 0 {
			w.Fatalf("after the power cut of step %d the store is in no state from the last acknowledged commit to the %dth after it",
				w.steps, len(w.commits))
		}
		w.durable.apply(lost[0])
		lost = lost[1:]
	}
	w.did.lost += len(lost)
	w.commits, w.now = nil, maps.Clone(w.durable)
}
