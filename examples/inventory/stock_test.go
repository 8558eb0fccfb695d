package main

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/durable-go/durable/durabletest"
	inventoryv1 "github.com/durable-go/durable/examples/inventory/gen/inventory/v1"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
)

// TestNeverOversold has a hundred callers reserve at once: as many succeed as
// there is stock for.
func TestNeverOversold(t *testing.T) {
	ctx := t.Context()
	s, w := newTest(t)
	stock(ctx, t, w, "lamp", 60, 1)
	stock(ctx, t, w, "bulb", 101, 1)
	const callers = 100
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			_, errs[i] = w.Reserve(ctx, &inventoryv1.ReserveRequest{
				OrderId: fmt.Sprintf("o%d", i),
				Lines:   []*inventoryv1.Line{line("bulb", 2), line("lamp", 1)},
			})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
			continue
		}
		refused(t, err, connect.CodeFailedPrecondition, "not enough stock: 2 of bulb, and 1 are available")
	}
	if made != 50 {
		t.Errorf("%d reservations were made, and there was stock for 50", made)
	}
	s.Crash()
	if bulb, lamp := item(ctx, t, w, "bulb"), item(ctx, t, w, "lamp"); bulb.GetReserved() != 100 || lamp.GetReserved() != 50 {
		t.Errorf("%d bulbs and %d lamps are reserved", bulb.GetReserved(), lamp.GetReserved())
	}
	if n := len(list(ctx, t, w, held, 0)); n != made {
		t.Errorf("%d reservations are stored", n)
	}
}

// TestExpiry lets a reservation end: it cannot be shipped any more, and the next
// order gets its stock, or at least gives it back.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		_, w := newTest(t)
		stock(ctx, t, w, "lamp", 10, 1)
		reserve := func(order string, n int64, end *timestamppb.Timestamp) error {
			_, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line("lamp", n)}, ExpireTime: end})
			return err
		}
		soon := timestamppb.New(time.Now().Add(time.Hour))
		for _, order := range []string{"a", "b"} {
			if err := reserve(order, 4, soon); err != nil {
				t.Fatal(err)
			}
		}
		if err := reserve("c", 2, nil); err != nil { // for ever
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		refused(t, reserve("d", 1, nil), connect.CodeFailedPrecondition, "not enough stock")
		if _, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "a"}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		_, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "b"})
		refused(t, err, connect.CodeFailedPrecondition, "the reservation has expired")
		if i := item(ctx, t, w, "lamp"); i.GetReserved() != 6 {
			t.Errorf("%d are reserved, before anybody gave anything back", i.GetReserved())
		}

		refused(t, reserve("d", 5, nil), connect.CodeFailedPrecondition, "5 of lamp, and 4 are available")
		if i := item(ctx, t, w, "lamp"); i.GetReserved() != 2 {
			t.Errorf("%d are reserved: the failed call gave nothing back", i.GetReserved())
		}
		if err := reserve("d", 4, nil); err != nil {
			t.Error(err)
		}
		_, err = w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "b"})
		refused(t, err, connect.CodeFailedPrecondition, "the reservation has expired")
		var states []inventoryv1.ReservationState
		for _, r := range list(ctx, t, w, 0, 0) {
			states = append(states, r.GetState())
		}
		if want := []inventoryv1.ReservationState{shipped, expired, held, held}; !slices.Equal(states, want) {
			t.Errorf("the states are %v, want %v", states, want)
		}
	})
}

// TestRestart checks that a warehouse is the same after a restart, a crash, and
// an eviction, the search index and the constraints included.
func TestRestart(t *testing.T) {
	ctx := t.Context()
	s, w := newTest(t)
	stock(ctx, t, w, "lamp", 10, 7)
	if _, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: "a", Lines: []*inventoryv1.Line{line("lamp", 4)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: "a"}); err != nil {
		t.Fatal(err)
	}
	want := item(ctx, t, w, "lamp")
	report, err := w.StockReport(ctx, &inventoryv1.StockReportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(){"restart": s.Restart, "crash": s.Crash, "eviction": func() { s.Evict(w.Ref) }} {
		t.Run(name, func(t *testing.T) {
			end()
			same(t, "item", want, item(ctx, t, w, "lamp"))
			again, err := w.StockReport(ctx, &inventoryv1.StockReportRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "report", report, again)
			found, err := w.Search(ctx, &inventoryv1.SearchRequest{Query: "lamps"})
			if err != nil || len(found.GetResults()) != 1 {
				t.Errorf("%v, %v", found, err)
			}
			_, err = w.AddItem(ctx, &inventoryv1.AddItemRequest{Sku: "lamp", Name: "x"})
			refused(t, err, connect.CodeAlreadyExists, "there is an item with that SKU")
		})
	}
}

