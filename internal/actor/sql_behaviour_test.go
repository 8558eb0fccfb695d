package actor

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A sqlTest is a host with one object, whose SQL a test uses.
type sqlTest struct {
	*testHost
	t     *testing.T
	store *memkv.Store
	made  int // activations
}

var errBack = errors.New("the handler failed")

func newSQLTest(t *testing.T, limits durable.Limits) *sqlTest {
	t.Helper()
	return newSQLTestOn(t, memkv.New(memkv.Options{}), limits)
}

func newSQLTestOn(t *testing.T, store *memkv.Store, limits durable.Limits) *sqlTest {
	t.Helper()
	s := &sqlTest{t: t, store: store}
	s.testHost = newTestHost(t, join(t, store), limits, func(context.Context, durable.Tx) (any, error) {
		s.made++
		return &counter{}, nil
	})
	return s
}

// run is t.Run for tests that use s.
func (s *sqlTest) run(name string, fn func(t *testing.T)) {
	outer := s.t
	defer func() { s.t = outer }()
	outer.Run(name, func(t *testing.T) {
		s.t = t
		fn(t)
	})
}

// do runs fn in a turn that writes. What fn returns is the error of the turn.
func (s *sqlTest) do(fn func(ctx context.Context, tx durable.Tx) error) error {
	s.t.Helper()
	return s.update(s.t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error { return fn(ctx, tx) })
}

// must is do for turns that succeed.
func (s *sqlTest) must(fn func(ctx context.Context, tx durable.Tx) error) {
	s.t.Helper()
	if err := s.do(fn); err != nil {
		s.t.Fatal(err)
	}
}

// exec runs statements in a turn of their own and fails the test if they fail.
func (s *sqlTest) exec(query string, args ...any) {
	s.t.Helper()
	s.must(func(ctx context.Context, tx durable.Tx) error {
		_, err := tx.SQL().Exec(ctx, query, args...)
		return err
	})
}

// try runs statements in a turn that is undone, and returns their rows.
func (s *sqlTest) try(query string, args ...any) (rows [][]any, err error) {
	s.t.Helper()
	terr := s.do(func(ctx context.Context, tx durable.Tx) error {
		rows, err = query1(ctx, tx.SQL(), query, args...)
		return errBack
	})
	if !errors.Is(terr, errBack) && err == nil {
		s.t.Errorf("%q: the turn failed with %v", query, terr)
	}
	return rows, err
}

// see returns the rows that a view sees.
func (s *sqlTest) see(query string, args ...any) [][]any {
	s.t.Helper()
	var rows [][]any
	err := s.view(s.t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) (err error) {
		rows, err = query1(ctx, v.SQL(), query, args...)
		return err
	})
	if err != nil {
		s.t.Fatalf("%q: %v", query, err)
	}
	return rows
}

