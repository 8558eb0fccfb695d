package durable

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrTxDone is returned by every method of a handle whose turn is over, or
	// is not running at the moment: after the handler returned, and inside the
	// function given to [Tx].Await.
	ErrTxDone = errors.New("durable: the turn of this handle is over")
	// ErrReset reports that the activation ended while the call waited for it
	// or ran: an error after a write, a panic, [Tx].Abort, an eviction or a
	// failed commit. The next call starts from what is stored.
	ErrReset = errors.New("durable: the object was reset")
	// ErrCommitFailed reports that what the call wrote, or what had been
	// written ahead of its reply, could not be made durable. Whether it was
	// stored cannot be known from the answer.
	ErrCommitFailed = errors.New("durable: the commit failed")
	// ErrGateTimeout reports that writes took longer than the output gate
	// waits, 30 s by default. It comes with [ErrCommitFailed].
	ErrGateTimeout = errors.New("durable: storage took too long")
	// ErrDraining reports that the server is shutting down and did not start
	// the call.
	ErrDraining = errors.New("durable: the server is draining")
	// ErrStreamDrained ends the streams that are open when the server shuts
	// down. What their handlers had written stays; the caller may open a new
	// one elsewhere.
	ErrStreamDrained = errors.New("durable: the server is draining and ends the stream")
	// ErrNotOwner reports that this server does not own the object, or that
	// its store failed. The call was not started.
	ErrNotOwner = errors.New("durable: the object is not served here")
	// ErrMethodUnknown reports a call of an object type or a method that
	// nobody registered.
	ErrMethodUnknown = errors.New("durable: no such object type or method")
	// ErrUnimplemented reports a method that its handler does not implement.
	// See [Unimplemented].
	ErrUnimplemented = errors.New("durable: not implemented")
	// ErrMalformedValue reports a stored value that does not parse as the
	// message that was asked for. See [GetProto] and [ListProto].
	ErrMalformedValue = errors.New("durable: a stored value does not parse as its message")
	// ErrNoResponse reports a handler that returned neither a response nor an
	// error. What it wrote since its last commit point is rolled back.
	ErrNoResponse = errors.New("durable: the handler returned neither a response nor an error")
	// ErrInSavepoint reports a call to another object, Await, Sync or DeleteAll
	// inside [Tx].Savepoint, where nothing may leave the object. It did nothing.
	ErrInSavepoint = errors.New("durable: not allowed inside a savepoint")
	// ErrNoSQL reports a use of [SQL] on a server that was started without a
	// SQL engine. See server.WithSQL.
	ErrNoSQL = errors.New("durable: the server has no SQL engine: start it with server.WithSQL")
	// ErrSQLExists reports an import into an object that has a SQL database.
	// Nothing was changed.
	ErrSQLExists = errors.New("durable: the object has a SQL database already")
	// ErrInvalidArgument reports arguments that a handle cannot accept, such
	// as an empty list range bound twice. Nothing was changed.
	ErrInvalidArgument = errors.New("durable: invalid argument")
	// ErrIdempotencyMismatch reports an idempotency key that was used before, for
	// another request. The call was not started.
	ErrIdempotencyMismatch = errors.New("durable: the idempotency key was used for another request")
	// ErrIdempotencyInProgress reports that a call with the same idempotency key
	// is under way. This one was not started; later it gets the reply of the first.
	ErrIdempotencyInProgress = errors.New("durable: a call with this idempotency key is under way")
	// ErrIdempotencyCutOff reports that a call with the same idempotency key was
	// cut off after a commit point of its own, by a crash or a reset. What it had
	// committed stays, and it is not run again.
	ErrIdempotencyCutOff = errors.New("durable: a call with this idempotency key was cut off half way")
	// ErrStuck is in the text of the [ErrReset] of an object whose handler ran on
	// after its deadline. See [Limits].StuckTimeout.
	ErrStuck = errors.New("durable: the handler ignores its deadline")
	// ErrConnClosed reports a connection that is closed, or whose peer is gone.
	// Nothing was sent.
	ErrConnClosed = errors.New("durable: the connection is closed")
	// ErrSlowPeer reports a connection that was closed because its peer read too
	// slowly. See [Limits].MaxConnBuffer and [Limits].SendTimeout.
	ErrSlowPeer = errors.New("durable: the peer reads too slowly")
	// ErrResumeTooOld reports that a connection cannot be resumed: what its client
	// missed is not kept any more, or the connection is over.
	ErrResumeTooOld = errors.New("durable: the connection cannot be resumed")
	// ErrNoObject reports an object that does not exist, where only one that does
	// can be looked at or changed.
	ErrNoObject = errors.New("durable: the object does not exist")
	// ErrNoRow is returned by [One] and [Cursor].One when there is no row. A
	// handler that returns it tells its caller that something was not found:
	// where the row is no matter of the caller, return another error.
	ErrNoRow = errors.New("durable: the result has no row")
	// ErrManyRows is returned by [One] and [Cursor].One when there is more than
	// one row.
	ErrManyRows = errors.New("durable: the result has more than one row")
)

// Unimplemented returns an error for a method that is not implemented. The
// Unimplemented… types of generated code return it.
func Unimplemented(procedure string) error {
	return fmt.Errorf("%w: %s", ErrUnimplemented, procedure)
}

