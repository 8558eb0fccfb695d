package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/actor"
)

// stream runs a streaming call.
func (s *Server) stream(ctx context.Context, r *route, outer []candidate, port network) error {
	if r.method.Connection != nil {
		held, err := s.connect(ctx, r, outer, port)
		if err != nil {
			return err
		}
		return held.serve(ctx)
	}
	p, req, err := s.keyed(r, outer, port)
	if err != nil {
		return err
	}
	if _, err := r.resume(ctx); err != nil {
		return wireError(err, r, p.key.id)
	}
	err = s.host.Stream(ctx, actor.Call{Type: r.typ, Method: r.method, ID: p.key.id, Name: p.key.name}, p, req)
	return s.streamEnded(ctx, err, r, p.key.id)
}

// keyed finds out which object a streaming call is for, if need be from the first
// message. It returns the request where only the server streams.
func (s *Server) keyed(r *route, outer []candidate, port network) (*keyedPort, proto.Message, error) {
	k, err := r.outer(outer)
	if err != nil {
		return nil, nil, wireError(err, r, durable.ID{})
	}
	p := &keyedPort{StreamPort: port, r: r, key: k}
	var req proto.Message
	switch {
	case !r.method.ClientStream:
		req = r.method.NewRequest()
		if err := port.Receive(req); err != nil {
			return nil, nil, notStarted(err, r)
		}
		if p.key, err = r.resolve(outer, req); err != nil {
			return nil, nil, wireError(err, r, durable.ID{})
		}
	case k.where == "" && r.method.KeyField != nil:
		if err := p.peek(); err != nil {
			return nil, nil, notStarted(err, r)
		}
	}
	if p.key.where == "" {
		if p.key, err = r.missing(); err != nil {
			return nil, nil, wireError(err, r, durable.ID{})
		}
	}
	return p, req, nil
}

// streamEnded returns what the caller of a stream is told of its end.
func (s *Server) streamEnded(ctx context.Context, err error, r *route, id durable.ID) error {
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), durable.ErrStreamDrained) {
		err = durable.ErrStreamDrained // it is not the caller who left
	}
	if err != nil {
		return s.ended(err, r, id)
	}
	return nil
}

// notStarted returns the error of a call that ended before its object was known,
// so that a drain has certainly cost the caller nothing.
func notStarted(err error, r *route) error {
	if errors.Is(err, durable.ErrStreamDrained) {
		return wireError(durable.ErrDraining, r, durable.ID{})
	}
	return err
}

// A keyedPort checks that every request of a stream is for its object.
type keyedPort struct {
	actor.StreamPort
	r     *route
	key   key
	first proto.Message // received already, nil when there is none
	ended bool          // the first receive met the end
}

// peek receives the first message and takes the key from it.
func (p *keyedPort) peek() error {
	req := p.r.method.NewRequest()
	err := p.StreamPort.Receive(req)
	if errors.Is(err, io.EOF) {
		p.ended = true
		return nil
	}
	if err != nil {
		return err
	}
	if p.key, err = p.r.inner(p.key, req); err != nil {
		return wireError(err, p.r, durable.ID{})
	}
	p.first = req
	return nil
}

// Receive implements [actor.StreamPort].
func (p *keyedPort) Receive(msg proto.Message) error {
	switch {
	case p.ended:
		return io.EOF
	case p.first != nil:
		proto.Merge(msg, p.first)
		p.first = nil
	default:
		if err := p.StreamPort.Receive(msg); err != nil {
			return err
		}
	}
	if p.r.method.KeyField == nil {
		return nil
	}
	if _, err := p.r.inner(p.key, msg); err != nil {
		return err
	}
	p.r.fill(p.key, msg)
	return nil
}

