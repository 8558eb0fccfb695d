package actor

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/durable-go/durable/storage"
)

// spaceMeta is the key space of what the runtime notes of an object beside its
// record.
const spaceMeta = 'm'

// commitKey has the time of the last commit, in milliseconds (8), to the minute.
var commitKey = []byte{spaceMeta, 'c'}

// stampPause is how old the stored time of the last commit may get.
const stampPause = time.Minute

// stamp notes the time of a commit, and stores it now and then.
func (a *activation) stamp(b *storage.Batch, now time.Time) {
	a.lastCommit.Store(now.UnixMilli())
	if b.Wipe {
		a.stamped = time.Time{}
	}
	if len(b.Put)+len(b.Merge) == 0 || !a.stamped.IsZero() && now.Sub(a.stamped) < stampPause {
		return
	}
	a.stamped = now
	b.Put = append(b.Put, storage.Pair{Key: commitKey, Val: binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))})
}

// commitTime returns when the last commit was made: to the minute, where that was
// not in this activation; the zero time where it is not known.
func (a *activation) commitTime(ctx context.Context, id storage.ObjectID) (time.Time, error) {
	if at := a.lastCommit.Load(); at != 0 {
		return time.UnixMilli(at), nil
	}
	val, ok, err := a.shard.Get(ctx, id, commitKey)
	if err != nil {
		return time.Time{}, readFailed("read the time of the last commit", err)
	}
	if !ok || len(val) != 8 {
		return time.Time{}, nil
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(val))), nil
}
