package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// sqliteFile returns a database that plain SQLite made.
func sqliteFile(t *testing.T, pageSize int, statements string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "plain.db")
	db, err := sqlite3.Open("file:" + name)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA synchronous=OFF; PRAGMA foreign_keys=OFF; %s", pageSize, statements))
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *sqlTest) importFile(data []byte) {
	s.t.Helper()
	if err := s.ImportSQL(s.t.Context(), s.typ, durable.IDFromName("counter", "a"), "a", bytes.NewReader(data)); err != nil {
		s.t.Fatal(err)
	}
}

// A tap calls functions on the way between the host and its store, and its
// database. They are nil, or set while nothing runs.
type tap struct {
	read   func()             // before a page is read
	commit func()             // before a batch is committed
	exec   func(query string) // before a statement begins
}

type (
	tappedStore struct {
		storage.Session
		*tap
	}
	tappedShard struct {
		storage.Shard
		*tap
	}
	tappedEngine struct {
		*sqlitedb.Engine
		*tap
	}
	tappedDatabase struct {
		storage.SQLDatabase
		*tap
	}
	tappedSession struct {
		storage.SQLSession
		*tap
	}
)

// newTappedTest is newSQLTest with a tap.
func newTappedTest(t *testing.T) (*sqlTest, *tap) {
	t.Helper()
	p := &tap{}
	s := &sqlTest{t: t, store: memkv.New(memkv.Options{})}
	s.testHost = newTestHost(t, tappedStore{join(t, s.store), p}, durable.Limits{}, nil)
	s.sql = tappedEngine{s.sqlEngine(), p}
	return s, p
}

func (s tappedStore) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := s.Session.Claim(ctx, want)
	for i := range got {
		got[i] = tappedShard{got[i], s.tap}
	}
	return got, err
}

func (s tappedShard) GetPatched(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	if f := s.read; f != nil {
		f()
	}
	return s.Shard.GetPatched(ctx, o, key)
}

func (s tappedShard) Commit(b *storage.Batch) *storage.Pending {
	if f := s.commit; f != nil {
		f()
	}
	return s.Shard.Commit(b)
}

func (e tappedEngine) Database(o storage.ObjectID, r storage.Reader, limits storage.SQLLimits) storage.SQLDatabase {
	return tappedDatabase{e.Engine.Database(o, r, limits), e.tap}
}

func (d tappedDatabase) Begin(ctx context.Context, write bool, live func() error) storage.SQLSession {
	return tappedSession{d.SQLDatabase.Begin(ctx, write, live), d.tap}
}

func (s tappedSession) Exec(ctx context.Context, query string, args []any, opts storage.SQLOptions) (storage.SQLRows, error) {
	if f := s.exec; f != nil {
		f(query)
	}
	return s.SQLSession.Exec(ctx, query, args, opts)
}

// TestSQLImportedPageSizes: a database keeps the page size that it was imported
// with, until DeleteAll, in whose turn a new one with pages of our size begins.
func TestSQLImportedPageSizes(t *testing.T) {
	for _, size := range []int{512, 1024, 8192, 65536} {
		t.Run(fmt.Sprint("KV-40 KV-46 pages of ", size), func(t *testing.T) {
			s := newSQLTest(t, durable.Limits{})
			s.importFile(sqliteFile(t, size, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, b TEXT); "+
				"WITH RECURSIVE c (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c LIMIT 2000) INSERT INTO t SELECT i, 0, 'row' || i FROM c"))
			for i := range 3 {
				s.exec("UPDATE t SET n = n + 1 WHERE id % 100 = ?", i)
			}
			look := func() {
				t.Helper()
				s.want(fmt.Sprintf("[[%d]]", size), "PRAGMA page_size")
				s.want("[[2000 60]]", "SELECT count(*), sum(n) FROM t")
				s.want("[[ok]]", "PRAGMA quick_check")
			}
			look()
			s.evict()
			look()
			s.exec("UPDATE t SET n = 0")
			s.exec("UPDATE t SET n = 1 WHERE id <= 60")
			look()
			s.must(func(ctx context.Context, tx durable.Tx) error {
				if _, err := tx.SQL().Exec(ctx, "DELETE FROM t WHERE id > 10"); err != nil {
					return err
				}
				if err := tx.DeleteAll(ctx); err != nil {
					return err
				}
				_, err := tx.SQL().Exec(ctx, "CREATE TABLE u (a, b); INSERT INTO u VALUES (1, zeroblob(20000)), (2, NULL)")
				return err
			})
			look = func() {
				t.Helper()
				s.want("[[4096]]", "PRAGMA page_size")
				s.want("[[1 20000] [2 <nil>]]", "SELECT a, length(b) FROM u")
				s.want("[[ok]]", "PRAGMA quick_check")
			}
			look()
			s.evict()
			look()
			s.exec("DELETE FROM u WHERE a = 1; INSERT INTO u VALUES (1, zeroblob(20000))")
			s.evict()
			s.want("[[2] [1]]", "SELECT a FROM u ORDER BY rowid")
		})
	}
}

