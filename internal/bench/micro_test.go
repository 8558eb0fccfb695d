package main

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

// unconfirmed is a counter whose replies do not wait for the sync.
type unconfirmed struct{}

func (unconfirmed) Add(ctx context.Context, tx counterv1durable.CounterTx, req *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	kv := tx.KV().Unconfirmed()
	value, err := load(ctx, kv)
	if err != nil {
		return nil, err
	}
	value += req.GetDelta()
	if err := kv.Put(ctx, "value", encode(value)); err != nil {
		return nil, err
	}
	return &counterv1.AddResponse{Value: value}, nil
}

func (unconfirmed) Get(ctx context.Context, view counterv1durable.CounterView, _ *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	value, err := load(ctx, view.KV())
	return &counterv1.GetResponse{Value: value}, err
}

// inProcess returns the stub of one object of a server whose disk is memory.
func inProcess(b *testing.B) counterv1durable.CounterStub {
	b.Helper()
	engine, err := pebblekv.Open("bench", pebblekv.Options{FS: vfs.NewMem(), ReserveBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	s, err := server.New(b.Context(), engine)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			b.Error(err)
		}
		if err := engine.Close(); err != nil {
			b.Error(err)
		}
	})
	err = counterv1durable.RegisterCounter(s, func(context.Context, counterv1durable.CounterTx) (counterv1durable.CounterHandler, error) {
		return unconfirmed{}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return counterv1durable.NewCounterClient(s.Conn()).GetByName("a")
}

// BenchmarkInProcessRead is a read-only call through the stub, in process.
func BenchmarkInProcessRead(b *testing.B) {
	counter := inProcess(b)
	ctx := b.Context()
	if _, err := counter.Add(ctx, &counterv1.AddRequest{Delta: 1}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := counter.Get(ctx, &counterv1.GetRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInProcessIncrement is an increment through the stub, in process,
// that does not wait for the sync.
func BenchmarkInProcessIncrement(b *testing.B) {
	counter := inProcess(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := counter.Add(ctx, &counterv1.AddRequest{Delta: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