// query1 returns the rows of a query.
func query1(ctx context.Context, db durable.SQL, query string, args ...any) ([][]any, error) {
	cur, err := db.Exec(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	var rows [][]any
	for row, err := range cur.Raw() {
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// one returns the single value of a query; it fails the test otherwise.
func one(ctx context.Context, t *testing.T, db durable.SQL, query string, args ...any) any {
	t.Helper()
	rows, err := query1(ctx, db, query, args...)
	if err != nil {
		t.Errorf("%q: %v", query, err)
		return err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Errorf("%q: %v", query, rows)
		return nil
	}
	return rows[0][0]
}

// want fails the test unless rows print like want.
func (s *sqlTest) want(want string, query string, args ...any) {
	s.t.Helper()
	if got := fmt.Sprint(s.see(query, args...)); got != want {
		s.t.Errorf("%q gives %s, want %s", query, got, want)
	}
}

// sqlError returns the error of SQL in err, and fails the test without one.
func sqlError(t *testing.T, err error) *durable.SQLError {
	t.Helper()
	var e *durable.SQLError
	if !errors.As(err, &e) {
		t.Fatalf("the error is %v (%T), want a SQLError", err, err)
	}
	return e
}

// refusal fails the test unless the statement fails with the code, and with all
// the words in its text; the turn goes on.
func (s *sqlTest) refusal(code, query string, words ...string) *durable.SQLError {
	s.t.Helper()
	_, err := s.try(query)
	if err == nil {
		s.t.Errorf("%.90q passed", query)
		return nil
	}
	e := sqlError(s.t, err)
	if e.Code != code || e.Lost {
		s.t.Errorf("%.90q: %v, lost %v; want %s", query, err, e.Lost, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			s.t.Errorf("%.90q: %v; want %q in it", query, err, word)
		}
	}
	return e
}

// refused is refusal for tests that look no further.
func (s *sqlTest) refused(code, query string, words ...string) {
	s.t.Helper()
	_ = s.refusal(code, query, words...)
}

func (s *sqlTest) passes(query string, args ...any) [][]any {
	s.t.Helper()
	rows, err := s.try(query, args...)
	if err != nil {
		s.t.Errorf("%.90q: %v", query, err)
	}
	return rows
}

func TestSQLExec(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, n INTEGER CHECK (n < 1000)); CREATE INDEX tn ON t(n)")

	s.run("SQL-01 a statement runs at once", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t (id, name, n) VALUES (1, 'one', 1), (2, 'two', 2)"); err != nil {
				return err
			}
			if n := one(ctx, t, tx.SQL(), "SELECT count(*) FROM t"); n != int64(2) {
				t.Error(n)
			}
			return nil
		})
		s.want("[[2]]", "SELECT count(*) FROM t")
	})
	s.run("SQL-02 several statements run in order, and the cursor is of the last", func(t *testing.T) {
		rows := s.passes("SELECT 'dropped'; INSERT INTO t VALUES (3, 'three', 3); SELECT n FROM t WHERE id > ? ORDER BY id;\n\t ", 1)
		if fmt.Sprint(rows) != "[[2] [3]]" {
			t.Error(rows)
		}
	})
	s.run("SQL-03 an earlier statement has no parameters", func(t *testing.T) {
		if _, err := s.try("SELECT ?; SELECT 1", 1); err == nil || sqlError(t, err).Code != "SQLITE_RANGE" || !strings.Contains(err.Error(), "last statement") {
			t.Error(err)
		}
	})
	s.run("SQL-04 the number of bindings has to be right", func(t *testing.T) {
		for _, args := range [][]any{nil, {1}, {1, 2, 3}, {sql.Named("a", 1)}, {1, sql.Named("a", 1)}} {
			if _, err := s.try("SELECT ?, ?", args...); err == nil || sqlError(t, err).Code != "SQLITE_RANGE" {
				t.Errorf("%v: %v", args, err)
			}
		}
		if _, err := s.try("SELECT 1", 1); err == nil || !strings.Contains(err.Error(), "number of bindings") {
			t.Error(err)
		}
		if _, err := s.try("SELECT :a, :b", sql.Named("a", 1)); err == nil || !strings.Contains(err.Error(), "number of bindings") {
			t.Error(err)
		}
	})
	s.run("SQL-08 parameters by name and number", func(t *testing.T) {
		rows := s.passes("SELECT :a, @b, $c, :a, ?", sql.Named("c", 3), 4, sql.Named("a", 1), sql.Named("b", 2))
		if fmt.Sprint(rows) != "[[1 2 3 1 4]]" {
			t.Error(rows)
		}
		if rows := s.passes("SELECT ?3, ?1", 1, 2, 3); fmt.Sprint(rows) != "[[3 1]]" {
			t.Error(rows)
		}
	})
	s.run("SQL-05 text without a statement", func(t *testing.T) {
		for _, query := range []string{"", ";", " \t\n;;", "-- nothing", "/* nothing", "SELECT 1; -- the end", "SELECT 1; /* the end */"} {
			s.refused("SQLITE_MISUSE", query, "no statement")
		}
		for _, query := range []string{"SELECT 1", "SELECT 1;", ";;SELECT 1", "SELECT 1 ; \t\n\v\f\r ", "SELECT 1 -- the end", "/* a */ SELECT 1 /* b */"} {
			if rows := s.passes(query); fmt.Sprint(rows) != "[[1]]" {
				t.Errorf("%q: %v", query, rows)
			}
		}
	})
	s.run("SQL-06 a syntax error has a position", func(t *testing.T) {
		for query, offset := range map[string]int{
			"SELECT * FRM t":                       9,
			"SELEC 1":                              0,
			"SELECT 1; SELECT 'é', * FRM t":        25,
			"SELECT nosuch FROM t":                 7,
			"INSERT INTO t VALUES (1, 'x', 3":      31,
			"SELECT 1; \n SELECT nosuch(1) FROM t": 19,
		} {
			if e := s.refusal("SQLITE_ERROR", query); e != nil && e.Offset != offset {
				t.Errorf("%q: the offset is %d, want %d", query, e.Offset, offset)
			}
		}
	})
	s.run("SQL-07 when a statement fails those before it stay", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (10, 'ten', 10); INSERT INTO t VALUES (11, 'eleven', 11), (12, 'ten', 12); INSERT INTO t VALUES (13, 'never', 13)")
			e := sqlError(t, err)
			if e.Code != "SQLITE_CONSTRAINT_UNIQUE" || e.Constraint != "t.name" || e.Lost {
				t.Error(err)
			}
			return nil
		})
		s.want("[[10]]", "SELECT id FROM t WHERE id >= 10") // nothing of the second one
		s.exec("DELETE FROM t WHERE id >= 10")
	})
	s.run("SQL-08 SQL-09 SQL-10 values come back as they are", func(t *testing.T) {
		for _, v := range []any{
			nil, "", "text", "with\x00zero", "é\U0001F600", int64(0), int64(math.MaxInt64), int64(math.MinInt64), int64(1)<<53 + 1,
			0.0, 1.5, math.Inf(1), math.MaxFloat64,
			[]byte{},
			[]byte{0, 0, 0},
			[]byte("blob"), strings.Repeat("x", 100_000),
		} {
			s.must(func(ctx context.Context, tx durable.Tx) error {
				if got := one(ctx, t, tx.SQL(), "SELECT ?", v); !reflect.DeepEqual(got, v) {
					t.Errorf("%T %.20v came back as %T %.20v", v, v, got, got)
				}
				if _, err := tx.SQL().Exec(ctx, "CREATE TABLE v (v); INSERT INTO v VALUES (?)", v); err != nil {
					return err
				}
				if got := one(ctx, t, tx.SQL(), "SELECT v FROM v"); !reflect.DeepEqual(got, v) {
					t.Errorf("%T %.20v was stored as %T %.20v", v, v, got, got)
				}
				_, err := tx.SQL().Exec(ctx, "DROP TABLE v")
				return err
			})
		}
		if rows := s.passes("SELECT ?, ?, typeof(?)", true, []byte(nil), false); fmt.Sprint(rows) != "[[1 <nil> integer]]" {
			t.Error(rows)
		}
	})
	s.run("SQL-11 a blob is copied when it is bound", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			blob := []byte("before")
			cur, err := tx.SQL().Exec(ctx, "SELECT ? UNION ALL SELECT ?1", blob)
			if err != nil {
				return err
			}
			copy(blob, "after!")
			rows, err := cur.All()
			for _, row := range rows {
				if !bytes.Equal(row.Values()[0].([]byte), []byte("before")) {
					t.Errorf("%s", row.Values())
				}
			}
			return err
		})
	})
	s.run("SQL-12 errors have extended codes", func(t *testing.T) {
		s.refused("SQLITE_MISMATCH", "INSERT INTO t (id) VALUES ('text')", "datatype mismatch")
		if e := s.refusal("SQLITE_CONSTRAINT_CHECK", "INSERT INTO t (n) VALUES (1000)"); e.Constraint != "n < 1000" {
			t.Error(e.Constraint)
		}
		if e := s.refusal("SQLITE_CONSTRAINT_PRIMARYKEY", "INSERT INTO t (id) VALUES (1)"); e.Constraint != "t.id" {
			t.Error(e.Constraint)
		}
		if e := s.refusal("SQLITE_CONSTRAINT_NOTNULL", "CREATE TABLE o (a NOT NULL); INSERT INTO o VALUES (NULL)"); e.Constraint != "o.a" {
			t.Error(e.Constraint)
		}
		if e := s.refusal("SQLITE_CONSTRAINT_UNIQUE", "CREATE TABLE o (a, b, UNIQUE (a, b)); INSERT INTO o VALUES (1, 1), (1, 1)"); e.Constraint != "o.a, o.b" {
			t.Error(e.Constraint)
		}
		if e := s.refusal("SQLITE_CONSTRAINT_CHECK", "CREATE TABLE o (a, CONSTRAINT positive CHECK (a > 0)); INSERT INTO o VALUES (0)"); e.Constraint != "positive" {
			t.Error(e.Constraint)
		}
		s.refused("SQLITE_CONSTRAINT_TRIGGER", "CREATE TRIGGER no BEFORE DELETE ON t BEGIN SELECT RAISE(ABORT, 'not this one'); END; DELETE FROM t", "not this one")
		s.refused("SQLITE_CONSTRAINT_DATATYPE", "CREATE TABLE o (a INTEGER) STRICT; INSERT INTO o VALUES ('x')")
	})
	s.run("SQL-13 statements after a pragma that invalidates others", func(t *testing.T) {
		rows := s.passes("SELECT id FROM t; PRAGMA case_sensitive_like=ON; SELECT 'A' LIKE 'a'; PRAGMA case_sensitive_like=OFF; SELECT 'A' LIKE 'a', count(*) FROM t WHERE id <= 2")
		if fmt.Sprint(rows) != "[[1 2]]" {
			t.Error(rows)
		}
	})
	s.run("SQL-14 statements that were compiled before stay right when the schema changes", func(t *testing.T) {
		const all, insert = "SELECT * FROM c", "INSERT INTO c VALUES (?)"
		s.exec("CREATE TABLE c (a)")
		for i := range 3 {
			s.exec(insert, i)
			s.see(all)
		}
		s.exec("ALTER TABLE c ADD COLUMN b DEFAULT 'b'")
		s.want("[[0 b] [1 b] [2 b]]", all)
		s.refused("SQLITE_ERROR", "INSERT INTO c VALUES (3)", "2 columns")
		if _, err := s.try(insert, 3); err == nil {
			t.Error("one value for two columns passed")
		}
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for _, change := range []struct{ query, columns string }{
				{"ALTER TABLE c RENAME COLUMN b TO z", "[a z]"},
				{"ALTER TABLE c DROP COLUMN a", "[z]"},
				{"DROP TABLE c; CREATE TABLE c (x, y, z)", "[x y z]"},
			} {
				if _, err := tx.SQL().Exec(ctx, change.query); err != nil {
					return err
				}
				cur, err := tx.SQL().Exec(ctx, all)
				if err != nil {
					return err
				}
				if got := fmt.Sprint(cur.Columns()); got != change.columns {
					t.Errorf("%s: %s", change.query, got)
				}
				cur.Close()
			}
			return nil
		})
		s.exec("DROP TABLE c")
	})
	s.run("SQL-14 many and long statements", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for i := range 500 {
				pad := strings.Repeat(" ", i*i%9000)
				if got := one(ctx, t, tx.SQL(), fmt.Sprintf("SELECT %s %d", pad, i%250)); got != int64(i%250) {
					return fmt.Errorf("%d: %v", i, got)
				}
			}
			return nil
		})
	})
	s.run("SQL-15 SQL-28 cursors of the same text", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			var cursors [3]*durable.Cursor
			var got [3]string
			for i := range cursors {
				var err error
				if cursors[i], err = tx.SQL().Exec(ctx, "SELECT id FROM t WHERE id <= ? ORDER BY id", 2); err != nil {
					return err
				}
			}
			for range 3 {
				for i, cur := range cursors {
					if row, ok, err := cur.Next(); err != nil {
						return err
					} else if ok {
						got[i] += fmt.Sprint(row.Values())
					}
				}
			}
			for i, cur := range cursors {
				if got[i] != "[1][2]" || cur.RowsRead() != 2 || cur.RowsWritten() != 0 || cur.Steps() != cursors[0].Steps() {
					t.Errorf("cursor %d: %s, read %d, written %d, %d steps", i, got[i], cur.RowsRead(), cur.RowsWritten(), cur.Steps())
				}
			}
			return nil
		})
	})
}

