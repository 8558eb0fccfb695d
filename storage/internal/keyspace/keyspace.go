// Package keyspace lays out the keys of a store, so that their byte order is the
// order in which the store reads them.
//
// One object is one contiguous range:
//
//	shard (2) | type (4) | id (32) | 0x00 | record     what the engine keeps
//	shard (2) | type (4) | id (32) | 0x01 | key        what the caller stores
//
// All numbers are big-endian. A shard is below 0x1000, so the first byte of an
// object's key is below 0x10. Keys of the store itself begin with 0xF0 to 0xFF.
// The README of package storage says what never changes.
package keyspace

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/durable-go/durable/storage"
)

// PrefixLen is the length of the part of a key that names the object, and
// CallerLen the length of what stands before a caller's key.
const (
	PrefixLen = 2 + 4 + 32
	CallerLen = PrefixLen + 1
)

// The byte after the object.
const (
	spaceEngine = 0x00
	spaceCaller = 0x01
	spaceEnd    = 0x02
)

// The byte after spaceEngine.
const (
	recordMeta  = 'm'
	recordTimer = 't'
)

// The first byte of the keys of the store itself.
const (
	sysStore = 0xF0
	sysType  = 0xF1
	sysName  = 0xF2
	sysTime  = 0xF3
)

// ErrKey is returned for a key that this package did not make.
var ErrKey = errors.New("keyspace: malformed key")

// Keys of single records of the store.
var (
	Info     = []byte{sysStore, 'i'} // format version and identity
	Epoch    = []byte{sysStore, 'e'} // the highest epoch given out
	NextType = []byte{sysStore, 't'} // the next type number to give out
)

// AppendObject appends the prefix of every key of o.
func AppendObject(dst []byte, o storage.ObjectID) []byte {
	return appendObject(dst, o.Shard(), o)
}

func appendObject(dst []byte, shard storage.ShardID, o storage.ObjectID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(shard))
	dst = binary.BigEndian.AppendUint32(dst, uint32(o.Type))
	return append(dst, o.ID[:]...)
}

// AppendObjectEnd appends the end, not included, of the range of o.
func AppendObjectEnd(dst []byte, o storage.ObjectID) []byte {
	return append(AppendObject(dst, o), spaceEnd)
}

// AppendKey appends the key of a caller's pair.
func AppendKey(dst []byte, o storage.ObjectID, key []byte) []byte {
	return append(append(AppendObject(dst, o), spaceCaller), key...)
}

// AppendPair does what [AppendKey] does, with the prefix that [AppendObject]
// made before.
func AppendPair(dst, prefix, key []byte) []byte {
	return append(append(append(dst, prefix...), spaceCaller), key...)
}

// AppendBounds appends the bounds of a caller's range to lo and hi.
func AppendBounds(lo, hi []byte, o storage.ObjectID, r storage.Range) ([]byte, []byte) {
	start, end := len(lo), len(hi)
	lo = AppendObject(lo, o)
	hi = append(hi, lo[start:]...)
	lo = append(append(lo, spaceCaller), r.Lo...)
	if r.Hi == nil {
		return lo, append(hi, spaceEnd)
	}
	hi = append(append(hi, spaceCaller), r.Hi...)
	// A range that ends before it begins is empty, not an error.
	if string(hi[end:]) < string(lo[start:]) {
		hi = append(hi[:end], lo[start:]...)
	}
	return lo, hi
}

// CutKey returns the object and the caller's key of a key made by [AppendKey].
func CutKey(k []byte) (storage.ObjectID, []byte, error) {
	o, rest, err := cutObject(k)
	if err != nil || len(rest) == 0 || rest[0] != spaceCaller {
		return o, nil, ErrKey
	}
	return o, rest[1:], nil
}

func cutObject(k []byte) (o storage.ObjectID, rest []byte, err error) {
	if len(k) < PrefixLen {
		return o, nil, ErrKey
	}
	o = object(k[2:PrefixLen])
	if binary.BigEndian.Uint16(k) != uint16(o.Shard()) {
		return o, nil, ErrKey
	}
	return o, k[PrefixLen:], nil
}

func object(typeAndID []byte) (o storage.ObjectID) {
	o.Type = storage.TypeID(binary.BigEndian.Uint32(typeAndID))
	copy(o.ID[:], typeAndID[4:])
	return o
}

// AppendMeta appends the key of the record of o.
func AppendMeta(dst []byte, o storage.ObjectID) []byte {
	return append(AppendObject(dst, o), spaceEngine, recordMeta)
}

// AppendTimer appends the key of the row of a timer of o.
func AppendTimer(dst []byte, o storage.ObjectID, kind uint8) []byte {
	return append(AppendObject(dst, o), spaceEngine, recordTimer, kind)
}

// A Record says what a key in an object's range is.
type Record uint8

// The records.
const (
	RecordPair  Record = iota // a caller's pair
	RecordMeta                // the object's record
	RecordTimer               // the row of a timer
)

// CutRecord returns what a key in an object's range is, and the kind of a timer.
func CutRecord(k []byte) (o storage.ObjectID, what Record, kind uint8, err error) {
	o, rest, err := cutObject(k)
	switch {
	case err != nil:
		return o, 0, 0, err
	case len(rest) >= 1 && rest[0] == spaceCaller:
		return o, RecordPair, 0, nil
	case len(rest) == 2 && rest[0] == spaceEngine && rest[1] == recordMeta:
		return o, RecordMeta, 0, nil
	case len(rest) == 3 && rest[0] == spaceEngine && rest[1] == recordTimer:
		return o, RecordTimer, rest[2], nil
	}
	return o, 0, 0, ErrKey
}

