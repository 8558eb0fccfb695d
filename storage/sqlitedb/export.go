package sqlitedb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/durable-go/durable/storage"
)

// importPart is how many bytes of pages one batch of an import takes.
const importPart = 16 << 20

// Export implements [storage.SQLEngine].
func (e *Engine) Export(ctx context.Context, o storage.ObjectID, r storage.Reader, w io.Writer) (int64, error) {
	var (
		h       header
		next    = uint32(1) // page to write
		written int64
	)
	write := func(page []byte) error {
		n, err := w.Write(page)
		written += int64(n)
		next++
		return err
	}
	for pair, err := range r.Scan(ctx, o, storage.Range{Lo: pageKey(1), Hi: []byte{storage.SQLSpace + 1}}) {
		if err != nil {
			return written, fmt.Errorf("export: %w", err)
		}
		if len(pair.Key) != 5 {
			return written, fmt.Errorf("export: %w: the key of a SQL page has %d bytes", storage.ErrCorrupt, len(pair.Key))
		}
		n := binary.BigEndian.Uint32(pair.Key[1:])
		if next == 1 {
			if n != 1 {
				return 0, nil // an import that did not end
			}
			if h, err = parseHeader(pair.Val); err != nil {
				return 0, fmt.Errorf("export: %w", err)
			}
		}
		if n > h.pages {
			break
		}
		if len(pair.Val) != h.pageSize {
			return written, fmt.Errorf("export: %w: SQL page %d has %d bytes instead of %d", storage.ErrCorrupt, n, len(pair.Val), h.pageSize)
		}
		for next < n { // SQLite need not write a page that it does not use
			if err := write(make([]byte, h.pageSize)); err != nil {
				return written, err
			}
		}
		if err := write(pair.Val); err != nil {
			return written, err
		}
	}
	for next > 1 && next <= h.pages {
		if err := write(make([]byte, h.pageSize)); err != nil {
			return written, err
		}
	}
	return written, nil
}

// Import implements [storage.SQLEngine]. The first page comes last: until then
// the object has no database.
func (e *Engine) Import(ctx context.Context, o storage.ObjectID, r storage.Reader, limits storage.SQLLimits, src io.Reader, commit func(b *storage.Batch) error) error {
	if _, _, exists, err := r.GetPatched(ctx, o, pageKey(1)); err != nil {
		return fmt.Errorf("import: %w", err)
	} else if exists {
		return storage.ErrSQLExists
	}
	first, h, err := readFirst(src)
	if err != nil {
		return err
	}
	var (
		part  storage.Batch
		bytes int
		count = uint32(1)
		limit = limits.DatabaseBytes / int64(h.pageSize)
	)
	for {
		page := make([]byte, h.pageSize)
		if _, err := io.ReadFull(src, page); errors.Is(err, io.EOF) {
			break
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			return notSQLite("it does not end with a whole page")
		} else if err != nil {
			return fmt.Errorf("import: read the file: %w", err)
		}
		if count++; int64(count) > limit {
			return &storage.LimitError{What: "bytes of a SQL database", Max: limits.DatabaseBytes, Actual: int64(count) * int64(h.pageSize), Err: storage.ErrTooLarge}
		}
		part.Put = append(part.Put, storage.Pair{Key: pageKey(count), Val: page})
		if bytes += len(page); bytes >= importPart {
			if err := commit(&part); err != nil {
				return fmt.Errorf("import: %w", err)
			}
			part, bytes = storage.Batch{}, 0
		}
	}
	if h.pages != count {
		return notSQLite(fmt.Sprintf("its header tells of %d pages, it has %d", h.pages, count))
	}
	// Checked as it will be, before it counts.
	if err := e.check(ctx, o, r, limits, first, &part, h); err != nil {
		return err
	}
	part.Put = append(part.Put, storage.Pair{Key: pageKey(1), Val: first})
	part.Drop = []storage.Range{{Lo: pageKey(count + 1), Hi: []byte{storage.SQLSpace + 1}}} // of an import that did not end
	if err := commit(&part); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return nil
}

// readFirst reads the first page, and makes it one of a database without a
// write-ahead log.
func readFirst(src io.Reader) (page []byte, h header, err error) {
	head := make([]byte, headerLen)
	if _, err := io.ReadFull(src, head); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, h, notSQLite("it is shorter than the header of one")
	} else if err != nil {
		return nil, h, fmt.Errorf("import: read the file: %w", err)
	}
	if h, err = parseHeader(head); err != nil {
		return nil, h, notSQLite("it does not begin like one")
	}
	page = append(make([]byte, 0, h.pageSize), head...)[:h.pageSize]
	if _, err := io.ReadFull(src, page[headerLen:]); err != nil {
		return nil, h, notSQLite("it does not have a whole page")
	}
	if !bytes.Equal(page[24:28], page[92:96]) {
		return nil, h, notSQLite("its header does not tell its size: open it with the sqlite3 command, write to it, and close it")
	}
	page[18], page[19] = 1, 1
	return page, h, nil
}

// check makes SQLite look over pages that are not stored, or not yet counted.
func (e *Engine) check(ctx context.Context, o storage.ObjectID, r storage.Reader, limits storage.SQLLimits, first []byte, rest *storage.Batch, h header) (err error) {
	d := &database{engine: e, object: o, reader: r, limits: limits}
	c := &conn{db: d, file: &file{}, loaded: true}
	c.file.pages = pages{object: o, reader: r, ctx: ctx, size: h.pageSize, count: h.pages, stored: h.pages, dirty: map[uint32][]byte{1: first}}
	for _, p := range rest.Put {
		c.file.pages.dirty[binary.BigEndian.Uint32(p.Key[1:])] = p.Val
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.shut()
	defer func() {
		if v := recover(); v != nil {
			err = e.panicked(v)
		}
	}()
	if err := c.connect(); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if err := c.intr.reset(ctx, ctx, func() error { return nil }); err != nil {
		return err
	}
	c.guard.internal = true
	stmt, _, err := c.lite.Prepare("PRAGMA quick_check(1)")
	if err != nil && c.addFTS5(err) {
		stmt, _, err = c.lite.Prepare("PRAGMA quick_check(1)")
	}
	if err != nil {
		return fmt.Errorf("import: %w", c.failed(err, ""))
	}
	defer func() { _ = stmt.Close() }()
	if !stmt.Step() {
		return fmt.Errorf("import: %w", c.failed(stmt.Err(), ""))
	}
	if found := stmt.ColumnText(0); found != "ok" {
		return notSQLite(found)
	}
	return nil
}

// notSQLite refuses a file.
func notSQLite(why string) error {
	return &storage.SQLError{Code: "SQLITE_NOTADB", Message: "import: this is not a sound SQLite database: " + why, Offset: -1}
}
