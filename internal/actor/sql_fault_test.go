package actor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A sqlFault lets one of the reads of an object fail, and its commits.
type sqlFault struct {
	storage.Session
	mu      sync.Mutex
	object  storage.ObjectID
	at      int // the number of the read that fails; negative: none
	err     error
	reads   int
	hits    int
	key     []byte // every read of it fails with err, if not nil
	commits int
	// commit is what the next commit resolves to, without being applied, if not
	// nil.
	commit error
}

type faultyShard struct {
	storage.Shard
	f *sqlFault
}

func (f *sqlFault) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := f.Session.Claim(ctx, want)
	for i := range got {
		got[i] = faultyShard{got[i], f}
	}
	return got, err
}

// set says which read is to fail, counted from now.
func (f *sqlFault) set(at int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.err, f.reads, f.hits = at, err, 0, 0
}

// hit reports whether something failed since set.
func (f *sqlFault) hit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits > 0
}

func (f *sqlFault) read(o storage.ObjectID, key []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o != f.object {
		return nil
	}
	f.reads++
	if f.reads-1 == f.at || f.key != nil && bytes.Equal(f.key, key) {
		f.hits++
		return f.err
	}
	return nil
}

func (s faultyShard) Get(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, bool, error) {
	if err := s.f.read(o, key); err != nil {
		return nil, false, err
	}
	return s.Shard.Get(ctx, o, key)
}

func (s faultyShard) GetPatched(ctx context.Context, o storage.ObjectID, key []byte) ([]byte, int, bool, error) {
	if err := s.f.read(o, key); err != nil {
		return nil, 0, false, err
	}
	return s.Shard.GetPatched(ctx, o, key)
}

func (s faultyShard) Scan(ctx context.Context, o storage.ObjectID, r storage.Range) iter.Seq2[storage.Pair, error] {
	if err := s.f.read(o, nil); err != nil {
		return func(yield func(storage.Pair, error) bool) { yield(storage.Pair{}, err) }
	}
	return s.Shard.Scan(ctx, o, r)
}

func (s faultyShard) Commit(b *storage.Batch) *storage.Pending {
	s.f.mu.Lock()
	err := s.f.commit
	if b.Object == s.f.object {
		s.f.commit = nil
		s.f.commits++
	} else {
		err = nil
	}
	s.f.mu.Unlock()
	if err != nil {
		return storage.ResolvedPending(err)
	}
	return s.Shard.Commit(b)
}

// newFaultyHost returns a host on a store whose object key has faults.
func newFaultyHost(t *testing.T, key string, opts sqlitedb.Options) (*testHost, *sqlFault, *sqlitedb.Engine, *memkv.Store) {
	t.Helper()
	store := memkv.New(memkv.Options{})
	info, _ := store.Info(t.Context())
	f := &sqlFault{Session: join(t, store), at: -1}
	h, engine := newSQLHost(t, info, f, durable.Limits{}, opts)
	f.object = storage.ObjectID{Type: h.typ.StorageID(), ID: durable.IDFromName("counter", key)}
	return h, f, engine, store
}

func (h *testHost) evict(t *testing.T, key string) {
	t.Helper()
	if _, err := h.Evict(t.Context(), h.typ, durable.IDFromName("counter", key)); err != nil {
		t.Fatal(err)
	}
}

