package actor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// An object is the entry of one object in the host's table. It outlives its
// activations: the queue and the output gate belong to it.
type object struct {
	host    *Host
	typ     *Type
	id      storage.ObjectID
	shardID storage.ShardID

	// The lock of the table guards these three.

	refs      int
	calledBy  string    // the name that callers used, if any
	idleSince time.Time // when refs became 0

	idle idleEntry // guarded by the host's life

	mu       sync.Mutex // guards the rest
	queue    queue
	running  []*turn       // also those that are away
	ended    chan struct{} // closed when no turn is running; nil while nobody waits for that
	alarming chan struct{} // holds a token while an alarm runs; nil before the first
	conns    *connections  // nil before the first
	act      *activation   // nil: not in memory
	// last is the newest commit; confirmed the newest that replies wait for.
	last, confirmed *storage.Pending
}

// An activation is an object in memory.
type activation struct {
	handler any
	shard   *shardHandle
	// Only turns that are alone change these four.

	name    string
	exists  bool      // a commit made the object, or one is under way
	created time.Time // when it exists
	renamed bool      // the stored record lacks the name
	// ended says why the activation was ended while turns of it may run; nil
	// while it lives.
	ended   atomic.Pointer[endedError]
	sql     activationSQL
	alarms  activationAlarms
	replies activationReplies
	users   activationUsers
	// lastCommit is when the last commit was made in this activation, in
	// milliseconds; stamped when one was stored.
	lastCommit atomic.Int64
	stamped    time.Time
	repeats    int // runs of an alarm in a row that set it for at once
}

type endedError struct{ err error }

// end ends the activation for whoever still uses it.
func (a *activation) end(err error) {
	a.ended.CompareAndSwap(nil, &endedError{err})
	a.users.mu.Lock()
	defer a.users.mu.Unlock()
	for cancel := range a.users.set {
		(*cancel)(a.err())
	}
}

// activationUsers are streams and background work, which end with it.
type activationUsers struct {
	mu  sync.Mutex
	set map[*context.CancelCauseFunc]struct{}
}

// uses makes cancel be called when the activation is ended, until stop is.
func (a *activation) uses(cancel context.CancelCauseFunc) (stop func()) {
	u := &a.users
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.set == nil {
		u.set = map[*context.CancelCauseFunc]struct{}{}
	}
	u.set[&cancel] = struct{}{}
	if err := a.err(); err != nil {
		cancel(err)
	}
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.set, &cancel)
	}
}

// err returns why the activation ended, nil while it lives.
func (a *activation) err() error {
	if e := a.ended.Load(); e != nil {
		return e.err
	}
	return nil
}

func (o *object) durableID() durable.ID { return o.id.ID }

// isSettled reports whether no commit and no turn is under way: background work
// whose time is over may have turns without a reference. The caller holds mu.
func (o *object) isSettled() bool {
	if len(o.running) > 0 || o.queue.busy() {
		return false
	}
	if o.last == nil {
		return true
	}
	done, _ := o.last.Resolved()
	return done
}

// alarmLock returns what holds a token while an alarm of the object runs.
func (o *object) alarmLock() chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.alarming == nil {
		o.alarming = make(chan struct{}, 1)
	}
	return o.alarming
}

// retire drops the activation, so that the next turn makes a new one. Turns
// that run on it go on.
func (o *object) retire(act *activation) {
	o.mu.Lock()
	o.drop(act)
	o.mu.Unlock()
	act.release()
}

// reset ends the activation: the turns that run on it, and every call that
// waits, fail with err, and connections are closed with it.
func (o *object) reset(act *activation, err error) {
	act.end(err)
	defer act.release()
	if act.shard.lost() {
		o.host.reclaimSoon(o.shardID)
	}
	o.mu.Lock()
	dropped := o.drop(act)
	var next *activation
	if !dropped && errors.Is(err, durable.ErrCommitFailed) { // it was made from what is not stored
		if next = o.act; next != nil {
			o.drop(next)
			o.queue.fail(resetBy(err))
		}
	}
	if dropped {
		if !errors.Is(err, durable.ErrReset) { // these did not even begin
			err = resetBy(err)
		}
		o.queue.fail(err)
	}
	o.mu.Unlock()
	if dropped || errors.Is(err, durable.ErrCommitFailed) {
		o.disconnect(err, false)
	}
	if next != nil {
		next.end(err)
		next.release()
	}
}

