package actor

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// add writes a number to SQL and to KV.
func add(ctx context.Context, t *testing.T, tx durable.Tx, n int) {
	t.Helper()
	if _, err := tx.SQL().Exec(ctx, "INSERT INTO t (a) VALUES (?)", n); err != nil {
		t.Errorf("insert %d: %v", n, err)
	}
	if err := tx.KV().Put(ctx, fmt.Sprint(n), []byte("x")); err != nil {
		t.Errorf("put %d: %v", n, err)
	}
}

// written returns the numbers that are in SQL and in KV, and fails the test
// where those are not the same.
func written(ctx context.Context, t *testing.T, db durable.SQL, kv durable.KVReader) string {
	t.Helper()
	rows, err := query1(ctx, db, "SELECT a FROM t ORDER BY a")
	if err != nil {
		t.Errorf("read: %v", err)
	}
	inSQL, inKV := "", ""
	for _, row := range rows {
		inSQL += fmt.Sprint(row[0], " ")
	}
	for entry, err := range kv.List(ctx) {
		if err != nil {
			t.Errorf("list: %v", err)
			break
		}
		inKV += entry.Key + " "
	}
	if inSQL != inKV {
		t.Errorf("SQL has %s, KV has %s", inSQL, inKV)
	}
	return strings.TrimSpace(inSQL)
}