func TestSQLCursor(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t (v) VALUES ('a'), ('b'), ('c')")
	in := func(name string, fn func(t *testing.T, ctx context.Context, db durable.SQL) error) {
		s.run(name, func(t *testing.T) {
			for _, kind := range []string{"turn", "view"} {
				var err error
				if kind == "turn" {
					err = s.do(func(ctx context.Context, tx durable.Tx) error { return fn(t, ctx, tx.SQL()) })
				} else {
					err = s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error { return fn(t, ctx, v.SQL()) })
				}
				if err != nil {
					t.Errorf("in a %s: %v", kind, err)
				}
			}
		})
	}
	in("SQL-20 SQL-25 next gives a row or done, and stays done", func(t *testing.T, ctx context.Context, db durable.SQL) error {
		cur, err := db.Exec(ctx, "SELECT id, v FROM t")
		if err != nil {
			return err
		}
		if fmt.Sprint(cur.Columns()) != "[id v]" {
			t.Error(cur.Columns())
		}
		for i := range 5 {
			_, ok, err := cur.Next()
			if err != nil || ok != (i < 3) {
				t.Errorf("row %d: %v %v", i, ok, err)
			}
		}
		if fmt.Sprint(cur.Columns()) != "[id v]" {
			t.Error(cur.Columns())
		}
		return nil
	})
	in("SQL-21 SQL-22 SQL-24 a loop that breaks off leaves the rest", func(t *testing.T, ctx context.Context, db durable.SQL) error {
		cur, err := db.Exec(ctx, "SELECT v FROM t ORDER BY id")
		if err != nil {
			return err
		}
		for row, err := range cur.Rows() {
			if err != nil || row.Values()[0] != "a" {
				t.Error(row.Values(), err)
			}
			break
		}
		for raw := range cur.Raw() {
			if raw[0] != "b" {
				t.Error(raw)
			}
			break
		}
		rest, err := cur.All()
		if len(rest) != 1 || rest[0].Values()[0] != "c" {
			t.Error(rest)
		}
		if more, err := cur.All(); len(more) != 0 || err != nil {
			t.Error(more, err)
		}
		return err
	})
	in("SQL-23 one row", func(t *testing.T, ctx context.Context, db durable.SQL) error {
		for where, want := range map[string]error{"id = 2": nil, "id = 9": durable.ErrNoRow, "id < 9": durable.ErrManyRows} {
			cur, err := db.Exec(ctx, "SELECT v FROM t WHERE "+where)
			if err != nil {
				return err
			}
			if _, err := cur.One(); !errors.Is(err, want) {
				t.Errorf("%s: %v", where, err)
			}
			if _, ok, _ := cur.Next(); ok {
				t.Errorf("%s: the cursor goes on", where)
			}
		}
		return nil
	})
	in("SQL-25 SQL-26 columns of one name", func(t *testing.T, ctx context.Context, db durable.SQL) error {
		cur, err := db.Exec(ctx, "SELECT 1 AS x, 2 AS x, 3 AS y")
		if err != nil {
			return err
		}
		row, err := cur.One()
		if fmt.Sprint(cur.Columns(), row.Values(), row.Map()) != "[x x y] [1 2 3] map[x:2 y:3]" {
			t.Error(cur.Columns(), row.Values(), row.Map())
		}
		return err
	})
	in("SQL-27 counts grow while a cursor advances", func(t *testing.T, ctx context.Context, db durable.SQL) error {
		cur, err := db.Exec(ctx, "SELECT * FROM t")
		if err != nil {
			return err
		}
		for i := range int64(4) {
			if read := cur.RowsRead(); read != min(i+1, 3) { // one ahead
				t.Errorf("%d rows read after %d", read, i)
			}
			if _, _, err := cur.Next(); err != nil {
				return err
			}
		}
		if cur.RowsWritten() != 0 || cur.Steps() == 0 {
			t.Error(cur.RowsWritten(), cur.Steps())
		}
		return nil
	})

	s.run("SQL-25 a statement without a result has no columns", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for _, query := range []string{"INSERT INTO t (v) VALUES ('d')", "DELETE FROM t WHERE v = 'd'", "CREATE TABLE x (a)", "DROP TABLE x"} {
				cur, err := tx.SQL().Exec(ctx, query)
				if err != nil {
					return err
				}
				if rows, err := cur.All(); len(cur.Columns()) != 0 || len(rows) != 0 || err != nil {
					t.Errorf("%s: %v %v %v", query, cur.Columns(), rows, err)
				}
			}
			return nil
		})
	})
	s.run("SQL-33 RETURNING writes also when nobody reads", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			cur, err := tx.SQL().Exec(ctx, "INSERT INTO t (id, v) VALUES (20, 'x'), (21, 'y') RETURNING id, v")
			if err != nil {
				return err
			}
			if cur.RowsWritten() != 2 || cur.Changes() != 2 || cur.LastInsertID() != 21 {
				t.Error(cur.RowsWritten(), cur.Changes(), cur.LastInsertID())
			}
			_, err = tx.SQL().Exec(ctx, "INSERT INTO t (id) VALUES (22) RETURNING id")
			if err != nil {
				return err
			}
			rows, err := cur.All()
			if len(rows) != 2 || fmt.Sprint(rows[1].Values()) != "[21 y]" {
				t.Error(rows)
			}
			return err
		})
		s.want("[[20] [21] [22]]", "SELECT id FROM t WHERE id >= 20")
		s.exec("DELETE FROM t WHERE id >= 20")
	})
	s.run("SQL-34 an unread cursor leaves no lock", func(t *testing.T) {
		for range 3 {
			s.must(func(ctx context.Context, tx durable.Tx) error {
				if _, err := tx.SQL().Exec(ctx, "SELECT * FROM t, t AS u"); err != nil {
					return err
				}
				_, err := tx.SQL().Exec(ctx, "INSERT INTO t (v) VALUES ('z')")
				return err
			})
			if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
				_, err := v.SQL().Exec(ctx, "SELECT * FROM t")
				return err
			}); err != nil {
				t.Error(err)
			}
			s.exec("DROP TABLE IF EXISTS gone; CREATE TABLE gone (a)")
		}
		s.exec("DELETE FROM t WHERE v = 'z'; DROP TABLE gone")
	})
	s.run("SQL-34 a cursor that is closed lets the schema change", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "CREATE TABLE x (a); INSERT INTO x VALUES (1), (2), (3)"); err != nil {
				return err
			}
			cur, err := tx.SQL().Exec(ctx, "SELECT a FROM x")
			if err != nil {
				return err
			}
			if _, err := tx.SQL().Exec(ctx, "DROP TABLE x"); sqlError(t, err).Code != "SQLITE_LOCKED" {
				t.Error(err)
			}
			cur.Close()
			_, err = tx.SQL().Exec(ctx, "DROP TABLE x")
			return err
		})
	})
	s.run("SQL-30 a cursor goes on over later writes of its turn", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			cur, err := tx.SQL().Exec(ctx, "SELECT id FROM t ORDER BY id")
			if err != nil {
				return err
			}
			for _, query := range []string{"INSERT INTO t (id) VALUES (30)", "UPDATE t SET v = v || '!'"} {
				if _, err := tx.SQL().Exec(ctx, query); err != nil {
					return err
				}
			}
			rows, err := cur.All()
			if len(rows) < 3 {
				t.Error(len(rows))
			}
			_, derr := tx.SQL().Exec(ctx, "DELETE FROM t WHERE id = 30; UPDATE t SET v = substr(v, 1, 1)")
			return errors.Join(err, derr)
		})
	})
	s.run("SQL-32 a cursor of a turn that is over", func(t *testing.T) {
		var kept *durable.Cursor
		var db durable.SQL
		s.must(func(ctx context.Context, tx durable.Tx) (err error) {
			db = tx.SQL()
			kept, err = db.Exec(ctx, "SELECT * FROM t")
			return err
		})
		if _, _, err := kept.Next(); !errors.Is(err, durable.ErrTxDone) {
			t.Error(err)
		}
		if _, err := kept.All(); !errors.Is(err, durable.ErrTxDone) {
			t.Error(err)
		}
		kept.Close()
		_ = kept.RowsRead()
		if _, err := db.Exec(t.Context(), "SELECT 1"); !errors.Is(err, durable.ErrTxDone) {
			t.Error(err)
		}
		if _, err := db.DatabaseSize(t.Context()); !errors.Is(err, durable.ErrTxDone) {
			t.Error(err)
		}
		if err := db.Vacuum(t.Context()); !errors.Is(err, durable.ErrTxDone) {
			t.Error(err)
		}
		if err := db.DB().PingContext(t.Context()); err == nil {
			t.Error("the DB of an ended turn is open")
		}
	})
	s.run("SQL-32 a cursor does not survive Await", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			cur, err := tx.SQL().Exec(ctx, "SELECT * FROM t")
			if err != nil {
				return err
			}
			dbtx, err := tx.SQL().DB().BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := tx.Await(ctx, func(context.Context) error { return nil }); !errors.Is(err, durable.ErrInSavepoint) {
				t.Error(err)
			}
			if err := dbtx.Rollback(); err != nil {
				return err
			}
			if err := tx.Await(ctx, func(ctx context.Context) error {
				if _, err := tx.SQL().Exec(ctx, "SELECT 1"); !errors.Is(err, durable.ErrTxDone) {
					t.Error(err)
				}
				return nil
			}); err != nil {
				return err
			}
			if _, _, err := cur.Next(); !errors.Is(err, durable.ErrTxDone) {
				t.Error(err)
			}
			if n := one(ctx, t, tx.SQL(), "SELECT count(*) FROM t"); n != int64(3) {
				t.Error(n)
			}
			var n int
			if err := tx.SQL().DB().QueryRowContext(ctx, "SELECT count(*) FROM t").Scan(&n); err != nil || n != 3 {
				t.Error(n, err)
			}
			return nil
		})
	})
	s.run("SQL-32 a cursor survives Sync", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t (id) VALUES (40)"); err != nil {
				return err
			}
			cur, err := tx.SQL().Exec(ctx, "SELECT id FROM t ORDER BY id")
			if err != nil {
				return err
			}
			if err := tx.Sync(ctx); err != nil {
				return err
			}
			rows, err := cur.All()
			if err != nil || len(rows) != 4 {
				t.Error(rows, err)
			}
			if _, err := tx.SQL().Exec(ctx, "DELETE FROM t"); err != nil {
				return err
			}
			return nil // the rows are gone with the turn
		})
	})
}

