package durable

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// DB returns the database for code that wants a [sql.DB]: generated queries,
// mappers, other libraries. It is bound to the turn, which closes it: its
// statements read and write what those of Exec do, and all its connections are
// one. It returns the same DB when it is called again, and a closed one when s is
// the zero SQL. After the turn, and inside [Tx].Await, the DB says that it is
// closed, in the words of database/sql; transactions, connections and rows of it
// return [ErrTxDone].
//
// A transaction of it is a savepoint of the turn: Commit makes nothing durable,
// the commit of the turn does, and statements outside of it that run meanwhile
// belong to it too. Transactions end in the reverse order of their beginning.
// One left open is undone when the turn ends, and leaks a goroutine unless its
// context ends. The isolation levels are the default and serializable, which are
// the same; read-only transactions are refused: a [View] reads.
//
// Arguments are as for Exec. Columns declared as DATE, DATETIME, TIMESTAMP or
// TIME give a [time.Time] where their text is a time by the rules of [All], and
// columns declared as BOOL or BOOLEAN a bool where it is 0 or 1. A statement
// with errors is refused when it runs, not when it is prepared.
func (s SQL) DB() *sql.DB {
	if s.port == nil {
		db := sql.OpenDB(connector{})
		_ = db.Close() // it has no connections that could fail to
		return db
	}
	return s.port.DB(func() *sql.DB { return sql.OpenDB(connector(s)) })
}

// A connector makes the connections of a DB.
type connector struct{ port SQLPort }

func (c connector) Connect(context.Context) (driver.Conn, error) { return &driverConn{c.port}, nil }
func (c connector) Driver() driver.Driver                        { return turnDriver{} }

// A turnDriver is the driver of a DB, which can be opened by [SQL].DB alone.
type turnDriver struct{}

func (turnDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("durable: the database of an object is opened by SQL.DB")
}

// A driverConn is a connection: it has no state, for the turn has.
type driverConn struct{ port SQLPort }

var (
	_ driver.ExecerContext      = (*driverConn)(nil)
	_ driver.QueryerContext     = (*driverConn)(nil)
	_ driver.ConnBeginTx        = (*driverConn)(nil)
	_ driver.ConnPrepareContext = (*driverConn)(nil)
	_ driver.NamedValueChecker  = (*driverConn)(nil)
)

func (c *driverConn) Close() error { return nil }

func (c *driverConn) CheckNamedValue(arg *driver.NamedValue) error {
	value, err := bindArg(arg.Ordinal, arg.Value)
	arg.Value = value
	return err
}

func (c *driverConn) exec(ctx context.Context, query string, named []driver.NamedValue) (RowsPort, error) {
	args := make([]any, len(named))
	for i, arg := range named {
		args[i] = arg.Value
		if arg.Name != "" {
			args[i] = sql.NamedArg{Name: arg.Name, Value: arg.Value}
		}
	}
	return c.port.Exec(ctx, query, args, false)
}

