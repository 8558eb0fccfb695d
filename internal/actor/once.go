package actor

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	"github.com/durable-go/durable/storage"
)

// Key spaces of remembered replies in an object's map.
const (
	spaceReply  = 'i' // then the idempotency key: a [recordv1.Reply]
	spaceExpiry = 'x' // then when it expires, in milliseconds (8), and the key
)

func replyKey(key string) []byte {
	return append(append(make([]byte, 0, 1+len(key)), spaceReply), key...)
}

func expiryKey(ms int64, key string) []byte {
	b := append(make([]byte, 0, 9+len(key)), spaceExpiry)
	return append(binary.BigEndian.AppendUint64(b, uint64(ms)), key...)
}

// cutExpiry splits the key of an expiry.
func cutExpiry(stored []byte) (ms int64, key string, ok bool) {
	if len(stored) < 9 {
		return 0, "", false
	}
	return int64(binary.BigEndian.Uint64(stored[1:9])), string(stored[9:]), true
}

// Once makes a unary call that may write take effect once, however often it is
// made with the same key.
type Once struct {
	Key string
	// Request tells what is asked from what other calls ask.
	Request [32]byte
	// Encode returns what is kept of the outcome of the handler, in the commit
	// of what it wrote: the response is filled when err is nil. keep is false for
	// an error that tells nothing of the call itself, as that the caller went
	// away; it is kept all the same when something was committed already. Encode
	// runs inside the turn.
	Encode func(err error) (reply []byte, keep bool)
	// Replay takes what Encode returned for the first call, in place of running
	// the handler, and returns what this call ends with.
	Replay func(reply []byte) error
}

// An onceTurn is what a turn has to remember of its call.
type onceTurn struct {
	*Once
	rec    *recordv1.Reply
	marked bool // a commit of the turn told that the call began
	ended  bool // rec has the reply
}

// recall looks for the reply to a call that was made before with the same key.
// When found is true there is nothing left to do, and err is how the call ends.
// Otherwise the turn remembers its outcome from now on.
func (t *turn) recall(ctx context.Context, once *Once) (found bool, err error) {
	now := time.Now()
	if err := t.act.readReplies(ctx, t.o); err != nil {
		return true, err
	}
	var val []byte
	ok := false
	if t.act.replies.mayHave(once.Key) {
		if val, ok, err = t.act.shard.Get(ctx, t.o.id, replyKey(once.Key)); err != nil {
			return true, readFailed("look for an earlier reply", err)
		}
	}
	underWay := t.act.calls(once.Key)
	if underWay && !ok { // it has not come to a commit point
		return true, durable.ErrIdempotencyInProgress
	}
	if ok {
		rec := new(recordv1.Reply)
		if err := proto.Unmarshal(val, rec); err != nil {
			return true, fmt.Errorf("%w: the reply of an idempotency key: %w", storage.ErrCorrupt, err)
		}
		switch {
		case rec.GetExpiresMs() <= now.UnixMilli() && !underWay: // forgotten
		case string(rec.GetRequest()) != string(once.Request[:]):
			return true, durable.ErrIdempotencyMismatch
		case rec.Reply != nil:
			return true, once.Replay(rec.GetReply())
		case underWay:
			return true, durable.ErrIdempotencyInProgress
		default:
			return true, durable.ErrIdempotencyCutOff
		}
	}
	expires := now.Add(t.o.typ.Limits.ReplyRetention).UnixMilli() + 1
	t.once = &onceTurn{Once: once, rec: &recordv1.Reply{Request: once.Request[:], ExpiresMs: expires}}
	t.act.begins(once.Key)
	return false, nil
}

// outcome notes how the handler ended.
func (t *turn) outcome(err error) {
	once := t.once
	if once == nil {
		return
	}
	reply, keep := once.Encode(err)
	if _, committed := durable.Kept(err); err == nil || keep || committed || once.marked {
		once.rec.Reply, once.ended = reply, true
		if once.rec.Reply == nil {
			once.rec.Reply = []byte{}
		}
	}
}

// A commit of the turn holds the reply, or tells that the call began. due
// reports whether there is something to add at a commit point, or at the last
// commit.
func (once *onceTurn) due(last bool) bool {
	return once != nil && (!last && !once.marked || last && once.ended)
}

// addReply puts what the turn has to remember into its batch.
func (t *turn) addReply(b *storage.Batch, pendingSQL bool) error {
	once := t.once
	// An object that has nothing but remembered replies ends with them.
	alone := !t.act.exists && len(b.Put) == 0 && !pendingSQL
	once.rec.Deleted = once.rec.GetDeleted() || b.Wipe || alone
	val, err := proto.Marshal(once.rec)
	if err != nil {
		return fmt.Errorf("store the reply: %w", err)
	}
	expires := once.rec.GetExpiresMs()
	t.act.replies.add(once.Key)
	b.Put = append(b.Put,
		storage.Pair{Key: replyKey(once.Key), Val: val},
		storage.Pair{Key: expiryKey(expires, once.Key), Val: []byte{}})
	if first := t.act.replies.first; b.Wipe || first == 0 || expires < first {
		b.Timers = append(b.Timers, dueTimer(b.Object, timerReplies, expires))
	}
	return nil
}

