package main

import (
	"context"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

// Checkout sells the seats of a hold.
//
// It says nothing of being called twice: the second call for a hold is refused,
// as a client without an idempotency key sees. With one, in the field request_id
// or the header Idempotency-Key, the runtime stores the reply in the commit that
// sells the seats, and answers the second call with it.
func (s *show) Checkout(ctx context.Context, tx bookingv1durable.ShowTx, req *bookingv1.CheckoutRequest) (*bookingv1.CheckoutResponse, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	hold, err := holdOf(ctx, tx.SQL(), req.GetHoldId())
	if err != nil {
		return nil, err
	}
	switch {
	case hold.GetState() == sold:
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the seats of the hold are sold already")
	case hold.GetState() == released:
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the seats of the hold were given back")
	case hold.GetState() == expired, !tx.Now().Before(hold.GetExpireTime().AsTime()): // the alarm may be late
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the hold has expired")
	}
	order := &bookingv1.Order{
		HoldId: hold.GetId(),
		Client: hold.GetClient(),
		Seats:  hold.GetSeats(),
		Amount: int64(len(hold.GetSeats())) * s.hall.GetPrice(),
		Time:   timestamppb.New(tx.Now()),
	}
	if _, err := tx.SQL().Exec(ctx, `UPDATE holds SET state = ? WHERE id = ?`, sold, hold.GetId()); err != nil {
		return nil, err
	}
	order.Number, err = durable.One[int64](ctx, tx.SQL(), `INSERT INTO orders (hold, seats, amount, time) VALUES (?, ?, ?, ?) RETURNING number`,
		order.GetHoldId(), len(order.GetSeats()), order.GetAmount(), order.GetTime())
	if err != nil {
		return nil, err
	}
	return &bookingv1.CheckoutResponse{Order: order}, setExpiry(ctx, tx)
}
