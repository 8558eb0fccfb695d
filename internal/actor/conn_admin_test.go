package actor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// closings notes what the Close handler is told, and runs open in Open.
func closings(open func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error) (*durable.Method, *[]durable.CloseError) {
	told := &[]durable.CloseError{}
	return joinMethod(&durable.ConnectionMethod{
		Open: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, _ proto.Message) error {
			return open(ctx, tx, conn)
		},
		Message: func(context.Context, any, durable.Tx, durable.ConnPort, proto.Message) error { return nil },
		Close: func(_ context.Context, _ any, _ durable.Tx, _ durable.ConnPort, cause error) error {
			var closed *durable.CloseError
			if errors.As(cause, &closed) {
				*told = append(*told, *closed)
			}
			return nil
		},
	}), told
}

// TestConnAbortAsleep (WS-40): an abort closes the connections of an object that
// is not in memory too, and wakes it for the Close handlers only.
func TestConnAbortAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
		m, told := closings(func(context.Context, durable.Tx, durable.ConnPort) error { return nil })
		a, b := newTestPeer(), newTestPeer()
		h.hold("a", m, a)
		h.hold("a", m, b)
		synctest.Wait()
		id := durable.IDFromName("counter", "a")
		if was, err := h.Evict(t.Context(), h.typ, id); !was || err != nil {
			t.Fatalf("evict: %v, %v", was, err)
		}
		if was, err := h.Abort(t.Context(), h.typ, id, "enough"); was || err != nil {
			t.Errorf("abort: %v, %v, want false: it was not in memory", was, err)
		}
		synctest.Wait()
		for _, p := range []*testPeer{a, b} {
			<-p.done
			var abort *durable.AbortError
			if !errors.As(p.result, &abort) || abort.Reason != "enough" {
				t.Errorf("a connection ended with %v, want the AbortError", p.result)
			}
		}
		if len(*told) != 2 || !(*told)[0].Local || !(*told)[0].Clean {
			t.Errorf("the Close handler was told %+v, want two that are Local", *told)
		}
	})
}

// TestConnDelete: the deletion of an object closes its connections behind what was
// sent to them, and no handler is told; also of one that has nothing stored.
func TestConnDelete(t *testing.T) {
	for name, open := range map[string]func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error{
		"stored": func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error {
			return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), sendText(conn, "welcome"))
		},
		"nothing stored": func(_ context.Context, _ durable.Tx, conn durable.ConnPort) error {
			return sendText(conn, "welcome")
		},
	} {
		for _, asleep := range []bool{false, true} {
			t.Run(map[bool]string{false: name, true: name + ", asleep"}[asleep], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
					m, told := closings(open)
					p := newTestPeer()
					h.hold("a", m, p)
					synctest.Wait()
					id := durable.IDFromName("counter", "a")
					if asleep {
						if _, err := h.Evict(t.Context(), h.typ, id); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := h.Delete(t.Context(), h.typ, id); err != nil {
						t.Errorf("delete: %v", err)
					}
					synctest.Wait()
					select {
					case <-p.done:
						if !errors.Is(p.result, durable.ErrNoObject) {
							t.Errorf("the connection ended with %v, want ErrNoObject", p.result)
						}
					default:
						t.Error("the connection is open after its object was deleted")
						close(p.gone)
						<-p.done
						return
					}
					if got := p.received(); len(got) != 1 {
						t.Errorf("the peer received %q, want what was sent before", got)
					}
					if len(*told) != 0 {
						t.Errorf("the Close handler was told %v", *told)
					}
				})
			})
		}
	}
}

// TestConnRefusedUnseen (WS-12): a connection whose Open fails is not seen by the
// turn that waits right behind it.
func TestConnRefusedUnseen(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	var seen atomic.Int64
	opening, fail := make(chan struct{}), make(chan struct{})
	m, _ := closings(func(context.Context, durable.Tx, durable.ConnPort) error {
		opening <- struct{}{}
		<-fail
		return errTest
	})
	rounds := 2000
	if testing.Short() {
		rounds = 300
	}
	for range rounds {
		p := newTestPeer()
		h.hold("a", m, p)
		<-opening
		looked := make(chan error)
		go func() {
			looked <- h.view(context.Background(), "a", func(_ context.Context, _ *counter, view durable.View) error {
				for range view.ConnsReader().Views("/test.Service/Join", nil) {
					seen.Add(1)
				}
				return nil
			})
		}()
		o := h.object(h.typ, durable.IDFromName("counter", "a"), "")
		for { // until the call is in the queue
			o.mu.Lock()
			n := len(o.queue.waiting)
			o.mu.Unlock()
			if n == 1 {
				break
			}
		}
		h.release(o)
		fail <- struct{}{}
		if err := <-looked; err != nil {
			t.Fatal(err)
		}
		<-p.done
	}
	if n := seen.Load(); n > 0 {
		t.Errorf("%d of %d turns saw a connection whose Open had failed", n, rounds)
	}
}
