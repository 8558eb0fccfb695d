package actor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// A queuedTurn is one turn of TestQueueAgainstModel.
type queuedTurn struct {
	n      int
	access access
	cancel context.CancelFunc
	result chan error
}

// TestQueueAgainstModel has turns arrive, give up and end at random, and
// compares those that run with a model: whoever is first in line begins as soon
// as it may, a writer alone and readers together.
func TestQueueAgainstModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	synctest.Test(t, func(t *testing.T) {
		o := &object{typ: &Type{ObjectType: &durable.ObjectType{Limits: durable.Limits{MaxQueuedCalls: 20}.WithDefaults()}}}
		all, stop := context.WithCancel(context.Background())
		defer stop()
		var running, waiting []*queuedTurn // the model
		refused := 0
		admit := func() {
			for len(waiting) > 0 {
				w := waiting[0]
				if len(running) > 0 && (w.access == exclusive || running[0].access == exclusive) {
					return
				}
				running, waiting = append(running, w), waiting[1:]
			}
		}
		for n := range 3000 {
			k := rng.IntN(10)
			if n/100%2 == 0 && rng.IntN(2) == 0 { // a rush
				k = 0
			}
			switch {
			case k < 3:
				ctx, cancel := context.WithCancel(all)
				q := &queuedTurn{n: n, access: access(rng.IntN(2)), cancel: cancel, result: make(chan error, 1)}
				go func() {
					_, err := o.enter(ctx, wish{access: q.access, bytes: 1})
					q.result <- err
				}()
				if len(waiting) == 20 {
					synctest.Wait()
					if err := <-q.result; err == nil {
						t.Fatalf("step %d: a full queue took one more", n)
					}
					refused++
					cancel()
					break
				}
				waiting = append(waiting, q)
			case k < 5 && len(waiting) > 0:
				i := rng.IntN(len(waiting))
				w := waiting[i]
				waiting = slices.Delete(waiting, i, i+1)
				w.cancel()
				synctest.Wait()
				if err := <-w.result; err == nil {
					t.Fatalf("step %d: turn %d began after it gave up", n, w.n)
				}
			case k < 9 && len(running) > 0:
				i := rng.IntN(len(running))
				r := running[i]
				running = slices.Delete(running, i, i+1)
				o.leave(r.access)
				r.cancel()
			case k == 9 && len(running) == 1 && running[0].access == exclusive:
				running[0].access = shared
				o.mu.Lock()
				o.queue.downgrade()
				o.mu.Unlock()
			}
			admit()
			synctest.Wait()
			for _, r := range running {
				if r.result == nil {
					continue
				}
				select {
				case err := <-r.result:
					if err != nil {
						t.Fatalf("step %d: turn %d: %v", n, r.n, err)
					}
					r.result = nil // it runs
				default:
					t.Fatalf("step %d: turn %d should run", n, r.n)
				}
			}
			for _, w := range waiting {
				select {
				case err := <-w.result:
					t.Fatalf("step %d: turn %d should wait: %v", n, w.n, err)
				default:
				}
			}
		}
		if refused == 0 {
			t.Error("the queue was never full")
		}
	})
}

// TestQueueRace has turns give up at the moment in which they would begin. None
// may be lost: in the end the object is free.
func TestQueueRace(t *testing.T) {
	o := &object{typ: &Type{ObjectType: &durable.ObjectType{Limits: durable.Limits{}.WithDefaults()}}}
	shadow := 0 // guarded by turns alone
	done := make(chan struct{})
	const workers = 8
	for w := range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(100))*time.Microsecond)
				a := access(rng.IntN(2))
				if _, err := o.enter(ctx, wish{access: a}); err == nil {
					if a == exclusive {
						shadow++
					} else {
						_ = shadow
					}
					o.leave(a)
				}
				cancel()
			}
		}()
	}
	for range workers {
		<-done
	}
	if _, err := o.enter(context.Background(), wish{access: exclusive}); err != nil {
		t.Fatal(err)
	}
}

// TestViewsMeetInColdObject: views that find their object not in memory run
// together, whichever of them runs the constructor.
func TestViewsMeetInColdObject(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	const views = 3
	for n := range 2000 {
		var inside, done sync.WaitGroup
		inside.Add(views)
		for range views {
			done.Go(func() {
				err := h.view(t.Context(), fmt.Sprint(n), func(context.Context, *counter, durable.View) error {
					inside.Done()
					inside.Wait()
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
	}
}
