package server_test

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/storage"
)

// TestEffectsAreNotUnavailable: a caller who repeats what was unavailable, or is
// said to be retryable, must not repeat effects.
func TestEffectsAreNotUnavailable(t *testing.T) {
	t.Parallel()
	fails := map[string]error{
		"not owner":  durable.ErrNotOwner,
		"overloaded": &durable.OverloadError{Limit: "x", Max: 1, Actual: 1},
	}
	l := &lab.Lab{Constructor: func(_ context.Context, tx durable.Tx) error { return fails[tx.Name()] }}
	s := durabletest.New(t, l.Register)
	for way, conn := range map[string]durable.Conn{"in process": s.Conn(), "Connect": over(s)} {
		for name, c := range map[string]struct {
			code connect.Code
		}{
			"not owner":  {code: connect.CodeAborted},
			"overloaded": {code: connect.CodeResourceExhausted},
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				client := labv1durable.NewRecorderClient(conn)
				_, err := client.GetByName("outer").Misbehave(t.Context(), &labv1.MisbehaveRequest{
					Text: "stays", Fault: &labv1.MisbehaveRequest_Relay{Relay: &labv1.MisbehaveRequest{Name: name}},
				})
				if info := durableconnect.ErrorInfo(err); connect.CodeOf(err) != c.code || info.GetRetryable() {
					t.Errorf("%v, %v", err, info)
				}
				_, err = client.GetByName(name).Misbehave(t.Context(), &labv1.MisbehaveRequest{})
				if info := durableconnect.ErrorInfo(err); info == nil || info.GetRetryable() {
					t.Errorf("a constructor that failed: %v, %v", err, info)
				}
			})
		}
	}
}

// syncsFirst writes, makes that durable and fails, or fails at once.
type syncsFirst struct {
	labv1durable.UnimplementedUniqueHandler
	sync bool
	err  error
}

func (h *syncsFirst) Touch(ctx context.Context, tx labv1durable.UniqueTx, _ *labv1.TouchRequest) (*labv1.TouchResponse, error) {
	if h.sync {
		if err := tx.KV().Put(ctx, "a", []byte{}); err != nil {
			return nil, err
		}
		if err := tx.Sync(ctx); err != nil {
			return nil, err
		}
	}
	return nil, h.err
}

func TestErrorsAfterEffects(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err           error
		before, after connect.Code
	}{
		"storage":    {storage.ErrUnavailable, connect.CodeUnavailable, connect.CodeAborted},
		"draining":   {durable.ErrDraining, connect.CodeUnavailable, connect.CodeAborted},
		"overloaded": {&durable.OverloadError{Limit: "x", Max: 1, Actual: 1}, connect.CodeResourceExhausted, connect.CodeResourceExhausted},
		"the handler's own": {
			connect.NewError(connect.CodeUnavailable, "closed on Sundays"), connect.CodeUnavailable, connect.CodeUnavailable,
		},
	} {
		for sync, code := range map[bool]connect.Code{false: c.before, true: c.after} {
			t.Run(fmt.Sprintf("%s, effects %v", name, sync), func(t *testing.T) {
				s := durabletest.New(t, func(r durable.Registrar) error {
					return labv1durable.RegisterUnique(r, func(context.Context, labv1durable.UniqueTx) (labv1durable.UniqueHandler, error) {
						return &syncsFirst{sync: sync, err: c.err}, nil
					})
				})
				_, err := labv1durable.NewUniqueClient(over(s)).GetByName("a").Touch(t.Context(), &labv1.TouchRequest{})
				if connect.CodeOf(err) != code {
					t.Errorf("code %v, want %v: %v", connect.CodeOf(err), code, err)
				}
				if info := durableconnect.ErrorInfo(err); info.GetRetryable() && sync {
					t.Errorf("retryable: %v", info)
				}
			})
		}
	}
}
