// Command client calls a running inventory server over the network, by plain
// generated Connect code that knows nothing of durable objects, and prints what it
// does. It exits with code 1 at the first answer that is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1connect"
)

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "address of the server")
	warehouse := flag.String("warehouse", fmt.Sprintf("go-%d", time.Now().UnixNano()), "a warehouse that is not in use")
	flag.Parse()
	transport := connecthttp.NewTransport(http.DefaultClient, *url, connecthttp.WithHTTPGet())
	c := &caller{inventoryv1connect.NewWarehouseServiceClient(connect.NewClient(transport)), *warehouse, os.Stdout}
	if err := c.run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "client: %v\n", err)
		os.Exit(1)
	}
}

// A caller calls one warehouse.
type caller struct {
	client    inventoryv1connect.WarehouseServiceClient
	warehouse string
	out       io.Writer
}

func (c *caller) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		c.items, c.deliveries, c.reservations, c.crowd, c.search, c.report, c.pages,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) items(ctx context.Context) error {
	for _, req := range []*inventoryv1.AddItemRequest{
		{Sku: "drill", Name: "Cordless drill", Description: "With two batteries", Price: 8999},
		{Sku: "bits", Name: "Wood bits", Description: "A set of ten for every drill", Price: 1250},
	} {
		req.Warehouse = c.warehouse
		res, err := c.client.AddItem(ctx, req)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.out, "added %s: %s, %d cents\n", res.GetItem().GetSku(), res.GetItem().GetName(), res.GetItem().GetPrice())
	}
	_, err := c.client.AddItem(ctx, &inventoryv1.AddItemRequest{Warehouse: c.warehouse, Sku: "drill", Name: "Another"})
	return c.refused("adding drill again", err, connect.CodeAlreadyExists)
}

func (c *caller) deliveries(ctx context.Context) error {
	for sku, want := range map[string]int64{"drill": 10, "bits": 4} {
		req := &inventoryv1.ReceiveRequest{Warehouse: c.warehouse, Sku: sku, Quantity: want, Delivery: "monday"}
		for range 2 { // as one does who did not get the answer: it is received once
			res, err := c.client.Receive(ctx, req)
			if err != nil {
				return err
			}
			if got := res.GetItem().GetOnHand(); got != want {
				return fmt.Errorf("%d of %s are on hand, want %d", got, sku, want)
			}
		}
	}
	fmt.Fprintln(c.out, "received 10 drill and 4 bits")
	_, err := c.client.Receive(ctx, &inventoryv1.ReceiveRequest{Warehouse: c.warehouse, Sku: "saw", Quantity: 1})
	return c.refused("receiving a saw", err, connect.CodeNotFound)
}

func (c *caller) reservations(ctx context.Context) error {
	lines := func(drills, bits int64) []*inventoryv1.Line {
		return []*inventoryv1.Line{{Sku: "drill", Quantity: drills}, {Sku: "bits", Quantity: bits}}
	}
	made, err := c.client.Reserve(ctx, &inventoryv1.ReserveRequest{Warehouse: c.warehouse, OrderId: "first", Lines: lines(3, 2)})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "reserved %s\n", text(made.GetReservation()))

	_, err = c.client.Reserve(ctx, &inventoryv1.ReserveRequest{Warehouse: c.warehouse, OrderId: "second", Lines: lines(1, 3)})
	if err := c.refused("reserving too much", err, connect.CodeFailedPrecondition); err != nil {
		return err
	}
	missing, err := shortages(err)
	if err != nil {
		return err
	}
	for _, s := range missing {
		fmt.Fprintf(c.out, "  %d of %s, and %d are available\n", s.GetRequested(), s.GetSku(), s.GetAvailable())
	}
	left, err := c.client.GetItem(ctx, &inventoryv1.GetItemRequest{Warehouse: c.warehouse, Sku: "drill"})
	if err != nil {
		return err
	}
	if i := left.GetItem(); i.GetOnHand() != 10 || i.GetReserved() != 3 || i.GetAvailable() != 7 {
		return fmt.Errorf("the drills are %v: part of what was refused was reserved", i)
	}

	shipped, err := c.client.Ship(ctx, &inventoryv1.ShipRequest{Warehouse: c.warehouse, OrderId: "first"})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "shipped %s\n", text(shipped.GetReservation()))
	_, err = c.client.Release(ctx, &inventoryv1.ReleaseRequest{Warehouse: c.warehouse, OrderId: "first"})
	return c.refused("releasing it", err, connect.CodeFailedPrecondition)
}

