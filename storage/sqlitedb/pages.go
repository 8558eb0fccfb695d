package sqlitedb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/patch"
)

// pageSize is that of new databases. Imported ones keep theirs.
const pageSize = 4096

const (
	// maxPatches is how many patches are stored on top of a page before it is
	// stored whole again: a read folds them.
	maxPatches = 24
	// maxImages is how many pages are kept as they are stored, to make patches
	// against.
	maxImages = 24
	// maxDirty bounds the pages that one commit may change, in bytes: they are
	// held in memory until then.
	maxDirty = 256 << 20
)

// errTooMuch is returned for a transaction over maxDirty.
var errTooMuch = &storage.LimitError{
	Err: storage.ErrTooLarge, What: "bytes of SQL pages changed in one commit", Max: maxDirty, Actual: maxDirty + 1,
}

func pageKey(n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 5), storage.SQLSpace), n)
}

// pages are the pages of one database as one connection sees them: those stored
// and, over them, those that were written since. Pages are numbered from 1. The
// caller serializes all use.
type pages struct {
	object storage.ObjectID
	reader storage.Reader
	ctx    context.Context // of the statement that runs

	size   int    // of a page
	count  uint32 // of pages now
	stored uint32 // of pages in the store
	wiped  bool   // the stored ones do not count

	dirty  map[uint32][]byte
	images []image
	clock  uint64
	spare  [][]byte // buffers to write pages to
}

// An image is a page as it is stored.
type image struct {
	page    uint32
	data    []byte
	patches int    // stored on top of the whole page
	bytes   int    // of those patches, as far as they are known
	used    uint64 // clock of the last use
	shared  bool   // the store has the data, too
}

// load forgets everything and looks at what is stored.
func (p *pages) load() error {
	p.rollback()
	p.images, p.spare = p.images[:0], nil // the size may be another one
	p.size, p.count, p.stored = pageSize, 0, 0
	head, patches, ok, err := p.reader.GetPatched(p.ctx, p.object, pageKey(1))
	if err != nil || !ok {
		return err
	}
	h, err := parseHeader(head)
	if err != nil {
		return err
	}
	if len(head) != h.pageSize {
		return fmt.Errorf("%w: SQL page 1 has %d bytes instead of %d", storage.ErrCorrupt, len(head), h.pageSize)
	}
	p.size, p.count, p.stored = h.pageSize, h.pages, h.pages
	p.keep(image{page: 1, data: head, patches: patches})
	return nil
}

// read fills buf from a place within one page. It reports whether there is such
// a page.
func (p *pages) read(buf []byte, off int64) (ok bool, err error) {
	n, at := uint32(off/int64(p.size))+1, int(off%int64(p.size))
	if at+len(buf) > p.size {
		return false, errors.New("a read across pages")
	}
	if n > p.count {
		return false, nil
	}
	if data, ok := p.dirty[n]; ok {
		copy(buf, data[at:])
		return true, nil
	}
	img, err := p.image(n)
	if err != nil {
		return false, err
	}
	if img == nil {
		clear(buf) // SQLite need not write a page that it does not use
		return true, nil
	}
	copy(buf, img.data[at:])
	return true, nil
}

// image returns a page as it is stored, nil when it is not.
func (p *pages) image(n uint32) (*image, error) {
	p.clock++
	for i := range p.images {
		if img := &p.images[i]; img.page == n {
			img.used = p.clock
			return img, nil
		}
	}
	if p.wiped || n > p.stored {
		return nil, nil
	}
	data, patches, ok, err := p.reader.GetPatched(p.ctx, p.object, pageKey(n))
	if err != nil {
		return nil, fmt.Errorf("SQL page %d: %w", n, err)
	}
	if !ok {
		return nil, nil
	}
	if len(data) != p.size {
		return nil, fmt.Errorf("%w: SQL page %d has %d bytes instead of %d", storage.ErrCorrupt, n, len(data), p.size)
	}
	return p.keep(image{page: n, data: data, patches: patches}), nil
}

// keep remembers an image in place of the one that was not used for longest.
func (p *pages) keep(img image) *image {
	p.clock++
	img.used = p.clock
	oldest := -1
	for i := range p.images {
		switch {
		case p.images[i].page == img.page:
			p.retire(p.images[i])
			p.images[i] = img
			return &p.images[i]
		case oldest < 0 || p.images[i].used < p.images[oldest].used:
			oldest = i
		}
	}
	if len(p.images) < maxImages {
		p.images = append(p.images, img)
		return &p.images[len(p.images)-1]
	}
	p.retire(p.images[oldest])
	p.images[oldest] = img
	return &p.images[oldest]
}

// retire takes the buffer of an image back, if it is ours alone.
func (p *pages) retire(img image) {
	if !img.shared && len(img.data) == p.size && len(p.spare) < maxImages {
		p.spare = append(p.spare, img.data)
	}
}

