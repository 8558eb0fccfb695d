package main

import (
	"context"

	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
)

// counter is one counter in memory. What it stores is enough, so it has no
// fields.
type counter struct{}

func newCounter(context.Context, counterv1durable.CounterTx) (counterv1durable.CounterHandler, error) {
	return counter{}, nil
}

// Add adds the delta. The new value is durable before the reply leaves.
func (counter) Add(ctx context.Context, tx counterv1durable.CounterTx, req *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	value := new(wrapperspb.Int64Value)
	if _, err := durable.GetProto(ctx, tx.KV(), "value", value); err != nil {
		return nil, err
	}
	value.Value += req.GetDelta()
	if err := durable.PutProto(ctx, tx.KV(), "value", value); err != nil {
		return nil, err
	}
	return &counterv1.AddResponse{Value: value.Value}, nil
}

// Get only reads: it gets a view and runs beside other reads.
func (counter) Get(ctx context.Context, view counterv1durable.CounterView, _ *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	value := new(wrapperspb.Int64Value)
	if _, err := durable.GetProto(ctx, view.KV(), "value", value); err != nil {
		return nil, err
	}
	return &counterv1.GetResponse{Value: value.Value}, nil
}
