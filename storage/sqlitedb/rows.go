package sqlitedb

import (
	"context"

	"github.com/ncruces/go-sqlite3"

	"github.com/durable-go/durable/storage"
)

// maxReturned is how many bytes of rows a statement that writes may return: they
// are held in memory, since it runs to its end at once.
const maxReturned = 64 << 20

// rows are those of one statement. It reads one row ahead.
type rows struct {
	s   *session
	c   *conn
	st  *stmt // while open
	ctx context.Context

	open    bool
	columns []string
	types   []string
	ahead   []any   // the next row; nil: none
	kept    [][]any // rows of a statement that is over
	err     error   // of the row after those

	before   int64 // total changes before the statement
	written  int64 // rows of tables, triggers included
	returned int64
	stats    storage.SQLStats // as of the end of the statement
}

// Columns implements [storage.SQLRows].
func (r *rows) Columns() []string { return r.columns }

// DeclTypes implements [storage.SQLRows].
func (r *rows) DeclTypes() []string { return r.types }

// Next implements [storage.SQLRows].
func (r *rows) Next() ([]any, error) {
	s := r.s
	s.lock()
	defer s.mu.Unlock()
	if err := s.live(); err != nil {
		return nil, err
	}
	if s.ended {
		return nil, errEnded
	}
	if len(r.kept) > 0 {
		row := r.kept[0]
		r.kept = r.kept[1:]
		return row, nil
	}
	row := r.ahead
	r.ahead = nil
	if row == nil {
		return nil, r.err
	}
	if r.open {
		c := r.c
		if err := c.mu.LockContext(r.ctx, s.ctx); err != nil {
			r.ahead = row // it can be asked for again
			return nil, interrupted(err)
		}
		defer c.mu.Unlock()
		c.file.pages.ctx = r.ctx
		if err := c.intr.resume(r.ctx, s.ctx, s.live, r); err != nil {
			r.err = interrupted(err)
			r.close()
			return row, nil
		}
		r.err = s.guarded(c, func() error {
			c.guard.run(r.st, s.write)
			return r.step()
		})
		if r.err != nil {
			r.close()
		}
	}
	return row, nil
}

// Stats implements [storage.SQLRows].
func (r *rows) Stats() storage.SQLStats {
	r.s.lock()
	defer r.s.mu.Unlock()
	if r.open {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		r.count(false)
	}
	return r.stats
}

// Close implements [storage.SQLRows].
func (r *rows) Close() {
	r.s.lock()
	defer r.s.mu.Unlock()
	r.ahead, r.kept = nil, nil
	if r.open {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		r.close()
	}
}

// step reads the next row. The caller holds the lock of the connection, as for
// everything below.
func (r *rows) step() error {
	st, c := r.st, r.c
	more := st.Step()
	if err := st.Err(); !more && err != nil && r.returned == 0 && c.addFTS5(err) {
		_ = st.Reset() // it did nothing
		more = st.Step()
	}
	if !more {
		if err := st.Err(); err != nil {
			r.written = c.lite.TotalChanges() - r.before
			return r.s.failed(c, err, st.key.text)
		}
		r.describe()
		r.close()
		return nil
	}
	if r.columns == nil {
		r.describe()
	}
	row := make([]any, len(r.columns))
	if err := st.Columns(row...); err != nil {
		return r.s.failed(c, err, "")
	}
	for i, v := range row {
		if b, ok := v.([]byte); ok && b == nil {
			row[i] = []byte{} // an empty blob is not NULL
		}
	}
	r.returned++
	r.ahead = row
	return nil
}

// describe sets what the columns are. They are known only after the first step:
// the statement may be compiled again in it.
func (r *rows) describe() {
	if r.columns != nil {
		return
	}
	st := r.st
	if again := st.Status(sqlite3.STMTSTATUS_REPREPARE, false); st.columns == nil || st.described != again {
		n := st.ColumnCount()
		st.columns, st.types, st.described = make([]string, n), make([]string, n), again
		for i := range n {
			st.columns[i], st.types[i] = st.ColumnName(i), st.ColumnDeclType(i)
		}
	}
	r.columns, r.types = st.columns, st.types
}

// drain runs the statement to its end.
func (r *rows) drain(keep bool) error {
	size := 0
	for r.ahead != nil {
		if keep {
			for _, v := range r.ahead {
				switch v := v.(type) {
				case string:
					size += len(v)
				case []byte:
					size += len(v)
				}
				size += 16
			}
			if size > maxReturned {
				err := &storage.LimitError{What: "bytes of rows returned by a statement that writes", Max: maxReturned, Actual: int64(size), Err: storage.ErrTooLarge}
				r.s.breaks(err)
				return err
			}
			r.kept = append(r.kept, r.ahead)
		}
		r.ahead = nil
		if !r.open {
			break
		}
		if err := r.step(); err != nil {
			return err
		}
	}
	return nil
}

// count sets stats. final takes the counters of the statement back to 0.
func (r *rows) count(final bool) {
	st, c := r.st, r.c
	scanned := int64(st.Status(sqlite3.STMTSTATUS_FULLSCAN_STEP, final))
	if scanned > 0 {
		scanned++ // going to the first row is no step
	}
	r.stats.RowsRead = max(scanned, r.returned)
	r.stats.Steps = int64(st.Status(sqlite3.STMTSTATUS_VM_STEP, final))
	if st.begins {
		r.written = c.lite.TotalChanges() - r.before
		if r.written > 0 {
			r.stats.RowsWritten = r.written * c.rowsPerChange(st)
			r.stats.Changes = c.lite.Changes()
		}
		r.stats.LastInsertID = c.lite.LastInsertRowID()
	}
}

// close ends the statement, if it is open, and gives it back.
func (r *rows) close() {
	if !r.open {
		return
	}
	r.open = false
	delete(r.s.rows, r)
	if r.c.lite == nil {
		return
	}
	_ = r.s.guarded(r.c, func() error { // SQLite repeats the error of the last step
		r.count(true)
		return nil
	})
	_ = r.s.guarded(r.c, func() error {
		r.c.free(r.st)
		return nil
	})
	r.st = nil
}
