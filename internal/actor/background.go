package actor

import (
	"context"
	"fmt"

	durable "github.com/durable-go/durable"
)

// A task is the work of [durable.Tx].Background.
type task func(ctx context.Context, turns durable.TurnPort) error

// Background implements [durable.Tx].
func (h txHandle) Background(fn func(ctx context.Context, turns durable.TurnPort) error) error {
	t := h.turn
	if fn == nil {
		return fmt.Errorf("%w: no function to run", durable.ErrInvalidArgument)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if len(t.levels) > 0 {
		return durable.ErrInSavepoint
	}
	t.tasks = append(t.tasks, fn)
	return nil
}

// startTasks starts the background work that the turn asked for. The caller holds
// mu, and has committed.
func (t *turn) startTasks() {
	tasks := t.tasks
	t.tasks = nil
	for _, fn := range tasks {
		h, o := t.o.host, t.o
		_ = h.start(true)
		h.retain(o)
		go o.background(t.act, fn)
	}
}

// background runs a task. The object stays in memory until it ends, or until its
// time is over.
func (o *object) background(act *activation, fn task) {
	h, limit := o.host, o.typ.Limits.BackgroundTimeout
	defer h.finish()
	l := &link{typeName: o.typ.Name, id: o.durableID(), depth: 1}
	l.away.Store(true) // it holds no turn, except in Update and View
	defer l.end()
	timeout, stop := context.WithTimeout(context.WithValue(context.Background(), chainKey{}, l), limit)
	defer stop()
	defer context.AfterFunc(h.drain, stop)()
	ctx, cancel := context.WithCancelCause(timeout)
	defer cancel(nil)
	defer act.uses(cancel)()
	released := context.AfterFunc(ctx, func() { h.release(o) })
	s := &stream{o: o, act: act, parent: nil, ctx: ctx}
	err := s.call(func() error { return fn(ctx, s) })
	if released() {
		h.release(o)
	}
	if err != nil {
		h.log.Warn("background work of an object failed", "type", o.typ.Name, "id", o.durableID().String(), "err", err)
	}
}
