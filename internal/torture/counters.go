package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// counters is the load of calls that must count once.
type counters struct {
	*torture
	client torturev1durable.CounterClient

	mu struct {
		sync.Mutex
		calls    []add
		replayed int
	}
}

// An add is a call that was answered.
type add struct {
	counter, key string
	delta, total int64
}

const counterCount = 8

func newCounters(t *torture) *counters {
	return &counters{torture: t, client: torturev1durable.NewCounterClient(t.conn)}
}

func counterName(i int) string { return fmt.Sprintf("counter-%d", i) }

func (l *counters) step(ctx context.Context, c *client) {
	a := add{counter: counterName(c.IntN(counterCount)), key: c.name(), delta: 1 + c.Int64N(100)}
	total, _, out := l.add(ctx, a)
	if out != answered {
		l.violated("%s: the call %s to add %d was not answered", a.counter, a.key, a.delta)
		return
	}
	a.total = total
	replayed := 0
	if c.IntN(5) == 0 { // as a caller who lost the answer
		again, header, out := l.add(ctx, a)
		if out != answered || again != total || header.Get("Durable-Replayed") != "true" {
			l.violated("%s: the call %s got %d, and when it was made again %d, with Durable-Replayed %q", a.counter, a.key, total, again, header.Get("Durable-Replayed"))
		}
		replayed++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.calls = append(l.mu.calls, a)
	l.mu.replayed += replayed
}

func (l *counters) add(ctx context.Context, a add) (total int64, header http.Header, out outcome) {
	out = l.insist(ctx, func(ctx context.Context) error {
		res, err := l.client.GetByName(a.counter).Add(ctx, &torturev1.AddRequest{IdempotencyKey: a.key, Delta: a.delta},
			repeatedly, durable.WithResponseHeader(&header))
		total = res.GetTotal()
		return err
	})
	return total, header, out
}

func (l *counters) check(ctx context.Context) {
	stored := map[string]map[string]*torturev1.Row{} // by counter and key
	for i := range counterCount {
		name := counterName(i)
		stored[name] = map[string]*torturev1.Row{}
		var res *torturev1.RowsResponse
		if l.insist(ctx, func(ctx context.Context) (err error) {
			res, err = l.client.GetByName(name).Rows(ctx, &torturev1.RowsRequest{}, repeatedly)
			return err
		}) != answered {
			l.violated("%s could not be read in the end", name)
			return
		}
		var total int64
		for _, row := range res.GetRows() {
			key := row.GetIdempotencyKey()
			if stored[name][key] != nil {
				l.violated("%s: the call %s counted twice", name, key)
			}
			stored[name][key] = row
			if total += row.GetDelta(); total != row.GetTotal() {
				l.violated("%s: the total after the call %s is %d, and should be %d", name, key, row.GetTotal(), total)
			}
		}
	}
	for _, a := range l.mu.calls {
		switch row := stored[a.counter][a.key]; {
		case row == nil:
			l.violated("%s: the call %s, which was answered with %d, is lost", a.counter, a.key, a.total)
		case row.GetDelta() != a.delta || row.GetTotal() != a.total:
			l.violated("%s: the call %s added %d and was answered with %d; what is stored is %v", a.counter, a.key, a.delta, a.total, row)
		}
	}
}

func (l *counters) report() string {
	if len(l.mu.calls) == 0 {
		return ""
	}
	return fmt.Sprintf("%-10s%d calls answered, %d of them made again afterwards\n", "counters", len(l.mu.calls), l.mu.replayed)
}
