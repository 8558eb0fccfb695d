package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/storage"
)

type codeRow struct {
	name string
	err  error
	code connect.Code
	info *durablev1.ErrorInfo
}

// TestCodes holds a row for every exported sentinel and error type of packages
// durable and storage, under its name in the source.
func TestCodes(t *testing.T) {
	const secret = "/var/lib/secret: SELECT password"
	// What handlers wrap around these stays here, as with all of storage.
	quiet := []string{
		"durable.PanicError", "durable.ErrMalformedValue",
		"durable.ErrNoRow", "durable.ErrManyRows", "durable.ErrNoSQL", "durable.SQLError", "durable.ScanError", "durable.MigrationError",
	}
	rows := []codeRow{
		{"durable.ErrTxDone", durable.ErrTxDone, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}},
		{"durable.ErrReset", durable.ErrReset, connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true}},
		{"durable.ErrStuck", fmt.Errorf("%w: %w", durable.ErrReset, durable.ErrStuck), connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STUCK, ObjectReset: true}},
		{"durable.ErrCommitFailed", durable.ErrCommitFailed, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED, ObjectReset: true, OutcomeUnknown: true}},
		{"durable.ErrGateTimeout", durable.ErrGateTimeout, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED, ObjectReset: true, OutcomeUnknown: true, Overloaded: true}},
		{"durable.ErrDraining", durable.ErrDraining, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING, Retryable: true}},
		{"durable.ErrStreamDrained", durable.ErrStreamDrained, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING}},
		{"durable.ErrStreamDrained", durable.ErrStreamDrained, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING}},
		{"durable.ErrNotOwner", durable.ErrNotOwner, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER, Retryable: true, ObjectReset: true}},
		{"durable.ErrConnClosed", durable.ErrConnClosed, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED}},
		{"durable.ErrSlowPeer", durable.ErrSlowPeer, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SLOW_PEER}},
		{"durable.ErrResumeTooOld", durable.ErrResumeTooOld, connect.CodeOutOfRange, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_RESUME_TOO_OLD}},
		{"durable.CloseError", &durable.CloseError{Code: 4005, Reason: "x"}, connect.CodeNotFound, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED, Remote: true, CloseCode: 4005}},
		{"durable.CloseError", &durable.CloseError{Code: 4100, Reason: "x"}, connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED, Remote: true, CloseCode: 4100}},
		{"durable.CloseError", &durable.CloseError{Code: durable.CloseTryAgainLater}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED, Remote: true, CloseCode: 1013}},
		{"durable.ErrNoObject", durable.ErrNoObject, connect.CodeNotFound, &durablev1.ErrorInfo{}},
		{"durable.ErrIdempotencyMismatch", durable.ErrIdempotencyMismatch, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_MISMATCH}},
		{"durable.ErrIdempotencyInProgress", durable.ErrIdempotencyInProgress, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_IN_PROGRESS, Retryable: true}},
		{"durable.ErrIdempotencyCutOff", durable.ErrIdempotencyCutOff, connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_CUT_OFF, OutcomeUnknown: true}},
		{"an idempotency key", &idempotencyKeyError{problem: "x"}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_INVALID}},
		{"an idempotency key", &idempotencyKeyError{problem: "x", bytes: 256}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_INVALID, Limit: &durablev1.Limit{Name: "idempotency key bytes", Max: 255, Actual: 256}}},
		{"durable.ErrMethodUnknown", durable.ErrMethodUnknown, connect.CodeUnimplemented, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN}},
		{"durable.ErrUnimplemented", durable.ErrUnimplemented, connect.CodeUnimplemented, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN, Remote: true}},
		{"durable.ErrInSavepoint", durable.ErrInSavepoint, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
		{"durable.ErrMalformedValue", fmt.Errorf("%w: get %q: %w", durable.ErrMalformedValue, secret, errors.New("x")), connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS}},
		{"durable.ErrNoResponse", durable.ErrNoResponse, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
		{"durable.ErrInvalidArgument", durable.ErrInvalidArgument, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
		{"durable.KeyError", &durable.KeyError{Problem: durable.KeyMissing, Detail: "x"}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_KEY_MISSING}},
		{"durable.KeyError", &durable.KeyError{Problem: durable.KeyConflict, Detail: "x"}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_KEY_CONFLICT}},
		{"durable.KeyError", &durable.KeyError{Problem: durable.KeyInvalid, Detail: "x"}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_KEY_INVALID}},
		{"durable.KeyError", &durable.KeyError{Problem: durable.KeyWrongType, Detail: "x"}, connect.CodeInvalidArgument, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_ID_WRONG_TYPE}},
		{"durable.LimitError", &durable.LimitError{Name: "value bytes", Max: 1, Actual: 2}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT, Limit: &durablev1.Limit{Name: "value bytes", Max: 1, Actual: 2}}},
		{"durable.OverloadError", &durable.OverloadError{Limit: "queued calls", Max: 1, Actual: 1}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, Overloaded: true, Retryable: true, Limit: &durablev1.Limit{Name: "queued calls", Max: 1, Actual: 1}}},
		{"durable.ChainError", &durable.ChainError{Cycle: true, Chain: []string{"a/1"}}, connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CALL_CYCLE, Chain: []string{"a/1"}}},
		{"durable.ChainError", &durable.ChainError{Max: 32, Chain: []string{"a/1"}}, connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CALL_DEPTH, Chain: []string{"a/1"}}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: connect.NewError(connect.CodeNotFound, "x")}, connect.CodeNotFound, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true, Remote: true}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: storage.ErrCorrupt}, connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: durable.ErrNotOwner}, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: &durable.OverloadError{Limit: "x", Max: 1, Actual: 1}}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true, Overloaded: true, Limit: &durablev1.Limit{Name: "x", Max: 1, Actual: 1}}},
		{"durable.PanicError", &durable.PanicError{Value: secret, Stack: []byte(secret)}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true}},
		{"durable.AbortError", &durable.AbortError{Reason: "x"}, connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true}},

		{"durable.ErrNoRow", durable.ErrNoRow, connect.CodeNotFound, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.ErrManyRows", durable.ErrManyRows, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.ErrNoSQL", durable.ErrNoSQL, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
		{"durable.ErrSQLExists", durable.ErrSQLExists, connect.CodeAlreadyExists, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.ScanError", &durable.ScanError{Column: secret, Err: errors.New(secret)}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.ScanError", &durable.ScanError{Column: secret, Err: context.Canceled}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Problem: "its text was changed"}, connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Err: sqlError("SQLITE_CONSTRAINT_UNIQUE", nil)}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL, Sql: &durablev1.SqlError{Code: "SQLITE_CONSTRAINT_UNIQUE"}}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Err: sqlError("SQLITE_FULL", nil)}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT, Sql: &durablev1.SqlError{Code: "SQLITE_FULL"}}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Err: storage.ErrCorrupt}, connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Err: durable.ErrTxDone}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}},
		{"durable.MigrationError", &durable.MigrationError{Position: 2, Name: "x", Err: errors.New(secret)}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: &durable.MigrationError{Position: 2, Name: "x", Problem: "y"}}, connect.CodeFailedPrecondition, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true}},
		{"durable.ConstructorError", &durable.ConstructorError{Err: sqlError("SQLITE_ERROR", nil)}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true, Sql: &durablev1.SqlError{Code: "SQLITE_ERROR"}}},

		{"storage.ErrLost", storage.ErrLost, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER, ObjectReset: true}},
		{"storage.ErrClosed", storage.ErrClosed, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER, ObjectReset: true}},
		{"storage.ErrSQLExists", storage.ErrSQLExists, connect.CodeAlreadyExists, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL}},
		{"storage.SQLError", &storage.SQLError{Code: "SQLITE_ERROR", Offset: 3}, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL, Sql: &durablev1.SqlError{Code: "SQLITE_ERROR", Offset: proto.Int32(3)}}},
		{"storage.ErrInvalid", storage.ErrInvalid, connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
		{"storage.ErrTooLarge", storage.ErrTooLarge, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT}},
		{"storage.ErrNoSpace", storage.ErrNoSpace, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT}},
		{"storage.ErrUnavailable", storage.ErrUnavailable, connect.CodeUnavailable, &durablev1.ErrorInfo{}},
		{"storage.ErrCorrupt", storage.ErrCorrupt, connect.CodeDataLoss, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS}},
		{"storage.ErrLocked", storage.ErrLocked, connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER}},
		{"storage.ErrNewerFormat", storage.ErrNewerFormat, connect.CodeFailedPrecondition, &durablev1.ErrorInfo{}},
		{"storage.LimitError", &storage.LimitError{What: "value bytes", Max: 1, Actual: 2, Err: storage.ErrTooLarge}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT, Limit: &durablev1.Limit{Name: "value bytes", Max: 1, Actual: 2}}},
		{"storage.LimitError", &storage.LimitError{What: "bytes", Max: 1, Actual: 2, Err: storage.ErrNoSpace}, connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT}},

		{"context.Canceled", context.Canceled, connect.CodeCanceled, &durablev1.ErrorInfo{}},
		{"context.DeadlineExceeded", context.DeadlineExceeded, connect.CodeDeadlineExceeded, &durablev1.ErrorInfo{}},
		{"a handler's own", errors.New("x"), connect.CodeUnknown, &durablev1.ErrorInfo{Remote: true}},
		{"a handler's own, coded", connect.NewError(connect.CodeNotFound, "x"), connect.CodeNotFound, &durablev1.ErrorInfo{Remote: true}},
		{"another server's", connect.NewError(connect.CodeNotFound, "x").WithRemote(), connect.CodeUnknown, &durablev1.ErrorInfo{Remote: true}},
	}
	for _, row := range sqlRows(secret) {
		row.info.Sql = &durablev1.SqlError{Code: row.err.Code}
		rows = append(rows, codeRow{"durable.SQLError", row.err, row.code, row.info})
	}
	seen := map[string]bool{}
	for _, row := range rows {
		seen[row.name] = true
		t.Run(row.name, func(t *testing.T) {
			for _, err := range []error{row.err, fmt.Errorf("%s: %w", "outer", row.err)} {
				got := wireError(err, nil, durable.ID{})
				if got.Code() != row.code {
					t.Errorf("code %v, want %v", got.Code(), row.code)
				}
				if got.Message() == "" {
					t.Error("no message")
				}
				details := got.Details()
				if len(details) != 1 {
					t.Fatalf("%d details, want 1", len(details))
				}
				info, derr := connectproto.UnmarshalErrorDetail(details[0])
				if derr != nil {
					t.Fatal(derr)
				}
				if diff := cmp.Diff(row.info, info, protocmp.Transform()); diff != "" {
					t.Errorf("info (-want +got):\n%s", diff)
				}
			}
			if strings.HasPrefix(row.name, "storage.") || slices.Contains(quiet, row.name) {
				got := wireError(fmt.Errorf("%s: %w", secret, row.err), nil, durable.ID{})
				if strings.Contains(got.Message(), secret) {
					t.Errorf("the message tells callers too much: %q", got.Message())
				}
			}
			if row.code == connect.CodeUnavailable && row.info.GetOutcomeUnknown() {
				t.Error("unavailable is for calls without effect")
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(declaredErrors(t))) {
		if !seen[name] {
			t.Errorf("%s has no row in this table", name)
		}
	}
}

// declaredErrors returns the exported sentinels and error types of packages
// durable and storage.
func declaredErrors(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for pkg, dir := range map[string]string{"durable": "..", "storage": "../storage"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		before := len(names)
		for _, entry := range entries {
			if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+entry.Name(), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				switch decl := decl.(type) {
				case *ast.GenDecl:
					for _, spec := range decl.Specs {
						value, ok := spec.(*ast.ValueSpec)
						if !ok || decl.Tok != token.VAR {
							continue
						}
						for _, name := range value.Names {
							if strings.HasPrefix(name.Name, "Err") {
								names[pkg+"."+name.Name] = true
							}
						}
					}
				case *ast.FuncDecl: // types with a method Error
					if decl.Name.Name != "Error" || decl.Recv == nil {
						continue
					}
					recv := decl.Recv.List[0].Type
					if star, ok := recv.(*ast.StarExpr); ok {
						recv = star.X
					}
					if name := recv.(*ast.Ident).Name; ast.IsExported(name) {
						names[pkg+"."+name] = true
					}
				}
			}
		}
		if len(names)-before < 5 {
			t.Errorf("only %d errors were found in package %s", len(names)-before, pkg)
		}
	}
	return names
}

// TestKeyProblems: every problem has a reason.
func TestKeyProblems(t *testing.T) {
	for problem := durable.KeyMissing; problem <= durable.KeyWrongType; problem++ {
		if keyReasons[problem] == durablev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			t.Errorf("problem %d has no reason", problem)
		}
	}
}
