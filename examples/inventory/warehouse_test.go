package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
)

// newTest returns a server and a stub of an empty warehouse.
func newTest(t *testing.T) (*durabletest.Server, inventoryv1durable.WarehouseStub) {
	s := durabletest.New(t, register)
	return s, inventoryv1durable.NewWarehouseClient(s.Conn()).GetByName("north")
}

func TestItems(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	added, err := w.AddItem(ctx, &inventoryv1.AddItemRequest{Sku: "lamp", Name: "Lamp", Description: "Gives light", Price: 1999})
	if err != nil {
		t.Fatal(err)
	}
	want := &inventoryv1.Item{Sku: "lamp", Name: "Lamp", Description: "Gives light", Price: 1999}
	same(t, "added", want, added.GetItem())

	updated, err := w.UpdateItem(ctx, &inventoryv1.UpdateItemRequest{Sku: "lamp", Description: new(""), Price: new(int64(2500))})
	if err != nil {
		t.Fatal(err)
	}
	want.Description, want.Price = "", 2500
	same(t, "updated", want, updated.GetItem())

	if _, err := w.AddItem(ctx, &inventoryv1.AddItemRequest{Sku: "chair", Name: "Chair"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RemoveItem(ctx, &inventoryv1.RemoveItemRequest{Sku: "chair"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.GetItem(ctx, &inventoryv1.GetItemRequest{Sku: "chair"})
	refused(t, err, connect.CodeNotFound, `there is no item "chair"`)
	same(t, "read", want, item(ctx, t, w, "lamp"))
}

// TestConstraints checks what callers are told when the tables refuse what they
// ask for, and that nothing of it is there afterwards.
func TestConstraints(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	stock(ctx, t, w, "lamp", 10, 5)
	add := func(req *inventoryv1.AddItemRequest) error {
		_, err := w.AddItem(ctx, req)
		return err
	}
	update := func(req *inventoryv1.UpdateItemRequest) error {
		_, err := w.UpdateItem(ctx, req)
		return err
	}
	receive := func(sku string, quantity int64, delivery string) error {
		_, err := w.Receive(ctx, &inventoryv1.ReceiveRequest{Sku: sku, Quantity: quantity, Delivery: delivery})
		return err
	}
	reserve := func(order string, lines ...*inventoryv1.Line) error {
		_, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: lines})
		return err
	}
	if err := reserve("first", line("lamp", 2)); err != nil {
		t.Fatal(err)
	}
	if err := receive("lamp", 3, "note"); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("é", 65)
	for _, c := range []struct {
		name string
		err  error
		code connect.Code
		text string
	}{
		{"SKU twice", add(&inventoryv1.AddItemRequest{Sku: "lamp", Name: "Another"}), connect.CodeAlreadyExists, "there is an item with that SKU"},
		{"no SKU", add(&inventoryv1.AddItemRequest{Name: "x"}), connect.CodeInvalidArgument, "the SKU must"},
		{"long SKU", add(&inventoryv1.AddItemRequest{Sku: long, Name: "x"}), connect.CodeInvalidArgument, "the SKU must"},
		{"no name", add(&inventoryv1.AddItemRequest{Sku: "x"}), connect.CodeInvalidArgument, "the name must"},
		{"long description", add(&inventoryv1.AddItemRequest{Sku: "x", Name: "x", Description: strings.Repeat("x", 10_001)}), connect.CodeInvalidArgument, "the description must"},
		{"negative price", add(&inventoryv1.AddItemRequest{Sku: "x", Name: "x", Price: -1}), connect.CodeInvalidArgument, "the price must"},
		{"price update", update(&inventoryv1.UpdateItemRequest{Sku: "lamp", Price: new(int64(math.MaxInt64))}), connect.CodeInvalidArgument, "the price must"},
		{"name update", update(&inventoryv1.UpdateItemRequest{Sku: "lamp", Name: new("")}), connect.CodeInvalidArgument, "the name must"},
		{"update of nothing", update(&inventoryv1.UpdateItemRequest{Sku: "x"}), connect.CodeNotFound, `there is no item "x"`},

		{"receive nothing", receive("lamp", 0, ""), connect.CodeInvalidArgument, "the quantity must"},
		{"receive less", receive("lamp", math.MinInt64, ""), connect.CodeInvalidArgument, "the quantity must"},
		{"receive what is not known", receive("x", 1, ""), connect.CodeNotFound, `there is no item "x"`},
		{"receive too much", receive("lamp", 100_000_000, ""), connect.CodeOutOfRange, "the warehouse holds at most"},
		{"delivery of a long name", receive("lamp", 1, long), connect.CodeInvalidArgument, "the name of the delivery"},
		{"delivery again", receive("lamp", 3, "note"), 0, ""},
		{"delivery of another quantity", receive("lamp", 4, "note"), connect.CodeAlreadyExists, "3 of the item were received with that delivery"},

		{"no lines", reserve("x"), connect.CodeInvalidArgument, "there are no lines"},
		{"no order", reserve("", line("lamp", 1)), connect.CodeInvalidArgument, "the id of the order"},
		{"a line twice", reserve("x", line("lamp", 1), line("lamp", 1)), connect.CodeInvalidArgument, "two lines are for the same item"},
		{"a line of nothing", reserve("x", line("lamp", 0)), connect.CodeInvalidArgument, "the quantity must"},
		{"a line of too much", reserve("x", line("lamp", math.MaxInt64)), connect.CodeInvalidArgument, "the quantity must"},
		{"a line of what is not known", reserve("x", line("lamp", 1), line("x", 1)), connect.CodeNotFound, `there is no item "x"`},
		{"an order again", reserve("first", line("lamp", 2)), 0, ""},
		{"an order of other lines", reserve("first", line("lamp", 1)), connect.CodeAlreadyExists, "the order has a reservation with other lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.code == 0 {
				if c.err != nil {
					t.Error(c.err)
				}
				return
			}
			refused(t, c.err, c.code, c.text)
		})
	}
	_, err := w.RemoveItem(ctx, &inventoryv1.RemoveItemRequest{Sku: "lamp"})
	refused(t, err, connect.CodeFailedPrecondition, "received or reserved before")
	_, err = w.RemoveItem(ctx, &inventoryv1.RemoveItemRequest{Sku: "x"})
	refused(t, err, connect.CodeNotFound, `there is no item "x"`)
	_, err = w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: "x", Lines: []*inventoryv1.Line{line("lamp", 1)}, ExpireTime: timestamppb.New(time.Now().Add(-time.Hour))})
	refused(t, err, connect.CodeInvalidArgument, "would end before it begins")

	same(t, "lamp", &inventoryv1.Item{Sku: "lamp", Name: "lamp", Price: 5, OnHand: 13, Reserved: 2, Available: 11}, item(ctx, t, w, "lamp"))
	if all := list(ctx, t, w, 0, 0); len(all) != 1 {
		t.Errorf("reservations: %v", all)
	}
}

