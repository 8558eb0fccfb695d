package durable

import (
	"context"
	"net/http"
)

// A CallInfo describes the call that a handler serves. It may be used by one
// goroutine at a time.
type CallInfo struct {
	// Procedure is the method called, "/package.Service/Method".
	Procedure string
	// Protocol is "connect", "grpc", "grpcweb" or "websocket", and empty for a call
	// from within the process.
	Protocol string
	// PeerAddr is the caller's network address, if there is one.
	PeerAddr string

	request         func() http.Header
	requestHeader   http.Header
	header, trailer http.Header
}

// NewCallInfo returns the info of a call whose request headers are told by
// request, which may be nil. It is called at most once, and only if they are
// asked for.
func NewCallInfo(procedure string, request func() http.Header) *CallInfo {
	return &CallInfo{Procedure: procedure, request: request}
}

// RequestHeader returns the headers of the request.
func (c *CallInfo) RequestHeader() http.Header {
	if c.requestHeader == nil {
		if c.request != nil {
			c.requestHeader = c.request()
		}
		if c.requestHeader == nil {
			c.requestHeader = http.Header{}
		}
	}
	return c.requestHeader
}

// ResponseHeader returns the headers that leave with the reply; of a stream,
// with its first message. Set what you like, except names that begin with
// Connect-, Grpc- or Durable-. A WebSocket has neither these nor trailers.
func (c *CallInfo) ResponseHeader() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

// ResponseTrailer returns the trailers that leave after the reply.
func (c *CallInfo) ResponseTrailer() http.Header {
	if c.trailer == nil {
		c.trailer = http.Header{}
	}
	return c.trailer
}

// Response returns the response headers and trailers set so far; nil where
// there are none.
func (c *CallInfo) Response() (header, trailer http.Header) { return c.header, c.trailer }

type callInfoKey struct{}

// ContextWithCallInfo returns a context that carries info to the handler.
func ContextWithCallInfo(ctx context.Context, info *CallInfo) context.Context {
	return context.WithValue(ctx, callInfoKey{}, info)
}

// CallInfoFromContext returns the call that ctx was made for. Outside a handler
// it returns an empty one.
func CallInfoFromContext(ctx context.Context) *CallInfo {
	if info, ok := ctx.Value(callInfoKey{}).(*CallInfo); ok {
		return info
	}
	return &CallInfo{}
}