// write takes a copy of one whole page.
func (p *pages) write(data []byte, off int64) error {
	if len(data) != p.size || off%int64(p.size) != 0 {
		return fmt.Errorf("a write of %d bytes at %d", len(data), off)
	}
	n := uint32(off/int64(p.size)) + 1
	buf, ok := p.dirty[n]
	if !ok {
		if len(p.dirty) >= maxDirty/p.size {
			return errTooMuch
		}
		if last := len(p.spare) - 1; last >= 0 {
			buf, p.spare = p.spare[last], p.spare[:last]
		} else {
			buf = make([]byte, p.size)
		}
		if p.dirty == nil {
			p.dirty = map[uint32][]byte{}
		}
		p.dirty[n] = buf
	}
	copy(buf, data)
	p.count = max(p.count, n)
	return nil
}

// truncate keeps the first bytes alone.
func (p *pages) truncate(size int64) {
	p.count = uint32((size + int64(p.size) - 1) / int64(p.size))
	maps.DeleteFunc(p.dirty, func(n uint32, _ []byte) bool { return n > p.count })
}

// wipe forgets everything, stored or written.
func (p *pages) wipe() {
	p.rollback()
	p.wiped, p.count, p.size, p.images, p.spare = true, 0, pageSize, nil, nil
}

// rollback forgets what was written since the last commit. After wipe, load has
// to follow.
func (p *pages) rollback() {
	for _, data := range p.dirty {
		p.retire(image{data: data})
	}
	clear(p.dirty)
	p.count, p.wiped = p.stored, false
}

// flush adds the changes to b. They are part of what is stored when committed is
// called; load has to follow otherwise.
func (p *pages) flush(b *storage.Batch) error {
	switch {
	case p.wiped:
	case p.stored == 0 && len(p.dirty) > 0: // there may be pages of an import that did not end
		b.Drop = append(b.Drop, storage.Range{Lo: pageKey(1), Hi: []byte{storage.SQLSpace + 1}})
	case p.count < p.stored:
		b.Drop = append(b.Drop, storage.Range{Lo: pageKey(p.count + 1), Hi: []byte{storage.SQLSpace + 1}})
	}
	var operands []byte
	for _, n := range slices.Sorted(maps.Keys(p.dirty)) {
		data := p.dirty[n]
		next := image{page: n, data: data, shared: true}
		var old *image
		if n <= p.stored && !p.wiped {
			var err error
			if old, err = p.image(n); err != nil {
				return err
			}
		}
		if old != nil && bytes.Equal(old.data, data) {
			delete(p.dirty, n)
			p.retire(image{data: data})
			continue
		}
		if old != nil {
			begin := len(operands)
			operands = patch.AppendDiff(operands, old.data, data)
			operand := operands[begin:len(operands):len(operands)]
			next.patches, next.bytes = old.patches+1, old.bytes+len(operand)
			if next.patches <= maxPatches && len(operand) <= p.size/2 && next.bytes <= 2*p.size {
				b.Merge = append(b.Merge, storage.Pair{Key: pageKey(n), Val: operand})
				next.shared = false
				p.become(next)
				continue
			}
			operands = operands[:begin]
			next.patches, next.bytes = 0, 0
		}
		b.Put = append(b.Put, storage.Pair{Key: pageKey(n), Val: data})
		p.become(next)
	}
	return nil
}

// become makes an image of a changed page, whose buffer it takes.
func (p *pages) become(img image) {
	delete(p.dirty, img.page)
	p.keep(img)
}

// committed tells that what flush added was stored.
func (p *pages) committed() {
	p.stored, p.wiped = p.count, false
	// A page may come again without being written: it is not what it was.
	p.images = slices.DeleteFunc(p.images, func(img image) bool { return img.page > p.stored })
}

// A header is what the first bytes of a SQLite file say.
type header struct {
	pageSize int
	pages    uint32
}

const headerLen = 100

var headerMagic = []byte("SQLite format 3\x00")

// parseHeader reads the header of a database file: see
// https://sqlite.org/fileformat.html#the_database_header.
func parseHeader(b []byte) (h header, err error) {
	if len(b) < headerLen || !slices.Equal(b[:len(headerMagic)], headerMagic) {
		return h, fmt.Errorf("%w: SQL page 1 does not begin like a SQLite file", storage.ErrCorrupt)
	}
	h.pageSize = int(binary.BigEndian.Uint16(b[16:]))
	if h.pageSize == 1 {
		h.pageSize = 65536
	}
	if h.pageSize < 512 || h.pageSize&(h.pageSize-1) != 0 {
		return h, fmt.Errorf("%w: a SQL page size of %d", storage.ErrCorrupt, h.pageSize)
	}
	h.pages = binary.BigEndian.Uint32(b[28:])
	return h, nil
}
