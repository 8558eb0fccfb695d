package durable_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
)

func TestDB(t *testing.T) {
	ctx := t.Context()
	const schema = `CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(10), day DATE, at timestamp with time zone, done BOOLEAN, data BLOB, score DOUBLE, x)`
	count := func(t *testing.T, s durable.SQL) int {
		t.Helper()
		n, err := durable.One[int](ctx, s, "SELECT count(*) FROM t")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	t.Run("it is one a turn", func(t *testing.T) {
		s, _ := newSQL(t)
		if first := s.DB(); first != s.DB() {
			t.Error("two DBs")
		}
		if err := s.DB().PingContext(ctx); err != nil {
			t.Error(err)
		}
		if _, err := s.DB().Driver().Open("x"); err == nil {
			t.Error("the driver opens databases by name")
		}
	})
	t.Run("results", func(t *testing.T) {
		s, _ := newSQL(t, schema)
		res, err := s.DB().ExecContext(ctx, "INSERT INTO t (name) VALUES (?), ('b'); INSERT INTO t (name) VALUES ($n), ('b')", "a")
		if err == nil {
			t.Errorf("%v: a parameter was left without argument", res)
		}
		res, err = s.DB().ExecContext(ctx, "DELETE FROM t; INSERT INTO t (id, name) VALUES (7, :n), (9, 'b')", sql.Named("n", "a"))
		if err != nil {
			t.Fatal(err)
		}
		id, err1 := res.LastInsertId()
		n, err2 := res.RowsAffected()
		if id != 9 || n != 2 || err1 != nil || err2 != nil {
			t.Errorf("id %d, %d rows, %v, %v", id, n, err1, err2)
		}
		if _, err := s.DB().ExecContext(ctx, "SELECT abs(value) FROM json_each('[1,2,-9223372036854775808]')"); err == nil {
			t.Error("Exec stopped before the error")
		}
	})
	t.Run("declared types", func(t *testing.T) {
		s, _ := newSQL(t, schema)
		at := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
		db := s.DB()
		for _, args := range [][]any{
			{1, "a", "2026-03-04", at, true, []byte{1}, 0.5, "2026-03-04"},
			{2, nil, "someday", 17, 2, nil, nil, nil},
		} {
			if _, err := db.ExecContext(ctx, "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?)", args...); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := db.QueryContext(ctx, "SELECT *, id + 1 FROM t ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.ColumnTypes()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		var types []reflect.Type
		for _, c := range columns {
			names, types = append(names, c.DatabaseTypeName()), append(types, c.ScanType())
		}
		if diff := cmp.Diff([]string{"INTEGER", "VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE", "BOOLEAN", "BLOB", "DOUBLE", "", ""}, names); diff != "" {
			t.Error(diff)
		}
		var got [][]any
		for rows.Next() {
			values := make([]any, len(columns))
			dest := make([]any, len(columns))
			for i := range dest {
				dest[i] = &values[i]
			}
			if err := rows.Scan(dest...); err != nil {
				t.Fatal(err)
			}
			got = append(got, values)
			if len(got) == 1 { // what the types promise, they keep
				for i, typ := range types {
					dest[i] = reflect.New(typ).Interface()
				}
				if err := rows.Scan(dest...); err != nil {
					t.Error(err)
				}
			}
		}
		day := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
		want := [][]any{
			{int64(1), "a", day, at, true, []byte{1}, 0.5, "2026-03-04", int64(2)},
			{int64(2), nil, "someday", int64(17), int64(2), nil, nil, nil, int64(3)},
		}
		if diff := cmp.Diff(want, got); diff != "" || rows.Err() != nil {
			t.Errorf("%v\n%s", rows.Err(), diff)
		}
	})
	t.Run("generated queries", func(t *testing.T) { // as sqlc writes them
		s, _ := newSQL(t, schema)
		db := s.DB()
		stmt, err := db.PrepareContext(ctx, "INSERT INTO t (name, at, done) VALUES (?1, ?2, ?3) RETURNING id, name, at, done")
		if err != nil {
			t.Fatal(err)
		}
		defer stmt.Close()
		for i := range int64(3) {
			var id int64
			var name sql.NullString
			var at time.Time
			var done bool
			if err := stmt.QueryRowContext(ctx, "a", time.Unix(i, 0), i == 1).Scan(&id, &name, &at, &done); err != nil {
				t.Fatal(err)
			}
			if id != i+1 || name.String != "a" || !at.Equal(time.Unix(i, 0)) || done != (i == 1) {
				t.Errorf("%d, %v, %v, %v", id, name, at, done)
			}
		}
		if _, err := stmt.ExecContext(ctx, nil, nil, nil); err != nil {
			t.Error(err)
		}
		var none int
		if err := db.QueryRowContext(ctx, "SELECT id FROM t WHERE id = 99").Scan(&none); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a transaction is a savepoint", func(t *testing.T) {
		s, p := newSQL(t, schema)
		for _, keep := range []bool{true, false} {
			before := count(t, s)
			tx, err := s.DB().BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
			if err != nil {
				t.Fatal(err)
			}
			inner, err := s.DB().BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range []interface {
				ExecContext(context.Context, string, ...any) (sql.Result, error)
			}{tx, inner} {
				if _, err := e.ExecContext(ctx, "INSERT INTO t (name) VALUES ('x')"); err != nil {
					t.Fatal(err)
				}
			}
			want := before
			if keep {
				err, want = inner.Commit(), before+2
			} else {
				err = inner.Rollback()
			}
			if err != nil {
				t.Fatal(err)
			}
			if keep {
				err = tx.Commit()
			} else {
				err = tx.Rollback()
			}
			if n := count(t, s); err != nil || n != want || len(p.open) != 0 {
				t.Errorf("keep %v: %d rows, %d levels open, %v", keep, n, len(p.open), err)
			}
		}
	})
	t.Run("transactions end innermost first", func(t *testing.T) {
		s, _ := newSQL(t, schema)
		outer, err := s.DB().BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := s.DB().BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := outer.Commit(); err == nil || !strings.Contains(err.Error(), "not the innermost") {
			t.Errorf("%v", err)
		}
		if err := inner.Rollback(); err != nil {
			t.Error(err)
		}
	})
	t.Run("transactions that cannot be had", func(t *testing.T) {
		s, p := newSQL(t, schema)
		for want, opts := range map[string]sql.TxOptions{
			"Read Uncommitted": {Isolation: sql.LevelReadUncommitted},
			"Snapshot":         {Isolation: sql.LevelSnapshot},
			"Linearizable":     {Isolation: sql.LevelLinearizable},
			"read-only":        {ReadOnly: true},
		} {
			if _, err := s.DB().BeginTx(ctx, &opts); !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		if len(p.open) != 0 {
			t.Errorf("%d levels are open", len(p.open))
		}
	})
	t.Run("a transaction whose context ends is undone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, p := newSQL(t, schema)
			ctx, cancel := context.WithCancel(t.Context())
			tx, err := s.DB().BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO t (name) VALUES ('x')"); err != nil {
				t.Fatal(err)
			}
			cancel()
			synctest.Wait() // for the goroutine of database/sql
			if n := count(t, s); n != 0 || len(p.open) != 0 {
				t.Errorf("%d rows, %d levels open", n, len(p.open))
			}
		})
	})
	t.Run("several rows and connections at once", func(t *testing.T) {
		s, _ := newSQL(t, schema)
		conn, err := s.DB().Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		outer, err := conn.QueryContext(ctx, "SELECT value FROM json_each('[1,2,3]')")
		if err != nil {
			t.Fatal(err)
		}
		defer outer.Close()
		n := 0
		for outer.Next() {
			var v, w int
			if err := outer.Scan(&v); err != nil {
				t.Fatal(err)
			}
			if err := s.DB().QueryRowContext(ctx, "SELECT ? * 2", v).Scan(&w); err != nil || w != 2*v {
				t.Errorf("%d, %v", w, err)
			}
			n++
		}
		if n != 3 || outer.Err() != nil {
			t.Errorf("%d rows, %v", n, outer.Err())
		}
		if err := conn.Raw(func(c any) error {
			if _, ok := c.(driver.NamedValueChecker); !ok {
				t.Errorf("%T", c)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	t.Run("after the turn", func(t *testing.T) {
		s, p := newSQL(t, schema)
		db := s.DB()
		p.done = true
		_, exec := db.ExecContext(ctx, "DELETE FROM t")
		_, begin := db.BeginTx(ctx, nil)
		if !errors.Is(exec, durable.ErrTxDone) || !errors.Is(begin, durable.ErrTxDone) {
			t.Errorf("%v, %v", exec, begin)
		}
	})
}