// begin waits for a turn and makes sure that the object is in memory. When only
// is not nil the turn must be one of that activation.
func (o *object) begin(ctx context.Context, want wish, only *activation) (*activation, error) {
	want.activates = true
	want.known = want.known || only != nil
	for {
		a, err := o.enter(ctx, want)
		if err != nil {
			return nil, err
		}
		act := o.settled()
		if only != nil && act != only {
			err = o.whyEnded(only)
		}
		if err == nil && act == nil {
			if a == shared { // it was dropped while this turn waited
				o.leave(a)
				continue
			}
			act, err = o.activate(ctx)
		}
		if err == nil && ctx.Err() != nil { // the caller left just now
			err = context.Cause(ctx)
		}
		if err != nil {
			o.leave(a)
			return nil, err
		}
		if a != want.access {
			o.mu.Lock()
			o.queue.downgrade()
			o.mu.Unlock()
		}
		return act, nil
	}
}

func (o *object) whyEnded(act *activation) error {
	if err := act.err(); err != nil {
		return err
	}
	return durable.ErrReset
}

// settled returns the activation, after dropping one whose commits failed or
// whose shard was lost.
func (o *object) settled() *activation {
	o.mu.Lock()
	act, last := o.act, o.last
	o.mu.Unlock()
	if last != nil {
		if done, err := last.Resolved(); done {
			if err != nil {
				o.disconnect(commitFailed(err), false)
			}
			if err != nil && act != nil {
				act.end(commitFailed(err)) // before the failure is forgotten
				o.retire(act)
				act = nil
			}
			o.mu.Lock()
			if o.last == last { // nothing to wait for any more
				o.last, o.confirmed = nil, nil
			}
			o.mu.Unlock()
		}
	}
	if act != nil && act.shard.lost() {
		act.end(durable.ErrNotOwner)
		o.retire(act)
		o.disconnect(durable.ErrNotOwner, false)
		act = nil
	}
	return act
}

// activate runs the constructor, in the exclusive turn that the caller holds.
// When it fails, every waiting call fails with it.
func (o *object) activate(ctx context.Context) (*activation, error) {
	// The constructor serves every waiting call, so it does not end with the
	// one that came first.
	ctx = context.WithoutCancel(ctx)
	act, err := o.construct(ctx)
	if err != nil {
		// The error may tell what the constructor read, so it leaves no sooner
		// than a reply would.
		m := o.now(act)
		m.wrote = true
		if gerr := o.await(ctx, m); gerr != nil {
			err = resetBy(gerr)
		}
	}
	o.mu.Lock()
	if err != nil {
		o.queue.fail(waitedError{err})
	} else {
		o.act = act
	}
	o.mu.Unlock()
	if err != nil {
		return nil, err
	}
	o.host.life.added() // takes locks of other objects
	return act, nil
}

// A waitedError is what a call ends with that waited while another ran the
// constructor.
type waitedError struct{ error }

func (e waitedError) Unwrap() error { return e.error }

// Waited reports whether a call ended with the error of a constructor that
// another call ran, which ended with it too.
func Waited(err error) bool {
	var e waitedError
	return errors.As(err, &e)
}

// load returns an activation without a handler.
func (o *object) load(ctx context.Context) (*activation, error) {
	shard, err := o.host.shard(ctx, o.shardID)
	if err != nil {
		return nil, err
	}
	meta, exists, err := shard.Meta(ctx, o.id)
	if err != nil {
		return nil, readFailed("load the object", err)
	}
	return &activation{shard: shard, name: meta.Name, exists: exists, created: meta.Created}, nil
}

// construct returns the activation also when the constructor failed.
func (o *object) construct(ctx context.Context) (*activation, error) {
	act, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	l, err := o.extend(chainOf(ctx))
	if err != nil {
		return nil, err
	}
	defer l.end()
	if err := o.loadSessions(ctx, act.shard); err != nil {
		return nil, err
	}
	t := newTurn(o, act, exclusive, l)
	t.constructing = true
	timeout := o.typ.Limits.ConstructorTimeout
	hctx := newHandlerContext(ctx, timeout, t.start, l)
	defer hctx.end()
	t.ctx = hctx

	result := make(chan error, 1)
	go func() {
		exit := func(err error) { result <- err }
		exit(t.call(func() (err error) {
			act.handler, err = o.typ.New(hctx, txHandle{t})
			return err
		}, exit))
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case err = <-result:
	case <-timer.C:
		t.stop()
		hctx.end() // what SQL runs ends
		t.mu.Lock()
		t.conns.rollback(0)
		t.mu.Unlock()
		t.endSQL()
		act.release()
		ms := timeout.Milliseconds()
		return act, &durable.ConstructorError{Err: &durable.OverloadError{Limit: "milliseconds in the constructor", Max: ms, Actual: ms}}
	}
	if took := time.Since(t.start); took > slowConstructor || t.outside.Load() {
		o.host.log.Warn("a constructor holds up every call of its object: let it load state, and nothing else",
			"type", o.typ.Name, "id", o.durableID().String(), "took", took, "left_the_object", t.outside.Load())
	}
	t.stop()
	if err == nil {
		err = t.commitLast()
	}
	if err != nil {
		t.discard()
	}
	t.endSQL()
	if err != nil {
		act.release()
		return act, &durable.ConstructorError{Err: err}
	}
	return act, nil
}