// A KeyProblem says what is wrong with the key of a call.
type KeyProblem int

const (
	// KeyMissing: neither field, header nor URL named the object.
	KeyMissing KeyProblem = iota + 1
	// KeyConflict: two places named different objects.
	KeyConflict
	// KeyInvalid: a name or an id is malformed.
	KeyInvalid
	// KeyWrongType: an id is of another object type, or was made up.
	KeyWrongType
)

// A KeyError reports a key that names no object.
type KeyError struct {
	Problem KeyProblem
	Detail  string // what was wrong, and where
}

func (e *KeyError) Error() string { return "durable: " + e.Detail }

// A LimitError reports that something is over a limit. The operation that
// returns it changed nothing; what the turn wrote before stays.
type LimitError struct {
	Name   string // what is limited, such as "value bytes"
	Max    int64
	Actual int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("durable: %d %s, the limit is %d", e.Actual, e.Name, e.Max)
}

// A SQLError reports a statement that SQLite refused or could not finish. The
// statement changed nothing, unless Lost is set; statements before it, in the same
// text too, stay.
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
	// Offset is where in the text given to Exec the error is, in bytes; -1 when
	// that is not known.
	Offset int
	// Lost is set when everything the turn wrote since its last commit point is
	// lost, and the turn with it.
	Lost bool
	// Err is the cause outside of SQLite, if any.
	Err error
}

func (e *SQLError) Error() string {
	var b strings.Builder
	b.WriteString("durable: " + e.Code)
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

// A ScanError reports a value of a SQL row that does not fit where [One], [All]
// or [Row].Scan was to put it: of another kind, out of range, or NULL.
type ScanError struct {
	Column string // the name of its column
	Err    error  // what is wrong with the value
}

func (e *ScanError) Error() string {
	return fmt.Sprintf("durable: column %q: %v", e.Column, e.Err)
}

// Unwrap returns what is wrong with the value.
func (e *ScanError) Unwrap() error { return e.Err }

// A MigrationError reports a step that [SQL].Migrate could not apply, or
// refused. None of the steps given was applied.
type MigrationError struct {
	Position int    // which step, from 1
	Name     string // its name
	Problem  string // why it is refused; empty when it failed
	Err      error  // the error it failed with
}

func (e *MigrationError) Error() string {
	text := fmt.Sprintf("durable: migration %d %q", e.Position, e.Name)
	if e.Problem != "" {
		text += ": " + e.Problem
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the error that the step failed with.
func (e *MigrationError) Unwrap() error { return e.Err }

// An OverloadError reports that an object has more work than it takes: its queue
// is full, the call waited too long for its turn, or the constructor it waited
// for took too long. The handler was not called; a constructor may have been.
type OverloadError struct {
	Limit  string // "queued calls", "queued bytes", "milliseconds in the queue" …
	Max    int64
	Actual int64
}

func (e *OverloadError) Error() string {
	return fmt.Sprintf("durable: the object is overloaded: %d %s, the limit is %d", e.Actual, e.Limit, e.Max)
}

// A ChainError reports a call that would make its chain of calls a cycle, or
// too long. The call was not started.
type ChainError struct {
	Cycle bool     // otherwise the chain is too long
	Max   int      // the longest chain there may be
	Chain []string // the objects, outermost first, as "type/id"
}

func (e *ChainError) Error() string {
	if e.Cycle {
		return "durable: call cycle: " + e.Chain[len(e.Chain)-1] + " already waits in this chain of calls"
	}
	return fmt.Sprintf("durable: the chain of calls has more than %d objects", e.Max)
}

// A ConstructorError reports that the constructor of an object failed. Every
// call that waited for it fails with it, what the constructor wrote since its
// last commit point is rolled back, and the next call tries again. No handler
// was called.
type ConstructorError struct{ Err error }

func (e *ConstructorError) Error() string { return "durable: constructor: " + e.Err.Error() }

// Unwrap returns what the constructor returned.
func (e *ConstructorError) Unwrap() error { return e.Err }

// A PanicError reports that the handler, or the constructor, panicked.
type PanicError struct {
	Value any
	Stack []byte // never leaves the process
}

func (e *PanicError) Error() string { return "durable: the handler panicked" }

// An AbortError reports that the object reset itself with [Tx].Abort.
type AbortError struct{ Reason string }

func (e *AbortError) Error() string {
	if e.Reason == "" {
		return "durable: the object asked to be reset"
	}
	return e.Reason
}

// Is reports whether target is [ErrReset].
func (e *AbortError) Is(target error) bool { return target == ErrReset }

// Keep wraps an error that a handler returns, so that the turn commits what it
// wrote and the caller gets err all the same. Keep(nil) is nil.
func Keep(err error) error {
	if err == nil {
		return nil
	}
	return &keptError{err}
}

// Kept reports whether err came from [Keep], and returns the error inside.
func Kept(err error) (error, bool) {
	var k *keptError
	if errors.As(err, &k) {
		return k.err, true
	}
	return err, false
}

type keptError struct{ err error }

func (e *keptError) Error() string { return e.err.Error() }
func (e *keptError) Unwrap() error { return e.err }
