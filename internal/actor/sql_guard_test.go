package actor

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
)

// disguises are ways to write a statement that has to be refused.
var disguises = []string{"%s", "/* hidden */ %s", "-- hidden\n%s", ";; %s", "EXPLAIN %s", "explain Query /**/ plan %s", "SELECT 1; %s"}

// swapCase returns s with the case of every second letter changed.
func swapCase(s string) string {
	out := []byte(s)
	for i := range out {
		if c := out[i] | 0x20; i%2 == 1 && c >= 'a' && c <= 'z' {
			out[i] ^= 0x20
		}
	}
	return string(out)
}

func TestSQLRefuses(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
	for _, group := range []struct {
		name    string
		queries []string
		code    string
		words   []string
	}{
		{
			"SQL-46 transactions",
			[]string{
				"BEGIN", "BEGIN IMMEDIATE TRANSACTION", "BEGIN EXCLUSIVE", "COMMIT", "END", "END TRANSACTION", "ROLLBACK", "ROLLBACK TO a",
				"SAVEPOINT a", "RELEASE a", "RELEASE SAVEPOINT a",
			},
			"SQLITE_AUTH",
			[]string{"is refused", "tx.Savepoint", "handler returns nil"},
		},
		{"SQL-47 ATTACH", []string{"ATTACH 'file' AS other", "ATTACH DATABASE ':memory:' AS other", "ATTACH '' AS other", "DETACH other", "DETACH DATABASE main"}, "SQLITE_AUTH", []string{"is refused", "one database"}},
		{"SQL-47 VACUUM", []string{"VACUUM", "VACUUM main", "VACUUM INTO 'file'", "VACUUM;"}, "SQLITE_AUTH", []string{"VACUUM is refused", "tx.SQL().Vacuum"}},
		{"SQL-47 load_extension", []string{"SELECT load_extension('file')", "SELECT load_extension('file', 'entry') FROM t"}, "SQLITE_AUTH", []string{"load_extension is refused"}},
		{
			"SQL-47 temporary things",
			[]string{
				"CREATE TEMP TABLE x (a)", "CREATE TEMPORARY TABLE x AS SELECT 1", "CREATE TABLE temp.x (a)", "CREATE TABLE temp.x AS SELECT 1", "CREATE TEMP VIEW x AS SELECT 1",
				"CREATE VIEW temp.x AS SELECT 1", "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
				"CREATE VIRTUAL TABLE temp.x USING fts5(a)", "CREATE VIRTUAL TABLE temp.x USING fts5vocab('main', 'f', 'row')",
			},
			"SQLITE_AUTH",
			[]string{"temporary", "common table expression"},
		},
		{"SQL-48 virtual tables", []string{"CREATE VIRTUAL TABLE x USING rtree(a, b, c)", "CREATE VIRTUAL TABLE x USING fts4(a)", "CREATE VIRTUAL TABLE x USING nosuch", "CREATE VIRTUAL TABLE x USING dbstat"}, "SQLITE_AUTH", []string{"refused", "fts5 and fts5vocab"}},
		{"SQL-50 functions", []string{"SELECT sqlite_version()", "SELECT sqlite_source_id() FROM t", "SELECT sqlite_compileoption_get(0)", "SELECT sqlite_compileoption_used('x')", "SELECT fts5_source_id()"}, "SQLITE_AUTH", []string{"is refused", "tell of the program"}},
		{
			"SQL-53 SQL-56 pragmas",
			[]string{
				"PRAGMA journal_mode", "PRAGMA journal_mode = WAL", "PRAGMA max_page_count", "PRAGMA max_page_count(5)", "PRAGMA hard_heap_limit", "PRAGMA soft_heap_limit", "PRAGMA synchronous", "PRAGMA main.synchronous = OFF",
				"PRAGMA integrity_check", "PRAGMA writable_schema = ON", "PRAGMA trusted_schema = ON", "PRAGMA database_list", "PRAGMA page_count", "PRAGMA cache_size", "PRAGMA temp_store", "PRAGMA locking_mode", "PRAGMA query_only", "PRAGMA encoding = 'UTF-16'",
				"PRAGMA auto_vacuum", "PRAGMA incremental_vacuum", "PRAGMA wal_checkpoint", "PRAGMA shrink_memory", "PRAGMA application_id = 1", "PRAGMA schema_version = 5", "PRAGMA compile_options", "PRAGMA function_list", "PRAGMA nosuch",
				"PRAGMA page_size = 512", "PRAGMA data_version = 1", "PRAGMA user_version = x", "PRAGMA table_info", "PRAGMA index_list",
				"PRAGMA foreign_keys = 2", "PRAGMA foreign_keys = maybe", "PRAGMA recursive_triggers = -1", "PRAGMA case_sensitive_like = full", "PRAGMA optimize = x",
				"SELECT * FROM pragma_journal_mode", "SELECT * FROM pragma_database_list, t", "SELECT (SELECT 1 FROM pragma_compile_options)",
				"SELECT * FROM pragma_optimize", "SELECT * FROM pragma_optimize(65538)",
			},
			"SQLITE_AUTH",
			[]string{"refused"},
		},
	} {
		s.run(group.name, func(*testing.T) {
			for _, query := range group.queries {
				for _, disguise := range disguises {
					if strings.Contains(query, "pragma_") && strings.Contains(strings.ToUpper(disguise), "EXPLAIN") {
						continue // nothing runs
					}
					words := group.words
					if group.name == "SQL-53 SQL-56 pragmas" && !strings.Contains(query, "pragma_") {
						words = nil
					}
					s.refused(group.code, fmt.Sprintf(disguise, query), words...)
					s.refused(group.code, fmt.Sprintf(disguise, swapCase(query)))
				}
			}
		})
	}
	s.run("SQL-47 tables that tell of the machine do not exist", func(*testing.T) {
		for _, table := range []string{"sqlite_dbpage", "dbstat", "sqlite_stmt", "bytecode('SELECT 1')", "tables_used('SELECT 1')"} {
			s.refused("SQLITE_ERROR", "SELECT * FROM "+table, "no such table")
		}
		s.refused("SQLITE_ERROR", "DELETE FROM sqlite_master", "may not be modified")
		s.refused("SQLITE_ERROR", "CREATE INDEX temp.x ON t (a)")
	})
	s.run("a refused statement loses nothing of the turn", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (2)"); err != nil {
				return err
			}
			for _, query := range []string{"ROLLBACK", "COMMIT", "VACUUM", "ATTACH 'x' AS y", "PRAGMA journal_mode = OFF", "SELECT sqlite_version()"} {
				if _, err := tx.SQL().Exec(ctx, query); err == nil {
					t.Errorf("%s passed", query)
				}
			}
			return nil
		})
		s.want("[[1] [2]]", "SELECT a FROM t")
		if s.made != 1 {
			t.Errorf("%d activations", s.made-1) // those of try wrote nothing
		}
	})
	s.run("EXPLAIN writes nothing, and passes in a view", func(t *testing.T) {
		if len(s.see("EXPLAIN INSERT INTO t VALUES (3)")) == 0 || len(s.see("EXPLAIN QUERY PLAN DELETE FROM t WHERE a = 3")) == 0 {
			t.Error("it explains nothing")
		}
		s.want("[[2]]", "SELECT count(*) FROM t")
	})
}

