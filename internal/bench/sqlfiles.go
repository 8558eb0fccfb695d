package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/ncruces/go-sqlite3"
)

// sqlFiles are SQLite databases in files, one for each object.
type sqlFiles struct {
	files []*sqlFile
}

type sqlFile struct {
	mu    sync.Mutex
	conn  *sqlite3.Conn
	stmts map[string]*sqlite3.Stmt
}

func openSQLFiles(dir, mode string, n int) (*sqlFiles, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f := &sqlFiles{files: make([]*sqlFile, n)}
	return f, each(n, func(i int) error {
		conn, err := sqlite3.Open("file:" + filepath.Join(dir, fmt.Sprintf("%d.db", i)))
		if err != nil {
			return err
		}
		f.files[i] = &sqlFile{conn: conn, stmts: map[string]*sqlite3.Stmt{}}
		if _, err := conn.Config(sqlite3.DBCONFIG_ENABLE_QPSG, true); err != nil {
			return err
		}
		return conn.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=" + mode +
			"; PRAGMA cache_size=-512; PRAGMA temp_store=MEMORY; PRAGMA foreign_keys=ON")
	})
}

func (f *sqlFiles) close() {
	for _, file := range f.files {
		for _, stmt := range file.stmts {
			_ = stmt.Close()
		}
		_ = file.conn.Close()
	}
}

func (f *sqlFiles) setUp(ctx context.Context) error {
	return each(len(f.files), func(i int) error { return f.do(ctx, i, sqlKind{run: sqlSetUp}) })
}

// do runs a transaction on database i.
func (f *sqlFiles) do(ctx context.Context, i int, k sqlKind) error {
	file := f.files[i]
	file.mu.Lock()
	defer file.mu.Unlock()
	if k.reads {
		return k.run(ctx, file)
	}
	if _, err := file.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := k.run(ctx, file); err != nil {
		return err
	}
	_, err := file.exec(ctx, "COMMIT")
	return err
}

func (f *sqlFile) exec(_ context.Context, query string, args ...any) (int, error) {
	stmt := f.stmts[query]
	if stmt == nil {
		if len(args) == 0 && query != "BEGIN" && query != "COMMIT" {
			return 0, f.conn.Exec(query)
		}
		var err error
		if stmt, _, err = f.conn.PrepareFlags(query, sqlite3.PREPARE_PERSISTENT); err != nil {
			return 0, err
		}
		f.stmts[query] = stmt
	}
	for i, arg := range args {
		var err error
		switch v := arg.(type) {
		case int64:
			err = stmt.BindInt64(i+1, v)
		case string:
			err = stmt.BindText(i+1, v)
		}
		if err != nil {
			return 0, err
		}
	}
	n := 0
	row := make([]any, stmt.ColumnCount())
	for stmt.Step() {
		if err := stmt.Columns(row...); err != nil {
			return n, err
		}
		n++
	}
	err := stmt.Err()
	_ = stmt.Reset()
	return n, err
}
