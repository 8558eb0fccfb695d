package durable_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	durable "github.com/durable-go/durable"
)

// A litePort is a [durable.SQLPort] on a SQLite in memory: enough of the
// runtime's to test what lies above it.
type litePort struct {
	conn       *sqlite3.Conn
	db         *sql.DB
	open       []string // savepoints
	maxResult  int64
	done       bool     // the turn is over
	statements []string // what was run
	args       []any    // of the last Exec
	rows       int      // open
}

func newSQL(t testing.TB, schema ...string) (durable.SQL, *litePort) {
	t.Helper()
	conn, err := sqlite3.Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	p := &litePort{conn: conn}
	t.Cleanup(func() {
		if p.db != nil {
			p.db.Close()
		}
		if p.rows != 0 {
			t.Errorf("%d cursors were left open", p.rows)
		}
		conn.Close()
	})
	s := durable.NewSQL(p)
	for _, query := range schema {
		if _, err := s.Exec(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	p.statements = nil
	return s, p
}

func (p *litePort) failed(err error) error {
	var lite *sqlite3.Error
	if !errors.As(err, &lite) {
		return err
	}
	e := &durable.SQLError{Code: "SQLITE_ERROR", Message: strings.TrimPrefix(err.Error(), "sqlite3: SQL logic error: "), Offset: -1}
	if lite.Code() == sqlite3.CONSTRAINT {
		e.Code = "SQLITE_CONSTRAINT"
	}
	return e
}

func (p *litePort) Exec(_ context.Context, query string, args []any, reserved bool) (durable.RowsPort, error) {
	if p.done {
		return nil, durable.ErrTxDone
	}
	p.args = args
	if !reserved && strings.Contains(query, "_durable_") {
		return nil, &durable.SQLError{Code: "SQLITE_AUTH", Message: "not authorized", Offset: -1}
	}
	for {
		before := p.conn.TotalChanges()
		stmt, tail, err := p.conn.Prepare(query)
		if err != nil {
			return nil, p.failed(err)
		}
		if stmt == nil {
			return nil, &durable.SQLError{Code: "SQLITE_MISUSE", Message: "there is no statement", Offset: -1}
		}
		p.statements = append(p.statements, stmt.SQL())
		last := strings.Trim(tail, " \t\r\n;") == ""
		if n := stmt.BindCount(); !last && n != 0 {
			stmt.Close()
			return nil, &durable.SQLError{Code: "SQLITE_RANGE", Message: "a statement before the last has parameters", Offset: -1}
		}
		if last {
			if err := bindLite(stmt, args); err != nil {
				stmt.Close()
				return nil, err
			}
		}
		r := &liteRows{p: p, stmt: stmt, before: before}
		for i := range stmt.ColumnCount() {
			r.columns = append(r.columns, stmt.ColumnName(i))
			r.types = append(r.types, stmt.ColumnDeclType(i))
		}
		p.rows++
		if err := r.step(); err != nil {
			r.Close()
			return nil, err
		}
		if last {
			return r, nil
		}
		r.Close()
		query = tail
	}
}

func bindLite(stmt *sqlite3.Stmt, args []any) error {
	if n := stmt.BindCount(); n != len(args) {
		return &durable.SQLError{Code: "SQLITE_RANGE", Message: fmt.Sprintf("%d arguments for %d parameters", len(args), n), Offset: -1}
	}
	for i, arg := range args {
		param := i + 1
		if named, ok := arg.(sql.NamedArg); ok {
			param, arg = stmt.BindIndex(":"+named.Name), named.Value
		}
		var err error
		switch v := arg.(type) {
		case nil:
			err = stmt.BindNull(param)
		case int64:
			err = stmt.BindInt64(param, v)
		case float64:
			err = stmt.BindFloat(param, v)
		case string:
			err = stmt.BindText(param, v)
		case []byte:
			if len(v) == 0 {
				err = stmt.BindZeroBlob(param, 0)
			} else {
				err = stmt.BindBlob(param, v)
			}
		default:
			err = fmt.Errorf("the port was given a %T", v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *litePort) Savepoint() (func(bool) error, error) {
	if p.done {
		return nil, durable.ErrTxDone
	}
	name := fmt.Sprintf("level%d", len(p.open))
	p.open = append(p.open, name)
	level := len(p.open)
	if err := p.conn.Exec("SAVEPOINT " + name); err != nil {
		return nil, err
	}
	return func(keep bool) error {
		if len(p.open) != level {
			return errors.New("not the innermost level")
		}
		p.open = p.open[:level-1]
		if !keep {
			return p.conn.Exec("ROLLBACK TO " + name + "; RELEASE " + name)
		}
		return p.conn.Exec("RELEASE " + name)
	}, nil
}

func (p *litePort) Size(context.Context) (int64, error) {
	stmt, _, err := p.conn.Prepare("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
	if err != nil {
		return 0, err
	}
	defer stmt.Close()
	stmt.Step()
	return stmt.ColumnInt64(0), stmt.Err()
}

func (p *litePort) Vacuum(context.Context) error { return p.conn.Exec("VACUUM") }

func (p *litePort) DB(open func() *sql.DB) *sql.DB {
	if p.db == nil {
		p.db = open()
	}
	return p.db
}

func (p *litePort) MaxResultBytes() int64 { return p.maxResult }

// liteRows read one row ahead.
type liteRows struct {
	p              *litePort
	stmt           *sqlite3.Stmt
	columns, types []string
	ahead          []any
	err            error
	before         int64
	stats          durable.SQLStats
	closed         bool
}

func (r *liteRows) Columns() []string   { return r.columns }
func (r *liteRows) DeclTypes() []string { return r.types }

func (r *liteRows) step() error {
	r.ahead = nil
	if !r.stmt.Step() {
		return r.p.failed(r.stmt.Err())
	}
	r.stats.RowsRead++
	r.ahead = make([]any, len(r.columns))
	for i := range r.ahead {
		switch r.stmt.ColumnType(i) {
		case sqlite3.INTEGER:
			r.ahead[i] = r.stmt.ColumnInt64(i)
		case sqlite3.FLOAT:
			r.ahead[i] = r.stmt.ColumnFloat(i)
		case sqlite3.TEXT:
			r.ahead[i] = r.stmt.ColumnText(i)
		case sqlite3.BLOB:
			r.ahead[i] = r.stmt.ColumnBlob(i, []byte{})
		}
	}
	return nil
}

func (r *liteRows) Next() ([]any, error) {
	if r.p.done {
		return nil, durable.ErrTxDone
	}
	row := r.ahead
	if row == nil || r.closed {
		return nil, r.err
	}
	r.err = r.step()
	return row, nil
}

func (r *liteRows) Stats() durable.SQLStats {
	if !r.closed {
		r.stats.Changes = r.p.conn.TotalChanges() - r.before
		r.stats.RowsWritten = r.stats.Changes
		r.stats.LastInsertID = r.p.conn.LastInsertRowID()
		r.stats.Steps = int64(r.stmt.Status(sqlite3.STMTSTATUS_VM_STEP, false))
	}
	return r.stats
}

func (r *liteRows) Close() {
	if !r.closed {
		r.Stats()
		r.closed = true
		r.p.rows--
		r.stmt.Close()
	}
}
