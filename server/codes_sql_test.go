package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

func sqlError(code string, cause error) *durable.SQLError {
	return &durable.SQLError{Code: code, Message: "said", Hint: "do something else", Offset: -1, Err: cause}
}

type sqlRow struct {
	err  *durable.SQLError
	code connect.Code
	info *durablev1.ErrorInfo
}

// sqlRows are the rows of TestCodes for [durable.SQLError].
func sqlRows(secret string) []sqlRow {
	const (
		bySQL   = durablev1.ErrorReason_ERROR_REASON_SQL
		loss    = durablev1.ErrorReason_ERROR_REASON_DATA_LOSS
		limited = durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT
	)
	hidden := fmt.Errorf("read %s: %w", secret, storage.ErrUnavailable)
	lost := sqlError("SQLITE_NOMEM", nil)
	lost.Lost = true
	late := sqlError("SQLITE_INTERRUPT", context.DeadlineExceeded)
	late.Lost = true
	return []sqlRow{
		{sqlError("SQLITE_CONSTRAINT_UNIQUE", nil), connect.CodeAlreadyExists, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_PRIMARYKEY", nil), connect.CodeAlreadyExists, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_ROWID", nil), connect.CodeAlreadyExists, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_CHECK", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_FOREIGNKEY", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_NOTNULL", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_TRIGGER", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CONSTRAINT_DATATYPE", nil), connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_FULL", nil), connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: limited}},
		{sqlError("SQLITE_TOOBIG", nil), connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: bySQL}},
		{lost, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: bySQL, ObjectReset: true}},
		{sqlError("SQLITE_IOERR_NOMEM", nil), connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_ERROR", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_AUTH", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_MISUSE", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_MISMATCH", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_READONLY", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_RANGE", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_IOERR_READ", nil), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_ERROR", fmt.Errorf("%s", secret)), connect.CodeInternal, &durablev1.ErrorInfo{Reason: bySQL}},
		{sqlError("SQLITE_CORRUPT", nil), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: loss}},
		{sqlError("SQLITE_CORRUPT_VTAB", nil), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: loss}},
		{sqlError("SQLITE_NOTADB", nil), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: loss}},

		// A cause comes first, whatever SQLite makes of it.
		{sqlError("SQLITE_INTERRUPT", context.Canceled), connect.CodeCanceled, &durablev1.ErrorInfo{}},
		{late, connect.CodeDeadlineExceeded, &durablev1.ErrorInfo{ObjectReset: true}},
		{sqlError("SQLITE_CORRUPT", storage.ErrCorrupt), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: loss}},
		{sqlError("SQLITE_IOERR_READ", storage.ErrCorrupt), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: loss}},
		{sqlError("SQLITE_IOERR_READ", hidden), connect.CodeUnavailable, &durablev1.ErrorInfo{}},
		{
			sqlError("SQLITE_IOERR_READ", fmt.Errorf("%w: %w", durable.ErrNotOwner, storage.ErrLost)), connect.CodeUnavailable,
			&durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER, Retryable: true, ObjectReset: true},
		},
		{sqlError("SQLITE_INTERRUPT", durable.ErrTxDone), connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}},
	}
}