// fill gives an object 100 rows on several pages.
func (h *testHost) fill(t *testing.T, key string) {
	t.Helper()
	err := h.update(t.Context(), key, func(ctx context.Context, _ *counter, tx durable.Tx) error {
		_, err := tx.SQL().Exec(ctx, `CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, b BLOB); CREATE INDEX tn ON t(n);
			WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c LIMIT 100) INSERT INTO t SELECT i, i, zeroblob(200) FROM c`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rows returns how many rows table t of an object has.
func (h *testHost) rows(t *testing.T, key string) (n int, err error) {
	t.Helper()
	err = h.view(t.Context(), key, func(ctx context.Context, _ *counter, v durable.View) error {
		n, err = durable.One[int](ctx, v.SQL(), "SELECT count(b) FROM t NOT INDEXED")
		return err
	})
	return n, err
}

// TestSQLReadFaults lets each read of a workload fail, once: the turn fails with
// that, or goes on as if nothing had been; the object has what was committed
// before, and the next turns are right. (TXN-17, TXN-19)
func TestSQLReadFaults(t *testing.T) {
	for seed, fault := range []error{storage.ErrUnavailable, storage.ErrCorrupt} {
		t.Run(fault.Error(), func(t *testing.T) {
			t.Parallel()
			n, failed, step := 0, 0, 1
			if testing.Short() || underRace() {
				step = 9
			}
			for hit := true; hit && !t.Failed(); n += step {
				hit = testSQLReadFault(t, uint64(seed), n, fault, &failed)
			}
			t.Logf("%d reads, %d failed turns", n, failed)
			if failed < n/step/2 || n < 20 {
				t.Error("most of the faults were not noticed")
			}
		})
	}
}

// testSQLReadFault reports whether there is an nth read.
func testSQLReadFault(t *testing.T, seed uint64, n int, fault error, failed *int) (hit bool) {
	h, f, _, _ := newFaultyHost(t, "a", sqlitedb.Options{MemoryBytes: 1})
	h.fill(t, "other")
	m := newSQLModel(t, "a", seed)
	before := n
	for turn := range 12 {
		f.set(before, fault)
		err := m.turn(t.Context(), h)
		struck := f.hit()
		before -= f.reads
		f.set(-1, nil)
		hit = hit || struck
		switch {
		case err == nil:
		case !struck || !errors.Is(err, fault):
			t.Errorf("read %d, turn %d: %v", n, turn, err)
			return hit
		default:
			*failed++
			m.history = m.history[:m.acked+1] // what was not committed
		}
		if !struck {
			h.evict(t, "a")
			continue
		}
		if err := m.check(t.Context(), h, 1); err != nil {
			t.Errorf("read %d, after turn %d: %v", n, turn, err)
		}
		if rows, err := h.rows(t, "other"); rows != 100 || err != nil {
			t.Errorf("read %d: another object has %d rows, %v", n, rows, err)
		}
	}
	if err := m.check(t.Context(), h, 1); err != nil {
		t.Errorf("read %d, at the end: %v", n, err)
	}
	return hit
}

// TestSQLFaultIgnored: a handler that goes on after a read failed has a
// connection like any other.
func TestSQLFaultIgnored(t *testing.T) {
	for _, fault := range []error{storage.ErrUnavailable, storage.ErrCorrupt} {
		faults := 0
		for n := 0; ; n++ {
			before := faults
			h, f, _, _ := newFaultyHost(t, "a", sqlitedb.Options{})
			h.fill(t, "a")
			err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				for i := range 60 { // so that the schema is on several pages
					if _, err := tx.SQL().Exec(ctx, fmt.Sprintf("CREATE TABLE t%d (a, b, c, d, e, f, g, h, CHECK (a || b || c || d || e <> 'something else'))", i)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, write := range []bool{false, true} {
				h.evict(t, "a")
				use := func(ctx context.Context, q durable.SQL) error {
					f.set(n, fault)
					_, err := durable.One[int](ctx, q, "SELECT sum(length(b)) FROM t")
					hit := f.hit()
					f.set(-1, nil)
					if hit != (err != nil) || hit && !errors.Is(err, fault) {
						t.Errorf("read %d: %v", n, err)
					}
					if hit {
						faults++
					}
					for _, query := range []string{"BEGIN", "ATTACH 'x' AS x", "PRAGMA journal_mode = WAL", "CREATE TEMP TABLE x (y)", "SELECT sqlite_version()"} {
						_, err := q.Exec(ctx, query)
						var lite *durable.SQLError
						if !errors.As(err, &lite) || lite.Code != "SQLITE_AUTH" {
							t.Errorf("read %d: %s: %v", n, query, err)
						}
					}
					rows, err := durable.One[int](ctx, q, "SELECT count(*) FROM t WHERE length(b) = 200")
					if rows != 100 || err != nil {
						t.Errorf("read %d: %d rows, %v", n, rows, err)
					}
					return err
				}
				var err error
				if write {
					err = h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
						if err := use(ctx, tx.SQL()); err != nil {
							return err
						}
						_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (500, 500, NULL)")
						return err
					})
				} else {
					err = h.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error { return use(ctx, v.SQL()) })
				}
				if err != nil {
					t.Errorf("read %d: %v", n, err)
				}
			}
			if rows, err := h.rows(t, "a"); rows != 100 || err != nil {
				t.Errorf("read %d: %d rows, %v", n, rows, err)
			}
			if t.Failed() {
				return
			}
			if faults == before { // there are no more reads
				break
			}
		}
		if faults < 6 {
			t.Errorf("only %d faults", faults)
		}
	}
}

// TestSQLOneBatch: what a turn wrote, to SQL and to KV, is one batch. (GATE-32,
// GATE-34, GATE-35)
func TestSQLOneBatch(t *testing.T) {
	h, f, _, _ := newFaultyHost(t, "a", sqlitedb.Options{})
	h.fill(t, "a")
	for _, c := range []struct {
		name  string
		want  int
		query string
	}{
		{"reads", 0, "SELECT * FROM t"},
		{"one row", 1, "INSERT INTO t VALUES (101, 1, NULL)"},
		{"a new table", 1, "CREATE TABLE u (x); CREATE VIRTUAL TABLE f USING fts5(x)"},
		{"many pages", 1, "UPDATE t SET b = zeroblob(20000)"},
		{"fewer pages", 1, "DELETE FROM t WHERE id > 5"},
		{"full text", 1, "INSERT INTO f VALUES ('one'), ('two')"},
	} {
		for _, fails := range []error{errSQLModel, nil} {
			f.commits = 0
			err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				if c.want > 0 {
					if err := tx.KV().Put(ctx, "key", []byte(c.name)); err != nil {
						return err
					}
				}
				return errors.Join(tx.Savepoint(func() error {
					_, err := tx.SQL().Exec(ctx, c.query)
					return err
				}), fails)
			})
			want := c.want
			if fails != nil {
				want = 0
			}
			if !errors.Is(err, fails) || f.commits != want {
				t.Errorf("%s: %d commits, %v", c.name, f.commits, err)
			}
		}
	}
	f.commits = 0
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		if err := tx.DeleteAll(ctx); err != nil {
			return err
		}
		_, err := tx.SQL().Exec(ctx, "CREATE TABLE t (n)")
		return errors.Join(err, tx.KV().Put(ctx, "key", []byte("x")))
	})
	if err != nil || f.commits != 1 {
		t.Errorf("DeleteAll: %d commits, %v", f.commits, err)
	}
}

