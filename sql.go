package durable

import (
	"context"
	"database/sql"
)

// A SQL is the SQLite database of one object during one turn. Each object has
// its own; it comes into being with the first statement that writes. Every write
// of the turn, to SQL and to KV, is committed together when the handler returns,
// and undone together when it fails. In a [View] statements that write are
// refused.
//
// Its methods may be called by several goroutines at once. They return
// [ErrTxDone] after the turn, as do those of the zero SQL.
type SQL struct{ port SQLPort }

// NewSQL returns a SQL on the runtime's end of it.
func NewSQL(port SQLPort) SQL { return SQL{port} }

// Exec runs query at once and returns a cursor over the rows of its result. A
// statement that writes has written all when Exec returns, whether or not its
// rows are read. Nothing is durable before the commit of the turn.
//
// A query may be several statements separated by semicolons: they run in order,
// args belong to the last, and the cursor is of the last. When one fails, those
// before it stay. ctx bounds the statements, and the reading of their rows.
//
// The parameters of a statement are written ?, ?1, :name, @name or $name, the
// last three bound by [sql.Named]. An argument, or what it points to, is
//   - nil or a nil pointer: NULL
//   - an integer, a float or a string; a bool: 1 or 0; a [time.Duration]: its
//     nanoseconds
//   - a []byte: a blob, or NULL if it is nil
//   - a [time.Time]: text by [SQLTimeFormat]
//   - a [database/sql/driver.Valuer]: what it returns
//   - an enum of protobuf: its number
//   - a protobuf message: a blob, its binary encoding, but a Timestamp like a
//     time.Time, a Duration its nanoseconds, and a wrapper, such as StringValue,
//     what it wraps
//
// Others are refused with [ErrInvalidArgument], as are integers over the largest
// int64, NaN, which SQLite cannot hold, and times outside the years 0 to 9999.
// Arguments are copied.
//
// It returns a [SQLError] for what SQLite refuses, a wrong number of arguments
// among it, and a [LimitError] for a query over [SQLLimits].StatementBytes.
func (s SQL) Exec(ctx context.Context, query string, args ...any) (*Cursor, error) {
	if s.port == nil {
		return nil, ErrTxDone
	}
	bound, err := bindArgs(args)
	if err != nil {
		return nil, err
	}
	rows, err := s.port.Exec(ctx, query, bound, false)
	if err != nil {
		return nil, err
	}
	return newCursor(rows, s.port.MaxResultBytes())
}

// DatabaseSize returns the bytes that the database uses: its pages in use, what
// the turn wrote included, times 4,096. It is 0 before the first write.
func (s SQL) DatabaseSize(ctx context.Context) (int64, error) {
	if s.port == nil {
		return 0, ErrTxDone
	}
	return s.port.Size(ctx)
}

// Vacuum rebuilds the database without its unused pages, which otherwise stay
// with it for later use. It costs time, memory and a commit in proportion to
// the size of the database. It must come before the first SQL write of the turn,
// or right after [Tx].Sync, and returns [ErrInSavepoint] inside Savepoint. It is
// durable with the commit of the turn.
func (s SQL) Vacuum(ctx context.Context) error {
	if s.port == nil {
		return ErrTxDone
	}
	return s.port.Vacuum(ctx)
}

// A SQLPort is the runtime's end of a [SQL].
type SQLPort interface {
	// Exec runs the statements of query and returns the rows of the last. Args
	// are nil, int64, float64, string, []byte or [sql.NamedArg] with one of
	// these; they are not kept. reserved lets it use the tables of the runtime.
	Exec(ctx context.Context, query string, args []any, reserved bool) (RowsPort, error)
	// Savepoint begins a nested level and returns what ends it, keeping or
	// undoing what was written in it.
	Savepoint() (end func(keep bool) error, err error)
	// Size is [SQL].DatabaseSize.
	Size(ctx context.Context) (int64, error)
	// Vacuum is [SQL].Vacuum.
	Vacuum(ctx context.Context) error
	// DB returns what open returned the first time in this turn, and closes it
	// with the turn.
	DB(open func() *sql.DB) *sql.DB
	// MaxResultBytes returns the limit of [Cursor].All; 0 means the default.
	MaxResultBytes() int64
}

// A RowsPort is the runtime's end of a [Cursor].
type RowsPort interface {
	// Columns returns the names of the columns.
	Columns() []string
	// DeclTypes returns the declared types of the columns, "" for expressions.
	DeclTypes() []string
	// Next returns the values of the next row: nil, int64, float64, string and
	// []byte, which belong to the caller. It returns nil after the last.
	Next() ([]any, error)
	// Stats returns the counts so far.
	Stats() SQLStats
	// Close ends the statement. It may be called again.
	Close()
}

// SQLStats count what one statement did.
type SQLStats struct {
	RowsRead     int64 // an estimate
	RowsWritten  int64 // of tables and indexes
	Steps        int64 // of SQLite's virtual machine
	Changes      int64 // rows of tables, without those changed by triggers
	LastInsertID int64
}
