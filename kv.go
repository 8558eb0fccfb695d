package durable

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"
)

// Limits of the key-value pairs of an object, unless options change them.
const (
	// DefaultMaxKeyBytes is the length of the longest key.
	DefaultMaxKeyBytes = 2048
	// DefaultMaxValueBytes is the length of the longest value.
	DefaultMaxValueBytes = 2 << 20
	// DefaultMaxBatchKeys is how many keys one GetMany, PutMany or DeleteMany
	// takes.
	DefaultMaxBatchKeys = 128
)

// A KVReader reads the key-value pairs of one object. Keys are any bytes, also
// none, and are ordered byte by byte. Reads see what the turn wrote before.
//
// Values belong to the caller, who may change them.
type KVReader interface {
	// Get returns the value of key; ok is false when there is none.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	// GetMany returns the pairs that exist among keys, in order of key. It
	// returns a [LimitError] for more keys than [Limits].MaxBatchKeys, 128 by
	// default.
	GetMany(ctx context.Context, keys ...string) ([]Entry, error)
	// List yields the pairs in order of key, all of them unless options say
	// otherwise. It shows the state at the moment the iteration began, whatever
	// is written meanwhile, and ends with [ErrTxDone] when the turn ends. After
	// an error it yields nothing more.
	List(ctx context.Context, opts ...ListOption) iter.Seq2[Entry, error]
}

// A KV reads and writes the key-value pairs of one object. Its writes are
// readable at once and durable with the commit of the turn. It copies what it
// is given.
type KV interface {
	KVReader
	// Put stores value under key, in place of any other. A nil value is
	// refused with [ErrInvalidArgument]; an empty one is a value. It returns a
	// [LimitError] for a key over [Limits].MaxKeyBytes, 2 KiB by default, or a
	// value over MaxValueBytes, 2 MiB by default.
	Put(ctx context.Context, key string, value []byte) error
	// PutMany stores all pairs, or none when one of them is refused or there
	// are more than [Limits].MaxBatchKeys, 128 by default.
	PutMany(ctx context.Context, entries ...Entry) error
	// Delete removes key and reports whether it was there.
	Delete(ctx context.Context, key string) (existed bool, err error)
	// DeleteMany removes keys and returns how many were there. It returns a
	// [LimitError], and removes nothing, for more than [Limits].MaxBatchKeys, 128
	// by default.
	DeleteMany(ctx context.Context, keys ...string) (existed int, err error)
	// Unconfirmed returns the same pairs, whose writes hold no reply back: a
	// turn that wrote through it alone answers before its commit is durable. A
	// crash may undo such writes after the answer left. When the commit fails
	// the object is reset all the same.
	Unconfirmed() KV
}

// An Entry is a key and its value.
type Entry struct {
	Key   string
	Value []byte
}

// ListOptions is what the options of a list come to.
type ListOptions struct {
	Start      string // the first key that may be listed
	StartAfter string // list only keys beyond it
	End        string // list only keys before it
	Prefix     string
	Limit      int // 0: no limit
	Reverse    bool

	hasStart, hasStartAfter, hasEnd, hasLimit bool
}

// A ListOption narrows a list.
type ListOption func(*ListOptions)

// ListStart lists keys from key on, included.
func ListStart(key string) ListOption {
	return func(o *ListOptions) { o.Start, o.hasStart = key, true }
}

// ListStartAfter lists keys beyond key. It excludes [ListStart].
func ListStartAfter(key string) ListOption {
	return func(o *ListOptions) { o.StartAfter, o.hasStartAfter = key, true }
}

// ListEnd lists keys before key.
func ListEnd(key string) ListOption {
	return func(o *ListOptions) { o.End, o.hasEnd = key, true }
}

// ListPrefix lists keys that begin with prefix.
func ListPrefix(prefix string) ListOption {
	return func(o *ListOptions) { o.Prefix = prefix }
}

// ListLimit lists at most n pairs, which must be positive: the first n, or the
// last n with [ListReverse].
func ListLimit(n int) ListOption {
	return func(o *ListOptions) { o.Limit, o.hasLimit = n, true }
}

// ListReverse lists from the highest key down. Start stays the lower bound.
func ListReverse() ListOption {
	return func(o *ListOptions) { o.Reverse = true }
}

// Range folds list options into bounds: lo included, hi excluded, and bounded
// is false when there is no upper bound. It returns [ErrInvalidArgument] for
// options that contradict one another.
func (o *ListOptions) Range() (lo, hi string, bounded bool, err error) {
	if o.hasStart && o.hasStartAfter {
		return "", "", false, fmt.Errorf("%w: list: ListStart and ListStartAfter exclude each other", ErrInvalidArgument)
	}
	if o.hasLimit && o.Limit <= 0 {
		return "", "", false, fmt.Errorf("%w: list: the limit is %d and must be positive", ErrInvalidArgument, o.Limit)
	}
	lo = o.Start
	if o.hasStartAfter {
		lo = o.StartAfter + "\x00"
	}
	hi, bounded = o.End, o.hasEnd
	lo = max(lo, o.Prefix)
	if end, ok := prefixEnd(o.Prefix); ok && (!bounded || end < hi) {
		hi, bounded = end, true
	}
	return lo, hi, bounded, nil
}

// prefixEnd returns the first key after all those with the prefix; ok is false
// when there is none.
func prefixEnd(prefix string) (end string, ok bool) {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1}), true
		}
	}
	return "", false
}

// GetProto reads the message stored under key into msg, in place of what it
// held, and reports whether there was one. Without one, msg is left alone. It
// returns [ErrMalformedValue] when the value does not parse.
func GetProto(ctx context.Context, kv KVReader, key string, msg proto.Message) (bool, error) {
	value, ok, err := kv.Get(ctx, key)
	if err != nil || !ok {
		return false, err
	}
	if err := proto.Unmarshal(value, msg); err != nil {
		return false, fmt.Errorf("%w: get %q: no %s: %w", ErrMalformedValue, key, msg.ProtoReflect().Descriptor().FullName(), err)
	}
	return true, nil
}

// PutProto stores msg under key, in protobuf's binary encoding, by the rules of
// [KV].Put. msg stays the caller's.
func PutProto(ctx context.Context, kv KV, key string, msg proto.Message) error {
	// The capacity keeps the value of an empty message from being nil.
	value, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, proto.Size(msg)), msg)
	if err != nil {
		return fmt.Errorf("durable: put %q: %w", key, err)
	}
	return kv.Put(ctx, key, value)
}

// ListProto yields the pairs that list as messages of type M, under the same
// rules as [KVReader].List. It ends with [ErrMalformedValue] at a value that does
// not parse.
func ListProto[M any, PM interface {
	*M
	proto.Message
}](ctx context.Context, kv KVReader, opts ...ListOption) iter.Seq2[ProtoEntry[PM], error] {
	return func(yield func(ProtoEntry[PM], error) bool) {
		for e, err := range kv.List(ctx, opts...) {
			msg := PM(new(M))
			if err == nil {
				if uerr := proto.Unmarshal(e.Value, msg); uerr != nil {
					err = fmt.Errorf("%w: list %q: no %s: %w", ErrMalformedValue, e.Key, msg.ProtoReflect().Descriptor().FullName(), uerr)
				}
			}
			if !yield(ProtoEntry[PM]{Key: e.Key, Message: msg}, err) || err != nil {
				return
			}
		}
	}
}

// A ProtoEntry is a key and the message stored under it.
type ProtoEntry[PM proto.Message] struct {
	Key     string
	Message PM
}
