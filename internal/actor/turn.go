package actor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// A turn is a stretch of handler code in which no conflicting turn of the same
// object runs. The handles that handlers get are views of it.
type turn struct {
	o      *object
	act    *activation
	access access
	start  time.Time
	link   *link
	exists bool // as of the start

	// constructing is set in the constructor's turn, which nothing interrupts.
	constructing bool
	// called is set once a call has left for another object.
	called atomic.Bool

	mu        sync.Mutex // guards the rest, and start and exists
	state     turnState
	stint     int // counts the times the turn was left and entered again
	depth     int // of savepoints
	overlay   overlay
	committed bool // something, in this turn
}

type turnState uint8

const (
	running turnState = iota
	away              // outside, in Await
	done              // over; the queue has been left, or its caller leaves it
)

func newTurn(o *object, act *activation, a access, l *link) *turn {
	return &turn{o: o, act: act, access: a, start: time.Now(), link: l, exists: act.exists}
}

// live returns an error unless the handle may be used. The caller holds mu.
func (t *turn) live() error {
	if t.state != running {
		return durable.ErrTxDone
	}
	return t.act.err()
}

// stop ends the use of the handles.
func (t *turn) stop() {
	t.mu.Lock()
	t.state = done
	t.mu.Unlock()
}

// discard forgets what was written since the last commit point and reports
// whether there was anything.
func (t *turn) discard() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	dirty := t.overlay.dirty()
	t.overlay = overlay{}
	return dirty
}

// call runs fn, and makes an error of a panic. When fn ends its goroutine,
// nothing can be returned, and exit gets the error.
func (t *turn) call(fn func() error, exit func(error)) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		v := recover()
		if v == nil {
			exit(t.recovered("the handler called runtime.Goexit"))
			return
		}
		err = t.recovered(v)
	}()
	err = fn()
	returned = true
	return err
}

// finish ends the turn with the handler's error. See inTurn.
func (t *turn) finish(err error) (mark, error) {
	t.mu.Lock()
	held := t.state == running
	t.state = done
	t.mu.Unlock()

	o := t.o
	cause := causeOf(err)
	switch {
	case cause.abort != nil:
		t.discard()
		o.reset(t.act, cause.abort)
	case t.act.err() != nil: // ended from outside, while it ran
		t.discard()
		err = t.act.err()
	case cause.panicked:
		t.discard()
		o.retire(t.act)
	case err == nil || cause.kept:
		err = cause.handler
		if cerr := t.commit(); cerr != nil {
			t.discard()
			o.retire(t.act)
			err = cerr
		}
	default:
		if t.discard() {
			o.retire(t.act)
		}
	}
	m := o.now(t.act)
	m.wrote = t.committed
	m.effects = t.committed || t.called.Load()
	if held {
		o.leave(t.access)
	}
	return m, err
}

// A turnCause is what the error of a handler means for its turn.
type turnCause struct {
	handler  error // without the mark of [durable.Keep]
	kept     bool
	panicked bool
	abort    *durable.AbortError
}

func causeOf(err error) turnCause {
	if err == nil {
		return turnCause{}
	}
	var panicked *durable.PanicError
	var abort *durable.AbortError
	isPanic := errors.As(err, &panicked)
	errors.As(err, &abort)
	handler, kept := durable.Kept(err)
	return turnCause{handler: handler, kept: kept, panicked: isPanic, abort: abort}
}

// commit hands what was written since the last commit point to the store. When
// it returns nil the next turn sees it; the object's newest commit tells when
// it is durable.
func (t *turn) commit() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commitLocked()
}

func (t *turn) commitLocked() error {
	v := &t.overlay
	if !v.dirty() {
		return nil
	}
	if err := t.act.err(); err != nil {
		return err
	}
	act, o := t.act, t.o
	puts := false
	for _, value := range v.kv {
		if value != nil {
			puts = true
			break
		}
	}
	exists := act.exists && !v.wiped
	var create *storage.Meta
	if (!exists && (puts || !v.wiped)) || (exists && act.renamed) {
		if !exists {
			act.created = t.start
		}
		create = &storage.Meta{Name: act.name, Created: act.created}
	}
	if v.wiped && !puts && !act.exists {
		t.overlay = overlay{} // nothing was there, and nothing came
		return nil
	}
	pending := act.shard.Commit(v.batch(o.id, create))
	if resolved, err := pending.Resolved(); resolved && err != nil {
		if notOwner(err) {
			err = commitFailed(err)
			o.reset(act, err)
		}
		return err
	}
	act.exists = create != nil || exists
	if create != nil {
		act.renamed = false
	}
	t.committed = true
	o.mu.Lock()
	o.last = pending
	if v.confirmed {
		o.confirmed = pending
	}
	o.mu.Unlock()
	t.overlay = overlay{}
	return nil
}