// streaming serves methods with a stream of requests, of responses or of both.
func (s *Server) streaming(r *route) connect.ServerFunc {
	return func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		info, _ := connect.CallInfoForServerContext(ctx)
		call := callInfo(r, info)
		if p, ok := ctx.Value(socketContext{}).(*socket); ok {
			return p.serve(durable.ContextWithCallInfo(ctx, call), stream, outerKeys(ctx, r, info))
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		port := &httpPort{stream: stream, call: call, info: info, oneRequest: !r.method.ClientStream}
		port.mu.writer, _ = ctx.Value(writerContext{}).(http.ResponseWriter)
		port.mu.reading = true
		defer port.end()
		defer context.AfterFunc(s.host.Draining(), func() {
			cancel(durable.ErrStreamDrained) // first: the deadlines may end the context of the request
			port.interrupt()
		})()
		err := s.stream(durable.ContextWithCallInfo(ctx, call), r, outerKeys(ctx, r, info), port)
		respond(call, info)
		return err
	}
}

// drainSendTime is how long a stream may go on sending when the server drains,
// to a caller that reads slowly or not at all. Over HTTP/1.1 it bounds the whole
// connection, so what is asked there later may fail too: the server is ending.
const drainSendTime = 5 * time.Second

// An httpPort is the network end of a streaming call.
type httpPort struct {
	clones
	stream     connect.ServerStream
	call       *durable.CallInfo
	info       *connect.CallInfo
	oneRequest bool // only the server streams
	responded  bool
	slow       atomic.Bool // a send took too long

	mu struct {
		sync.Mutex
		writer  http.ResponseWriter // nil once the call is over, when it must not be touched
		reading bool                // more requests may come
		drained bool
	}
}

// interrupt makes a Receive that waits, and those to come, fail, and bounds the
// time that is left for sending. After end it does nothing.
func (p *httpPort) interrupt() {
	p.mu.Lock()
	p.mu.drained = true
	p.mu.Unlock()
	p.deadlines(time.Now().Add(drainSendTime), time.Unix(1, 0))
}

// end gives the response writer back to package http.
func (p *httpPort) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.writer = nil
}

// Send implements [actor.StreamPort].
func (p *httpPort) Send(msg proto.Message) error {
	if !p.responded { // headers leave with the first message
		p.responded = true
		respond(p.call, p.info)
	}
	return p.ended(p.stream.Send(msg))
}

// Receive implements [actor.StreamPort].
func (p *httpPort) Receive(msg proto.Message) error {
	err := p.stream.Receive(msg)
	if p.oneRequest && err == nil {
		p.mu.Lock()
		p.mu.reading = false
		p.mu.Unlock()
	}
	return p.ended(err)
}

// ended tells why a stream broke that the drain broke.
func (p *httpPort) ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.drained {
		return durable.ErrStreamDrained
	}
	return err
}

// isSlow implements [network].
func (p *httpPort) isSlow() bool { return p.slow.Load() }

// sendForm implements [network].
func (p *httpPort) sendForm(form any, timeout time.Duration) error {
	timer := time.AfterFunc(timeout, func() {
		p.slow.Store(true) // first: the deadline may end the context of the request
		p.deadlines(time.Unix(1, 0), time.Time{})
	})
	var err error
	if form == nil {
		if !p.responded {
			p.responded = true
			respond(p.call, p.info)
		}
		err = p.stream.SendHeaders()
	} else {
		err = p.Send(form.(proto.Message))
	}
	if !timer.Stop() && err != nil {
		return slowPeer(err)
	}
	return err
}

// finish implements [network].
func (p *httpPort) finish(_ error, drop bool) {
	if drop {
		p.deadlines(time.Unix(1, 0), time.Unix(1, 0))
		return
	}
	p.deadlines(time.Time{}, time.Unix(1, 0))
}

// deadlines sets the deadlines that are not zero. After end it does nothing.
func (p *httpPort) deadlines(write, read time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.writer == nil {
		return
	}
	control := http.NewResponseController(p.mu.writer)
	if !write.IsZero() {
		_ = control.SetWriteDeadline(write)
	}
	if !read.IsZero() && p.mu.reading {
		_ = control.SetReadDeadline(read)
	}
}
