package actor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
)

// times returns n of what f makes, with commas.
func times(n int, f func(i int) string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = f(i)
	}
	return strings.Join(parts, ",")
}

func repeated(part string) func(int) string { return func(int) string { return part } }

// nested returns an expression of a depth.
func nested(depth int) string {
	return "SELECT " + strings.Repeat("-(", depth-1) + "1" + strings.Repeat(")", depth-1)
}

// selects returns a compound SELECT.
func selects(terms int) string {
	return "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", terms-1)
}

// like returns a comparison with a pattern of so many bytes.
func like(op string, bytes int) string {
	return "SELECT 'x' " + op + " '" + strings.Repeat("x", bytes) + "'"
}

func TestSQLStatementLimits(t *testing.T) {
	type limits struct {
		statement, parameters, columns, terms, like, triggers, depth, args, row int
	}
	for _, kind := range []struct {
		name   string
		limits durable.Limits
		want   limits
	}{
		{"by default", durable.Limits{}, limits{1_000_000, 32_766, 2_000, 200, 50_000, 100, 1_000, 127, 2 << 20}},
		{"as Cloudflare's", durable.CloudflareLimits(), limits{100_000, 100, 100, 5, 50, 10, 100, 32, 2_000_000}},
		{"of the type alone", durable.Limits{SQL: durable.SQLLimits{StatementBytes: 10_000, Parameters: 3, Columns: 8, CompoundTerms: 2, LikeBytes: 16, TriggerDepth: 3, ExprDepth: 20, FunctionArgs: 10, RowBytes: 5_000}}, limits{10_000, 3, 8, 2, 16, 3, 20, 10, 5_000}},
	} {
		t.Run("SQL-68 "+kind.name, func(t *testing.T) {
			s := newSQLTest(t, kind.limits)
			l := kind.want
			s.exec("CREATE TABLE t (a)")
			args := func(n int) []any {
				all := make([]any, n)
				for i := range all {
					all[i] = i
				}
				return all
			}
			// A statement of exactly the size, and one of a byte more.
			s.passes("SELECT 1" + strings.Repeat(" ", l.statement-8))
			_, err := s.try("SELECT 1" + strings.Repeat(" ", l.statement-7))
			var limit *durable.LimitError
			if !errors.As(err, &limit) || limit.Max != int64(l.statement) || limit.Actual != int64(l.statement+1) {
				t.Errorf("SQL-60: %v", err)
			}

			s.passes(fmt.Sprintf("SELECT ?%d", l.parameters), args(l.parameters)...)
			s.refused("SQLITE_ERROR", fmt.Sprintf("SELECT ?%d", l.parameters+1), fmt.Sprint(l.parameters))
			if l.parameters < l.statement/2 && l.parameters < 1000 {
				query := "SELECT 1 WHERE 1 IN (" + times(l.parameters+1, repeated("?")) + ")"
				if _, err := s.try(query, args(l.parameters+1)...); err == nil || !strings.Contains(err.Error(), "too many SQL variables") {
					t.Errorf("SQL-61: %v", err)
				}
			}

			column := func(i int) string { return fmt.Sprint("c", i) }
			s.passes("CREATE TABLE wide (" + times(l.columns, column) + ")")
			s.refused("SQLITE_ERROR", "CREATE TABLE wide ("+times(l.columns+1, column)+")", "too many columns")
			s.passes("SELECT " + times(l.columns, repeated("1")))
			s.refused("SQLITE_ERROR", "SELECT "+times(l.columns+1, repeated("1")), "too many columns")

			s.passes("VALUES (1)" + strings.Repeat(" UNION SELECT 1", l.terms-1))
			s.passes(selects(min(l.terms, 200))) // more need more stack than there is
			s.refused("SQLITE_ERROR", selects(l.terms+1), "too many terms in compound SELECT")

			for _, op := range []string{"LIKE", "GLOB"} {
				s.passes(like(op, l.like))
				s.refused("SQLITE_ERROR", like(op, l.like+1), "pattern too complex")
			}

			s.passes("SELECT 1 WHERE 1=1" + strings.Repeat(" OR 1=1", l.depth-3))
			s.passes(nested(min(l.depth-2, 400))) // more need more stack than there is
			s.refused("SQLITE_ERROR", "SELECT 1 WHERE 1=1"+strings.Repeat(" OR 1=1", l.depth), "Expression tree is too large")

			s.passes("SELECT max(" + times(l.args, repeated("1")) + ")")
			s.refused("SQLITE_ERROR", "SELECT max("+times(l.args+1, repeated("1"))+")", "too many arguments on function max")

			// Each insert triggers the next until it is deep enough.
			const trigger = "CREATE TABLE n (i); CREATE TRIGGER deeper AFTER INSERT ON n WHEN new.i > 1 BEGIN INSERT INTO n VALUES (new.i - 1); END; PRAGMA recursive_triggers = ON; INSERT INTO n VALUES (%d)"
			s.passes(fmt.Sprintf(trigger, l.triggers))
			s.refused("SQLITE_ERROR", fmt.Sprintf(trigger, l.triggers+2), "too many levels of trigger recursion")

			// SQL-62, bound and made in SQL.
			s.passes("SELECT length(?)", strings.Repeat("x", l.row))
			for _, v := range []any{strings.Repeat("x", l.row+1), make([]byte, l.row+1)} {
				_, err := s.try("INSERT INTO t VALUES (?)", v)
				if !errors.As(err, &limit) || limit.Max != int64(l.row) || limit.Actual != int64(l.row+1) {
					t.Errorf("SQL-62: %v", err)
				}
			}
			s.passes("INSERT INTO t VALUES (?)", strings.Repeat("x", l.row-20))
			half := make([]byte, l.row/2+100)
			for _, query := range []string{"SELECT ?1 || ?1", "SELECT zeroblob(length(?1) * 2)", "SELECT group_concat(?1) FROM (VALUES (1), (2))", "SELECT replace(hex(?1), '0', '00')", "CREATE TABLE two (a, b); INSERT INTO two VALUES (?1, ?1)"} {
				_, err := s.try(query, half)
				if err == nil && strings.HasPrefix(query, "CREATE") {
					t.Errorf("SQL-62: %s passed", query)
				} else if err == nil || sqlError(t, err).Code != "SQLITE_TOOBIG" || !strings.Contains(err.Error(), fmt.Sprint(l.row)) {
					if !strings.HasPrefix(query, "CREATE") || !strings.Contains(err.Error(), "parameters") {
						t.Errorf("SQL-62: %s: %v", query, err)
					}
				}
			}
			s.want("[[0]]", "SELECT count(*) FROM t")
		})
	}
	t.Run("SQL-66 the length of a program", func(t *testing.T) {
		s := newSQLTest(t, durable.CloudflareLimits())
		s.exec("CREATE TABLE t (a)")
		long := func(columns int) string {
			return "SELECT " + times(columns, func(int) string { return "abs(" + strings.Repeat("random()+", 95) + "0)" })
		}
		s.passes(long(30))
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, long(90))
			return err
		}); sqlError(t, err).Code != "SQLITE_NOMEM" || !strings.Contains(err.Error(), "Limits.SQL.Instructions") {
			t.Error(err)
		}
		s.exec("INSERT INTO t VALUES (1)")
	})
	t.Run("SQL-66 a statement too deep for the stack of the engine loses the turn", func(t *testing.T) {
		s := newSQLTest(t, durable.Limits{SQL: durable.SQLLimits{CompoundTerms: 500}})
		s.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('kept')")
		for _, query := range []string{selects(400), nested(990), "SELECT " + strings.Repeat("abs(", 300) + "a" + strings.Repeat(")", 300) + " FROM t"} {
			var first error
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('lost')"); err != nil {
					return err
				}
				_, first = tx.SQL().Exec(ctx, query)
				checkBroken(t, tx, first)
				return nil
			})
			if e := sqlError(t, err); e.Code != "SQLITE_NOMEM" || !e.Lost || !strings.Contains(err.Error(), "too deep") {
				t.Error(err)
			}
			s.want("[[kept]]", "SELECT a FROM t")
			s.exec("UPDATE t SET a = a")
		}
	})
	t.Run("SQL-31 the bytes of a result", func(t *testing.T) {
		s := newSQLTest(t, durable.Limits{SQL: durable.SQLLimits{MaxResultBytes: 10_000}})
		const rows = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n"
		s.must(func(ctx context.Context, tx durable.Tx) error {
			var limit *durable.LimitError
			if _, err := durable.All[int](ctx, tx.SQL(), rows); !errors.As(err, &limit) || limit.Max != 10_000 {
				t.Error(err)
			}
			cur, err := tx.SQL().Exec(ctx, rows)
			if err != nil {
				return err
			}
			if _, err := cur.All(); !errors.As(err, &limit) {
				t.Error(err)
			}
			if n, err := query1(ctx, tx.SQL(), rows); len(n) != 1000 || err != nil {
				t.Error(len(n), err)
			}
			return nil
		})
	})
}

