// Package durableconnect calls durable objects over HTTP, by the Connect, gRPC
// or gRPC-Web protocol.
//
//	conn := durableconnect.New(http.DefaultClient, "http://127.0.0.1:8080")
//	counter := counterv1durable.NewCounterClient(conn).GetByName("a")
//
// Errors are [*connect.Error] values; [ErrorInfo] tells what the runtime added.
// Calls that failed are made again where that is safe; see [durable.RetryPolicy].
package durableconnect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// New returns a connection to the server at baseURL. It speaks Connect with
// binary messages unless options say otherwise. Streams of requests that wait
// for responses need a client that speaks HTTP/2, and so does gRPC.
func New(client connecthttp.HTTPClient, baseURL string, opts ...connecthttp.Option) durable.Conn {
	return NewClient(connect.NewClient(connecthttp.NewTransport(client, baseURL, opts...)))
}

// NewClient returns a connection over any Connect client, with interceptors for
// instance.
func NewClient(client *connect.Client) durable.Conn { return &conn{client} }

type conn struct{ client *connect.Client }

// OpenStream implements [durable.Conn].
func (c *conn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	if m := call.Method; m.ReadOnly && m.ServerStream && !m.ClientStream {
		return c.openReading(ctx, call)
	}
	s, err := c.open(ctx, call)
	if err != nil {
		return nil, err
	}
	if m := call.Method; m.ClientStream && m.ServerStream {
		// Otherwise the call begins with its first request, and a client that waits
		// for a message first waits for ever.
		if err := s.SendHeaders(); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (c *conn) open(ctx context.Context, call *durable.Call) (*stream, error) {
	ctx, info := prepare(ctx, call)
	s, err := c.client.CallClientStream(ctx, spec(call.Method))
	if err != nil {
		return nil, err
	}
	return &stream{s, call, info}, nil
}

// prepare puts the key and the headers of a call into its request.
func prepare(ctx context.Context, call *durable.Call) (context.Context, *connect.CallInfo) {
	ctx, info := connect.NewClientContext(ctx)
	header := info.RequestHeader()
	for key, values := range call.Header {
		header.SetValues(key, values)
	}
	if name, ok := call.Object.Name(); ok {
		header.Set("Durable-Name", url.PathEscape(name))
	} else {
		header.Set("Durable-Id", call.Object.ID().String())
	}
	return ctx, info
}

func spec(m durable.MethodSpec) connect.Spec {
	s := connect.Spec{Procedure: m.Procedure}
	switch {
	case m.ReadOnly:
		s.IdempotencyLevel = connect.IdempotencyNoSideEffects
	case m.Idempotent:
		s.IdempotencyLevel = connect.IdempotencyIdempotent
	}
	if m.ClientStream {
		s.StreamType |= connect.StreamTypeClient
	}
	if m.ServerStream {
		s.StreamType |= connect.StreamTypeServer
	}
	return s
}

func deliver(call *durable.Call, info *connect.CallInfo) {
	if call.ResponseHeader != nil {
		*call.ResponseHeader = httpHeader(info.ResponseHeader())
	}
	if call.ResponseTrailer != nil {
		*call.ResponseTrailer = httpHeader(info.ResponseTrailer())
	}
}

func httpHeader(h *connect.Header) http.Header {
	out := make(http.Header, h.Len())
	for key, values := range h.All() {
		out[key] = values
	}
	return out
}

type stream struct {
	connect.ClientStream
	call *durable.Call
	info *connect.CallInfo
}

func (s *stream) Send(msg proto.Message) error { return s.ClientStream.Send(msg) }

func (s *stream) Receive(msg proto.Message) error {
	err := s.ClientStream.Receive(msg)
	deliver(s.call, s.info)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

// ErrorInfo returns what the runtime says of a failed call, nil when err does
// not come from an object.
func ErrorInfo(err error) *durablev1.ErrorInfo {
	var coded *connect.Error
	if !errors.As(err, &coded) {
		return nil
	}
	for _, d := range coded.Details() {
		msg, err := connectproto.UnmarshalErrorDetail(d)
		if info, ok := msg.(*durablev1.ErrorInfo); ok && err == nil {
			return info
		}
	}
	return nil
}