// TestCrashUnderLoad crashes the server while callers reserve and ship, and
// checks that what was acknowledged is there and the figures agree.
func TestCrashUnderLoad(t *testing.T) {
	ctx := t.Context()
	s, w := newTest(t)
	stock(ctx, t, w, "lamp", 100_000, 1)
	var mu sync.Mutex
	acknowledged := map[string]inventoryv1.ReservationState{}
	for round := range 3 {
		var wg sync.WaitGroup
		enough := make(chan struct{}, 1000)
		stop := make(chan struct{})
		for caller := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					order := fmt.Sprintf("%d-%d-%d", round, caller, i)
					if _, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line("lamp", 2)}}); err != nil {
						continue
					}
					mu.Lock()
					acknowledged[order] = held
					mu.Unlock()
					if i%2 == 0 {
						if _, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: order}); err == nil {
							mu.Lock()
							acknowledged[order] = shipped
							mu.Unlock()
						}
					}
					select {
					case enough <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 20 {
			<-enough
		}
		s.Crash()
		close(stop)
		wg.Wait()
	}
	stored := map[string]*inventoryv1.Reservation{}
	var reserved, gone int64
	for _, r := range list(ctx, t, w, 0, 0) {
		stored[r.GetOrderId()] = r
		switch same(t, "lines", line("lamp", 2), r.GetLines()[0]); r.GetState() {
		case held:
			reserved += 2
		case shipped:
			gone += 2
		}
	}
	for order, state := range acknowledged {
		if got := stored[order].GetState(); got < state {
			t.Errorf("order %s was acknowledged as %v and is %v", order, state, got)
		}
	}
	if i := item(ctx, t, w, "lamp"); i.GetReserved() != reserved || i.GetOnHand() != 100_000-gone {
		t.Errorf("%v, and %d are reserved and %d shipped", i, reserved, gone)
	}
	report, err := w.StockReport(ctx, &inventoryv1.StockReportRequest{Movements: 1})
	if err != nil || len(report.GetMovements()) != 1 || report.GetMovements()[0].GetOnHand() != 100_000-gone {
		t.Errorf("%v, %v", report, err)
	}
	if len(acknowledged) < 60 {
		t.Errorf("only %d orders were acknowledged", len(acknowledged))
	}
}

