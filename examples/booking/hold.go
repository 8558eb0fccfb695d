package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

const (
	holdTime       = 2 * time.Minute
	maxSeatsOfHold = 8
	maxClientChars = 64
)

const (
	held     = bookingv1.HoldState_HOLD_STATE_HELD
	sold     = bookingv1.HoldState_HOLD_STATE_SOLD
	released = bookingv1.HoldState_HOLD_STATE_RELEASED
	expired  = bookingv1.HoldState_HOLD_STATE_EXPIRED
)

// Hold keeps seats for two minutes.
//
// No other call of the show runs meanwhile, so that what is read stays true until
// it is written. Everything is checked before the first write: a handler that
// fails after it wrote is rolled back too, but the object then leaves memory,
// which is too much for a refusal that comes all the time.
func (s *show) Hold(ctx context.Context, tx bookingv1durable.ShowTx, req *bookingv1.HoldRequest) (*bookingv1.HoldResponse, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := checkHold(req); err != nil {
		return nil, err
	}
	names, err := json.Marshal(req.GetSeats())
	if err != nil {
		return nil, err
	}
	if err := free(ctx, tx, string(names)); err != nil {
		return nil, err
	}
	id := rand.Text()
	_, err = tx.SQL().Exec(ctx, `INSERT INTO holds (id, client, state, expire_time) VALUES (?, ?, ?, ?)`,
		id, req.GetClient(), held, tx.Now().Add(holdTime))
	if err != nil {
		return nil, err
	}
	_, err = tx.SQL().Exec(ctx, `UPDATE seats SET hold = ? WHERE name IN (SELECT value FROM json_each(?))`, id, string(names))
	if err != nil {
		return nil, err
	}
	if err := setExpiry(ctx, tx); err != nil {
		return nil, err
	}
	hold, err := holdOf(ctx, tx.SQL(), id)
	return &bookingv1.HoldResponse{Hold: hold}, err
}

// checkHold returns an error for a request that no show would grant.
func checkHold(req *bookingv1.HoldRequest) error {
	seats := req.GetSeats()
	switch n := utf8.RuneCountInString(req.GetClient()); {
	case n == 0 || n > maxClientChars:
		return connect.Errorf(connect.CodeInvalidArgument, "the client has %d characters, and must have 1 to %d", n, maxClientChars)
	case len(seats) == 0:
		return connect.NewError(connect.CodeInvalidArgument, "there are no seats")
	case len(seats) > maxSeatsOfHold:
		return connect.Errorf(connect.CodeInvalidArgument, "there are %d seats, and a hold has at most %d", len(seats), maxSeatsOfHold)
	}
	for i, name := range seats {
		if slices.Contains(seats[:i], name) {
			return connect.Errorf(connect.CodeInvalidArgument, "the seat %.16q is there twice", name)
		}
	}
	return nil
}

// free returns an error unless all seats are, whose names are a list in JSON.
func free(ctx context.Context, tx bookingv1durable.ShowTx, names string) error {
	unknown, err := durable.All[string](ctx, tx.SQL(), `SELECT value FROM json_each(?) WHERE value NOT IN (SELECT name FROM seats) ORDER BY key`, names)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return connect.Errorf(connect.CodeNotFound, "there is no seat %.16q", unknown[0])
	}
	taken, err := durable.All[string](ctx, tx.SQL(), `SELECT name FROM seats WHERE hold IS NOT NULL AND name IN (SELECT value FROM json_each(?)) ORDER BY number`, names)
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return connect.Errorf(connect.CodeFailedPrecondition, "these seats are taken: %s", strings.Join(taken, ", "))
	}
	return nil
}

// Release gives the seats of a hold back before it expires.
func (s *show) Release(ctx context.Context, tx bookingv1durable.ShowTx, req *bookingv1.ReleaseRequest) (*bookingv1.ReleaseResponse, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	hold, err := holdOf(ctx, tx.SQL(), req.GetHoldId())
	if err != nil {
		return nil, err
	}
	switch hold.GetState() {
	case sold:
		return nil, connect.NewError(connect.CodeFailedPrecondition, "the seats are sold")
	case held:
		if _, err := tx.SQL().Exec(ctx, `UPDATE holds SET state = ? WHERE id = ?`, released, hold.GetId()); err != nil {
			return nil, err
		}
		if err := setExpiry(ctx, tx); err != nil {
			return nil, err
		}
		hold.State, hold.Seats = released, nil
	}
	return &bookingv1.ReleaseResponse{Hold: hold}, nil
}

// holdOf reads a hold.
func holdOf(ctx context.Context, sql durable.SQL, id string) (*bookingv1.Hold, error) {
	if id == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, "the hold_id is empty")
	}
	hold, err := durable.One[*bookingv1.Hold](ctx, sql, `SELECT * FROM hold_list WHERE id = ?`, id)
	if errors.Is(err, durable.ErrNoRow) {
		return nil, connect.Errorf(connect.CodeNotFound, "there is no hold %.32q", id)
	}
	return hold, err
}

// setExpiry sets the alarm for the hold that ends first. It comes after every
// change of the holds, and is part of the same commit.
//
// An object has each of its alarms once: setting one replaces what was set. So
// many events of a kind are rows of a table, and the alarm is set for the first of
// them.
func setExpiry(ctx context.Context, tx bookingv1durable.ShowTx) error {
	first, err := durable.One[*time.Time](ctx, tx.SQL(), `SELECT min(expire_time) FROM holds WHERE state = ?`, held)
	if err != nil {
		return err
	}
	if first == nil {
		return tx.Alarms().Expire().Delete()
	}
	return tx.Alarms().Expire().Set(*first)
}

// ExpireAlarm gives back the seats of the holds whose time is over. It never runs
// early, but it may run late, as when the server was down. Until then the seats
// stay taken, which does no harm.
func (s *show) ExpireAlarm(ctx context.Context, tx bookingv1durable.ShowTx, _ bookingv1durable.ShowExpireAlarm) error {
	if _, err := tx.SQL().Exec(ctx, `UPDATE holds SET state = ? WHERE state = ? AND expire_time <= ?`, expired, held, tx.Now()); err != nil {
		return err
	}
	return setExpiry(ctx, tx)
}