func TestSQLFull(t *testing.T) {
	const page = 4096
	s := newSQLTest(t, durable.Limits{SQL: durable.SQLLimits{DatabaseBytes: 100 * page}})
	s.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a BLOB, b); CREATE INDEX tb ON t (b)")
	rows := 0
	s.run("SQL-63 inserts fail when the database is full", func(t *testing.T) {
		for {
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				_, err := tx.SQL().Exec(ctx, "INSERT INTO t (a, b) VALUES (zeroblob(3000), randomblob(100))")
				return err
			})
			if err == nil {
				if rows++; rows > 200 {
					t.Fatal("it is never full")
				}
				continue
			}
			if e := sqlError(t, err); e.Code != "SQLITE_FULL" || e.Lost || !strings.Contains(err.Error(), "409600 bytes") {
				t.Error(err)
			}
			break
		}
		if rows < 80 {
			t.Errorf("full after %d rows", rows)
		}
	})
	for name, query := range map[string]string{
		"one row":           "INSERT INTO t (a) VALUES (zeroblob(20000))",
		"one large row":     "INSERT INTO t (a) VALUES (zeroblob(2000000))",
		"several rows":      "INSERT INTO t (a) VALUES (zeroblob(4000)), (zeroblob(4000)), (zeroblob(4000)), (zeroblob(4000))",
		"an update":         "UPDATE t SET a = zeroblob(8000)",
		"one update":        "UPDATE t SET a = zeroblob(20000) WHERE id = 1",
		"a replacement":     "INSERT OR REPLACE INTO t (id, a) VALUES (1, zeroblob(20000))",
		"RETURNING":         "INSERT INTO t (a) VALUES (zeroblob(20000)) RETURNING id",
		"rows of a query":   "INSERT INTO t (a) SELECT zeroblob(3000) FROM t",
		"a table":           "CREATE TABLE u AS SELECT * FROM t",
		"an index":          "CREATE INDEX ta ON t (a)",
		"an upsert":         "INSERT INTO t (id, a) VALUES (1, 1) ON CONFLICT DO UPDATE SET a = zeroblob(20000)",
		"much text":         "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f SELECT hex(randomblob(1000)) FROM t",
		"a trigger's write": "CREATE TRIGGER more AFTER UPDATE ON t BEGIN INSERT INTO t (a) VALUES (zeroblob(20000)); END; UPDATE t SET b = 1 WHERE id = 1",
	} {
		s.run("SQL-63 the turn is not lost by "+name, func(t *testing.T) {
			s.must(func(ctx context.Context, tx durable.Tx) error {
				db := tx.SQL()
				if _, err := db.Exec(ctx, "UPDATE t SET b = 'kept' WHERE id = 2"); err != nil {
					return err
				}
				if err := tx.KV().Put(ctx, name, []byte("kept")); err != nil {
					return err
				}
				err := tx.Savepoint(func() error {
					_, err := db.Exec(ctx, query)
					if e := sqlError(t, err); e.Code != "SQLITE_FULL" || e.Lost {
						t.Error(err)
					}
					return err
				})
				if err == nil {
					t.Error("it passed")
				}
				if n := one(ctx, t, db, "SELECT count(*) FROM t"); n != int64(rows) {
					t.Errorf("%d rows, want %d", n, rows)
				}
				if n := one(ctx, t, db, "SELECT count(*) FROM t WHERE length(a) <> 3000"); n != int64(0) {
					t.Errorf("%d rows changed", n)
				}
				return nil
			})
			s.want("[[2]]", "SELECT id FROM t WHERE b = 'kept'")
			s.want("[[ok]]", "PRAGMA quick_check")
		})
	}
	s.run("SQL-63 a failed insert alone resets nothing", func(t *testing.T) {
		made := s.made
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "INSERT INTO t (a) VALUES (zeroblob(20000))")
			return err
		}); sqlError(t, err).Code != "SQLITE_FULL" {
			t.Error(err)
		}
		s.exec("SELECT 1")
		if s.made != made {
			t.Error("the object was reset")
		}
	})
	s.run("SQL-63 deletes and reads go on, and make room", func(*testing.T) {
		for id := 1; id <= 30; id++ {
			s.exec("DELETE FROM t WHERE id = ?", id)
		}
		s.exec("INSERT INTO t (a) VALUES (zeroblob(20000))")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			size, err := tx.SQL().DatabaseSize(ctx)
			if size > 100*page {
				s.t.Error(size)
			}
			return err
		})
		s.exec("DELETE FROM t")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
	s.run("SQL-63 a database over a limit that was lowered can be emptied", func(t *testing.T) {
		s.exec("INSERT INTO t (a) SELECT zeroblob(3000) FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10))")
		s.store.Crash()
		lowered := newSQLTestOn(t, s.store, durable.Limits{SQL: durable.SQLLimits{DatabaseBytes: 5 * page}})
		if err := lowered.do(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "INSERT INTO t (a) VALUES (zeroblob(500000))")
			return err
		}); sqlError(t, err).Code != "SQLITE_FULL" {
			t.Error(err)
		}
		lowered.exec("DELETE FROM t WHERE id IN (SELECT min(id) FROM t)")
		lowered.want("[[9]]", "SELECT count(*) FROM t")
		lowered.exec("DELETE FROM t")
		lowered.must(func(ctx context.Context, tx durable.Tx) error { return tx.SQL().Vacuum(ctx) })
		lowered.exec("INSERT INTO t (a) VALUES (zeroblob(3000))")
	})
}

