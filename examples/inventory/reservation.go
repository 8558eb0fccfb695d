package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
)

const (
	held     = inventoryv1.ReservationState_RESERVATION_STATE_HELD
	shipped  = inventoryv1.ReservationState_RESERVATION_STATE_SHIPPED
	released = inventoryv1.ReservationState_RESERVATION_STATE_RELEASED
	expired  = inventoryv1.ReservationState_RESERVATION_STATE_EXPIRED
)

// Reserve sets stock aside: all lines, or nothing.
func (warehouse) Reserve(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.ReserveRequest) (*inventoryv1.ReserveResponse, error) {
	if len(req.GetLines()) == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, "there are no lines")
	}
	if end := req.GetExpireTime(); end != nil && !end.AsTime().After(tx.Now()) {
		return nil, connect.NewError(connect.CodeInvalidArgument, "the reservation would end before it begins")
	}
	made, err := reservationOf(ctx, tx.SQL(), req.GetOrderId())
	if err == nil {
		if !sameLines(made.GetLines(), req.GetLines()) {
			return nil, connect.NewError(connect.CodeAlreadyExists, "the order has a reservation with other lines")
		}
		return &inventoryv1.ReserveResponse{Reservation: made}, nil
	}
	if connect.CodeOf(err) != connect.CodeNotFound {
		return nil, err
	}

	// What has expired is there to be reserved again.
	if _, err := tx.SQL().Exec(ctx, `UPDATE reservations SET state = ? WHERE state = 1 AND expire_time <= ?`, expired, tx.Now()); err != nil {
		return nil, err
	}
	// When a line is refused, what the lines before it wrote is undone.
	err = tx.Savepoint(func() error { return insertReservation(ctx, tx, req) })
	if violates(err, check, "enough_stock") {
		// The handler fails, and yet what expired stays given back.
		return nil, durable.Keep(notEnoughStock(ctx, tx.SQL(), req))
	}
	if err != nil {
		return nil, refusal(err)
	}
	made, err = reservationOf(ctx, tx.SQL(), req.GetOrderId())
	return &inventoryv1.ReserveResponse{Reservation: made}, err
}

