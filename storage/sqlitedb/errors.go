package sqlitedb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/durable-go/durable/storage"
)

// failed makes a [storage.SQLError] of what SQLite returned for text. The caller
// holds the lock of the connection.
func (c *conn) failed(err error, text string) error {
	var stored *storage.SQLError
	if err == nil || errors.As(err, &stored) {
		return err
	}
	code, ok := extendedCode(err)
	if !ok {
		return &storage.SQLError{Code: "SQLITE_ERROR", Offset: -1, Err: err}
	}
	e := &storage.SQLError{Code: codeName(code), Offset: -1}
	e.Message = message(err, code)
	var full *sqlite3.Error
	if errors.As(err, &full) && full.SQL() != "" && len(full.SQL()) <= len(text) {
		e.Offset = len(text) - len(full.SQL())
	}
	if e.Message == "incomplete input" {
		e.Offset = len(text)
	}
	cause := c.file.err
	c.file.err = nil
	switch code.Code() {
	case sqlite3.AUTH:
		if c.guard.denied != nil {
			*e = *c.guard.denied
		}
	case sqlite3.INTERRUPT:
		if e.Err = c.intr.err; e.Err == nil {
			e.Err = context.Canceled
		}
	case sqlite3.CONSTRAINT:
		for _, kind := range []string{"UNIQUE", "NOT NULL", "CHECK", "PRIMARY KEY"} {
			if name, ok := strings.CutPrefix(e.Message, kind+" constraint failed: "); ok {
				e.Constraint = name
			}
		}
	case sqlite3.CORRUPT, sqlite3.NOTADB:
		c.doomed.Store(true)
		e.Err = storage.ErrCorrupt
	case sqlite3.IOERR, sqlite3.CANTOPEN:
		c.doomed.Store(true)
		e.Err = cause
	case sqlite3.LOCKED:
		e.Hint = "a cursor still reads the table: read it to its end, or close it"
	case sqlite3.FULL:
		e.Hint = fmt.Sprintf("the limit of the database is %d bytes: delete something, or raise Limits.SQL.DatabaseBytes", c.db.limits.DatabaseBytes)
	case sqlite3.TOOBIG:
		e.Hint = fmt.Sprintf("the limit of a row, a string and a blob is %d bytes: Limits.SQL.RowBytes", c.db.limits.RowBytes)
	case sqlite3.ERROR:
		switch {
		case c.guard.denied != nil && strings.HasPrefix(e.Message, "not authorized"): // a function
			denied := *c.guard.denied
			denied.Offset = e.Offset
			*e = denied
		case strings.EqualFold(e.Message, "no such function: load_extension"):
			e.Code, e.Message = "SQLITE_AUTH", "the function load_extension is refused"
			e.Hint = "compute it in Go"
		}
	}
	return e
}

// panicked is the error of a panic of SQLite: out of memory, or a bug, which is
// logged.
func (e *Engine) panicked(v any) error {
	text := fmt.Sprint(v)
	out := &storage.SQLError{Code: "SQLITE_NOMEM", Offset: -1}
	switch {
	case strings.Contains(text, "out of memory"):
		out.Message = "out of memory"
		out.Hint = "the statement needs more memory than a connection may use, Limits.SQL.MemoryBytes, or its program is longer than Limits.SQL.Instructions"
	case belowMemory.MatchString(text):
		out.Message = "the stack of the SQL engine is full"
		out.Hint = "an expression or a compound SELECT of the statement is too deep: make it several"
	default:
		out.Code, out.Message = "SQLITE_INTERNAL", "the SQL engine panicked"
		e.opts.Logger.Error("the SQL engine panicked", "panic", text, "stack", string(debug.Stack()))
	}
	return out
}

// belowMemory matches the panic of an access just below address 0: the stack is at
// the beginning of the memory, and grows down.
var belowMemory = regexp.MustCompile(`(index|bounds) out of range \[:?42949\d{5}`)

func extendedCode(err error) (sqlite3.ExtendedErrorCode, bool) {
	var full *sqlite3.Error
	var extended sqlite3.ExtendedErrorCode
	var code sqlite3.ErrorCode
	switch {
	case errors.As(err, &full):
		return full.ExtendedCode(), true
	case errors.As(err, &extended):
		return extended, true
	case errors.As(err, &code):
		return sqlite3.ExtendedErrorCode(code), true
	}
	return 0, false
}

// message returns the text of an error without what the code says already.
func message(err error, code sqlite3.ExtendedErrorCode) string {
	general := code.Error()
	text := err.Error()
	if special, ok := strings.CutPrefix(text, general+": "); ok {
		return special
	}
	return strings.TrimPrefix(text, "sqlite3: ")
}

// nameTimeout is how long it may take to find out which foreign key failed: all
// tables are looked over.
const nameTimeout = 200 * time.Millisecond

