package durable

import (
	"context"
	"time"
)

// A Handle is what [View] and [Tx] have in common. Its methods may be called by
// several goroutines at once.
type Handle interface {
	// ObjectType returns the stored name of the object's type.
	ObjectType() string
	// ID returns the id of the object.
	ID() ID
	// Name returns the name the object was made by, and "" for an object made
	// by id. It is the same in constructors and in every turn.
	Name() string
	// Now returns the time at which the turn began.
	Now() time.Time
	// Exists reports whether the object has ever been committed to, and not
	// deleted since. Inside a turn it does not count what this turn wrote.
	Exists() bool
}

// A View is the read-only handle of one object during one turn. Views of an
// object run together, so a handler that has a View must not change the fields
// of its value.
type View interface {
	Handle
	// KV returns the key-value pairs of the object, to read.
	KV() KVReader
	// SQL returns the SQLite database of the object, to read.
	SQL() SQL
	// AlarmReader returns the alarms of the object by name. Generated views have
	// typed ones.
	AlarmReader() AlarmReader
	// ConnsReader returns the connections of the object by method. Generated
	// views have typed ones.
	ConnsReader() ConnsReader
}

// A Tx is the read-write handle of one object during one turn. Its writes are
// committed together when the handler returns.
//
// A Tx is also a [Conn]: stubs made with it call other objects from inside this
// one. Such a call first commits what the turn wrote and waits until that is
// durable, so that nothing outside ever depends on what may be lost; the turn
// goes on meanwhile, and no other call of this object runs. When the reply comes,
// what the called object wrote is durable too. A call to an object that already
// waits in the same chain of calls fails at once with a [ChainError], as does one
// that makes the chain too long. What was committed ahead of a call stays,
// whatever becomes of the call or the turn. Calls are refused with
// [ErrInSavepoint] inside Savepoint and with [ErrTxDone] after the turn; the
// errors of the called object arrive as over the network, with a code.
//
// The methods that write, and those that commit, return [ErrReset] or
// [ErrCommitFailed] when the activation has ended meanwhile.
type Tx interface {
	Handle
	Conn

	// KV returns the key-value pairs of the object.
	KV() KV
	// SQL returns the SQLite database of the object.
	SQL() SQL
	// AlarmPort returns the alarms of the object by name. Generated handles have
	// typed ones.
	AlarmPort() AlarmPort
	// ConnsPort returns the connections of the object by method. Generated
	// handles have typed ones.
	ConnsPort() ConnsPort
	// Background runs fn in the background, beginning when what this turn wrote by then
	// is committed; if the turn fails first, fn never runs. fn holds no turn and
	// enters its own: it must touch neither storage nor the fields of the handler
	// but in there. It is not durable: a crash ends it. Its error is logged. While
	// it runs the object stays in memory, for at most [Limits].BackgroundTimeout,
	// 15 minutes by default; then, and when the server drains, its context ends,
	// and after a reset its turns fail with [ErrReset]. Generated handles have a
	// typed one, Go. It returns [ErrInSavepoint] inside Savepoint, and [ErrTxDone].
	Background(fn func(ctx context.Context, turns TurnPort) error) error
	// DeleteAll removes everything the object has stored, its alarms included.
	// Reads of the turn see
	// that at once; it is undone when the turn fails. With the commit, which
	// holds the reply back like that of any write, the object ceases to exist,
	// unless the turn writes again. The activation stays in memory: set its
	// fields back. It returns [ErrInSavepoint] inside Savepoint.
	DeleteAll(ctx context.Context) error
	// Savepoint runs fn. When fn returns an error or panics, what it wrote is
	// undone and the error is returned, or the panic goes on; earlier writes of
	// the turn stay. Nothing is durable before the commit of the turn. Savepoints
	// nest. Calls to other objects, Await, Sync and DeleteAll are refused inside,
	// with [ErrInSavepoint]. It does not undo changes of the handler's fields.
	Savepoint(fn func() error) error
	// Await commits what was written, leaves the turn while fn runs, so that
	// other calls of the object may run, and then enters a new turn: whatever
	// was read before may have changed. Use it around slow work that leaves the
	// object. What was written is durable before fn begins, and stays whatever
	// comes after. The error of fn is returned; what fn is given is ctx, and the
	// handle cannot be used inside, see [ErrTxDone]. Coming back waits for the
	// turns ahead, also when ctx has ended. When the object was reset meanwhile,
	// Await returns [ErrReset] and the handle is done.
	Await(ctx context.Context, fn func(ctx context.Context) error) error
	// Sync commits what was written and returns when it, and everything the
	// object wrote before, unconfirmed writes included, is durable. It then stays
	// whatever comes after. The turn goes on, and no other call of this object
	// runs meanwhile. It returns [ErrCommitFailed] when that cannot be made
	// durable, and the error of ctx when that ends first.
	Sync(ctx context.Context) error
	// Abort drops the activation and what this turn wrote since its last
	// commit point, and does not return: it ends the handler by a panic that
	// the runtime recovers, so deferred functions run. The call, and every
	// other in flight or waiting, fails with code aborted and reason as its text,
	// or one of the runtime's when reason is empty. What was committed stays.
	Abort(reason string)
}
