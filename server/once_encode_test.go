package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

func newOutcome(ctx context.Context, res proto.Message) *outcome {
	r := &route{typ: &actor.Type{ObjectType: &durable.ObjectType{Name: "a"}}, method: &durable.Method{Procedure: "/a.B/C"}}
	return &outcome{ctx: ctx, route: r, id: durable.IDFromName("a", "b"), call: durable.NewCallInfo("/a.B/C", nil), res: res}
}

// TestOutcomes tells which errors are remembered.
func TestOutcomes(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	inner := func(err error) error { return callError(err, nil, durable.ID{}) }
	spoofed := func() error {
		d, err := connectproto.NewErrorDetail(&durablev1.ErrorInfo{Overloaded: true, Retryable: true})
		if err != nil {
			t.Fatal(err)
		}
		return connect.NewError(connect.CodeNotFound, "x").WithDetail(d)
	}()
	remote := func(code connect.Code) error { return connect.NewError(code, "x").WithRemote() }
	for _, c := range []struct {
		name string
		ctx  context.Context //nolint:containedctx // of the case
		err  error
		want bool
	}{
		{name: "nil", want: true},
		{name: "nil, but nobody waits", ctx: gone, want: true},
		{name: "coded", err: connect.NewError(connect.CodeResourceExhausted, "x"), want: true},
		{name: "coded, wrapped", err: fmt.Errorf("x: %w", connect.NewError(connect.CodeAborted, "x")), want: true},
		{name: "coded, with details as ours", err: spoofed, want: true},
		{name: "uncoded", err: errors.New("x"), want: true},
		{name: "kept", err: durable.Keep(errors.New("x")), want: true},
		{name: "kept, but nobody waits", ctx: gone, err: durable.Keep(context.Canceled), want: true},
		{name: "no row", err: durable.ErrNoRow, want: true},
		{name: "constraint", err: &durable.SQLError{Code: "SQLITE_CONSTRAINT_UNIQUE"}, want: true},
		{name: "inner, of its handler", err: inner(connect.NewError(connect.CodeNotFound, "x")), want: true},
		{name: "of another server", err: remote(connect.CodeNotFound), want: true},

		{name: "nobody waits", ctx: gone, err: connect.NewError(connect.CodeInternal, "x")},
		{name: "cancelled", err: context.Canceled},
		{name: "deadline", err: fmt.Errorf("x: %w", context.DeadlineExceeded)},
		{name: "deadline, coded", err: connect.NewError(connect.CodeDeadlineExceeded, "x")},
		{name: "cancelled, as the cause", err: connect.NewError(connect.CodeInternal, "x").WithCause(context.Canceled)},
		{name: "unavailable", err: connect.NewError(connect.CodeUnavailable, "x")},
		{name: "panic", err: &durable.PanicError{Value: "x"}},
		{name: "abort", err: &durable.AbortError{Reason: "x"}},
		{name: "reset", err: durable.ErrReset},
		{name: "stuck", err: fmt.Errorf("%w: %w", durable.ErrReset, durable.ErrStuck)},
		{name: "commit failed", err: durable.ErrCommitFailed},
		{name: "overload", err: &durable.OverloadError{Limit: "x", Max: 1, Actual: 2}},
		{name: "not owner", err: durable.ErrNotOwner},
		{name: "draining", err: durable.ErrDraining},
		{name: "storage unavailable", err: storage.ErrUnavailable},
		{name: "no space", err: storage.ErrNoSpace},
		{name: "corrupt", err: storage.ErrCorrupt},
		{name: "tx done", err: durable.ErrTxDone},
		{name: "unimplemented by the runtime", err: durable.ErrMethodUnknown},
		{name: "SQL engine out of memory", err: &durable.SQLError{Code: "SQLITE_NOMEM"}},
		{name: "inner, unavailable", err: inner(connect.NewError(connect.CodeUnavailable, "x"))},
		{name: "inner, draining", err: inner(durable.ErrDraining)},
		{name: "inner, overloaded", err: inner(&durable.OverloadError{Limit: "x", Max: 1, Actual: 2})},
		{name: "inner, reset", err: inner(durable.ErrReset)},
		{name: "inner, wrapped", err: fmt.Errorf("x: %w", inner(durable.ErrCommitFailed))},
		{name: "of another server, unavailable", err: remote(connect.CodeUnavailable)},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			reply, keep := newOutcome(ctx, wrapperspb.String("x")).encode(c.err)
			if keep != c.want {
				t.Errorf("kept: %v", keep)
			}
			// Whatever it says, it must be there: something may be committed.
			got := newOutcome(ctx, &wrapperspb.StringValue{})
			err := got.replay(reply)
			if c.err == nil {
				if err != nil || got.res.(*wrapperspb.StringValue).GetValue() != "x" {
					t.Errorf("response %v, error %v", got.res, err)
				}
				return
			}
			wire := wireError(err, got.route, got.id)
			if info := infoOf(wire); info.GetRetryable() {
				t.Errorf("a stored answer says that nothing happened: %v", info)
			}
			if wire.Message() == "" || wire.Code() == connect.CodeUnavailable && !infoOf(wire).GetRemote() {
				t.Errorf("replayed error %v", wire)
			}
		})
	}
}