func TestSQLSavepoints(t *testing.T) {
	// undone returns an error, which undoes a savepoint.
	undone := func(fn func()) func() error {
		return func() error {
			fn()
			return errBack
		}
	}
	kept := func(fn func()) func() error {
		return func() error {
			fn()
			return nil
		}
	}
	for _, c := range []struct {
		name string
		fn   func(ctx context.Context, t *testing.T, tx durable.Tx)
		want string
	}{
		{"TXN-13 a savepoint that returns nil is kept", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			if err := tx.Savepoint(kept(func() { add(ctx, t, tx, 2) })); err != nil {
				t.Error(err)
			}
			add(ctx, t, tx, 3)
		}, "1 2 3"},
		{"TXN-02 one that fails is undone alone, with its error", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			if err := tx.Savepoint(undone(func() { add(ctx, t, tx, 2) })); !errors.Is(err, errBack) {
				t.Error(err)
			}
			if got := written(ctx, t, tx.SQL(), tx.KV()); got != "1" {
				t.Error(got)
			}
			add(ctx, t, tx, 3)
		}, "1 3"},
		{"TXN-02 the first write of the turn is undone", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			_ = tx.Savepoint(undone(func() { add(ctx, t, tx, 1) }))
		}, ""},
		{"TXN-06 TXN-14 an inner one is undone alone", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			_ = tx.Savepoint(kept(func() {
				add(ctx, t, tx, 1)
				_ = tx.Savepoint(undone(func() { add(ctx, t, tx, 2) }))
				add(ctx, t, tx, 3)
			}))
		}, "1 3"},
		{"TXN-06 an outer one undoes those inside", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			_ = tx.Savepoint(undone(func() {
				_ = tx.Savepoint(kept(func() { add(ctx, t, tx, 2) }))
				add(ctx, t, tx, 3)
			}))
		}, "1"},
		{"TXN-06 many levels, with reads between", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			var level func(n int) error
			level = func(n int) error {
				if n > 20 {
					return nil
				}
				return tx.Savepoint(func() error {
					add(ctx, t, tx, 100+n)
					err := level(n + 1)
					if n%5 == 0 && err == nil {
						return errBack // everything from here on
					}
					if err != nil && n == 7 {
						return nil // swallowed
					}
					return err
				})
			}
			if err := level(1); !errors.Is(err, errBack) { // 5 undoes everything to 20, and 1 fails
				t.Error(err)
			}
			add(ctx, t, tx, 1)
		}, "1"},
		{"TXN-06 one level after another", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			for n := 10; n < 20; n++ {
				fn := kept
				if n%2 == 1 {
					fn = undone
				}
				_ = tx.Savepoint(fn(func() { add(ctx, t, tx, n) }))
			}
		}, "10 12 14 16 18"},
		{"TXN-12 a table made inside is gone", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			_ = tx.Savepoint(undone(func() {
				if _, err := tx.SQL().Exec(ctx, "CREATE TABLE u (x); INSERT INTO u VALUES (1); ALTER TABLE t ADD COLUMN more; PRAGMA user_version = 9"); err != nil {
					t.Error(err)
				}
			}))
			if _, err := tx.SQL().Exec(ctx, "SELECT * FROM u"); err == nil {
				t.Error("the table is there")
			}
			if got := one(ctx, t, tx.SQL(), "PRAGMA user_version"); got != int64(0) {
				t.Error(got)
			}
			if rows, err := query1(ctx, tx.SQL(), "SELECT * FROM t"); err != nil || len(rows[0]) != 1 {
				t.Error(rows, err)
			}
		}, "1"},
		{"TXN-02 a panic undoes it", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			func() {
				defer func() { _ = recover() }()
				_ = tx.Savepoint(func() error {
					add(ctx, t, tx, 2)
					panic("boom")
				})
			}()
			add(ctx, t, tx, 3)
		}, "1 3"},
		{"TXN-02 a failed statement inside, swallowed", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			_ = tx.Savepoint(kept(func() {
				add(ctx, t, tx, 1)
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (2), (1)"); err == nil {
					t.Error("it passed")
				}
			}))
		}, "1"},
		{"TXN-02 a cursor reads on over a savepoint that is undone", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			for n := 1; n <= 3; n++ {
				add(ctx, t, tx, n)
			}
			cur, err := tx.SQL().Exec(ctx, "SELECT a FROM t ORDER BY a")
			if err != nil {
				t.Error(err)
			}
			_, _, _ = cur.Next()
			_ = tx.Savepoint(undone(func() { add(ctx, t, tx, 4) }))
			rows, err := cur.All()
			if err != nil || len(rows) != 2 {
				t.Error(rows, err)
			}
		}, "1 2 3"},
		{"TXN-08 BeginTx and Commit", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			dbtx, err := tx.SQL().DB().BeginTx(ctx, nil)
			if err != nil {
				t.Error(err)
			}
			if _, err := dbtx.ExecContext(ctx, "INSERT INTO t VALUES (?)", 1); err != nil {
				t.Error(err)
			}
			_ = tx.KV().Put(ctx, "1", []byte("x"))
			if err := dbtx.Commit(); err != nil {
				t.Error(err)
			}
		}, "1"},
		{"TXN-03 BeginTx and Rollback", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			dbtx, err := tx.SQL().DB().BeginTx(ctx, nil)
			if err != nil {
				t.Error(err)
			}
			add(ctx, t, tx, 2)
			if err := dbtx.Rollback(); err != nil {
				t.Error(err)
			}
			if err := dbtx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			if _, err := dbtx.ExecContext(ctx, "INSERT INTO t VALUES (5)"); !errors.Is(err, sql.ErrTxDone) {
				t.Errorf("TXN-04 TXN-05: %v", err)
			}
			add(ctx, t, tx, 3)
		}, "1 3"},
		{"TXN-03 BeginTx left open is undone", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if _, err := tx.SQL().DB().BeginTx(context.WithoutCancel(ctx), nil); err != nil {
				t.Error(err)
			}
			add(context.WithoutCancel(ctx), t, tx, 2)
		}, "1"},
		{"TXN-06 BeginTx inside of savepoints and around them", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			db := tx.SQL().DB()
			_ = tx.Savepoint(kept(func() {
				add(ctx, t, tx, 1)
				outer, err := db.BeginTx(ctx, nil)
				if err != nil {
					t.Error(err)
				}
				add(ctx, t, tx, 2)
				_ = tx.Savepoint(undone(func() { add(ctx, t, tx, 3) }))
				inner, err := db.BeginTx(ctx, nil)
				if err != nil {
					t.Error(err)
				}
				add(ctx, t, tx, 4)
				if err := outer.Commit(); !errors.Is(err, durable.ErrInvalidArgument) {
					t.Errorf("the outer one ended first: %v", err)
				}
				if err := inner.Rollback(); err != nil {
					t.Error(err)
				}
				add(ctx, t, tx, 5)
			}))
		}, "1"},
		{"TXN-07 BeginTx left open inside of a savepoint", func(ctx context.Context, t *testing.T, tx durable.Tx) {
			add(ctx, t, tx, 1)
			var dbtx *sql.Tx
			if err := tx.Savepoint(func() (err error) {
				add(ctx, t, tx, 2)
				dbtx, err = tx.SQL().DB().BeginTx(ctx, nil)
				add(ctx, t, tx, 3)
				return err
			}); err != nil {
				t.Error(err)
			}
			if got := written(ctx, t, tx.SQL(), tx.KV()); got != "1 2" {
				t.Error(got)
			}
			if err := dbtx.Commit(); err == nil {
				t.Error("what was undone was committed")
			}
		}, "1 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSQLTest(t, durable.Limits{})
			s.exec("CREATE TABLE t (a UNIQUE)")
			s.must(func(ctx context.Context, tx durable.Tx) error {
				c.fn(ctx, t, tx)
				return nil
			})
			for range 2 {
				if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
					if got := written(ctx, t, v.SQL(), v.KV()); got != c.want {
						t.Errorf("%q was written, want %q", got, c.want)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				s.closeConnections()
			}
			if s.made != 1 {
				t.Error("the object was reset")
			}
			// The turn that fails afterwards loses all of it: TXN-15.
			if err := s.do(func(ctx context.Context, tx durable.Tx) error {
				return tx.Savepoint(kept(func() { add(ctx, t, tx, 500) }))
			}); err != nil {
				t.Error(err)
			}
			if err := s.do(func(ctx context.Context, tx durable.Tx) error {
				if err := tx.Savepoint(kept(func() { add(ctx, t, tx, 501) })); err != nil {
					return err
				}
				return errBack
			}); !errors.Is(err, errBack) {
				t.Error(err)
			}
			s.want("[[500]]", "SELECT a FROM t WHERE a >= 500")
		})
	}
}

