package actor

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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
	name   string

	// What the handler of a unary call gets: parts of the turn, to allocate once.

	context                handlerContext
	confirmed, unconfirmed kvWriter // KV and KV.Unconfirmed

	// constructing is set in the constructor's turn, which nothing interrupts.
	constructing bool
	// outside is set once something may have left the object: a call to another
	// one, or the work of an Await.
	outside atomic.Bool
	// ctx bounds the SQL of the turn, beside the contexts of statements.
	ctx context.Context
	// deadline is when the handler should be done, as nanoseconds since 1970; 0:
	// whenever. The watchdog reads it.
	deadline atomic.Int64
	limit    time.Duration // from which it is made; 0: none
	once     *onceTurn     // nil: the call has no idempotency key

	// These three can be read without mu.

	state   atomic.Uint32                      // a turnState
	aborted atomic.Pointer[durable.AbortError] // Abort was called
	// broken is set once the SQL engine lost what the turn wrote: the turn
	// fails, whatever the handler makes of it.
	broken atomic.Pointer[endedError]

	mu        sync.Mutex // guards the rest, and start and exists
	stint     int        // counts the times the turn was left and entered again
	levels    []level    // savepoints, the outermost first
	begun     int        // savepoints in this turn, those that ended included
	overlay   overlay
	sql       storage.SQLSession // nil before the first use
	sqlDB     *sql.DB            // nil before the first use
	committed bool               // something, in this turn
	tasks     []task             // of Go, not begun
	conns     turnConns
	own       *peer // what the turn sends to it is sent when it is over; nil: there is none
	opens     *conn // for which Open runs; nil: none
	sent      bool  // something left by a connection

	// For the watchdog.

	procedure           string // empty outside of a call
	reported, abandoned atomic.Bool
	alarm               atomic.Pointer[alarmRun] // nil outside of one
}

// A level is a savepoint.
type level struct {
	begin  int // in the undo list
	conns  int // in the effects on connections
	number int // tells it from others of the turn, at the same depth too
}

type turnState = uint32

const (
	running turnState = iota
	away              // outside, in Await
	done              // over; the queue has been left, or its caller leaves it
)

func newTurn(o *object, act *activation, a access, l *link) *turn {
	t := &turn{o: o, act: act, access: a, start: time.Now(), link: l, exists: act.exists, name: act.name, ctx: context.Background()}
	t.confirmed, t.unconfirmed = kvWriter{(*kvReader)(t), true}, kvWriter{(*kvReader)(t), false}
	if t.name == "" { // called by id so far
		t.name = o.callerName()
		if t.name != "" && a == exclusive {
			act.name, act.renamed = t.name, act.exists
		}
	}
	return t
}

// handling returns the context of the turn's handler, which ends after limit; 0:
// when ctx does. The caller ends it. what is run is told to the log.
func (t *turn) handling(ctx context.Context, what string, limit time.Duration) *handlerContext {
	t.procedure = what // before expect: the watchdog reads it from then on
	t.context.init(ctx, limit, t.start, t.link)
	t.ctx = &t.context
	t.expect(limit)
	return &t.context
}

// live returns an error unless the handle may be used. Who changes something
// holds mu meanwhile, so that the turn does not end.
func (t *turn) live() error {
	if t.state.Load() != running {
		return durable.ErrTxDone
	}
	if abort := t.aborted.Load(); abort != nil {
		return abort
	}
	if broken := t.broken.Load(); broken != nil {
		return broken.err
	}
	return t.act.err()
}

// stop ends the use of the handles.
func (t *turn) stop() {
	t.mu.Lock()
	t.state.Store(done)
	t.mu.Unlock()
}

// discard forgets what was written since the last commit point and reports
// whether there was anything, savepoints that were rolled back included: the
// fields of the handler may know of it.
func (t *turn) discard() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wrote := t.overlay.wrote
	if t.sql != nil {
		wrote = wrote || t.sql.Wrote()
		t.sql.Rollback()
	}
	t.overlay = overlay{}
	t.tasks = nil
	wrote = wrote || t.conns.wrote
	t.conns.rollback(0)
	t.conns = turnConns{}
	return wrote
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
	held := t.state.Load() == running
	t.state.Store(done)
	aborted := t.aborted.Load()
	t.mu.Unlock()
	if t.link != nil {
		t.link.end()
	}

	o := t.o
	cause := causeOf(err)
	switch {
	case aborted != nil: // whatever the handler made of it
		t.discard()
		o.reset(t.act, aborted)
		err = aborted
	case t.act.err() != nil: // ended from outside, while it ran
		t.discard()
		err = t.act.err()
	case cause.panicked:
		t.discard()
		o.retire(t.act)
	case !held: // Await did not come back: this is no turn any more, and must not commit
		t.discard()
		err = cause.handler
	case err == nil || cause.kept:
		err = cause.handler
		if cerr := t.commitLast(); cerr != nil {
			// A turn whose SQL was stopped before it wrote has changed nothing.
			if t.discard() || t.broken.Load() == nil {
				o.retire(t.act)
			}
			err = cerr
		}
	default:
		wrote := t.discard()
		if t.once.due(true) {
			if cerr := t.commitLast(); cerr != nil {
				err = cerr
			}
		}
		if wrote {
			o.retire(t.act)
		}
	}
	if t.once != nil {
		t.act.ends(t.once.Key)
	}
	t.endSQL()
	m := o.now(t.act)
	m.wrote = t.committed
	m.effects = t.committed || t.sent || t.outside.Load()
	o.leaveTurn(t, held)
	return m, err
}

