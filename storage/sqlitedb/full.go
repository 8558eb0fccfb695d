package sqlitedb

import (
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// SQLite undoes a statement of several rows that finds the database full, but
// one of a single row costs the whole transaction. So the database may become
// larger than its limit, by slack, while a statement runs that begins near the
// limit; it is undone then, alone.

// slack returns how many pages more than allowed one row can take: itself and
// some indexes of all its columns.
func (c *conn) slack() int64 {
	const indexes = 8
	return indexes*int64(c.db.limits.RowBytes)/int64(c.file.pages.size) + 64
}

// maxPages returns how many pages the database may have.
func (c *conn) maxPages() int64 {
	return max(c.db.limits.DatabaseBytes/int64(c.file.pages.size), 1)
}

// within runs the statement of r, which writes, and undoes it when it made the
// database too large.
func (s *session) within(c *conn, r *rows, run func() error) (err error) {
	st := r.st // which run may give back
	limit, slack := c.maxPages(), c.slack()
	const cached = 2 * cacheKiB << 10 / 512 // pages that SQLite may not have written yet
	if int64(c.file.pages.count)+cached+slack <= limit {
		return run()
	}
	before, err := c.query("PRAGMA page_count")
	if err != nil {
		return s.failed(c, err, "")
	}
	if before+slack <= limit {
		return run()
	}
	if err := c.internal(fmt.Sprintf("SAVEPOINT within; PRAGMA max_page_count=%d", limit+slack)); err != nil {
		return s.failed(c, err, "")
	}
	defer func() {
		if lerr := c.internal(fmt.Sprintf("PRAGMA max_page_count=%d", limit)); err == nil && lerr != nil {
			err = s.failed(c, lerr, "")
		}
	}()
	err = run()
	if !c.inTx {
		return err
	}
	after, qerr := c.query("PRAGMA page_count")
	if qerr != nil {
		return s.failed(c, qerr, "")
	}
	end := "RELEASE within"
	if err == nil && after > max(limit, before) && !st.deletes() {
		err = c.failed(sqlite3.FULL, "")
		r.written = 0
		end = "ROLLBACK TO within; " + end
		c.index.forget()
	}
	if eerr := c.internal(end); eerr != nil {
		return s.failed(c, eerr, "")
	}
	return err
}

// deletes reports whether the statement does nothing but delete.
func (f *facts) deletes() bool {
	if !f.plain() {
		return false
	}
	for _, w := range f.writes {
		if w.action != sqlite3.AUTH_DELETE {
			return false
		}
	}
	return true
}
