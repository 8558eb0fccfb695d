package actor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// TestTurnsNeedNoLock has many callers change a field that nothing but turns
// guards; the race detector and the sum tell if two ran at once. Views read it
// beside one another. (GO-01, GATE-02, STUB-03)
func TestTurnsNeedNoLock(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{CommitDelay: 50 * time.Microsecond})), durable.Limits{}, nil)
	const callers, calls = 16, 50
	seen := make(chan int, callers*calls)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range calls {
				var err error
				switch {
				case c%4 == 0:
					err = h.view(t.Context(), "a", func(ctx context.Context, s *counter, view durable.View) error {
						if value, _, err := view.KV().Get(ctx, "n"); err != nil || string(value) != fmt.Sprint(s.n) && s.n > 0 {
							t.Errorf("field %d, stored %s: %v", s.n, value, err)
						}
						return nil
					})
				case c%4 == 1 && i%2 == 0:
					err = h.stream(t.Context(), "a", func(ctx context.Context, port durable.StreamPort) error {
						return port.Update(ctx, func(tx durable.Tx) error { return nil })
					})
				default:
					err = h.update(t.Context(), "a", func(ctx context.Context, s *counter, tx durable.Tx) error {
						s.n++
						seen <- s.n
						return tx.KV().Put(ctx, "n", fmt.Append(nil, s.n))
					})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(seen)
	want := 0
	for n := range seen { // the order of the channel is that of the turns
		if want++; n != want {
			t.Fatalf("turn %d made the counter %d", want, n)
		}
	}
}

// TestStreamBesideFirstCommit starts streams while other calls make and delete
// their object.
func TestStreamBesideFirstCommit(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := h.stream(t.Context(), "a", func(context.Context, durable.StreamPort) error { return nil }); err != nil {
					t.Error(err)
				}
				if err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
					if tx.Exists() {
						return tx.DeleteAll(ctx)
					}
					return tx.KV().Put(ctx, "k", []byte("v"))
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestChainDepth: a chain holds 32 objects, and the error says which.
func TestChainDepth(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	for _, depth := range []int{maxChain, maxChain + 1} {
		ran := 0
		var next func(ctx context.Context, _ *counter, tx durable.Tx) error
		next = func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if ran++; ran == depth {
				return nil
			}
			return callOther(ctx, tx, fmt.Sprint("o", ran), next)
		}
		err := h.update(t.Context(), "o0", next)
		if depth == maxChain {
			if err != nil || ran != depth {
				t.Errorf("depth %d: %v after %d", depth, err, ran)
			}
			continue
		}
		var chain *durable.ChainError
		if !errors.As(err, &chain) || chain.Cycle || chain.Max != maxChain || len(chain.Chain) != depth || ran != maxChain {
			t.Fatalf("depth %d: %v after %d: %+v", depth, err, ran, chain)
		}
		first, last := "counter/"+durable.IDFromName("counter", "o0").String(), "counter/"+durable.IDFromName("counter", fmt.Sprint("o", maxChain)).String()
		if chain.Chain[0] != first || chain.Chain[depth-1] != last {
			t.Errorf("the chain runs from %s to %s", chain.Chain[0], chain.Chain[depth-1])
		}
	}
	// A stream is in the chain as well.
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, _ durable.Tx) error {
		return h.stream(ctx, "a", func(context.Context, durable.StreamPort) error { return nil })
	})
	var chain *durable.ChainError
	if !errors.As(err, &chain) || !chain.Cycle {
		t.Errorf("a stream of the calling object: %v", err)
	}
}

// TestGoexit: a handler that ends its goroutine leaves the object usable, rolled
// back and with a new activation. (GO-07)
func TestGoexit(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	exits := []func(){
		func() {
			_ = h.update(t.Context(), "a", func(ctx context.Context, s *counter, tx durable.Tx) error {
				s.n = 7
				_ = tx.KV().Put(ctx, "k", []byte("v"))
				runtime.Goexit()
				return nil
			})
		},
		func() {
			_ = h.stream(t.Context(), "a", func(ctx context.Context, port durable.StreamPort) error {
				runtime.Goexit()
				return nil
			})
		},
	}
	for i, exit := range exits {
		var wg sync.WaitGroup
		wg.Go(exit)
		wg.Wait()
		err := h.update(t.Context(), "a", func(ctx context.Context, s *counter, tx durable.Tx) error {
			if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil || s.n != 0 {
				t.Errorf("k is there: %v (%v), the field is %d", ok, err, s.n)
			}
			s.n = 5
			return nil
		})
		if err != nil {
			t.Errorf("exit %d: %v", i, err)
		}
	}
	if err := h.Drain(t.Context()); err != nil {
		t.Error(err)
	}

	// A constructor that does it fails, and its caller is told.
	h = newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, func(context.Context, durable.Tx) (any, error) {
		runtime.Goexit()
		return nil, nil
	})
	err := h.update(t.Context(), "a", nil)
	var constructor *durable.ConstructorError
	if !errors.As(err, &constructor) {
		t.Errorf("constructor: %v", err)
	}
}