// A turnCause is what the error of a handler means for its turn.
type turnCause struct {
	handler  error // without the mark of [durable.Keep]
	kept     bool
	panicked bool
}

func causeOf(err error) turnCause {
	if err == nil {
		return turnCause{}
	}
	var panicked *durable.PanicError
	isPanic := errors.As(err, &panicked)
	handler, kept := durable.Kept(err)
	return turnCause{handler: handler, kept: kept, panicked: isPanic}
}

// commitLast commits at the end of the turn. Savepoints that nobody ended are
// undone.
func (t *turn) commitLast() error {
	if err := t.endLevel(0, true, true); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commitLocked(true)
}

// commitLocked hands what was written since the last commit point to the store.
// When it returns nil the next turn sees it; the object's newest commit tells
// when it is durable. last tells the commit at the end of the turn from others.
func (t *turn) commitLocked(last bool) error {
	v := &t.overlay
	if broken := t.broken.Load(); broken != nil {
		return broken.err
	}
	pendingSQL := false
	if t.sql != nil {
		if err := t.sql.Err(); err != nil {
			return t.sqlBroken(t.sql, err)
		}
		pendingSQL = t.sql.Pending()
	}
	remember := t.once.due(last)
	keeps := t.conns.keeps()
	if !v.dirty() && !pendingSQL && !remember && !keeps {
		v.wrote = false // what savepoints undid before a commit point is settled
		t.startTasks()
		t.leaveConns(last)
		return nil
	}
	if err := t.act.err(); err != nil {
		return err
	}
	if abort := t.aborted.Load(); abort != nil {
		return abort
	}
	b := v.batch(t.o.id)
	alarms, err := t.addAlarms(b)
	if err != nil {
		return err
	}
	if remember {
		if err := t.addReply(b, pendingSQL); err != nil {
			return err
		}
	}
	sessions, err := t.addSessions(b)
	if err != nil {
		return err
	}
	if pendingSQL {
		if err := t.sql.Flush(b); err != nil {
			return t.sqlBroken(t.sql, err)
		}
	}
	err = t.apply(b, v.confirmed || pendingSQL || remember || keeps)
	if pendingSQL {
		t.sql.Settle(err)
	}
	if err != nil {
		return err
	}
	if alarms != nil {
		t.act.replaceAlarms(alarms)
		t.o.host.alarms.note(t.o.id, timerAlarms, earliest(alarms))
	}
	if remember {
		t.once.marked = true
	}
	t.o.keptSessions(b, sessions)
	t.startTasks()
	t.leaveConns(last)
	return nil
}

// apply hands a batch of everything the turn wrote to the store. confirmed tells
// that replies wait for it. The caller holds mu.
func (t *turn) apply(b *storage.Batch, confirmed bool) error {
	act, o, v := t.act, t.o, &t.overlay
	puts := len(b.Put)+len(b.Merge) > 0
	changes := puts || len(b.Del)+len(b.Drop)+len(b.Timers) > 0
	exists := act.exists && !v.wiped
	if !changes && (!v.wiped || !act.exists) {
		t.overlay = overlay{} // nothing was there, and nothing came
		return nil
	}
	creates := puts || (!v.wiped && len(b.Del)+len(b.Drop) > 0)
	if (!exists && creates) || (exists && act.renamed) {
		if !exists {
			act.created = t.start
		}
		b.Create = &storage.Meta{Name: act.name, Created: act.created}
	}
	act.stamp(b, t.start)
	pending := act.shard.Commit(b)
	if resolved, err := pending.Resolved(); resolved && err != nil {
		if notOwner(err) {
			err = commitFailed(err)
			o.reset(act, err)
		}
		return err
	}
	act.exists = b.Create != nil || exists
	if b.Create != nil {
		act.renamed = false
	}
	t.committed = true
	act.noteReplies(o, b)
	o.mu.Lock()
	o.last = pending
	if confirmed {
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
	if err == nil && len(t.levels) > 0 {
		err = fmt.Errorf("%s: %w", what, durable.ErrInSavepoint)
	}
	if err == nil {
		// First, so that no statement slips in between the commit and the end of
		// the session.
		t.state.Store(next)
		if err = t.commitLocked(false); err != nil {
			t.state.Store(running)
		}
	}
	if err != nil {
		return mark{}, err
	}
	if next == away {
		t.stint++
		t.endSQLLocked()
	}
	return t.o.now(t.act), nil
}

// Handle.

// ObjectType implements [durable.Handle].
func (t *turn) ObjectType() string { return t.o.typ.Name }

// ID implements [durable.Handle].
func (t *turn) ID() durable.ID { return t.o.durableID() }

// Name implements [durable.Handle].
func (t *turn) Name() string { return t.name }

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

func (h viewHandle) KV() durable.KVReader { return (*kvReader)(h.turn) }
func (h viewHandle) SQL() durable.SQL     { return durable.NewSQL((*turnSQL)(h.turn)) }

// A txHandle is the [durable.Tx] of a turn.
type txHandle struct{ *turn }

func (h txHandle) KV() durable.KV   { return &h.confirmed }
func (h txHandle) SQL() durable.SQL { return durable.NewSQL((*turnSQL)(h.turn)) }

// DeleteAll implements [durable.Tx].
func (h txHandle) DeleteAll(context.Context) error {
	t := h.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if len(t.levels) > 0 {
		return durable.ErrInSavepoint
	}
	begun := t.sql != nil
	t.overlay.wipe()
	if !begun && t.act.usesSQL() {
		_, err := t.sqlSession() // which wipes it
		return err
	}
	if begun {
		t.sql.Wipe()
	}
	return nil
}

// Savepoint implements [durable.Tx].
func (h txHandle) Savepoint(fn func() error) (err error) {
	t := h.turn
	number, err := t.beginLevel()
	if err != nil {
		return err
	}
	keep := false
	defer func() { // also when fn panics
		if eerr := t.endLevel(number, keep, true); err == nil {
			err = eerr
		}
	}()
	err = fn()
	keep = err == nil
	return err
}

// beginLevel begins a nested level and returns its number.
func (t *turn) beginLevel() (number int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return 0, err
	}
	if t.sql != nil {
		if err := t.sql.Savepoint(); err != nil {
			return 0, t.sqlFailed(err)
		}
	}
	t.begun++
	t.levels = append(t.levels, level{begin: len(t.overlay.undo), conns: len(t.conns.effects), number: t.begun})
	return t.begun, nil
}

