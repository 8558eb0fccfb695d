package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// A client is one caller.
type client struct {
	*rand.Rand
	id, made int
}

// name returns a name that nobody else uses.
func (c *client) name() string {
	c.made++
	return fmt.Sprintf("%d-%d", c.id, c.made)
}

// number returns a number above 0 that nobody else uses.
func (c *client) number() int64 {
	c.made++
	return int64(c.id+1)<<32 | int64(c.made)
}

// An outcome is what a caller knows of a call.
type outcome int

const (
	unknown    outcome = iota // it may have taken effect
	answered                  // it took effect
	notStarted                // it certainly did not take effect
	refused                   // by the handler
	cutOff                    // ERROR_REASON_IDEMPOTENCY_CUT_OFF
	inProgress                // ERROR_REASON_IDEMPOTENCY_IN_PROGRESS
	unexpected                // the server says what it should not say here
)

func outcomeOf(err error) outcome {
	if err == nil {
		return answered
	}
	var coded *connect.Error
	remote := errors.As(err, &coded) && coded.IsRemote()
	var network *net.OpError
	switch info := durableconnect.ErrorInfo(err); {
	case info.GetReason() == durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_CUT_OFF:
		return cutOff
	case info.GetReason() == durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_IN_PROGRESS:
		return inProgress
	case info.GetRetryable():
		return notStarted
	case info.GetRemote() && connect.CodeOf(err) == connect.CodeFailedPrecondition:
		return refused
	case remote:
		return unexpected
	case errors.As(err, &network) && network.Op == "dial":
		return notStarted
	}
	return unknown
}

// callTimeout is how long one attempt may take.
const callTimeout = 10 * time.Second

// once makes a call once.
func (t *torture) once(ctx context.Context, call func(ctx context.Context) error) outcome {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := call(ctx)
	out := outcomeOf(err)
	if out == unexpected {
		t.violated("a call ended with %v", err)
	}
	return out
}

// insist makes a call that has an idempotency key, or only reads, until its
// outcome is known; or until ctx ends, which is a violation.
func (t *torture) insist(ctx context.Context, call func(ctx context.Context) error) outcome {
	for {
		switch out := t.once(ctx, call); out {
		case answered, refused, cutOff, unexpected:
			return out
		}
		t.repeated.Add(1)
		if !pause(ctx, 20*time.Millisecond) {
			t.violated("a call was not answered until the end")
			return unknown
		}
	}
}

var (
	// singly makes a call once, so that its outcome is that of one attempt.
	singly = durable.WithoutRetry()
	// repeatedly makes the client repeat a call by itself, before insist does.
	repeatedly = durable.WithRetry(durable.RetryPolicy{MaxAttempts: 3, FirstDelay: 20 * time.Millisecond})
)

// pause reports whether ctx has not ended after d.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