func TestSQLLostTransactions(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec(`CREATE TABLE t (a UNIQUE); CREATE TABLE log (x); CREATE TRIGGER no BEFORE DELETE ON t BEGIN SELECT RAISE(ROLLBACK, 'never delete'); END;
		INSERT INTO t VALUES (0)`)
	s.must(func(ctx context.Context, tx durable.Tx) error { return tx.KV().Put(ctx, "0", []byte("x")) })
	for name, query := range map[string]string{
		"INSERT OR ROLLBACK": "INSERT OR ROLLBACK INTO t VALUES (0)",
		"UPDATE OR ROLLBACK": "UPDATE OR ROLLBACK t SET a = 0",
		"RAISE(ROLLBACK)":    "DELETE FROM t",
		"ON CONFLICT":        "CREATE TABLE u (a UNIQUE ON CONFLICT ROLLBACK); INSERT INTO u VALUES (1), (1)",
	} {
		lose := func(ctx context.Context, t *testing.T, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, query)
			if e := sqlError(t, err); !e.Lost || !strings.HasPrefix(e.Code, "SQLITE_CONSTRAINT") {
				t.Error(err)
			}
			return err
		}
		check := func(t *testing.T, err, first error, made int) {
			if err == nil || err.Error() != first.Error() {
				t.Errorf("the turn ends with %v, want %v", err, first)
			}
			if verr := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
				if got := written(ctx, t, v.SQL(), v.KV()); got != "0" {
					t.Errorf("%q was written", got)
				}
				return nil
			}); verr != nil {
				t.Error(verr)
			}
			s.exec("INSERT INTO log VALUES (1)")
			if s.made != made+1 {
				t.Errorf("%d activations were made", s.made-made)
			}
		}
		s.run("TXN-17 TXN-19 "+name+" loses the turn", func(t *testing.T) {
			made, first := s.made, error(nil)
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				add(ctx, t, tx, 1)
				cur, err := tx.SQL().Exec(ctx, "SELECT * FROM t")
				if err != nil {
					return err
				}
				first = lose(ctx, t, tx)
				checkBroken(t, tx, first)
				if _, err := cur.All(); err == nil {
					t.Error("a cursor goes on")
				}
				return nil
			})
			check(t, err, first, made)
		})
		s.run("TXN-18 "+name+" inside of savepoints", func(t *testing.T) {
			made, first := s.made, error(nil)
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				add(ctx, t, tx, 1)
				own := errors.New("of the function")
				if err := tx.Savepoint(func() error {
					add(ctx, t, tx, 2)
					if err := tx.Savepoint(func() error {
						first = lose(ctx, t, tx)
						return nil // swallowed
					}); err == nil || err.Error() != first.Error() {
						t.Errorf("the inner savepoint ends with %v", err)
					}
					return own
				}); !errors.Is(err, own) {
					t.Errorf("the outer savepoint ends with %v", err)
				}
				checkBroken(t, tx, first)
				return nil
			})
			check(t, err, first, made)
		})
		s.run("TXN-17 "+name+" and the handler fails, keeps or panics", func(t *testing.T) {
			for _, end := range []func() error{
				func() error { return errBack },
				func() error { return durable.Keep(errBack) },
				func() error { panic("boom") },
			} {
				made := s.made
				if err := s.do(func(ctx context.Context, tx durable.Tx) error {
					add(ctx, t, tx, 1)
					_ = lose(ctx, t, tx)
					return end()
				}); err == nil {
					t.Error("the turn passed")
				} else {
					check(t, err, err, made)
				}
			}
		})
	}
	s.run("TXN-19 what was committed before stays", func(t *testing.T) {
		err := s.do(func(ctx context.Context, tx durable.Tx) error {
			add(ctx, t, tx, 1)
			if err := tx.Sync(ctx); err != nil {
				return err
			}
			add(ctx, t, tx, 2)
			_, err := tx.SQL().Exec(ctx, "DELETE FROM t")
			return err
		})
		if !sqlError(t, err).Lost {
			t.Error(err)
		}
		if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
			if got := written(ctx, t, v.SQL(), v.KV()); got != "0 1" {
				t.Errorf("%q was written", got)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestSQLTurns(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a UNIQUE, b CHECK (b > 0)); INSERT INTO t VALUES (1, 1)")
	s.run("an error without a write does not reset the object", func(t *testing.T) {
		made := s.made
		for _, query := range []string{
			"INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (2, 2), (3, 0)", "UPDATE t SET b = 0", "INSERT INTO nosuch VALUES (1)", "syntax error",
			"UPDATE t SET b = 5 WHERE a = 99", "DELETE FROM t WHERE a = 99", "INSERT OR IGNORE INTO t VALUES (1, 1)", "SELECT * FROM t", "ROLLBACK", "EXPLAIN DELETE FROM t",
		} {
			if err := s.do(func(ctx context.Context, tx durable.Tx) error {
				_, _ = tx.SQL().Exec(ctx, query)
				return errBack
			}); !errors.Is(err, errBack) {
				t.Errorf("%s: %v", query, err)
			}
			s.see("SELECT 1")
			if s.made != made {
				t.Errorf("%s: the object was reset", query)
				made = s.made
			}
		}
	})
	s.run("an error after a write resets it", func(t *testing.T) {
		for _, query := range []string{
			"INSERT INTO t VALUES (2, 2)", "INSERT OR FAIL INTO t VALUES (2, 2), (1, 1)", "CREATE TABLE u (a)", "PRAGMA user_version = 4", "ANALYZE", "UPDATE t SET b = b", "INSERT INTO t VALUES (5, 5); syntax error",
		} {
			made := s.made
			if err := s.do(func(ctx context.Context, tx durable.Tx) error {
				_, _ = tx.SQL().Exec(ctx, query)
				return errBack
			}); !errors.Is(err, errBack) {
				t.Errorf("%s: %v", query, err)
			}
			s.want("[[1 1]]", "SELECT * FROM t")
			if s.made != made+1 {
				t.Errorf("%s: %d activations were made", query, s.made-made)
			}
		}
	})
	s.run("statements that change no row are committed with those that do", func(*testing.T) {
		s.exec("ANALYZE")
		s.want("[[1]]", "SELECT count(*) > 0 FROM sqlite_stat1")
		s.exec("REINDEX")
		s.exec("PRAGMA optimize(0x10002)")
		s.exec("CREATE TABLE IF NOT EXISTS t (a)")
		s.exec("UPDATE t SET b = 5 WHERE a = 99; INSERT INTO t VALUES (7, 7)")
		s.exec("CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM t WHERE a = 8; END")
		s.exec("INSERT OR IGNORE INTO t VALUES (7, 7)")
		s.closeConnections()
		s.want("[[1] [7]]", "SELECT a FROM t ORDER BY a")
		s.exec("DROP TRIGGER tr; DELETE FROM t WHERE a = 7")
	})
	s.run("GATE-32 GATE-34 SQL and KV are committed together, and Keep keeps both", func(t *testing.T) {
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (9, 9)"); err != nil {
				return err
			}
			if err := tx.KV().Put(ctx, "9", []byte("x")); err != nil {
				return err
			}
			return durable.Keep(errBack)
		}); !errors.Is(err, errBack) {
			t.Error(err)
		}
		s.want("[[1] [9]]", "SELECT a FROM t ORDER BY a")
	})
	s.run("GATE-33 what was committed before Await stays", func(t *testing.T) {
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (10, 10)"); err != nil {
				return err
			}
			if err := tx.Await(ctx, func(context.Context) error { return nil }); err != nil {
				return err
			}
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (11, 11)"); err != nil {
				return err
			}
			return errBack
		}); !errors.Is(err, errBack) {
			t.Error(err)
		}
		s.want("[[1] [9] [10]]", "SELECT a FROM t ORDER BY a")
	})
	s.run("GATE-34 a call to another object commits first", func(t *testing.T) {
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (12, 12)"); err != nil {
				return err
			}
			cur, err := tx.SQL().Exec(ctx, "SELECT a FROM t")
			if err != nil {
				return err
			}
			if err := callOther(ctx, tx, "b", func(ctx context.Context, _ *counter, other durable.Tx) error {
				_, err := other.SQL().Exec(ctx, "CREATE TABLE t (a); INSERT INTO t VALUES ('of b')")
				return err
			}); err != nil {
				return err
			}
			if rows, err := cur.All(); len(rows) != 4 || err != nil { // the turn was kept
				t.Error(rows, err)
			}
			return errBack
		}); !errors.Is(err, errBack) {
			t.Error(err)
		}
		s.want("[[1] [9] [10] [12]]", "SELECT a FROM t ORDER BY a")
	})
	s.run("GATE-38 Abort undoes SQL, too", func(t *testing.T) {
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "DELETE FROM t"); err != nil {
				return err
			}
			tx.Abort("enough")
			return nil
		}); err == nil {
			t.Error("it passed")
		}
		s.want("[[4]]", "SELECT count(*) FROM t")
	})
	s.run("a stream uses SQL in its turns", func(t *testing.T) {
		var outside durable.SQL
		if err := s.stream(t.Context(), "a", func(ctx context.Context, port durable.StreamPort) error {
			if err := port.Update(ctx, func(tx durable.Tx) error {
				outside = tx.SQL()
				_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (20, 20)")
				return err
			}); err != nil {
				return err
			}
			if _, err := outside.Exec(ctx, "SELECT 1"); !errors.Is(err, durable.ErrTxDone) {
				t.Error(err)
			}
			if err := port.Update(ctx, func(tx durable.Tx) error {
				_, err := tx.SQL().Exec(newBudget(ctx, 10), endless+"INSERT INTO t SELECT i, 1 FROM n WHERE i < 0")
				if err == nil || !sqlError(t, err).Lost {
					t.Error(err)
				}
				return nil
			}); err == nil {
				t.Error("a turn that was lost passed")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		s.want("[[20]]", "SELECT b FROM t WHERE a = 20")
		s.exec("DELETE FROM t WHERE a = 20")
	})
	s.run("several goroutines of one turn", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 20 {
						if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (?, 1)", 1000+i*20+j); err != nil {
							t.Error(err)
						}
						if n := one(ctx, t, tx.SQL(), "SELECT count(*) FROM t WHERE a = ?", 1000+i*20+j); n != int64(1) {
							t.Error(n)
						}
					}
				})
			}
			wg.Wait()
			return nil
		})
		s.want("[[160]]", "SELECT count(*) FROM t WHERE a >= 1000")
	})
}

