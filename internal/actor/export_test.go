package actor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// openExport opens an exported file with plain SQLite and returns the texts of a
// query.
func openExport(t *testing.T, file, query string) []string {
	t.Helper()
	db, err := sqlite3.Open("file:" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	stmt, _, err := db.Prepare(query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stmt.Close() }()
	var got []string
	for stmt.Step() {
		got = append(got, stmt.ColumnText(0))
	}
	if err := stmt.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSQLExport(t *testing.T) {
	ctx := t.Context()
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	id := func(key string) durable.ID { return durable.IDFromName("counter", key) }
	insert := func(key string, from, n int) {
		t.Helper()
		err := h.update(ctx, key, func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if _, err := tx.SQL().Exec(ctx, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body TEXT UNIQUE)"); err != nil {
				return err
			}
			for i := range n {
				if _, err := tx.SQL().Exec(ctx, "INSERT INTO t (id, body) VALUES (?, ?)", from+i, fmt.Sprintf("%0200d", from+i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	count := func(key string) (n int) {
		t.Helper()
		err := h.view(ctx, key, func(ctx context.Context, _ *counter, view durable.View) (err error) {
			n, err = durable.One[int](ctx, view.SQL(), "SELECT count(*) FROM t")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	export := func(key string) []byte {
		t.Helper()
		var out bytes.Buffer
		n, err := h.ExportSQL(ctx, h.typ, id(key), &out)
		if err != nil || n != int64(out.Len()) {
			t.Fatalf("%d bytes of %d, %v", n, out.Len(), err)
		}
		return out.Bytes()
	}

	t.Run("an object without a database gives an empty file", func(t *testing.T) {
		if got := export("none"); len(got) != 0 {
			t.Errorf("%d bytes", len(got))
		}
	})
	insert("a", 1, 500)
	file := filepath.Join(t.TempDir(), "a.db")
	data := export("a")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("the file is an ordinary SQLite database", func(t *testing.T) {
		if diff := cmp.Diff([]string{"ok"}, openExport(t, file, "PRAGMA integrity_check")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"500"}, openExport(t, file, "SELECT count(*) FROM t")); diff != "" {
			t.Error(diff)
		}
		sqlite, err := exec.LookPath("sqlite3")
		if err != nil {
			t.Skip("the sqlite3 command is not installed: read with the library alone")
		}
		out, err := exec.Command(sqlite, file, "PRAGMA integrity_check; SELECT sum(id) FROM t").CombinedOutput()
		if err != nil || strings.Fields(string(out))[0] != "ok" {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("an export shows one moment while the object goes on", func(t *testing.T) {
		insert("busy", 1, 300)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		exported := make(chan error, 1)
		go func() {
			_, err := h.ExportSQL(ctx, h.typ, id("busy"), w)
			exported <- errors.Join(err, w.Close())
		}()
		var out bytes.Buffer
		if _, err := out.ReadFrom(&oneByte{r, func() { insert("busy", 1000, 300) }}); err != nil {
			t.Fatal(err)
		}
		if err := <-exported; err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "busy.db")
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"ok"}, openExport(t, file, "PRAGMA integrity_check")); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"300"}, openExport(t, file, "SELECT count(*) FROM t")); diff != "" {
			t.Error(diff)
		}
		if got := count("busy"); got != 600 {
			t.Errorf("%d rows in the object", got)
		}
	})
	t.Run("import makes another object of it", func(t *testing.T) {
		if err := h.ImportSQL(ctx, h.typ, id("b"), "b", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if got := count("b"); got != 500 {
			t.Errorf("%d rows", got)
		}
		insert("b", 1000, 10)
		if got, orig := count("b"), count("a"); got != 510 || orig != 500 {
			t.Errorf("%d rows, %d in the first object", got, orig)
		}
	})
	t.Run("only into an object without a database", func(t *testing.T) {
		err := h.ImportSQL(ctx, h.typ, id("a"), "a", bytes.NewReader(data))
		if !errors.Is(err, durable.ErrSQLExists) {
			t.Errorf("%v", err)
		}
		if got := count("a"); got != 500 {
			t.Errorf("%d rows", got)
		}
	})
	t.Run("a database of another page size and with a write-ahead log", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "other.db")
		openExport(t, file, "PRAGMA page_size=1024")
		db, err := sqlite3.Open("file:" + file)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Exec("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.ImportSQL(ctx, h.typ, id("small pages"), "small pages", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		insert("small pages", 10, 100)
		if got := count("small pages"); got != 102 {
			t.Errorf("%d rows", got)
		}
	})
	t.Run("a file that takes several commits", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "large.db")
		db, err := sqlite3.Open("file:" + file)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Exec("PRAGMA synchronous=OFF; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 40) INSERT INTO t SELECT i, zeroblob(1000000) FROM n")
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		err = h.ImportSQL(ctx, h.typ, id("large"), "large", bytes.NewReader(data[:len(data)-4096]))
		if err == nil {
			t.Fatal("a cut file was imported")
		}
		if got := export("large"); len(got) != 0 {
			t.Errorf("%d bytes are left of a file that was refused", len(got))
		}
		if err := h.ImportSQL(ctx, h.typ, id("large"), "large", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if got := export("large"); !bytes.Equal(got[4096:], data[4096:]) {
			t.Errorf("%d bytes came back of %d", len(got), len(data))
		}
	})
	t.Run("refused, and nothing is left", func(t *testing.T) {
		torn := bytes.Clone(data)
		clear(torn[4096*3 : 4096*4])
		for name, bad := range map[string][]byte{
			"empty":       nil,
			"text":        []byte(strings.Repeat("no database ", 1000)),
			"cut":         data[:len(data)-4096],
			"half a page": data[:len(data)-100],
			"torn":        torn,
		} {
			t.Run(name, func(t *testing.T) {
				err := h.ImportSQL(ctx, h.typ, id("bad"), "bad", bytes.NewReader(bad))
				var e *durable.SQLError
				if !errors.As(err, &e) {
					t.Fatalf("%v", err)
				}
				t.Log(err)
				shard, err := h.shard(ctx, storage.ObjectID{Type: h.typ.id, ID: id("bad")}.Shard())
				if err != nil {
					t.Fatal(err)
				}
				if _, ok, err := shard.Meta(ctx, storage.ObjectID{Type: h.typ.id, ID: id("bad")}); ok || err != nil {
					t.Errorf("the object exists: %v %v", ok, err)
				}
			})
		}
	})
}

// oneByte reads the first byte, calls then, and reads the rest.
type oneByte struct {
	r    *os.File
	then func()
}

func (o *oneByte) Read(p []byte) (int, error) {
	if o.then != nil {
		defer func() { o.then(); o.then = nil }()
		p = p[:1]
	}
	return o.r.Read(p)
}
