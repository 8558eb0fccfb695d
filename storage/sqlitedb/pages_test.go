package sqlitedb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
	"github.com/durable-go/durable/storage/memkv"
)

var seedFlag = flag.Uint64("seed", 0, "replays a random test; 0 draws a seed")

// seed returns the seed of a random test and says how to use it again.
func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("go test -run '^%s$' -seed=%d", t.Name(), s)
	return s
}

// testShard returns the shard of an object in a new store.
func testShard(t testing.TB, o storage.ObjectID) (*memkv.Store, storage.Shard) {
	t.Helper()
	store := memkv.New(memkv.Options{})
	session, err := store.Join(t.Context(), storage.Node{ID: "n"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := session.Claim(t.Context(), []storage.ShardID{o.Shard()})
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	return store, got[0]
}

// A faultyReader fails its reads of values when it is told to.
type faultyReader struct {
	storage.Reader
	err  error // what the reads fail with
	left int   // how many go well before that
}

func (r *faultyReader) GetPatched(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	if r.err != nil {
		if r.left--; r.left < 0 {
			return nil, 0, false, r.err
		}
	}
	return r.Reader.GetPatched(ctx, o, key)
}

// A plainFile is what pages should be like. A page below count that is not in
// content was never written since it came: its bytes may be anything.
type plainFile struct {
	count   uint32
	content map[uint32][]byte
}

func (f *plainFile) clone() plainFile { return plainFile{f.count, maps.Clone(f.content)} }

type pagesTest struct {
	*testing.T
	rng    *rand.Rand
	store  *memkv.Store
	shard  storage.Shard
	reader *faultyReader
	object storage.ObjectID
	size   int
	pages  pages
	now    plainFile
	stored plainFile
	wiped  bool
	done   map[string]int
}

// TestPages: pages are a file that only commits change for good, whatever is
// written, cut, undone and refused in between.
func TestPages(t *testing.T) {
	s := seed(t)
	done := map[string]int{}
	for i, size := range []int{512, 1024, 4096, 8192, 65536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			o := storage.ObjectID{Type: 1, ID: [32]byte{byte(i)}}
			store, shard := testShard(t, o)
			p := &pagesTest{
				T: t, rng: rand.New(rand.NewPCG(s, uint64(i))), store: store, shard: shard,
				reader: &faultyReader{Reader: shard}, object: o, size: size, done: done,
			}
			p.now.content, p.stored.content = map[uint32][]byte{}, map[uint32][]byte{}
			p.pages = pages{object: o, reader: p.reader, ctx: t.Context()}
			p.load()
			steps := 6000
			if size > 4096 {
				steps = 1500
			}
			for step := range steps {
				p.step()
				if t.Failed() {
					t.Fatalf("step %d", step)
				}
			}
			for range 4 * maxPatches { // chance alone seldom gets a page so far
				p.nudge(2)
				p.commit()
			}
		})
	}
	if testing.Verbose() {
		t.Log(done)
	}
	for _, what := range []string{"put", "merge", "drop", "wipe", "patches", "undone", "refused", "read failed"} {
		if done[what] == 0 && !t.Failed() {
			t.Errorf("the test never did: %s", what)
		}
	}
}

func (p *pagesTest) load() {
	p.Helper()
	if err := p.pages.load(); err != nil {
		p.Fatal(err)
	}
	if p.stored.count == 0 { // an import would set it
		p.pages.size = p.size
	}
	p.now, p.wiped = p.stored.clone(), false
}

func (p *pagesTest) step() {
	switch k := p.rng.IntN(100); {
	case k < 50:
		p.write(p.somePage(3))
	case k < 70:
		p.compare(&p.pages, p.somePage(1), &p.now)
	case k < 73:
		p.truncate(p.somePage(0))
	case k < 90:
		p.commit()
	case k < 94:
		p.done["undone"]++
		p.pages.rollback()
		if p.wiped {
			p.load()
		}
		p.now = p.stored.clone()
	case k < 95:
		p.done["wipe"]++
		p.pages.wipe()
		p.pages.size = p.size
		p.now, p.wiped = plainFile{content: map[uint32][]byte{}}, true
	case k < 97:
		p.load()
	default:
		p.compareStored()
	}
}

// somePage returns a page up to beyond pages after the end, often one of the
// first.
func (p *pagesTest) somePage(beyond int) uint32 {
	if p.rng.IntN(2) == 0 {
		return uint32(p.rng.IntN(min(6, int(p.now.count)+beyond+1))) + 1
	}
	return uint32(p.rng.IntN(int(min(p.now.count, 70))+beyond+1)) + 1
}

