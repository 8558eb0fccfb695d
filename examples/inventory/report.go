package main

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
)

// Search asks the full-text index. What is found in a name counts ten times as
// much as in a description.
func (warehouse) Search(ctx context.Context, view inventoryv1durable.WarehouseView, req *inventoryv1.SearchRequest) (*inventoryv1.SearchResponse, error) {
	limit, err := atMost(req.GetLimit(), 20, 100)
	if err != nil {
		return nil, err
	}
	results, err := durable.All[*inventoryv1.SearchResult](ctx, view.SQL(), `
		SELECT sku, items.name, snippet(item_search, -1, '[', ']', '…', 12) AS snippet, -bm25(item_search, 10.0, 1.0) AS score
		FROM item_search JOIN items ON items.id = item_search.rowid
		WHERE item_search MATCH ? ORDER BY score DESC, sku LIMIT ?`, req.GetQuery(), limit)
	// The statement itself is sound, so that this is about the query.
	var e *durable.SQLError
	if errors.As(err, &e) && e.Code == "SQLITE_ERROR" {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the query cannot be understood: %s", e.Message)
	}
	return &inventoryv1.SearchResponse{Results: results}, err
}

// StockReport values the stock and tells how it came about, by window functions.
func (warehouse) StockReport(ctx context.Context, view inventoryv1durable.WarehouseView, req *inventoryv1.StockReportRequest) (*inventoryv1.StockReportResponse, error) {
	last, err := atMost(req.GetMovements(), 10, 1000)
	if err != nil {
		return nil, err
	}
	// With nothing in stock the shares are NULL, which leaves the fields unset.
	items, err := durable.All[*inventoryv1.ItemValue](ctx, view.SQL(), `
		WITH worth AS (SELECT sku, name, on_hand, on_hand * price AS value FROM items)
		SELECT sku, name, on_hand, value,
			rank() OVER (ORDER BY value DESC) AS rank,
			value / total(value) OVER () AS share,
			total(value) OVER (ORDER BY value DESC, sku) / total(value) OVER () AS running_share
		FROM worth ORDER BY value DESC, sku`)
	if err != nil {
		return nil, err
	}
	movements, err := durable.All[*inventoryv1.Movement](ctx, view.SQL(), `
		WITH numbered AS (
			SELECT number, sku, quantity, time, delivery, reservation,
				sum(quantity) OVER (PARTITION BY sku ORDER BY number) AS on_hand,
				row_number() OVER (PARTITION BY sku ORDER BY number DESC) AS age
			FROM movements
		)
		SELECT numbered.number, sku, quantity, on_hand, time, delivery, order_id
		FROM numbered LEFT JOIN reservations ON reservations.number = numbered.reservation
		WHERE age <= ? ORDER BY sku, numbered.number`, last)
	if err != nil {
		return nil, err
	}
	return &inventoryv1.StockReportResponse{Items: items, Movements: movements}, nil
}
