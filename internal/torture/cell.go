package main

import (
	"context"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// cell keeps its number in a field too, and answers from there: memory must not
// run ahead of what is stored.
type cell struct{ state *torturev1.ReadResponse }

func newCell(ctx context.Context, tx torturev1durable.CellTx) (torturev1durable.CellHandler, error) {
	c := &cell{state: &torturev1.ReadResponse{}}
	_, err := durable.GetProto(ctx, tx.KV(), stateKey, c.state)
	return c, err
}

const stateKey = "state"

// Read implements [torturev1durable.CellHandler].
func (c *cell) Read(context.Context, torturev1durable.CellView, *torturev1.ReadRequest) (*torturev1.ReadResponse, error) {
	return &torturev1.ReadResponse{Value: c.state.GetValue()}, nil
}

// Write implements [torturev1durable.CellHandler].
func (c *cell) Write(ctx context.Context, tx torturev1durable.CellTx, req *torturev1.WriteRequest) (*torturev1.WriteResponse, error) {
	return &torturev1.WriteResponse{}, c.put(ctx, tx, req.GetValue())
}

// Swap implements [torturev1durable.CellHandler].
func (c *cell) Swap(ctx context.Context, tx torturev1durable.CellTx, req *torturev1.SwapRequest) (*torturev1.SwapResponse, error) {
	found := c.state.GetValue()
	if found == req.GetExpected() {
		if err := c.put(ctx, tx, req.GetValue()); err != nil {
			return nil, err
		}
	}
	return &torturev1.SwapResponse{Found: found}, nil
}

func (c *cell) put(ctx context.Context, tx torturev1durable.CellTx, value int64) error {
	c.state.Value = value
	return durable.PutProto(ctx, tx.KV(), stateKey, c.state)
}
