package sqlitedb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// testLimits are the defaults of the runtime.
func testLimits() storage.SQLLimits {
	return storage.SQLLimits{
		DatabaseBytes: 10 << 30, RowBytes: 2 << 20, StatementBytes: 1_000_000, Parameters: 32_766, Columns: 2000,
		CompoundTerms: 500, LikeBytes: 50_000, TriggerDepth: 100, ExprDepth: 1000, FunctionArgs: 127,
		Instructions: 250_000_000, MemoryBytes: 64 << 20,
	}
}

// A testStore has objects with databases.
type testStore struct {
	testing.TB
	engine *Engine
	limits storage.SQLLimits
	shards map[storage.ShardID]storage.Shard
}

func newTestStore(t testing.TB, opts Options) *testStore {
	t.Helper()
	store := memkv.New(memkv.Options{})
	session, err := store.Join(t.Context(), storage.Node{ID: "n"})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]storage.ShardID, storage.Shards)
	for i := range want {
		want[i] = storage.ShardID(i)
	}
	got, err := session.Claim(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	s := &testStore{TB: t, engine: New(opts), limits: testLimits(), shards: map[storage.ShardID]storage.Shard{}}
	for _, shard := range got {
		s.shards[shard.ID()] = shard
	}
	t.Cleanup(func() {
		if err := errors.Join(s.engine.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func testObject(i int) storage.ObjectID {
	return storage.ObjectID{Type: 1, ID: [32]byte{byte(i), byte(i >> 8)}}
}

func (s *testStore) database(i int) *database {
	o := testObject(i)
	return s.engine.Database(o, s.shards[o.Shard()], s.limits).(*database)
}

func alive() error { return nil }

// turn runs statements in one turn and commits them.
func (s *testStore) turn(db *database, queries ...string) error {
	session := db.Begin(s.Context(), true, alive)
	defer session.End()
	for _, query := range queries {
		if _, err := session.Exec(s.Context(), query, nil, storage.SQLOptions{}); err != nil {
			session.Rollback()
			return err
		}
	}
	b := &storage.Batch{Object: db.object, Create: &storage.Meta{}}
	if err := session.Flush(b); err != nil {
		return err
	}
	err := s.shards[db.object.Shard()].Commit(b).Wait()
	session.Settle(err)
	return err
}

// number returns the number that a query has as its result, in a view.
func (s *testStore) number(db *database, query string) (int64, error) {
	session := db.Begin(s.Context(), false, alive)
	defer session.End()
	rows, err := session.Exec(s.Context(), query, nil, storage.SQLOptions{})
	if err != nil {
		return 0, err
	}
	row, err := rows.Next()
	if err != nil || len(row) == 0 {
		return 0, fmt.Errorf("no row: %w", err)
	}
	return row[0].(int64), nil
}

// resources counts what a process has from the system.
func resources(t testing.TB) (goroutines, files, mappings int) {
	runtime.GC()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip("no /proc")
	}
	return runtime.NumGoroutine(), len(entries), strings.Count(string(maps), "\n")
}

// TestIdle: connections of objects that do nothing are closed, and nothing of
// them stays.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStore(t, Options{MemoryBytes: 1 << 40, IdleTimeout: 10 * time.Second})
		if err := s.turn(s.database(5000), "CREATE TABLE t (n)"); err != nil { // what is made once
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		goroutines, files, mappings := resources(t)
		const objects = 1000
		var all []*database // the activations stay in memory
		for i := range objects {
			db := s.database(i)
			all = append(all, db)
			if err := s.turn(db, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)"); err != nil {
				t.Fatal(err)
			}
		}
		n, bytes := s.engine.Connections()
		if n != objects || bytes < objects*100<<10 {
			t.Errorf("%d connections with %d bytes are open", n, bytes)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		time.Sleep(9 * time.Second)
		if _, err := s.number(all[7], "SELECT n FROM t"); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.engine.Connections(); n != objects {
			t.Errorf("%d connections are open before the timeout", n)
		}
		time.Sleep(3 * time.Second)
		if n, _ := s.engine.Connections(); n != 1 {
			t.Errorf("%d connections are open after the timeout, and one was used since", n)
		}
		time.Sleep(10 * time.Second)
		if n, bytes := s.engine.Connections(); n != 0 || bytes != 0 {
			t.Errorf("%d connections with %d bytes are open", n, bytes)
		}
		g, f, m := resources(t)
		if g > goroutines || f > files || m > mappings+20 {
			t.Errorf("%d goroutines, %d files and %d mappings, after %d, %d and %d", g, f, m, goroutines, files, mappings)
		}
		runtime.ReadMemStats(&after)
		t.Logf("%d KiB of heap for each open connection", (int64(before.HeapAlloc)-int64(after.HeapAlloc))/objects>>10)
		for i, db := range all {
			db.mu.Lock()
			for _, c := range db.conns {
				c.mu.Lock()
				if c.lite != nil || len(c.file.pages.images)+len(c.file.pages.spare) > 0 {
					t.Errorf("object %d holds on to its pages", i)
				}
				c.mu.Unlock()
			}
			db.mu.Unlock()
		}
		if n, err := s.number(all[3], "SELECT count(*) FROM t"); n != 1 || err != nil {
			t.Errorf("%d rows, %v", n, err)
		}
		runtime.KeepAlive(all)
	})
}

// TestMemoryCap: what open connections take together is bounded, and those are
// closed that were not used for longest.
func TestMemoryCap(t *testing.T) {
	const limit = 8 << 20
	s := newTestStore(t, Options{MemoryBytes: limit, IdleTimeout: time.Hour})
	var all []*database
	for i := range 60 {
		db := s.database(i)
		all = append(all, db)
		if err := s.turn(db, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		n, bytes := s.engine.Connections()
		if bytes > limit || n == 0 {
			t.Fatalf("after %d objects: %d connections with %d bytes", i+1, n, bytes)
		}
	}
	n, _ := s.engine.Connections()
	if n < 4 || n > 40 {
		t.Errorf("%d connections are open", n)
	}
	open := func(db *database) bool {
		for _, c := range db.conns {
			if c.lite != nil && c.users.Load() == 0 {
				return true
			}
		}
		return false
	}
	for i, db := range all {
		if open(db) != (i >= len(all)-n) {
			t.Errorf("the connection of object %d of %d is open: %v", i, len(all), open(db))
		}
	}

	// A connection in use stays, whatever the others need.
	session := all[0].Begin(t.Context(), false, alive)
	rows, err := session.Exec(t.Context(), "SELECT n FROM t UNION ALL SELECT 2", nil, storage.SQLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range all[1:] {
		if _, err := s.number(db, "SELECT n FROM t"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if row, err := rows.Next(); row == nil || err != nil {
			t.Errorf("row %v, %v", row, err)
		}
	}
	session.End()
}

// TestGrown: a connection that took much memory is closed after its turn, since
// it would never give it back.
func TestGrown(t *testing.T) {
	s := newTestStore(t, Options{IdleTimeout: time.Hour})
	db := s.database(1)
	if err := s.turn(db, "CREATE TABLE t (n, b)", `INSERT INTO t SELECT value, randomblob(1000) FROM (
		WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM c LIMIT 3000) SELECT value FROM c)`); err != nil {
		t.Fatal(err)
	}
	session := db.Begin(t.Context(), false, alive)
	if _, err := session.Exec(t.Context(), "SELECT n FROM t LIMIT 1", nil, storage.SQLOptions{}); err != nil {
		t.Fatal(err)
	}
	session.End()
	if n, _ := s.engine.Connections(); n != 1 {
		t.Fatalf("%d connections are open", n)
	}
	rows, err := func() (n int, err error) {
		session := db.Begin(t.Context(), false, alive)
		defer session.End()
		// The sorter, and an aggregate, hold everything.
		r, err := session.Exec(t.Context(), "SELECT length(group_concat(hex(a.b))) FROM (SELECT b FROM t LIMIT 900) a, (SELECT 1) ORDER BY 1", nil, storage.SQLOptions{})
		if err != nil {
			return 0, err
		}
		for {
			row, err := r.Next()
			if err != nil || row == nil {
				return n, err
			}
			n++
		}
	}()
	if err != nil || rows != 1 {
		t.Fatal(rows, err)
	}
	grown, _ := s.engine.Connections()
	session = db.Begin(t.Context(), false, alive)
	r, err := session.Exec(t.Context(), "SELECT a.b, b.n FROM t a, (SELECT n FROM t LIMIT 5) b ORDER BY a.b || b.n", nil, storage.SQLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if row, err := r.Next(); row == nil || err != nil {
		t.Fatal(row, err)
	}
	memory := sessionConn(session).memory()
	session.End()
	n, bytes := s.engine.Connections()
	t.Logf("%d connections, then %d with %d bytes after one took %d", grown, n, bytes, memory)
	if memory <= grownBytes {
		t.Fatalf("the sort took only %d bytes", memory)
	}
	if n != 0 || bytes != 0 {
		t.Errorf("%d connections with %d bytes are open", n, bytes)
	}
}

func sessionConn(s storage.SQLSession) *conn { return s.(*session).conn }

// TestLinearMemory: what is read by reflection is the memory of SQLite. It fails
// when go-sqlite3 names its fields in another way.
func TestLinearMemory(t *testing.T) {
	s := newTestStore(t, Options{})
	db := s.database(1)
	session := db.Begin(t.Context(), true, alive).(*session)
	defer session.End()
	exec := func(query string) int {
		t.Helper()
		if _, err := session.Exec(t.Context(), query, nil, storage.SQLOptions{}); err != nil {
			t.Fatal(err)
		}
		return linearMemory(session.conn.lite).Len()
	}
	small := exec("SELECT 1")
	if small < 100<<10 || small > 1<<20 || small%65536 != 0 {
		t.Errorf("an unused connection has %d bytes of memory", small)
	}
	exec("CREATE TABLE t (a)")
	large := exec("INSERT INTO t VALUES (randomblob(2000000)), (randomblob(2000000))")
	if large < small+2_000_000 || large > small+20_000_000 || large%65536 != 0 {
		t.Errorf("a connection that held rows of 2 MB has %d bytes of memory, and had %d", large, small)
	}
}

// TestOutOfMemory: a statement that needs too much memory costs its connection,
// and the memory with it.
func TestOutOfMemory(t *testing.T) {
	s := newTestStore(t, Options{})
	s.limits.MemoryBytes = 1 << 20
	db := s.database(1)
	if err := s.turn(db, "CREATE TABLE t (n)"); err != nil {
		t.Fatal(err)
	}
	const greedy = "SELECT randomblob(n) FROM (SELECT 10 n UNION ALL SELECT 2000000)"
	_, _, before := resources(t)
	const times = 50
	for i := range times {
		for _, write := range []bool{false, true} {
			for _, query := range []string{
				"SELECT randomblob(2000000)",
				greedy, // fails at its second row, when the first was read
				"INSERT INTO t " + greedy,
				"INSERT INTO t VALUES (1); " + greedy,
			} {
				if !write && strings.HasPrefix(query, "INSERT") {
					continue
				}
				session := db.Begin(t.Context(), write, alive)
				rows, err := session.Exec(t.Context(), query, nil, storage.SQLOptions{})
				for n := 0; err == nil && n < 3; n++ {
					_, err = rows.Next()
				}
				var lite *storage.SQLError
				if !errors.As(err, &lite) || lite.Code != "SQLITE_NOMEM" {
					t.Fatalf("%s: %v", query, err)
				}
				if session.Err() == nil {
					t.Fatalf("%s: the session goes on", query)
				}
				if _, err := session.Exec(t.Context(), "SELECT 1", nil, storage.SQLOptions{}); err == nil {
					t.Fatalf("%s: the session goes on", query)
				}
				if rows != nil {
					rows.Stats()
					if i%2 == 0 {
						rows.Close()
					}
				}
				session.End()
			}
		}
		if n, err := s.number(db, "SELECT count(*) FROM t"); n != 0 || err != nil {
			t.Fatalf("%d rows, %v", n, err)
		}
	}
	db.Close()
	if n, bytes := s.engine.Connections(); n != 0 || bytes != 0 {
		t.Errorf("%d connections with %d bytes are open", n, bytes)
	}
	if _, _, after := resources(t); after > before+20 {
		t.Errorf("%d mappings of memory, and %d before %d statements ran out of it", after, before, times)
	}
}

// TestSharedOutOfMemory: views that run together on one connection.
func TestSharedOutOfMemory(t *testing.T) {
	s := newTestStore(t, Options{Readers: 1})
	s.limits.MemoryBytes = 1 << 20
	db := s.database(1)
	if err := s.turn(db, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1), (2), (3)"); err != nil {
		t.Fatal(err)
	}
	one, other := db.Begin(t.Context(), false, alive), db.Begin(t.Context(), false, alive)
	rows, err := one.Exec(t.Context(), "SELECT n FROM t", nil, storage.SQLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), "SELECT randomblob(2000000)", nil, storage.SQLOptions{}); err == nil {
		t.Fatal("it has enough memory")
	}
	other.End()
	var sum int64
	for {
		row, err := rows.Next()
		if err != nil {
			t.Fatal(err)
		}
		if row == nil {
			break
		}
		sum += row[0].(int64)
	}
	if sum != 6 {
		t.Errorf("the sum is %d", sum)
	}
	one.End()
	if n, bytes := s.engine.Connections(); n != 0 || bytes != 0 {
		t.Errorf("%d connections with %d bytes are open", n, bytes)
	}
}

// TestDeadTurn: who asks a session that has ended, or whose turn has, gets an
// error.
func TestDeadTurn(t *testing.T) {
	s := newTestStore(t, Options{})
	db := s.database(1)
	if err := s.turn(db, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1), (2), (3)"); err != nil {
		t.Fatal(err)
	}
	over := errors.New("over")
	var state error
	session := db.Begin(t.Context(), true, func() error { return state })
	rows, err := session.Exec(t.Context(), "SELECT n FROM t", nil, storage.SQLOptions{})
	if err != nil {
		t.Fatal(err)
	}
	state = over
	if _, err := rows.Next(); !errors.Is(err, over) {
		t.Error(err)
	}
	if _, err := session.Exec(t.Context(), "SELECT 1", nil, storage.SQLOptions{}); !errors.Is(err, over) {
		t.Error(err)
	}
	state = nil
	session.End()
	session.End()
	if _, err := rows.Next(); !errors.Is(err, storage.ErrClosed) {
		t.Error(err)
	}
	rows.Stats()
	rows.Close()
	if _, err := session.Exec(t.Context(), "SELECT 1", nil, storage.SQLOptions{}); !errors.Is(err, storage.ErrClosed) {
		t.Error(err)
	}
	if err := session.Flush(&storage.Batch{}); !errors.Is(err, storage.ErrClosed) {
		t.Error(err)
	}

	// A statement ends when its turn does.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	session = db.Begin(ctx, true, alive)
	_, err = session.Exec(t.Context(), "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT max(n) FROM c", nil, storage.SQLOptions{})
	if !errors.Is(err, context.DeadlineExceeded) || session.Err() == nil {
		t.Error(err, session.Err())
	}
	session.End()
	if n, err := s.number(db, "SELECT count(*) FROM t"); n != 3 || err != nil {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestFullTextCheck: a connection for views does not take its memory of a
// full-text index for what is stored. (SQL-55)
func TestFullTextCheck(t *testing.T) {
	s := newTestStore(t, Options{})
	db := s.database(1)
	if err := s.turn(db, "CREATE VIRTUAL TABLE \"f \"\"f\" USING fts5(x)", "CREATE VIRTUAL TABLE g USING fts5(x)"); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.turn(db, `INSERT INTO "f ""f" VALUES ('word'); INSERT INTO g VALUES ('word')`); err != nil {
			t.Fatal(err)
		}
		first := db.Begin(t.Context(), false, alive)
		if _, err := first.Exec(t.Context(), "SELECT 1", nil, storage.SQLOptions{}); err != nil {
			t.Fatal(err)
		}
		second := db.Begin(t.Context(), false, alive) // has another connection
		for _, query := range []string{"PRAGMA quick_check", `SELECT count(*) FROM "f ""f" WHERE x MATCH 'word'`} {
			rows, err := second.Exec(t.Context(), query, nil, storage.SQLOptions{})
			if err != nil {
				t.Fatal(err)
			}
			row, err := rows.Next()
			if err != nil || row[0] != "ok" && row[0] != int64(i+1) {
				t.Errorf("after turn %d: %s: %v, %v", i, query, row, err)
			}
		}
		if sessionConn(first) == sessionConn(second) || sessionConn(second).main {
			t.Fatal("there is one connection")
		}
		second.End()
		first.End()
	}
}

// TestRefusedCommit: what SQLite committed and the store did not is in no
// connection of the database afterwards.
func TestRefusedCommit(t *testing.T) {
	s := newTestStore(t, Options{})
	db := s.database(1)
	if err := s.turn(db, "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	for name, settle := range map[string]func(*session){
		"refused":     func(s *session) { s.Settle(refused) },
		"forgotten":   func(*session) {},
		"rolled back": func(s *session) { s.Settle(refused); s.Rollback() },
	} {
		session := db.Begin(t.Context(), true, alive).(*session)
		if _, err := session.Exec(t.Context(), "INSERT INTO t VALUES (2); CREATE TABLE phantom (x)", nil, storage.SQLOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := session.Flush(&storage.Batch{Object: db.object}); err != nil {
			t.Fatal(err)
		}
		settle(session)
		if name == "refused" {
			if _, err := session.Exec(t.Context(), "SELECT 1", nil, storage.SQLOptions{}); !errors.Is(err, refused) {
				t.Errorf("%s: the session goes on: %v", name, err)
			}
		}
		session.End()
		if n, bytes := s.engine.Connections(); n != 0 || bytes != 0 {
			t.Errorf("%s: %d connections with %d bytes are open", name, n, bytes)
		}
		if n, err := s.number(db, "SELECT count(*) FROM t, sqlite_schema"); n != 1 || err != nil {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
		if err := s.turn(db, "UPDATE t SET n = n + 1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A vacuum, and a wipe, that were not committed.
	for name, begin := range map[string]func(*session) error{
		"vacuum": func(s *session) error { return s.Vacuum(t.Context()) },
		"wipe":   func(s *session) error { s.Wipe(); return nil },
	} {
		session := db.Begin(t.Context(), true, alive).(*session)
		if err := begin(session); err != nil {
			t.Fatal(err)
		}
		if _, err := session.Exec(t.Context(), "CREATE TABLE phantom (x)", nil, storage.SQLOptions{}); err != nil {
			t.Fatal(err)
		}
		session.End()
		if n, err := s.number(db, "SELECT count(*) FROM t, sqlite_schema"); n != 1 || err != nil {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
	}
}