// commitPoint commits in mid-turn and returns the mark to wait for. next is the
// state of the turn from then on.
func (t *turn) commitPoint(what string, next turnState) (mark, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.live()
	if err == nil && t.depth > 0 {
		err = fmt.Errorf("%s: %w", what, durable.ErrCallInSavepoint)
	}
	if err == nil {
		err = t.commitLocked()
	}
	if err != nil {
		return mark{}, err
	}
	if t.state = next; next == away {
		t.stint++
	}
	return t.o.now(t.act), nil
}

// Handle.

// ObjectType implements [durable.Handle].
func (t *turn) ObjectType() string { return t.o.typ.Name }

// ID implements [durable.Handle].
func (t *turn) ID() durable.ID { return t.o.durableID() }

// Name implements [durable.Handle].
func (t *turn) Name() string { return t.act.name }

// Now implements [durable.Handle].
func (t *turn) Now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.start
}

// Exists implements [durable.Handle].
func (t *turn) Exists() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exists
}

// A viewHandle is the [durable.View] of a turn.
type viewHandle struct{ *turn }

func (h viewHandle) KV() durable.KVReader { return (*kv)(h.turn) }

// A txHandle is the [durable.Tx] of a turn.
type txHandle struct{ *turn }

func (h txHandle) KV() durable.KV { return (*kv)(h.turn) }

// DeleteAll implements [durable.Tx].
func (h txHandle) DeleteAll(context.Context) error {
	t := h.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if t.depth > 0 {
		return durable.ErrDeleteAllInSavepoint
	}
	t.overlay.wipe()
	return nil
}

// Savepoint implements [durable.Tx].
func (h txHandle) Savepoint(fn func() error) error {
	t := h.turn
	t.mu.Lock()
	if err := t.live(); err != nil {
		t.mu.Unlock()
		return err
	}
	t.depth++
	start := len(t.overlay.undo)
	t.mu.Unlock()

	undo := true
	defer func() { // also when fn panics
		t.mu.Lock()
		defer t.mu.Unlock()
		if undo && start <= len(t.overlay.undo) {
			t.overlay.rollback(start)
		}
		t.depth--
		if t.depth == 0 {
			t.overlay.undo = nil
		}
	}()
	err := fn()
	undo = err != nil
	return err
}

// Sync implements [durable.Tx].
func (h txHandle) Sync(ctx context.Context) error {
	if _, err := h.commitPoint("sync", running); err != nil {
		return err
	}
	o := h.o
	o.mu.Lock()
	m := mark{act: h.act, pending: o.last, wrote: true} // unconfirmed writes too
	o.mu.Unlock()
	return o.await(ctx, m)
}

// Await implements [durable.Tx].
func (h txHandle) Await(ctx context.Context, fn func(ctx context.Context) error) error {
	t, o := h.turn, h.o
	m, err := t.commitPoint("await", away)
	if err != nil {
		return err
	}
	if !t.constructing {
		t.link.away.Store(true)
		o.leave(exclusive)
	}

	err = o.await(ctx, m)
	if err == nil {
		err = fn(ctx)
	}

	if !t.constructing {
		if eerr := o.enter(ctx, exclusive, 0, true); eerr != nil {
			t.stop()
			return eerr
		}
		if o.settled() != t.act {
			o.leave(exclusive)
			t.stop()
			return o.whyEnded(t.act)
		}
		t.link.away.Store(false)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == done { // the handler did not wait for this goroutine
		if !t.constructing {
			o.leave(exclusive)
		}
		return durable.ErrTxDone
	}
	t.state = running
	t.start, t.exists = time.Now(), t.act.exists
	return err
}

type abortPanic struct {
	turn   *turn
	reason string
}

// Abort implements [durable.Tx].
func (h txHandle) Abort(reason string) { panic(&abortPanic{h.turn, reason}) }

// outward makes a commit point, waits until it is durable, and returns the
// context for a call to another object.
func (t *turn) outward(ctx context.Context) (context.Context, error) {
	if t.o.host.conn == nil {
		return nil, durable.ErrMethodUnknown
	}
	m, err := t.commitPoint("call another object", running)
	if err != nil {
		return nil, err
	}
	if err := t.o.await(ctx, m); err != nil {
		return nil, err
	}
	t.called.Store(true)
	return context.WithValue(ctx, chainKey{}, t.link), nil
}

// CallUnary implements [durable.Conn].
func (h txHandle) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	ctx, err := h.outward(ctx)
	if err != nil {
		return err
	}
	return h.o.host.conn.CallUnary(ctx, call, req, res)
}

// OpenStream implements [durable.Conn].
func (h txHandle) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	ctx, err := h.outward(ctx)
	if err != nil {
		return nil, err
	}
	return h.o.host.conn.OpenStream(ctx, call)
}
