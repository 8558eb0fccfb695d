package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

// A verdict is what a caller is told of an error.
type verdict struct {
	code    connect.Code
	reason  durablev1.ErrorReason
	message string // empty: the text of the error itself
	flags   flags
	limit   *durablev1.Limit
	chain   []string
	sql     *durablev1.SqlError
	close   durable.CloseCode // of a connection; 0: the one that belongs to the code
}

type flags uint8

const (
	retryable flags = 1 << iota
	overloaded
	reset
	outcomeUnknown
	byHandler
)

// sentinels is the one table of codes for errors without data of their own. The
// first that matches counts.
var sentinels = []struct {
	err error
	verdict
}{
	{durable.ErrGateTimeout, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED,
		message: "storage took too long; whether the call took effect is unknown",
		flags:   outcomeUnknown | reset | overloaded,
	}},
	{durable.ErrCommitFailed, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED,
		message: "the commit failed; whether the call took effect is unknown",
		flags:   outcomeUnknown | reset,
	}},
	{durable.ErrDraining, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_DRAINING,
		message: "the server is shutting down", flags: retryable,
	}},
	{durable.ErrStreamDrained, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_DRAINING,
		message: "the server is shutting down and ends the stream",
	}},
	{durable.ErrNotOwner, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER,
		message: "the object is not served here now", flags: retryable | reset,
	}},
	{durable.ErrStuck, verdict{ // comes with ErrReset
		code: connect.CodeAborted, reason: durablev1.ErrorReason_ERROR_REASON_STUCK,
		message: "the handler ran past its deadline and the object was reset", flags: reset,
	}},
	{durable.ErrReset, verdict{
		code: connect.CodeAborted, reason: durablev1.ErrorReason_ERROR_REASON_RESET,
		message: "the object was reset", flags: reset,
	}},
	{durable.ErrIdempotencyMismatch, verdict{
		code: connect.CodeInvalidArgument, reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_MISMATCH,
		message: "the idempotency key was used for another request",
	}},
	{durable.ErrIdempotencyInProgress, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_IN_PROGRESS,
		message: "a call with this idempotency key is under way", flags: retryable,
	}},
	{durable.ErrIdempotencyCutOff, verdict{
		code: connect.CodeAborted, reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_CUT_OFF,
		message: "a call with this idempotency key was cut off half way, and is not run again", flags: outcomeUnknown,
	}},
	{durable.ErrConnClosed, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED,
		message: "the handler used a connection that is closed",
	}},
	{durable.ErrSlowPeer, verdict{
		code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_SLOW_PEER,
		message: "the connection was closed: its peer reads too slowly",
	}},
	{durable.ErrResumeTooOld, verdict{code: connect.CodeOutOfRange, reason: durablev1.ErrorReason_ERROR_REASON_RESUME_TOO_OLD}},
	{durable.ErrNoObject, verdict{code: connect.CodeNotFound, message: "the object does not exist"}},
	{durable.ErrTxDone, verdict{code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}},
	{durable.ErrMethodUnknown, verdict{code: connect.CodeUnimplemented, reason: durablev1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN}},
	{durable.ErrUnimplemented, verdict{code: connect.CodeUnimplemented, reason: durablev1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN, message: "not implemented", flags: byHandler}},
	{durable.ErrInSavepoint, verdict{code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
	{durable.ErrNoResponse, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_MISUSE,
		message: "the handler returned neither a response nor an error",
	}},
	{durable.ErrMalformedValue, verdict{
		code: connect.CodeDataLoss, reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS,
		message: "a stored value of the object does not parse as its message",
	}},
	{durable.ErrInvalidArgument, verdict{code: connect.CodeInvalidArgument, reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}},
	{durable.ErrNoRow, verdict{
		code: connect.CodeNotFound, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
		message: "the result has no row",
	}},
	{durable.ErrManyRows, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
		message: "the result has more than one row",
	}},
	{durable.ErrSQLExists, verdict{
		code: connect.CodeAlreadyExists, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
		message: "the object has a SQL database already",
	}},
	{durable.ErrNoSQL, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_MISUSE,
		message: "the server has no SQL engine",
	}},
	{storage.ErrNoSpace, verdict{
		code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
		message: "the store of the server is full; nothing was written",
	}},
	{storage.ErrTooLarge, verdict{
		code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
		message: "the call writes more than one commit can hold; nothing was written",
	}},
	{storage.ErrCorrupt, verdict{
		code: connect.CodeDataLoss, reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS,
		message: "stored data of the object does not verify",
	}},
	{storage.ErrLost, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER,
		message: "the object is not served here now", flags: reset,
	}},
	{storage.ErrSQLExists, verdict{
		code: connect.CodeAlreadyExists, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
		message: "the object has a SQL database already",
	}},
	{storage.ErrClosed, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER,
		message: "the object is not served here now", flags: reset,
	}},
	{storage.ErrNewerFormat, verdict{
		code:    connect.CodeFailedPrecondition,
		message: "the store was written by a newer version of the server",
	}},
	{storage.ErrLocked, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_NOT_OWNER,
		message: "another process has the store open",
	}},
	{storage.ErrUnavailable, verdict{
		code: connect.CodeUnavailable, reason: durablev1.ErrorReason_ERROR_REASON_UNSPECIFIED,
		message: "storage cannot be read now",
	}},
	{storage.ErrInvalid, verdict{
		code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_MISUSE,
		message: "the runtime asked storage for something invalid",
	}},
	{context.DeadlineExceeded, verdict{code: connect.CodeDeadlineExceeded, message: "the deadline passed"}},
	{context.Canceled, verdict{code: connect.CodeCanceled, message: "the caller went away"}},
}

