package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"google.golang.org/protobuf/proto"
)

// A Conn carries calls to objects. Package durableconnect has one over HTTP,
// package server one within the process, and a [Tx] is one for calls between
// objects, so that the same stub serves clients, tests and handlers.
type Conn interface {
	// CallUnary sends req to the object and reads its reply into res. Neither
	// is shared with the handler. When it returns nil, what the call wrote is
	// durable. Errors are or wrap a connect.Error; one without an answer of the
	// server, as when the connection broke, says nothing of the effect.
	CallUnary(ctx context.Context, call *Call, req, res proto.Message) error
	// OpenStream opens a streaming call. The caller owns the stream, and closes
	// it or ends ctx.
	OpenStream(ctx context.Context, call *Call) (ClientStreamPort, error)
}

// A Call says which method of which object is called, and how.
type Call struct {
	Method MethodSpec
	Object Ref
	// Header is sent with the request; nil when there is none.
	Header http.Header
	// ResponseHeader and ResponseTrailer, where not nil, receive what came
	// with the reply.
	ResponseHeader, ResponseTrailer *http.Header
	// Retry says how the call is repeated, by connections that may lose one.
	Retry RetryPolicy
}

// A MethodSpec is what a caller knows of a method.
type MethodSpec struct {
	Procedure    string // "/package.Service/Method"
	ReadOnly     bool   // NO_SIDE_EFFECTS
	ClientStream bool
	ServerStream bool
	Idempotent   bool // IDEMPOTENT: making a call twice does no more than making it once
}

// A ClientStreamPort is the caller's end of a streaming call.
type ClientStreamPort interface {
	Send(msg proto.Message) error
	CloseSend() error
	// Receive reads the next response into msg; io.EOF after the last.
	Receive(msg proto.Message) error
	Close() error
}

// A Ref names one object and the connection to reach it. Stubs embed it. Making
// one does no work and creates nothing.
type Ref struct {
	conn       Conn
	objectType string
	id         ID
	name       string
	byName     bool
}

// RefByName returns the ref of the object of that name. Whether the name is
// valid is told by the first call.
func RefByName(conn Conn, objectType, name string) Ref {
	return Ref{conn: conn, objectType: objectType, name: name, byName: true}
}

// RefByID returns the ref of the object with that id.
func RefByID(conn Conn, objectType string, id ID) Ref {
	return Ref{conn: conn, objectType: objectType, id: id}
}

// ObjectType returns the stored name of the object's type.
func (r Ref) ObjectType() string { return r.objectType }

// ID returns the id of the object.
func (r Ref) ID() ID {
	if r.byName {
		return IDFromName(r.objectType, r.name)
	}
	return r.id
}

// Name returns the name the ref was made from; ok is false for a ref made from
// an id.
func (r Ref) Name() (name string, ok bool) { return r.name, r.byName }

// A CallOption changes one call.
type CallOption interface{ applyToCall(*Call) }

type callOption func(*Call)

func (f callOption) applyToCall(c *Call) { f(c) }

// WithHeader adds a header to the request.
func WithHeader(key, value string) CallOption {
	return callOption(func(c *Call) {
		if c.Header == nil {
			c.Header = http.Header{}
		}
		c.Header.Add(key, value)
	})
}

// WithResponseHeader stores the headers of the reply in h, when the call
// returns; of a stream, when its first message was received.
func WithResponseHeader(h *http.Header) CallOption {
	return callOption(func(c *Call) { c.ResponseHeader = h })
}

// WithResponseTrailer stores the trailers of the reply in h, when the call
// returns; of a stream, when Receive returned io.EOF or another error.
func WithResponseTrailer(h *http.Header) CallOption {
	return callOption(func(c *Call) { c.ResponseTrailer = h })
}

// CallUnary makes a call with one request and one response. When it returns nil,
// what the call wrote is durable. Generated stubs call it.
func CallUnary[Res any, PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, req proto.Message, opts []CallOption) (PRes, error) {
	call, err := newCall(ref, method, opts)
	if err != nil {
		return nil, err
	}
	res := PRes(new(Res))
	if err := ref.conn.CallUnary(ctx, call, req, res); err != nil {
		return nil, err
	}
	return res, nil
}

// CallServerStream makes a call with one request and a stream of responses. The
// caller reads the stream to its end, closes it or ends ctx.
func CallServerStream[Res any, PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, req proto.Message, opts []CallOption) (*ServerStreamingClient[Res], error) {
	method.ServerStream = true
	port, err := open(ctx, ref, method, opts)
	if err != nil {
		return nil, err
	}
	err = port.Send(req)
	if err == nil {
		err = port.CloseSend()
	}
	if errors.Is(err, io.EOF) { // the server ended the call; Receive tells why
		if err = port.Receive(PRes(new(Res))); err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("durable: %s: the server ended the call before it took the request", method.Procedure)
		}
	}
	if err != nil {
		_ = port.Close()
		return nil, err
	}
	return &ServerStreamingClient[Res]{port}, nil
}

