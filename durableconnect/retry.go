package durableconnect

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// CallUnary implements [durable.Conn]. It repeats the call as its policy says,
// where that is safe: see [durable.RetryPolicy]. The error is that of the last
// attempt.
func (c *conn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	policy := call.Retry.WithDefaults()
	first := time.Now()
	for attempt := 1; ; attempt++ {
		sending, info := prepare(ctx, call)
		err := c.client.CallUnary(sending, spec(call.Method), req, res)
		deliver(call, info)
		if err == nil || attempt >= policy.MaxAttempts || ctx.Err() != nil {
			return err
		}
		if !mayRepeat(info, call, req, err) || !pause(ctx, policy.Delay(attempt), first.Add(policy.Window)) {
			return err
		}
		proto.Reset(res)
	}
}

// pause waits before the next attempt, which must not begin after last, nor when
// ctx has ended. It reports whether there is a next attempt.
func pause(ctx context.Context, delay time.Duration, last time.Time) bool {
	next := time.Now().Add(delay)
	if deadline, ok := ctx.Deadline(); next.After(last) || ok && !next.Before(deadline) {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil && !time.Now().After(last)
	case <-ctx.Done():
		return false
	}
}

// mayRepeat reports whether a call that ended with err can be made again.
func mayRepeat(sent *connect.CallInfo, call *durable.Call, req proto.Message, err error) bool {
	if info := ErrorInfo(err); info != nil {
		// Where the server does not say that nothing happened, something may have.
		return info.GetRetryable() && !info.GetOverloaded()
	}
	if neverConnected(err) {
		return true
	}
	if info, ok := sent.TransportInfo.(*connecthttp.ClientInfo); ok && info.ResponseStatus() == http.StatusTooManyRequests {
		return false
	}
	return mayHaveArrived(err) && (call.Method.ReadOnly || call.Method.Idempotent || call.HasIdempotencyKey(req))
}

// neverConnected reports whether there was no connection to send the call over.
func neverConnected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// mayHaveArrived reports whether err leaves open if the call reached the object
// and what came of it: somebody on the way said that the server is unavailable,
// or the connection broke.
func mayHaveArrived(err error) bool {
	var coded *connect.Error
	if !errors.As(err, &coded) {
		return false
	}
	if coded.IsRemote() || coded.Code() == connect.CodeUnavailable {
		return coded.Code() == connect.CodeUnavailable
	}
	var request *url.Error
	var network net.Error
	return errors.As(coded, &request) || errors.As(coded, &network) ||
		errors.Is(coded, io.ErrUnexpectedEOF) ||
		errors.Is(coded, syscall.ECONNRESET) || errors.Is(coded, syscall.EPIPE) ||
		brokenHTTP2(coded.Unwrap())
}

// brokenHTTP2 reports whether err is of a connection or a stream of HTTP/2 that
// broke, for which package http exports no types.
func brokenHTTP2(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if text := err.Error(); strings.HasPrefix(text, "stream error: ") || strings.HasPrefix(text, "http2: ") {
			return true
		}
	}
	return false
}
