package actor

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
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

var errTest = errors.New("on purpose")

// TestAwaitComesBackToATurn: whatever ends the work of an Await, the rest of the
// handler, deferred functions included, runs alone on its activation (GO-01).
func TestAwaitComesBackToATurn(t *testing.T) {
	for name, work := range map[string]func(ctx context.Context) error{
		"an error":          func(context.Context) error { return errTest },
		"a caller who left": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"a panic":           func(context.Context) error { panic("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memkv.New(memkv.Options{})
				defer func() { _ = store.Close() }()
				h := newTestHost(t, join(t, store), durable.Limits{}, nil)
				ctx, leave := context.WithCancel(t.Context())

				ended := make(chan error, 1)
				go func() {
					ended <- h.update(ctx, "a", func(ctx context.Context, c *counter, tx durable.Tx) (err error) {
						defer func() { c.n++ }()
						err = tx.Await(ctx, work)
						if perr := tx.KV().Put(context.WithoutCancel(ctx), "after", []byte("x")); perr != nil {
							t.Errorf("the handle after Await: %v", perr)
						}
						return err
					})
				}()
				synctest.Wait()
				// Another turn holds the object for longer than a call waits in
				// the queue; it and the deferred function touch the same field.
				other := make(chan error, 1)
				go func() {
					other <- h.update(t.Context(), "a", func(_ context.Context, c *counter, _ durable.Tx) error {
						n := c.n
						time.Sleep(time.Minute)
						c.n = n + 1
						return nil
					})
				}()
				synctest.Wait()
				leave()
				if err := <-other; err != nil {
					t.Error(err)
				}
				if err := <-ended; err == nil {
					t.Error("the call succeeded")
				}
			})
		})
	}
}