// ObjectsEnd is the end, not included, of the keys of all objects.
var ObjectsEnd = []byte{storage.Shards >> 8}

// AppendType appends the key of the number of the object type with a name.
func AppendType(dst []byte, name string) []byte {
	return append(append(dst, sysType), name...)
}

// CutType returns the name in a key made by [AppendType].
func CutType(k []byte) (string, error) {
	if len(k) == 0 || k[0] != sysType {
		return "", ErrKey
	}
	return string(k[1:]), nil
}

// Types returns the bounds of the keys made by [AppendType].
func Types() (lo, hi []byte) { return []byte{sysType}, []byte{sysType + 1} }

// In a name, 0x00 is written as 0x00 0xFF; 0x00 0x01 ends it. So a name sorts
// before all that it is a prefix of.
const (
	escapeByte = 0x00
	escapedNul = 0xFF
	escapedEnd = 0x01
)

// AppendName appends the key of an object in the listing of its type.
func AppendName(dst []byte, o storage.ObjectID, name string) []byte {
	dst = appendNamePrefix(dst, o.Type, name)
	dst = append(dst, escapeByte, escapedEnd)
	return append(dst, o.ID[:]...)
}

func appendNamePrefix(dst []byte, typ storage.TypeID, prefix string) []byte {
	dst = append(dst, sysName)
	dst = binary.BigEndian.AppendUint32(dst, uint32(typ))
	for i := range len(prefix) {
		dst = append(dst, prefix[i])
		if prefix[i] == escapeByte {
			dst = append(dst, escapedNul)
		}
	}
	return dst
}

// Names returns the bounds of the part of the listing that q selects.
func Names(q storage.ObjectQuery) (lo, hi []byte) {
	lo = appendNamePrefix(nil, q.Type, q.Prefix)
	hi = successor(lo)
	if q.After != nil {
		after := *q.After
		after.Type = q.Type
		next := append(AppendName(nil, after.ObjectID, after.Name), 0)
		if string(next) > string(lo) {
			lo = next
		}
		if string(lo) > string(hi) {
			lo = hi
		}
	}
	return lo, hi
}

// AllNames returns the bounds of the listings of all types.
func AllNames() (lo, hi []byte) { return []byte{sysName}, []byte{sysName + 1} }

// successor returns the first key after all those that begin with k, which does
// not begin with 0xFF.
func successor(k []byte) []byte {
	next := append([]byte(nil), k...)
	for i := len(next) - 1; ; i-- {
		if next[i]++; next[i] != 0 {
			return next[:i+1]
		}
	}
}

// CutName returns the object and the name in a key made by [AppendName].
func CutName(k []byte) (o storage.ObjectID, name string, err error) {
	if len(k) < 1+4+2+32 || k[0] != sysName {
		return o, "", ErrKey
	}
	o.Type = storage.TypeID(binary.BigEndian.Uint32(k[1:]))
	body := k[5 : len(k)-32]
	copy(o.ID[:], k[len(k)-32:])
	buf := make([]byte, 0, len(body))
	for i := 0; i < len(body); i++ {
		if body[i] != escapeByte {
			buf = append(buf, body[i])
			continue
		}
		i++
		switch {
		case i < len(body) && body[i] == escapedNul:
			buf = append(buf, 0)
		case i == len(body)-1 && body[i] == escapedEnd:
			return o, string(buf), nil
		default:
			return o, "", ErrKey
		}
	}
	return o, "", ErrKey
}

// Due returns the stored form of a time: milliseconds since 1970, rounded up.
func Due(t time.Time) int64 {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}

// AppendDue appends a time so that earlier ones sort first.
func AppendDue(dst []byte, ms int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(ms)^(1<<63))
}

// CutDue reads what [AppendDue] wrote.
func CutDue(b []byte) (ms int64, err error) {
	if len(b) != 8 {
		return 0, ErrKey
	}
	return int64(binary.BigEndian.Uint64(b) ^ (1 << 63)), nil
}

// AppendTime appends the key of a timer in the time index.
func AppendTime(dst []byte, ms int64, o storage.ObjectID, kind uint8) []byte {
	dst = AppendDue(append(dst, sysTime), ms)
	dst = binary.BigEndian.AppendUint32(dst, uint32(o.Type))
	dst = append(dst, o.ID[:]...)
	return append(dst, kind)
}

// CutTime reads a key made by [AppendTime].
func CutTime(k []byte) (t storage.Timer, err error) {
	if len(k) != 1+8+4+32+1 || k[0] != sysTime {
		return t, ErrKey
	}
	ms, _ := CutDue(k[1:9])
	return storage.Timer{Object: object(k[9:45]), Kind: k[45], Due: time.UnixMilli(ms)}, nil
}

// Times returns the bounds of the timers due up to and including until.
func Times(until time.Time) (lo, hi []byte) {
	ms := until.UnixMilli()
	if ms == math.MaxInt64 {
		return []byte{sysTime}, []byte{sysTime + 1}
	}
	return []byte{sysTime}, AppendDue([]byte{sysTime}, ms+1)
}

// AllTimes returns the bounds of the whole time index.
func AllTimes() (lo, hi []byte) { return []byte{sysTime}, []byte{sysTime + 1} }