// nameForeignKey adds to the error of a commit which tables have rows without
// their parents: SQLite does not say.
func (c *conn) nameForeignKey(err error) {
	var e *storage.SQLError
	if !errors.As(err, &e) || e.Code != "SQLITE_CONSTRAINT_FOREIGNKEY" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), nameTimeout)
	defer cancel()
	if c.intr.reset(ctx, ctx, func() error { return nil }) != nil {
		return
	}
	defer func() { c.intr = interrupter{} }()
	c.guard.internal = true
	defer func() { c.guard.internal = false }()
	stmt, _, perr := c.lite.Prepare("PRAGMA foreign_key_check")
	if perr != nil {
		return
	}
	defer func() { _ = stmt.Close() }()
	if stmt.Step() {
		e.Constraint = stmt.ColumnText(0) + " references " + stmt.ColumnText(2)
		e.Message += ": " + e.Constraint
	}
}

// codeName returns the name of a result code: see https://sqlite.org/rescode.html.
func codeName(code sqlite3.ExtendedErrorCode) string {
	if name, ok := extendedNames[code]; ok {
		return name
	}
	if name, ok := primaryNames[code.Code()]; ok {
		return name
	}
	return fmt.Sprintf("SQLITE_%d", uint(code))
}

var primaryNames = map[sqlite3.ErrorCode]string{
	sqlite3.ERROR: "SQLITE_ERROR", sqlite3.INTERNAL: "SQLITE_INTERNAL", sqlite3.PERM: "SQLITE_PERM",
	sqlite3.ABORT: "SQLITE_ABORT", sqlite3.BUSY: "SQLITE_BUSY", sqlite3.LOCKED: "SQLITE_LOCKED",
	sqlite3.NOMEM: "SQLITE_NOMEM", sqlite3.READONLY: "SQLITE_READONLY", sqlite3.INTERRUPT: "SQLITE_INTERRUPT",
	sqlite3.IOERR: "SQLITE_IOERR", sqlite3.CORRUPT: "SQLITE_CORRUPT", sqlite3.NOTFOUND: "SQLITE_NOTFOUND",
	sqlite3.FULL: "SQLITE_FULL", sqlite3.CANTOPEN: "SQLITE_CANTOPEN", sqlite3.PROTOCOL: "SQLITE_PROTOCOL",
	sqlite3.SCHEMA: "SQLITE_SCHEMA", sqlite3.TOOBIG: "SQLITE_TOOBIG", sqlite3.CONSTRAINT: "SQLITE_CONSTRAINT",
	sqlite3.MISMATCH: "SQLITE_MISMATCH", sqlite3.MISUSE: "SQLITE_MISUSE", sqlite3.NOLFS: "SQLITE_NOLFS",
	sqlite3.AUTH: "SQLITE_AUTH", sqlite3.RANGE: "SQLITE_RANGE", sqlite3.NOTADB: "SQLITE_NOTADB",
}

var extendedNames = map[sqlite3.ExtendedErrorCode]string{
	sqlite3.CONSTRAINT_CHECK:      "SQLITE_CONSTRAINT_CHECK",
	sqlite3.CONSTRAINT_COMMITHOOK: "SQLITE_CONSTRAINT_COMMITHOOK",
	sqlite3.CONSTRAINT_DATATYPE:   "SQLITE_CONSTRAINT_DATATYPE",
	sqlite3.CONSTRAINT_FOREIGNKEY: "SQLITE_CONSTRAINT_FOREIGNKEY",
	sqlite3.CONSTRAINT_FUNCTION:   "SQLITE_CONSTRAINT_FUNCTION",
	sqlite3.CONSTRAINT_NOTNULL:    "SQLITE_CONSTRAINT_NOTNULL",
	sqlite3.CONSTRAINT_PINNED:     "SQLITE_CONSTRAINT_PINNED",
	sqlite3.CONSTRAINT_PRIMARYKEY: "SQLITE_CONSTRAINT_PRIMARYKEY",
	sqlite3.CONSTRAINT_ROWID:      "SQLITE_CONSTRAINT_ROWID",
	sqlite3.CONSTRAINT_TRIGGER:    "SQLITE_CONSTRAINT_TRIGGER",
	sqlite3.CONSTRAINT_UNIQUE:     "SQLITE_CONSTRAINT_UNIQUE",
	sqlite3.CONSTRAINT_VTAB:       "SQLITE_CONSTRAINT_VTAB",
	sqlite3.IOERR_READ:            "SQLITE_IOERR_READ",
	sqlite3.IOERR_SHORT_READ:      "SQLITE_IOERR_SHORT_READ",
	sqlite3.IOERR_WRITE:           "SQLITE_IOERR_WRITE",
	sqlite3.IOERR_CORRUPTFS:       "SQLITE_IOERR_CORRUPTFS",
	sqlite3.CORRUPT_VTAB:          "SQLITE_CORRUPT_VTAB",
	sqlite3.CORRUPT_INDEX:         "SQLITE_CORRUPT_INDEX",
	sqlite3.CORRUPT_SEQUENCE:      "SQLITE_CORRUPT_SEQUENCE",
	sqlite3.ABORT_ROLLBACK:        "SQLITE_ABORT_ROLLBACK",
}