// judge decides what the caller is told of err.
func judge(err error) (v verdict) {
	var (
		keyErr      *durable.KeyError
		limit       *durable.LimitError
		overload    *durable.OverloadError
		chain       *durable.ChainError
		constructor *durable.ConstructorError
		panicked    *durable.PanicError
		abort       *durable.AbortError
		stored      *storage.LimitError
		migration   *durable.MigrationError
		scan        *durable.ScanError
		onceKey     *idempotencyKeyError
		resume      *resumeError
		closed      *durable.CloseError
		coded       *connect.Error
	)
	switch {
	case errors.As(err, &constructor):
		v = judge(constructor.Err)
		if v.message == "" {
			v.message = text(constructor.Err)
		}
		v.message = "the constructor of the object failed: " + v.message
		v.reason = durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED
		v.flags |= reset
		v.flags &^= retryable // the constructor may have had effects of its own
	case errors.As(err, &coded):
		if coded.IsRemote() {
			// What another server said of our call is not our answer to this one.
			return verdict{code: connect.CodeUnknown, message: "a call that the handler made failed", flags: byHandler}
		}
		v = verdict{code: coded.Code(), message: coded.Message(), flags: byHandler}
	case errors.As(err, &resume):
		v = verdict{code: connect.CodeInvalidArgument, reason: durablev1.ErrorReason_ERROR_REASON_RESUME_INVALID, message: resume.problem}
	case errors.As(err, &closed) && errors.As(closed.Err, &keyErr):
		v = judge(keyErr)
	case errors.As(err, &closed):
		v = verdict{
			code: connectCode(closed.Code), reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED,
			message: cmp.Or(closed.Reason, fmt.Sprintf("the connection was closed with code %d", int(closed.Code))),
			flags:   byHandler, close: closed.Code,
		}
	case errors.As(err, &migration):
		v = judgeMigration(migration)
	case errors.As(err, &scan):
		v = verdict{
			code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_SQL,
			message: "a value of a result does not fit where the handler puts it",
		}
	case errors.As(err, &keyErr):
		v = verdict{code: connect.CodeInvalidArgument, reason: keyReasons[keyErr.Problem], message: text(keyErr)}
	case errors.As(err, &onceKey):
		v = verdict{code: connect.CodeInvalidArgument, reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_INVALID, message: onceKey.problem}
		if onceKey.bytes > 0 {
			v.limit = &durablev1.Limit{Name: "idempotency key bytes", Max: maxIdempotencyKeyBytes, Actual: int64(onceKey.bytes)}
		}
	case errors.As(err, &overload):
		v = verdict{code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, message: text(overload)}
		v.flags = overloaded | retryable
		v.limit = &durablev1.Limit{Name: overload.Limit, Max: overload.Max, Actual: overload.Actual}
	case errors.As(err, &limit):
		v = verdict{code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT, message: text(limit)}
		v.limit = &durablev1.Limit{Name: limit.Name, Max: limit.Max, Actual: limit.Actual}
	case errors.As(err, &stored) && errors.Is(stored.Err, storage.ErrTooLarge):
		v = verdict{code: connect.CodeResourceExhausted, reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT, message: stored.Error()}
		v.limit = &durablev1.Limit{Name: stored.What, Max: stored.Max, Actual: stored.Actual}
	case errors.As(err, &chain):
		v = verdict{code: connect.CodeFailedPrecondition, reason: durablev1.ErrorReason_ERROR_REASON_CALL_DEPTH, message: text(chain)}
		if chain.Cycle {
			v.reason = durablev1.ErrorReason_ERROR_REASON_CALL_CYCLE
		}
		v.chain = chain.Chain
	case errors.As(err, &panicked):
		v = verdict{code: connect.CodeInternal, reason: durablev1.ErrorReason_ERROR_REASON_PANIC, message: text(panicked)}
		v.flags = reset
	case errors.As(err, &abort):
		v = verdict{code: connect.CodeAborted, reason: durablev1.ErrorReason_ERROR_REASON_RESET, message: text(abort)}
		v.flags = reset
	default:
		v = judgeRest(err)
	}
	if failed := sqlErrorOf(err); failed != nil && v.flags&byHandler == 0 {
		v.sql = sqlDetail(failed)
		if failed.Lost {
			v.flags |= reset
		}
	}
	return v
}