// TestRegister: a type is registered once and keeps its number.
func TestRegister(t *testing.T) {
	store := memkv.New(memkv.Options{})
	h := newTestHost(t, join(t, store), durable.Limits{}, nil)
	if _, err := h.Register(t.Context(), &durable.ObjectType{Name: "counter"}); err == nil {
		t.Error("registered twice")
	}
	other, err := h.Register(t.Context(), &durable.ObjectType{Name: "other"})
	if err != nil || other.StorageID() == h.typ.StorageID() {
		t.Errorf("%v, %v", other, err)
	}
	again := newTestHost(t, join(t, store), durable.Limits{}, nil)
	if again.typ.StorageID() != h.typ.StorageID() {
		t.Error("the number of the type changed")
	}
	if _, err := h.Register(t.Context(), &durable.ObjectType{Name: "third"}); err == nil {
		t.Error("registered with a session that is over")
	}
	if _, err := NewHost(t.Context(), storage.Info{}, h.session, Options{}); err == nil {
		t.Error("a host of a session that is over")
	}
}

// TestNames: an object made by id has no name until it is called by one, which
// is then stored with it.
func TestNames(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	id := durable.IDFromName("counter", "a")
	name := func(by string) (got string) {
		c := h.call(by, &durable.Method{Unary: func(ctx context.Context, _ any, tx durable.Tx, _ proto.Message) (proto.Message, error) {
			got = tx.Name()
			return &emptypb.Empty{}, tx.KV().Put(ctx, "k", []byte("v"))
		}})
		c.ID, c.Name = id, by
		if err := h.Unary(t.Context(), c, &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Evict(t.Context(), h.typ, id); err != nil {
			t.Fatal(err)
		}
		return got
	}
	for i, step := range []struct{ by, want string }{{"", ""}, {"", ""}, {"a", "a"}, {"", "a"}} {
		if got := name(step.by); got != step.want {
			t.Errorf("call %d, by %q: the name is %q, want %q", i, step.by, got, step.want)
		}
	}
	for o, err := range h.session.Objects(t.Context(), storage.ObjectQuery{Type: h.typ.id}) {
		if err != nil || o.Name != "a" {
			t.Errorf("listed as %q: %v", o.Name, err)
		}
	}
}

// TestAwaitInManyGoroutines: of several goroutines of one handler that leave the
// turn at once, one does. The turn stays one turn, and ends when the handler
// returns, whoever is still outside. (GO-04)
func TestAwaitInManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t, join(t, memkv.New(memkv.Options{CommitDelay: time.Millisecond})), durable.Limits{}, nil)
		for _, wait := range []bool{true, false} {
			for range 50 {
				var handlers, others sync.WaitGroup
				left := make(chan error, 4)
				if err := h.update(t.Context(), "a", func(_ context.Context, s *counter, tx durable.Tx) error {
					for range 4 {
						handlers.Go(func() {
							left <- tx.Await(context.Background(), func(context.Context) error {
								time.Sleep(time.Second)
								return nil
							})
						})
					}
					if wait {
						handlers.Wait()
						s.n++
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				for range 3 { // each alone, also beside goroutines that come back late
					others.Go(func() {
						if err := h.update(t.Context(), "a", func(_ context.Context, s *counter, _ durable.Tx) error {
							n := s.n
							time.Sleep(400 * time.Millisecond)
							s.n = n + 1
							return nil
						}); err != nil {
							t.Error(err)
						}
					})
				}
				others.Wait()
				handlers.Wait()
				ok := 0
				for range 4 {
					switch err := <-left; {
					case err == nil:
						ok++
					case !errors.Is(err, durable.ErrTxDone):
						t.Error(err)
					}
				}
				if wait && ok != 1 || !wait && ok != 0 {
					t.Fatalf("%d goroutines left the turn and came back", ok)
				}
			}
		}
		err := h.update(t.Context(), "a", func(_ context.Context, s *counter, _ durable.Tx) error {
			if want := 2*50*3 + 50; s.n != want {
				t.Errorf("the field is %d, want %d", s.n, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
