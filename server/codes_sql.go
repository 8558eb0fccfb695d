package server

import (
	"errors"
	"regexp"
	"strings"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

// judgeSQL decides what the caller is told of an error of SQLite without a cause
// outside of it. What is no matter of data or limits is a fault of the handler.
func judgeSQL(e *durable.SQLError) verdict {
	v := verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
		message: sqlMessage(e),
	}
	switch code := e.Code; {
	case code == "SQLITE_CONSTRAINT_UNIQUE", code == "SQLITE_CONSTRAINT_PRIMARYKEY", code == "SQLITE_CONSTRAINT_ROWID":
		v.code = connect.CodeAlreadyExists
	case isSQLCode(code, "SQLITE_CONSTRAINT"):
		v.code = connect.CodeFailedPrecondition
	case isSQLCode(code, "SQLITE_CORRUPT"), isSQLCode(code, "SQLITE_NOTADB"):
		v.code, v.reason = connect.CodeDataLoss, durablev1.ErrorReason_ERROR_REASON_DATA_LOSS
		v.message = "stored data of the object does not verify"
	case isSQLCode(code, "SQLITE_FULL"):
		v.code, v.reason = connect.CodeResourceExhausted, durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT
	case isSQLCode(code, "SQLITE_TOOBIG"), isSQLCode(code, "SQLITE_NOMEM"), code == "SQLITE_IOERR_NOMEM":
		v.code = connect.CodeResourceExhausted
	}
	return v
}

// sqlErrorOf returns what SQLite said, nil if err is not of SQLite.
func sqlErrorOf(err error) *durable.SQLError {
	var e *durable.SQLError
	var stored *storage.SQLError
	if !errors.As(err, &e) && errors.As(err, &stored) {
		said := durable.SQLError(*stored)
		e = &said
	}
	return e
}

// isSQLCode reports whether code is the primary code, or an extended one of it.
func isSQLCode(code, primary string) bool {
	return code == primary || strings.HasPrefix(code, primary+"_")
}

// judgeMigration: a step that cannot be applied says nothing of the request,
// whatever SQLite refused it for.
func judgeMigration(e *durable.MigrationError) verdict {
	said := *e
	said.Err = nil
	what := text(&said)
	if e.Err == nil { // the database and the program do not fit together
		return verdict{
			code: connect.CodeFailedPrecondition, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
			message: cut(what, maxSQLText),
		}
	}
	v := judge(e.Err)
	switch v.code {
	case connect.CodeAlreadyExists, connect.CodeFailedPrecondition:
		v.code = connect.CodeInternal
	case connect.CodeUnknown:
		v = verdict{code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_SQL}
	}
	if v.message == "" {
		v.message = "it failed"
	}
	v.message = cut(what+": "+v.message, maxSQLText)
	return v
}

// maxSQLText is how many bytes of a text by SQLite leave the server. Where they
// are headers, more would not arrive.
const maxSQLText = 1024

// sqlDetail is the error as the caller sees it in the details.
func sqlDetail(e *durable.SQLError) *durablev1.SqlError {
	d := &durablev1.SqlError{Code: e.Code, Constraint: cut(e.Constraint, maxSQLText)}
	if e.Offset >= 0 {
		offset := int32(e.Offset) //nolint:gosec // a statement has at most 1e9 bytes
		d.Offset = &offset
	}
	return d
}

// sqlMessage is the error as the caller sees it in the message: without its
// cause, and without what SQLite quotes of the statement and its arguments.
func sqlMessage(e *durable.SQLError) string {
	said := *e
	said.Err = nil
	switch {
	case e.Code == "SQLITE_INTERNAL": // what it panicked with may be anything
		said.Message = "the SQL engine failed"
	case !isSQLCode(e.Code, "SQLITE_CONSTRAINT"): // there it is of the schema
		said.Message = withoutQuotes(e.Message)
	}
	return cut(text(&said), maxSQLText)
}

// plain are words and signs that are no values.
var plain = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.]{0,63}|[^A-Za-z0-9'"\s]{1,3})?$`)

// withoutQuotes replaces what a message quotes, from the first quote to the last
// one of its kind, unless it is plain.
func withoutQuotes(message string) string {
	for _, quote := range []string{`"`, `'`} {
		begin := strings.Index(" "+message, " "+quote)
		if begin < 0 {
			continue
		}
		begin++
		end := max(begin, strings.LastIndex(message, quote))
		if !plain.MatchString(message[begin:end]) {
			return message[:begin] + "…" + message[end:]
		}
	}
	return message
}

// cut returns the beginning of a text, of at most limit bytes, as valid UTF-8.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
	}
	return s
}

// ended returns what a call ended with as the caller sees it. A SQL error that is
// no matter of the caller is logged, once, with everything that is known of it.
func (s *Server) ended(err error, r *route, id durable.ID) *connect.Error {
	out := wireError(err, r, id)
	if s.opts.logger == nil || !isSQLFault(err, out.Code()) {
		return out
	}
	attrs := []any{"type", r.typ.Name, "id", id.String(), "procedure", r.method.Procedure}
	if e := sqlErrorOf(err); e != nil {
		attrs = append(attrs, "code", e.Code, "offset", e.Offset)
	}
	s.opts.logger.Error("SQL failed", append(attrs, "error", err.Error())...)
	return out
}

// isSQLFault reports whether err is a SQL error that somebody has to look at.
func isSQLFault(err error, code connect.Code) bool {
	var coded *connect.Error
	if errors.As(err, &coded) || actor.Waited(err) { // by the handler, or by another call
		return false
	}
	var scan *durable.ScanError
	var migration *durable.MigrationError
	switch {
	case errors.As(err, &migration):
		return true
	case sqlErrorOf(err) != nil, errors.As(err, &scan), errors.Is(err, durable.ErrManyRows), errors.Is(err, durable.ErrNoSQL):
		return code == connect.CodeInternal || code == connect.CodeDataLoss
	}
	return false
}