// TestAbortCannotBeCaught: ABRT-04. A handler that recovers the panic of Abort
// commits nothing all the same.
func TestAbortCannotBeCaught(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	h := newTestHost(t, join(t, store), durable.Limits{}, nil)
	var stale durable.Tx
	err := h.update(t.Context(), "a", func(ctx context.Context, c *counter, tx durable.Tx) error {
		stale = tx
		c.n++
		if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
			return err
		}
		func() {
			defer func() { _ = recover() }()
			tx.Abort("enough")
		}()
		if err := tx.KV().Put(ctx, "k", []byte("w")); !errors.Is(err, durable.ErrReset) {
			t.Errorf("a write after Abort: %v, want ErrReset", err)
		}
		return nil
	})
	var abort *durable.AbortError
	if !errors.As(err, &abort) || abort.Reason != "enough" {
		t.Errorf("the call ended with %v, want the reason of the abort", err)
	}
	stale.Abort("too late") // the turn is over: nothing happens
	err = h.view(t.Context(), "a", func(ctx context.Context, c *counter, view durable.View) error {
		if _, ok, err := view.KV().Get(ctx, "k"); ok || err != nil || c.n != 0 {
			t.Errorf("after the abort: stored %v, %v; field %d", ok, err, c.n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestViewCannotWrite: what a view gives cannot be turned into something that
// writes.
func TestViewCannotWrite(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	h := newTestHost(t, join(t, store), durable.Limits{}, nil)
	err := h.view(t.Context(), "a", func(_ context.Context, _ *counter, view durable.View) error {
		if _, ok := view.KV().(durable.KV); ok {
			t.Error("the pairs of a view can be written")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNameOfObjectFirstCalledByID: the name is stored by the first commit that
// knows it, also when calls by id came before (ID-20, ID-25).
func TestNameOfObjectFirstCalledByID(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	session := join(t, store)
	h := newTestHost(t, session, durable.Limits{}, nil)
	nameless := h.call("a", &durable.Method{ReadOnly: true, UnaryView: nothing})
	nameless.Name = ""
	if err := h.Unary(t.Context(), nameless, &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		if tx.Name() != "a" {
			t.Errorf("the name is %q", tx.Name())
		}
		return tx.KV().Put(ctx, "k", []byte("v"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for o, err := range session.Objects(t.Context(), storage.ObjectQuery{Type: h.typ.StorageID()}) {
		if err != nil || o.Name != "a" {
			t.Errorf("stored as %q, %v", o.Name, err)
		}
	}
}

// TestChainEndsWithTheCall: a goroutine that outlives its call, and keeps its
// context, is in no chain: it may call the object, and is no nested call when
// the host drains.
func TestChainEndsWithTheCall(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	h := newTestHost(t, join(t, store), durable.Limits{}, nil)
	var kept context.Context
	same := func(context.Context, *counter, durable.Tx) error { return nil }
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, _ durable.Tx) error {
		kept = context.WithoutCancel(ctx)
		var chain *durable.ChainError
		if err := h.update(kept, "a", same); !errors.As(err, &chain) || !chain.Cycle {
			t.Errorf("a call of the object in its own turn: %v, want a cycle", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.update(kept, "a", same); err != nil {
		t.Errorf("a call after the turn: %v", err)
	}
	if err := h.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.update(kept, "a", same); !errors.Is(err, durable.ErrDraining) {
		t.Errorf("a call after the drain: %v, want ErrDraining", err)
	}
}

// TestHadEffects: a call that committed, called or left its turn, and then
// failed, must not look like one that was never started.
func TestHadEffects(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	h := newTestHost(t, join(t, store), durable.Limits{}, nil)
	for name, c := range map[string]struct {
		handler func(context.Context, *counter, durable.Tx) error
		want    bool
	}{
		"nothing": {func(context.Context, *counter, durable.Tx) error { return errTest }, false},
		"rolled back": {func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), errTest)
		}, false},
		"kept": {func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return durable.Keep(errors.Join(tx.KV().Put(ctx, "k", []byte("v")), errTest))
		}, true},
		"synced": {func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), tx.Sync(ctx), errTest)
		}, true},
		"left its turn": {func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(tx.Await(ctx, func(context.Context) error { return nil }), errTest)
		}, true},
		"called": {func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(callOther(ctx, tx, "b", func(context.Context, *counter, durable.Tx) error { return nil }), errTest)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.update(t.Context(), "a", c.handler)
			if !errors.Is(err, errTest) || HadEffects(err) != c.want {
				t.Errorf("the call ended with %v, effects %v; want effects %v", err, HadEffects(err), c.want)
			}
		})
	}
}

// TestForgottenFailureStaysKnown: once a commit has failed, nothing that was
// made on its activation leaves, also when the failure was noticed by another
// turn first (GATE-16, GATE-20).
func TestForgottenFailureStaysKnown(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	session := &manualSession{Session: join(t, store)}
	h := newTestHost(t, session, durable.Limits{}, nil)
	err := h.stream(t.Context(), "a", func(ctx context.Context, port durable.StreamPort) error {
		err := port.Update(ctx, func(tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) })
		if err != nil {
			return err
		}
		session.mu.Lock()
		session.mu.pending[len(session.mu.pending)-1].Resolve(storage.ErrNoSpace) // the shard lives on
		session.mu.Unlock()
		// The next turn finds the failure and forgets the commit.
		_ = h.view(context.Background(), "a", func(context.Context, *counter, durable.View) error { return nil })
		if err := port.Send(&emptypb.Empty{}); !errors.Is(err, durable.ErrCommitFailed) {
			t.Errorf("Send on what was lost: %v, want ErrCommitFailed", err)
		}
		return nil
	})
	if !errors.Is(err, durable.ErrCommitFailed) {
		t.Errorf("the stream ended with %v, want ErrCommitFailed", err)
	}
}

// TestLimitsOverTheStore: a type whose limits the store cannot keep is refused
// when it is registered, and not at a commit.
func TestLimitsOverTheStore(t *testing.T) {
	store := memkv.New(memkv.Options{})
	defer func() { _ = store.Close() }()
	h, err := NewHost(t.Context(), storage.Info{MaxValue: 1000, MaxKey: 100}, join(t, store), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, limits := range []durable.Limits{{MaxValueBytes: 1001, MaxKeyBytes: 10}, {MaxValueBytes: 10, MaxKeyBytes: 100}} {
		if _, err := h.Register(t.Context(), &durable.ObjectType{Name: "x", Limits: limits.WithDefaults()}); err == nil {
			t.Errorf("limits %v were taken", limits)
		}
	}
}

func nothing(context.Context, any, durable.View, proto.Message) (proto.Message, error) {
	return &emptypb.Empty{}, nil
}

// TestSlowConstructorIsLogged: BCW-09.
func TestSlowConstructorIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		constructor func(ctx context.Context, tx durable.Tx) error
		want        bool
	}{
		"quick": {func(context.Context, durable.Tx) error { return nil }, false},
		"slow":  {func(context.Context, durable.Tx) error { time.Sleep(1100 * time.Millisecond); return nil }, true},
		"outside": {func(ctx context.Context, tx durable.Tx) error {
			return tx.Await(ctx, func(context.Context) error { return nil })
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memkv.New(memkv.Options{})
				defer func() { _ = store.Close() }()
				h := newTestHost(t, join(t, store), durable.Limits{}, func(ctx context.Context, tx durable.Tx) (any, error) {
					return &counter{}, c.constructor(ctx, tx)
				})
				var logged bytes.Buffer
				h.log = slog.New(slog.NewTextHandler(&logged, nil))
				if err := h.update(t.Context(), "a", func(context.Context, *counter, durable.Tx) error { return nil }); err != nil {
					t.Fatal(err)
				}
				if got := logged.Len() > 0; got != c.want {
					t.Errorf("logged %v: %s", got, &logged)
				}
			})
		})
	}
}

// TestAwaitAfterReset: a reset does not let a handler out of its Await while
// another turn still runs on the same activation (GO-01).
func TestAwaitAfterReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memkv.New(memkv.Options{})
		defer func() { _ = store.Close() }()
		session := &manualSession{Session: join(t, store)}
		h := newTestHost(t, session, durable.Limits{}, nil)
		work, hold := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wentOn := false
		wg.Go(func() {
			err := h.update(t.Context(), "a", func(ctx context.Context, c *counter, tx durable.Tx) error {
				err := tx.Await(ctx, func(context.Context) error { <-work; return nil })
				c.n++
				wentOn = true
				return err
			})
			if !errors.Is(err, durable.ErrReset) && !errors.Is(err, durable.ErrCommitFailed) {
				t.Errorf("the call that was away ended with %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				return tx.KV().Put(ctx, "k", []byte("v"))
			})
			if !errors.Is(err, durable.ErrCommitFailed) {
				t.Errorf("the call whose commit failed ended with %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			_ = h.update(t.Context(), "a", func(_ context.Context, c *counter, _ durable.Tx) error {
				n := c.n
				<-hold
				c.n = n + 1
				return nil
			})
		})
		synctest.Wait()
		session.mu.Lock()
		session.mu.pending[0].Resolve(storage.ErrLost)
		session.mu.Unlock()
		synctest.Wait()
		close(work)
		synctest.Wait()
		if wentOn {
			t.Error("the handler went on while another one ran on its value")
		}
		close(hold)
		wg.Wait()
		if !wentOn {
			t.Error("the handler never went on")
		}
	})
}
