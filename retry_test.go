package durable_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// A caught conn keeps the last call.
type caught struct {
	durable.Conn
	calls []*durable.Call
}

func (c *caught) CallUnary(_ context.Context, call *durable.Call, _, _ proto.Message) error {
	c.calls = append(c.calls, call)
	return nil
}

func (c *caught) OpenStream(_ context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	c.calls = append(c.calls, call)
	return &scripted{}, nil
}

func (c *caught) call(t *testing.T, opts ...durable.CallOption) error {
	t.Helper()
	_, err := durable.CallUnary[wrapperspb.StringValue](t.Context(), durable.RefByName(c, "a", "b"), durable.MethodSpec{Procedure: "/a.B/C"}, &wrapperspb.StringValue{}, opts)
	return err
}

func TestIdempotencyKeyOptions(t *testing.T) {
	for name, c := range map[string]struct {
		opts []durable.CallOption
		want []string
	}{
		"none":          {nil, nil},
		"given":         {[]durable.CallOption{durable.WithIdempotencyKey("k")}, []string{"k"}},
		"empty":         {[]durable.CallOption{durable.WithIdempotencyKey("")}, []string{""}},
		"the last":      {[]durable.CallOption{durable.IdempotencyKey(), durable.WithIdempotencyKey("k")}, []string{"k"}},
		"beside others": {[]durable.CallOption{durable.WithHeader("x", "y"), durable.WithIdempotencyKey("k")}, []string{"k"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &caught{}
			if err := conn.call(t, c.opts...); err != nil {
				t.Fatal(err)
			}
			got := conn.calls[0].Header.Values("Idempotency-Key")
			if strings.Join(got, "|") != strings.Join(c.want, "|") || len(got) != len(c.want) {
				t.Errorf("keys %q, want %q", got, c.want)
			}
		})
	}
	t.Run("random", func(t *testing.T) {
		conn, opt, seen := &caught{}, durable.IdempotencyKey(), map[string]bool{}
		for range 100 {
			if err := conn.call(t, opt); err != nil {
				t.Fatal(err)
			}
		}
		for _, call := range conn.calls {
			key := call.Header.Get("Idempotency-Key")
			if len(key) < 26 || seen[key] { // 128 bits and more
				t.Fatalf("key %q, after %d others", key, len(seen))
			}
			seen[key] = true
		}
	})
	t.Run("the caller's header stays as it is", func(t *testing.T) {
		call, header := &caught{}, http.Header{}
		if err := call.call(t, durable.WithResponseHeader(&header), durable.IdempotencyKey()); err != nil || len(header) != 0 {
			t.Errorf("header %v, error %v", header, err)
		}
	})
}

func TestRetryPolicies(t *testing.T) {
	conn := &caught{}
	if err := conn.call(t); err != nil {
		t.Fatal(err)
	}
	if got := conn.calls[0].Retry; got != (durable.RetryPolicy{}) {
		t.Errorf("the policy of a call is %+v", got)
	}
	// RETRY-05 and RETRY-08.
	want := durable.RetryPolicy{MaxAttempts: 5, Window: 10 * time.Second, FirstDelay: 100 * time.Millisecond, MaxDelay: 20 * time.Second}
	if got := (durable.RetryPolicy{}).WithDefaults(); got != want {
		t.Errorf("the defaults are %+v, want %+v", got, want)
	}
	if err := conn.call(t, durable.WithRetry(want), durable.WithoutRetry()); err != nil || conn.calls[1].Retry.MaxAttempts != 1 {
		t.Errorf("policy %+v, error %v", conn.calls[1].Retry, err)
	}
	for name, policy := range map[string]durable.RetryPolicy{
		"MaxAttempts": {MaxAttempts: -1},
		"Window":      {Window: -1},
		"FirstDelay":  {FirstDelay: -time.Second},
		"MaxDelay":    {MaxDelay: -time.Hour},
	} {
		t.Run("negative "+name, func(t *testing.T) {
			conn := &caught{}
			err := conn.call(t, durable.WithRetry(policy))
			if !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
			_, err = durable.CallClientStream[wrapperspb.StringValue, wrapperspb.StringValue](t.Context(), durable.RefByName(conn, "a", "b"), durable.MethodSpec{}, []durable.CallOption{durable.WithRetry(policy)})
			if !errors.Is(err, durable.ErrInvalidArgument) {
				t.Errorf("a stream: error %v", err)
			}
			if len(conn.calls) > 0 {
				t.Error("the call was made")
			}
		})
	}
}

// TestRetryDelay is RETRY-08: the pauses double from the first to the longest,
// and half of each is random.
func TestRetryDelay(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		policy durable.RetryPolicy
		want   []time.Duration // the longest pause before each retry
	}{
		"default":              {durable.RetryPolicy{}, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 20000 * ms, 20000 * ms}},
		"capped at once":       {durable.RetryPolicy{FirstDelay: time.Minute, MaxDelay: time.Second}, []time.Duration{1000 * ms, 1000 * ms}},
		"no power of two":      {durable.RetryPolicy{FirstDelay: 300 * ms, MaxDelay: 1000 * ms}, []time.Duration{300 * ms, 600 * ms, 1000 * ms}},
		"the longest there is": {durable.RetryPolicy{FirstDelay: math.MaxInt64/2 + 1, MaxDelay: math.MaxInt64}, []time.Duration{math.MaxInt64/2 + 1, math.MaxInt64, math.MaxInt64}},
		"the shortest":         {durable.RetryPolicy{FirstDelay: 1, MaxDelay: 2}, []time.Duration{1, 2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, longest := range c.want {
				shortest := longest - longest/2
				low, high := time.Duration(math.MaxInt64), time.Duration(0)
				for range 500 {
					d := c.policy.Delay(i + 1)
					low, high = min(low, d), max(high, d)
				}
				if low < shortest || high > longest {
					t.Errorf("retry %d: pauses from %v to %v, want them from %v to %v", i+1, low, high, shortest, longest)
				}
				if spread := longest - shortest; spread > 0 && high-low < spread/2 {
					t.Errorf("retry %d: pauses from %v to %v only", i+1, low, high)
				}
			}
			if d := c.policy.Delay(1 << 30); d > c.want[len(c.want)-1] {
				t.Errorf("a late retry comes after %v", d)
			}
		})
	}
}
