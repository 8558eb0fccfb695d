package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/actor"
)

// conn calls the server's own objects from within the process.
type conn struct{ s *Server }

// CallUnary implements [durable.Conn].
func (c conn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	r, k, err := c.route(call)
	if err != nil {
		return err
	}
	own := proto.Clone(req)
	if k, err = r.inner(k, own); err != nil {
		return callError(err, r, durable.ID{})
	}
	r.fill(k, own)
	ctx, info := localInfo(ctx, call)
	once, err := r.once(ctx, call.Header.Values(durable.IdempotencyKeyHeader), info, k.id, own, res)
	if err != nil {
		return callError(err, r, k.id)
	}
	err = c.s.host.Unary(ctx, actor.Call{
		Type: r.typ, Method: r.method, ID: k.id, Name: k.name,
		Bytes: int64(proto.Size(own)), Once: once,
	}, own, res)
	deliver(call, info)
	if err != nil {
		return &innerError{c.s.ended(err, r, k.id)}
	}
	return nil
}

// route finds the method and the object of a call.
func (c conn) route(call *durable.Call) (*route, key, error) {
	value, ok := c.s.routes.Load(call.Method.Procedure)
	if !ok {
		err := fmt.Errorf("%w: %s", durable.ErrMethodUnknown, call.Method.Procedure)
		return nil, key{}, callError(err, nil, durable.ID{})
	}
	r := value.(*route)
	k := key{where: "stub"}
	var err error
	if name, ok := call.Object.Name(); ok {
		if err = durable.CheckName(name); err == nil {
			k.name, k.id = name, call.Object.ID()
		}
	} else {
		k.id = call.Object.ID()
		err = durable.CheckID(r.typ.Name, k.id)
	}
	if err == nil && call.Object.ObjectType() != r.typ.Name {
		err = fmt.Errorf("%w: %s is of object type %s, and the stub of %s", durable.ErrMethodUnknown, call.Method.Procedure, r.typ.Name, call.Object.ObjectType())
	}
	if err != nil {
		return nil, key{}, callError(err, r, durable.ID{})
	}
	return r, k, nil
}

// localInfo gives the handler a [durable.CallInfo] of its own, lest it see that
// of the handler that calls.
func localInfo(ctx context.Context, call *durable.Call) (context.Context, *durable.CallInfo) {
	var header func() http.Header
	if call.Header != nil {
		header = call.Header.Clone
	}
	info := durable.NewCallInfo(call.Method.Procedure, header)
	return durable.ContextWithCallInfo(ctx, info), info
}

// deliver hands response headers and trailers to the caller.
func deliver(call *durable.Call, info *durable.CallInfo) {
	header, trailer := info.Response()
	if call.ResponseHeader != nil {
		*call.ResponseHeader = header
	}
	if call.ResponseTrailer != nil {
		*call.ResponseTrailer = trailer
	}
}