func TestSQLDeleteAll(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	fill := func() {
		s.exec("CREATE TABLE t (a UNIQUE); INSERT INTO t VALUES (1), (2); CREATE TABLE big AS SELECT zeroblob(10000) AS z FROM t; PRAGMA user_version = 5")
	}
	tables := "SELECT count(*) FROM sqlite_schema"
	fill()
	s.run("KV-40 KV-46 everything is gone at once, and in the next turn", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (3)"); err != nil {
				return err
			}
			if err := tx.DeleteAll(ctx); err != nil {
				return err
			}
			if n := one(ctx, t, tx.SQL(), tables); n != int64(0) {
				t.Error(n)
			}
			if n, err := tx.SQL().DatabaseSize(ctx); n != 0 || err != nil {
				t.Error(n, err)
			}
			return nil
		})
		s.want("[[0]]", tables)
		s.want("[[0]]", "PRAGMA user_version")
		s.closeConnections()
		s.want("[[0]]", tables)
	})
	fill()
	s.run("KV-46 new tables in the same turn stay", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if err := tx.DeleteAll(ctx); err != nil {
				return err
			}
			if _, err := tx.SQL().Exec(ctx, "CREATE TABLE t (b); INSERT INTO t VALUES ('new')"); err != nil {
				return err
			}
			if _, err := tx.SQL().Exec(ctx, "SELECT a FROM t"); err == nil {
				t.Error("the old table is there")
			}
			return tx.Savepoint(func() error {
				_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('newer')")
				return err
			})
		})
		s.want("[[new] [newer]]", "SELECT b FROM t")
		s.want("[[1]]", tables)
		s.closeConnections()
		s.want("[[new] [newer]]", "SELECT b FROM t")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
	s.run("KV-41 a turn that fails brings everything back", func(t *testing.T) {
		for _, end := range []func() error{func() error { return errBack }, func() error { panic("boom") }} {
			if err := s.do(func(ctx context.Context, tx durable.Tx) error {
				if err := tx.DeleteAll(ctx); err != nil {
					return err
				}
				if _, err := tx.SQL().Exec(ctx, "CREATE TABLE t (c); INSERT INTO t VALUES (9)"); err != nil {
					return err
				}
				return end()
			}); err == nil {
				t.Error("the turn passed")
			}
			s.want("[[new] [newer]]", "SELECT b FROM t")
		}
		s.exec("INSERT INTO t VALUES ('newest')")
		s.want("[[3]]", "SELECT count(*) FROM t")
	})
	s.run("KV-40 again and again, with Sync and Await between", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for i := range 5 {
				if err := tx.DeleteAll(ctx); err != nil {
					return err
				}
				if _, err := tx.SQL().Exec(ctx, "CREATE TABLE t (a); INSERT INTO t VALUES (?)", i); err != nil {
					return err
				}
				switch i % 3 {
				case 0:
					if err := tx.Sync(ctx); err != nil {
						return err
					}
				case 1:
					if err := tx.Await(ctx, func(context.Context) error { return nil }); err != nil {
						return err
					}
				}
				if n := one(ctx, t, tx.SQL(), "SELECT a FROM t"); n != int64(i) {
					t.Error(n)
				}
			}
			return nil
		})
		s.want("[[4]]", "SELECT a FROM t")
	})
	s.run("KV-40 before the first use of SQL, and without any", func(*testing.T) {
		s.evict()
		s.must(func(ctx context.Context, tx durable.Tx) error { return tx.DeleteAll(ctx) })
		s.want("[[0]]", tables)
		fill()
		s.evict()
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if err := tx.DeleteAll(ctx); err != nil {
				return err
			}
			_, err := tx.SQL().Exec(ctx, "CREATE TABLE t (x)")
			return err
		})
		s.want("[[1]]", tables)
	})
	s.run("KV-40 settings do not survive it", func(*testing.T) {
		s.exec("PRAGMA foreign_keys = OFF")
		s.must(func(ctx context.Context, tx durable.Tx) error { return tx.DeleteAll(ctx) })
		s.want("[[1]]", "PRAGMA foreign_keys")
	})
	s.run("a view that overlaps afterwards sees no old schema", func(t *testing.T) {
		// The second connection knows a schema with the cookie of the new one.
		for i := range 3 {
			s.must(func(ctx context.Context, tx durable.Tx) error {
				if err := tx.DeleteAll(ctx); err != nil {
					return err
				}
				_, err := tx.SQL().Exec(ctx, fmt.Sprintf("CREATE TABLE t%d (a); INSERT INTO t%[1]d VALUES (%[1]d)", i))
				return err
			})
			s.overlap(func(ctx context.Context, db durable.SQL) {
				if n := one(ctx, t, db, fmt.Sprintf("SELECT a FROM t%d", i)); n != int64(i) {
					t.Error(n)
				}
			})
		}
	})
	s.run("KV-40 a database whose first page is corrupt can be deleted", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error { return tx.DeleteAll(ctx) })
		fill()
		s.spoil(storage.Pair{Key: []byte{'s', 0, 0, 0, 1}, Val: []byte("this is not a page")})
		if _, err := s.try("SELECT 1 FROM t"); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("a corrupt page is read: %v", err)
		}
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "CREATE TABLE u (a)")
			return err
		}); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("a corrupt page is written over: %v", err)
		}
		s.must(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "SELECT 1 FROM t")
			if !errors.Is(err, storage.ErrCorrupt) {
				t.Error(err)
			}
			if err := tx.DeleteAll(ctx); err != nil {
				return err
			}
			_, err = tx.SQL().Exec(ctx, "CREATE TABLE fresh (a); INSERT INTO fresh VALUES (1)")
			return err
		})
		s.want("[[1]]", "SELECT a FROM fresh")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
}