// endLevel ends the level of that number and undoes what was written in it,
// unless keep. Levels within it that nobody ended are undone where force is set;
// otherwise it fails. Number 0 is the turn itself. It returns [durable.ErrTxDone]
// for a level that ended with one around it, and fails when the SQL engine lost
// the transaction.
func (t *turn) endLevel(number int, keep, force bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	depth := 0
	if number > 0 {
		i := slices.IndexFunc(t.levels, func(l level) bool { return l.number == number })
		if i < 0 {
			return durable.ErrTxDone
		}
		depth = i + 1
	}
	if len(t.levels) > depth && !force {
		return fmt.Errorf("%w: a savepoint inside of this one has not ended", durable.ErrInvalidArgument)
	}
	for len(t.levels) > depth {
		t.endInnermost(false)
	}
	if depth > 0 {
		t.endInnermost(keep)
	}
	if broken := t.broken.Load(); broken != nil {
		return broken.err
	}
	return nil
}

func (t *turn) endInnermost(keep bool) {
	last := len(t.levels) - 1
	begin, conns := t.levels[last].begin, t.levels[last].conns
	t.levels = t.levels[:last]
	if !keep {
		t.conns.rollback(conns)
	}
	if !keep && begin <= len(t.overlay.undo) {
		t.overlay.rollback(begin)
	}
	if last == 0 {
		t.overlay.undo = nil
	}
	if t.sql != nil {
		if err := t.sql.Release(!keep); err != nil {
			_ = t.sqlBroken(t.sql, err)
		}
	}
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
func (h txHandle) Await(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	t, o := h.turn, h.o
	m, err := t.commitPoint("await", away)
	if err != nil {
		return err
	}
	t.outside.Store(true)
	if !t.constructing {
		t.link.away.Store(true)
		o.leave(exclusive)
	}
	defer func() { // also when fn panics: what the handler defers needs a turn too
		if cerr := t.comeBack(); cerr != nil {
			err = cerr
		}
	}()
	if err := o.await(ctx, m); err != nil {
		return err
	}
	return fn(ctx)
}

// comeBack enters a new turn after Await. When it fails the handle is done, and
// so is the activation, so that nobody runs beside the rest of the handler.
func (t *turn) comeBack() error {
	o := t.o
	if !t.constructing {
		o.enterAgain()
		if o.settled() != t.act {
			o.leave(exclusive)
			t.stop()
			return o.whyEnded(t.act)
		}
		t.link.away.Store(false)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() == done { // the handler did not wait for this goroutine
		if !t.constructing {
			o.leave(exclusive)
		}
		return durable.ErrTxDone
	}
	t.start, t.exists = time.Now(), t.act.exists
	t.renew(t.start)
	t.state.Store(running)
	return nil
}

// An abortPanic ends the handler of a turn that was aborted.
type abortPanic struct{ turn *turn }

// Abort implements [durable.Tx].
func (h txHandle) Abort(reason string) {
	t := h.turn
	t.mu.Lock()
	if t.state.Load() == done {
		t.mu.Unlock()
		return
	}
	t.aborted.CompareAndSwap(nil, &durable.AbortError{Reason: reason})
	t.mu.Unlock()
	panic(&abortPanic{t})
}

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
	t.outside.Store(true)
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
