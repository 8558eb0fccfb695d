package actor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
	"github.com/durable-go/durable/storage/storagetest"
)

// newSQLHost is newTestHost with an engine of the test's own.
func newSQLHost(t testing.TB, info storage.Info, session storage.Session, limits durable.Limits, opts sqlitedb.Options) (*testHost, *sqlitedb.Engine) {
	t.Helper()
	h, databases := &testHost{}, sqlitedb.New(opts)
	t.Cleanup(func() { _ = databases.Close() })
	var err error
	if h.Host, err = NewHost(t.Context(), info, session, Options{Conn: closureConn{h}, SQL: databases}); err != nil {
		t.Fatal(err)
	}
	made := func(context.Context, durable.Tx) (any, error) { return &counter{}, nil }
	h.typ, err = h.Register(t.Context(), &durable.ObjectType{Name: "counter", New: made, Limits: limits.WithDefaults()})
	if err != nil {
		t.Fatal(err)
	}
	return h, databases
}

// underRace reports whether the race detector watches, which makes SQLite many
// times slower.
var underRace = sync.OnceValue(func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// scaled is [storagetest.Scale], and less under the race detector.
func scaled(n int) int {
	if underRace() {
		n = max(1, n/6)
	}
	return storagetest.Scale(n)
}

// A sqlRow is a row of table t, and its row of the full-text table f.
type sqlRow struct {
	key  string
	n    int64
	blob string
	text string // empty: it has none
}

// A sqlState is what an object has in its database, and in its pairs.
type sqlState struct {
	turns  int64 // 0: nothing was ever committed
	schema bool
	rows   map[int64]sqlRow
	extra  map[string]int64 // tables with that many rows
	index  bool             // there is one more index
}

func (s *sqlState) clone() sqlState {
	c := *s
	c.rows, c.extra = maps.Clone(s.rows), maps.Clone(s.extra)
	return c
}

const sqlSchema = `
	CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT NOT NULL UNIQUE, n INTEGER NOT NULL CHECK (n >= 0), b BLOB);
	CREATE INDEX tn ON t(n, k);
	CREATE VIRTUAL TABLE f USING fts5(x);
	CREATE TABLE meta (one INTEGER PRIMARY KEY, object TEXT, turns INTEGER)`

var sqlWords = []string{"ape", "bear", "cat", "dog", "eel", "fox"}

// A sqlModel runs random turns on one object and knows what it has to have.
type sqlModel struct {
	t   testing.TB
	key string
	rng *rand.Rand

	mu      sync.Mutex
	history []sqlState // by turns: what was committed, or is about to be
	acked   int        // the last of them that a reply or a Sync told of
	done    map[string]int
}

func newSQLModel(t testing.TB, key string, seed uint64) *sqlModel {
	return &sqlModel{
		t: t, key: key, rng: rand.New(rand.NewPCG(seed, uint64(len(key))<<8|uint64(key[len(key)-1]))),
		history: []sqlState{{}}, done: map[string]int{},
	}
}

func (m *sqlModel) latest() *sqlState { return &m.history[len(m.history)-1] }

var (
	errSQLModel   = errors.New("the handler failed")
	errSQLSwallow = errors.New("the handler ignored a lost transaction")
)

// A sqlTurn is one random turn.
type sqlTurn struct {
	*sqlModel
	ctx   context.Context
	tx    durable.Tx
	now   sqlState // in the turn
	lost  bool     // the transaction
	depth int
	open  []*durable.Cursor // which keep tables from being dropped
}

func (t *sqlTurn) closeCursors() {
	for _, cur := range t.open {
		cur.Close()
	}
	t.open = nil
}

// turn runs one random turn. It returns an error that was not expected.
func (m *sqlModel) turn(ctx context.Context, h *testHost) error {
	var turn *sqlTurn
	end := m.rng.IntN(100)
	err := h.update(ctx, m.key, func(ctx context.Context, _ *counter, tx durable.Tx) error {
		turn = &sqlTurn{sqlModel: m, ctx: ctx, tx: tx, now: m.latest().clone()}
		if err := turn.run(); err != nil {
			return err
		}
		switch {
		case turn.lost: // and the handler takes no notice
			return nil
		case end < 5:
			return errSQLModel
		case end < 8:
			panic(errSQLModel)
		case end < 11:
			tx.Abort("model")
		}
		return turn.count()
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	var lite *durable.SQLError
	switch {
	case err == nil && turn.lost:
		return errors.New("a turn that lost its transaction succeeded")
	case err == nil:
		m.acked = len(m.history) - 1
		m.done["committed"]++
		return nil
	case turn == nil:
		return err
	case turn.lost && errors.As(err, &lite):
		m.done["lost"]++
		return nil
	case end < 11 && !turn.lost:
		var panicked *durable.PanicError
		var aborted *durable.AbortError
		meant := err
		if errors.As(err, &panicked) {
			meant, _ = panicked.Value.(error)
		}
		if errors.Is(meant, errSQLModel) || errors.As(err, &aborted) {
			m.done["failed"]++
			return nil
		}
	}
	return err
}

// count ends a stretch of a turn that is committed as a whole: the counters in
// the database and in the pairs are equal always.
func (t *sqlTurn) count() error {
	t.now.turns = t.latest().turns + 1
	if err := t.exec("INSERT INTO meta VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET turns = excluded.turns", t.key, t.now.turns); err != nil {
		return err
	}
	if err := t.tx.KV().Put(t.ctx, "turns", fmt.Append(nil, t.now.turns)); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.history = append(t.history, t.now.clone())
	return nil
}

func (t *sqlTurn) exec(query string, args ...any) error {
	_, err := t.changes(query, args...)
	return err
}

// changes returns how many rows a statement changed.
func (t *sqlTurn) changes(query string, args ...any) (int64, error) {
	cur, err := t.tx.SQL().Exec(t.ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	return cur.Changes(), nil
}

func (t *sqlTurn) run() error {
	if t.now.schema && t.rng.IntN(30) == 0 {
		t.done["vacuum"]++
		if err := t.tx.SQL().Vacuum(t.ctx); err != nil {
			return err
		}
	}
	for range t.rng.IntN(6) {
		if !t.now.schema {
			if err := t.exec(sqlSchema); err != nil {
				return err
			}
			t.now.schema, t.now.rows, t.now.extra = true, map[int64]sqlRow{}, map[string]int64{}
		}
		if err := t.step(); err != nil || t.lost {
			return err
		}
	}
	if !t.now.schema {
		if err := t.exec(sqlSchema); err != nil {
			return err
		}
		t.now.schema, t.now.rows, t.now.extra = true, map[int64]sqlRow{}, map[string]int64{}
	}
	return nil
}

func (t *sqlTurn) step() error {
	lo := int64(t.rng.IntN(400))
	hi := lo + int64(t.rng.IntN(60))
	var want int64 // rows to change
	switch k := t.rng.IntN(100); {
	case k < 22:
		return t.insert(int64(t.rng.IntN(400)), t.rng.IntN(300))
	case k < 27:
		return t.insert(int64(t.rng.IntN(400)), 5000+t.rng.IntN(150_000))
	case k < 33: // many at once
		n := int64(t.rng.IntN(300))
		lo += 1000
		err := t.exec(`WITH RECURSIVE c(i) AS (SELECT ?1 UNION ALL SELECT i+1 FROM c WHERE i < ?1 + ?2)
			INSERT INTO t SELECT i, ?3 || '/' || i, i % 7, NULL FROM c WHERE true ON CONFLICT(id) DO UPDATE SET n = excluded.n, b = NULL`, lo, n, t.key)
		for id := lo; id <= lo+n; id++ {
			t.now.rows[id] = sqlRow{key: fmt.Sprint(t.key, "/", id), n: id % 7, text: t.now.rows[id].text}
		}
		return err
	case k < 43:
		for id, row := range t.now.rows {
			if id >= lo && id <= hi {
				row.n++
				t.now.rows[id] = row
				want++
			}
		}
		return t.expect(want, "UPDATE t SET n = n + 1 WHERE id BETWEEN ? AND ?", lo, hi)
	case k < 50:
		if t.rng.IntN(4) == 0 {
			lo, hi = 1000, 3000
		}
		for id, row := range t.now.rows {
			if id >= lo && id <= hi && row.text == "" {
				delete(t.now.rows, id)
				want++
			}
		}
		return t.expect(want, "DELETE FROM t WHERE id BETWEEN ? AND ? AND id NOT IN (SELECT rowid FROM f)", lo, hi)
	case k < 60:
		return t.text()
	case k < 64:
		t.closeCursors()
		t.now.index = !t.now.index
		if t.now.index {
			return t.exec("CREATE INDEX tb ON t(length(b), id)")
		}
		return t.exec("DROP INDEX tb")
	case k < 70:
		return t.table()
	case k < 74: // a statement that fails in the middle
		var lite *durable.SQLError
		err := t.exec("INSERT INTO t SELECT id + 100000, k || '+', n - 3, b FROM t ORDER BY n DESC")
		for _, row := range t.now.rows {
			if row.n < 3 {
				if !errors.As(err, &lite) || lite.Code != "SQLITE_CONSTRAINT_CHECK" || lite.Lost {
					return fmt.Errorf("a row that is not allowed: %w", err)
				}
				t.done["refused"]++
				return nil
			}
		}
		if err != nil {
			return err
		}
		return t.exec("DELETE FROM t WHERE id >= 100000")
	case k < 86:
		return t.savepoint()
	case k < 88:
		if t.depth > 0 {
			return nil
		}
		t.done["wiped"]++
		if err := t.tx.DeleteAll(t.ctx); err != nil {
			return err
		}
		t.now = sqlState{}
		if t.rng.IntN(2) == 0 {
			return t.tx.KV().Put(t.ctx, "left", []byte(t.key))
		}
		return nil
	case k < 91: // a cursor that is not read to its end
		cur, err := t.tx.SQL().Exec(t.ctx, "SELECT * FROM t ORDER BY n")
		if err != nil {
			return err
		}
		t.open = append(t.open, cur)
		if t.rng.IntN(2) == 0 {
			_, _, err = cur.Next()
		}
		return err
	case k < 92:
		if t.depth > 0 || t.rng.IntN(2) == 0 {
			return nil
		}
		var lite *durable.SQLError
		err := t.exec("INSERT OR ROLLBACK INTO t VALUES (-1, 'bad', -1, NULL)")
		if !errors.As(err, &lite) || !lite.Lost {
			return fmt.Errorf("%w: %w", errSQLSwallow, err)
		}
		t.lost = true
		return nil
	case k < 97:
		if t.depth > 0 {
			return nil
		}
		if err := t.count(); err != nil {
			return err
		}
		var err error
		if t.rng.IntN(3) == 0 {
			t.done["await"]++
			err = t.tx.Await(t.ctx, func(context.Context) error { return nil })
		} else {
			t.done["sync"]++
			err = t.tx.Sync(t.ctx)
		}
		if err != nil {
			return err
		}
		t.mu.Lock()
		t.acked = len(t.history) - 1
		t.mu.Unlock()
		return nil
	default:
		n, err := durable.One[int](t.ctx, t.tx.SQL(), "SELECT count(*) FROM t")
		if err == nil && n != len(t.now.rows) {
			err = fmt.Errorf("%d rows in the turn instead of %d", n, len(t.now.rows))
		}
		return err
	}
}

func (t *sqlTurn) expect(want int64, query string, args ...any) error {
	got, err := t.changes(query, args...)
	if err == nil && got != want {
		err = fmt.Errorf("%s: %d rows changed instead of %d", query, got, want)
	}
	return err
}

func (t *sqlTurn) insert(id int64, size int) error {
	blob := make([]byte, size)
	for i := range blob {
		blob[i] = byte(t.rng.Uint32() >> 3)
	}
	row := sqlRow{key: fmt.Sprint(t.key, "/", id), n: int64(t.rng.IntN(1000)), blob: string(blob), text: t.now.rows[id].text}
	t.now.rows[id] = row
	return t.expect(1, "INSERT INTO t VALUES (?, ?, ?, ?) ON CONFLICT(id) DO UPDATE SET n = excluded.n, b = excluded.b", id, row.key, row.n, blob)
}

// text changes what the full-text table has of a row.
func (t *sqlTurn) text() error {
	if len(t.now.rows) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(t.now.rows))
	id := ids[t.rng.IntN(len(ids))]
	row := t.now.rows[id]
	had := row.text != ""
	words := make([]string, t.rng.IntN(5))
	for i := range words {
		words[i] = sqlWords[t.rng.IntN(len(sqlWords))]
	}
	row.text = strings.Join(words, " ")
	t.now.rows[id] = row
	switch {
	case had && row.text != "":
		return t.exec("UPDATE f SET x = ? WHERE rowid = ?", row.text, id)
	case had:
		return t.exec("DELETE FROM f WHERE rowid = ?", id)
	case row.text != "":
		return t.exec("INSERT INTO f (rowid, x) VALUES (?, ?)", id, row.text)
	}
	return nil
}

// table makes, fills and drops a further table.
func (t *sqlTurn) table() error {
	t.closeCursors()
	name := fmt.Sprint("x", t.rng.IntN(3))
	n, ok := t.now.extra[name]
	switch {
	case !ok:
		t.now.extra[name] = 0
		return t.exec("CREATE TABLE " + name + " (v TEXT PRIMARY KEY, w) WITHOUT ROWID")
	case t.rng.IntN(3) == 0:
		delete(t.now.extra, name)
		return t.exec("DROP TABLE " + name)
	}
	t.now.extra[name] = n + 50
	return t.expect(50, `WITH RECURSIVE c(i) AS (SELECT ?1 UNION ALL SELECT i+1 FROM c LIMIT 50)
		INSERT INTO `+name+" SELECT 'value ' || i, zeroblob(i % 300) FROM c", n)
}

// savepoint takes steps in a nested level and keeps them or not.
func (t *sqlTurn) savepoint() error {
	if t.depth == 3 {
		return nil
	}
	keep := t.rng.IntN(2) == 0
	before := t.now.clone()
	t.depth++
	err := t.tx.Savepoint(func() error {
		for range t.rng.IntN(4) {
			if err := t.step(); err != nil {
				return err
			}
		}
		if err := t.tx.KV().Put(t.ctx, "nested", []byte("x")); err != nil || keep {
			return err
		}
		return errSQLModel
	})
	t.depth--
	if !keep && errors.Is(err, errSQLModel) {
		t.now = before
		t.done["undone"]++
		return nil
	}
	return err
}

// compare looks at everything that an object has.
func (s *sqlState) compare(ctx context.Context, key string, v durable.View) error {
	kv, _, err := v.KV().Get(ctx, "turns")
	if err != nil {
		return err
	}
	if s.turns == 0 {
		n, err := durable.One[int](ctx, v.SQL(), "SELECT count(*) FROM sqlite_schema")
		if err == nil && (n > 0 || kv != nil) {
			err = fmt.Errorf("%d tables and %s turns in an object that was never committed", n, kv)
		}
		return err
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	type meta struct {
		Object string
		Turns  int64
	}
	head, err := durable.One[meta](ctx, v.SQL(), "SELECT object, turns FROM meta")
	if err != nil {
		return err
	}
	if head != (meta{key, s.turns}) || string(kv) != fmt.Sprint(s.turns) {
		problem("%+v in SQL and %s in KV, instead of %d turns of %s", head, kv, s.turns, key)
	}
	cur, err := v.SQL().Exec(ctx, "SELECT id, k, n, b FROM t")
	if err != nil {
		return err
	}
	n := 0
	for row, err := range cur.Rows() {
		if err != nil {
			return err
		}
		n++
		values := row.Values()
		id := values[0].(int64)
		want, ok := s.rows[id]
		blob, _ := values[3].([]byte)
		if !ok || values[1] != want.key || values[2] != want.n || string(blob) != want.blob {
			problem("row %d differs", id)
		}
	}
	if n != len(s.rows) {
		problem("%d rows instead of %d", n, len(s.rows))
	}
	check, err := durable.All[string](ctx, v.SQL(), "PRAGMA quick_check")
	if err != nil || len(check) != 1 || check[0] != "ok" {
		problem("quick_check: %q, %v", check, err)
	}
	problems = append(problems, s.compareIndexes(ctx, v)...)
	tables, err := durable.All[string](ctx, v.SQL(), "SELECT name FROM sqlite_schema WHERE name GLOB 'x?' AND type = 'table' ORDER BY name")
	if err != nil || !slices.Equal(tables, slices.Sorted(maps.Keys(s.extra))) {
		problem("the tables are %v, %v", tables, err)
	}
	for _, table := range tables {
		rows, err := durable.One[int64](ctx, v.SQL(), "SELECT count(w) FROM "+table)
		if err != nil || rows != s.extra[table] {
			problem("table %s has %d rows, %v", table, rows, err)
		}
	}
	return errors.Join(problems...)
}

// compareIndexes reads the rows by way of each index.
func (s *sqlState) compareIndexes(ctx context.Context, v durable.View) (problems []error) {
	ids := slices.Sorted(maps.Keys(s.rows))
	queries := map[string]func(a, b int64) int{
		"SELECT id FROM t INDEXED BY sqlite_autoindex_t_1 WHERE k > '' ORDER BY k": func(a, b int64) int {
			return strings.Compare(s.rows[a].key, s.rows[b].key)
		},
		"SELECT id FROM t INDEXED BY tn WHERE n >= 0 ORDER BY n, k": func(a, b int64) int {
			if s.rows[a].n != s.rows[b].n {
				return int(s.rows[a].n - s.rows[b].n)
			}
			return strings.Compare(s.rows[a].key, s.rows[b].key)
		},
	}
	for query, less := range queries {
		got, err := durable.All[int64](ctx, v.SQL(), query)
		slices.SortFunc(ids, less)
		if err != nil || !slices.Equal(got, ids) {
			problems = append(problems, fmt.Errorf("%s: %d rows, %w", query, len(got), err))
		}
	}
	if s.index {
		got, err := durable.One[int](ctx, v.SQL(), "SELECT count(*) FROM t INDEXED BY tb WHERE length(b) > 0")
		want := 0
		for _, row := range s.rows {
			if row.blob != "" {
				want++
			}
		}
		if err != nil || got != want {
			problems = append(problems, fmt.Errorf("index tb: %d rows instead of %d, %w", got, want, err))
		}
	}
	for _, word := range sqlWords {
		got, err := durable.All[int64](ctx, v.SQL(), "SELECT rowid FROM f WHERE f MATCH ? ORDER BY rowid", word)
		var want []int64
		for id, row := range s.rows {
			if strings.Contains(row.text, word) {
				want = append(want, id)
			}
		}
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			problems = append(problems, fmt.Errorf("full-text index: %s: %v instead of %v, %w", word, got, want, err))
		}
	}
	return problems
}

// check compares in a view, or in several at once.
func (m *sqlModel) check(ctx context.Context, h *testHost, views int) error {
	want := m.latest()
	errs := make([]error, views)
	var all sync.WaitGroup
	for i := range views {
		all.Go(func() {
			errs[i] = h.view(ctx, m.key, func(ctx context.Context, _ *counter, v durable.View) error {
				return want.compare(ctx, m.key, v)
			})
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// TestSQLModel: whatever objects do with SQL and KV in their turns, they have
// what was committed and nothing else, together, however often their
// connections are closed and their activations end. (GATE-34, GATE-39, TXN-08,
// TXN-13 to TXN-19, KV-40, KV-47, SQL-34)
func TestSQLModel(t *testing.T) {
	s := seed(t)
	for name, opts := range map[string]sqlitedb.Options{
		"defaults":      {},
		"few":           {MemoryBytes: 1 << 20, Readers: 1},
		"none open":     {MemoryBytes: 1, IdleTimeout: time.Hour},
		"short timeout": {IdleTimeout: time.Millisecond, Readers: 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := memkv.New(memkv.Options{})
			info, _ := store.Info(t.Context())
			h, engine := newSQLHost(t, info, join(t, store), durable.Limits{}, opts)
			var all sync.WaitGroup
			turns := scaled(100)
			models := make([]*sqlModel, 4)
			for i := range models {
				m := newSQLModel(t, fmt.Sprint("object", i), s+uint64(len(name)))
				models[i] = m
				all.Go(func() {
					for turn := range turns {
						if err := m.turn(t.Context(), h); err != nil {
							t.Errorf("%s, turn %d: %v", m.key, turn, err)
							return
						}
						if m.rng.IntN(15) == 0 {
							if _, err := h.Evict(t.Context(), h.typ, durable.IDFromName("counter", m.key)); err != nil {
								t.Error(err)
							}
						}
						if m.rng.IntN(7) != 0 && turn < turns-1 {
							continue
						}
						if err := m.check(t.Context(), h, 1+m.rng.IntN(3)); err != nil {
							t.Errorf("%s, after turn %d: %v", m.key, turn, err)
							return
						}
						err := h.update(t.Context(), m.key, func(ctx context.Context, _ *counter, tx durable.Tx) error {
							if !m.latest().schema {
								return nil
							}
							_, err := tx.SQL().Exec(ctx, "INSERT INTO f(f) VALUES ('integrity-check')")
							return err
						})
						if err != nil {
							t.Errorf("%s, after turn %d: full-text index: %v", m.key, turn, err)
						}
					}
				})
			}
			all.Wait()
			done := map[string]int{}
			for _, m := range models {
				for what, n := range m.done {
					done[what] += n
				}
			}
			n, bytes := engine.Connections()
			if opts.MemoryBytes == 1 && n > 1 {
				t.Errorf("%d connections with %d bytes are open", n, bytes)
			}
			if testing.Verbose() {
				t.Log(done)
			}
		})
	}
}
