package durable

import (
	"context"
	"iter"
	"net/http"

	"google.golang.org/protobuf/proto"
)

// A Conn carries calls to objects. Package durableconnect has one over HTTP,
// package server one within the process, and a [Tx] is one for calls between
// objects, so that the same stub serves clients, tests and handlers.
type Conn interface {
	// CallUnary sends req to the object and reads its reply into res. Neither
	// is shared with the handler.
	CallUnary(ctx context.Context, call *Call, req, res proto.Message) error
	// OpenStream opens a streaming call. The caller owns the stream.
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
}

// A MethodSpec is what a caller knows of a method.
type MethodSpec struct {
	Procedure    string // "/package.Service/Method"
	ReadOnly     bool   // NO_SIDE_EFFECTS
	ClientStream bool
	ServerStream bool
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
// returns; of a stream, when its last message was received.
func WithResponseTrailer(h *http.Header) CallOption {
	return callOption(func(c *Call) { c.ResponseTrailer = h })
}

// CallUnary makes a call with one request and one response. Generated stubs
// call it.
func CallUnary[Res any, PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, req proto.Message, opts []CallOption) (PRes, error) {
	call := newCall(ref, method, opts)
	res := PRes(new(Res))
	if err := ref.conn.CallUnary(ctx, call, req, res); err != nil {
		return nil, err
	}
	return res, nil
}

// CallServerStream makes a call with one request and a stream of responses.
func CallServerStream[Res any, PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, req proto.Message, opts []CallOption) (*ServerStreamingClient[Res], error) {
	method.ServerStream = true
	port, err := ref.conn.OpenStream(ctx, newCall(ref, method, opts))
	if err != nil {
		return nil, err
	}
	if err := port.Send(req); err != nil {
		return nil, closeWith(port, err)
	}
	if err := port.CloseSend(); err != nil {
		return nil, closeWith(port, err)
	}
	return &ServerStreamingClient[Res]{port}, nil
}

// CallClientStream opens a call with a stream of requests and one response.
func CallClientStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, opts []CallOption) (*ClientStreamingClient[Req, Res], error) {
	method.ClientStream = true
	port, err := ref.conn.OpenStream(ctx, newCall(ref, method, opts))
	if err != nil {
		return nil, err
	}
	return &ClientStreamingClient[Req, Res]{port}, nil
}

// CallBidiStream opens a call with streams both ways.
func CallBidiStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, ref Ref, method MethodSpec, opts []CallOption) (*BidiStreamingClient[Req, Res], error) {
	method.ClientStream, method.ServerStream = true, true
	port, err := ref.conn.OpenStream(ctx, newCall(ref, method, opts))
	if err != nil {
		return nil, err
	}
	return &BidiStreamingClient[Req, Res]{port}, nil
}

func newCall(ref Ref, method MethodSpec, opts []CallOption) *Call {
	call := &Call{Method: method, Object: ref}
	for _, opt := range opts {
		opt.applyToCall(call)
	}
	return call
}

// closeWith closes port after a failed send and returns what the server said,
// which tells more than the broken send.
func closeWith(port ClientStreamPort, err error) error {
	defer func() { _ = port.Close() }()
	return err
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
	port ClientStreamPort
}

// Send sends a request. It returns io.EOF when the server ended the call;
// CloseAndReceive then tells why.
func (s *ClientStreamingClient[Req, Res]) Send(req *Req) error { return s.port.Send(asMessage(req)) }

// CloseAndReceive ends the requests and returns the response.
func (s *ClientStreamingClient[Req, Res]) CloseAndReceive() (*Res, error) {
	defer func() { _ = s.port.Close() }()
	if err := s.port.CloseSend(); err != nil {
		return nil, err
	}
	return receive[Res](s.port)
}

// Close abandons the stream.
func (s *ClientStreamingClient[Req, Res]) Close() error { return s.port.Close() }

// A BidiStreamingClient is the caller's end of a stream both ways. Sending and
// receiving may go on at once.
type BidiStreamingClient[Req, Res any] struct {
	port ClientStreamPort
}

// Send sends a request. It returns io.EOF when the server ended the call;
// Receive then tells why.
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
