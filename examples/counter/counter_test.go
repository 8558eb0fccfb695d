package main

import (
	"sync"
	"testing"

	"github.com/durable-go/durable/durabletest"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
)

func TestCounter(t *testing.T) {
	ctx := t.Context()
	s := durabletest.New(t, register)
	counter := counterv1durable.NewCounterClient(s.Conn()).GetByName("a")

	// GATE-02: concurrent increments, each seen once.
	const callers, each = 8, 50
	seen := make([]bool, callers*each+1)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				res, err := counter.Add(ctx, &counterv1.AddRequest{Delta: 1})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[res.GetValue()] {
					t.Errorf("two callers saw %d", res.GetValue())
				}
				seen[res.GetValue()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()

	s.Crash()
	res, err := counter.Get(ctx, &counterv1.GetRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res.GetValue() != callers*each {
		t.Errorf("after a crash the counter is %d, want %d", res.GetValue(), callers*each)
	}
}