func TestSQLMemory(t *testing.T) {
	s := newSQLTest(t, durable.Limits{SQL: durable.SQLLimits{MemoryBytes: 8 << 20}})
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('kept')")
	const numbers = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
	for name, query := range map[string]string{
		"a sort":       numbers + "SELECT randomblob(1000) AS r FROM n ORDER BY r",
		"group_concat": numbers + "SELECT count(*) FROM (SELECT group_concat(hex(randomblob(500))) OVER (PARTITION BY i % 100 ORDER BY i) FROM n)",
		"a write":      numbers + "INSERT INTO t SELECT randomblob(1000) AS r FROM n ORDER BY r",
		"DISTINCT":     numbers + "SELECT DISTINCT randomblob(1000) FROM n",
	} {
		s.run("SQL-31 TXN-17 out of memory by "+name, func(t *testing.T) {
			made := s.made
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('lost')"); err != nil {
					return err
				}
				cur, err := tx.SQL().Exec(ctx, query)
				if err == nil {
					_, err = cur.All()
				}
				if e := sqlError(t, err); e.Code != "SQLITE_NOMEM" || !strings.Contains(err.Error(), "MemoryBytes") {
					t.Error(err)
				}
				// The turn is lost, whatever becomes of the error.
				if _, gerr := tx.SQL().Exec(ctx, "SELECT 1"); gerr == nil || gerr.Error() != err.Error() {
					t.Errorf("SQL goes on: %v", gerr)
				}
				if _, _, gerr := tx.KV().Get(ctx, "k"); gerr == nil || gerr.Error() != err.Error() {
					t.Errorf("KV goes on: %v", gerr)
				}
				return nil
			})
			if e := sqlError(t, err); e.Code != "SQLITE_NOMEM" || !e.Lost {
				t.Error(err)
			}
			s.want("[[kept]]", "SELECT a FROM t")
			s.exec("UPDATE t SET a = a")
			if s.made != made+1 {
				t.Errorf("%d activations were made", s.made-made)
			}
		})
	}
	s.run("SQL-31 out of memory in a view fails that view alone", func(t *testing.T) {
		err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
			_, err := query1(ctx, v.SQL(), numbers+"SELECT randomblob(1000) AS r FROM n ORDER BY r")
			return err
		})
		if sqlError(t, err).Code != "SQLITE_NOMEM" {
			t.Error(err)
		}
		s.want("[[kept]]", "SELECT a FROM t")
	})
}