// judgeRest is judge for errors without data of their own, and for those of
// SQLite, where a cause that the table knows comes first.
func judgeRest(err error) verdict {
	failed := sqlErrorOf(err)
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			v := s.verdict
			if v.message == "" && failed != nil {
				v.message = text(s.err)
			}
			return v
		}
	}
	if failed != nil {
		return judgeSQL(failed)
	}
	return verdict{code: connect.CodeUnknown, message: err.Error(), flags: byHandler}
}

var keyReasons = map[durable.KeyProblem]durablev1.ErrorReason{
	durable.KeyMissing:   durablev1.ErrorReason_ERROR_REASON_KEY_MISSING,
	durable.KeyConflict:  durablev1.ErrorReason_ERROR_REASON_KEY_CONFLICT,
	durable.KeyInvalid:   durablev1.ErrorReason_ERROR_REASON_KEY_INVALID,
	durable.KeyWrongType: durablev1.ErrorReason_ERROR_REASON_ID_WRONG_TYPE,
}

func text(err error) string { return strings.TrimPrefix(err.Error(), "durable: ") }

// An innerError is what a call within the process ends with. It tells errors that
// the runtime made for an inner call from details that handlers made up.
type innerError struct{ err *connect.Error }

func (e *innerError) Error() string { return e.err.Error() }
func (e *innerError) Unwrap() error { return e.err }

// callError returns err as callers within the process see it.
func callError(err error, r *route, id durable.ID) error {
	return &innerError{wireError(err, r, id)}
}

// wireError returns err as the caller sees it: with a code, a text that is fit
// for callers, and a [durablev1.ErrorInfo] of ours. r and id are what was found
// out about the call, if anything.
func wireError(err error, r *route, id durable.ID) *connect.Error {
	return answer(err, r, id, actor.HadEffects(err))
}

// answer is [wireError] of an error of a call of which it is known whether it had
// effects.
func answer(err error, r *route, id durable.ID, hadEffects bool) *connect.Error {
	var inner *innerError
	var constructor *durable.ConstructorError
	if errors.As(err, &inner) && !errors.As(err, &constructor) {
		return passedOn(inner.err, hadEffects)
	}
	v := judge(err)
	if hadEffects {
		v.flags &^= retryable
		// Unavailable says that nothing happened, except of a stream, which is
		// only told that it ends here.
		if v.code == connect.CodeUnavailable && v.flags&byHandler == 0 && !errors.Is(err, durable.ErrStreamDrained) {
			v.code = connect.CodeAborted
		}
	}
	if v.message == "" && v.flags&byHandler == 0 {
		v.message = text(err)
	}
	out := connect.NewError(v.code, v.message)
	var coded *connect.Error
	if errors.As(err, &coded) && !coded.IsRemote() {
		for _, d := range coded.Details() {
			if d.Type != infoType { // only the runtime speaks for itself
				out = out.WithDetail(d)
			}
		}
	}
	if r != nil && r.typ.PlainErrors && v.flags&byHandler != 0 {
		return out
	}
	info := &durablev1.ErrorInfo{
		Reason:         v.reason,
		Remote:         v.flags&byHandler != 0,
		Retryable:      v.flags&retryable != 0,
		Overloaded:     v.flags&overloaded != 0,
		ObjectReset:    v.flags&reset != 0,
		OutcomeUnknown: v.flags&outcomeUnknown != 0,
		Limit:          v.limit,
		Chain:          v.chain,
		Sql:            v.sql,
		CloseCode:      int32(v.close), //nolint:gosec // at most 4999
	}
	if r != nil {
		info.ObjectType = r.typ.Name
	}
	if !id.IsZero() {
		info.ObjectId = id.String()
	}
	if detail, derr := connectproto.NewErrorDetail(info); derr == nil {
		out = out.WithDetail(detail)
	}
	return out
}

// passedOn returns what an inner call said as the answer to the call that made
// it. That the inner call had no effect says nothing of the outer one, which
// hadEffects tells of.
func passedOn(err *connect.Error, hadEffects bool) *connect.Error {
	info, code := infoOf(err), err.Code()
	if hadEffects && code == connect.CodeUnavailable && info != nil && !info.GetRemote() {
		code = connect.CodeAborted
	}
	out := connect.NewError(code, err.Message())
	for _, d := range err.Details() {
		if d.Type == infoType && info.GetRetryable() {
			info.Retryable = false
			var derr error
			if d, derr = connectproto.NewErrorDetail(info); derr != nil {
				continue
			}
		}
		out = out.WithDetail(d)
	}
	return out
}

var infoType = string((*durablev1.ErrorInfo)(nil).ProtoReflect().Descriptor().FullName())

// infoOf returns what the runtime said of an inner call, nil when it is not
// there.
func infoOf(err *connect.Error) *durablev1.ErrorInfo {
	for _, d := range err.Details() {
		if d.Type != infoType {
			continue
		}
		msg, derr := connectproto.UnmarshalErrorDetail(d)
		if info, ok := msg.(*durablev1.ErrorInfo); ok && derr == nil {
			return info
		}
	}
	return nil
}
