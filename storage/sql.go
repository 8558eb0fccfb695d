package storage

import (
	"context"
	"errors"
	"io"
	"strings"
)

// A SQLEngine gives objects SQL databases, whose pages are keys of the object's
// map. Package sqlitedb has one. Its methods may be called by several goroutines
// at once.
type SQLEngine interface {
	// Database returns the database of an object as r shows it. It reads and
	// opens nothing yet.
	Database(o ObjectID, r Reader, limits SQLLimits) SQLDatabase
	// Export writes the database of an object, as r shows it, to w as a SQLite
	// file, and returns its length: 0 when there is none.
	Export(ctx context.Context, o ObjectID, r Reader, w io.Writer) (int64, error)
	// Import reads a SQLite file, checks it, and gives its pages to commit, in
	// batches of which the last makes them the database of the object. It
	// fails with [ErrSQLExists] when the object has one already. What commit
	// was given before Import failed is to be undone by the caller.
	Import(ctx context.Context, o ObjectID, r Reader, limits SQLLimits, src io.Reader, commit func(b *Batch) error) error
}

// ErrSQLExists: the object has a SQL database already; nothing was imported.
var ErrSQLExists = errors.New("storage: the object has a SQL database already")

// A SQLDatabase is the database of one object in memory. One value at a time
// serves an object, and the object changes through its sessions alone.
type SQLDatabase interface {
	// Begin returns a session. One that writes is alone; those that only read
	// may run together. live is called before everything a session does, and
	// what it returns ends that; it must not block. ctx bounds every statement
	// of the session beside the statement's own context: when it ends in the
	// middle of one, the session is broken.
	Begin(ctx context.Context, write bool, live func() error) SQLSession
	// Close releases what is open, at the latest when the sessions have ended.
	Close()
}

// A SQLSession is the use of a database in one turn. All its writes are one
// transaction, begun by the first of them. Its methods may be called by several
// goroutines at once.
//
// A session is broken once its transaction was lost, or its context ended in
// the middle of a statement. Everything it is asked then, except Rollback and
// End, fails with the error that broke it.
type SQLSession interface {
	// Exec runs the statements of query one after another and returns the rows
	// of the last, to which args belong. Those are nil, int64, float64, string,
	// []byte, or [database/sql.NamedArg] with such a value; they are not kept.
	Exec(ctx context.Context, query string, args []any, opts SQLOptions) (SQLRows, error)
	// Size returns the bytes of the pages in use, what the session wrote
	// included.
	Size(ctx context.Context) (int64, error)
	// Vacuum rebuilds the database without its unused pages. It fails when the
	// session has written already.
	Vacuum(ctx context.Context) error
	// Savepoint begins a nested level.
	Savepoint() error
	// Release ends the innermost level and keeps what was written in it, or
	// undoes it.
	Release(undo bool) error
	// Wipe empties the database, as [Batch.Wipe] does with the object.
	Wipe()
	// Wrote reports whether a statement changed something, or a transaction was
	// lost, since the beginning or the last Flush or Rollback, also where that was
	// undone since.
	Wrote() bool
	// Pending reports whether there is a transaction for Flush to commit, which
	// may have changed nothing.
	Pending() bool
	// Err returns what broke the session, nil if nothing did.
	Err() error
	// Flush adds the changed pages to b. Settle must then be told whether b was
	// committed: statements wait until it is. When Flush fails the session is
	// broken, and b unchanged.
	Flush(b *Batch) error
	// Settle tells what became of the batch of the last Flush: nil when it was
	// applied.
	Settle(err error)
	// Rollback undoes everything since the beginning or the last Flush.
	Rollback()
	// End ends the session and closes its rows. What was not flushed is undone.
	End()
}

// SQLOptions say what a statement may do.
type SQLOptions struct {
	// Reserved lets it use the tables whose names begin with [SQLReserved].
	Reserved bool
}

// SQLSpace is the first byte of the keys of a database's pages in the object's
// map. After it comes the number of the page, from 1, in four bytes, big-endian.
const SQLSpace = 's'

// SQLReserved begins the names of the tables that belong to the runtime.
const SQLReserved = "_durable_"

// SQLRows are the rows that a statement returns. They are closed with their
// session.
type SQLRows interface {
	// Columns returns the names of the columns; there are none for a statement
	// without rows.
	Columns() []string
	// DeclTypes returns what the schema says of each column's type, "" for
	// expressions.
	DeclTypes() []string
	// Next returns the values of the next row: nil, int64, float64, string and
	// []byte, which belong to the caller. It returns nil after the last.
	Next() ([]any, error)
	// Stats returns the counts so far. They are final after the last row.
	Stats() SQLStats
	// Close ends the statement.
	Close()
}

// SQLStats count what one statement did.
type SQLStats struct {
	RowsRead     int64 // an estimate
	RowsWritten  int64 // of tables and indexes
	Steps        int64 // of the virtual machine
	Changes      int64 // rows of tables, without those changed by triggers
	LastInsertID int64 // of the connection
}

// SQLLimits bound the database of one object. All are set.
type SQLLimits struct {
	DatabaseBytes  int64
	RowBytes       int
	StatementBytes int
	Parameters     int
	Columns        int
	CompoundTerms  int
	LikeBytes      int
	TriggerDepth   int
	ExprDepth      int
	FunctionArgs   int
	Instructions   int
	MemoryBytes    int64
}

// A SQLError is what the SQL engine says of a statement.
type SQLError struct {
	// Code is SQLite's extended result code, such as
	// "SQLITE_CONSTRAINT_UNIQUE".
	Code string
	// Message is SQLite's text, without the code.
	Message string
	// Hint says what to do instead; empty where there is nothing to say.
	Hint string
	// Constraint names the constraint that was violated as SQLite does:
	// "table.column" or several of them for UNIQUE, NOT NULL and PRIMARY KEY,
	// the name or the expression of a CHECK; empty otherwise.
	Constraint string
	// Offset is where in the text of the query the error is, in bytes; -1 when
	// that is not known.
	Offset int
	// Lost is set when the whole transaction is lost, and the session broken.
	Lost bool
	// Err is the cause outside of the SQL engine, if any.
	Err error
}

func (e *SQLError) Error() string {
	var b strings.Builder
	b.WriteString(e.Code)
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *SQLError) Unwrap() error { return e.Err }
