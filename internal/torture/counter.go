package main

import (
	"context"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

type counter struct{}

var counterSchema = durable.Migrations{{
	Name: "rows",
	SQL:  `CREATE TABLE rows (number INTEGER PRIMARY KEY, idempotency_key TEXT NOT NULL, delta INTEGER NOT NULL, total INTEGER NOT NULL)`,
}}

func newCounter(ctx context.Context, tx torturev1durable.CounterTx) (torturev1durable.CounterHandler, error) {
	return counter{}, tx.SQL().Migrate(ctx, counterSchema)
}

// Add implements [torturev1durable.CounterHandler].
func (counter) Add(ctx context.Context, tx torturev1durable.CounterTx, req *torturev1.AddRequest) (*torturev1.AddResponse, error) {
	total, err := durable.One[int64](ctx, tx.SQL(), `
		INSERT INTO rows (idempotency_key, delta, total)
		VALUES (?1, ?2, ?2 + coalesce((SELECT total FROM rows ORDER BY number DESC LIMIT 1), 0))
		RETURNING total`,
		req.GetIdempotencyKey(), req.GetDelta())
	return &torturev1.AddResponse{Total: total}, err
}

// Rows implements [torturev1durable.CounterHandler].
func (counter) Rows(ctx context.Context, view torturev1durable.CounterView, _ *torturev1.RowsRequest) (*torturev1.RowsResponse, error) {
	rows, err := durable.All[*torturev1.Row](ctx, view.SQL(), `SELECT idempotency_key, delta, total FROM rows ORDER BY number`)
	return &torturev1.RowsResponse{Rows: rows}, err
}
