package durable

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/protobuf/proto"
)

// A TurnPort enters turns of one activation. Handlers use it through [Turns] and
// [Views].
type TurnPort interface {
	// Update runs fn in a turn of its own and commits what it wrote.
	Update(ctx context.Context, fn func(tx Tx) error) error
	// View runs fn in a reading turn of its own.
	View(ctx context.Context, fn func(view View) error) error
}

// A StreamPort is the runtime's end of one streaming call. Handlers use it
// through [Turns], [Views], [Sender] and [Receiver].
type StreamPort interface {
	TurnPort
	// Send sends a message after everything the object wrote is durable.
	Send(msg proto.Message) error
	// Receive reads the next message into msg. It returns io.EOF after the
	// last.
	Receive(msg proto.Message) error
}

// Turns is the part of a handler's stream that enters turns, and what background
// work gets. Neither holds a turn while it runs, so calls of the same object go
// on beside it; it must touch neither storage nor the fields of its value but in
// here.
type Turns[T ~struct{ Tx }, V ~struct{ View }] struct{ port TurnPort }

// Go is [Tx].Background with typed handles. Generated code calls it.
func Go[T ~struct{ Tx }, V ~struct{ View }](tx T, fn func(ctx context.Context, turns Turns[T, V]) error) error {
	return struct{ Tx }(tx).Background(func(ctx context.Context, port TurnPort) error {
		return fn(ctx, Turns[T, V]{port})
	})
}

// Update runs fn in a turn, once the calls ahead have had theirs. When fn returns
// nil, what it wrote is committed as one unit and applied when Update returns; it
// is durable before the next message leaves, and may not be when Update returns:
// see [Tx].Sync. When fn returns an error, its writes are rolled back, the error
// is returned, and if fn had written, the object is reset and the stream can
// enter no more turns: they return [ErrReset]. It returns an [OverloadError] when
// the queue of the object is full.
func (t Turns[T, V]) Update(ctx context.Context, fn func(tx T) error) error {
	return t.port.Update(ctx, func(tx Tx) error { return fn(T(struct{ Tx }{tx})) })
}

// View runs fn in a turn that only reads.
func (t Turns[T, V]) View(ctx context.Context, fn func(view V) error) error {
	return t.port.View(ctx, func(view View) error { return fn(V(struct{ View }{view})) })
}

// Views is the part of a reading handler's stream that enters turns. See
// [Turns].
type Views[V ~struct{ View }] struct{ port TurnPort }

// View runs fn in a turn that only reads.
func (t Views[V]) View(ctx context.Context, fn func(view V) error) error {
	return t.port.View(ctx, func(view View) error { return fn(V(struct{ View }{view})) })
}

// Sender is the part of a handler's stream that sends responses.
type Sender[Res any] struct{ port StreamPort }

// Send sends res to the caller, after everything the object had written by now
// is durable. It copies res before it returns. It may block while the caller
// reads slowly. It must not be called by two goroutines at once. After an error
// nothing more can be sent.
func (s Sender[Res]) Send(res *Res) error { return s.port.Send(asMessage(res)) }

// Receiver is the part of a handler's stream that receives requests.
type Receiver[Req any] struct{ port StreamPort }

// Receive returns the next request, and io.EOF after the last. The request
// belongs to the handler. When the server drains it returns [ErrStreamDrained].
// It must not be called by two goroutines at once.
func (r Receiver[Req]) Receive() (*Req, error) {
	req := new(Req)
	if err := r.port.Receive(asMessage(req)); err != nil {
		return nil, err
	}
	return req, nil
}

// All yields the requests until the last one or an error.
func (r Receiver[Req]) All() iter.Seq2[*Req, error] { return all(r.Receive) }

func all[M any](receive func() (M, error)) iter.Seq2[M, error] {
	return func(yield func(M, error) bool) {
		for {
			msg, err := receive()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(msg, err) || err != nil {
				return
			}
		}
	}
}

// asMessage is for types that were checked to be messages where the method was
// described.
func asMessage[M any](m *M) proto.Message { return any(m).(proto.Message) }