// shortages returns what the details of an error say is missing.
func shortages(err error) ([]*inventoryv1.Shortage, error) {
	var e *connect.Error
	if errors.As(err, &e) {
		for _, d := range e.Details() {
			msg, err := connectproto.UnmarshalErrorDetail(d)
			if err != nil {
				continue // of a type that this program does not know
			}
			if missing, ok := msg.(*inventoryv1.NotEnoughStock); ok {
				return missing.GetShortages(), nil
			}
		}
	}
	return nil, fmt.Errorf("%w: it does not say what is missing", err)
}

// crowd has more orders at once than there is stock for.
func (c *caller) crowd(ctx context.Context) error {
	var made, short atomic.Int64
	failed := make(chan error, 20)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := c.client.Reserve(ctx, &inventoryv1.ReserveRequest{
				Warehouse: c.warehouse, OrderId: fmt.Sprintf("crowd-%d", i), Lines: []*inventoryv1.Line{{Sku: "drill", Quantity: 1}},
			})
			switch {
			case err == nil:
				made.Add(1)
			case connect.CodeOf(err) == connect.CodeFailedPrecondition:
				short.Add(1)
			default:
				failed <- err
			}
		})
	}
	wg.Wait()
	close(failed)
	if err := <-failed; err != nil {
		return err
	}
	fmt.Fprintf(c.out, "of 20 orders at once, %d reserved the last drills\n", made.Load())
	if made.Load() != 7 || short.Load() != 13 {
		return errors.New("there were 7 left")
	}
	return nil
}

func (c *caller) search(ctx context.Context) error {
	res, err := c.client.Search(ctx, &inventoryv1.SearchRequest{Warehouse: c.warehouse, Query: "drilling"})
	if err != nil {
		return err
	}
	for _, r := range res.GetResults() {
		fmt.Fprintf(c.out, "found %s: %s\n", r.GetSku(), r.GetSnippet())
	}
	if len(res.GetResults()) == 0 || res.GetResults()[0].GetSku() != "drill" {
		return errors.New("the drill should be found first")
	}
	_, err = c.client.Search(ctx, &inventoryv1.SearchRequest{Warehouse: c.warehouse, Query: `"`})
	return c.refused("searching a single quote", err, connect.CodeInvalidArgument)
}

func (c *caller) report(ctx context.Context) error {
	res, err := c.client.StockReport(ctx, &inventoryv1.StockReportRequest{Warehouse: c.warehouse})
	if err != nil {
		return err
	}
	for _, i := range res.GetItems() {
		fmt.Fprintf(c.out, "%d. %s: %d on hand, %d cents, %.2f%%\n", i.GetRank(), i.GetSku(), i.GetOnHand(), i.GetValue(), 100*i.GetShare())
	}
	for _, m := range res.GetMovements() {
		fmt.Fprintf(c.out, "  %s %+d: %d on hand\n", m.GetSku(), m.GetQuantity(), m.GetOnHand())
	}
	if len(res.GetItems()) != 2 || res.GetItems()[0].GetValue() != 7*8999 || len(res.GetMovements()) != 4 {
		return errors.New("the report should have 7 drills first, and 4 movements")
	}
	return nil
}

func (c *caller) pages(ctx context.Context) error {
	req := &inventoryv1.ListReservationsRequest{Warehouse: c.warehouse, PageSize: 3}
	pages, count := 0, 0
	for {
		res, err := c.client.ListReservations(ctx, req)
		if err != nil {
			return err
		}
		pages, count = pages+1, count+len(res.GetReservations())
		if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	fmt.Fprintf(c.out, "%d reservations on %d pages\n", count, pages)
	if count != 8 || pages != 3 {
		return errors.New("there should be 8 on 3")
	}
	return nil
}

// refused returns an error unless err has that code.
func (c *caller) refused(what string, err error, code connect.Code) error {
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != code {
		return fmt.Errorf("%s: %w, want %v", what, err, code)
	}
	fmt.Fprintf(c.out, "%s: %v: %s\n", what, e.Code(), e.Message())
	return nil
}

func text(r *inventoryv1.Reservation) string {
	lines := make([]string, len(r.GetLines()))
	for i, l := range r.GetLines() {
		lines[i] = fmt.Sprintf("%d %s", l.GetQuantity(), l.GetSku())
	}
	return fmt.Sprintf("%s: %s", r.GetOrderId(), strings.Join(lines, ", "))
}
