package actor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// nastyStatements are where FuzzExec begins.
var nastyStatements = []string{
	"", ";", ";;;", "--", "/*", "SELECT", "SELECT 1", "SELECT ?1 + ?2", "SELECT :a, @b, $c", "SELECT 1; SELECT 2; --",
	"\x00", "SELECT '\x00'", "SELECT 1\x00; DROP TABLE t", "\xff\xfe", "SELECT x'", "SELECT \"", "SELECT [",
	"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT s1", "RELEASE s1", "ROLLBACK TO s1", "RELEASE checked", "BEGIN IMMEDIATE; COMMIT",
	"EXPLAIN COMMIT", "EXPLAIN QUERY PLAN SELECT * FROM t", "EXPLAIN INSERT INTO t VALUES (1, 2, 3)",
	"ATTACH ':memory:' AS x", "DETACH main", "VACUUM", "VACUUM INTO 'x'", "REINDEX", "ANALYZE", "ANALYZE t",
	"PRAGMA journal_mode = WAL", "PRAGMA writable_schema = ON", "PRAGMA foreign_keys = OFF", "PRAGMA user_version = 7", "PRAGMA quick_check", "PRAGMA optimize", "PRAGMA integrity_check", "PRAGMA page_size = 512", "PRAGMA temp_store_directory = 'x'", "PRAGMA main.cache_size = 1", "PRAGMA locking_mode = NORMAL",
	"SELECT * FROM pragma_table_info('t')", "SELECT * FROM pragma_journal_mode", "SELECT * FROM sqlite_schema", "DELETE FROM sqlite_schema", "UPDATE sqlite_schema SET sql = 'x'", "SELECT * FROM sqlite_dbpage", "SELECT * FROM dbstat", "SELECT * FROM sqlite_temp_schema",
	"INSERT INTO t VALUES (1, 2, 3)", "INSERT OR ROLLBACK INTO t VALUES (1, 2, 3)", "INSERT OR ABORT INTO t VALUES (1, 2, 3)", "INSERT OR FAIL INTO t SELECT 9, 9, 9 UNION ALL SELECT 1, 1, 1", "INSERT OR IGNORE INTO t VALUES (1, 2, 3)", "INSERT OR REPLACE INTO t VALUES (1, 2, 3)", "REPLACE INTO t SELECT * FROM t",
	"INSERT INTO t (a) VALUES ('x') RETURNING *, rowid", "UPDATE t SET a = a || a, b = zeroblob(50000)", "UPDATE t SET id = id + 1", "DELETE FROM t RETURNING a", "DELETE FROM w", "INSERT INTO v VALUES (1)",
	"INSERT INTO t (a, b) SELECT a.a, zeroblob(100000) FROM t a, t b, t c, t d", "UPDATE t SET b = randomblob(3000000)", "SELECT randomblob(1000000000)", "SELECT zeroblob(2000000)", "SELECT printf('%.*c', 100000000, 'x')", "SELECT hex(randomblob(1000000)) || hex(randomblob(1000000))", "SELECT group_concat(a.b || zeroblob(90000)) FROM t a, t b, t c, t d",
	"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT max(n) FROM c", "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT * FROM c", "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) INSERT INTO t (a) SELECT n FROM c", "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n", "WITH RECURSIVE c(n) AS (SELECT zeroblob(1000) UNION ALL SELECT n FROM c) SELECT count(DISTINCT n) FROM c",
	"SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab' LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%c'", "SELECT replace(hex(zeroblob(100000)), '0', '0000000000')", "SELECT instr(zeroblob(1000000), zeroblob(10000) || x'01')", "SELECT quote(zeroblob(1000000))", "SELECT soundex(a), load_extension('x') FROM t", "SELECT sqlite_version()", "SELECT fts5_source_id()",
	"SELECT json_group_array(a) FROM t", "SELECT * FROM json_tree('{\"a\":[1,2,{\"b\":3}]}')", "SELECT json('" + strings.Repeat("[", 2000) + "')", "SELECT jsonb_set(x'ffffffff', '$.a', 1)", "SELECT " + strings.Repeat("(", 999) + "1" + strings.Repeat(")", 999), "SELECT " + strings.Repeat("-", 500) + "1", "SELECT 1" + strings.Repeat(" UNION SELECT 1", 600), "SELECT " + strings.Repeat("1,", 3000) + "1",
	"CREATE TABLE t (x)", "CREATE TABLE IF NOT EXISTS n AS SELECT * FROM t", "CREATE TEMP TABLE x (y)", "CREATE VIRTUAL TABLE f2 USING fts5(a, b, tokenize = porter)", "CREATE VIRTUAL TABLE f3 USING fts5vocab(f, row)", "CREATE VIRTUAL TABLE r USING rtree(a, b, c)", "CREATE VIRTUAL TABLE f4 USING fts5(x, content = 't', content_rowid = 'id')", "CREATE VIRTUAL TABLE x USING nothing(y)", "DROP TABLE f", "DROP TABLE f_data", "DELETE FROM f_data", "INSERT INTO f(f) VALUES ('optimize')", "INSERT INTO f(f) VALUES ('rebuild')", "INSERT INTO f(f) VALUES ('delete-all')", "INSERT INTO f(f, rank) VALUES ('merge', 500)", "INSERT INTO f(f, rank) VALUES ('pgsz', 32)", "SELECT * FROM f WHERE f MATCH '\"'", "SELECT * FROM f WHERE f MATCH 'a* AND NOT b NEAR(c d)'", "SELECT highlight(f, 0, 'a', 'b'), snippet(f, -1, '', '', '', 64), bm25(f) FROM f('one')", "UPDATE f SET x = 'z'",
	"DROP TABLE t", "DROP TABLE sqlite_schema", "ALTER TABLE t RENAME TO s", "ALTER TABLE t RENAME COLUMN a TO z", "ALTER TABLE t ADD COLUMN q DEFAULT (1)", "ALTER TABLE t DROP COLUMN b", "ALTER TABLE t RENAME TO _durable_t", "ALTER TABLE f RENAME TO g", "DROP VIEW v", "DROP INDEX ta", "DROP TRIGGER tr",
	"CREATE TABLE _durable_x (y)", "SELECT * FROM _durable_mark", "DROP TABLE _DURABLE_mark", "INSERT INTO _durable_mark VALUES (5)", "CREATE TRIGGER x AFTER INSERT ON _durable_mark BEGIN DELETE FROM t; END", "CREATE VIEW x AS SELECT * FROM _durable_mark; SELECT * FROM x", "CREATE TRIGGER x AFTER INSERT ON t BEGIN INSERT INTO t (a) VALUES (new.a); END; PRAGMA recursive_triggers = ON; INSERT INTO t (a) VALUES (1)", "CREATE TRIGGER x BEFORE DELETE ON t BEGIN SELECT RAISE(ROLLBACK, 'no'); END; DELETE FROM t", "CREATE TRIGGER x BEFORE DELETE ON t BEGIN SELECT RAISE(FAIL, 'no'); END; DELETE FROM t",
	"CREATE TABLE p (a PRIMARY KEY); CREATE TABLE k (a REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO k VALUES (1)", "PRAGMA defer_foreign_keys = ON; CREATE TABLE k (a REFERENCES missing(x)); INSERT INTO k VALUES (1)", "PRAGMA ignore_check_constraints = ON; INSERT INTO w VALUES ('x', -5)", "PRAGMA reverse_unordered_selects = 1; PRAGMA case_sensitive_like = 1; PRAGMA legacy_alter_table = 1",
	"CREATE INDEX x ON t(a || b) WHERE a > 'm'", "CREATE TABLE g (a, b AS (a * 2) STORED, c AS (b + a)); INSERT INTO g (a) VALUES (9e999), (x'00'), ('z')", "CREATE TABLE s (a INT, b TEXT) STRICT; INSERT INTO s VALUES ('x', 1)", "SELECT * FROM t WHERE a MATCH 'x'", "SELECT a FROM t ORDER BY random() LIMIT -1 OFFSET 9223372036854775807", "SELECT -9223372036854775808 / -1, 9223372036854775807 + 1, 1 % 0, abs(-9223372036854775808)", "VALUES (1), (2), (3)", "SELECT * FROM generate_series(1, 10)", "SELECT row_number() OVER (PARTITION BY a ORDER BY id ROWS BETWEEN 1 PRECEDING AND 9223372036854775807 FOLLOWING) FROM t",
	"SELECT sum(id) OVER w, nth_value(a, 0) OVER w FROM t WINDOW w AS (ORDER BY a GROUPS UNBOUNDED PRECEDING)", "INSERT INTO t (id) VALUES (9223372036854775807); INSERT INTO t (a) VALUES ('none left')", "SELECT strftime('%s', '9999-99-99'), datetime('now', '+99999999999 years')", "SELECT unhex(a), char(1114112, -1), format('%n%s%d', a) FROM t", "SELECT load_extension('x')", "SELECT writefile('x', 'y')", "SELECT * FROM t INDEXED BY nothing", "SELECT ? IN (SELECT a FROM t), ?NNN, ?0, ?99999",
}

