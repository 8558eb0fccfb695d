package main

import (
	"context"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

const (
	bucketSize = 10          // tokens
	tokenEvery = time.Second // until the bucket is full
)

// fullKey is where the time is stored at which the bucket is full. It says
// everything about a bucket that fills evenly.
const fullKey = "full"

// limiter is the bucket of one user.
type limiter struct{}

func newLimiter(context.Context, chatv1durable.LimiterTx) (chatv1durable.LimiterHandler, error) {
	return limiter{}, nil
}

// Take takes tokens if there are enough.
func (limiter) Take(ctx context.Context, tx chatv1durable.LimiterTx, req *chatv1.TakeRequest) (*chatv1.TakeResponse, error) {
	tokens := max(req.GetTokens(), 1)
	if req.GetTokens() < 0 || tokens > bucketSize {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "%d tokens are wanted, and a bucket holds %d", req.GetTokens(), bucketSize)
	}
	full, err := fullAt(ctx, tx)
	if err != nil {
		return nil, err
	}
	full = full.Add(time.Duration(tokens) * tokenEvery)
	if wait := full.Sub(tx.Now()) - bucketSize*tokenEvery; wait > 0 {
		return &chatv1.TakeResponse{RetryAfter: durationpb.New(wait)}, nil
	}
	// The answer does not wait until this is on disk: when the power fails, the
	// user has some tokens more.
	if err := durable.PutProto(ctx, tx.KV().Unconfirmed(), fullKey, timestamppb.New(full)); err != nil {
		return nil, err
	}
	if _, set, err := tx.Alarms().Forget().Get(); err != nil || set {
		return &chatv1.TakeResponse{Allowed: true}, err
	}
	return &chatv1.TakeResponse{Allowed: true}, tx.Alarms().Forget().Set(tx.Now().Add(time.Minute))
}

// ForgetAlarm removes a bucket that is full, and all that there is of it.
func (limiter) ForgetAlarm(ctx context.Context, tx chatv1durable.LimiterTx, _ chatv1durable.LimiterForgetAlarm) error {
	full, err := fullAt(ctx, tx)
	if err != nil {
		return err
	}
	if full.After(tx.Now()) {
		return tx.Alarms().Forget().Set(full)
	}
	return tx.DeleteAll(ctx)
}

// fullAt returns when the bucket will be full; now when it is.
func fullAt(ctx context.Context, tx chatv1durable.LimiterTx) (time.Time, error) {
	stored := &timestamppb.Timestamp{}
	if _, err := durable.GetProto(ctx, tx.KV(), fullKey, stored); err != nil {
		return time.Time{}, err
	}
	if full := stored.AsTime(); full.After(tx.Now()) {
		return full, nil
	}
	return tx.Now(), nil
}