// CallClientStream opens a call with a stream of requests and one response.
func CallClientStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, opts []CallOption) (*ClientStreamingClient[Req, Res], error) {
	method.ClientStream = true
	port, err := open(ctx, ref, method, opts)
	if err != nil {
		return nil, err
	}
	return &ClientStreamingClient[Req, Res]{port, method.Procedure}, nil
}

// CallBidiStream opens a call with streams both ways.
func CallBidiStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, opts []CallOption) (*BidiStreamingClient[Req, Res], error) {
	method.ClientStream, method.ServerStream = true, true
	port, err := open(ctx, ref, method, opts)
	if err != nil {
		return nil, err
	}
	return &BidiStreamingClient[Req, Res]{port}, nil
}

func open(ctx context.Context, ref Ref, method MethodSpec, opts []CallOption) (ClientStreamPort, error) {
	call, err := newCall(ref, method, opts)
	if err != nil {
		return nil, err
	}
	return ref.conn.OpenStream(ctx, call)
}

func newCall(ref Ref, method MethodSpec, opts []CallOption) (*Call, error) {
	call := &Call{Method: method, Object: ref}
	for _, opt := range opts {
		opt.applyToCall(call)
	}
	if err := call.Retry.check(); err != nil {
		return nil, fmt.Errorf("%w: call of %s", err, method.Procedure)
	}
	return call, nil
}

// A ServerStreamingClient is the caller's end of a server stream. Read it to
// io.EOF, close it, or cancel its context.
type ServerStreamingClient[Res any] struct{ port ClientStreamPort }

// Receive returns the next response, and io.EOF after the last.
func (s *ServerStreamingClient[Res]) Receive() (*Res, error) {
	return receive[Res](s.port)
}

// All yields the responses until the last one or an error.
func (s *ServerStreamingClient[Res]) All() iter.Seq2[*Res, error] { return all(s.Receive) }

// Close abandons the stream.
func (s *ServerStreamingClient[Res]) Close() error { return s.port.Close() }

// A ClientStreamingClient is the caller's end of a client stream.
type ClientStreamingClient[Req, Res any] struct {
	port      ClientStreamPort
	procedure string
}

// Send sends a request, which stays the caller's. It returns io.EOF when the
// server ended the call; CloseAndReceive then tells why.
func (s *ClientStreamingClient[Req, Res]) Send(req *Req) error { return s.port.Send(asMessage(req)) }

// CloseAndReceive ends the requests, returns the response and closes the
// stream. When it returns nil, what the call wrote is durable. It returns the
// error of the server when the call ended with one, even after the response.
func (s *ClientStreamingClient[Req, Res]) CloseAndReceive() (*Res, error) {
	defer func() { _ = s.port.Close() }()
	if err := s.port.CloseSend(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	res, err := receive[Res](s.port)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("durable: %s: the server ended the call without a response", s.procedure)
	}
	if err != nil {
		return nil, err
	}
	// Trailers and the status of the call come after the message.
	switch _, err := receive[Res](s.port); {
	case errors.Is(err, io.EOF):
		return res, nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("durable: %s: the server sent more than one response", s.procedure)
}

// Close abandons the stream.
func (s *ClientStreamingClient[Req, Res]) Close() error { return s.port.Close() }

// A BidiStreamingClient is the caller's end of a stream both ways. Sending and
// receiving may go on at once.
type BidiStreamingClient[Req, Res any] struct {
	port ClientStreamPort
}

// Send sends a request, which stays the caller's. It returns io.EOF when the
// server ended the call; Receive then tells why.
func (s *BidiStreamingClient[Req, Res]) Send(req *Req) error { return s.port.Send(asMessage(req)) }

// CloseSend ends the requests.
func (s *BidiStreamingClient[Req, Res]) CloseSend() error { return s.port.CloseSend() }

// Receive returns the next response, and io.EOF after the last.
func (s *BidiStreamingClient[Req, Res]) Receive() (*Res, error) {
	return receive[Res](s.port)
}

// All yields the responses until the last one or an error.
func (s *BidiStreamingClient[Req, Res]) All() iter.Seq2[*Res, error] {
	return all(s.Receive)
}

// Close abandons the stream.
func (s *BidiStreamingClient[Req, Res]) Close() error { return s.port.Close() }

func receive[Res any](port ClientStreamPort) (*Res, error) {
	res := new(Res)
	if err := port.Receive(asMessage(res)); err != nil {
		return nil, err
	}
	return res, nil
}
