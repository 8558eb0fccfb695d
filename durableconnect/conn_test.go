package durableconnect_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

func TestErrorInfo(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	r := labv1durable.NewRecorderClient(durableconnect.New(s.HTTPClient(), s.URL())).GetByName("a")
	_, err := r.Misbehave(t.Context(), &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Abort{Abort: "enough"}})
	want := &durablev1.ErrorInfo{
		Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectType: "lab.recorder", ObjectId: r.ID().String(), ObjectReset: true,
	}
	for name, err := range map[string]error{"bare": err, "wrapped": errors.Join(errors.New("outer"), err)} {
		if diff := cmp.Diff(want, durableconnect.ErrorInfo(err), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, err := range map[string]error{
		"nil": nil, "uncoded": errors.New("x"), "coded": connect.NewError(connect.CodeNotFound, "x"),
	} {
		if info := durableconnect.ErrorInfo(err); info != nil {
			t.Errorf("%s: %v", name, info)
		}
	}
}

func TestInterceptors(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	var seen []connect.Spec
	client := connect.NewClient(connecthttp.NewTransport(s.HTTPClient(), s.URL()), func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			seen = append(seen, spec)
			info, _ := connect.CallInfoForClientContext(ctx)
			info.RequestHeader().Set("Authorization", "secret")
			return next(ctx, spec)
		}
	})
	r := labv1durable.NewRecorderClient(durableconnect.NewClient(client)).GetByName("a")
	res, err := r.Inspect(t.Context(), &labv1.InspectRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.GetSeen().GetHeaders()["Authorization"]; got != "secret" {
		t.Errorf("the handler saw %q", got)
	}
	stream, err := r.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	want := []connect.Spec{
		{Procedure: labv1durable.RecorderInspectProcedure, IdempotencyLevel: connect.IdempotencyNoSideEffects},
		{Procedure: labv1durable.RecorderChatProcedure, StreamType: connect.StreamTypeBidi},
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	conn := durableconnect.New(http.DefaultClient, "http://127.0.0.1:1")
	c := labv1durable.NewCounterClient(conn).GetByName("a")
	if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{}, durable.WithoutRetry()); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("error %v", err)
	}
}

// TestHeadersOfCalls: what a caller sets goes along, and is not kept.
func TestHeadersOfCalls(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	r := labv1durable.NewRecorderClient(durableconnect.New(s.HTTPClient(), s.URL(), connecthttp.WithGRPC())).GetByName("a")
	for _, sent := range []string{"1", "2"} {
		res, err := r.Inspect(t.Context(), &labv1.InspectRequest{},
			durable.WithHeader("x-one", sent), durable.WithHeader("X-Many", sent), durable.WithHeader("x-many", sent))
		if err != nil {
			t.Fatal(err)
		}
		got := res.GetSeen().GetHeaders()
		if got["X-One"] != sent || got["X-Many"] != sent+sent {
			t.Errorf("headers %v", got)
		}
	}
	res, err := r.Inspect(t.Context(), &labv1.InspectRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := res.GetSeen().GetHeaders()["X-One"]; ok {
		t.Errorf("a header of an earlier call: %q", got)
	}
}

// A lossy client makes requests, loses the first replies, and then does what
// comes with a loss.
type lossy struct {
	*http.Client
	losses atomic.Int64
	loss   func()
}

func (l *lossy) Do(req *http.Request) (*http.Response, error) {
	res, err := l.Client.Do(req)
	if err != nil || l.losses.Add(-1) < 0 {
		return res, err
	}
	_ = res.Body.Close()
	if l.loss != nil {
		l.loss()
	}
	return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
}

// TestLostReplies is RETRY-02: what was done is not done again, even when the
// server crashed between the commit and the reply.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	soon := durable.WithRetry(durable.RetryPolicy{FirstDelay: time.Millisecond})
	for name, opts := range map[string][]connecthttp.Option{
		"Connect": nil, "Connect JSON": {connecthttp.WithProtoJSON()}, "gRPC": {connecthttp.WithGRPC()}, "gRPC-Web": {connecthttp.WithGRPCWeb()},
	} {
		for loss, fn := range map[string]func(){"the connection broke": nil, "the server crashed": s.Crash} {
			t.Run(name+"/"+loss, func(t *testing.T) {
				client := &lossy{Client: s.HTTPClient(), loss: fn}
				c := labv1durable.NewCounterClient(durableconnect.New(client, s.URL(), opts...)).GetByName(name + loss)
				client.losses.Store(2)
				var header http.Header
				res, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}, durable.IdempotencyKey(), soon, durable.WithResponseHeader(&header))
				if err != nil || res.GetValue() != 1 || header.Get("Durable-Replayed") != "true" {
					t.Errorf("value %d, header %v, error %v", res.GetValue(), header, err)
				}
				client.losses.Store(1)
				if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 10}, soon); err == nil {
					t.Error("a call without a key was repeated")
				}
				client.losses.Store(1)
				got, err := c.Get(t.Context(), &labv1.GetRequest{}, soon)
				if err != nil || got.GetValue() != 11 {
					t.Errorf("value %d, error %v", got.GetValue(), err)
				}
			})
		}
	}
}