func TestReserveAllOrNothing(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	stock(ctx, t, w, "lamp", 10, 1)
	stock(ctx, t, w, "chair", 3, 1)
	stock(ctx, t, w, "desk", 0, 1)

	_, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: "o1", Lines: []*inventoryv1.Line{line("lamp", 4), line("desk", 1), line("chair", 5)}})
	refused(t, err, connect.CodeFailedPrecondition, "not enough stock: 5 of chair, and 3 are available; 1 of desk, and 0 are available")
	same(t, "missing", &inventoryv1.NotEnoughStock{Shortages: []*inventoryv1.Shortage{
		{Sku: "chair", Requested: 5, Available: 3},
		{Sku: "desk", Requested: 1, Available: 0},
	}}, notEnough(t, err))
	for _, sku := range []string{"lamp", "chair", "desk"} {
		if i := item(ctx, t, w, sku); i.GetReserved() != 0 {
			t.Errorf("%d of %s are reserved", i.GetReserved(), sku)
		}
	}
	if all := list(ctx, t, w, 0, 0); len(all) != 0 {
		t.Errorf("reservations: %v", all)
	}

	// The order may ask again, for less.
	made, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: "o1", Lines: []*inventoryv1.Line{line("lamp", 4), line("chair", 3)}})
	if err != nil {
		t.Fatal(err)
	}
	want := &inventoryv1.Reservation{Number: 1, OrderId: "o1", State: held, Lines: []*inventoryv1.Line{line("chair", 3), line("lamp", 4)}}
	same(t, "reservation", want, made.GetReservation(), protocmp.IgnoreFields(want, "create_time"))
	if age := time.Since(made.GetReservation().GetCreateTime().AsTime()); age < 0 || age > time.Minute {
		t.Errorf("it was made %v ago", age)
	}
	if i := item(ctx, t, w, "chair"); i.GetReserved() != 3 || i.GetAvailable() != 0 || i.GetOnHand() != 3 {
		t.Errorf("chairs: %v", i)
	}
}

