package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	durable "github.com/durable-go/durable"
)

func TestSQLFullText(t *testing.T) {
	s := newSQLTest(t, durable.Limits{})
	s.exec(`CREATE TABLE docs (id INTEGER PRIMARY KEY, title TEXT, body TEXT);
		CREATE VIRTUAL TABLE found USING fts5(title, body, content='docs', content_rowid='id', tokenize='porter unicode61');
		CREATE TRIGGER di AFTER INSERT ON docs BEGIN INSERT INTO found (rowid, title, body) VALUES (new.id, new.title, new.body); END;
		CREATE TRIGGER dd AFTER DELETE ON docs BEGIN INSERT INTO found (found, rowid, title, body) VALUES ('delete', old.id, old.title, old.body); END;
		CREATE TRIGGER du AFTER UPDATE ON docs BEGIN
			INSERT INTO found (found, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
			INSERT INTO found (rowid, title, body) VALUES (new.id, new.title, new.body);
		END`)
	s.exec(`INSERT INTO docs VALUES (1, 'Running', 'The runner runs every morning, running far.'),
		(2, 'Sleeping', 'A cat sleeps; one dog is running.'), (3, 'Éclair', 'Pastry of Paris')`)
	// Every check runs on the connection that is open, and on a fresh one.
	both := func(name string, fn func(t *testing.T)) {
		for _, fresh := range []string{"", " on a fresh connection"} {
			s.run(name+fresh, func(t *testing.T) {
				if fresh != "" {
					s.closeConnections()
				}
				fn(t)
			})
		}
	}
	both("SQL-49 porter, MATCH and rank", func(*testing.T) {
		s.want("[[1] [2]]", "SELECT rowid FROM found WHERE found MATCH 'run' ORDER BY rank")
		s.want("[[1] [2]]", "SELECT rowid FROM found('RUNS') ORDER BY bm25(found)")
		s.want("[[3]]", "SELECT rowid FROM found WHERE found MATCH 'eclair'")
		s.want("[[1]]", "SELECT rowid FROM found WHERE found MATCH 'title:run'")
		s.want("[[2]]", "SELECT rowid FROM found WHERE found MATCH '\"one dog\" AND cat NOT pastry'")
		s.want("[[1] [2] [3]]", "SELECT rowid FROM found WHERE found MATCH 'morn* OR cat OR par*' ORDER BY rowid")
		s.want("[[1]]", "SELECT d.id FROM docs d JOIN found f ON f.rowid = d.id WHERE found MATCH ? AND d.title = 'Running'", "run")
	})
	both("SQL-49 bm25, highlight and snippet", func(t *testing.T) {
		s.want("[[The <runner> <runs> every morning, <running> far.]]", "SELECT highlight(found, 1, '<', '>') FROM found WHERE found MATCH 'run OR runner' AND rowid = 1")
		s.want("[[...is [running].]]", "SELECT snippet(found, 1, '[', ']', '...', 2) FROM found WHERE found MATCH 'running' AND rowid = 2")
		rows := s.see("SELECT bm25(found, 10.0, 1.0) < bm25(found), rank = bm25(found) FROM found WHERE found MATCH 'running' AND rowid = 1")
		if fmt.Sprint(rows) != "[[1 1]]" {
			t.Error(rows)
		}
	})
	both("SQL-49 triggers feed the index", func(*testing.T) {
		s.exec("INSERT INTO docs VALUES (4, 'New', 'zebra')")
		s.want("[[4]]", "SELECT rowid FROM found WHERE found MATCH 'zebras'")
		s.exec("UPDATE docs SET body = 'giraffe' WHERE id = 4")
		s.want("[]", "SELECT rowid FROM found WHERE found MATCH 'zebra'")
		s.want("[[4]]", "SELECT rowid FROM found WHERE found MATCH 'giraffe'")
		s.exec("DELETE FROM docs WHERE id = 4")
		s.want("[]", "SELECT rowid FROM found WHERE found MATCH 'giraffe'")
		s.exec("INSERT INTO found (found) VALUES ('integrity-check')")
	})
	both("SQL-49 a turn that fails leaves the index alone", func(*testing.T) {
		s.passes("INSERT INTO docs VALUES (5, 'Lost', 'unicorn'); DELETE FROM docs WHERE id = 1")
		s.want("[]", "SELECT rowid FROM found WHERE found MATCH 'unicorn'")
		s.want("[[1] [2]]", "SELECT rowid FROM found WHERE found MATCH 'run' ORDER BY rowid")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			_ = tx.Savepoint(func() error {
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO docs VALUES (6, 'Lost', 'unicorn')"); err != nil {
					s.t.Error(err)
				}
				return errBack
			})
			if n := one(ctx, s.t, tx.SQL(), "SELECT count(*) FROM found WHERE found MATCH 'unicorn'"); n != int64(0) {
				s.t.Error(n)
			}
			_, err := tx.SQL().Exec(ctx, "INSERT INTO found (found) VALUES ('integrity-check')")
			return err
		})
	})
	both("SQL-49 the first use of full text, beside open cursors and a schema that changes", func(t *testing.T) {
		if err := s.do(func(ctx context.Context, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "CREATE TABLE fresh (a); INSERT INTO fresh VALUES (1), (2)"); err != nil {
				return err
			}
			var cursors []*durable.Cursor
			for _, query := range []string{"SELECT a FROM fresh", "SELECT id FROM docs WHERE id < 3 ORDER BY id", "SELECT f.a FROM fresh AS f JOIN docs ON docs.id = f.a ORDER BY docs.title"} {
				cur, err := tx.SQL().Exec(ctx, query)
				if err != nil {
					return err
				}
				_, _, _ = cur.Next()
				cursors = append(cursors, cur)
			}
			if n := one(ctx, t, tx.SQL(), "SELECT count(*) FROM found WHERE found MATCH 'cat'"); n != int64(1) {
				t.Error(n)
			}
			for i, cur := range cursors {
				if rows, err := cur.All(); err != nil || len(rows) != 1 {
					t.Errorf("cursor %d: %v %v", i, rows, err)
				}
			}
			if n := one(ctx, t, tx.SQL(), "INSERT INTO docs VALUES (9, 'nine', 'nine'); SELECT count(*) FROM fresh, found WHERE found MATCH 'nine'"); n != int64(2) {
				t.Error(n)
			}
			return errBack
		}); !errors.Is(err, errBack) {
			t.Error(err)
		}
	})
	s.run("SQL-49 a wrong query is an error of the statement", func(*testing.T) {
		s.refused("SQLITE_ERROR", "SELECT * FROM found WHERE found MATCH 'a AND'", "fts5: syntax error")
		s.refused("SQLITE_ERROR", "SELECT * FROM found WHERE found MATCH 'nosuch:a'", "no such column")
		s.refused("SQLITE_ERROR", "CREATE VIRTUAL TABLE x USING fts5(a, tokenize='nosuch')", "tokenizer")
	})
	s.run("SQL-48 SQL-49 fts5vocab", func(*testing.T) {
		s.exec(`CREATE VIRTUAL TABLE small USING FTS5(a, b); INSERT INTO small VALUES ('x y', 'x'), ('x', 'z');
			CREATE VIRTUAL TABLE vr USING fts5vocab(small, row); CREATE VIRTUAL TABLE vc USING Fts5Vocab('small', 'col'); CREATE VIRTUAL TABLE vi USING fts5vocab('small', 'instance')`)
	})
	both("SQL-49 fts5vocab row, col and instance", func(*testing.T) {
		s.want("[[x 2 3] [y 1 1] [z 1 1]]", "SELECT * FROM vr")
		s.want("[[x a 2 2] [x b 1 1] [y a 1 1] [z b 1 1]]", "SELECT * FROM vc")
		s.want("[[x 1 a 0] [x 1 b 0] [x 2 a 0] [y 1 a 1] [z 2 b 0]]", "SELECT * FROM vi")
	})
	both("SQL-49 what looks at all tables knows of full text", func(*testing.T) {
		s.want("[[title] [body]]", "SELECT name FROM pragma_table_info('found')")
		s.want("[[ok]]", "PRAGMA quick_check")
		s.want("[[6]]", "SELECT count(*) FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%' OR name = 'docs'")
	})
	both("SQL-49 commands, renaming, dropping", func(*testing.T) {
		for _, command := range []string{"optimize", "rebuild", "integrity-check"} {
			s.exec("INSERT INTO found (found) VALUES (?)", command)
		}
		s.exec("INSERT INTO found (found, rank) VALUES ('rank', 'bm25(10.0, 5.0)')")
		s.exec("INSERT INTO found (found, rank) VALUES ('merge', 16)")
		s.exec("ALTER TABLE small RENAME TO little; ALTER TABLE little RENAME TO small")
		s.exec("ALTER TABLE docs RENAME TO papers; ALTER TABLE papers RENAME TO docs")
		s.passes("DROP TABLE found; DROP TABLE small")
		s.want("[[2]]", "SELECT count(*) FROM small")
	})
	s.run("SQL-49 the tables behind an index cannot be written", func(*testing.T) {
		for _, table := range []string{"found_data", "found_idx", "found_config", "FOUND_docsize", "small_content"} {
			s.closeConnections() // one that knows nothing of full text yet
			s.refused("SQLITE_ERROR", "DELETE FROM "+table, "may not be modified")
			s.refused("SQLITE_ERROR", "DROP TABLE "+table, "may not be dropped")
		}
	})
	s.run("SQL-49 many documents, a vacuum and DeleteAll", func(t *testing.T) {
		s.must(func(ctx context.Context, tx durable.Tx) error {
			for i := range 200 {
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO docs (title, body) VALUES (?, ?)", fmt.Sprint("doc ", i), strings.Repeat(fmt.Sprintf("word%d ", i%7), 20)); err != nil {
					return err
				}
			}
			return nil
		})
		s.want("[[29]]", "SELECT count(*) FROM found WHERE found MATCH 'word3'")
		s.must(func(ctx context.Context, tx durable.Tx) error { return tx.SQL().Vacuum(ctx) })
		s.want("[[29]]", "SELECT count(*) FROM found WHERE found MATCH 'word3'")
		s.exec("INSERT INTO found (found) VALUES ('integrity-check')")
		s.must(func(ctx context.Context, tx durable.Tx) error {
			if err := tx.DeleteAll(ctx); err != nil {
				return err
			}
			_, err := tx.SQL().Exec(ctx, "CREATE VIRTUAL TABLE found USING fts5(a); INSERT INTO found VALUES ('again')")
			return err
		})
		s.want("[[1]]", "SELECT count(*) FROM found WHERE found MATCH 'again'")
		s.want("[[ok]]", "PRAGMA quick_check")
	})
}