// TestSQLStatementDuringCommit has a statement of another goroutine arrive while
// the batch of a commit is on its way to the store. It is stored if it succeeds,
// and fails where the turn is left at the commit.
func TestSQLStatementDuringCommit(t *testing.T) {
	for name, c := range map[string]struct {
		commit func(ctx context.Context, tx durable.Tx) error
		stays  bool // in the turn
	}{
		"Sync": {func(ctx context.Context, tx durable.Tx) error { return tx.Sync(ctx) }, true},
		"Await": {func(ctx context.Context, tx durable.Tx) error {
			return tx.Await(ctx, func(context.Context) error { return nil })
		}, false},
		"the end of the turn": {func(context.Context, durable.Tx) error { return nil }, false},
	} {
		t.Run("TXN-19 the commit of "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := newTappedTest(t)
				s.exec("CREATE TABLE t (a)")
				arrived, begin, late := make(chan struct{}), make(chan struct{}), make(chan error, 1)
				p.exec = func(query string) {
					if strings.Contains(query, "late") {
						close(arrived)
						<-begin
					}
				}
				commits := 0
				p.commit = func() {
					if commits++; commits == 1 {
						close(begin)
						synctest.Wait() // the statement has ended, or waits
					}
				}
				var lateErr error
				want, rows := "[[early]]", int64(1)
				if c.stays {
					want, rows = "[[early] [late]]", 2
				}
				s.must(func(ctx context.Context, tx durable.Tx) error {
					if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('early')"); err != nil {
						return err
					}
					go func() {
						_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES ('late')")
						late <- err
					}()
					<-arrived
					if err := c.commit(ctx, tx); err != nil || commits == 0 {
						return err // the end of the turn commits
					}
					lateErr = <-late
					if n := one(ctx, t, tx.SQL(), "SELECT count(*) FROM t"); n != rows {
						t.Errorf("the turn sees %v rows, want %d", n, rows)
					}
					return nil
				})
				if name == "the end of the turn" {
					lateErr = <-late
				}
				if c.stays && lateErr != nil || !c.stays && !errors.Is(lateErr, durable.ErrTxDone) {
					t.Errorf("the statement that came during the commit: %v", lateErr)
				}
				if commits == 0 {
					t.Error("nothing was committed")
				}
				s.want(want, "SELECT a FROM t")
				s.evict()
				s.want(want, "SELECT a FROM t")
				s.want("[[ok]]", "PRAGMA quick_check")
				time.Sleep(time.Minute) // idle connections are closed
			})
		})
	}
}