func (p *pagesTest) write(n uint32) {
	data := make([]byte, p.size)
	old := p.now.content[n]
	switch k := p.rng.IntN(10); {
	case k < 7 && old != nil: // a few bytes
		copy(data, old)
		for range p.rng.IntN(4) {
			at := p.rng.IntN(p.size)
			for i := at; i < min(p.size, at+1+p.rng.IntN(30)); i++ {
				data[i] = byte(p.rng.Uint32())
			}
		}
	case k < 8: // all
		for i := range data {
			data[i] = byte(p.rng.Uint32())
		}
	default: // mostly zeros
		data[p.rng.IntN(p.size)] = byte(p.rng.Uint32())
	}
	p.now.count = max(p.now.count, n)
	p.now.content[n] = data
	given := bytes.Clone(data)
	if err := p.pages.write(given, int64(n-1)*int64(p.size)); err != nil {
		p.Fatal(err)
	}
	clear(given) // it is SQLite's
}

// nudge changes one byte of a page.
func (p *pagesTest) nudge(n uint32) {
	data := make([]byte, p.size)
	copy(data, p.now.content[n])
	data[p.rng.IntN(p.size)]++
	p.now.count = max(p.now.count, n)
	p.now.content[n] = data
	if err := p.pages.write(bytes.Clone(data), int64(n-1)*int64(p.size)); err != nil {
		p.Fatal(err)
	}
}

func (p *pagesTest) truncate(n uint32) {
	n = min(n, p.now.count)
	p.pages.truncate(int64(n) * int64(p.size))
	p.now.count = n
	maps.DeleteFunc(p.now.content, func(m uint32, _ []byte) bool { return m > n })
}

// head writes page 1 as SQLite does.
func (p *pagesTest) head() {
	data := make([]byte, p.size)
	if old := p.now.content[1]; old != nil {
		copy(data, old)
	}
	p.now.count = max(p.now.count, 1)
	copy(data, headerMagic)
	binary.BigEndian.PutUint16(data[16:], uint16(p.size)) // 65536 is 1 there
	if p.size == 65536 {
		binary.BigEndian.PutUint16(data[16:], 1)
	}
	binary.BigEndian.PutUint32(data[28:], p.now.count)
	p.now.content[1] = data
	if err := p.pages.write(data, 0); err != nil {
		p.Fatal(err)
	}
}

func (p *pagesTest) commit() {
	empty := p.now.count == 0 && p.rng.IntN(2) == 0 // only wiped or cut
	if !empty || !p.wiped && p.stored.count > 0 {
		p.head()
	}
	changed := len(p.pages.dirty) > 0 || !p.pages.wiped && p.pages.count < p.pages.stored
	b := &storage.Batch{Object: p.object, Wipe: p.wiped, Create: &storage.Meta{}}
	fail := p.rng.IntN(12)
	if fail == 0 {
		p.reader.err, p.reader.left = storage.ErrUnavailable, p.rng.IntN(4)
	}
	err := p.pages.flush(b)
	p.reader.err = nil
	if err != nil {
		if fail != 0 || !errors.Is(err, storage.ErrUnavailable) {
			p.Fatal(err)
		}
		p.done["read failed"]++
		p.load()
		return
	}
	if !changed && len(b.Put)+len(b.Merge)+len(b.Drop) > 0 {
		p.Error("pages that did not change have something to store")
	}
	p.checkBatch(b)
	if fail == 1 {
		p.store.Fill(true)
	}
	err = p.shard.Commit(b).Wait()
	p.store.Fill(false)
	switch {
	case fail == 1 && errors.Is(err, storage.ErrNoSpace):
		p.done["refused"]++
		p.load()
		return
	case err != nil:
		p.Fatal(err)
	}
	p.pages.committed()
	p.stored, p.wiped = p.now.clone(), false
	p.done["put"] += len(b.Put)
	p.done["merge"] += len(b.Merge)
	p.done["drop"] += len(b.Drop)
	p.checkImages()
}

func (p *pagesTest) checkBatch(b *storage.Batch) {
	seen := map[string]bool{}
	for _, pair := range append(append([]storage.Pair{}, b.Put...), b.Merge...) {
		if seen[string(pair.Key)] {
			p.Errorf("the batch has the key %x twice", pair.Key)
		}
		seen[string(pair.Key)] = true
	}
	for _, pair := range b.Put {
		if len(pair.Val) != p.size {
			p.Errorf("the whole page %x has %d bytes", pair.Key, len(pair.Val))
		}
	}
	for _, pair := range b.Merge {
		if b.Wipe {
			p.Error("the batch of a wiped object has patches")
		}
		if n, err := patch.Check(pair.Val); err != nil || n != p.size {
			p.Errorf("the patch of %x makes %d bytes, %v", pair.Key, n, err)
		}
		if len(pair.Val) > p.size/2 {
			p.Errorf("the patch of %x has %d bytes", pair.Key, len(pair.Val))
		}
	}
}