// insertReservation writes a reservation and its lines, until one is refused.
func insertReservation(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.ReserveRequest) error {
	number, err := durable.One[int64](ctx, tx.SQL(), `
		INSERT INTO reservations (order_id, state, create_time, expire_time) VALUES (?, ?, ?, ?) RETURNING number`,
		req.GetOrderId(), held, tx.Now(), req.GetExpireTime())
	if err != nil {
		return err
	}
	for _, line := range req.GetLines() {
		_, err := tx.SQL().Exec(ctx, `INSERT INTO lines (reservation, sku, quantity) VALUES (?, ?, ?)`, number, line.GetSku(), line.GetQuantity())
		if violates(err, foreignKey, "") {
			return noItem(line.GetSku())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// notEnoughStock returns an error that says what is missing for the lines. The
// request is given to SQLite as JSON, in which integers of 64 bits are text.
func notEnoughStock(ctx context.Context, sql durable.SQL, req *inventoryv1.ReserveRequest) error {
	asJSON, err := protojson.Marshal(req)
	if err != nil {
		return err
	}
	shortages, err := durable.All[*inventoryv1.Shortage](ctx, sql, `
		SELECT sku, CAST(line.value ->> 'quantity' AS INTEGER) AS requested, available
		FROM json_each(?, '$.lines') AS line JOIN items ON sku = line.value ->> 'sku'
		WHERE requested > available ORDER BY sku`, string(asJSON))
	if err != nil {
		return err
	}
	detail, err := connectproto.NewErrorDetail(&inventoryv1.NotEnoughStock{Shortages: shortages})
	if err != nil {
		return err
	}
	texts := make([]string, len(shortages))
	for i, s := range shortages {
		texts[i] = strconv.FormatInt(s.GetRequested(), 10) + " of " + s.GetSku() + ", and " + strconv.FormatInt(s.GetAvailable(), 10) + " are available"
	}
	return connect.NewError(connect.CodeFailedPrecondition, "not enough stock: "+strings.Join(texts, "; ")).WithDetail(detail)
}

// sameLines reports whether lines, in any order, are those that were made.
func sameLines(made, lines []*inventoryv1.Line) bool {
	lines = slices.SortedFunc(slices.Values(lines), func(a, b *inventoryv1.Line) int { return strings.Compare(a.GetSku(), b.GetSku()) })
	return slices.EqualFunc(made, lines, func(a, b *inventoryv1.Line) bool { return proto.Equal(a, b) })
}

// Release gives the stock of a reservation back.
func (warehouse) Release(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.ReleaseRequest) (*inventoryv1.ReleaseResponse, error) {
	r, err := reservationOf(ctx, tx.SQL(), req.GetOrderId())
	if err != nil {
		return nil, err
	}
	switch r.GetState() {
	case shipped:
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the order was shipped")
	case held:
		if _, err := tx.SQL().Exec(ctx, `UPDATE reservations SET state = ? WHERE number = ?`, released, r.GetNumber()); err != nil {
			return nil, err
		}
		r.State = released
	}
	return &inventoryv1.ReleaseResponse{Reservation: r}, nil
}

// Ship takes the stock of a reservation out: first it is no longer reserved, then
// it is no longer there.
func (warehouse) Ship(ctx context.Context, tx inventoryv1durable.WarehouseTx, req *inventoryv1.ShipRequest) (*inventoryv1.ShipResponse, error) {
	r, err := reservationOf(ctx, tx.SQL(), req.GetOrderId())
	if err != nil {
		return nil, err
	}
	switch end := r.GetExpireTime(); {
	case r.GetState() == shipped:
		return &inventoryv1.ShipResponse{Reservation: r}, nil
	case r.GetState() == released:
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the reservation was released")
	case r.GetState() == expired, end != nil && !end.AsTime().After(tx.Now()):
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the reservation has expired")
	}
	if _, err := tx.SQL().Exec(ctx, `UPDATE reservations SET state = ? WHERE number = ?`, shipped, r.GetNumber()); err != nil {
		return nil, err
	}
	_, err = tx.SQL().Exec(ctx, `
		INSERT INTO movements (sku, quantity, reservation, time)
		SELECT sku, -quantity, reservation, ? FROM lines WHERE reservation = ? ORDER BY sku`, tx.Now(), r.GetNumber())
	if err != nil {
		return nil, err
	}
	r.State = shipped
	return &inventoryv1.ShipResponse{Reservation: r}, nil
}

// reservationOf reads the reservation of an order: times from text, the state
// from its number, and the lines from JSON.
func reservationOf(ctx context.Context, sql durable.SQL, orderID string) (*inventoryv1.Reservation, error) {
	r, err := durable.One[*inventoryv1.Reservation](ctx, sql, `SELECT * FROM reservation_list WHERE order_id = ?`, orderID)
	if errors.Is(err, durable.ErrNoRow) {
		return nil, connect.Errorf(connect.CodeNotFound, "there is no reservation for the order %q", orderID)
	}
	return r, err
}

// ListReservations returns a page, and the number that the next one begins after.
func (warehouse) ListReservations(ctx context.Context, view inventoryv1durable.WarehouseView, req *inventoryv1.ListReservationsRequest) (*inventoryv1.ListReservationsResponse, error) {
	size, err := atMost(req.GetPageSize(), 100, 100)
	if err != nil {
		return nil, err
	}
	var after int64
	if token := req.GetPageToken(); token != "" {
		if after, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, "the page token is not one that was returned")
		}
	}
	// One more than the page, to see whether there is another.
	page, err := durable.All[*inventoryv1.Reservation](ctx, view.SQL(), `
		SELECT * FROM reservation_list WHERE number > ?1 AND (?2 = 0 OR state = ?2) ORDER BY number LIMIT ?3 + 1`,
		after, req.GetState(), size)
	if err != nil {
		return nil, err
	}
	res := &inventoryv1.ListReservationsResponse{Reservations: page}
	if len(page) > size {
		res.Reservations = page[:size]
		res.NextPageToken = strconv.FormatInt(page[size-1].GetNumber(), 10)
	}
	return res, nil
}

// atMost returns the size that a caller gets who asks for n: usual for 0, and no
// more than most.
func atMost(n int32, usual, most int) (int, error) {
	switch {
	case n < 0:
		return 0, connect.Errorf(connect.CodeInvalidArgument, "%d is less than nothing", n)
	case n == 0:
		return usual, nil
	}
	return min(int(n), most), nil
}
