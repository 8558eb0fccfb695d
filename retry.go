package durable

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"
)

// IdempotencyKeyHeader is the request header that holds the idempotency key of a
// call. See [WithIdempotencyKey].
const IdempotencyKeyHeader = "Idempotency-Key"

// WithIdempotencyKey makes a unary call take effect once, however often it is
// made with that key: the object stores its outcome in the commit of what it
// wrote, and answers a later call with the same key and an equal request from
// there, with the response header Durable-Replayed. Keys are of one object. They
// are forgotten after [Limits].ReplyRetention, 24 hours by default.
//
// An error that the handler returned is an outcome too, unless its code is
// Unavailable, Canceled or DeadlineExceeded, which ask to call again, and nothing
// was committed. What ends a call otherwise, as a panic or a reset, is none.
//
// A key has 1 to 255 bytes of visible ASCII; any other one, another one in the
// annotated field of the request, and a key for a stream are refused as
// InvalidArgument with the reason IDEMPOTENCY_KEY_INVALID, and so is the key of
// another request, with IDEMPOTENCY_MISMATCH. Methods that only read ignore it.
func WithIdempotencyKey(key string) CallOption {
	return callOption(func(c *Call) { c.setIdempotencyKey(key) })
}

// IdempotencyKey gives a call a random idempotency key of its own, so that it can
// be repeated when it is not known whether it arrived. See [WithIdempotencyKey]
// and [WithRetry]. The same option in two calls gives them two keys.
func IdempotencyKey() CallOption {
	return callOption(func(c *Call) { c.setIdempotencyKey(rand.Text()) })
}

// setIdempotencyKey gives the call a key in place of one that it may have.
func (c *Call) setIdempotencyKey(key string) {
	if c.Header == nil {
		c.Header = http.Header{}
	}
	c.Header.Set(IdempotencyKeyHeader, key)
}

// HasIdempotencyKey reports whether the call has an idempotency key: in its header,
// or in the annotated field of req, its request.
func (c *Call) HasIdempotencyKey(req proto.Message) bool {
	if c.Header.Get(IdempotencyKeyHeader) != "" {
		return true
	}
	var m Method
	msg := req.ProtoReflect()
	m.readFields(msg.Descriptor())
	return m.IdempotencyField != nil && msg.Get(m.IdempotencyField).String() != ""
}

// A RetryPolicy says how often and when a call over the network is made again:
// unary ones, and streams of responses of methods that only read, until their
// first message. Calls are repeated only where that is safe:
//
//   - The server said that the call had no effect and that the cause will go
//     away, or the connection could not be made.
//   - It is not known whether the call arrived, as when the connection broke or
//     something in between answered Unavailable; and the method only reads, is
//     IDEMPOTENT in its schema, or the call has an idempotency key.
//
// They are never repeated after an error of the handler, after an overload, nor
// when the context has ended. Zero fields mean the defaults; negative ones are
// refused by every call.
type RetryPolicy struct {
	// MaxAttempts is how often the call is made at most, the first included.
	// Default 5.
	MaxAttempts int
	// Window is how long after the first attempt the last one may begin. Default
	// 10 s.
	Window time.Duration
	// FirstDelay is the pause before the second attempt. It doubles from then on,
	// and half of each pause is random. Default 100 ms.
	FirstDelay time.Duration
	// MaxDelay is the longest pause. Default 20 s.
	MaxDelay time.Duration
}

// WithRetry sets how a call is repeated. Default: the zero [RetryPolicy]. Calls
// within a process are not repeated.
func WithRetry(policy RetryPolicy) CallOption {
	return callOption(func(c *Call) { c.Retry = policy })
}

// WithoutRetry makes a call once.
func WithoutRetry() CallOption { return WithRetry(RetryPolicy{MaxAttempts: 1}) }

// WithDefaults returns the policy with the defaults in place of zeros.
func (p RetryPolicy) WithDefaults() RetryPolicy {
	setDefault(&p.MaxAttempts, 5)
	setDefault(&p.Window, 10*time.Second)
	setDefault(&p.FirstDelay, 100*time.Millisecond)
	setDefault(&p.MaxDelay, 20*time.Second)
	return p
}

// Delay returns the pause before a retry, counted from 1: half of it is fixed and
// half random, up to FirstDelay doubled with each retry, or MaxDelay.
func (p RetryPolicy) Delay(retry int) time.Duration {
	p = p.WithDefaults()
	longest := min(p.FirstDelay, p.MaxDelay)
	for ; retry > 1 && longest < p.MaxDelay; retry-- {
		if longest > p.MaxDelay/2 { // twice that may be no duration
			longest = p.MaxDelay
			break
		}
		longest *= 2
	}
	return longest - mathrand.N(longest/2+1)
}

// check returns an error that wraps [ErrInvalidArgument].
func (p RetryPolicy) check() error {
	if p == (RetryPolicy{}) { // as in most calls
		return nil
	}
	for _, f := range []struct {
		name     string
		value    any
		negative bool
	}{
		{"MaxAttempts", p.MaxAttempts, p.MaxAttempts < 0},
		{"Window", p.Window, p.Window < 0},
		{"FirstDelay", p.FirstDelay, p.FirstDelay < 0},
		{"MaxDelay", p.MaxDelay, p.MaxDelay < 0},
	} {
		if f.negative {
			return fmt.Errorf("%w: %s of the retry policy is %v, and must not be negative", ErrInvalidArgument, f.name, f.value)
		}
	}
	return nil
}
