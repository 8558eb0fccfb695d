package durableconnect_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

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
	if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{}); connect.CodeOf(err) != connect.CodeUnavailable {
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