func TestSQLRowsWritten(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec(`CREATE TABLE plain (a, b, c);
		CREATE TABLE keyed (id INTEGER PRIMARY KEY, a UNIQUE, b, c); CREATE INDEX kb ON keyed(b); CREATE INDEX kbc ON keyed(b, c);
		CREATE TABLE words (w TEXT PRIMARY KEY, n) WITHOUT ROWID; CREATE INDEX wn ON words(n);
		CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT, a)`)
	for _, c := range []struct {
		query         string
		read, written int64
	}{
		{"INSERT INTO plain VALUES (1, 2, 3)", 0, 1},
		{"INSERT INTO plain VALUES (2, 2, 3), (3, 2, 3), (4, 2, 3)", 0, 3},
		{"UPDATE plain SET b = 4", 4, 4},
		{"DELETE FROM plain WHERE a = 1", 4, 1},
		{"SELECT * FROM plain", 3, 0},
		{"SELECT count(*) FROM plain WHERE a IN (2, 3)", 3, 0}, // the list makes a table of its own
		{"DELETE FROM plain", -1, 3},
		{"INSERT INTO keyed VALUES (1, 1, 1, 1)", 0, 4},
		{"INSERT INTO keyed VALUES (2, 2, 2, 2), (3, 3, 3, 3)", 0, 8},
		{"UPDATE keyed SET c = 5 WHERE id = 1", -1, 2},
		{"UPDATE keyed SET b = 5 WHERE id = 1", -1, 3},
		{"UPDATE keyed SET a = 5 WHERE id = 1", -1, 2},
		{"UPDATE keyed SET b = 6, c = 6", -1, 9},
		{"UPDATE keyed SET id = 9 WHERE id = 1", -1, 4},
		{"UPDATE keyed SET rowid = 10 WHERE id = 9", -1, 4},
		{"UPDATE keyed SET c = 5 WHERE id = 99", -1, 0},
		{"INSERT OR IGNORE INTO keyed (id) VALUES (2)", -1, 0},
		{"DELETE FROM keyed WHERE id = 2", -1, 4},
		{"INSERT INTO words VALUES ('a', 1)", 0, 2},
		{"UPDATE words SET n = 2", -1, 2},
		{"DELETE FROM words", -1, 2},
		{"INSERT INTO auto (a) VALUES (1)", 0, 1},
		{"SELECT id FROM keyed", 2, 0},
	} {
		s.run("SQL-29 "+c.query, func(t *testing.T) {
			s.must(func(ctx context.Context, tx durable.Tx) error {
				cur, err := tx.SQL().Exec(ctx, c.query)
				if err != nil {
					return err
				}
				if _, err := cur.All(); err != nil {
					return err
				}
				if cur.RowsWritten() != c.written || c.read >= 0 && cur.RowsRead() != c.read {
					t.Errorf("read %d, written %d; want %d and %d", cur.RowsRead(), cur.RowsWritten(), c.read, c.written)
				}
				return nil
			})
		})
	}
	s.run("SQL-28 counts are of one run", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for range 3 {
				cur, err := tx.SQL().Exec(ctx, "INSERT INTO keyed (b) VALUES (7)")
				if err != nil {
					return err
				}
				if cur.RowsWritten() != 4 || cur.Changes() != 1 {
					t.Error(cur.RowsWritten(), cur.Changes())
				}
			}
			// An index that comes later counts, too.
			if _, err := tx.SQL().Exec(ctx, "CREATE INDEX kc ON keyed(c)"); err != nil {
				return err
			}
			cur, err := tx.SQL().Exec(ctx, "INSERT INTO keyed (b) VALUES (7)")
			if err != nil {
				return err
			}
			if cur.RowsWritten() != 5 {
				t.Error(cur.RowsWritten())
			}
			return nil
		})
	})
}

