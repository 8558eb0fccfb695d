package actor

import (
	"fmt"
	"time"

	durable "github.com/durable-go/durable"
)

// watchPause is how often running turns are looked at.
const watchPause = time.Second

// expect tells the watchdog that the turn should be over after limit; 0 or less:
// whenever.
func (t *turn) expect(limit time.Duration) {
	t.limit = limit
	t.renew(t.start)
}

// renew lets the time of the handler begin anew.
func (t *turn) renew(now time.Time) {
	if t.limit > 0 {
		t.deadline.Store(now.Add(t.limit).UnixNano())
	}
}

// watchTurns looks for turns that ignore their deadlines. It goes on while calls
// are under way.
func (h *Host) watchTurns() {
	now := time.Now()
	for i := range h.table {
		b := &h.table[i]
		b.mu.Lock()
		var late []*turn
		for _, o := range b.mu.objects {
			if o.refs == 0 {
				continue
			}
			o.mu.Lock()
			for _, t := range o.running {
				if at := t.deadline.Load(); at != 0 && now.UnixNano() > at {
					late = append(late, t)
				}
			}
			o.mu.Unlock()
		}
		b.mu.Unlock()
		for _, t := range late {
			t.overdue(now)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.watching = h.mu.calls > 0
	if h.mu.watching {
		// A look at very many objects must not become the work of the host.
		time.AfterFunc(max(watchPause, 100*time.Since(now)), h.watchTurns)
	}
}

// overdue reports a turn that runs on after its deadline, and after some more
// time takes its object away from it.
func (t *turn) overdue(now time.Time) {
	if t.state.Load() != running {
		return
	}
	o, by := t.o, now.Sub(time.Unix(0, t.deadline.Load()))
	log := o.host.log.With("type", o.typ.Name, "id", o.durableID().String(), "procedure", t.procedure, "deadline", t.limit)
	if t.reported.CompareAndSwap(false, true) {
		log.Warn("a handler ignores its deadline, and holds up its object", "late", by)
	}
	if limit := o.typ.Limits.StuckTimeout; limit < 0 || by < limit || t.abandoned.Load() {
		return
	}
	log.Error("a handler did not end, and its object is reset; the handler keeps its goroutine", "late", by)
	o.reset(t.act, fmt.Errorf("%w: %w: it is %v late", durable.ErrReset, durable.ErrStuck, by.Round(time.Second)))
	t.cutOff()
}

// cutOff ends a turn, whose activation was reset, without its handler.
func (t *turn) cutOff() {
	t.context.end()
	if !t.abandoned.CompareAndSwap(false, true) {
		return
	}
	if run := t.alarm.Load(); run != nil {
		close(run.cut)
	}
	go func() {
		t.mu.Lock() // may take as long as what the handler does
		held := t.state.CompareAndSwap(running, done)
		t.conns.rollback(0) // before the next turn sees it
		t.mu.Unlock()
		if held {
			t.o.leaveTurn(t, true)
		}
	}()
}