// spoil writes to the object's map behind its back, while it is not in memory.
func (s *sqlTest) spoil(pair storage.Pair) {
	s.t.Helper()
	s.evict()
	o := storage.ObjectID{Type: s.typ.StorageID(), ID: durable.IDFromName("counter", "a")}
	shard, err := s.shard(s.t.Context(), o.Shard())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := shard.Commit(&storage.Batch{Object: o, Put: []storage.Pair{pair}}).Wait(); err != nil {
		s.t.Fatal(err)
	}
}

// overlap runs fn in two views at the same time, with a cursor open in both.
func (s *sqlTest) overlap(fn func(ctx context.Context, db durable.SQL)) {
	s.t.Helper()
	var inside, done sync.WaitGroup
	inside.Add(2)
	for range 2 {
		done.Go(func() {
			if err := s.view(s.t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
				_, err := v.SQL().Exec(ctx, "SELECT 1 FROM sqlite_schema AS a, sqlite_schema AS b")
				inside.Done()
				inside.Wait()
				fn(ctx, v.SQL())
				return err
			}); err != nil {
				s.t.Error(err)
			}
		})
	}
	done.Wait()
}

func TestSQLViews(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES (0)")
	s.run("SQL-47 a view refuses what writes", func(t *testing.T) {
		if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
			for _, query := range []string{
				"INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1) RETURNING a", "UPDATE t SET a = 1", "DELETE FROM t", "REPLACE INTO t VALUES (1)", "CREATE TABLE u (a)", "CREATE TABLE IF NOT EXISTS t (a)",
				"DROP TABLE t", "CREATE INDEX i ON t (a)", "ALTER TABLE t RENAME TO u", "ANALYZE", "CREATE VIEW x AS SELECT 1", "CREATE VIRTUAL TABLE f USING fts5(a)", "SELECT 1; DELETE FROM t", "WITH x AS (SELECT 1) DELETE FROM t",
			} {
				_, err := v.SQL().Exec(ctx, query)
				if err == nil || sqlError(t, err).Code != "SQLITE_READONLY" || !strings.Contains(err.Error(), "NO_SIDE_EFFECTS") {
					t.Errorf("%s: %v", query, err)
				}
			}
			if _, err := v.SQL().Exec(ctx, "BEGIN"); err == nil {
				t.Error("BEGIN passed")
			}
			if _, err := v.SQL().DB().ExecContext(ctx, "DELETE FROM t"); err == nil {
				t.Error("the DB of a view writes")
			}
			if n := one(ctx, t, v.SQL(), "SELECT a FROM t"); n != int64(0) {
				t.Error(n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	s.run("an object without a database can be viewed", func(t *testing.T) {
		if err := s.view(t.Context(), "empty", func(ctx context.Context, _ *counter, v durable.View) error {
			if n := one(ctx, t, v.SQL(), "SELECT count(*) FROM sqlite_schema"); n != int64(0) {
				t.Error(n)
			}
			n, err := v.SQL().DatabaseSize(ctx)
			if n != 0 {
				t.Error(n)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	s.run("views that overlap have two connections, and see the same", func(t *testing.T) {
		s.closeConnections()
		for i := range 4 {
			s.exec("UPDATE t SET a = ?", i)
			if i == 2 {
				s.exec("ALTER TABLE t ADD COLUMN b DEFAULT 'b'")
			}
			s.overlap(func(ctx context.Context, db durable.SQL) {
				if n := one(ctx, t, db, "SELECT a FROM t"); n != int64(i) {
					t.Errorf("a view sees %v, want %d", n, i)
				}
				if rows, err := query1(ctx, db, "SELECT * FROM t"); err != nil || (len(rows[0]) == 2) != (i >= 2) {
					t.Error(rows, err)
				}
			})
		}
		if n := s.connections(); n != 2 {
			t.Errorf("%d connections are open", n)
		}
	})
	s.run("many views at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 10 {
					if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
						if n := one(ctx, t, v.SQL(), "SELECT count(*) FROM t"); n != int64(1) {
							t.Error(n)
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range 10 {
			s.exec("UPDATE t SET a = ?", i)
		}
		wg.Wait()
		if n := s.connections(); n > 2 {
			t.Errorf("%d connections are open", n)
		}
	})
}

func TestSQLViewsWaitForNoSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memkv.New(memkv.Options{})
		s := newSQLTestOn(t, store, durable.Limits{})
		s.exec("CREATE TABLE t (a)")
		store.Pause() // nothing becomes durable
		var done sync.WaitGroup
		replied, seen := false, 0
		done.Go(func() {
			s.exec("INSERT INTO t VALUES (1)")
			replied = true
		})
		synctest.Wait()
		done.Go(func() {
			s.overlap(func(ctx context.Context, db durable.SQL) {
				if n := one(ctx, t, db, "SELECT count(*) FROM t"); n != int64(1) {
					t.Error(n)
				}
			})
			seen += 10
		})
		synctest.Wait()
		// The views ran and saw it; their replies wait, as that of the write.
		if replied || seen != 0 {
			t.Error("a reply left before the sync")
		}
		if n := s.connections(); n != 2 {
			t.Errorf("the views did not run: %d connections", n)
		}
		store.Resume()
		done.Wait()
		if !replied || seen != 10 {
			t.Error(replied, seen)
		}
		if err := s.sqlEngine().Close(); err != nil {
			t.Error(err)
		}
	})
}
