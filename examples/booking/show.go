package main

import (
	"context"
	"encoding/json"
	"fmt"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

const (
	maxRows        = 26 // A to Z
	maxSeatsPerRow = 100
	maxPrice       = 1_000_000
)

// hallKey is the key of what was opened.
const hallKey = "hall"

// show is one show in memory: what it is about, which never changes once it is
// open. Who has which seat is in tables.
type show struct {
	tables durable.Migrations
	hall   *bookingv1.Hall // nil: the show is not open
}

// newShow writes nothing for a show that is not open. Every name that anybody
// asks for gets here, and one that was only misspelt should leave nothing stored,
// no alarm that goes off every morning least of all.
func newShow(ctx context.Context, tx bookingv1durable.ShowTx, tables durable.Migrations) (bookingv1durable.ShowHandler, error) {
	hall := new(bookingv1.Hall)
	open, err := durable.GetProto(ctx, tx.KV(), hallKey, hall)
	if err != nil || !open {
		return &show{tables: tables}, err
	}
	s := &show{tables: tables, hall: hall}
	return s, s.prepare(ctx, tx)
}

// prepare makes what this version of the program needs. What is there already is
// no write: neither migrations that were applied, nor a schedule that is the same.
func (s *show) prepare(ctx context.Context, tx bookingv1durable.ShowTx) error {
	if err := tx.SQL().Migrate(ctx, s.tables); err != nil {
		return err
	}
	return tx.Alarms().DailyReport().SetSchedule(everyMorning)
}

// Open puts the seats of a hall on sale.
func (s *show) Open(ctx context.Context, tx bookingv1durable.ShowTx, req *bookingv1.OpenRequest) (*bookingv1.OpenResponse, error) {
	switch {
	case req.GetRows() < 1 || req.GetRows() > maxRows:
		return nil, connect.Errorf(connect.CodeInvalidArgument, "there are %d rows, and must be 1 to %d", req.GetRows(), maxRows)
	case req.GetSeatsPerRow() < 1 || req.GetSeatsPerRow() > maxSeatsPerRow:
		return nil, connect.Errorf(connect.CodeInvalidArgument, "there are %d seats in a row, and must be 1 to %d", req.GetSeatsPerRow(), maxSeatsPerRow)
	case req.GetPrice() < 0 || req.GetPrice() > maxPrice:
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the price is %d, and must be from 0 to %d", req.GetPrice(), maxPrice)
	}
	hall := &bookingv1.Hall{Rows: req.GetRows(), SeatsPerRow: req.GetSeatsPerRow(), Price: req.GetPrice(), OpenTime: timestamppb.New(tx.Now())}
	if was := s.hall; was != nil {
		if was.GetRows() != hall.GetRows() || was.GetSeatsPerRow() != hall.GetSeatsPerRow() || was.GetPrice() != hall.GetPrice() {
			return nil, connect.Errorf(connect.CodeAlreadyExists, "the show is open with %d rows of %d seats for %d each", was.GetRows(), was.GetSeatsPerRow(), was.GetPrice())
		}
		return &bookingv1.OpenResponse{Hall: was}, nil
	}
	if err := s.prepare(ctx, tx); err != nil {
		return nil, err
	}
	if err := durable.PutProto(ctx, tx.KV(), hallKey, hall); err != nil {
		return nil, err
	}
	names, err := json.Marshal(seatNames(hall))
	if err != nil {
		return nil, err
	}
	if _, err := tx.SQL().Exec(ctx, `INSERT INTO seats (name) SELECT value FROM json_each(?) ORDER BY key`, string(names)); err != nil {
		return nil, err
	}
	s.hall = hall // once nothing can fail any more
	return &bookingv1.OpenResponse{Hall: hall}, nil
}

func seatNames(hall *bookingv1.Hall) []string {
	var names []string
	for row := range hall.GetRows() {
		for seat := range hall.GetSeatsPerRow() {
			names = append(names, fmt.Sprintf("%c%d", 'A'+row, seat+1))
		}
	}
	return names
}

// open returns an error unless the show is open.
func (s *show) open() error {
	if s.hall == nil {
		return connect.NewError(connect.CodeFailedPrecondition, "the show is not open: call Open first")
	}
	return nil
}

// Seats returns all seats and the sums over them.
func (s *show) Seats(ctx context.Context, view bookingv1durable.ShowView, _ *bookingv1.SeatsRequest) (*bookingv1.SeatsResponse, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	seats, err := durable.All[*bookingv1.Seat](ctx, view.SQL(), `
		SELECT seats.name, CASE WHEN hold IS NULL THEN ? WHEN holds.state = ? THEN ? ELSE ? END AS state
		FROM seats LEFT JOIN holds ON holds.id = hold ORDER BY number`,
		bookingv1.SeatState_SEAT_STATE_FREE,
		bookingv1.HoldState_HOLD_STATE_HELD, bookingv1.SeatState_SEAT_STATE_HELD, bookingv1.SeatState_SEAT_STATE_SOLD)
	if err != nil {
		return nil, err
	}
	res := &bookingv1.SeatsResponse{Seats: seats}
	for _, seat := range seats {
		switch seat.GetState() {
		case bookingv1.SeatState_SEAT_STATE_FREE:
			res.Free++
		case bookingv1.SeatState_SEAT_STATE_HELD:
			res.Held++
		case bookingv1.SeatState_SEAT_STATE_SOLD:
			res.Sold++
		}
	}
	res.Revenue, err = durable.One[int64](ctx, view.SQL(), `SELECT coalesce(sum(amount), 0) FROM orders`)
	return res, err
}
