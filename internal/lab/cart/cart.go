// Package cart has the object whose tests docs/testing.md shows.
package cart

import (
	"context"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	cartv1 "github.com/durable-go/durable/internal/lab/gen/cart/v1"
	"github.com/durable-go/durable/internal/lab/gen/cart/v1/cartv1durable"
)

// Register registers the object.
func Register(r durable.Registrar) error {
	return cartv1durable.RegisterCart(r, newCart)
}

// A cart keeps the count of each item under its name.
type cart struct {
	limit int64 // of one item
}

func newCart(context.Context, cartv1durable.CartTx) (cartv1durable.CartHandler, error) {
	return &cart{limit: 10}, nil
}

// Add implements [cartv1durable.CartHandler].
func (c *cart) Add(ctx context.Context, tx cartv1durable.CartTx, req *cartv1.AddRequest) (*cartv1.AddResponse, error) {
	count, err := load(ctx, tx.KV(), req.GetItem())
	if err != nil {
		return nil, err
	}
	count += req.GetCount()
	if count > c.limit {
		return nil, connect.NewError(connect.CodeFailedPrecondition, "too many of "+req.GetItem())
	}
	if err := tx.KV().Put(ctx, req.GetItem(), strconv.AppendInt(nil, count, 10)); err != nil {
		return nil, err
	}
	if err := tx.Alarms().Expire().Set(tx.Now().Add(time.Hour)); err != nil {
		return nil, err
	}
	return &cartv1.AddResponse{Count: count}, nil
}

// Count implements [cartv1durable.CartHandler].
func (c *cart) Count(ctx context.Context, view cartv1durable.CartView, req *cartv1.CountRequest) (*cartv1.CountResponse, error) {
	count, err := load(ctx, view.KV(), req.GetItem())
	if err != nil {
		return nil, err
	}
	return &cartv1.CountResponse{Count: count}, nil
}

// ExpireAlarm implements [cartv1durable.CartHandler].
func (c *cart) ExpireAlarm(ctx context.Context, tx cartv1durable.CartTx, _ cartv1durable.CartExpireAlarm) error {
	return tx.DeleteAll(ctx)
}

func load(ctx context.Context, kv durable.KVReader, item string) (int64, error) {
	value, ok, err := kv.Get(ctx, item)
	if err != nil || !ok {
		return 0, err
	}
	return strconv.ParseInt(string(value), 10, 64)
}