// activationReplies is what an activation knows of the replies it remembers.
type activationReplies struct {
	// Turns that are alone use these three.

	known bool
	first int64 // when the first expires, in milliseconds; 0: there are none
	// keys has the hash of every key that is stored, so that new ones need not be
	// looked for; nil when there are too many.
	keys map[uint64]struct{}

	mu    sync.Mutex
	begun map[string]struct{} // the keys of calls under way
}

const (
	// readKeys is how many keys of replies are read when an object comes into
	// memory.
	readKeys = 1000
	// keptKeys is how many an activation knows in memory, of about 16 bytes each.
	keptKeys = 1 << 18
)

// hashSeed makes the hashes of keys differ from process to process.
var hashSeed = maphash.MakeSeed()

// readReplies finds out when the first reply expires, and which keys there are.
func (a *activation) readReplies(ctx context.Context, o *object) error {
	r := &a.replies
	if r.known {
		return nil
	}
	r.first, r.keys = 0, map[uint64]struct{}{}
	if a.exists {
		for pair, err := range a.shard.Scan(ctx, o.id, expiries()) {
			if err != nil {
				return readFailed("look for remembered replies", err)
			}
			ms, key, _ := cutExpiry(pair.Key)
			if r.first == 0 {
				r.first = ms
			}
			r.add(key)
			if len(r.keys) > readKeys {
				r.keys = nil
				break
			}
		}
	}
	r.known = true
	return nil
}

// add notes a key that is about to be stored.
func (r *activationReplies) add(key string) {
	if r.keys == nil {
		return
	}
	if len(r.keys) >= keptKeys {
		r.keys = nil
		return
	}
	r.keys[maphash.String(hashSeed, key)] = struct{}{}
}

// mayHave reports whether a reply may be stored under the key.
func (r *activationReplies) mayHave(key string) bool {
	if r.keys == nil {
		return true
	}
	_, ok := r.keys[maphash.String(hashSeed, key)]
	return ok
}

// expiries is the range of the expiries.
func expiries() storage.Range {
	return storage.Range{Lo: []byte{spaceExpiry}, Hi: []byte{spaceExpiry + 1}}
}

// noteReplies notes what a commit does to the timer of the replies.
func (a *activation) noteReplies(o *object, b *storage.Batch) {
	r := &a.replies
	changed := b.Wipe
	if changed {
		r.first = 0 // keys may stay: they only tell what need not be looked for
	}
	for _, timer := range b.Timers {
		if timer.Kind == timerReplies {
			changed, r.first = true, millis(timer.Due)
		}
	}
	if changed {
		o.host.alarms.note(o.id, timerReplies, r.first)
	}
}

// begins notes a call under way, ends that it is over.
func (a *activation) begins(key string) {
	r := &a.replies
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun == nil {
		r.begun = map[string]struct{}{}
	}
	r.begun[key] = struct{}{}
}

func (a *activation) ends(key string) {
	r := &a.replies
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.begun, key)
}

// calls reports whether a call with that key is under way.
func (a *activation) calls(key string) bool {
	r := &a.replies
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.begun[key]
	return ok
}

const (
	// forgetPerTurn is how many replies are forgotten in one turn.
	forgetPerTurn = 1000
	// forgetPause is the least time between two turns that forget replies of one
	// object, unless more than forgetPerTurn are due.
	forgetPause = time.Minute
)

// forget removes the replies that have expired, and sets the timer for the next
// time.
func (t *turn) forget(ctx context.Context) error {
	act, o, now := t.act, t.o, time.Now()
	b := &storage.Batch{Object: o.id}
	deleted, next := false, int64(0)
	for pair, err := range act.shard.Scan(ctx, o.id, expiries()) {
		if err != nil {
			return readFailed("look for remembered replies", err)
		}
		ms, key, ok := cutExpiry(pair.Key)
		if !ok {
			return fmt.Errorf("%w: an expiry of %d bytes", storage.ErrCorrupt, len(pair.Key))
		}
		if ms > now.UnixMilli() {
			next = max(ms, now.Add(forgetPause).UnixMilli())
			break
		}
		if len(b.Del) >= 2*forgetPerTurn {
			next = ms
			break
		}
		b.Del = append(b.Del, pair.Key)
		val, ok, err := act.shard.Get(ctx, o.id, replyKey(key))
		if err != nil {
			return readFailed("read a remembered reply", err)
		}
		rec := new(recordv1.Reply)
		if ok && proto.Unmarshal(val, rec) == nil && rec.GetExpiresMs() <= ms { // otherwise the key is in use again
			deleted = deleted || rec.GetDeleted()
			b.Del = append(b.Del, replyKey(key))
		}
	}
	b.Timers = []storage.Timer{dueTimer(o.id, timerReplies, next)}
	if deleted && next == 0 {
		empty, err := t.emptyBut(ctx, b.Del)
		if err != nil {
			return err
		}
		if empty {
			b = &storage.Batch{Object: o.id, Wipe: true}
			t.mu.Lock()
			t.overlay.wipe()
			t.mu.Unlock()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.apply(b, false)
}

// emptyBut reports whether the object has nothing stored but these keys.
func (t *turn) emptyBut(ctx context.Context, keys [][]byte) (bool, error) {
	mine := map[string]bool{}
	for _, key := range keys {
		mine[string(key)] = true
	}
	for pair, err := range t.act.shard.Scan(ctx, t.o.id, storage.Range{}) {
		if err != nil {
			return false, readFailed("look for what is stored", err)
		}
		if !mine[string(pair.Key)] && pair.Key[0] != spaceMeta {
			return false, nil
		}
	}
	return true, nil
}