func TestSQLReserved(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.must(func(ctx context.Context, tx durable.Tx) error {
		return tx.SQL().Migrate(ctx, durable.Migrations{{Name: "first", SQL: "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE f USING fts5(x)"}})
	})
	for _, query := range []string{
		"CREATE TABLE _durable_x (a)", "CREATE TABLE _DURABLE_x (a)", `CREATE TABLE "_Durable_"(a)`, "CREATE TABLE IF NOT EXISTS [_durable_x] AS SELECT 1", "CREATE TABLE main._durable_x (a)",
		"CREATE INDEX _durable_i ON t (b)", "CREATE VIEW _durable_v AS SELECT 1", "CREATE TRIGGER _durable_t AFTER INSERT ON t BEGIN SELECT 1; END",
		"CREATE VIRTUAL TABLE _durable_f USING fts5(x)", "CREATE VIRTUAL TABLE _duRable_f USING fts5vocab('f', 'row')",
		"ALTER TABLE t RENAME TO _durable_x", "ALTER TABLE t RENAME TO '_DURABLE_x'", "ALTER TABLE f RENAME TO _durable_f",
		"CREATE TABLE _durable_migrations (a)", "CREATE TABLE IF NOT EXISTS _durable_migrations (a)",
		"SELECT * FROM _durable_migrations", "SELECT count(*) FROM _DURABLE_Migrations", "SELECT (SELECT name FROM main._durable_migrations)", "EXPLAIN SELECT * FROM _durable_migrations",
		"WITH x AS (SELECT * FROM _durable_migrations) SELECT * FROM x", "CREATE VIEW w AS SELECT * FROM _durable_migrations; SELECT * FROM w",
		"CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM _durable_migrations; END; INSERT INTO t VALUES (1, 1)",
		"CREATE TABLE x AS SELECT * FROM _durable_migrations",
		"INSERT INTO _durable_migrations VALUES (2, 'a', 'b', 'c')", "UPDATE _durable_migrations SET name = 'x'", "DELETE FROM _durable_migrations", "REPLACE INTO _durable_migrations (name) VALUES (1)",
		"DROP TABLE _durable_migrations", "ALTER TABLE _durable_migrations RENAME TO x", "ALTER TABLE _durable_migrations ADD COLUMN x", "ALTER TABLE _durable_migrations DROP COLUMN applied_at",
		"CREATE INDEX x ON _durable_migrations (name)", "CREATE TRIGGER x AFTER INSERT ON _durable_migrations BEGIN SELECT 1; END",
		"PRAGMA table_info(_durable_migrations)", "PRAGMA table_xinfo('_DURABLE_migrations')", "PRAGMA quick_check(_durable_migrations)", "PRAGMA index_list(_durable_migrations)", "PRAGMA foreign_key_check(_durable_migrations)",
		"SELECT * FROM pragma_table_info('_durable_migrations')", "SELECT i.* FROM (SELECT '_durable_migrations' AS n) t, pragma_table_info(t.n) i",
	} {
		s.run("SQL-45 "+query, func(*testing.T) { s.refused("SQLITE_AUTH", query, "reserved") })
	}
	s.run("SQL-45 names that only look like it", func(*testing.T) {
		for _, query := range []string{
			"CREATE TABLE durable_x (a); SELECT * FROM durable_x", "CREATE TABLE x_durable_ (a)", "CREATE TABLE _durabl (a)", "SELECT 1 AS _durable_x", "SELECT '_durable_migrations'",
			"CREATE TABLE x (_durable_c); SELECT _durable_c FROM x", "ALTER TABLE t RENAME TO other; SELECT * FROM other", "ALTER TABLE t RENAME COLUMN b TO c",
		} {
			s.passes(query)
		}
	})
	s.run("SQL-45 statements over all tables pass", func(t *testing.T) {
		for _, query := range []string{"ANALYZE", "ANALYZE main", "PRAGMA optimize", "PRAGMA optimize(0x10002)", "REINDEX", "PRAGMA quick_check", "PRAGMA foreign_key_check"} {
			s.passes(query)
		}
		if rows := s.passes("INSERT INTO t (b) VALUES (1); CREATE INDEX tb ON t (b); ANALYZE; SELECT tbl FROM sqlite_stat1 WHERE tbl NOT LIKE 'f_%'"); fmt.Sprint(rows) != "[[t]]" {
			t.Error(rows)
		}
	})
	s.run("SQL-45 a refused rename changes nothing", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO t VALUES (1, 2)"); err != nil {
				return err
			}
			_, err := tx.SQL().Exec(ctx, "ALTER TABLE t RENAME TO _durable_x")
			if e := sqlError(t, err); e.Lost || e.Hint == "" {
				t.Error(err)
			}
			return nil
		})
		s.want("[[1 2]]", "SELECT * FROM t")
	})
	s.run("SQL-45 the runtime's own tables work meanwhile", func(*testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			return tx.SQL().Migrate(ctx, durable.Migrations{
				{Name: "first", SQL: "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE f USING fts5(x)"},
				{Name: "second", SQL: "ALTER TABLE t RENAME TO u"},
			})
		})
		s.want("[[1]]", "SELECT count(*) FROM u")
	})
}