// TestOutcomeRoundTrip: bytes that are no UTF-8 come back as they were.
func TestOutcomeRoundTrip(t *testing.T) {
	first := newOutcome(t.Context(), &wrapperspb.StringValue{})
	first.call.ResponseHeader()["X-Odd"] = []string{"\xff", "b"}
	first.call.ResponseTrailer().Set("X-End", "é")
	reply, _ := first.encode(connect.NewError(connect.CodeInternal, "\xff"))
	second := newOutcome(t.Context(), &wrapperspb.StringValue{})
	err := second.replay(reply)
	if wire := wireError(err, second.route, second.id); wire.Message() != "\xff" || wire.Code() != connect.CodeInternal {
		t.Errorf("error %v", wire)
	}
	header, trailer := second.call.Response()
	want := []http.Header{{"X-Odd": {"\xff", "b"}, "Durable-Replayed": {"true"}}, {"X-End": {"é"}}}
	if diff := cmp.Diff(want, []http.Header{header, trailer}); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	t.Run("a response that cannot be sent", func(t *testing.T) {
		reply, keep := newOutcome(t.Context(), wrapperspb.String("\xff")).encode(nil)
		err := newOutcome(t.Context(), &wrapperspb.StringValue{}).replay(reply)
		if !keep || connect.CodeOf(err) != connect.CodeInternal {
			t.Errorf("kept: %v, error %v", keep, err)
		}
	})
}

func TestOutcomeThatDoesNotVerify(t *testing.T) {
	odd, err := proto.Marshal(&recordv1.Outcome{Result: &recordv1.Outcome_Response{Response: []byte{0xff}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, reply := range map[string][]byte{"empty": {}, "no outcome": {0xff}, "another response": odd} {
		o := newOutcome(t.Context(), &wrapperspb.StringValue{})
		if err := o.replay(reply); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
		if header, _ := o.call.Response(); header != nil {
			t.Errorf("%s: header %v", name, header)
		}
	}
}

// TestOnceCostsNothing to calls without a key.
func TestOnceCostsNothing(t *testing.T) {
	o := newOutcome(t.Context(), &wrapperspb.StringValue{})
	req := wrapperspb.String("x")
	withField := *o.route.method
	withField.IdempotencyField = req.ProtoReflect().Descriptor().Fields().Get(0)
	empty := &wrapperspb.StringValue{}
	fielded := &route{typ: o.route.typ, method: &withField}
	for name, call := range map[string]func() (*actor.Once, error){
		"no field": func() (*actor.Once, error) {
			return o.route.once(o.ctx, http.Header(nil).Values("Idempotency-Key"), o.call, o.id, req, o.res)
		},
		"an empty field": func() (*actor.Once, error) {
			return fielded.once(o.ctx, nil, o.call, o.id, empty, o.res)
		},
	} {
		if n := testing.AllocsPerRun(100, func() {
			if once, err := call(); once != nil || err != nil {
				t.Fatal(once, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