// OpenStream implements [durable.Conn].
func (c conn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	r, k, err := c.route(call)
	if err != nil {
		return nil, err
	}
	if err := r.keyless(call.Header.Values(durable.IdempotencyKeyHeader), nil); err != nil {
		return nil, callError(err, r, k.id)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	p := &localStream{
		ctx: ctx, cancel: cancel, call: call, route: r, id: k.id,
		requests:  make(chan proto.Message),
		responses: make(chan proto.Message),
		done:      make(chan struct{}),
		finished:  make(chan struct{}),
		draining:  c.s.host.Draining(),
	}
	sctx, info := localInfo(withResume(ctx, resumeValues(call.Header, nil)), call)
	p.info = info
	go func() {
		defer cancel(nil) // last, so that an end by the caller is told from one by the handler
		defer close(p.done)
		defer context.AfterFunc(p.draining, p.bound)()
		outer := candidate{source: "stub", text: k.name}
		if k.name == "" {
			outer = candidate{source: "stub", text: k.id.String(), isID: true}
		}
		if err := c.s.stream(sctx, r, []candidate{outer}, serverEnd{p: p}); err != nil {
			var made *connect.Error
			if errors.As(err, &made) {
				p.err = &innerError{made}
			} else {
				p.err = callError(err, r, k.id)
			}
		}
	}()
	return p, nil
}

// A localStream is a streaming call within the process: the caller's end.
type localStream struct {
	ctx       context.Context // of the call
	cancel    context.CancelCauseFunc
	call      *durable.Call
	route     *route
	id        durable.ID
	info      *durable.CallInfo
	requests  chan proto.Message
	responses chan proto.Message
	closeSend sync.Once
	done      chan struct{} // closed when the handler has returned
	finished  chan struct{} // closed when a connection is over
	finish    sync.Once
	err       error           // what it returned
	header    http.Header     // of the response; the handler's end sets it before the first
	sent      bool            // the handler's end sent one
	started   bool            // a response was received
	draining  context.Context // ends when the server drains
}

// bound ends the stream when it is still open some time after the drain began,
// as it is when nobody takes its responses.
func (p *localStream) bound() {
	timer := time.NewTimer(drainSendTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.cancel(durable.ErrStreamDrained)
	case <-p.done:
	}
}

// Send implements [durable.ClientStreamPort].
func (p *localStream) Send(msg proto.Message) error {
	select {
	case p.requests <- proto.Clone(msg):
		return nil
	case <-p.done:
		return io.EOF
	case <-p.ctx.Done():
		if p.over() {
			return io.EOF
		}
		return p.left()
	}
}

// over reports whether the handler has returned.
func (p *localStream) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// left returns the error of a call whose caller gave up.
func (p *localStream) left() error { return callError(context.Cause(p.ctx), p.route, p.id) }

// CloseSend implements [durable.ClientStreamPort].
func (p *localStream) CloseSend() error {
	p.closeSend.Do(func() { close(p.requests) })
	return nil
}

// Receive implements [durable.ClientStreamPort].
func (p *localStream) Receive(msg proto.Message) error {
	select {
	case res := <-p.responses:
		if !p.started {
			p.started = true
			if p.call.ResponseHeader != nil {
				*p.call.ResponseHeader = p.header
			}
		}
		proto.Merge(msg, res)
		return nil
	case <-p.done:
	case <-p.ctx.Done():
		if !p.over() {
			return p.left()
		}
	}
	deliver(p.call, p.info)
	if p.err != nil {
		return p.err
	}
	return io.EOF
}

// Close implements [durable.ClientStreamPort].
func (p *localStream) Close() error {
	p.cancel(nil)
	<-p.done
	return nil
}

// serverEnd is the handler's end of a localStream.
type serverEnd struct {
	clones
	p *localStream
}

// sendForm implements [network].
func (e serverEnd) sendForm(form any, timeout time.Duration) error {
	if form == nil {
		return nil // headers leave with the first message
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	e.first()
	select {
	case e.p.responses <- proto.Clone(form.(proto.Message)):
		return nil
	case <-e.p.ctx.Done():
		return context.Cause(e.p.ctx)
	case <-timer.C:
		return slowPeer(durable.ErrSlowPeer)
	}
}

// finish implements [network].
func (e serverEnd) finish(error, bool) { e.p.finish.Do(func() { close(e.p.finished) }) }

// first makes the headers of the response ready before its first message.
func (e serverEnd) first() {
	if p := e.p; !p.sent {
		p.sent = true
		header, _ := p.info.Response()
		p.header = header.Clone() // the handler may go on to use its own
	}
}

// Send implements [actor.StreamPort].
func (e serverEnd) Send(msg proto.Message) error {
	e.first()
	select {
	case e.p.responses <- proto.Clone(msg):
		return nil
	case <-e.p.ctx.Done():
		return context.Cause(e.p.ctx)
	}
}

// Receive implements [actor.StreamPort].
func (e serverEnd) Receive(msg proto.Message) error {
	select {
	case req, ok := <-e.p.requests:
		if !ok {
			return io.EOF
		}
		proto.Merge(msg, req)
		if err := e.p.route.keyless(nil, msg); err != nil {
			return callError(err, e.p.route, e.p.id)
		}
		return nil
	case <-e.p.draining.Done():
		return durable.ErrStreamDrained
	case <-e.p.finished:
		return errFinished
	case <-e.p.ctx.Done():
		return context.Cause(e.p.ctx)
	}
}
