package actor

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// A Call is one call of one object.
type Call struct {
	Type   *Type
	Method *durable.Method
	ID     durable.ID
	Name   string  // empty when the object was called by id
	Bytes  int64   // of the request, for the limit of the queue
	Once   *Once   // nil: the call has no idempotency key. Ignored where it only reads
	Resume *Resume // nil: the connection cannot be resumed
}

// Unary runs a method with one request and one response. It fills res, which
// is the caller's, while the turn still runs, and returns when everything that
// the object had committed by then is durable.
func (h *Host) Unary(ctx context.Context, c Call, req, res proto.Message) error {
	parent := chainOf(ctx)
	if err := h.start(parent != nil); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(c.Type, c.ID, c.Name)
	defer h.release(o)
	l, err := o.extend(parent)
	if err != nil {
		return err
	}
	a := exclusive
	if c.Method.ReadOnly {
		a = shared
	}
	m, err := o.inTurn(ctx, wish{access: a, bytes: c.Bytes}, l, nil, func(t *turn) error {
		hctx := t.handling(ctx, c.Method.Procedure, c.Type.Limits.HandlerTimeout)
		defer hctx.end()
		if c.Once != nil && a == exclusive {
			if found, err := t.recall(hctx, c.Once); found {
				return err
			}
		}
		var out proto.Message
		var err error
		if a == shared {
			out, err = c.Method.UnaryView(hctx, t.act.handler, viewHandle{t}, req)
		} else {
			out, err = c.Method.Unary(hctx, t.act.handler, txHandle{t}, req)
		}
		if err == nil {
			proto.Merge(res, out)
		}
		t.outcome(err)
		return err
	})
	return o.reply(ctx, m, err)
}

// An effectsError is what a call ends with that has had effects, whatever its
// error says.
type effectsError struct{ error }

func (e effectsError) Unwrap() error { return e.error }

// HadEffects reports whether the call that ended with err had effects that stay:
// it committed, called another object or left its turn. Such a call must not be
// taken for one that was never started.
func HadEffects(err error) bool {
	var e effectsError
	return errors.As(err, &e)
}

// reply holds the outcome of a handler until it may leave.
func (o *object) reply(ctx context.Context, m mark, err error) error {
	told := errors.Is(err, durable.ErrReset) || errors.Is(err, durable.ErrCommitFailed)
	if gerr := o.await(ctx, m); gerr != nil && !told {
		err = gerr
	}
	if m.effects && errors.Is(err, durable.ErrNotOwner) {
		// That would mean that the call was not started, and may be repeated.
		err = resetBy(err)
	}
	if m.effects && err != nil {
		return effectsError{err}
	}
	return err
}

// Stream runs a streaming method. req is its request where only the server
// streams. The response, where only the client does, is sent through port.
func (h *Host) Stream(ctx context.Context, c Call, port StreamPort, req proto.Message) error {
	parent := chainOf(ctx)
	if err := h.start(parent != nil); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(c.Type, c.ID, c.Name)
	defer h.release(o)
	l, err := o.extend(parent)
	if err != nil {
		return err
	}
	// A first turn, to have an activation for the handler.
	var act *activation
	_, err = o.inTurn(ctx, wish{access: shared, bytes: c.Bytes}, l, nil, func(t *turn) error {
		act = t.act
		return nil
	})
	if err != nil {
		return err
	}
	l = l.outsideTurns() // a stream holds no turn, except in Update and View
	defer l.end()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.drain, func() {
		cancel(durable.ErrStreamDrained)
	})()
	defer act.uses(cancel)()
	s := &stream{o: o, act: act, parent: parent, port: port, ctx: ctx}
	hctx := newHandlerContext(ctx, 0, time.Time{}, l)
	defer hctx.end()
	var out proto.Message
	err = s.call(func() (err error) {
		out, err = c.Method.Streaming(hctx, act.handler, s, req)
		return err
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, durable.ErrStreamDrained) {
		err = cause
	} else if ended := act.err(); ended != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = ended // which is why it was cancelled
	}
	m := o.now(act)
	m.effects = !c.Method.ReadOnly // for all we know
	if err = o.reply(ctx, m, err); err != nil || out == nil {
		return err
	}
	return port.Send(out)
}

// A StreamPort carries the messages of one streaming call.
type StreamPort interface {
	Send(msg proto.Message) error
	Receive(msg proto.Message) error
}

// A stream is the [durable.StreamPort] of one streaming call. Its turns are
// those of one activation: when that ends, the stream can enter no more.
type stream struct {
	o      *object
	act    *activation
	parent *link
	port   StreamPort
	ctx    context.Context // of the call; ends when the caller left or the host drains
}

// Update implements [durable.StreamPort].
func (s *stream) Update(ctx context.Context, fn func(tx durable.Tx) error) error {
	return s.turn(ctx, exclusive, func(t *turn) error { return fn(txHandle{t}) })
}

// View implements [durable.StreamPort].
func (s *stream) View(ctx context.Context, fn func(view durable.View) error) error {
	return s.turn(ctx, shared, func(t *turn) error { return fn(viewHandle{t}) })
}

func (s *stream) turn(ctx context.Context, a access, fn func(t *turn) error) error {
	l, err := s.o.extend(s.parent)
	if err != nil {
		return err
	}
	_, err = s.o.inTurn(ctx, wish{access: a}, l, s.act, func(t *turn) error {
		// Whatever context the handler gave, what runs ends with the call.
		bound, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
		t.ctx = bound
		t.expect(s.o.typ.Limits.HandlerTimeout)
		return fn(t)
	})
	return err
}

// Send implements [durable.StreamPort].
func (s *stream) Send(msg proto.Message) error {
	if err := s.act.err(); err != nil {
		return err
	}
	if err := s.o.await(s.ctx, s.o.now(s.act)); err != nil {
		return err
	}
	return s.port.Send(msg)
}

// Receive implements [durable.StreamPort].
func (s *stream) Receive(msg proto.Message) error { return s.port.Receive(msg) }

// call runs the handler of a stream, which holds no turn, and makes an error of
// a panic.
func (s *stream) call(fn func() error) error {
	t := &turn{o: s.o, act: s.act}
	t.state.Store(done)
	err := t.call(fn, func(error) { s.o.retire(s.act) })
	var panicked *durable.PanicError
	if errors.As(err, &panicked) {
		s.o.retire(s.act)
	}
	return err
}