func (c *driverConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	rows, err := c.exec(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if err := drain(rows); err != nil {
		return nil, err
	}
	return driverResult(rows.Stats()), nil
}

func (c *driverConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.exec(ctx, query, args)
	if err != nil {
		return nil, err
	}
	r := &driverRows{rows: rows, columns: rows.Columns()}
	for _, declared := range rows.DeclTypes() {
		r.types = append(r.types, declName(declared))
	}
	return r, nil
}

func (c *driverConn) Prepare(query string) (driver.Stmt, error) {
	return &driverStmt{c, query}, nil
}

func (c *driverConn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return c.Prepare(query)
}

func (c *driverConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *driverConn) BeginTx(_ context.Context, opts driver.TxOptions) (driver.Tx, error) {
	switch level := sql.IsolationLevel(opts.Isolation); {
	case level != sql.LevelDefault && level != sql.LevelSerializable:
		return nil, fmt.Errorf("%w: the isolation level %s is not supported, all are serializable", ErrInvalidArgument, level)
	case opts.ReadOnly:
		return nil, fmt.Errorf("%w: a read-only transaction is not supported, use a view", ErrInvalidArgument)
	}
	end, err := c.port.Savepoint()
	if err != nil {
		return nil, err
	}
	return driverTx(end), nil
}

// A driverTx ends a savepoint.
type driverTx func(keep bool) error

func (tx driverTx) Commit() error   { return tx(true) }
func (tx driverTx) Rollback() error { return tx(false) }

// A driverResult is what a statement did.
type driverResult SQLStats

func (r driverResult) LastInsertId() (int64, error) { return r.LastInsertID, nil }
func (r driverResult) RowsAffected() (int64, error) { return r.Changes, nil }

// A driverStmt is the text of a statement. The turn keeps what it is compiled to.
type driverStmt struct {
	conn  *driverConn
	query string
}

var (
	_ driver.StmtExecContext  = (*driverStmt)(nil)
	_ driver.StmtQueryContext = (*driverStmt)(nil)
)

func (s *driverStmt) Close() error  { return nil }
func (s *driverStmt) NumInput() int { return -1 } // SQLite counts them

func (s *driverStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *driverStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

// Exec is not called, as there is ExecContext.
func (s *driverStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

// Query is not called, as there is QueryContext.
func (s *driverStmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }

// driverRows are the rows of a statement.
type driverRows struct {
	rows    RowsPort
	columns []string
	types   []string // without lengths, in upper case
}

var (
	_ driver.RowsColumnTypeDatabaseTypeName = (*driverRows)(nil)
	_ driver.RowsColumnTypeScanType         = (*driverRows)(nil)
)

func (r *driverRows) Columns() []string { return r.columns }

func (r *driverRows) Close() error {
	r.rows.Close()
	return nil
}

func (r *driverRows) Next(dest []driver.Value) error {
	values, err := r.rows.Next()
	if err != nil {
		return err
	}
	if values == nil {
		return io.EOF
	}
	for i, v := range values {
		dest[i] = v
		switch v := v.(type) {
		case string:
			if isTimeName(r.types[i]) {
				if t, ok := parseTime(v); ok {
					dest[i] = t
				}
			}
		case int64:
			if isBoolName(r.types[i]) && (v == 0 || v == 1) {
				dest[i] = v == 1
			}
		}
	}
	return nil
}

func (r *driverRows) ColumnTypeDatabaseTypeName(i int) string { return r.types[i] }

// ColumnTypeScanType goes by SQLite's rules of affinity. Any column may be NULL.
func (r *driverRows) ColumnTypeScanType(i int) reflect.Type {
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(r.types[i], part) {
				return true
			}
		}
		return false
	}
	switch name := r.types[i]; {
	case isTimeName(name):
		return reflect.TypeFor[sql.Null[time.Time]]()
	case isBoolName(name):
		return reflect.TypeFor[sql.Null[bool]]()
	case has("INT"):
		return reflect.TypeFor[sql.Null[int64]]()
	case has("CHAR", "CLOB", "TEXT"):
		return reflect.TypeFor[sql.Null[string]]()
	case has("BLOB"):
		return reflect.TypeFor[[]byte]()
	case has("REAL", "FLOA", "DOUBLE"):
		return reflect.TypeFor[sql.Null[float64]]()
	}
	return reflect.TypeFor[any]()
}

// declName returns a declared type without its length, in upper case.
func declName(declared string) string {
	name, _, _ := strings.Cut(declared, "(")
	return strings.ToUpper(strings.TrimSpace(name))
}

func isTimeName(name string) bool {
	return name == "DATE" || name == "DATETIME" || name == "TIME" || strings.HasPrefix(name, "TIMESTAMP")
}

func isBoolName(name string) bool { return name == "BOOL" || name == "BOOLEAN" }
