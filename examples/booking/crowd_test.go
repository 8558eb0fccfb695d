package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

const (
	customers  = 200
	crowdRows  = 5
	crowdSeats = 10 // in a row
	crowdPrice = 2000
)

// TestCrowd lets 200 clients fight for 50 seats, until all are sold: no seat is
// sold twice, and the orders that clients have, the seats, the revenue and the
// reports agree.
func TestCrowd(t *testing.T) {
	for _, c := range []struct {
		name    string
		conn    func(*durabletest.Server) durable.Conn
		crashes int // of each kind
	}{
		{name: "in process", conn: (*durabletest.Server).Conn},
		{name: "over HTTP", conn: overHTTP},
		{name: "over HTTP, with crashes", conn: overHTTP, crashes: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, register)
				show := bookingv1durable.NewShowClient(c.conn(s)).GetByName("hamlet")
				if _, err := show.Open(t.Context(), &bookingv1.OpenRequest{Rows: crowdRows, SeatsPerRow: crowdSeats, Price: crowdPrice}); err != nil {
					t.Fatal(err)
				}
				// A call that hangs is one that this ends.
				ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
				defer cancel()
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				crowd := &crowd{show: show, sold: map[string]int64{}, orders: map[int64]bool{}}
				var wg sync.WaitGroup
				for i := range uint64(customers) {
					wg.Go(func() {
						if err := crowd.customer(ctx, fmt.Sprintf("client-%d", i), rand.New(rand.NewPCG(seed, i))); err != nil {
							t.Errorf("client %d: %v", i, err)
						}
					})
				}
				for range c.crashes {
					for _, point := range []durabletest.CrashPoint{durabletest.BeforeSync, durabletest.AfterSync, durabletest.BeforeReply} {
						time.Sleep(3 * time.Second)
						<-s.CrashAt(point)
					}
				}
				wg.Wait()
				crowd.check(t, s)
			})
		})
	}
}

func overHTTP(s *durabletest.Server) durable.Conn {
	return durableconnect.New(s.HTTPClient(), s.URL())
}

// A crowd remembers what its customers were told.
type crowd struct {
	show bookingv1durable.ShowStub

	mu     sync.Mutex
	sold   map[string]int64 // seat → number of the order
	orders map[int64]bool
	paid   int64
}

// customer buys seats until the show is sold out.
func (c *crowd) customer(ctx context.Context, name string, rng *rand.Rand) error {
	for ctx.Err() == nil {
		seats, err := c.show.Seats(ctx, &bookingv1.SeatsRequest{})
		if err != nil && connect.CodeOf(err) != connect.CodeUnavailable {
			return err
		}
		if err == nil && int(seats.GetSold()) == len(seats.GetSeats()) {
			return nil
		}
		var wanted []string
		for _, i := range rng.Perm(len(seats.GetSeats())) {
			if seat := seats.GetSeats()[i]; seat.GetState() == bookingv1.SeatState_SEAT_STATE_FREE && len(wanted) < 1+rng.IntN(3) {
				wanted = append(wanted, seat.GetName())
			}
		}
		if len(wanted) == 0 { // until some are given back
			time.Sleep(time.Duration(60+rng.IntN(60)) * time.Second)
			continue
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond) // what was seen is old by now
		res, err := c.show.Hold(ctx, &bookingv1.HoldRequest{Seats: wanted, Client: name}, durable.IdempotencyKey())
		if refused(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := c.decide(ctx, res.GetHold(), rng); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// decide pays for a hold, gives it back or walks away.
func (c *crowd) decide(ctx context.Context, hold *bookingv1.Hold, rng *rand.Rand) error {
	time.Sleep(time.Duration(rng.IntN(140)) * time.Second) // sometimes more than there is
	switch rng.IntN(6) {
	case 0:
		return nil
	case 1:
		_, err := c.show.Release(ctx, &bookingv1.ReleaseRequest{HoldId: hold.GetId()})
		if connect.CodeOf(err) == connect.CodeUnavailable { // without a key it is not made again
			return nil
		}
		return err
	}
	// A double click: the same call twice at once, and then a third time.
	req := &bookingv1.CheckoutRequest{HoldId: hold.GetId(), RequestId: hold.GetId()}
	var orders [3]*bookingv1.Order
	var errs [3]error
	call := func(i int) {
		res, err := c.show.Checkout(ctx, req)
		orders[i], errs[i] = res.GetOrder(), err
	}
	var clicks sync.WaitGroup
	clicks.Go(func() { call(0) })
	clicks.Go(func() { call(1) })
	clicks.Wait()
	for call(2); connect.CodeOf(errs[2]) == connect.CodeUnavailable; call(2) {
		time.Sleep(time.Second)
	}
	for i := range orders {
		if connect.CodeOf(errs[i]) != connect.CodeOf(errs[2]) && connect.CodeOf(errs[i]) != connect.CodeUnavailable {
			return fmt.Errorf("three checkouts with one key ended with %v", errs)
		}
		if errs[i] == nil && !proto.Equal(orders[i], orders[2]) {
			return fmt.Errorf("three checkouts with one key made %v", orders)
		}
	}
	if refused(errs[2]) {
		return nil // too late
	}
	if errs[2] != nil {
		return errs[2]
	}
	if !slices.Equal(orders[2].GetSeats(), hold.GetSeats()) {
		return fmt.Errorf("the seats %v were held, and %v are sold", hold.GetSeats(), orders[2].GetSeats())
	}
	return c.bought(orders[2])
}

// refused reports whether the show itself said no.
func refused(err error) bool {
	return connect.CodeOf(err) == connect.CodeFailedPrecondition && durableconnect.ErrorInfo(err).GetRemote()
}

func (c *crowd) bought(order *bookingv1.Order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.orders[order.GetNumber()] {
		return fmt.Errorf("the order %d was made twice", order.GetNumber())
	}
	c.orders[order.GetNumber()] = true
	c.paid += order.GetAmount()
	var errs []error
	for _, seat := range order.GetSeats() {
		if other, twice := c.sold[seat]; twice {
			errs = append(errs, fmt.Errorf("the seat %s is sold twice, by the orders %d and %d", seat, other, order.GetNumber()))
		}
		c.sold[seat] = order.GetNumber()
	}
	return errors.Join(errs...)
}

// check compares what the customers were told with what the show says.
func (c *crowd) check(t *testing.T, s *durabletest.Server) {
	const seats = crowdRows * crowdSeats
	if len(c.sold) != seats || c.paid != seats*crowdPrice {
		t.Errorf("the clients have %d seats and paid %d, want %d and %d", len(c.sold), c.paid, seats, seats*crowdPrice)
	}
	wantSums(t, c.show, "in the end", fmt.Sprint(0, 0, seats, seats*crowdPrice))
	time.Sleep(time.Second)
	if ran, err := s.RunAlarm(c.show.Ref, bookingv1durable.ShowDailyReportAlarmName); !ran || err != nil {
		t.Fatalf("the report: %v, %v", ran, err)
	}
	res, err := c.show.Reports(t.Context(), &bookingv1.ReportsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var orders, revenue int64
	for _, report := range res.GetReports() {
		orders += int64(report.GetOrders())
		revenue += report.GetRevenue()
	}
	if orders != int64(len(c.orders)) || revenue != c.paid {
		t.Errorf("the reports tell of %d orders for %d, want %d for %d", orders, revenue, len(c.orders), c.paid)
	}
}
