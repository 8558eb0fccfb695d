// Package storage is the contract between the runtime and a store.
//
// A store holds objects. An object is one ordered map from bytes to bytes;
// key-value pairs, SQL pages and the runtime's own rows are key spaces in it.
// Objects are spread over a fixed number of shards, and whoever holds a [Shard]
// has the sole right to write the objects in it, during one [Epoch].
//
// A commit has two stages. It is applied, and seen by every later read, when
// [Shard.Commit] returns; it is durable when its [Pending] resolves to nil. The
// runtime starts the next turn after the first stage and lets nothing leave the
// object before the second.
//
// An engine never reports "unknown": a commit whose outcome it cannot find out
// costs the shard ([ErrLost]), and what is stored decides.
//
// Engines: package pebblekv keeps a store in a local folder; package memkv keeps
// one in memory, for many sessions and with injected faults. Package
// storagetest is the suite that every engine passes.
package storage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"time"
)

// Shards is the number of shards of every store. It never changes.
const Shards = 4096

// A ShardID numbers a shard, from 0 to [Shards] - 1.
type ShardID uint16

// An Epoch numbers one period of ownership of a shard. It grows with every
// change of owner and is never used again.
type Epoch uint64

// A NodeID names one member of a store.
type NodeID string

// A TypeID is the number a store gave to an object type. Numbers start at 1 and
// are never used again. See [Session.Type].
type TypeID uint32

// An ObjectID names an object within a store.
type ObjectID struct {
	Type TypeID
	ID   [32]byte
}

// Shard returns the shard that o belongs to, whatever the engine: the first 12
// bits of the SHA-256 hash of the type number (big-endian) and the id.
func (o ObjectID) Shard() ShardID {
	var buf [36]byte
	binary.BigEndian.PutUint32(buf[:4], uint32(o.Type))
	copy(buf[4:], o.ID[:])
	sum := sha256.Sum256(buf[:])
	return ShardID(binary.BigEndian.Uint16(sum[:2]) >> 4)
}

// An Engine is one store: a folder, a database, a structure in memory. Its
// methods may be called by several goroutines at once.
type Engine interface {
	// Info describes the store.
	Info(ctx context.Context) (Info, error)
	// Join makes the caller a member. A second Join of the same node id ends
	// the session of the first. It fails with [ErrInvalid] for a second node
	// where [Info.Shared] is false.
	Join(ctx context.Context, node Node) (Session, error)
	// Close ends every session, waits for what is under way and releases the
	// store. Commits still pending resolve before it returns.
	Close() error
}

// Info describes a store.
type Info struct {
	Store    [16]byte // identity, drawn at random when the store was made
	Format   int      // format version of the stored bytes
	MaxBatch int      // most bytes of keys and values in one [Batch]
	MaxValue int      // most bytes of one value
	MaxKey   int      // most bytes of one key
	Shared   bool     // more than one node can join
	// CommitHint is how long a commit usually takes to become durable.
	CommitHint time.Duration
}

// A Node describes a member to the others.
type Node struct {
	ID   NodeID
	Addr string // where peers reach it; empty on a store that is not shared
}

// A Session is one node's membership. Its methods may be called by several
// goroutines at once.
type Session interface {
	// Lease is the instant, by the local monotonic clock, before which no
	// other node can have been given a shard of this one. An answer that rests
	// on memory alone leaves before it or not at all. The zero Time means for
	// ever.
	Lease() time.Time
	// Claim takes those of the wanted shards that have no live owner, each
	// under a new epoch. When it returns, every commit of an earlier epoch is
	// either visible and as durable as the claim itself, or will never happen.
	Claim(ctx context.Context, want []ShardID) ([]Shard, error)
	// Type returns the number of the object type with the given stored name,
	// and gives it one, durably, when the store has never seen it.
	Type(ctx context.Context, name string) (TypeID, error)
	// Types returns every object type the store knows.
	Types(ctx context.Context) (map[string]TypeID, error)
	// Objects yields the existing objects of a type in order of name, then id;
	// objects without a name come first.
	Objects(ctx context.Context, query ObjectQuery) iter.Seq2[Object, error]
	// Timers yields what is due up to and including until, over the shards
	// that this session owns, in order of time.
	Timers(ctx context.Context, until time.Time) iter.Seq2[Timer, error]
	// Leave releases every shard and ends the session.
	Leave(ctx context.Context) error
	// Done is closed when the session is over and all its shards are lost.
	Done() <-chan struct{}
	// Err tells why Done was closed, nil before.
	Err() error
}

