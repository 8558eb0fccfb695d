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
	// by id. It is the same in constructors, alarms and woken connections.
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
}

// A Tx is the read-write handle of one object during one turn. Its writes are
// committed together when the handler returns.
//
// A Tx is also a [Conn]: stubs made with it call other objects from inside this
// one. Such a call first commits what the turn wrote and waits until that is
// durable, so that nothing outside ever depends on what may be lost; the turn
// goes on meanwhile, and no other call of this object runs. A call to an object
// that already waits in the same chain of calls fails at once with a
// [ChainError].
type Tx interface {
	Handle
	Conn

	// KV returns the key-value pairs of the object.
	KV() KV
	// DeleteAll removes everything the object has stored and with the commit
	// the object ceases to exist, unless the turn writes again.
	DeleteAll(ctx context.Context) error
	// Savepoint runs fn. When fn returns an error or panics, what it wrote is
	// undone and the error is returned; earlier writes of the turn stay.
	// Savepoints nest. Calls to other objects, Await, Sync and DeleteAll are
	// refused inside.
	Savepoint(fn func() error) error
	// Await commits what was written, leaves the turn while fn runs, so that
	// other calls of the object may run, and then enters a new turn: whatever
	// was read before may have changed. Use it around slow work that leaves the
	// object. The error of fn is returned. When the object was reset meanwhile,
	// Await returns [ErrReset] and the handle is done.
	Await(ctx context.Context, fn func(ctx context.Context) error) error
	// Sync commits what was written and returns when it, and everything the
	// object wrote before, is durable. The turn goes on.
	Sync(ctx context.Context) error
	// Abort drops the activation and what this turn wrote since its last
	// commit point, and does not return: it ends the handler by a panic that
	// the runtime recovers, so deferred functions run. The call, and every
	// other in flight, fails with reason.
	Abort(reason string)
}