// checkImages looks at what is kept of stored pages, and that no buffer has two
// owners.
func (p *pagesTest) checkImages() {
	owners := map[*byte]string{}
	own := func(b []byte, name string) {
		if other, ok := owners[&b[0]]; ok {
			p.Errorf("%s and %s share a buffer", name, other)
		}
		owners[&b[0]] = name
	}
	for _, img := range p.pages.images {
		own(img.data, fmt.Sprint("image ", img.page))
		val, patches, ok, err := p.shard.GetPatched(p.Context(), p.object, pageKey(img.page))
		if err != nil {
			p.Fatal(err)
		}
		if !ok || !bytes.Equal(val, img.data) {
			p.Errorf("the image of page %d of %d is not what is stored (%v)", img.page, p.pages.stored, ok)
		}
		if patches != img.patches || patches > maxPatches {
			p.Errorf("page %d has %d patches, its image says %d", img.page, patches, img.patches)
		}
		if patches == maxPatches {
			p.done["patches"]++
		}
	}
	for n, data := range p.pages.dirty {
		own(data, fmt.Sprint("dirty page ", n))
	}
	for i, data := range p.pages.spare {
		own(data, fmt.Sprint("spare buffer ", i))
	}
	if len(p.pages.images) > maxImages || len(p.pages.spare) > maxImages {
		p.Errorf("%d images, %d spare buffers", len(p.pages.images), len(p.pages.spare))
	}
}

// compare reads a part of page n, and the whole.
func (p *pagesTest) compare(in *pages, n uint32, want *plainFile) {
	buf := make([]byte, p.size)
	ok, err := in.read(buf, int64(n-1)*int64(p.size))
	if err != nil {
		p.Fatal(err)
	}
	if ok != (n <= want.count) {
		p.Errorf("page %d of %d is there: %v", n, want.count, ok)
	}
	if !ok {
		return
	}
	if content := want.content[n]; content != nil && !bytes.Equal(buf, content) {
		p.Errorf("page %d of %d differs", n, want.count)
	}
	at := p.rng.IntN(p.size)
	part := make([]byte, p.rng.IntN(p.size-at)+1)
	if _, err := in.read(part, int64(n-1)*int64(p.size)+int64(at)); err != nil {
		p.Fatal(err)
	}
	if !bytes.Equal(part, buf[at:at+len(part)]) {
		p.Errorf("bytes %d to %d of page %d differ", at, at+len(part), n)
	}
}

// compareStored looks at what is stored as a new connection would, and at all
// that is there.
func (p *pagesTest) compareStored() {
	fresh := pages{object: p.object, reader: p.shard, ctx: p.Context()}
	if err := fresh.load(); err != nil {
		p.Fatal(err)
	}
	if p.stored.count == 0 {
		fresh.size = p.size
	}
	if fresh.count != p.stored.count || fresh.size != p.size {
		p.Errorf("%d pages of %d bytes are stored, instead of %d of %d", fresh.count, fresh.size, p.stored.count, p.size)
	}
	for n := range p.stored.count + 2 {
		p.compare(&fresh, n+1, &p.stored)
	}
	for pair, err := range p.shard.Scan(p.Context(), p.object, storage.Range{}) {
		if err != nil {
			p.Fatal(err)
		}
		if n := binary.BigEndian.Uint32(pair.Key[1:]); pair.Key[0] != storage.SQLSpace || n == 0 || n > p.stored.count {
			p.Errorf("the key %x is stored, with %d pages", pair.Key, p.stored.count)
		}
	}
}

// TestPagesTooMany: a commit has a limit.
func TestPagesTooMany(t *testing.T) {
	p := pages{size: 65536}
	data := make([]byte, p.size)
	for n := range int64(maxDirty) / int64(p.size) {
		if err := p.write(data, n*int64(p.size)); err != nil {
			t.Fatal(err)
		}
	}
	last := int64(maxDirty)
	if err := p.write(data, last); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("one page more: %v", err)
	}
	if err := p.write(data, 0); err != nil {
		t.Errorf("a page that changed already: %v", err)
	}
	if err := p.write(data[1:], 0); err == nil {
		t.Error("a part of a page was written")
	}
	if _, err := p.read(make([]byte, 10), int64(p.size)-5); err == nil {
		t.Error("a read across pages went well")
	}
}