// An ObjectQuery selects objects for [Session.Objects].
type ObjectQuery struct {
	Type   TypeID
	Prefix string  // only names that begin with it
	After  *Object // only what comes later than this Name and ID
}

// An Object is one existing object: it has been committed to, and not wiped
// since.
type Object struct {
	ObjectID
	Meta
}

// Meta is what a store keeps about each existing object.
type Meta struct {
	Name    string    // empty when the object was made by id
	Created time.Time // the turn of its first commit, to the millisecond
}

// A Reader reads objects. Keys and values it returns belong to the caller.
type Reader interface {
	// Meta returns the record of an object; ok is false when it does not
	// exist.
	Meta(ctx context.Context, o ObjectID) (m Meta, ok bool, err error)
	// Get returns the value of a key; ok is false when there is none.
	Get(ctx context.Context, o ObjectID, key []byte) (val []byte, ok bool, err error)
	// GetPatched is Get, and tells how many patches [Batch.Merge] added to the
	// value since it was last put whole.
	GetPatched(ctx context.Context, o ObjectID, key []byte) (val []byte, patches int, ok bool, err error)
	// Scan yields the pairs of a range in byte order of their keys. It shows
	// the state at the moment the iteration began.
	Scan(ctx context.Context, o ObjectID, r Range) iter.Seq2[Pair, error]
}

// A Shard is the right to write one shard during one epoch. Its methods may be
// called by several goroutines at once, except that the commits of one object
// come one after another.
type Shard interface {
	ID() ShardID
	Epoch() Epoch

	// Reader sees every batch from the moment Commit has returned, durable or
	// not.
	Reader

	// Commit applies the batch, whole or not at all, and starts to make it
	// durable. Batches of one shard become durable in the order of the calls,
	// so that a later one is never durable without an earlier.
	//
	// The result resolves to nil, when the batch is durable, or to [ErrLost];
	// or, before Commit returns, to [ErrTooLarge], [ErrInvalid] or
	// [ErrNoSpace], and then nothing was applied and the shard lives on.
	//
	// The engine and the caller share the batch unchanged from now on.
	Commit(b *Batch) *Pending
	// Snapshot is a frozen Reader, for long reads beside the writer.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Confirm returns nil if this session owned the shard at some instant
	// after the call began.
	Confirm(ctx context.Context) error
	// Release waits for pending commits and gives the shard up.
	Release(ctx context.Context) error
	// Done is closed when the shard is lost or released.
	Done() <-chan struct{}
	// Err tells why Done was closed, nil before.
	Err() error
}

// A Sizer is a [Shard] that can tell how big an object is without reading it.
type Sizer interface {
	// Size returns about how many bytes the object takes in the files of the
	// store. What was written last may not be counted.
	Size(ctx context.Context, o ObjectID) (int64, error)
}

// A Snapshot is a frozen view of a shard. Close releases what it holds.
type Snapshot interface {
	Reader
	Close()
}

// A Pair is a key and its value.
type Pair struct{ Key, Val []byte }

// A Range selects keys from Lo, included, to Hi, excluded. A nil bound is open.
type Range struct {
	Lo, Hi  []byte
	Reverse bool // from the highest key down
}

// A Batch is what one turn did to one object, already folded: a key is in at
// most one of Put, Del and Merge. The parts are applied in the order of the
// fields.
type Batch struct {
	Object ObjectID
	// Wipe removes the object first: its record, keys and timers.
	Wipe bool
	// Create makes the object exist under this record, or replaces the record.
	// A batch that writes to an object that does not exist carries it.
	Create *Meta
	// Drop removes whole ranges.
	Drop []Range
	Put  []Pair
	Del  [][]byte
	// Merge appends operands of the store's one merge operator: patches of a
	// value, made by package storage/internal/patch.
	Merge []Pair
	// Timers sets or, with a zero Due, clears timers.
	Timers []Timer
}

// Size returns how many bytes of keys and values the batch holds, as
// [Info.MaxBatch] counts them.
func (b *Batch) Size() int {
	n := 0
	for _, p := range b.Put {
		n += len(p.Key) + len(p.Val)
	}
	for _, p := range b.Merge {
		n += len(p.Key) + len(p.Val)
	}
	for _, k := range b.Del {
		n += len(k)
	}
	return n
}

// A Timer is a time at which the runtime has something to do for an object. An
// object has at most one of each kind.
type Timer struct {
	Object ObjectID
	Kind   uint8
	Due    time.Time // to the millisecond, rounded up when stored
}