// TestSQLStoppedRead: a read that the end of the call stops has changed nothing,
// and the object keeps what it has in memory.
func TestSQLStoppedRead(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('kept')")
	if err := s.update(t.Context(), "a", func(_ context.Context, c *counter, _ durable.Tx) error {
		c.n = 7
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	const read = endless + "SELECT count(*) FROM n"
	// stopped reads without end; the call is over after a few looks at the time.
	stopped := func(t *testing.T, ctx context.Context, call budget, db durable.SQL) error {
		defer call.left.Store(math.MaxInt64)
		call.left.Store(20)
		_, err := db.Exec(ctx, read)
		if e := sqlError(t, err); e.Code != "SQLITE_INTERRUPT" || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		return err
	}
	for _, end := range []string{"returned", "swallowed"} {
		result := func(err error) error {
			if end == "swallowed" {
				return nil
			}
			return err
		}
		for kind, call := range map[string]func(t *testing.T, call budget) error{
			"a view": func(t *testing.T, call budget) error {
				return s.view(call, "a", func(ctx context.Context, _ *counter, v durable.View) error {
					return result(stopped(t, ctx, call, v.SQL()))
				})
			},
			"a turn that wrote nothing": func(t *testing.T, call budget) error {
				return s.update(call, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
					return result(stopped(t, ctx, call, tx.SQL()))
				})
			},
		} {
			s.run("TXN-17 "+kind+", error "+end, func(t *testing.T) {
				made := s.made
				err := call(t, newBudget(t.Context(), math.MaxInt64))
				if !errors.Is(err, context.DeadlineExceeded) && (err != nil || end == "returned") {
					t.Errorf("the call ends with %v", err)
				}
				if err == nil && kind != "a view" {
					t.Error("a turn that is broken succeeded")
				}
				n := 0
				if err := s.view(t.Context(), "a", func(ctx context.Context, c *counter, v durable.View) error {
					n = c.n
					if a := one(ctx, t, v.SQL(), "SELECT a FROM t"); a != "kept" {
						t.Error(a)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				if s.made != made || n != 7 {
					t.Errorf("the object was made %d more times, and has %d instead of 7", s.made-made, n)
				}
			})
		}
	}
	s.run("TXN-17 GATE-39 a turn that wrote, to KV alone, makes the object anew", func(t *testing.T) {
		made := s.made
		call := newBudget(t.Context(), math.MaxInt64)
		if err := s.update(call, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
				return err
			}
			_ = stopped(t, ctx, call, tx.SQL())
			return nil
		}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil {
				t.Error("the KV write stayed", err)
			}
			return nil
		})
		if s.made != made+1 {
			t.Errorf("the object was made %d times", s.made-made)
		}
	})
}

// TestSQLCursorOverRebuild: a cursor whose database is made anew does not look
// as if it had come to its end.
func TestSQLCursorOverRebuild(t *testing.T) {
	for name, rebuild := range map[string]func(ctx context.Context, tx durable.Tx) error{
		"Vacuum":    func(ctx context.Context, tx durable.Tx) error { return tx.SQL().Vacuum(ctx) },
		"DeleteAll": func(ctx context.Context, tx durable.Tx) error { return tx.DeleteAll(ctx) },
	} {
		t.Run("SQL-30 SQL-32 "+name, func(t *testing.T) {
			s := newSQLTest(t, durable.Limits{})
			s.fill(t, "a")
			s.must(func(ctx context.Context, tx durable.Tx) error {
				cursor := func() *durable.Cursor {
					cur, err := tx.SQL().Exec(ctx, "SELECT id FROM t")
					if err != nil {
						t.Fatal(err)
					}
					return cur
				}
				ended, unread, begun := cursor(), cursor(), cursor()
				if rows, err := ended.All(); len(rows) != 100 || err != nil {
					t.Error(len(rows), err)
				}
				if _, ok, err := begun.Next(); !ok || err != nil {
					t.Error(ok, err)
				}
				if err := rebuild(ctx, tx); err != nil {
					return err
				}
				if _, ok, err := ended.Next(); ok || err != nil {
					t.Errorf("the cursor that was at its end: %v, %v", ok, err)
				}
				for name, cur := range map[string]*durable.Cursor{"unread": unread, "begun": begun} {
					var err error
					n := 0
					for _, rerr := range cur.Rows() {
						if err = rerr; err == nil {
							n++
						}
					}
					if err == nil || sqlError(t, err).Code != "SQLITE_ABORT" {
						t.Errorf("the %s cursor ended after %d rows with %v", name, n, err)
						continue
					}
					if sqlError(t, err).Lost {
						t.Error("the turn is lost")
					}
					if _, ok, again := cur.Next(); ok || !errors.Is(again, err) {
						t.Errorf("the %s cursor, asked again: %v, %v", name, ok, again)
					}
				}
				_, err := tx.SQL().Exec(ctx, "CREATE TABLE after (a); INSERT INTO after VALUES (1)")
				return err
			})
			s.want("[[1]]", "SELECT a FROM after")
		})
	}
}

// TestSQLShadowTables: the tables of a full-text index are not written, though a
// statement also writes one that only has such a name.
func TestSQLShadowTables(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE VIRTUAL TABLE found USING fts5(a); INSERT INTO found VALUES ('hello'); CREATE TABLE decoy_data (a); CREATE TABLE log (a)")
	s.closeConnections()
	if _, err := s.try("DELETE FROM found_data"); err == nil {
		t.Error("a table of the index was written")
	}
	for name, body := range map[string]string{
		"the decoy last":  "DELETE FROM found_data; DELETE FROM decoy_data;",
		"the decoy first": "DELETE FROM decoy_data; DELETE FROM found_data;",
		"no decoy":        "DELETE FROM found_data;",
		"other tables":    "UPDATE found_config SET v = 0; INSERT INTO decoy_data VALUES (1);",
	} {
		s.run("SQL-49 by a trigger, "+name, func(t *testing.T) {
			s.closeConnections() // a fresh connection has not loaded the module
			s.exec("CREATE TRIGGER tr AFTER INSERT ON log BEGIN " + body + " END")
			s.closeConnections()
			if _, err := s.try("INSERT INTO log VALUES (1)"); err == nil {
				t.Error("a table of the index was written")
			} else {
				_ = sqlError(t, err)
			}
			s.exec("DROP TRIGGER tr")
			s.closeConnections()
			s.want("[[hello]]", "SELECT a FROM found WHERE found MATCH 'hello'")
		})
	}
	s.run("SQL-49 the decoy alone can be written", func(*testing.T) {
		s.closeConnections()
		s.exec("CREATE TRIGGER tr AFTER INSERT ON log BEGIN INSERT INTO decoy_data VALUES (new.a); END")
		s.exec("INSERT INTO log VALUES ('x')")
		s.want("[[x]]", "SELECT a FROM decoy_data")
	})
}

// TestSQLImportLeftovers: pages of another size, which an import that was cut off
// left behind, are no part of a database that begins later.
func TestSQLImportLeftovers(t *testing.T) {
	for _, size := range []int{512, 1024, 65536} {
		t.Run(fmt.Sprint("KV-41 pages of ", size), func(t *testing.T) {
			s := newSQLTest(t, durable.Limits{})
			o := storage.ObjectID{Type: s.typ.StorageID(), ID: durable.IDFromName("counter", "a")}
			shard, err := s.shard(t.Context(), o.Shard())
			if err != nil {
				t.Fatal(err)
			}
			// All but the first page, which an import stores last.
			for n := byte(2); n < 100; n++ {
				b := &storage.Batch{Object: o, Put: []storage.Pair{{Key: []byte{'s', 0, 0, 0, n}, Val: make([]byte, size)}}}
				if n == 2 {
					b.Create = &storage.Meta{Name: "a"}
				}
				if err := shard.Commit(b).Wait(); err != nil {
					t.Fatal(err)
				}
			}
			s.want("[[0]]", "SELECT count(*) FROM sqlite_schema")
			const blobs = "WITH RECURSIVE c (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM c LIMIT 50) INSERT INTO t SELECT zeroblob(3000) FROM c"
			// The pages that are freed without having been stored are used later.
			s.exec("CREATE TABLE u (a); CREATE TABLE t (a); " + blobs + "; DELETE FROM t")
			s.evict()
			s.exec(blobs)
			s.want("[[50 150000]]", "SELECT count(*), sum(length(a)) FROM t")
			s.evict()
			s.want("[[ok]]", "PRAGMA quick_check")
			file := filepath.Join(t.TempDir(), "out.db")
			var out bytes.Buffer
			if _, err := s.ExportSQL(t.Context(), s.typ, o.ID, &out); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			for query, want := range map[string]string{"PRAGMA integrity_check": "ok", "SELECT count(*) FROM t": "50"} {
				if diff := cmp.Diff([]string{want}, openExport(t, file, query)); diff != "" {
					t.Errorf("%s: %s", query, diff)
				}
			}
		})
	}
}

// An asked context calls then when it is asked for the nth time whether it has
// ended.
type asked struct {
	context.Context
	n    *atomic.Int64
	then func()
}

func (a asked) Err() error {
	if a.n.Add(-1) == 0 {
		a.then()
	}
	return a.Context.Err()
}

// TestSQLStreamEnds: what a stream's turn runs ends with the call, also when the
// handler gave the turn a context that goes on.
func TestSQLStreamEnds(t *testing.T) {
	const read = endless + "SELECT i FROM n WHERE i < 3 OR i < 0" // two rows, and no end
	errGone := errors.New("the caller left")
	for name, run := range map[string]func(ctx context.Context, db durable.SQL, leave func()) error{
		"before a statement": func(ctx context.Context, db durable.SQL, leave func()) error {
			leave()
			_, err := db.Exec(ctx, endless+"SELECT count(*) FROM n")
			return err
		},
		"in the middle of a statement": func(ctx context.Context, db durable.SQL, leave func()) error {
			n := new(atomic.Int64)
			n.Store(10)
			_, err := db.Exec(asked{ctx, n, leave}, endless+"SELECT count(*) FROM n")
			return err
		},
		"between two rows": func(ctx context.Context, db durable.SQL, leave func()) error {
			cur, err := db.Exec(ctx, read)
			if err != nil {
				return err
			}
			if _, _, err := cur.Next(); err != nil {
				return err
			}
			leave()
			_, err = cur.All()
			return err
		},
	} {
		for _, kind := range []string{"Update", "View"} {
			t.Run("TXN-17 "+kind+", the caller leaves "+name, func(t *testing.T) {
				s := newSQLTest(t, durable.Limits{})
				s.exec("CREATE TABLE t (a); INSERT INTO t VALUES ('kept')")
				call, leave := context.WithCancelCause(t.Context())
				defer leave(nil)
				// The statement's own time is there only for a test that fails.
				bound, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				var got error
				err := s.stream(call, "a", func(_ context.Context, port durable.StreamPort) error {
					gone := func() { leave(errGone) }
					if kind == "View" {
						return port.View(context.Background(), func(view durable.View) error {
							got = run(bound, view.SQL(), gone)
							return got
						})
					}
					return port.Update(context.Background(), func(tx durable.Tx) error {
						got = run(bound, tx.SQL(), gone)
						return got
					})
				})
				if err == nil {
					t.Error("the call succeeded")
				}
				if e := sqlError(t, got); e.Code != "SQLITE_INTERRUPT" || bound.Err() != nil || !errors.Is(got, errGone) {
					t.Errorf("the statement ended with %v; its own context: %v", got, bound.Err())
				}
				s.exec("INSERT INTO t VALUES ('more')")
				s.want("[[kept] [more]]", "SELECT a FROM t")
			})
		}
	}
}

// TestSQLViewGivesUp: a view that waits for the connections that other views
// have in use waits no longer than its own context.
func TestSQLViewGivesUp(t *testing.T) {
	s, p := newTappedTest(t)
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
	s.evict() // the next views read pages
	count := func(ctx context.Context, _ *counter, v durable.View) error {
		n, err := durable.One[int](ctx, v.SQL(), "SELECT count(*) FROM t")
		if err == nil && n != 1 {
			t.Errorf("%d rows", n)
		}
		return err
	}
	// Both connections are in the middle of a read.
	reading, release := make(chan struct{}), make(chan struct{})
	p.read = func() {
		select {
		case reading <- struct{}{}:
			<-release
		case <-release:
		}
	}
	var views sync.WaitGroup
	for range 2 {
		views.Go(func() {
			if err := s.view(t.Context(), "a", count); err != nil {
				t.Error(err)
			}
		})
	}
	<-reading
	<-reading
	// ends fails the test unless err comes while the others still read.
	ends := func(t *testing.T, cause error, result <-chan error) {
		t.Helper()
		select {
		case err := <-result:
			if !errors.Is(err, cause) {
				t.Errorf("it ends with %v", err)
			}
		case <-time.After(10 * time.Second): // only in a test that fails
			t.Error("it does not give up")
		}
	}
	for _, cause := range []error{context.DeadlineExceeded, context.Canceled} {
		t.Run(fmt.Sprint("OVL ", cause), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if errors.Is(cause, context.Canceled) {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			defer cancel()
			statement, call := make(chan error, 1), make(chan error, 1)
			views.Go(func() {
				call <- s.view(ctx, "a", func(ctx context.Context, c *counter, v durable.View) error {
					err := count(ctx, c, v)
					statement <- err
					return err
				})
			})
			t.Run("the statement", func(t *testing.T) { ends(t, cause, statement) })
			t.Run("the call", func(t *testing.T) {
				ends(t, cause, call)
			})
		})
	}
	close(release)
	views.Wait()
	if err := s.view(t.Context(), "a", count); err != nil {
		t.Errorf("when the connections are free again: %v", err)
	}
}

// TestSQLReadEOF: an error of the store that wraps io.EOF is an error, and not
// the end of the file, whose pages SQLite takes for zeros.
func TestSQLReadEOF(t *testing.T) {
	h, f, _, _ := newFaultyHost(t, "a", sqlitedb.Options{})
	h.fill(t, "a")
	ctx := t.Context()
	long := strings.Repeat("x", 10000) // on pages of its own
	if err := h.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		_, err := tx.SQL().Exec(ctx, "CREATE TABLE long (b); INSERT INTO long VALUES (?)", long)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rows := 100
	read := func(ctx context.Context, db durable.SQL) error {
		n, err := durable.One[int](ctx, db, "SELECT count(b) FROM t NOT INDEXED")
		if err != nil {
			return err
		}
		b, err := durable.One[string](ctx, db, "SELECT b FROM long")
		if err == nil && (n != rows || b != long) {
			t.Errorf("%d rows of %d, and a text with %d bytes right of %d", n, rows, strings.Count(b, "x"), len(long))
		}
		return err
	}
	view := func(ctx context.Context, _ *counter, v durable.View) error { return read(ctx, v.SQL()) }
	write := func(ctx context.Context, _ *counter, tx durable.Tx) error {
		if err := read(ctx, tx.SQL()); err != nil {
			return err
		}
		_, err := tx.SQL().Exec(ctx, "INSERT INTO t (n, b) VALUES (1, 'b')")
		return err
	}
	for kind, call := range map[string]func() error{
		"a view": func() error { return h.view(ctx, "a", view) },
		"a turn": func() error {
			err := h.update(ctx, "a", write)
			if err == nil {
				rows++
			}
			return err
		},
	} {
		t.Run("TXN-17 "+kind, func(t *testing.T) {
			n := 0
			for ; ; n++ {
				h.evict(t, "a")
				f.set(n, fmt.Errorf("read 000012.sst: %w", io.EOF))
				err := call()
				hit := f.hit()
				f.set(-1, nil)
				if hit != errors.Is(err, io.EOF) {
					t.Errorf("read %d fails: %v; the call ends with %v", n, hit, err)
				}
				if err := h.view(ctx, "a", view); err != nil {
					t.Errorf("after read %d failed: %v", n, err)
				}
				if !hit || t.Failed() {
					break
				}
			}
			if n < 8 {
				t.Errorf("only %d reads failed", n)
			}
		})
	}
	if err := h.view(ctx, "a", func(ctx context.Context, _ *counter, v durable.View) error {
		if s := one(ctx, t, v.SQL(), "PRAGMA quick_check"); s != "ok" {
			t.Error(s)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestSQLWriteWithoutRows(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE); INSERT INTO auto VALUES (1, 'a')")
	const sequence = "SELECT seq FROM sqlite_sequence"
	s.run("SQL-33 INSERT OR IGNORE keeps the number that it drew", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			cur, err := tx.SQL().Exec(ctx, "INSERT OR IGNORE INTO auto VALUES (1000, 'a')")
			if err != nil {
				return err
			}
			if n := cur.RowsWritten(); n != 0 {
				t.Errorf("%d rows were written", n)
			}
			if n := one(ctx, t, tx.SQL(), sequence); n != int64(1000) {
				t.Errorf("the turn sees %v", n)
			}
			return nil
		})
		s.want("[[1000]]", sequence)
		s.evict()
		s.want("[[1000]]", sequence)
		s.exec("INSERT INTO auto (u) VALUES ('b')")
		s.want("[[1] [1001]]", "SELECT id FROM auto")
	})
	s.run("TXN-02 a turn that fails gives it back", func(t *testing.T) {
		if _, err := s.try("INSERT OR IGNORE INTO auto VALUES (2000, 'a')"); err != nil {
			t.Error(err)
		}
		s.want("[[1001]]", sequence)
	})
}

// TestSQLForeignKeySearch: the search for the table whose rows have no parents
// may not take as long as all tables are large.
func TestSQLForeignKeySearch(t *testing.T) {
	// Each key of each row is looked up, which takes many times as long as the
	// search may. The one that has no parent would come last.
	const keys, rows = 2500, 16000
	s := newSQLTest(t, durable.Limits{})
	s.importFile(sqliteFile(t, 4096, "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); "+
		"CREATE TABLE c (a REFERENCES p DEFERRABLE INITIALLY DEFERRED, b"+strings.Repeat(", FOREIGN KEY (b) REFERENCES p", keys)+"); "+
		fmt.Sprintf("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT %d) INSERT INTO c SELECT 1, 1 FROM n", rows)))
	start := time.Now()
	err := s.do(func(ctx context.Context, tx durable.Tx) error {
		_, err := tx.SQL().Exec(ctx, "INSERT INTO c (a) VALUES (2)")
		return err
	})
	t.Log("the turn took", time.Since(start))
	// That the search was given up shows in what the error does not name.
	if e := sqlError(t, err); e.Code != "SQLITE_CONSTRAINT_FOREIGNKEY" || !e.Lost || e.Constraint != "" {
		t.Errorf("SQL-43 TXN-20: %v; the search found %q", err, e.Constraint)
	}
	s.want(fmt.Sprintf("[[%d]]", rows), "SELECT count(*) FROM c")
	s.exec("INSERT INTO c (a) VALUES (1)")
	s.want(fmt.Sprintf("[[%d]]", rows+1), "SELECT count(*) FROM c")
}

func TestSQLByteOrderMark(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a)")
	for _, query := range []string{"\ufeffVACUUM", "\ufeff VACUUM INTO 'file'", " \ufeffvacuum;", "-- a\n\ufeffVACUUM"} {
		s.run(fmt.Sprintf("SQL-47 %q", query), func(*testing.T) {
			s.refused("SQLITE_AUTH", query, "VACUUM is refused", "tx.SQL().Vacuum")
		})
	}
	s.run("SQL-46 before what transactions are for", func(*testing.T) {
		s.refused("SQLITE_AUTH", "\ufeffBEGIN", "Savepoint")
	})
	s.run("SQL-01 before what is allowed", func(*testing.T) {
		s.exec("\ufeffINSERT INTO t VALUES (1)")
		s.want("[[1]]", "\ufeffSELECT a FROM t")
	})
}
