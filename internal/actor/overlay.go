package actor

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	"github.com/durable-go/durable/storage"
)

// spaceKV is the key space of the pairs in an object's map: the first byte of
// their keys. That of SQL pages is [storage.SQLSpace].
const spaceKV = 'k'

// kvKey returns the stored key of a pair.
func kvKey(key string) []byte {
	return append(append(make([]byte, 0, 1+len(key)), spaceKV), key...)
}

// An overlay holds what a turn wrote since its last commit point.
type overlay struct {
	kv     map[string][]byte          // nil: deleted
	alarms map[string]*recordv1.Alarm // nil: deleted
	bytes  int                        // of the keys and values in both, about
	wiped  bool                       // everything committed was deleted first
	// wrote is set by every write, also one that a savepoint undid.
	wrote bool
	// confirmed is set by writes that hold replies back.
	confirmed bool
	// undo holds what savepoints need to go back; empty outside of them.
	undo []undo
}

type undo struct {
	key       string
	value     []byte
	had       bool
	confirmed bool
	ofAlarm   bool
	alarm     *recordv1.Alarm // in place of value
}

// get returns what the overlay knows of a key.
func (v *overlay) get(key string) (value []byte, known bool) {
	value, known = v.kv[key]
	return value, known || v.wiped
}

func (v *overlay) dirty() bool { return v.wiped || len(v.kv)+len(v.alarms) > 0 }

// set stores a value, which it owns, or nil to delete the key.
func (v *overlay) set(key string, value []byte, confirmed, undoable bool) {
	if v.kv == nil {
		v.kv = map[string][]byte{}
	}
	old, had := v.kv[key]
	if undoable {
		v.undo = append(v.undo, undo{key: key, value: old, had: had, confirmed: v.confirmed})
	}
	v.bytes += len(value) - len(old)
	if !had {
		v.bytes += len(key) + 1
	}
	v.kv[key] = value
	v.wrote = true
	v.confirmed = v.confirmed || confirmed
}

// setAlarm sets an alarm, or removes it where rec is nil.
func (v *overlay) setAlarm(name string, rec *recordv1.Alarm, undoable bool) {
	if v.alarms == nil {
		v.alarms = map[string]*recordv1.Alarm{}
	}
	old, had := v.alarms[name]
	if undoable {
		v.undo = append(v.undo, undo{key: name, had: had, confirmed: v.confirmed, ofAlarm: true, alarm: old})
	}
	v.bytes += alarmBytes(name, rec) - alarmBytes(name, old)
	v.alarms[name] = rec
	v.wrote, v.confirmed = true, true
}

func alarmBytes(name string, rec *recordv1.Alarm) int {
	if rec == nil {
		return 0
	}
	return 1 + len(name) + proto.Size(rec)
}

// rollback undoes everything after the first n entries of the undo list.
func (v *overlay) rollback(n int) {
	for _, u := range slices.Backward(v.undo[n:]) {
		v.confirmed = u.confirmed
		if u.ofAlarm {
			v.bytes += alarmBytes(u.key, u.alarm) - alarmBytes(u.key, v.alarms[u.key])
			if u.had {
				v.alarms[u.key] = u.alarm
			} else {
				delete(v.alarms, u.key)
			}
			continue
		}
		v.bytes += len(u.value) - len(v.kv[u.key])
		if u.had {
			v.kv[u.key] = u.value
		} else {
			v.bytes -= len(u.key) + 1
			delete(v.kv, u.key)
		}
	}
	v.undo = v.undo[:n]
}

// wipe forgets all writes and everything committed.
func (v *overlay) wipe() { *v = overlay{wiped: true, wrote: true, confirmed: true} }

// sorted returns the entries from lo to hi, deletions included, in the order of
// a list.
func (v *overlay) sorted(lo, hi string, bounded, reverse bool) []durable.Entry {
	var entries []durable.Entry
	for key, value := range v.kv {
		if key >= lo && (!bounded || key < hi) {
			entries = append(entries, durable.Entry{Key: key, Value: value})
		}
	}
	slices.SortFunc(entries, func(a, b durable.Entry) int {
		if reverse {
			a, b = b, a
		}
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return entries
}

// batch turns the overlay into a batch of the object.
func (v *overlay) batch(id storage.ObjectID) *storage.Batch {
	b := &storage.Batch{Object: id, Wipe: v.wiped}
	puts := 0
	for _, value := range v.kv {
		if value != nil {
			puts++
		}
	}
	if puts > 0 {
		b.Put = make([]storage.Pair, 0, puts)
	}
	if len(v.kv) == 1 { // the usual turn
		for key, value := range v.kv {
			addTo(b, key, value)
		}
		return b
	}
	for _, key := range slices.Sorted(maps.Keys(v.kv)) {
		addTo(b, key, v.kv[key])
	}
	return b
}

func addTo(b *storage.Batch, key string, value []byte) {
	switch {
	case value != nil:
		b.Put = append(b.Put, storage.Pair{Key: kvKey(key), Val: value})
	case !b.Wipe:
		b.Del = append(b.Del, kvKey(key))
	}
}
