package storage

import (
	"errors"
	"fmt"
)

var (
	// ErrLost: this node does not own the shard any more, or cannot prove it,
	// or the store failed for good. The handle is dead. Drop every activation
	// of the shard and every answer that waits behind an unresolved commit.
	ErrLost = errors.New("storage: shard lost")
	// ErrInvalid: the request makes no sense; nothing was written.
	ErrInvalid = errors.New("storage: invalid request")
	// ErrTooLarge: a key, value or batch is over its limit; nothing was
	// written. It comes wrapped in a [LimitError].
	ErrTooLarge = errors.New("storage: too large")
	// ErrNoSpace: the disk has less free space than the store keeps in
	// reserve; nothing was written, and reads go on.
	ErrNoSpace = errors.New("storage: no space left on the disk")
	// ErrUnavailable: this read cannot be served now. It says nothing about
	// ownership.
	ErrUnavailable = errors.New("storage: unavailable")
	// ErrCorrupt: stored bytes do not verify.
	ErrCorrupt = errors.New("storage: stored data is corrupt")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("storage: in use by another process")
	// ErrNewerFormat: the store was written by a newer version of this
	// software.
	ErrNewerFormat = errors.New("storage: written by a newer version")
	// ErrClosed: the engine, session or snapshot was closed.
	ErrClosed = errors.New("storage: closed")
)

// A LimitError says which limit was exceeded, and by what.
type LimitError struct {
	What   string // such as "value bytes"
	Max    int64
	Actual int64
	Err    error // the sentinel, [ErrTooLarge] or [ErrNoSpace]
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%v: %d %s, the limit is %d", e.Err, e.Actual, e.What, e.Max)
}

func (e *LimitError) Unwrap() error { return e.Err }