// TestSQLMessages: SQLite quotes the statement, which is not the caller's to see.
func TestSQLMessages(t *testing.T) {
	for _, c := range []struct{ name, code, message, want string }{
		{"a word", "SQLITE_ERROR", `near "SELEC": syntax error`, `near "SELEC": syntax error`},
		{"a sign", "SQLITE_ERROR", `near ")": syntax error`, `near ")": syntax error`},
		{"no quotes", "SQLITE_ERROR", "no such table: users", "no such table: users"},
		{"a literal", "SQLITE_ERROR", `near "'secret'": syntax error`, `near "…": syntax error`},
		{"a number", "SQLITE_ERROR", `near "4111111": syntax error`, `near "…": syntax error`},
		{"the rest of the statement", "SQLITE_ERROR", `unrecognized token: "'secret "x" and more"`, `unrecognized token: "…"`},
		{"not closed", "SQLITE_ERROR", `unrecognized token: "`, `unrecognized token: "`},
		{"an argument", "SQLITE_ERROR", "bad JSON path: 'the secret'", "bad JSON path: '…'"},
		{"at the beginning", "SQLITE_ERROR", `"a secret" is refused`, `"…" is refused`},
		{"a panic", "SQLITE_INTERNAL", "the SQL engine panicked: secret", "the SQL engine failed"},
		{"of the schema", "SQLITE_CONSTRAINT_CHECK", `CHECK constraint failed: "a" > 'b c'`, `CHECK constraint failed: "a" > 'b c'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := sqlMessage(&durable.SQLError{Code: c.code, Message: c.message, Hint: "hint", Err: storage.ErrCorrupt})
			if want := c.code + ": " + c.want + " (hint)"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	for _, s := range []string{strings.Repeat("é", maxSQLText), "x" + strings.Repeat("é", maxSQLText), strings.Repeat("\xffé", maxSQLText), "\xff"} {
		if got := cut(s, maxSQLText); !utf8.ValidString(got) || len(got) > maxSQLText || len(s) > maxSQLText && len(got) < maxSQLText-3 {
			t.Errorf("%d bytes of %q, valid: %v", len(got), got[:min(20, len(got))], utf8.ValidString(got))
		}
	}
}

// TestSQLDetail: the detail survives texts that Protobuf refuses, and tells 0
// from unknown.
func TestSQLDetail(t *testing.T) {
	err := wireError(&durable.SQLError{Code: "SQLITE_CONSTRAINT_CHECK", Constraint: strings.Repeat("a\xff", maxSQLText), Offset: 0}, nil, durable.ID{})
	if len(err.Details()) != 1 {
		t.Fatalf("%d details", len(err.Details()))
	}
	msg, derr := connectproto.UnmarshalErrorDetail(err.Details()[0])
	if derr != nil {
		t.Fatal(derr)
	}
	sql := msg.(*durablev1.ErrorInfo).GetSql()
	if sql.Offset == nil || sql.GetOffset() != 0 || len(sql.GetConstraint()) > maxSQLText {
		t.Errorf("%v", sql)
	}
}

// TestSQLFaultsAreLogged: what is no matter of the caller is in the log, with
// all that is known; everything else is not.
func TestSQLFaultsAreLogged(t *testing.T) {
	syntax := &durable.SQLError{Code: "SQLITE_ERROR", Message: `near "'secret'": syntax error`, Offset: 7}
	for _, c := range []struct {
		name string
		err  error
		want []string // in the log; nothing if empty
	}{
		{"syntax error", fmt.Errorf("add user: %w", syntax), []string{"code=SQLITE_ERROR", "offset=7", "add user", "'secret'"}},
		{"cause", sqlError("SQLITE_CORRUPT", fmt.Errorf("page 3: %w", storage.ErrCorrupt)), []string{"code=SQLITE_CORRUPT", "page 3"}},
		{"constructor", &durable.ConstructorError{Err: syntax}, []string{"code=SQLITE_ERROR"}},
		{"scan", &durable.ScanError{Column: "age", Err: fmt.Errorf("NULL does not fit")}, []string{"age", "NULL does not fit"}},
		{"many rows", fmt.Errorf("of user: %w", durable.ErrManyRows), []string{"of user"}},
		{"migration that failed", &durable.MigrationError{Position: 1, Name: "first", Err: syntax}, []string{"first", "code=SQLITE_ERROR"}},
		{"migration that is refused", &durable.MigrationError{Position: 1, Name: "first", Problem: "changed"}, []string{"first", "changed"}},
		{"no engine", durable.ErrNoSQL, []string{"WithSQL"}},

		{"constraint", sqlError("SQLITE_CONSTRAINT_UNIQUE", nil), nil},
		{"full", sqlError("SQLITE_FULL", nil), nil},
		{"no row", durable.ErrNoRow, nil},
		{"deadline", sqlError("SQLITE_INTERRUPT", context.DeadlineExceeded), nil},
		{"the handler's word", connect.NewError(connect.CodeInternal, "x").WithCause(syntax), nil},
		{"passed on", &innerError{wireError(syntax, nil, durable.ID{})}, nil},
		{"not of SQL", durable.ErrTxDone, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			s := &Server{opts: options{logger: slog.New(slog.NewTextHandler(&log, nil))}}
			r := &route{typ: &actor.Type{ObjectType: &durable.ObjectType{Name: "user"}}, method: &durable.Method{Procedure: "/p.S/M"}}
			id := durable.IDFromName("user", "a")
			_ = s.ended(c.err, r, id)
			got := log.String()
			if len(c.want) == 0 {
				if got != "" {
					t.Errorf("logged %s", got)
				}
				return
			}
			for _, want := range append(c.want, "level=ERROR", "type=user", "id="+id.String(), "procedure=/p.S/M") {
				if !strings.Contains(got, want) {
					t.Errorf("no %s in %s", want, got)
				}
			}
			if strings.Count(got, "\n") != 1 {
				t.Errorf("more than one line: %s", got)
			}
		})
	}
}
