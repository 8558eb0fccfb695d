package sqlitedb

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"
	"github.com/ncruces/go-sqlite3/ext/serdes"
	_ "github.com/ncruces/go-sqlite3/vfs/memdb" // for plainDatabase

	"github.com/durable-go/durable/storage"
)

// plainDatabase returns the file of a database with tables of several kinds.
func plainDatabase(t testing.TB, pageSize int) []byte {
	t.Helper()
	lite, err := sqlite3.Open("file:/" + t.Name() + strconv.Itoa(pageSize) + "?vfs=memdb")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lite.Close() }()
	if err := fts5.Register(lite); err != nil {
		t.Fatal(err)
	}
	err = lite.Exec("PRAGMA page_size=" + strconv.Itoa(pageSize) + `;
		CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB);
		CREATE INDEX ta ON t(a);
		CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
		CREATE VIRTUAL TABLE f USING fts5(x);
		CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO w VALUES ('k' || new.id, new.a); END;
		WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c LIMIT 30) INSERT INTO t SELECT n, 'text ' || n, zeroblob(n * 40) FROM c;
		INSERT INTO f SELECT a FROM t;
		DELETE FROM t WHERE id % 3 = 0;`)
	if err != nil {
		t.Fatal(err)
	}
	file, err := serdes.Serialize(lite, "main")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// fuzzStatements use everything that plainDatabase has.
var fuzzStatements = []string{
	"SELECT * FROM sqlite_schema",
	"PRAGMA quick_check",
	"SELECT count(*), sum(length(b)) FROM t",
	"SELECT a FROM t INDEXED BY ta WHERE a > 'text 2' ORDER BY a",
	"SELECT * FROM w",
	"SELECT rowid, highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'text' ORDER BY rank",
	"UPDATE t SET b = zeroblob(3000) WHERE id < 5",
	"INSERT INTO t (a) VALUES ('new')",
	"DELETE FROM w WHERE k < 'k2'",
	"INSERT INTO f VALUES ('more')",
	"CREATE TABLE made (x)",
	"DROP TABLE t",
}

// checkCoded reports an error that tells a caller nothing.
func checkCoded(t *testing.T, what string, err error) {
	t.Helper()
	var lite *storage.SQLError
	var limit *storage.LimitError
	switch {
	case err == nil, errors.As(err, &limit), errors.Is(err, storage.ErrCorrupt):
	case !errors.As(err, &lite) || !strings.HasPrefix(lite.Code, "SQLITE_"):
		t.Errorf("%s: %T %v", what, err, err)
	case lite.Code == "SQLITE_INTERNAL":
		t.Errorf("%s: %v", what, err)
	}
}

// FuzzPages: whatever is stored as pages, statements end with rows or an error
// with a code, and the database can be deleted.
func FuzzPages(f *testing.F) {
	for exponent := uint8(9); exponent <= 12; exponent += 3 {
		file := plainDatabase(f, 1<<exponent)
		f.Add(file, exponent, uint16(0))
		f.Add(file[:len(file)-1], exponent, uint16(0)) // a short last page
		f.Add(file[:len(file)/2], exponent, uint16(0)) // pages are missing
		f.Add(file, exponent-1, uint16(0))             // page 1 is short
		f.Add(file, exponent, uint16(3))               // a page is missing
		if exponent > 9 {
			continue
		}
		for _, at := range []int{0, 16, 18, 20, 24, 28, 32, 36, 40, 44, 52, 56, 60, 92, 100, 101, 103, 105, 108} {
			bad := slices.Clone(file)
			binary.BigEndian.PutUint32(bad[at:], 0xfffffff0)
			f.Add(bad, exponent, uint16(0))
			binary.BigEndian.PutUint32(bad[at:], 0)
			f.Add(bad, exponent, uint16(0))
		}
		for page := 1; page < len(file)>>exponent; page++ {
			bad := slices.Clone(file)
			for i := range 40 {
				bad[page<<exponent+i] ^= 0x5a
			}
			f.Add(bad, exponent, uint16(0))
		}
	}
	f.Add([]byte{}, uint8(9), uint16(0))
	f.Add([]byte("SQLite format 3\x00"), uint8(12), uint16(0))
	f.Fuzz(fuzzPages)
}

func fuzzPages(t *testing.T, file []byte, exponent uint8, missing uint16) {
	if exponent < 4 || exponent > 16 || len(file) > 1<<18 || len(file)>>exponent > 300 {
		return
	}
	s := newTestStore(t, Options{})
	s.limits.MemoryBytes = 16 << 20
	s.limits.DatabaseBytes = 1 << 26
	db := s.database(1)
	b := &storage.Batch{Object: db.object, Create: &storage.Meta{}}
	n := uint32(0)
	for data := range slices.Chunk(file, 1<<exponent) {
		if n++; missing == 0 || n != uint32(missing) {
			b.Put = append(b.Put, storage.Pair{Key: pageKey(n), Val: data})
		}
	}
	shard := s.shards[db.object.Shard()]
	if err := shard.Commit(b).Wait(); err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		for _, query := range fuzzStatements {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			began := time.Now()
			session := db.Begin(ctx, write, alive)
			rows, err := session.Exec(ctx, query, nil, storage.SQLOptions{})
			for range 1000 {
				var row []any
				if err == nil {
					row, err = rows.Next()
				}
				if row == nil {
					break
				}
			}
			checkCoded(t, query, err)
			if _, err := session.Size(ctx); err != nil {
				checkCoded(t, "size", err)
			}
			if write && err == nil {
				b := &storage.Batch{Object: db.object}
				err := session.Flush(b)
				checkCoded(t, "flush", err)
				if err == nil {
					session.Settle(shard.Commit(b).Wait())
				}
			}
			session.End()
			cancel()
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("%s: took %v", query, took)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	session := db.Begin(ctx, true, alive)
	checkCoded(t, "vacuum", session.Vacuum(ctx))
	session.End()
	cancel()

	// It can be deleted, and used again.
	session = db.Begin(t.Context(), true, alive)
	session.Wipe()
	if _, err := session.Exec(t.Context(), "CREATE TABLE n (n); INSERT INTO n VALUES (5)", nil, storage.SQLOptions{}); err != nil {
		t.Fatalf("after the database was deleted: %v", err)
	}
	b = &storage.Batch{Object: db.object, Wipe: true, Create: &storage.Meta{}}
	if err := session.Flush(b); err != nil {
		t.Fatal(err)
	}
	session.Settle(shard.Commit(b).Wait())
	session.End()
	for _, db := range []*database{db, s.database(1)} {
		if n, err := s.number(db, "SELECT sum(n) FROM n"); n != 5 || err != nil {
			t.Errorf("the sum is %d, %v", n, err)
		}
		db.Close()
	}
}
