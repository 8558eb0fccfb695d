package ormtest

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/ormtest/plain"
)

var errHandler = errors.New("the handler fails")

// put writes the pair "k" and an author.
func put(ctx context.Context, tx durable.Tx, q *plain.Queries, name string) error {
	if err := tx.KV().Put(ctx, "k", []byte(name)); err != nil {
		return err
	}
	_, err := q.CreateAuthor(ctx, bare(name))
	return err
}

// holds checks the authors and the pair, as the next turn sees them.
func (o *object) holds(t *testing.T, pair string, names ...string) {
	t.Helper()
	if got := o.pair(); got != pair {
		t.Errorf("the pair is %q, want %q", got, pair)
	}
	if got := o.names(); !slices.Equal(got, names) {
		t.Errorf("the authors are %v, want %v", got, names)
	}
}

func TestTransactions(t *testing.T) {
	type step = func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error
	for _, c := range []struct {
		name string
		do   step
		err  error
		want []string // the pair, and then the authors
	}{
		{"TXN-13 what is committed stays", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer func() { _ = inner.Rollback() }()
			if err := put(ctx, tx, q.WithTx(inner), "b"); err != nil {
				return err
			}
			return inner.Commit()
		}, nil, []string{"b", "a", "b"}},
		{"TXN-13 what is rolled back is undone, pairs too, and nothing before it", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			if err := put(ctx, tx, q, "before"); err != nil {
				return err
			}
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(inner), "b"); err != nil {
				return err
			}
			if n, err := q.WithTx(inner).DeleteAuthor(ctx, 1); n != 1 || err != nil {
				t.Error(n, err)
			}
			if err := inner.Rollback(); err != nil {
				return err
			}
			if err := inner.Commit(); !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			_, err = q.CreateAuthor(ctx, bare("after"))
			return err
		}, nil, []string{"before", "a", "after", "before"}},
		{"TXN-14 they nest", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			outer, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(outer), "outer"); err != nil {
				return err
			}
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(inner), "inner"); err != nil {
				return err
			}
			if err := inner.Rollback(); err != nil {
				return err
			}
			return outer.Commit()
		}, nil, []string{"outer", "a", "outer"}},
		{"TXN-14 in a savepoint of the turn, and around one", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			outer, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			err = tx.Savepoint(func() error {
				inner, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				if err := put(ctx, tx, q.WithTx(inner), "inner"); err != nil {
					return err
				}
				return errors.Join(inner.Commit(), errHandler)
			})
			if !errors.Is(err, errHandler) {
				t.Error(err)
			}
			if _, err := q.WithTx(outer).CreateAuthor(ctx, bare("outer")); err != nil {
				return err
			}
			return outer.Commit()
		}, nil, []string{"0", "a", "outer"}},
		{"GATE-34 an error of the handler undoes what was committed inside", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(inner), "b"); err != nil {
				return err
			}
			return errors.Join(inner.Commit(), errHandler)
		}, errHandler, []string{"0", "a"}},
		{"GATE-34 durable.Keep does not", func(ctx context.Context, tx durable.Tx, _ *sql.DB, q *plain.Queries) error {
			if err := put(ctx, tx, q, "b"); err != nil {
				return err
			}
			return durable.Keep(errHandler)
		}, errHandler, []string{"b", "a", "b"}},
		{"one that is left open is undone, and nothing before it", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			if _, err := q.CreateAuthor(ctx, bare("before")); err != nil {
				return err
			}
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			return put(ctx, tx, q.WithTx(inner), "b")
		}, nil, []string{"0", "a", "before"}},
		{"a statement that fails leaves the others", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(inner), "b"); err != nil {
				return err
			}
			if _, err := q.WithTx(inner).CreateAuthor(ctx, bare("a")); err == nil {
				t.Error("the name is there twice")
			}
			return inner.Commit()
		}, nil, []string{"b", "a", "b"}},
		{"the outer one cannot end first", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			outer, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, q.WithTx(inner), "b"); err != nil {
				return err
			}
			if err := outer.Commit(); !errors.Is(err, durable.ErrInvalidArgument) {
				t.Error(err)
			}
			return inner.Commit()
		}, nil, []string{"0", "a"}},
		{"calls that leave the object wait for its end", func(ctx context.Context, tx durable.Tx, db *sql.DB, q *plain.Queries) error {
			inner, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if err := tx.Sync(ctx); !errors.Is(err, durable.ErrInSavepoint) {
				t.Error(err)
			}
			if err := put(ctx, tx, q, "b"); err != nil {
				return err
			}
			if err := inner.Commit(); err != nil {
				return err
			}
			return tx.Sync(ctx)
		}, nil, []string{"b", "a", "b"}},
		{"SQL-46 transactions as statements are refused", func(ctx context.Context, _ durable.Tx, db *sql.DB, _ *plain.Queries) error {
			for _, query := range []string{"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT x", "RELEASE SAVEPOINT x", "ROLLBACK TO x"} {
				_, err := db.ExecContext(ctx, query)
				var e *durable.SQLError
				if !errors.As(err, &e) || e.Code != "SQLITE_AUTH" || !strings.Contains(e.Hint, "tx.Savepoint") {
					t.Errorf("%s: %v", query, err)
				}
			}
			return nil
		}, nil, []string{"0", "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// In a bubble, the test fails when a goroutine is left.
			synctest.Test(t, func(t *testing.T) {
				o := newObject(t, schema)
				o.must(func(ctx context.Context, tx durable.Tx) error {
					if err := put(ctx, tx, plain.New(tx.SQL().DB()), "a"); err != nil {
						return err
					}
					return tx.KV().Put(ctx, "k", []byte("0"))
				})
				err := o.update(func(ctx context.Context, tx durable.Tx) error {
					db := tx.SQL().DB()
					return c.do(ctx, tx, db, plain.New(db))
				})
				if !errors.Is(o.err, c.err) || (err == nil) != (c.err == nil) {
					t.Errorf("%v, and to the caller %v", o.err, err)
				}
				o.holds(t, c.want[0], c.want[1:]...)
				o.server.Restart()
				o.holds(t, c.want[0], c.want[1:]...)
			})
		})
	}
}

