package sqlitedb_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

var defaultLimits = storage.SQLLimits{
	DatabaseBytes: 10 << 30, RowBytes: 2 << 20, StatementBytes: 1_000_000, Parameters: 32_766, Columns: 2000,
	CompoundTerms: 500, LikeBytes: 50_000, TriggerDepth: 100, ExprDepth: 1000, FunctionArgs: 127,
	Instructions: 250_000_000, MemoryBytes: 64 << 20,
}

func live() error { return nil }

// benchDatabase returns a database with 200 rows, and the engine.
func benchDatabase(b *testing.B, opts sqlitedb.Options) (*sqlitedb.Engine, func() storage.SQLDatabase) {
	store := memkv.New(memkv.Options{})
	session, err := store.Join(b.Context(), storage.Node{ID: "n"})
	if err != nil {
		b.Fatal(err)
	}
	o := storage.ObjectID{Type: 1}
	shards, err := session.Claim(b.Context(), []storage.ShardID{o.Shard()})
	if err != nil {
		b.Fatal(err)
	}
	engine := sqlitedb.New(opts)
	b.Cleanup(func() { _ = engine.Close() })
	open := func() storage.SQLDatabase { return engine.Database(o, shards[0], defaultLimits) }
	db := open()
	s := db.Begin(b.Context(), true, live)
	for _, q := range []string{
		"CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, count INTEGER NOT NULL, body TEXT NOT NULL)",
		"CREATE INDEX item_kind ON item (kind)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 200) INSERT INTO item SELECT i, i, i, hex(randomblob(60)) FROM n",
	} {
		if _, err := s.Exec(b.Context(), q, nil, storage.SQLOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	batch := &storage.Batch{Object: o, Create: &storage.Meta{}}
	if err := s.Flush(batch); err != nil {
		b.Fatal(err)
	}
	if err := shards[0].Commit(batch).Wait(); err != nil {
		b.Fatal(err)
	}
	s.Settle(nil)
	s.End()
	db.Close()
	return engine, open
}

func point(ctx context.Context, b *testing.B, s storage.SQLSession) {
	rows, err := s.Exec(ctx, "SELECT id, kind, body FROM item WHERE id = ?", []any{int64(77)}, storage.SQLOptions{})
	if err != nil {
		b.Fatal(err)
	}
	if row, err := rows.Next(); err != nil || len(row) != 3 {
		b.Fatal(row, err)
	}
	if row, err := rows.Next(); err != nil || row != nil {
		b.Fatal(row, err)
	}
}

// BenchmarkOpen is a connection opened for one query.
func BenchmarkOpen(b *testing.B) {
	_, open := benchDatabase(b, sqlitedb.Options{})
	b.ReportAllocs()
	for b.Loop() {
		db := open()
		s := db.Begin(b.Context(), false, live)
		point(b.Context(), b, s)
		s.End()
		db.Close()
	}
}

// BenchmarkSession is a query in a session of its own, on an open connection.
func BenchmarkSession(b *testing.B) {
	_, open := benchDatabase(b, sqlitedb.Options{})
	db := open()
	b.ReportAllocs()
	for b.Loop() {
		s := db.Begin(b.Context(), false, live)
		point(b.Context(), b, s)
		s.End()
	}
}

// BenchmarkSelect is a row by its key.
func BenchmarkSelect(b *testing.B) {
	_, open := benchDatabase(b, sqlitedb.Options{})
	s := open().Begin(b.Context(), false, live)
	defer s.End()
	b.ReportAllocs()
	for b.Loop() {
		point(b.Context(), b, s)
	}
}

// BenchmarkSelect100 is 100 rows of three columns.
func BenchmarkSelect100(b *testing.B) {
	_, open := benchDatabase(b, sqlitedb.Options{})
	s := open().Begin(b.Context(), false, live)
	defer s.End()
	b.ReportAllocs()
	for b.Loop() {
		rows, err := s.Exec(b.Context(), "SELECT id, kind, body FROM item WHERE id > ? ORDER BY id LIMIT 100", []any{int64(50)}, storage.SQLOptions{})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for row, err := rows.Next(); row != nil; row, err = rows.Next() {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}

// BenchmarkViews is views of one database that run at the same time, on one
// connection or two.
func BenchmarkViews(b *testing.B) {
	for _, query := range []struct{ name, text string }{
		{"point", "SELECT id, kind, body FROM item WHERE id = 77"},
		{"scan", "SELECT count(*), sum(length(body)) FROM item WHERE body LIKE '%FF%'"},
		{"join", "SELECT count(*) FROM item a, item b WHERE a.kind + b.kind = 77"},
	} {
		for _, readers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/readers=%d", query.name, readers), func(b *testing.B) {
				_, open := benchDatabase(b, sqlitedb.Options{Readers: readers})
				db := open()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						s := db.Begin(b.Context(), false, live)
						rows, err := s.Exec(b.Context(), query.text, nil, storage.SQLOptions{})
						if err != nil {
							b.Error(err)
							return
						}
						if row, err := rows.Next(); err != nil || row == nil {
							b.Error(row, err)
							return
						}
						s.End()
					}
				})
			})
		}
	}
}