// TestSQLCommitFails lets the store refuse commits after SQLite made its own:
// the turn fails with that, nothing of it stays in any connection, and the next
// turns are right. (GATE-39, TXN-17)
func TestSQLCommitFails(t *testing.T) {
	tooLarge := &storage.LimitError{Err: storage.ErrTooLarge, What: "bytes of a batch", Max: 1, Actual: 2}
	noSpace := &storage.LimitError{Err: storage.ErrNoSpace, What: "bytes free", Max: 1}
	for name, fault := range map[string]error{"too large": tooLarge, "no space": noSpace, "lost": storage.ErrLost} {
		for _, kind := range []string{"at the end", "in Sync", "ignored in Sync", "in Await", "of a vacuum", "of DeleteAll"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				h, f, engine, _ := newFaultyHost(t, "a", sqlitedb.Options{})
				h.fill(t, "a")
				h.fill(t, "other")
				for round := range 3 {
					if round == 1 {
						h.evict(t, "a")
					}
					err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
						if kind == "of a vacuum" {
							if err := tx.SQL().Vacuum(ctx); err != nil {
								return err
							}
						}
						if kind == "of DeleteAll" {
							if err := tx.DeleteAll(ctx); err != nil {
								return err
							}
							if _, err := tx.SQL().Exec(ctx, "CREATE TABLE t (id INTEGER PRIMARY KEY, n, b)"); err != nil {
								return err
							}
						}
						if err := tx.KV().Put(ctx, "phantom", []byte("x")); err != nil {
							return err
						}
						if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (1000, 1, 'phantom'); UPDATE t SET n = -n; CREATE TABLE phantom (x)"); err != nil {
							return err
						}
						f.mu.Lock()
						f.commit = fault
						f.mu.Unlock()
						switch kind {
						case "in Sync":
							return tx.Sync(ctx)
						case "ignored in Sync":
							if err := tx.Sync(ctx); !errors.Is(err, fault) {
								t.Errorf("sync: %v", err)
							}
							if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (1001, 1, 'phantom')"); err == nil {
								t.Error("the turn goes on")
							}
						case "in Await":
							return tx.Await(ctx, func(context.Context) error { return nil })
						}
						return nil
					})
					var limit *durable.LimitError
					if !errors.Is(err, fault) && !errors.As(err, &limit) {
						t.Fatalf("the turn whose commit failed: %v", err)
					}
					if n, _ := engine.Connections(); n > 1 {
						t.Errorf("%d connections are open", n)
					}
					err = h.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
						_, ok, err := v.KV().Get(ctx, "phantom")
						if err != nil || ok {
							t.Errorf("the pair is there: %v, %v", ok, err)
						}
						n, err := durable.One[int](ctx, v.SQL(), "SELECT count(*) FROM t WHERE n > 0")
						if err != nil || n != 100 {
							t.Errorf("%d rows, %v", n, err)
						}
						n, err = durable.One[int](ctx, v.SQL(), "SELECT count(*) FROM sqlite_schema")
						if err != nil || n != 2 {
							t.Errorf("%d tables and indexes, %v", n, err)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
					err = h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
						_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (2000, 1, 'kept'); DELETE FROM t WHERE id = 2000")
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
				if n, err := h.rows(t, "other"); n != 100 || err != nil {
					t.Errorf("another object has %d rows, %v", n, err)
				}
			})
		}
	}
}

