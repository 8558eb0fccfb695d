package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
)

// A network is the network end of a streaming call. The methods beside those of
// the port are for connections, and like those of [actor.ConnEnd].
type network interface {
	actor.StreamPort
	encoding() any
	encode(msg proto.Message) (form any, size int, err error)
	sendForm(form any, timeout time.Duration) error
	quick() bool
	finish(err error, drop bool)
}

// clones is the part of a [network] that takes messages as they are, and encodes
// them where they leave.
type clones struct{}

func (clones) encoding() any { return clones{} }

func (clones) encode(msg proto.Message) (any, int, error) {
	return proto.Clone(msg), proto.Size(msg), nil
}

func (clones) quick() bool { return false }

// A held is a connection that is open.
type held struct {
	actor.Held
	s  *Server
	r  *route
	id durable.ID
}

// connect opens a connection, or resumes one. Its error is for the caller.
func (s *Server) connect(ctx context.Context, r *route, outer []candidate, port network) (*held, error) {
	p, req, err := s.keyed(r, outer, port)
	if err != nil {
		return nil, err
	}
	call := actor.Call{Type: r.typ, Method: r.method, ID: p.key.id, Name: p.key.name}
	if call.Resume, err = r.resume(ctx); err != nil {
		return nil, wireError(err, r, p.key.id)
	}
	end := &connEnd{network: port, keyed: p, ctx: ctx}
	if ctx.Done() == nil {
		end.ctx = context.Background() // lets go of what Open alone needs
	}
	h, err := s.host.Connect(ctx, call, end, req)
	if err != nil {
		return nil, s.streamEnded(ctx, err, r, p.key.id)
	}
	return &held{h, s, r, p.key.id}, nil
}

// serve holds the connection until it is over.
func (h *held) serve(ctx context.Context) error {
	return h.s.streamEnded(ctx, h.Serve(ctx), h.r, h.id)
}

// A connEnd is the network end of a connection.
type connEnd struct {
	network
	keyed *keyedPort // checks what is received
	ctx   context.Context

	mu   sync.Mutex
	over chan struct{} // closed by Finish; nil while nobody waits for that
	done bool
}

// Encoding implements [actor.ConnEnd].
func (e *connEnd) Encoding() any { return e.encoding() }

// Encode implements [actor.ConnEnd].
func (e *connEnd) Encode(msg proto.Message) (any, int, error) { return e.encode(msg) }

// Send implements [actor.ConnEnd].
func (e *connEnd) Send(form any, timeout time.Duration) error { return e.sendForm(form, timeout) }

// Quick implements [actor.ConnEnd].
func (e *connEnd) Quick() bool { return e.quick() }

// Receive implements [actor.ConnEnd].
func (e *connEnd) Receive(msg proto.Message) error {
	if !e.keyed.r.method.ClientStream {
		return e.await(msg)
	}
	err := e.keyed.Receive(msg)
	if err != nil && e.ctx.Err() != nil {
		err = context.Cause(e.ctx)
	}
	return broken(e.slowly(err))
}

// broken returns the error of a message that cannot be taken as the end of a
// connection whose peer is there, and is told.
func broken(err error) error {
	var key *durable.KeyError
	var coded *connect.Error
	switch {
	case errors.As(err, &key):
	case errors.As(err, &coded) && (coded.Code() == connect.CodeResourceExhausted || coded.Code() == connect.CodeInvalidArgument):
	default:
		return err
	}
	code, reason := closeStatus(err)
	return &durable.CloseError{Code: code, Reason: reason, Clean: true, Local: true, Err: err}
}

// slowly tells an end that the server made itself, because the peer was too slow.
func (e *connEnd) slowly(err error) error {
	if port, ok := e.network.(interface{ isSlow() bool }); ok && err != nil && port.isSlow() {
		return slowPeer(err)
	}
	return err
}

// await returns when the peer has left, or the connection is over.
func (e *connEnd) await(msg proto.Message) error {
	if watched, ok := e.network.(interface{ awaitEnd(msg proto.Message) error }); ok {
		return watched.awaitEnd(msg)
	}
	e.mu.Lock()
	if e.over == nil {
		e.over = make(chan struct{})
		if e.done {
			close(e.over)
		}
	}
	over := e.over
	e.mu.Unlock()
	select {
	case <-e.ctx.Done():
		return e.slowly(context.Cause(e.ctx))
	case <-over:
		return errFinished
	}
}

var errFinished = errors.New("the connection is over")

// Finish implements [actor.ConnEnd].
func (e *connEnd) Finish(err error, drop bool) {
	e.mu.Lock()
	e.done = true
	if e.over != nil {
		close(e.over)
	}
	e.mu.Unlock()
	e.finish(err, drop)
}

// slowPeer marks an error of a send that took too long.
func slowPeer(err error) error { return errors.Join(durable.ErrSlowPeer, err) }

// closeStatus returns the close code and reason of what a connection ended with;
// those of nil are of one that ended as it should.
func closeStatus(err error) (durable.CloseCode, string) {
	var closed *durable.CloseError
	var wire *connect.Error
	switch {
	case err == nil:
		return durable.CloseNormal, ""
	case errors.As(err, &closed):
		return closed.Code, closed.Reason
	case !errors.As(err, &wire):
		wire = wireError(err, nil, durable.ID{})
	}
	info := infoOf(wire)
	code := 4000 + durable.CloseCode(wire.Code())
	switch {
	case info.GetCloseCode() != 0:
		code = durable.CloseCode(info.GetCloseCode())
	case info.GetReason() == durablev1.ErrorReason_ERROR_REASON_DRAINING:
		code = durable.CloseGoingAway
	case info.GetOverloaded(), info.GetReason() == durablev1.ErrorReason_ERROR_REASON_SLOW_PEER:
		code = durable.CloseTryAgainLater
	}
	return code, cut(wire.Message(), durable.MaxCloseReason)
}

// connectCode returns the Connect code of a connection that was closed.
func connectCode(code durable.CloseCode) connect.Code {
	switch {
	case code > 4000 && code <= 4016:
		return connect.Code(code - 4000)
	case code == durable.CloseAbnormal, code == durable.CloseNoStatus, code == durable.CloseGoingAway:
		return connect.CodeCanceled // by the peer, who does not see it
	case code == durable.CloseTooBig, code == durable.CloseTryAgainLater:
		return connect.CodeResourceExhausted
	case code == durable.CloseProtocolError, code == durable.CloseInvalidData:
		return connect.CodeInvalidArgument
	}
	return connect.CodeAborted
}
