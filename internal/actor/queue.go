package actor

import (
	"context"
	"slices"
	"time"

	durable "github.com/durable-go/durable"
)

// access says what a turn may do beside others.
type access uint8

const (
	exclusive access = iota // alone
	shared                  // with other shared turns
)

// A queue admits turns of one object, first come, first served. The object's
// lock guards it.
type queue struct {
	writer  bool // an exclusive turn runs
	readers int  // shared turns that run
	waiting []*waiter
	bytes   int64 // of the requests waiting
}

type waiter struct {
	access access // of the turn, once ready got nil
	bytes  int64
	ready  chan error // gets nil when the turn may begin, or why it never will
	// patient waiters stay until they have a turn: handlers that left theirs, whose
	// code goes on in any case and must not run beside others; and what has to be
	// done whatever becomes of the object.
	patient bool
	// constructs marks a shared turn that begins as an exclusive one, to run the
	// constructor, unless another turn has done that meanwhile.
	constructs bool
}

// admit lets a turn begin at once if nothing stands before it.
func (q *queue) admit(a access) bool {
	if len(q.waiting) > 0 || !q.free(a) {
		return false
	}
	q.take(a)
	return true
}

func (q *queue) free(a access) bool {
	return !q.writer && (a == shared || q.readers == 0)
}

func (q *queue) take(a access) {
	if a == shared {
		q.readers++
	} else {
		q.writer = true
	}
}

// leave ends a turn and begins those that it kept waiting.
func (q *queue) leave(a access) {
	if a == shared {
		q.readers--
	} else {
		q.writer = false
	}
	q.next()
}

// downgrade turns the running exclusive turn into a shared one: the object is in
// memory.
func (q *queue) downgrade() {
	q.writer = false
	q.readers++
	for _, w := range q.waiting {
		if w.constructs {
			w.access = shared
		}
	}
	q.next()
}

func (q *queue) next() {
	for len(q.waiting) > 0 && q.free(q.waiting[0].access) {
		w := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.bytes -= w.bytes
		q.take(w.access)
		w.ready <- nil
	}
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
}

// remove takes a waiter out of the queue and reports whether it was still
// there.
func (q *queue) remove(w *waiter) bool {
	for i, other := range q.waiting {
		if other == w {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			q.bytes -= w.bytes
			q.next() // what w held up may begin
			return true
		}
	}
	return false
}

// fail refuses every waiter that is not patient.
func (q *queue) fail(err error) {
	var stay []*waiter
	for _, w := range q.waiting {
		if w.patient {
			stay = append(stay, w)
			continue
		}
		w.ready <- err
	}
	q.waiting, q.bytes = stay, 0
	q.next()
}

// A wish is what somebody who enters the queue wants.
type wish struct {
	access access
	bytes  int64 // of the request
	// known wishes are not refused for the length of the queue: a call that is
	// under way already comes back to its object, or the runtime comes.
	known bool
	// activates wishes are for turns of an activation: a shared one begins as an
	// exclusive one where there is none, to run the constructor first.
	activates bool
	// waits wishes are not refused for the number of those that wait: events of
	// connections, each of which has one.
	waits bool
	// patient wishes are never refused, and wait for as long as it takes, also over
	// a reset of the object.
	patient bool
}

// enter waits until a turn of the object may begin, and returns what it is.
func (o *object) enter(ctx context.Context, want wish) (access, error) {
	a, w, err := o.line(want)
	if w == nil || err != nil {
		return a, err
	}
	limits := &o.typ.Limits
	timeout := time.NewTimer(limits.MaxQueueWait)
	defer timeout.Stop()
	if want.patient {
		timeout.Stop()
	}
	select {
	case err = <-w.ready:
		return w.access, err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		wait := limits.MaxQueueWait.Milliseconds()
		err = &durable.OverloadError{Limit: "milliseconds in the queue", Max: wait, Actual: wait}
	}
	o.mu.Lock()
	removed := o.queue.remove(w)
	o.mu.Unlock()
	if !removed && <-w.ready == nil {
		o.leave(w.access) // it was admitted just as it gave up
	}
	return want.access, err
}

// enterAgain waits, for as long as it takes, until a handler that left its turn
// has one again.
func (o *object) enterAgain() {
	o.mu.Lock()
	if o.queue.admit(exclusive) {
		o.mu.Unlock()
		return
	}
	w := &waiter{access: exclusive, ready: make(chan error, 1), patient: true}
	o.queue.waiting = append(o.queue.waiting, w)
	o.mu.Unlock()
	<-w.ready
}

// line joins the queue. It returns no waiter when the turn may begin at once.
func (o *object) line(want wish) (access, *waiter, error) {
	limits := &o.typ.Limits
	a := want.access
	o.mu.Lock()
	if want.activates && o.act == nil {
		a = exclusive
	}
	if o.queue.admit(a) {
		o.mu.Unlock()
		return a, nil, nil
	}
	if !want.known && !want.patient {
		if n := len(o.queue.waiting); n >= limits.MaxQueuedCalls && !want.waits {
			o.mu.Unlock()
			return a, nil, &durable.OverloadError{Limit: "queued calls", Max: int64(limits.MaxQueuedCalls), Actual: int64(n)}
		}
		if n := o.queue.bytes + want.bytes; n > limits.MaxQueuedBytes {
			o.mu.Unlock()
			return a, nil, &durable.OverloadError{Limit: "queued bytes", Max: limits.MaxQueuedBytes, Actual: n}
		}
	}
	w := &waiter{access: a, bytes: want.bytes, ready: make(chan error, 1), constructs: a != want.access, patient: want.patient}
	o.queue.waiting = append(o.queue.waiting, w)
	o.queue.bytes += want.bytes
	o.mu.Unlock()
	return a, w, nil
}

// leaveTurn ends a turn, which holds its place in the queue or does not.
func (o *object) leaveTurn(t *turn, held bool) {
	o.mu.Lock()
	if i := slices.Index(o.running, t); i >= 0 {
		o.running = slices.Delete(o.running, i, i+1)
	}
	if len(o.running) == 0 && o.ended != nil {
		close(o.ended)
		o.ended = nil
	}
	if held {
		o.queue.leave(t.access)
	}
	o.mu.Unlock()
}

// leave ends a turn.
func (o *object) leave(a access) {
	o.mu.Lock()
	o.queue.leave(a)
	o.mu.Unlock()
}

// busy reports whether a turn runs or waits.
func (q *queue) busy() bool { return q.writer || q.readers > 0 || len(q.waiting) > 0 }