// slowConstructor is how long a constructor may take before the log says so.
const slowConstructor = time.Second

// callerName returns the name that callers used, if any.
func (o *object) callerName() string {
	b := o.host.bucket(o.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	return o.calledBy
}

// inTurn runs fn in a turn and ends it: what it wrote is committed when fn
// returns nil, or an error of [durable.Keep], and rolled back otherwise. It
// returns what a reply has to wait for before it may leave; when the turn never
// began, nothing. See begin for only.
func (o *object) inTurn(ctx context.Context, want wish, l *link, only *activation, fn func(t *turn) error) (mark, error) {
	act, err := o.begin(ctx, want, only)
	if err != nil {
		return mark{}, err
	}
	t := newTurn(o, act, want.access, l)
	o.mu.Lock()
	o.running = append(o.running, t)
	o.mu.Unlock()
	err = t.call(func() error { return fn(t) }, func(err error) { _, _ = t.finish(err) })
	return t.finish(err)
}

// A mark is a point in what an object committed: a reply that was made there
// waits until everything up to it is durable.
type mark struct {
	act     *activation
	pending *storage.Pending // nil: nothing to wait for
	wrote   bool             // the commits show that the object was owned
	effects bool             // something was done that stays
}

// now returns the mark of everything committed so far.
func (o *object) now(act *activation) mark {
	o.mu.Lock()
	defer o.mu.Unlock()
	return mark{act: act, pending: o.confirmed}
}

// await returns when everything up to the mark is durable. A failure of the
// commit, or one that takes longer than the gate waits, resets the object.
func (o *object) await(ctx context.Context, m mark) error {
	if !outputGate {
		return nil
	}
	if m.act == nil {
		return nil
	}
	done, err := true, error(nil)
	if m.pending != nil {
		done, err = m.pending.Resolved()
	}
	if !done {
		limit := o.typ.Limits.GateTimeout
		timeout := time.NewTimer(limit)
		defer timeout.Stop()
		select {
		case <-m.pending.Done():
			_, err = m.pending.Resolved()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			err = fmt.Errorf("%w: more than %v", durable.ErrGateTimeout, limit)
		}
	}
	if err != nil {
		err = commitFailed(err)
		o.reset(m.act, err)
		return err
	}
	if err := m.act.err(); errors.Is(err, durable.ErrCommitFailed) {
		return err // what the mark was made on is lost
	}
	if !m.wrote {
		return o.host.confirm(ctx, m.act.shard)
	}
	return nil
}

func commitFailed(err error) error {
	if errors.Is(err, durable.ErrCommitFailed) {
		return err
	}
	return fmt.Errorf("%w: %w", durable.ErrCommitFailed, err)
}

// resetBy returns [durable.ErrReset] with err in its text alone: who looks for
// err must not find it, since it would say more than is true.
func resetBy(err error) error { return fmt.Errorf("%w: %s", durable.ErrReset, err.Error()) }

func readFailed(what string, err error) error {
	if notOwner(err) {
		return fmt.Errorf("%w: %s: %w", durable.ErrNotOwner, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// recovered turns what a handler panicked with into an error.
func (t *turn) recovered(v any) error {
	if abort, ok := v.(*abortPanic); ok && abort.turn == t {
		return t.aborted.Load()
	}
	err := &durable.PanicError{Value: v, Stack: debug.Stack()}
	t.o.host.log.Error("handler panicked", "type", t.o.typ.Name, "id", t.o.durableID().String(),
		"panic", fmt.Sprint(v), "stack", string(err.Stack))
	return err
}
