package durable

import "iter"

// A Cursor reads the rows that a statement returned, in order and once: all its
// ways of reading share their progress. It need not be closed, nor read to its
// end: the turn closes it, and reading what is left of it then returns
// [ErrTxDone]. Rows it has not read yet may show what is written meanwhile.
//
// After an error it gives no more rows, and every further attempt returns the
// same error. It is for one goroutine at a time.
type Cursor struct {
	rows     RowsPort
	columns  []string
	maxBytes int64
	stats    SQLStats // once done
	done     bool
	err      error
}

// newCursor returns a cursor over rows. One without columns is done at once.
func newCursor(rows RowsPort, maxBytes int64) (*Cursor, error) {
	if maxBytes <= 0 {
		maxBytes = defaultResultBytes
	}
	c := &Cursor{rows: rows, columns: rows.Columns(), maxBytes: maxBytes}
	if len(c.columns) == 0 {
		if _, _, err := c.Next(); err != nil {
			return nil, err
		}
		c.Close()
	}
	return c, nil
}

// Columns returns the names of the columns, duplicates included, before, while
// and after the rows are read. It is empty for a statement without result. It
// must not be changed.
func (c *Cursor) Columns() []string { return c.columns }

// Next returns the next row; ok is false when there is none left.
func (c *Cursor) Next() (row Row, ok bool, err error) {
	if c.done {
		return Row{}, false, c.err
	}
	values, err := c.rows.Next()
	if err != nil {
		c.err = err
	}
	if err != nil || values == nil {
		c.Close()
		return Row{}, false, err
	}
	return Row{c.columns, values}, true, nil
}

// All returns the remaining rows. It returns a [LimitError], and ends the cursor,
// when they take more than [SQLLimits].MaxResultBytes, 64 MiB by default: 24
// bytes for each row, 16 for each value, and the bytes of text and blobs.
func (c *Cursor) All() ([]Row, error) {
	var rows []Row
	err := c.each(func(values []any) error {
		rows = append(rows, Row{c.columns, values})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// each calls fn with each remaining row, within the limit of bytes.
func (c *Cursor) each(fn func(values []any) error) error {
	var size int64
	for {
		row, ok, err := c.Next()
		if err != nil || !ok {
			return err
		}
		if size += row.size(); size > c.maxBytes {
			c.err = &LimitError{Name: "bytes of rows", Max: c.maxBytes, Actual: size}
			c.Close()
			return c.err
		}
		if err := fn(row.values); err != nil {
			return err
		}
	}
}

// One returns the remaining row. It returns [ErrNoRow] if there is none and
// [ErrManyRows] if there are several. The cursor is done afterwards.
func (c *Cursor) One() (Row, error) {
	defer c.Close()
	row, ok, err := c.Next()
	if err != nil {
		return Row{}, err
	}
	if !ok {
		return Row{}, ErrNoRow
	}
	if _, more, err := c.Next(); err != nil {
		return Row{}, err
	} else if more {
		return Row{}, ErrManyRows
	}
	return row, nil
}

// Rows yields the remaining rows. A loop that is broken off leaves the rest to
// another, or to Next, All and One. An error is yielded last.
func (c *Cursor) Rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for {
			row, ok, err := c.Next()
			if err != nil {
				yield(Row{}, err)
				return
			}
			if !ok || !yield(row, nil) {
				return
			}
		}
	}
}

// Raw yields the values of the remaining rows, as Rows does the rows.
func (c *Cursor) Raw() iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for row, err := range c.Rows() {
			if !yield(row.values, err) {
				return
			}
		}
	}
}

// RowsRead returns how many rows of tables and indexes the statement read so
// far. It is an estimate; see Steps for the exact measure of work. Like the other
// counts it is of this cursor alone, and final when all rows are read.
func (c *Cursor) RowsRead() int64 { return c.counts().RowsRead }

// RowsWritten returns how many rows of tables and entries of indexes the
// statement wrote.
func (c *Cursor) RowsWritten() int64 { return c.counts().RowsWritten }

// Steps returns how many instructions of SQLite's virtual machine the statement
// took so far.
func (c *Cursor) Steps() int64 { return c.counts().Steps }

// Changes returns how many rows of tables the statement inserted, updated or
// deleted, without those changed by triggers.
func (c *Cursor) Changes() int64 { return c.counts().Changes }

// LastInsertID returns the rowid of the last row that was inserted, by this
// statement or by one before it in the turn; see INSERT … RETURNING for one that
// cannot be mistaken.
func (c *Cursor) LastInsertID() int64 { return c.counts().LastInsertID }

func (c *Cursor) counts() SQLStats {
	if c.done {
		return c.stats
	}
	return c.rows.Stats()
}

// Close ends the statement: there are no more rows. It is of use before a schema
// change, which open statements may stand in the way of, and can be called again.
func (c *Cursor) Close() {
	if !c.done {
		c.done, c.stats = true, c.rows.Stats()
		c.rows.Close()
	}
}

// A Row is one row of a result. Its values are nil, int64, float64, string and
// []byte. The zero Row has no columns.
type Row struct {
	columns []string
	values  []any
}

// Columns returns the names of the columns, which must not be changed.
func (r Row) Columns() []string { return r.columns }

// Values returns the values in order of the columns. They belong to the caller.
func (r Row) Values() []any { return r.values }

// Map returns the values by the names of their columns. Of several columns of
// one name, the last is there.
func (r Row) Map() map[string]any {
	m := make(map[string]any, len(r.columns))
	for i, name := range r.columns {
		m[name] = r.values[i]
	}
	return m
}

// size is the memory that the row takes, roughly.
func (r Row) size() int64 {
	size := int64(24 + 16*len(r.values))
	for _, v := range r.values {
		switch v := v.(type) {
		case string:
			size += int64(len(v))
		case []byte:
			size += int64(len(v))
		}
	}
	return size
}
