package main

import (
	"context"
	"errors"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
)

// warehouse is one warehouse in memory. Its database is close enough to need no
// fields beside it.
type warehouse struct{}

func newWarehouse(ctx context.Context, tx inventoryv1durable.WarehouseTx, schema durable.Migrations) (inventoryv1durable.WarehouseHandler, error) {
	if err := tx.SQL().Migrate(ctx, schema); err != nil {
		return nil, err
	}
	return warehouse{}, nil
}

// AddItem adds an item. The constraints of the table decide what an item may be.
func (warehouse) AddItem(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.AddItemRequest) (*inventoryv1.AddItemResponse, error) {
	_, err := tx.SQL().Exec(ctx, `INSERT INTO items (sku, name, description, price) VALUES (?, ?, ?, ?)`,
		req.GetSku(), req.GetName(), req.GetDescription(), req.GetPrice())
	if err != nil {
		return nil, refusal(err)
	}
	item, err := itemOf(ctx, tx.SQL(), req.GetSku())
	return &inventoryv1.AddItemResponse{Item: item}, err
}

// UpdateItem changes the fields that are given: the others are nil, which is NULL.
func (warehouse) UpdateItem(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.UpdateItemRequest) (*inventoryv1.UpdateItemResponse, error) {
	_, err := tx.SQL().Exec(ctx, `
		UPDATE items
		SET name = coalesce(?, name), description = coalesce(?, description), price = coalesce(?, price)
		WHERE sku = ?`,
		req.Name, req.Description, req.Price, req.GetSku())
	if err != nil {
		return nil, refusal(err)
	}
	item, err := itemOf(ctx, tx.SQL(), req.GetSku())
	return &inventoryv1.UpdateItemResponse{Item: item}, err
}

// RemoveItem removes an item that no line and no movement refers to.
func (warehouse) RemoveItem(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.RemoveItemRequest) (*inventoryv1.RemoveItemResponse, error) {
	deleted, err := tx.SQL().Exec(ctx, `DELETE FROM items WHERE sku = ?`, req.GetSku())
	switch {
	case violates(err, foreignKey, ""):
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the item was received or reserved before")
	case err != nil:
		return nil, err
	case deleted.Changes() == 0:
		return nil, noItem(req.GetSku())
	}
	return &inventoryv1.RemoveItemResponse{}, nil
}

// GetItem returns an item and its stock.
func (warehouse) GetItem(ctx context.Context, view inventoryv1durable.WarehouseView, req *inventoryv1.GetItemRequest) (*inventoryv1.GetItemResponse, error) {
	item, err := itemOf(ctx, view.SQL(), req.GetSku())
	return &inventoryv1.GetItemResponse{Item: item}, err
}

// itemOf reads an item: a column of the result goes to the field of its name.
func itemOf(ctx context.Context, sql durable.SQL, sku string) (*inventoryv1.Item, error) {
	item, err := durable.One[*inventoryv1.Item](ctx, sql, `
		SELECT sku, name, description, price, on_hand, reserved, available FROM items WHERE sku = ?`, sku)
	if errors.Is(err, durable.ErrNoRow) {
		return nil, noItem(sku)
	}
	return item, err
}

func noItem(sku string) error {
	return connect.Errorf(connect.CodeNotFound, "there is no item %q", sku)
}

// Receive adds a delivery to the stock: a movement, by which a trigger counts.
func (warehouse) Receive(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.ReceiveRequest) (*inventoryv1.ReceiveResponse, error) {
	_, err := tx.SQL().Exec(ctx, `INSERT INTO movements (sku, quantity, delivery, time) VALUES (?, ?, ?, ?)`,
		req.GetSku(), req.GetQuantity(), req.GetDelivery(), tx.Now())
	switch {
	case violates(err, foreignKey, ""):
		return nil, noItem(req.GetSku())
	case violates(err, unique, "movements.sku, movements.delivery"): // it was received before
		before, err := durable.One[int64](ctx, tx.SQL(), `SELECT quantity FROM movements WHERE sku = ? AND delivery = ?`,
			req.GetSku(), req.GetDelivery())
		if err != nil {
			return nil, err
		}
		if before != req.GetQuantity() {
			return nil, connect.Errorf(connect.CodeAlreadyExists, "%d of the item were received with that delivery", before)
		}
	case err != nil:
		return nil, refusal(err)
	}
	item, err := itemOf(ctx, tx.SQL(), req.GetSku())
	return &inventoryv1.ReceiveResponse{Item: item}, err
}
