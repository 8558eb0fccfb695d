package lab

import (
	"context"
	"errors"

	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A counter counts its calls in a field that no lock guards, so that the race
// detector sees two turns at once.
type counter struct{ calls int64 }

func load(ctx context.Context, kv durable.KVReader) (int64, error) {
	value := new(wrapperspb.Int64Value)
	_, err := durable.GetProto(ctx, kv, "value", value)
	return value.GetValue(), err
}

func add(ctx context.Context, kv durable.KV, delta int64) (int64, error) {
	value, err := load(ctx, kv)
	if err != nil {
		return 0, err
	}
	value += delta
	return value, durable.PutProto(ctx, kv, "value", wrapperspb.Int64(value))
}

// Increment implements [labv1durable.CounterHandler].
func (c *counter) Increment(ctx context.Context, tx labv1durable.CounterTx, req *labv1.IncrementRequest) (*labv1.IncrementResponse, error) {
	c.calls++
	value, err := add(ctx, tx.KV(), req.GetDelta())
	if err != nil {
		return nil, err
	}
	return &labv1.IncrementResponse{Value: value, Calls: c.calls}, nil
}

// SlowIncrement implements [labv1durable.CounterHandler].
func (c *counter) SlowIncrement(ctx context.Context, tx labv1durable.CounterTx, req *labv1.SlowIncrementRequest) (*labv1.SlowIncrementResponse, error) {
	c.calls++
	value, err := load(ctx, tx.KV())
	if err != nil {
		return nil, err
	}
	err = tx.Await(ctx, func(ctx context.Context) error { return sleep(ctx, req.GetSleepMs()) })
	if err == nil && req.GetReread() {
		value, err = load(ctx, tx.KV())
	}
	if err != nil {
		return nil, err
	}
	value += req.GetDelta()
	if err := durable.PutProto(ctx, tx.KV(), "value", wrapperspb.Int64(value)); err != nil {
		return nil, err
	}
	return &labv1.SlowIncrementResponse{Value: value}, nil
}

// SavepointIncrement implements [labv1durable.CounterHandler].
func (c *counter) SavepointIncrement(ctx context.Context, tx labv1durable.CounterTx, req *labv1.SavepointIncrementRequest) (*labv1.SavepointIncrementResponse, error) {
	c.calls++
	err := tx.Savepoint(func() error {
		if _, err := add(ctx, tx.KV(), req.GetDelta()); err != nil {
			return err
		}
		if req.GetError() != "" {
			return errors.New(req.GetError())
		}
		return nil
	})
	if err != nil && !req.GetCaught() {
		return nil, err
	}
	value, err := load(ctx, tx.KV())
	if err != nil {
		return nil, err
	}
	return &labv1.SavepointIncrementResponse{Value: value}, nil
}

// Get implements [labv1durable.CounterHandler].
func (c *counter) Get(ctx context.Context, view labv1durable.CounterView, _ *labv1.GetRequest) (*labv1.GetResponse, error) {
	value, err := load(ctx, view.KV())
	if err != nil {
		return nil, err
	}
	return &labv1.GetResponse{Value: value}, nil
}