// TestSQLCommitLost: commits are applied and then lost, or become durable
// without the host hearing of it.
func TestSQLCommitLost(t *testing.T) {
	for _, kind := range []string{"lost", "unheard"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _, _, store := newFaultyHost(t, "a", sqlitedb.Options{})
				h.fill(t, "a")
				insert := func(ctx context.Context, _ *counter, tx durable.Tx) error {
					if err := tx.KV().Put(ctx, "more", []byte("x")); err != nil {
						return err
					}
					_, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (1000, 1, 'x')")
					return err
				}
				want := 101
				if kind == "lost" {
					want = 100
					store.Pause()
					var calls sync.WaitGroup
					calls.Go(func() {
						if err := h.update(t.Context(), "a", insert); !errors.Is(err, durable.ErrCommitFailed) {
							t.Errorf("the turn whose commit was lost: %v", err)
						}
					})
					synctest.Wait()
					calls.Go(func() { // sees the commit, and is told nothing
						if n, err := h.rows(t, "a"); err == nil {
							t.Errorf("%d rows were told that may get lost", n)
						}
					})
					synctest.Wait()
					store.Crash()
					calls.Wait()
					store.Resume()
					info, _ := store.Info(t.Context())
					h, _ = newSQLHost(t, info, join(t, store), durable.Limits{}, sqlitedb.Options{})
				} else {
					store.LoseAck("n1")
					if err := h.update(t.Context(), "a", insert); err == nil {
						t.Error("the turn whose commit was unheard of succeeded")
					}
					time.Sleep(2 * reclaimPause)
				}
				if n, err := h.rows(t, "a"); n != want || err != nil {
					t.Errorf("%d rows instead of %d, %v", n, want, err)
				}
				err := h.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
					_, ok, err := v.KV().Get(ctx, "more")
					if ok != (want == 101) {
						t.Errorf("the pair is there: %v", ok)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute) // idle connections are closed
			})
		})
	}
}

