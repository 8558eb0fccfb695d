package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

// openShow opens a show of two rows of five seats.
func openShow(t *testing.T, conn durable.Conn) bookingv1durable.ShowStub {
	t.Helper()
	show := bookingv1durable.NewShowClient(conn).GetByName("hamlet")
	if _, err := show.Open(t.Context(), &bookingv1.OpenRequest{Rows: 2, SeatsPerRow: 5, Price: 1500}); err != nil {
		t.Fatal(err)
	}
	return show
}

func hold(t *testing.T, show bookingv1durable.ShowStub, seats ...string) *bookingv1.Hold {
	t.Helper()
	res, err := show.Hold(t.Context(), &bookingv1.HoldRequest{Seats: seats, Client: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetHold()
}

func checkout(t *testing.T, show bookingv1durable.ShowStub, hold *bookingv1.Hold) *bookingv1.Order {
	t.Helper()
	res, err := show.Checkout(t.Context(), &bookingv1.CheckoutRequest{HoldId: hold.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetOrder()
}

// sums returns what Seats says without the seats, as "free held sold revenue".
func sums(t *testing.T, show bookingv1durable.ShowStub) string {
	t.Helper()
	res, err := show.Seats(t.Context(), &bookingv1.SeatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(res.GetFree(), res.GetHeld(), res.GetSold(), res.GetRevenue())
}

func wantSums(t *testing.T, show bookingv1durable.ShowStub, when, want string) {
	t.Helper()
	if got := sums(t, show); got != want {
		t.Errorf("%s: free, held, sold and revenue are %s, want %s", when, got, want)
	}
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	show := openShow(t, s.Conn())
	for range 2 {
		if _, err := show.Open(ctx, &bookingv1.OpenRequest{Rows: 2, SeatsPerRow: 5, Price: 1500}); err != nil {
			t.Errorf("opening it again: %v", err)
		}
		if _, err := show.Open(ctx, &bookingv1.OpenRequest{Rows: 2, SeatsPerRow: 6, Price: 1500}); connect.CodeOf(err) != connect.CodeAlreadyExists {
			t.Errorf("opening it with another hall: %v, want already_exists", err)
		}
		s.Evict(show.Ref)
	}
	res, err := show.Seats(ctx, &bookingv1.SeatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, seat := range res.GetSeats() {
		names = append(names, seat.GetName())
	}
	if diff := cmp.Diff(strings.Fields("A1 A2 A3 A4 A5 B1 B2 B3 B4 B5"), names); diff != "" {
		t.Errorf("seats (-want +got):\n%s", diff)
	}
	for _, req := range []*bookingv1.OpenRequest{
		{Rows: 0, SeatsPerRow: 1},
		{Rows: 27, SeatsPerRow: 1},
		{Rows: 1, SeatsPerRow: -1},
		{Rows: 1, SeatsPerRow: 101},
		{Rows: 1, SeatsPerRow: 1, Price: -1},
		{Rows: 1, SeatsPerRow: 1, Price: maxPrice + 1},
	} {
		_, err := bookingv1durable.NewShowClient(s.Conn()).GetByName("macbeth").Open(ctx, req)
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("opening with %v: %v, want invalid_argument", req, err)
		}
	}
}

// TestNotOpen asks for a show that nobody opened: that stores nothing, not even an
// alarm. LIFE-11.
func TestNotOpen(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	openShow(t, s.Conn())
	show := bookingv1durable.NewShowClient(s.Conn()).GetByName("halmet")
	for name, call := range map[string]func() error{
		"Hold": func() error {
			_, err := show.Hold(ctx, &bookingv1.HoldRequest{Seats: []string{"A1"}, Client: "ann"})
			return err
		},
		"Release": func() error {
			_, err := show.Release(ctx, &bookingv1.ReleaseRequest{HoldId: "x"})
			return err
		},
		"Checkout": func() error {
			_, err := show.Checkout(ctx, &bookingv1.CheckoutRequest{HoldId: "x"})
			return err
		},
		"Seats": func() error {
			_, err := show.Seats(ctx, &bookingv1.SeatsRequest{})
			return err
		},
		"Reports": func() error {
			_, err := show.Reports(ctx, &bookingv1.ReportsRequest{})
			return err
		},
	} {
		if err := call(); connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("%s of a show that is not open: %v, want failed_precondition", name, err)
		}
	}
	if n := len(s.ListIDs(bookingv1durable.ShowType)); n != 1 {
		t.Errorf("%d shows are stored, want the one that is open", n)
	}
}

func TestHoldRefused(t *testing.T) {
	show := openShow(t, durabletest.New(t, register).Conn())
	taken := hold(t, show, "A2", "A1")
	if diff := cmp.Diff([]string{"A1", "A2"}, taken.GetSeats()); diff != "" {
		t.Errorf("seats of the hold (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		name   string
		seats  string
		client string
		want   connect.Code
	}{
		{"a taken seat", "A1", "bob", connect.CodeFailedPrecondition},
		{"a taken seat among free ones", "B1 B2 A1", "bob", connect.CodeFailedPrecondition},
		{"a seat of one's own", "A1", "ann", connect.CodeFailedPrecondition},
		{"an unknown seat", "Z9", "bob", connect.CodeNotFound},
		{"an unknown seat among free ones", "B1 Z9", "bob", connect.CodeNotFound},
		{"a name in small letters", "b1", "bob", connect.CodeNotFound},
		{"no seat", "", "bob", connect.CodeInvalidArgument},
		{"too many seats", "A3 A4 A5 B1 B2 B3 B4 B5 B6", "bob", connect.CodeInvalidArgument},
		{"a seat twice", "B1 B2 B1", "bob", connect.CodeInvalidArgument},
		{"no client", "B1", "", connect.CodeInvalidArgument},
		{"a long name", "B1", strings.Repeat("é", 65), connect.CodeInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := show.Hold(t.Context(), &bookingv1.HoldRequest{Seats: strings.Fields(c.seats), Client: c.client})
			if connect.CodeOf(err) != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
			wantSums(t, show, "after the refusal", "8 2 0 0")
		})
	}
}

func TestRelease(t *testing.T) {
	ctx := t.Context()
	show := openShow(t, durabletest.New(t, register).Conn())
	h := hold(t, show, "A1", "A2")
	for range 2 { // the second time there is nothing left to do
		res, err := show.Release(ctx, &bookingv1.ReleaseRequest{HoldId: h.GetId()})
		if err != nil || res.GetHold().GetState() != released || len(res.GetHold().GetSeats()) > 0 {
			t.Fatalf("release: %v, %v", res, err)
		}
		wantSums(t, show, "after the release", "10 0 0 0")
	}
	if _, err := show.Checkout(ctx, &bookingv1.CheckoutRequest{HoldId: h.GetId()}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("checkout after the release: %v, want failed_precondition", err)
	}
	h = hold(t, show, "A1")
	checkout(t, show, h)
	if _, err := show.Release(ctx, &bookingv1.ReleaseRequest{HoldId: h.GetId()}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("release after the checkout: %v, want failed_precondition", err)
	}
	for id, want := range map[string]connect.Code{"x": connect.CodeNotFound, "": connect.CodeInvalidArgument} {
		if _, err := show.Release(ctx, &bookingv1.ReleaseRequest{HoldId: id}); connect.CodeOf(err) != want {
			t.Errorf("release of %q: %v, want %v", id, err, want)
		}
		if _, err := show.Checkout(ctx, &bookingv1.CheckoutRequest{HoldId: id}); connect.CodeOf(err) != want {
			t.Errorf("checkout of %q: %v, want %v", id, err, want)
		}
	}
}

// TestExpiry: each hold ends after two minutes, by one alarm that is set for the
// first of them, also when nobody calls and the object has left memory. ALM-12,
// ALM-16, ALM-42.
func TestExpiry(t *testing.T) {
	for name, between := range map[string]func(*durabletest.Server){
		"in memory": func(*durabletest.Server) {},
		"evicted":   func(s *durabletest.Server) { s.EvictAll() },
		"restarted": (*durabletest.Server).Restart,
		"killed":    (*durabletest.Server).Crash,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, register)
				show := openShow(t, s.Conn())
				first := hold(t, show, "A1", "A2")
				time.Sleep(30 * time.Second)
				second := hold(t, show, "B1")
				third := hold(t, show, "B2")
				checkout(t, show, second)
				between(s)

				if end := first.GetExpireTime().AsTime(); time.Until(end) > 90*time.Second || time.Until(end) < 89*time.Second {
					t.Errorf("the first hold ends in %v, want 90s", time.Until(end))
				}
				time.Sleep(time.Until(first.GetExpireTime().AsTime()) - time.Second)
				wantSums(t, show, "a second before the first hold ends", "6 3 1 1500")
				time.Sleep(2 * time.Second)
				wantSums(t, show, "a second after the first hold ended", "8 1 1 1500")
				between(s)
				_, err := show.Checkout(t.Context(), &bookingv1.CheckoutRequest{HoldId: first.GetId()})
				if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "expired") {
					t.Errorf("checkout of the first hold: %v, want failed_precondition: it has expired", err)
				}
				checkout(t, show, hold(t, show, "A1")) // which is free again
				checkout(t, show, third)               // which is in time
				time.Sleep(time.Hour)
				wantSums(t, show, "an hour later", "7 0 3 4500")
				err = durabletest.RunIn(s, show.Ref, func(_ context.Context, _ any, tx durable.Tx) error {
					if at, ok, err := (bookingv1durable.ShowTx{Tx: tx}).Alarms().Expire().Get(); ok || err != nil {
						t.Errorf("with no hold left, the alarm is set for %v, %v", at, err)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestExpiryInTurn only looks on while three holds end, one after the other: the
// handler of the alarm sets it for the next one. ALM-12, ALM-21.
func TestExpiryInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		show := openShow(t, durabletest.New(t, register).Conn())
		var ends []time.Time
		for _, seat := range []string{"A1", "A2", "A3"} {
			ends = append(ends, hold(t, show, seat).GetExpireTime().AsTime())
			time.Sleep(10 * time.Second)
		}
		for i, end := range ends {
			time.Sleep(time.Until(end) - time.Second)
			wantSums(t, show, "a second before the end of a hold", fmt.Sprint(7+i, 3-i, 0, 0))
			time.Sleep(2 * time.Second)
			wantSums(t, show, "a second after it", fmt.Sprint(8+i, 2-i, 0, 0))
		}
	})
}

// TestLateAlarm keeps the alarm waiting: a hold that is over is not sold even
// before the alarm has run.
func TestLateAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, register)
		stub := openShow(t, s.Conn())
		h := hold(t, stub, "A1")
		type result struct {
			res *bookingv1.CheckoutResponse
			err error
		}
		checkedOut := make(chan result, 1)
		err := durabletest.RunIn(s, stub.Ref, func(ctx context.Context, handler *show, tx durable.Tx) error {
			time.Sleep(time.Until(h.GetExpireTime().AsTime()) - time.Second) // in the turn
			go func() {
				res, err := stub.Checkout(t.Context(), &bookingv1.CheckoutRequest{HoldId: h.GetId()})
				checkedOut <- result{res, err}
			}()
			time.Sleep(2 * time.Second)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := <-checkedOut; connect.CodeOf(r.err) != connect.CodeFailedPrecondition {
			t.Errorf("checkout: %v, %v, want failed_precondition", r.res, r.err)
		}
		synctest.Wait()
		wantSums(t, stub, "after the alarm", "10 0 0 0")
	})
}

// TestCheckout takes the power at every point of a checkout. Made again with the
// same key it has sold the seats once, whatever became of the first call.
func TestCheckout(t *testing.T) {
	const inField, inHeader, noKey = "in the field", "in the header", "none"
	for _, point := range []durabletest.CrashPoint{durabletest.BeforeSync, durabletest.AfterSync, durabletest.BeforeReply} {
		for _, key := range []string{inField, inHeader, noKey} {
			t.Run(fmt.Sprintf("%v, key %s", point, key), func(t *testing.T) {
				ctx := t.Context()
				s := durabletest.New(t, register)
				show := openShow(t, s.Conn())
				req := &bookingv1.CheckoutRequest{HoldId: hold(t, show, "A1", "A2").GetId()}
				var header http.Header
				opts := []durable.CallOption{durable.WithResponseHeader(&header)}
				switch key {
				case inField:
					req.RequestId = "order-1"
				case inHeader:
					opts = append(opts, durable.WithIdempotencyKey("order-1"))
				}
				over := s.CrashAt(point)
				if res, err := show.Checkout(ctx, req, opts...); connect.CodeOf(err) != connect.CodeUnavailable {
					t.Fatalf("the first call: %v, %v, want unavailable", res, err)
				}
				<-over
				lost := point == durabletest.BeforeSync

				first, err := show.Checkout(ctx, req, opts...)
				if key == noKey && !lost {
					if connect.CodeOf(err) != connect.CodeFailedPrecondition {
						t.Errorf("the second call: %v, want failed_precondition", err)
					}
					wantSums(t, show, "in the end", "8 0 2 3000")
					return
				}
				if err != nil {
					t.Fatalf("the second call: %v", err)
				}
				if replayed := header.Get("Durable-Replayed") == "true"; replayed == lost {
					t.Errorf("the headers of the second call are %v, and the first one was lost: %v", header, lost)
				}
				want := &bookingv1.Order{Number: 1, HoldId: req.GetHoldId(), Client: "ann", Seats: []string{"A1", "A2"}, Amount: 3000}
				if diff := cmp.Diff(want, first.GetOrder(), protocmp.Transform(), protocmp.IgnoreFields(want, "time")); diff != "" {
					t.Errorf("order (-want +got):\n%s", diff)
				}
				if key != noKey {
					again, err := show.Checkout(ctx, req, opts...)
					if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" || err != nil {
						t.Errorf("the third call: %v (-second +third):\n%s", err, diff)
					}
				}
				wantSums(t, show, "in the end", "8 0 2 3000")
			})
		}
	}
	t.Run("the client calls again by itself", func(t *testing.T) {
		s := durabletest.New(t, register)
		show := openShow(t, durableconnect.New(s.HTTPClient(), s.URL()))
		h := hold(t, show, "A1")
		s.CrashAt(durabletest.BeforeReply)
		res, err := show.Checkout(t.Context(), &bookingv1.CheckoutRequest{HoldId: h.GetId()}, durable.IdempotencyKey())
		if err != nil || res.GetOrder().GetNumber() != 1 {
			t.Errorf("%v, %v", res, err)
		}
		wantSums(t, show, "in the end", "9 0 1 1500")
	})
	t.Run("the key of another checkout", func(t *testing.T) {
		show := openShow(t, durabletest.New(t, register).Conn())
		req := &bookingv1.CheckoutRequest{HoldId: hold(t, show, "A1").GetId(), RequestId: "order-1"}
		if _, err := show.Checkout(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		req.HoldId = hold(t, show, "A2").GetId()
		if _, err := show.Checkout(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v, want invalid_argument", err)
		}
		wantSums(t, show, "in the end", "8 1 1 1500")
	})
}