// endless never ends.
const endless = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) "

// A budget is a context that ends after it was asked so many times, whatever the
// clock says.
type budget struct {
	context.Context
	left *atomic.Int64
}

func newBudget(ctx context.Context, n int64) budget {
	b := budget{ctx, new(atomic.Int64)}
	b.left.Store(n)
	return b
}

func (b budget) Err() error {
	if b.left.Add(-1) < 0 {
		return context.DeadlineExceeded
	}
	return b.Context.Err()
}

func TestSQLDeadlines(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('kept')")
	const read, write = endless + "SELECT count(*) FROM n", endless + "INSERT INTO t SELECT i FROM n WHERE i < 0"
	s.run("OVL a read that never ends stops when its own context does, and fails alone", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('more')"); err != nil {
				return err
			}
			_, err := tx.SQL().Exec(newBudget(ctx, 10), read)
			if e := sqlError(t, err); e.Code != "SQLITE_INTERRUPT" || e.Lost || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			// Also where rows were read before.
			cur, err := tx.SQL().Exec(newBudget(ctx, 10), endless+"SELECT i FROM n WHERE i < 3 OR i < 0")
			if err != nil {
				return err
			}
			n := 0
			for _, rerr := range cur.Rows() {
				if err = rerr; err == nil {
					n++
				}
			}
			if !errors.Is(err, context.DeadlineExceeded) || n != 2 {
				t.Errorf("after %d rows: %v", n, err)
			}
			if _, _, again := cur.Next(); !errors.Is(again, err) {
				t.Errorf("then: %v", again)
			}
			canceled, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := tx.SQL().Exec(canceled, "INSERT INTO t VALUES ('never')"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			_, err = tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('most')")
			return err
		})
		s.want("[[kept] [more] [most]]", "SELECT a FROM t")
		s.exec("DELETE FROM t WHERE a <> 'kept'")
	})
	// The time of the turn is that of the call, and is over within the statement.
	lost := func(t *testing.T, cause error, query string, stmt func(ctx context.Context) context.Context) {
		made := s.made
		var first error
		call := newBudget(t.Context(), math.MaxInt64)
		err := s.update(call, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('lost')"); err != nil {
				return err
			}
			if err := tx.KV().Put(ctx, "k", []byte("lost")); err != nil {
				return err
			}
			open := tx.SQL().DB()
			defer call.left.Store(math.MaxInt64)
			call.left.Store(20)
			_, first = tx.SQL().Exec(stmt(ctx), query)
			if _, err := open.BeginTx(t.Context(), nil); err == nil || err.Error() != first.Error() {
				t.Errorf("BeginTx: %v", err)
			}
			if e := sqlError(t, first); e.Code != "SQLITE_INTERRUPT" || !e.Lost || !errors.Is(first, cause) {
				t.Error(first)
			}
			checkBroken(t, tx, first)
			return nil // swallowed
		})
		if err == nil || err.Error() != first.Error() {
			t.Errorf("the turn ends with %v, want %v", err, first)
		}
		s.want("[[kept]]", "SELECT a FROM t")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil {
				t.Error("the KV write stayed", err)
			}
			return nil
		})
		if s.made != made+1 {
			t.Errorf("%d activations were made", s.made-made)
		}
	}
	s.run("TXN-17 TXN-18 a write that is stopped by its own context fails the turn", func(t *testing.T) {
		lost(t, context.DeadlineExceeded, write, func(ctx context.Context) context.Context { return newBudget(ctx, 10) })
	})
	s.run("TXN-17 TXN-18 a write that is stopped by the handler's time fails the turn", func(t *testing.T) {
		lost(t, context.DeadlineExceeded, write, func(ctx context.Context) context.Context { return ctx })
	})
	s.run("TXN-17 TXN-18 a read that is stopped by the handler's time fails the turn", func(t *testing.T) {
		lost(t, context.DeadlineExceeded, read, func(ctx context.Context) context.Context { return ctx })
	})
	s.run("TXN-17 the handler's time counts whatever context the statement has", func(t *testing.T) {
		lost(t, context.DeadlineExceeded, read, func(context.Context) context.Context { return context.Background() })
	})
	s.run("TXN-17 the handler's timeout stops turns and views", func(t *testing.T) {
		s.store.Crash()
		short := newSQLTestOn(t, s.store, durable.Limits{HandlerTimeout: 50 * time.Millisecond})
		if err := short.do(func(_ context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(context.Background(), write)
			return err
		}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := short.view(t.Context(), "a", func(_ context.Context, _ *counter, v durable.View) error {
			_, err := v.SQL().Exec(context.Background(), read)
			return err
		}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	s.run("TXN-17 a constructor is stopped, too", func(t *testing.T) {
		var endlessly atomic.Bool
		endlessly.Store(true)
		s.store.Crash()
		h := newTestHost(t, join(t, s.store), durable.Limits{ConstructorTimeout: 50 * time.Millisecond}, func(ctx context.Context, tx durable.Tx) (any, error) {
			if endlessly.Load() {
				if _, err := tx.SQL().Exec(context.Background(), write); err == nil {
					t.Error("it ended")
				}
			}
			return &counter{}, nil
		})
		c := &sqlTest{testHost: h, t: t}
		if err := c.do(func(context.Context, durable.Tx) error { return nil }); err == nil {
			t.Error("the constructor passed")
		}
		endlessly.Store(false)
		c.want("[[kept]]", "SELECT a FROM t")
	})
}

// checkBroken fails the test unless everything that tx is asked fails with the
// error that lost the turn.
func checkBroken(t *testing.T, tx durable.Tx, lost error) {
	t.Helper()
	ctx := t.Context()
	for name, f := range map[string]func() error{
		"Exec":   func() error { _, err := tx.SQL().Exec(ctx, "SELECT 1"); return err },
		"Size":   func() error { _, err := tx.SQL().DatabaseSize(ctx); return err },
		"Vacuum": func() error { return tx.SQL().Vacuum(ctx) },
		"Get":    func() error { _, _, err := tx.KV().Get(ctx, "k"); return err },
		"Put":    func() error { return tx.KV().Put(ctx, "k", []byte("v")) },
		"Delete": func() error { _, err := tx.KV().Delete(ctx, "k"); return err },
		"List": func() (err error) {
			for _, err = range tx.KV().List(ctx) {
				break
			}
			return err
		},
		"Savepoint": func() error { return tx.Savepoint(func() error { t.Error("a savepoint began"); return nil }) },
		"Sync":      func() error { return tx.Sync(ctx) },
		"Await":     func() error { return tx.Await(ctx, func(context.Context) error { t.Error("Await ran"); return nil }) },
		"DeleteAll": func() error { return tx.DeleteAll(ctx) },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), lost.Error()) {
			t.Errorf("%s after the turn was lost: %v, want %v", name, err, lost)
		}
	}
}
