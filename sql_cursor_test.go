package durable_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
)

func TestCursor(t *testing.T) {
	const three = "SELECT value AS n, value * 2 AS n FROM json_each('[1,2,3]')"
	ctx := t.Context()
	s, p := newSQL(t, "CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT UNIQUE)")
	exec := func(t *testing.T, query string, args ...any) *durable.Cursor {
		t.Helper()
		c, err := s.Exec(ctx, query, args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	readAll := func(t *testing.T, c *durable.Cursor) {
		t.Helper()
		if _, err := c.All(); err != nil {
			t.Error(err)
		}
	}
	done := func(t *testing.T, c *durable.Cursor) {
		t.Helper()
		for range 2 {
			if row, ok, err := c.Next(); ok || err != nil || row.Values() != nil {
				t.Errorf("after the end: %v, %v, %v", row.Values(), ok, err)
			}
		}
		if rows, err := c.All(); len(rows) != 0 || err != nil {
			t.Errorf("all after the end: %v, %v", rows, err)
		}
		if _, err := c.One(); !errors.Is(err, durable.ErrNoRow) {
			t.Errorf("one after the end: %v", err)
		}
	}

	t.Run("SQL-20 next gives a row or done", func(t *testing.T) {
		c := exec(t, three)
		for i := range int64(3) {
			row, ok, err := c.Next()
			if err != nil || !ok || !cmp.Equal(row.Values(), []any{i + 1, 2 * (i + 1)}) {
				t.Fatalf("row %d: %v, %v, %v", i, row.Values(), ok, err)
			}
		}
		done(t, c)
	})
	t.Run("SQL-21 a broken-off loop is continued", func(t *testing.T) {
		c := exec(t, three)
		for row, err := range c.Rows() {
			if err != nil || row.Values()[0] != int64(1) {
				t.Errorf("%v, %v", row.Values(), err)
			}
			break
		}
		for values, err := range c.Raw() {
			if err != nil || values[0] != int64(2) {
				t.Errorf("%v, %v", values, err)
			}
			break
		}
		rows, err := c.All()
		if err != nil || len(rows) != 1 || rows[0].Values()[0] != int64(3) {
			t.Errorf("the rest: %v, %v", rows, err)
		}
		done(t, c)
	})
	t.Run("SQL-23 one tells none from several", func(t *testing.T) {
		for _, c := range []struct {
			query string
			skip  int
			err   error
		}{
			{"SELECT 1", 0, nil},
			{"SELECT 1 WHERE 0", 0, durable.ErrNoRow},
			{three, 0, durable.ErrManyRows},
			{three, 1, durable.ErrManyRows},
			{three, 2, nil},
			{three, 3, durable.ErrNoRow},
		} {
			cursor := exec(t, c.query)
			for range c.skip {
				if _, _, err := cursor.Next(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := cursor.One(); !errors.Is(err, c.err) {
				t.Errorf("%s after %d: %v, want %v", c.query, c.skip, err, c.err)
			}
			done(t, cursor)
		}
	})
	t.Run("SQL-25 columns before and after", func(t *testing.T) {
		c := exec(t, three)
		for range 2 {
			if !cmp.Equal(c.Columns(), []string{"n", "n"}) {
				t.Errorf("%v", c.Columns())
			}
			readAll(t, c)
		}
		if c := exec(t, "DELETE FROM t"); len(c.Columns()) != 0 {
			t.Errorf("%v", c.Columns())
		}
	})
	t.Run("SQL-26 a map keeps the last of a name", func(t *testing.T) {
		row, ok, err := exec(t, three).Next()
		if err != nil || !ok || !cmp.Equal(row.Map(), map[string]any{"n": int64(2)}) {
			t.Errorf("%v, %v, %v", row.Map(), ok, err)
		}
	})
	t.Run("SQL-27 counts grow and are final", func(t *testing.T) {
		c := exec(t, three)
		if first := c.RowsRead(); first != 1 {
			t.Errorf("read %d rows at first", first)
		}
		readAll(t, c)
		if c.RowsRead() != 3 || c.RowsWritten() != 0 || c.Steps() == 0 {
			t.Errorf("%d read, %d written, %d steps", c.RowsRead(), c.RowsWritten(), c.Steps())
		}
	})
	t.Run("SQL-28 counts belong to one cursor", func(t *testing.T) {
		a := exec(t, "INSERT INTO t (y) VALUES ('a'), ('b')")
		b := exec(t, "INSERT INTO t (y) VALUES ('c')")
		if a.Changes() != 2 || b.Changes() != 1 || a.LastInsertID() != 2 || b.LastInsertID() != 3 || a.RowsWritten() != 2 {
			t.Errorf("%d and %d changes, ids %d and %d", a.Changes(), b.Changes(), a.LastInsertID(), b.LastInsertID())
		}
		if p.rows != 0 {
			t.Errorf("%d statements without rows are open", p.rows)
		}
	})
	t.Run("SQL-31 all is bounded", func(t *testing.T) {
		p.maxResult = 3*(24+16) + 6
		defer func() { p.maxResult = 0 }()
		const query = "SELECT printf('%.*c', value, 'x') FROM json_each(?)"
		if rows, err := exec(t, query, "[2,2,2]").All(); len(rows) != 3 || err != nil {
			t.Errorf("%d rows, %v", len(rows), err)
		}
		c := exec(t, query, "[2,2,3]")
		_, err := c.All()
		var limit *durable.LimitError
		if !errors.As(err, &limit) || limit.Name != "bytes of rows" || limit.Max != p.maxResult || limit.Actual != 127 {
			t.Errorf("%v", err)
		}
		if _, _, again := c.Next(); !errors.Is(again, err) {
			t.Errorf("then %v", again)
		}
		if _, err := durable.All[string](ctx, s, query, "[2,2,3]"); !errors.As(err, &limit) {
			t.Errorf("generic: %v", err)
		}
		p.maxResult = 1 << 30
		if rows, err := exec(t, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 1000) SELECT NULL FROM c").All(); len(rows) != 1000 || err != nil {
			t.Errorf("%d rows, %v", len(rows), err)
		}
	})
	t.Run("SQL-32 use after the turn is an error", func(t *testing.T) {
		open, over := exec(t, three), exec(t, "SELECT 1")
		readAll(t, over)
		p.done = true
		defer func() { p.done = false }()
		for range 2 {
			if _, _, err := open.Next(); !errors.Is(err, durable.ErrTxDone) {
				t.Errorf("%v", err)
			}
		}
		n := 0
		for _, err := range open.Rows() {
			if n++; !errors.Is(err, durable.ErrTxDone) {
				t.Errorf("%v", err)
			}
		}
		if _, err := open.All(); n != 1 || !errors.Is(err, durable.ErrTxDone) {
			t.Errorf("%d errors, then %v", n, err)
		}
		done(t, over)
	})
	t.Run("SQL-33 returning", func(t *testing.T) {
		exec(t, "INSERT INTO t (y) VALUES ('p'), ('q') RETURNING x, y").Close()
		if n, err := durable.One[int](ctx, s, "SELECT count(*) FROM t WHERE y IN ('p', 'q')"); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("an error in the middle", func(t *testing.T) {
		c := exec(t, "SELECT abs(value) FROM json_each('[1,2,-9223372036854775808,4]')")
		n := 0
		var last error
		for _, err := range c.Rows() {
			n, last = n+1, err
		}
		var e *durable.SQLError
		if n != 3 || !errors.As(last, &e) {
			t.Errorf("%d rows and %v", n-1, last)
		}
		if _, err := c.One(); !errors.Is(err, last) {
			t.Errorf("then %v", err)
		}
	})
	t.Run("closed by the caller", func(t *testing.T) {
		c := exec(t, three)
		c.Close()
		c.Close()
		done(t, c)
	})
}