func TestSearch(t *testing.T) {
	ctx := t.Context()
	_, w := newTest(t)
	for _, i := range []*inventoryv1.AddItemRequest{
		{Sku: "drill", Name: "Cordless drill", Description: "With two batteries, for wood and metal"},
		{Sku: "bits", Name: "Wood bits", Description: "A set of ten for every drill"},
		{Sku: "lamp", Name: "Desk lamp", Description: "Café light, not wired"},
		{Sku: "glue", Name: "Glue", Description: "Holds what it touches; it's for wood and paper, and for a great many others besides, which this sentence will not all name"},
	} {
		if _, err := w.AddItem(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	search := func(t *testing.T, query string, limit int32, want ...string) []*inventoryv1.SearchResult {
		t.Helper()
		res, err := w.Search(ctx, &inventoryv1.SearchRequest{Query: query, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, r := range res.GetResults() {
			got = append(got, r.GetSku())
			if r.GetScore() <= 0 || i > 0 && r.GetScore() > res.GetResults()[i-1].GetScore() {
				t.Errorf("result %d of %q has the score %v", i, query, r.GetScore())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
		return res.GetResults()
	}
	t.Run("SQL-49 what is in the name comes first", func(t *testing.T) {
		found := search(t, "drill", 0, "drill", "bits")
		if found[0].GetName() != "Cordless drill" || found[0].GetSnippet() != "Cordless [drill]" || found[1].GetSnippet() != "A set of ten for every [drill]" {
			t.Errorf("%v", found)
		}
	})
	t.Run("stems, accents, operators", func(t *testing.T) {
		search(t, "DRILLING", 0, "drill", "bits")
		search(t, "cafe", 0, "lamp")
		search(t, `wood NOT "two batteries"`, 0, "bits", "glue")
		search(t, "name: wood", 0, "bits")
		search(t, "batt*", 0, "drill")
		search(t, "drill", 1, "drill")
		search(t, "nothing", 0)
	})
	t.Run("a long text is cut", func(t *testing.T) {
		if s := search(t, "sentence", 0, "glue")[0].GetSnippet(); s != "…a great many others besides, which this [sentence] will not all name" {
			t.Errorf("%q", s)
		}
	})
	t.Run("a query that is none", func(t *testing.T) {
		for _, query := range []string{"", `"`, "AND", "price: 3", "it's", "a; DROP TABLE items"} {
			_, err := w.Search(ctx, &inventoryv1.SearchRequest{Query: query})
			refused(t, err, connect.CodeInvalidArgument, "the query cannot be understood")
		}
		_, err := w.Search(ctx, &inventoryv1.SearchRequest{Query: "x", Limit: -1})
		refused(t, err, connect.CodeInvalidArgument, "less than nothing")
	})
	t.Run("SQL-49 the index follows the items", func(t *testing.T) {
		if _, err := w.UpdateItem(ctx, &inventoryv1.UpdateItemRequest{Sku: "drill", Name: new("Hammer")}); err != nil {
			t.Fatal(err)
		}
		search(t, "drill", 0, "bits")
		search(t, "hammer", 0, "drill")
		search(t, "metal", 0, "drill")
		if _, err := w.RemoveItem(ctx, &inventoryv1.RemoveItemRequest{Sku: "bits"}); err != nil {
			t.Fatal(err)
		}
		search(t, "drill", 0)
		// What is refused leaves no trace in the index.
		_, err := w.UpdateItem(ctx, &inventoryv1.UpdateItemRequest{Sku: "glue", Description: new("anvil"), Price: new(int64(-1))})
		refused(t, err, connect.CodeInvalidArgument, "the price")
		search(t, "anvil", 0)
		search(t, "sentence", 0, "glue")
	})
}

// TestStockReport does at random what a warehouse does, and compares the report
// with figures computed without SQL.
func TestStockReport(t *testing.T) {
	ctx := t.Context()
	w := inventoryv1durable.NewWarehouseClient(durabletest.New(t, register).Conn()).GetByName("north")
	empty, err := w.StockReport(ctx, &inventoryv1.StockReportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "empty", &inventoryv1.StockReportResponse{}, empty)

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	type kept struct {
		sku                     string
		price, onHand, reserved int64
	}
	items := make([]*kept, 8)
	for i := range items {
		// Some prices are the same, so that values can be.
		items[i] = &kept{sku: fmt.Sprintf("sku-%d", i), price: int64(i/2) * 100}
		stock(ctx, t, w, items[i].sku, 0, items[i].price)
	}
	check := func(last int32, movements []*inventoryv1.Movement) {
		t.Helper()
		got, err := w.StockReport(ctx, &inventoryv1.StockReportRequest{Movements: last})
		if err != nil {
			t.Fatal(err)
		}
		value := func(k *kept) int64 { return k.price * k.onHand }
		sorted := slices.SortedFunc(slices.Values(items), func(a, b *kept) int {
			return cmp.Or(cmp.Compare(value(b), value(a)), cmp.Compare(a.sku, b.sku))
		})
		var total, running int64
		for _, k := range items {
			total += value(k)
		}
		want := &inventoryv1.StockReportResponse{}
		for _, k := range sorted {
			running += value(k)
			v := &inventoryv1.ItemValue{Sku: k.sku, Name: k.sku, OnHand: k.onHand, Value: value(k), Rank: 1}
			for _, other := range items {
				if value(other) > value(k) {
					v.Rank++
				}
			}
			if total > 0 {
				v.Share, v.RunningShare = float64(value(k))/float64(total), float64(running)/float64(total)
			}
			want.Items = append(want.Items, v)
		}
		count := map[string]int{}
		for _, m := range slices.Backward(movements) {
			if count[m.GetSku()]++; count[m.GetSku()] <= int(last) {
				want.Movements = append(want.Movements, m)
			}
		}
		slices.SortFunc(want.Movements, func(a, b *inventoryv1.Movement) int {
			return cmp.Or(cmp.Compare(a.GetSku(), b.GetSku()), cmp.Compare(a.GetNumber(), b.GetNumber()))
		})
		for _, m := range got.GetMovements() {
			if !m.GetTime().IsValid() || time.Since(m.GetTime().AsTime()).Abs() > time.Hour {
				t.Errorf("the time is %v", m.GetTime())
			}
			m.Time = nil
		}
		for i, v := range got.GetItems() { // to the last digits, which the order of adding decides
			if w := want.Items[i]; math.Abs(v.GetShare()-w.GetShare()) < 1e-12 && math.Abs(v.GetRunningShare()-w.GetRunningShare()) < 1e-12 {
				v.Share, v.RunningShare = w.GetShare(), w.GetRunningShare()
			}
		}
		same(t, fmt.Sprintf("report of %d movements", last), want, got)
	}

	var movements []*inventoryv1.Movement
	move := func(k *kept, quantity int64, delivery, order string) {
		k.onHand += quantity
		movements = append(movements, &inventoryv1.Movement{
			Number: int64(len(movements) + 1), Sku: k.sku, Quantity: quantity, OnHand: k.onHand, Delivery: delivery, OrderId: order,
		})
	}
	check(10, nil)
	for step := range 150 {
		a, b := items[rng.IntN(len(items))], items[rng.IntN(len(items))]
		n := 1 + rng.Int64N(20)
		switch rng.IntN(3) {
		case 0:
			delivery := ""
			if step%2 == 0 {
				delivery = fmt.Sprintf("d%d", step)
			}
			if _, err := w.Receive(ctx, &inventoryv1.ReceiveRequest{Sku: a.sku, Quantity: n, Delivery: delivery}); err != nil {
				t.Fatal(err)
			}
			move(a, n, delivery, "")
		case 1: // reserve one item, and keep or release it
			order := fmt.Sprintf("o%d", step)
			_, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line(a.sku, n)}})
			if enough := a.onHand-a.reserved >= n; enough != (err == nil) {
				t.Fatalf("step %d: %v, and %v", step, enough, err)
			}
			if err == nil && step%2 == 0 {
				a.reserved += n
			} else if err == nil {
				if _, err := w.Release(ctx, &inventoryv1.ReleaseRequest{OrderId: order}); err != nil {
					t.Fatal(err)
				}
			}
		case 2: // ship two
			if a == b {
				continue
			}
			order := fmt.Sprintf("o%d", step)
			_, err := w.Reserve(ctx, &inventoryv1.ReserveRequest{OrderId: order, Lines: []*inventoryv1.Line{line(a.sku, n), line(b.sku, n)}})
			if enough := min(a.onHand-a.reserved, b.onHand-b.reserved) >= n; enough != (err == nil) {
				t.Fatalf("step %d: %v, and %v", step, enough, err)
			}
			if err != nil {
				continue
			}
			if _, err := w.Ship(ctx, &inventoryv1.ShipRequest{OrderId: order}); err != nil {
				t.Fatal(err)
			}
			if a.sku > b.sku {
				a, b = b, a
			}
			move(a, -n, "", order)
			move(b, -n, "", order)
		}
	}
	// Two of the same value, and items behind them.
	a, b := items[len(items)-1], items[len(items)-2]
	level := 1000 + max(a.onHand, b.onHand)
	for _, k := range []*kept{a, b} {
		n := level - k.onHand
		if _, err := w.Receive(ctx, &inventoryv1.ReceiveRequest{Sku: k.sku, Quantity: n}); err != nil {
			t.Fatal(err)
		}
		move(k, n, "", "")
	}
	for _, last := range []int32{1, 3, 1000} {
		check(last, movements)
	}
	for _, k := range items {
		if i := item(ctx, t, w, k.sku); i.GetOnHand() != k.onHand || i.GetReserved() != k.reserved || i.GetAvailable() != k.onHand-k.reserved {
			t.Errorf("%v, want %+v", i, k)
		}
	}
}