func TestViews(t *testing.T) {
	o := newObject(t, schema, "INSERT INTO author (name, joined_at, secret) VALUES ('a', '2026-01-01', x'')")
	o.mustView(func(ctx context.Context, view durable.View) error {
		db := view.SQL().DB()
		q := plain.New(db)
		_, create := q.CreateAuthor(ctx, bare("b"))
		readOnly(t, create)
		_, remove := q.DeleteAuthor(ctx, 1)
		readOnly(t, remove)
		_, ddl := db.ExecContext(ctx, "CREATE TABLE t (a)")
		readOnly(t, ddl)

		tx, err := db.BeginTx(ctx, nil) // begins nothing, and hinders nobody
		if err != nil {
			return err
		}
		_, inTx := q.WithTx(tx).DeleteAuthor(ctx, 1)
		readOnly(t, inTx)
		all, err := q.WithTx(tx).ListAuthors(ctx)
		if len(all) != 1 || err != nil {
			t.Error(all, err)
		}
		return tx.Commit()
	})
	if got := o.names(); !slices.Equal(got, []string{"a"}) {
		t.Error(got)
	}
}

// A budget is a context that ends after it was asked so many times.
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
		return context.Canceled
	}
	return b.Context.Err()
}

func TestRows(t *testing.T) {
	const three = "INSERT INTO author (name, joined_at, secret) VALUES ('a', '2026-01-01', x''), ('b', '2026-01-01', x''), ('c', '2026-01-01', x'')"
	bubble := func(name string, fn func(t *testing.T, o *object)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fn(t, newObject(t, schema, three)) })
		})
	}
	bubble("SQL-30 rows are read while others are written", func(t *testing.T, o *object) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL().DB()
			q := plain.New(db)
			rows, err := db.QueryContext(ctx, "SELECT id FROM author ORDER BY id")
			if err != nil {
				return err
			}
			defer rows.Close()
			n := 0
			for rows.Next() {
				var id int64
				if err := rows.Scan(&id); err != nil {
					return err
				}
				if _, err := q.CreateBook(ctx, plain.CreateBookParams{AuthorID: id, Title: "t"}); err != nil {
					return err
				}
				n++
			}
			if n != 3 {
				t.Error(n)
			}
			return rows.Err()
		})
	})
	bubble("SQL-34 rows that are left open hinder nobody", func(t *testing.T, o *object) {
		var rows *sql.Rows
		open := func(ctx context.Context, db *sql.DB) (err error) {
			rows, err = db.QueryContext(context.WithoutCancel(ctx), "SELECT name FROM author")
			if err == nil && !rows.Next() {
				t.Error("no row")
			}
			return err
		}
		after := func() {
			t.Helper()
			if rows.Next() || !errors.Is(rows.Err(), durable.ErrTxDone) {
				t.Error("after the turn:", rows.Err())
			}
			if err := rows.Close(); err != nil {
				t.Error(err)
			}
		}
		o.mustView(func(ctx context.Context, view durable.View) error { return open(ctx, view.SQL().DB()) })
		after()
		o.must(func(ctx context.Context, tx durable.Tx) error {
			if err := open(ctx, tx.SQL().DB()); err != nil {
				return err
			}
			_, err := tx.SQL().DB().ExecContext(ctx, "UPDATE author SET name = name || '!'")
			return err
		})
		after()
		o.must(func(ctx context.Context, tx durable.Tx) error {
			if err := open(ctx, tx.SQL().DB()); err != nil {
				return err
			}
			return errors.Join(rows.Close(), func() error {
				_, err := tx.SQL().DB().ExecContext(ctx, "DELETE FROM author WHERE id > 1; ALTER TABLE author ADD COLUMN more; DROP TABLE book")
				return err
			}())
		})
		if got := o.names(); !slices.Equal(got, []string{"a!"}) {
			t.Error(got)
		}
	})
	for name, query := range map[string]string{
		"SELECT":    "SELECT name FROM author",
		"RETURNING": "UPDATE author SET score = 1 RETURNING name",
	} {
		bubble("a context that ends in the middle of the rows of "+name, func(t *testing.T, o *object) {
			o.must(func(ctx context.Context, tx durable.Tx) error {
				db := tx.SQL().DB()
				short, cancel := context.WithCancel(ctx)
				defer cancel()
				rows, err := db.QueryContext(short, query)
				if err != nil {
					return err
				}
				defer rows.Close()
				if !rows.Next() {
					t.Error("no row", rows.Err())
				}
				cancel()
				synctest.Wait() // for the goroutine of database/sql
				if rows.Next() || !errors.Is(rows.Err(), context.Canceled) {
					t.Error("it goes on:", rows.Err())
				}
				if _, err := db.ExecContext(short, "DELETE FROM author"); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				// The turn goes on, and what was written stays.
				_, err = plain.New(db).CreateAuthor(ctx, bare("d"))
				return err
			})
			if got := o.names(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
				t.Error(got)
			}
			o.mustView(func(ctx context.Context, view durable.View) error {
				n, err := durable.One[int](ctx, view.SQL(), "SELECT count(*) FROM author WHERE score = 1")
				if want := map[string]int{"RETURNING": 3}[name]; n != want {
					t.Errorf("%d rows were updated, want %d", n, want)
				}
				return err
			})
		})
	}
	bubble("a statement that never ends stops with its context", func(t *testing.T, o *object) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL().DB()
			if _, err := plain.New(db).CreateAuthor(ctx, bare("d")); err != nil {
				return err
			}
			var n int
			err := db.QueryRowContext(newBudget(ctx, 10), "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n").Scan(&n)
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return nil
		})
		if got := o.names(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Error(got)
		}
	})
	bubble("TXN-17 a write that is cut off costs the turn", func(t *testing.T, o *object) {
		err := o.update(func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL().DB()
			if err := put(ctx, tx, plain.New(db), "d"); err != nil {
				return err
			}
			_, err := db.ExecContext(newBudget(ctx, 10), "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) INSERT INTO book (author_id, title) SELECT 1, '' FROM n")
			var e *durable.SQLError
			if !errors.As(err, &e) || e.Code != "SQLITE_INTERRUPT" || !e.Lost || !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return nil // whatever the handler makes of it
		})
		if connect.CodeOf(err) != connect.CodeCanceled {
			t.Error(err)
		}
		o.holds(t, "", "a", "b", "c")
	})
	bubble("a transaction whose context ends is undone", func(t *testing.T, o *object) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL().DB()
			short, cancel := context.WithCancel(ctx)
			defer cancel()
			inner, err := db.BeginTx(short, nil)
			if err != nil {
				return err
			}
			if err := put(ctx, tx, plain.New(db).WithTx(inner), "d"); err != nil {
				return err
			}
			cancel()
			synctest.Wait()
			if err := inner.Commit(); !errors.Is(err, context.Canceled) && !errors.Is(err, sql.ErrTxDone) {
				t.Error(err)
			}
			_, err = plain.New(db).CreateAuthor(ctx, bare("e"))
			return err
		})
		o.holds(t, "", "a", "b", "c", "e")
	})
	bubble("several goroutines at once", func(t *testing.T, o *object) {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			q := plain.New(tx.SQL().DB())
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for range 20 {
						if _, err := q.CreateBook(ctx, plain.CreateBookParams{AuthorID: int64(1 + i%3), Title: "t"}); err != nil {
							t.Error(err)
						}
						if _, err := q.CountBooks(ctx); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			counts, err := q.CountBooks(ctx)
			var n int64
			for _, c := range counts {
				n += c.Books
			}
			if n != 160 {
				t.Errorf("%d books", n)
			}
			return err
		})
	})
}

func TestAfterTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newObject(t, schema)
		var db *sql.DB
		var tx *sql.Tx
		var conn *sql.Conn
		var stmt *sql.Stmt
		o.must(func(ctx context.Context, turn durable.Tx) (err error) {
			ctx = context.WithoutCancel(ctx)
			db = turn.SQL().DB()
			if err := put(ctx, turn, plain.New(db), "a"); err != nil {
				return err
			}
			if conn, err = db.Conn(ctx); err != nil {
				return err
			}
			if stmt, err = conn.PrepareContext(ctx, "SELECT 1"); err != nil {
				return err
			}
			tx, err = db.BeginTx(ctx, nil)
			return err
		})
		ctx := t.Context()
		for name, use := range map[string]func() error{
			"a transaction": func() error { _, err := tx.ExecContext(ctx, "DELETE FROM author"); return err },
			"a connection":  func() error { _, err := conn.ExecContext(ctx, "DELETE FROM author"); return err },
			"a statement":   func() error { _, err := stmt.QueryContext(ctx); return err },
			"a beginning":   func() error { _, err := conn.BeginTx(ctx, nil); return err },
		} {
			if err := use(); !errors.Is(err, durable.ErrTxDone) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, use := range map[string]func() error{
			"a query":     func() error { _, err := plain.New(db).ListAuthors(ctx); return err },
			"a statement": func() error { _, err := db.PrepareContext(ctx, "SELECT 1"); return err },
			"a beginning": func() error { _, err := db.BeginTx(ctx, nil); return err },
		} {
			if err := use(); err == nil || err.Error() != "sql: database is closed" {
				t.Errorf("%s: %v", name, err)
			}
		}
		_ = tx.Rollback() // or its goroutine stays
		_ = conn.Close()
		o.holds(t, "a", "a")

		// The same handle has another DB after Await.
		o.must(func(ctx context.Context, turn durable.Tx) error {
			before := turn.SQL().DB()
			if err := put(ctx, turn, plain.New(before), "b"); err != nil {
				return err
			}
			if err := turn.Await(ctx, func(ctx context.Context) error {
				if err := turn.SQL().DB().PingContext(ctx); err == nil {
					t.Error("there is a DB outside of the turn")
				}
				return nil
			}); err != nil {
				return err
			}
			if err := before.PingContext(ctx); err == nil {
				t.Error("the DB of the turn before is open")
			}
			_, err := plain.New(turn.SQL().DB()).DeleteAuthor(ctx, 1)
			return err
		})
		o.holds(t, "b", "b")
	})
}