const fuzzSchema = `
	CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB); CREATE INDEX ta ON t(a);
	CREATE TABLE w (k TEXT PRIMARY KEY, n INTEGER CHECK (n >= 0)) WITHOUT ROWID;
	CREATE VIEW v AS SELECT a, n FROM t JOIN w ON k = a;
	CREATE VIRTUAL TABLE f USING fts5(x);
	CREATE TRIGGER tr AFTER INSERT ON w BEGIN UPDATE t SET b = new.n WHERE a = new.k; END;
	INSERT INTO t (a, b) VALUES ('a', 1), ('b', x'00'), ('c', NULL), ('d', zeroblob(5000)), ('e', 2.5);
	INSERT INTO w VALUES ('a', 1), ('b', 2);
	INSERT INTO f VALUES ('one two'), ('two three');`

// FuzzExec: no text harms an object. The statement ends soon after its time,
// with rows or an error with a code; SQL and KV of its turn are committed
// together or not at all; and the object can be used afterwards.
func FuzzExec(f *testing.F) {
	for i, query := range nastyStatements {
		f.Add(query, "text", int64(i), uint8(i))
		f.Add(query, "", int64(-1), uint8(i)|8)
	}
	f.Fuzz(fuzzExec)
}

func fuzzExec(t *testing.T, query, text string, number int64, how uint8) {
	store := memkv.New(memkv.Options{})
	info, _ := store.Info(t.Context())
	session, err := store.Join(t.Context(), storage.Node{ID: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 150 * time.Millisecond
	limits := durable.Limits{HandlerTimeout: timeout, SQL: durable.SQLLimits{
		DatabaseBytes: 4 << 20, MemoryBytes: 16 << 20, MaxResultBytes: 4 << 20, RowBytes: 1 << 20, LikeBytes: 1000,
	}}
	h, _ := newSQLHost(t, info, session, limits, sqlitedb.Options{})
	ctx := t.Context()
	reserved := func(tx durable.Tx, query string) error {
		_, err := (*turnSQL)(tx.(txHandle).turn).Exec(ctx, query, nil, true)
		return err
	}
	err = h.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		if err := reserved(tx, "CREATE TABLE _durable_mark (n); CREATE TABLE _durable_probe (n)"); err != nil {
			return err
		}
		_, err := tx.SQL().Exec(ctx, fuzzSchema)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	use := func(ctx context.Context, q durable.SQL) error {
		var args []any
		switch how & 3 {
		case 1:
			args = []any{number, text}
		case 2:
			args = []any{[]byte(text)}
		}
		cur, err := q.Exec(ctx, query, args...)
		if err != nil {
			return err
		}
		for range 50 {
			if _, ok, err := cur.Next(); err != nil || !ok {
				return err
			}
		}
		return nil
	}
	var inTurn error
	if how&4 != 0 {
		inTurn = h.view(ctx, "a", func(ctx context.Context, _ *counter, v durable.View) error { return use(ctx, v.SQL()) })
		checkCoded(t, inTurn)
	}
	err = h.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		if err := errors.Join(reserved(tx, "INSERT INTO _durable_mark VALUES (1)"), tx.KV().Put(ctx, "mark", []byte("x"))); err != nil {
			return err
		}
		if how&8 != 0 {
			inTurn = tx.Savepoint(func() error { return use(ctx, tx.SQL()) })
		} else {
			inTurn = use(ctx, tx.SQL())
		}
		if how&16 != 0 {
			return inTurn
		}
		return nil
	})
	checkCoded(t, inTurn)
	checkCoded(t, err)
	if took := time.Since(began); took > 2*timeout+10*time.Second {
		t.Errorf("it took %v", took)
	}

	// The mark in SQL and that in KV are there, or neither is.
	for range 2 {
		verr := h.view(ctx, "a", func(ctx context.Context, _ *counter, v durable.View) error {
			_, ok, err := v.KV().Get(ctx, "mark")
			if err != nil {
				return err
			}
			rows, err := (*turnSQL)(v.(viewHandle).turn).Exec(ctx, "SELECT count(*) FROM _durable_mark", nil, true)
			if err != nil {
				return err
			}
			row, rerr := rows.Next()
			if rerr != nil {
				return rerr
			}
			if (row[0] != int64(0)) != ok {
				t.Errorf("%v marks in SQL, and %v in KV", row[0], ok)
			}
			return nil
		})
		if verr != nil {
			t.Errorf("after the statement: %v", verr)
		}
		checkUsable(t, h.update(ctx, "a", func(_ context.Context, _ *counter, tx durable.Tx) error {
			return reserved(tx, "INSERT INTO _durable_probe VALUES (1)")
		}))
		uerr := h.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "CREATE TABLE IF NOT EXISTS plain_probe (n)")
			if err == nil {
				_, err = tx.SQL().Exec(ctx, "INSERT INTO plain_probe VALUES (1)")
			}
			if err == nil {
				n := 0
				if n, err = durable.One[int](ctx, tx.SQL(), "SELECT count(*) FROM plain_probe"); err == nil && n < 1 {
					t.Errorf("%d rows", n)
				}
			}
			return err
		})
		checkUsable(t, uerr)
		_ = h.view(ctx, "a", func(ctx context.Context, _ *counter, v durable.View) error {
			check, err := durable.All[string](ctx, v.SQL(), "PRAGMA quick_check")
			damaged := slices.ContainsFunc(check, func(s string) bool {
				return s != "ok" && !strings.Contains(s, "constraint failed") && !strings.Contains(s, "value in")
			})
			if damaged || errors.Is(err, storage.ErrCorrupt) {
				t.Errorf("quick_check: %q, %v", check, err)
			}
			return nil
		})
		if _, err := h.Evict(ctx, h.typ, durable.IDFromName("counter", "a")); err != nil {
			t.Fatal(err)
		}
	}
}

// checkUsable reports an error after the statement, except one that it may have
// prepared.
func checkUsable(t *testing.T, err error) {
	t.Helper()
	var lite *durable.SQLError
	switch {
	case err == nil:
	case errors.As(err, &lite) && (lite.Code == "SQLITE_FULL" || strings.Contains(lite.Message, "foreign key")):
	default:
		t.Errorf("after the statement: %v", err)
	}
}

// checkCoded reports an error that tells a caller nothing.
func checkCoded(t *testing.T, err error) {
	t.Helper()
	var lite *durable.SQLError
	var limit *durable.LimitError
	switch {
	case err == nil, errors.As(err, &limit), errors.Is(err, durable.ErrInvalidArgument), errors.Is(err, context.DeadlineExceeded):
	case !errors.As(err, &lite) || !strings.HasPrefix(lite.Code, "SQLITE_"):
		t.Errorf("%T %v", err, err)
	case lite.Code == "SQLITE_INTERNAL" || errors.Is(err, storage.ErrCorrupt):
		t.Error(err)
	}
}