func TestSQLSchema(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.run("SQL-41 what schemas are made of", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for _, step := range []struct{ query, want string }{
				{"CREATE TABLE p (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'none' COLLATE NOCASE, n REAL CHECK (n >= 0), twice AS (n * 2) STORED, UNIQUE (name))", "[]"},
				{"CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id) ON DELETE CASCADE ON UPDATE SET NULL)", "[]"},
				{"CREATE INDEX ci ON c (p) WHERE p IS NOT NULL; CREATE UNIQUE INDEX pe ON p (lower(name) DESC)", "[]"},
				{"CREATE VIEW pc AS SELECT p.name, count(c.id) AS n FROM p LEFT JOIN c ON c.p = p.id GROUP BY p.id", "[]"},
				{"CREATE TABLE log (what)", "[]"},
				{"CREATE TRIGGER pl AFTER UPDATE OF n ON p WHEN new.n > 10 BEGIN INSERT INTO log VALUES (old.name || ' ' || new.n); END", "[]"},
				{"CREATE TRIGGER pi INSTEAD OF INSERT ON pc BEGIN INSERT INTO p (name) VALUES (new.name); END", "[]"},
				{"INSERT INTO p (id, name, n) VALUES (1, 'one', 1), (2, 'two', 2) RETURNING id, twice", "[[1 2] [2 4]]"},
				{"INSERT INTO p (id, name) VALUES (3, 'ONE') ON CONFLICT (name) DO UPDATE SET n = 11 RETURNING id, n", "[[1 11]]"},
				{"SELECT * FROM log", "[[one 11.0]]"},
				{"INSERT INTO pc (name) VALUES ('three'); SELECT count(*) FROM p", "[[3]]"},
				{"INSERT INTO c (p) VALUES (1), (1), (2); SELECT * FROM pc ORDER BY name", "[[one 2] [three 0] [two 1]]"},
				{"DELETE FROM p WHERE id = 1; SELECT count(*) FROM c", "[[1]]"},
				{"WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4) SELECT i, sum(i) OVER (ORDER BY i), lag(i) OVER w FROM n WINDOW w AS (ORDER BY i)", "[[1 1 <nil>] [2 3 1] [3 6 2] [4 10 3]]"},
				{"ALTER TABLE log ADD COLUMN at DEFAULT 0; ALTER TABLE log RENAME COLUMN what TO said; ALTER TABLE log DROP COLUMN at; SELECT * FROM log", "[[one 11.0]]"},
				{"ALTER TABLE log RENAME TO diary; SELECT count(*) FROM diary", "[[1]]"},
				{"ANALYZE; SELECT count(*) > 0 FROM sqlite_stat1", "[[1]]"},
				{"CREATE TABLE strict (a INTEGER, b TEXT) STRICT, WITHOUT ROWID", "error"},
				{"CREATE TABLE strict (a INTEGER PRIMARY KEY, b TEXT) STRICT, WITHOUT ROWID; INSERT INTO strict VALUES (1, 'x') RETURNING *", "[[1 x]]"},
				{"SELECT * FROM p FULL JOIN c ON c.p = p.id WHERE c.id = 3", "[[2 two 2 4 3 2]]"},
				{"SELECT a FROM (VALUES (3), (1), (2)) AS v (a)", "error"},
				{"SELECT column1 FROM (VALUES (3), (1), (2)) ORDER BY 1 LIMIT 1 OFFSET 1", "[[2]]"},
				{"UPDATE p SET name = v.column2 FROM (VALUES (2, 'zwei')) AS v WHERE p.id = v.column1 RETURNING name", "[[zwei]]"},
				{"DROP TRIGGER pl; DROP TRIGGER pi; DROP VIEW pc; DROP INDEX ci; DROP TABLE c; DROP TABLE p; SELECT count(*) FROM sqlite_schema WHERE tbl_name IN ('p', 'c', 'pc')", "[[0]]"},
			} {
				rows, err := query1(ctx, tx.SQL(), step.query)
				got := fmt.Sprint(rows)
				if err != nil {
					got = "error"
				}
				if got != step.want {
					t.Errorf("%s\n%s, want %s; %v", step.query, got, step.want, err)
				}
			}
			return nil
		})
	})
	s.run("SQL-42 foreign keys are enforced at once", func(t *testing.T) {
		s.exec("CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent)")
		s.refused("SQLITE_CONSTRAINT_FOREIGNKEY", "INSERT INTO child (p) VALUES (1)")
		s.refused("SQLITE_CONSTRAINT_FOREIGNKEY", "INSERT INTO parent VALUES (1); INSERT INTO child (p) VALUES (1); DELETE FROM parent")
		s.want("[[1]]", "PRAGMA foreign_keys")
	})
	s.run("SQL-50 functions", func(t *testing.T) {
		for query, want := range map[string]string{
			"cos(0) + sqrt(4) + pow(2, 3) + log2(8) + ceil(1.5) + mod(7, 4)": "19",
			"round(pi(), 4)":                                            "3.1416",
			`json('{"a": [1, 2]}') -> '$.a'`:                            "[1,2]",
			`'{"a": "b"}' ->> 'a'`:                                      "b",
			`json_extract('{"a": {"b": 5}}', '$.a.b')`:                  "5",
			"(SELECT json_group_array(column1) FROM (VALUES (1), (2)))": "[1,2]",
			"(SELECT json_group_object(column1, column2) FROM (VALUES ('a', 1), ('b', 2)))": `{"a":1,"b":2}`,
			"json(jsonb('[1, {}]'))": "[1,{}]", "typeof(jsonb('[]'))": "blob", "json_valid('{')": "0",
			"(SELECT group_concat(value, '-') FROM json_each('[1,2,3]'))":                                    "1-2-3",
			"(SELECT count(*) FROM json_tree('{\"a\": [1, 2]}'))":                                            "4",
			"(SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY column1) AS r FROM (VALUES (5), (6))))": "2",
			"(SELECT group_concat(column1 ORDER BY column1 DESC) FROM (VALUES (1), (2)))":                    "2,1",
			"date('2024-02-28', '+2 days')":                                                                  "2024-03-01", "strftime('%s', '1970-01-02')": "86400", "unixepoch('1970-01-01 00:01')": "60", "julianday('2000-01-01 12:00')": "2.451545e+06",
			"printf('%05d', 42)": "00042", "hex(x'00ff')": "00FF", "unhex('6162')": "[97 98]", "iif(1, 'y', 'n')": "y", "coalesce(NULL, 2)": "2", "instr('abc', 'c')": "3",
			"upper('abc') || substr('defg', 2, 2) || replace('xyx', 'x', '') || trim(' q ')": "ABCefyq", "length(randomblob(5))": "5", "'abc' LIKE 'A%'": "1", "'abc' GLOB 'A*'": "0", "unicode('é')": "233", "concat_ws('-', 1, NULL, 2)": "1-2",
		} {
			if rows := s.passes("SELECT " + query); len(rows) == 0 || fmt.Sprint(rows[0][0]) != want {
				t.Errorf("%s: %v, want %s", query, rows, want)
			}
		}
	})
	s.run("SQL-51 the time now is UTC and in SQLite's formats", func(t *testing.T) {
		row := s.see("SELECT current_date, current_time, current_timestamp, datetime('now')")[0]
		for i, format := range []string{`^\d{4}-\d\d-\d\d$`, `^\d\d:\d\d:\d\d$`, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$`} {
			if !regexp.MustCompile(format).MatchString(row[i].(string)) {
				t.Error(row[i])
			}
		}
		now, err := time.Parse(time.DateTime, row[2].(string))
		if d := time.Since(now); err != nil || d < -time.Minute || d > time.Minute {
			t.Error(now, err)
		}
	})
	s.run("SQL-52 the schema is readable", func(*testing.T) {
		s.want("[[child] [parent]]", "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('parent', 'child') ORDER BY name")
		s.want("[[child] [parent]]", "SELECT name FROM pragma_table_list WHERE name IN ('parent', 'child') ORDER BY name")
		s.want("[[id INTEGER] [p ]]", "SELECT name, type FROM pragma_table_info('child')")
		s.want("[[child p]]", "SELECT m.name, i.name FROM sqlite_schema m, pragma_table_info(m.name) i WHERE m.name = 'child' AND i.name = 'p'")
	})
}

func TestSQLPragmas(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec("CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent, n CHECK (n < 10)); CREATE INDEX cp ON child (p)")
	s.run("SQL-53 pragmas to read", func(t *testing.T) {
		s.want("[[4096]]", "PRAGMA page_size")
		if len(s.see("PRAGMA data_version")) != 1 {
			t.Error("no data_version")
		}
	})
	s.run("SQL-54 pragmas with a boolean", func(t *testing.T) {
		for _, pragma := range []string{"foreign_keys", "defer_foreign_keys", "ignore_check_constraints", "legacy_alter_table", "recursive_triggers", "reverse_unordered_selects"} {
			for value, want := range map[string]int64{"true": 1, "false": 0, "ON": 1, "oFF": 0, "Yes": 1, "no": 0, "1": 1, "0": 0, "'on'": 1, `"off"`: 0} {
				for _, form := range []string{"PRAGMA %s = %s; PRAGMA %[1]s", "pragma main.%s(%s); PRAGMA %[1]s"} {
					if rows := s.passes(fmt.Sprintf(form, pragma, value)); fmt.Sprint(rows) != fmt.Sprintf("[[%d]]", want) {
						t.Errorf("%s %s: %v", pragma, value, rows)
					}
				}
			}
			s.exec("PRAGMA " + pragma + " = " + map[bool]string{true: "ON", false: "OFF"}[pragma == "foreign_keys"])
		}
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for value, want := range map[string]int64{"on": 0, "0": 1} {
				if got := one(ctx, t, tx.SQL(), "PRAGMA case_sensitive_like = "+value+"; SELECT 'a' LIKE 'A'"); got != want {
					t.Error(value, got)
				}
			}
			_, err := tx.SQL().Exec(ctx, "PRAGMA case_sensitive_like = off")
			return err
		})
	})
	s.run("SQL-54 a view changes no setting", func(t *testing.T) {
		if err := s.view(t.Context(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
			for _, query := range []string{"PRAGMA foreign_keys = OFF", "PRAGMA case_sensitive_like = ON", "PRAGMA user_version = 3", "PRAGMA defer_foreign_keys = ON", "PRAGMA optimize"} {
				if _, err := v.SQL().Exec(ctx, query); err == nil || sqlError(t, err).Code != "SQLITE_AUTH" || !strings.Contains(err.Error(), "view") {
					t.Errorf("%s: %v", query, err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		s.want("[[1]]", "PRAGMA foreign_keys")
	})
	s.run("SQL-55 pragmas to inspect", func(t *testing.T) {
		for query, want := range map[string]string{
			"PRAGMA foreign_key_check":        "[]",
			"PRAGMA foreign_key_check(child)": "[]",
			"PRAGMA foreign_key_list(child)":  "[[0 0 parent p <nil> NO ACTION NO ACTION NONE]]",
			"PRAGMA index_info(cp)":           "[[0 1 p]]",
			"PRAGMA index_xinfo('cp')":        "[[0 1 p 0 BINARY 1] [1 -1 <nil> 0 BINARY 0]]",
			"PRAGMA index_list(child)":        "[[0 cp 0 c 0]]",
			"PRAGMA quick_check":              "[[ok]]", "PRAGMA quick_check(5)": "[[ok]]", "PRAGMA quick_check = child": "[[ok]]", "PRAGMA QUICK_check(child)": "[[ok]]",
			"PRAGMA table_info(parent)":                "[[0 id INTEGER 0 <nil> 1]]",
			"PRAGMA main.table_xinfo(parent)":          "[[0 id INTEGER 0 <nil> 1 0]]",
			"PRAGMA table_list(parent)":                "[[main parent table 1 0 0]]",
			"SELECT name FROM pragma_index_info('cp')": "[[p]]",
			"SELECT * FROM pragma_quick_check":         "[[ok]]",
		} {
			s.want(want, query)
		}
		for _, query := range []string{"PRAGMA optimize", "PRAGMA optimize(-1)", "PRAGMA optimize = 0xfffe", "PRAGMA optimize(18)"} {
			s.passes(query)
		}
	})
	s.run("SQL-56 user_version", func(t *testing.T) {
		s.want("[[0]]", "PRAGMA user_version")
		s.exec("PRAGMA user_version = 7")
		s.want("[[7]]", "PRAGMA user_version")
		s.want("[[7]]", "SELECT * FROM pragma_user_version")
		if rows := s.passes("PRAGMA user_version = -8; PRAGMA user_version"); fmt.Sprint(rows) != "[[-8]]" {
			t.Error(rows)
		}
		s.want("[[7]]", "PRAGMA user_version") // that was undone with its turn
		s.evict()
		s.want("[[7]]", "PRAGMA user_version")
	})
	s.run("SQL-57 ignore_check_constraints", func(*testing.T) {
		s.exec("PRAGMA ignore_check_constraints = ON")
		s.exec("INSERT INTO child (id, n) VALUES (50, 99)")
		s.exec("PRAGMA ignore_check_constraints = OFF")
		s.refused("SQLITE_CONSTRAINT_CHECK", "INSERT INTO child (n) VALUES (99)")
		s.want("[[CHECK constraint failed in child]]", "PRAGMA quick_check")
		s.exec("DELETE FROM child WHERE id = 50")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
	s.run("SQL-44 foreign_keys = OFF", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO parent VALUES (1); PRAGMA foreign_keys = OFF"); err != nil {
				return err
			}
			if got := one(ctx, t, tx.SQL(), "PRAGMA foreign_keys"); got != int64(1) {
				t.Error("it took effect inside of a transaction")
			}
			return nil
		})
		s.want("[[1]]", "PRAGMA foreign_keys")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, "PRAGMA foreign_keys = OFF; INSERT INTO child (id, p) VALUES (60, 99)")
			return err
		})
		s.want("[[0]]", "PRAGMA foreign_keys")
		s.want("[[child 60 parent 0]]", "PRAGMA foreign_key_check")
		s.exec("INSERT INTO child (id, p) VALUES (61, 98)")

		// It is of the object, whatever connection serves it.
		for _, closed := range []bool{true, false} {
			if closed {
				s.closeConnections()
			}
			s.want("[[0]]", "PRAGMA foreign_keys")
			s.exec("INSERT OR REPLACE INTO child (id, p) VALUES (62, 97)")
		}
		s.exec("PRAGMA foreign_keys = ON")
		s.refused("SQLITE_CONSTRAINT_FOREIGNKEY", "INSERT INTO child (p) VALUES (98)")
		s.closeConnections()
		s.refused("SQLITE_CONSTRAINT_FOREIGNKEY", "INSERT INTO child (p) VALUES (98)")
		s.want("[[3]]", "SELECT count(*) FROM pragma_foreign_key_check") // rows that are there are not checked again
		s.exec("DELETE FROM child")
	})
	s.run("SQL-43 defer_foreign_keys holds for the turn", func(t *testing.T) {
		s.exec("PRAGMA defer_foreign_keys = ON; INSERT INTO child (id, p) VALUES (70, 70); INSERT INTO parent VALUES (70)")
		s.refused("SQLITE_CONSTRAINT_FOREIGNKEY", "INSERT INTO child (p) VALUES (71)")
		s.want("[[0]]", "PRAGMA defer_foreign_keys")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "PRAGMA defer_foreign_keys = ON"); err != nil {
				return err
			}
			if err := tx.Sync(ctx); err != nil {
				return err
			}
			if _, err := tx.SQL().Exec(ctx, "INSERT INTO child (p) VALUES (71)"); err == nil || sqlError(t, err).Code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
				t.Errorf("after a commit point: %v", err)
			}
			return nil
		})
	})
	for name, setup := range map[string]string{
		"by the pragma": "PRAGMA defer_foreign_keys = ON; INSERT INTO child (id, p) VALUES (80, 80)",
		"by the schema": "CREATE TABLE later (id INTEGER PRIMARY KEY, p REFERENCES parent DEFERRABLE INITIALLY DEFERRED); INSERT INTO later (p) VALUES (80)",
	} {
		s.run("SQL-43 TXN-20 a deferred violation fails the turn at its commit, "+name, func(t *testing.T) {
			made := s.made
			err := s.do(func(ctx context.Context, tx durable.Tx) error {
				if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
					return err
				}
				_, err := tx.SQL().Exec(ctx, setup)
				return err
			})
			e := sqlError(t, err)
			if e.Code != "SQLITE_CONSTRAINT_FOREIGNKEY" || !e.Lost || !strings.Contains(err.Error(), "references parent") {
				t.Error(err)
			}
			child := "child"
			if name == "by the schema" {
				child = "later"
			}
			if !strings.Contains(err.Error(), child) {
				t.Error(err)
			}
			s.want("[[0]]", "SELECT count(*) FROM child WHERE p = 80")
			s.must(func(ctx context.Context, tx durable.Tx) error {
				if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil {
					t.Error("the KV write stayed", err)
				}
				return nil
			})
			if s.made != made+1 {
				t.Errorf("%d activations were made", s.made-made)
			}
		})
	}
	s.run("SQL-43 TXN-20 at a commit point inside the turn, too", func(t *testing.T) {
		err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "PRAGMA defer_foreign_keys = ON; INSERT INTO child (id, p) VALUES (81, 81)"); err != nil {
				return err
			}
			err := tx.Sync(ctx)
			if err == nil || sqlError(t, err).Code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
				t.Error(err)
			}
			return nil // swallowed
		})
		if err == nil || sqlError(t, err).Code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
			t.Error(err)
		}
		s.want("[[0]]", "SELECT count(*) FROM child WHERE p = 81")
	})
}

// evict drops the activation.
func (s *sqlTest) evict() {
	s.t.Helper()
	err := s.do(func(ctx context.Context, tx durable.Tx) error {
		if err := tx.KV().Put(ctx, "evicted", []byte("x")); err != nil {
			return err
		}
		return errBack
	})
	if !errors.Is(err, errBack) {
		s.t.Fatal(err)
	}
}

// closeConnections closes what connections are open, as for want of memory.
func (s *sqlTest) closeConnections() {
	s.t.Helper()
	if err := s.sqlEngine().Close(); err != nil {
		s.t.Fatal(err)
	}
	if n := s.connections(); n != 0 {
		s.t.Fatalf("%d connections are open", n)
	}
}