func TestShipAndRelease(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	stock(ctx, t, w, "lamp", 10, 1)
	for order, n := range map[string]int64{"a": 4, "b": 5} {
		if _, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line("lamp", n)}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time changes nothing
		res, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "a"})
		if err != nil || res.GetReservation().GetState() != shipped {
			t.Fatalf("%v, %v", res, err)
		}
		freed, err := w.Release(ctx, &inventoryv1.ReleaseRequest{OrderId: "b"})
		if err != nil || freed.GetReservation().GetState() != released {
			t.Fatalf("%v, %v", freed, err)
		}
		same(t, "lamp", &inventoryv1.Item{Sku: "lamp", Name: "lamp", Price: 1, OnHand: 6, Available: 6}, item(ctx, t, w, "lamp"))
	}
	_, err := w.Release(ctx, &inventoryv1.ReleaseRequest{OrderId: "a"})
	refused(t, err, connect.CodeFailedPrecondition, "the order was shipped")
	_, err = w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "b"})
	refused(t, err, connect.CodeFailedPrecondition, "the reservation was released")
	_, err = w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "c"})
	refused(t, err, connect.CodeNotFound, `there is no reservation for the order "c"`)
	_, err = w.Release(ctx, &inventoryv1.ReleaseRequest{OrderId: "c"})
	refused(t, err, connect.CodeNotFound, `there is no reservation for the order "c"`)
}

func TestListReservations(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	stock(ctx, t, w, "lamp", 1000, 1)
	const orders = 25
	for i := range orders {
		order := fmt.Sprintf("o%d", i)
		if _, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line("lamp", 1)}}); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if _, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: order}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, size := range []int32{0, 1, 5, 24, 25, 26, math.MaxInt32} {
		for i, r := range list(ctx, t, w, 0, size) {
			want := held
			if i%3 == 0 {
				want = shipped
			}
			if r.GetNumber() != int64(i+1) || r.GetOrderId() != fmt.Sprintf("o%d", i) || r.GetState() != want {
				t.Errorf("pages of %d: reservation %d is %v", size, i, r)
			}
		}
		if n := len(list(ctx, t, w, 0, size)); n != orders {
			t.Errorf("pages of %d: %d reservations", size, n)
		}
		if n := len(list(ctx, t, w, shipped, size)); n != 9 {
			t.Errorf("pages of %d: %d were shipped", size, n)
		}
	}
	_, err := w.ListReservations(ctx, &inventoryv1.ListReservationsRequest{PageSize: -1})
	refused(t, err, connect.CodeInvalidArgument, "less than nothing")
	_, err = w.ListReservations(ctx, &inventoryv1.ListReservationsRequest{PageToken: "1; DROP TABLE items"})
	refused(t, err, connect.CodeInvalidArgument, "the page token")
}

// stock adds an item and receives some of it.
func stock(ctx context.Context, t *testing.T, w inventoryv1durable.WarehouseStub, sku string, quantity, price int64) {
	t.Helper()
	if _, err := w.AddItem(ctx, &inventoryv1.AddItemRequest{Sku: sku, Name: sku, Price: price}); err != nil {
		t.Fatal(err)
	}
	if quantity == 0 {
		return
	}
	if _, err := w.Receive(ctx, &inventoryv1.ReceiveRequest{Sku: sku, Quantity: quantity}); err != nil {
		t.Fatal(err)
	}
}

func item(ctx context.Context, t *testing.T, w inventoryv1durable.WarehouseStub, sku string) *inventoryv1.Item {
	t.Helper()
	res, err := w.GetItem(ctx, &inventoryv1.GetItemRequest{Sku: sku})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetItem()
}

// list returns all pages.
func list(ctx context.Context, t *testing.T, w inventoryv1durable.WarehouseStub, state inventoryv1.ReservationState, size int32) []*inventoryv1.Reservation {
	t.Helper()
	var all []*inventoryv1.Reservation
	req := &inventoryv1.ListReservationsRequest{State: state, PageSize: size}
	for {
		res, err := w.ListReservations(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(res.GetReservations()); size > 0 && n > int(size) || n == 0 && req.GetPageToken() != "" {
			t.Fatalf("%d reservations on a page of %d", n, size)
		}
		all = append(all, res.GetReservations()...)
		if len(all) > 100_000 {
			t.Fatal("the pages do not end")
		}
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			return all
		}
	}
}

func line(sku string, quantity int64) *inventoryv1.Line {
	return &inventoryv1.Line{Sku: sku, Quantity: quantity}
}

func same(t *testing.T, what string, want, got proto.Message, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(opts, protocmp.Transform())...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// notEnough returns the detail of an error that says what is missing.
func notEnough(t *testing.T, err error) *inventoryv1.NotEnoughStock {
	t.Helper()
	var e *connect.Error
	if errors.As(err, &e) {
		for _, d := range e.Details() {
			msg, err := connectproto.UnmarshalErrorDetail(d)
			if err != nil {
				t.Fatal(err)
			}
			if missing, ok := msg.(*inventoryv1.NotEnoughStock); ok {
				return missing
			}
		}
	}
	t.Errorf("%v says nothing of what is missing", err)
	return nil
}

func refused(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want %v: %s", err, code, text)
	}
	var e *durable.SQLError
	if errors.As(err, &e) || err != nil && strings.Contains(err.Error(), "SQLITE") {
		t.Errorf("%v: that is SQLite's, not ours", err)
	}
}