// TestSQLDamage damages each page of a database: statements that need it fail
// with [storage.ErrCorrupt], other objects have no part in it, and DeleteAll
// mends it.
func TestSQLDamage(t *testing.T) {
	damages := map[string]func(page []byte) []byte{
		"short":     func(page []byte) []byte { return page[:len(page)-1] },
		"long":      func(page []byte) []byte { return append(bytes.Clone(page), 0) },
		"empty":     func([]byte) []byte { return []byte{} },
		"garbage":   func(page []byte) []byte { return bytes.Repeat([]byte{0xa5}, len(page)) },
		"zeros":     func(page []byte) []byte { return make([]byte, len(page)) },
		"undecoded": nil,
		"missing":   nil,
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			noticed := 0
			for n := uint32(1); ; n++ {
				h, f, _, _ := newFaultyHost(t, "a", sqlitedb.Options{})
				h.fill(t, "a")
				h.fill(t, "other")
				shard := h.shards[f.object.Shard()].shard.Load()
				key := binary.BigEndian.AppendUint32([]byte{'s'}, n)
				page, ok, err := shard.Get(t.Context(), f.object, key)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					if noticed < int(n-1)*2/3 {
						t.Errorf("damage to %d of %d pages was noticed", noticed, n-1)
					}
					return
				}
				h.evict(t, "a")
				switch name {
				case "undecoded":
					f.mu.Lock()
					f.key, f.err = key, fmt.Errorf("%w: malformed value", storage.ErrCorrupt)
					f.mu.Unlock()
				case "missing":
					shard.Commit(&storage.Batch{Object: f.object, Del: [][]byte{key}})
				default:
					shard.Commit(&storage.Batch{Object: f.object, Put: []storage.Pair{{Key: key, Val: damage(page)}}})
				}
				corrupt := func(what string, err error) {
					if err != nil && !errors.Is(err, storage.ErrCorrupt) {
						var lite *durable.SQLError
						if name != "missing" || n != 1 || !errors.As(err, &lite) {
							t.Errorf("page %d: %s: %v", n, what, err)
						}
					}
				}
				err = h.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
					rows, err := durable.All[int](ctx, v.SQL(), "SELECT n FROM t NOT INDEXED WHERE b IS NOT NULL")
					if err != nil {
						return err
					}
					more, err := durable.All[int](ctx, v.SQL(), "SELECT n FROM t INDEXED BY tn WHERE n > 0")
					if err == nil && (len(rows) != 100 || len(more) != 100) {
						err = fmt.Errorf("%w: rows are missing", storage.ErrCorrupt) // of a page that is valid in itself
					}
					return err
				})
				corrupt("read", err)
				if err != nil {
					noticed++
				}
				var inTurn error
				err = h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
					_, inTurn = tx.SQL().Exec(ctx, "UPDATE t SET n = n + 1, b = zeroblob(300)")
					return inTurn
				})
				corrupt("write", err)
				if n, err := h.rows(t, "other"); n != 100 || err != nil {
					t.Errorf("another object has %d rows, %v", n, err)
				}
				if h.Active() == 0 {
					t.Error("no object is active")
				}
				err = h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
					if n%2 == 0 { // notice the damage first
						_, err := tx.SQL().Exec(ctx, "SELECT * FROM t ORDER BY b")
						corrupt("before DeleteAll", err)
					}
					if err := tx.DeleteAll(ctx); err != nil {
						return err
					}
					_, err := tx.SQL().Exec(ctx, "CREATE TABLE t (b); INSERT INTO t VALUES (1), (2)")
					return err
				})
				if err != nil {
					t.Errorf("page %d: DeleteAll: %v", n, err)
				}
				f.mu.Lock()
				f.key = nil
				f.mu.Unlock()
				for range 2 {
					if rows, err := h.rows(t, "a"); rows != 2 || err != nil {
						t.Errorf("page %d: %d rows after DeleteAll, %v", n, rows, err)
					}
					h.evict(t, "a")
				}
				if t.Failed() {
					return
				}
				if inTurn != nil && strings.Contains(inTurn.Error(), "counter") {
					t.Errorf("the error names the object: %v", inTurn)
				}
			}
		})
	}
}