func TestSQLSize(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	size := func(ctx context.Context, db durable.SQL) int64 {
		n, err := db.DatabaseSize(ctx)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	s.must(func(ctx context.Context, tx durable.Tx) error {
		if n := size(ctx, tx.SQL()); n != 0 {
			t.Errorf("SQL-40: an empty database has %d bytes", n)
		}
		return nil
	})
	s.exec("CREATE TABLE a (a)")
	s.must(func(ctx context.Context, tx durable.Tx) error {
		before := size(ctx, tx.SQL())
		if before != 2*4096 {
			t.Errorf("SQL-40: %d bytes with one table", before)
		}
		if _, err := tx.SQL().Exec(ctx, "CREATE TABLE b (b)"); err != nil {
			return err
		}
		if n := size(ctx, tx.SQL()); n != before+4096 {
			t.Errorf("SQL-40: a small table adds %d bytes", n-before)
		}
		_, err := tx.SQL().Exec(ctx, "DROP TABLE b")
		if n := size(ctx, tx.SQL()); n != before {
			t.Errorf("SQL-40: %d bytes are left of a table that was dropped", n-before)
		}
		return err
	})
	s.exec("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO a SELECT randomblob(1000) FROM n")
	s.exec("DELETE FROM a")
	s.must(func(ctx context.Context, tx durable.Tx) error { return tx.SQL().Vacuum(ctx) })
	if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
		if n := size(ctx, v.SQL()); n != 2*4096 {
			t.Errorf("SQL-40: %d bytes after a vacuum", n)
		}
		if err := v.SQL().Vacuum(ctx); sqlError(t, err).Code != "SQLITE_READONLY" {
			t.Error(err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.run("SQL-47 Vacuum comes first, or after Sync", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			cur, err := tx.SQL().Exec(ctx, "SELECT 1 UNION SELECT 2")
			if err != nil {
				return err
			}
			if err := tx.SQL().Vacuum(ctx); err != nil {
				t.Errorf("beside an open cursor: %v", err)
			}
			cur.Close()
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO a VALUES (1)"); err != nil {
				return err
			}
			if err := tx.SQL().Vacuum(ctx); err == nil || !strings.Contains(err.Error(), "Sync") {
				t.Errorf("after a write: %v", err)
			}
			if err := tx.Sync(ctx); err != nil {
				return err
			}
			if err := tx.SQL().Vacuum(ctx); err != nil {
				t.Errorf("after Sync: %v", err)
			}
			return tx.Savepoint(func() error {
				if err := tx.SQL().Vacuum(ctx); !errors.Is(err, durable.ErrInSavepoint) {
					t.Errorf("inside a savepoint: %v", err)
				}
				return nil
			})
		})
		s.want("[[1]]", "SELECT count(*) FROM a")
	})
	s.run("SQL-47 a vacuum of a turn that fails is undone", func(t *testing.T) {
		s.exec("CREATE TABLE big (a); INSERT INTO big VALUES (zeroblob(100000)); DELETE FROM big")
		if err := s.do(func(ctx context.Context, tx durable.Tx) error { return errors.Join(tx.SQL().Vacuum(ctx), errBack) }); !errors.Is(err, errBack) {
			t.Error(err)
		}
		s.want("[[1]]", "SELECT count(*) FROM a")
		s.exec("INSERT INTO a VALUES (2); DELETE FROM a WHERE a = 2")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
}

func (s *sqlTest) sqlEngine() *sqlitedb.Engine { return s.sql.(*sqlitedb.Engine) }

// connections returns how many connections are open.
func (s *sqlTest) connections() int {
	n, _ := s.sqlEngine().Connections()
	return n
}
