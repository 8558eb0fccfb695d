package actor

import (
	"context"
	"errors"
	"slices"
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

// TestReplyWaitsForEarlierWritesOnly (GATE-18): a reply leaves with the commits
// made ahead of it, however many come later, and one that only read waits for
// the newest it could see.
func TestReplyWaitsForEarlierWritesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session := &manualSession{Session: join(t, memkv.New(memkv.Options{}))}
		h := newTestHost(t, session, durable.Limits{}, nil)
		var mu sync.Mutex
		var answered []string
		start := func(name string, call func() error) {
			go func() {
				err := call()
				mu.Lock()
				defer mu.Unlock()
				answered = append(answered, name)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}()
			synctest.Wait()
		}
		put := func(ctx context.Context, _ *counter, tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) }
		read := func(context.Context, *counter, durable.View) error { return nil }
		start("write 1", func() error { return h.update(t.Context(), "a", put) })
		start("read 1", func() error { return h.view(t.Context(), "a", read) })
		start("write 2", func() error { return h.update(t.Context(), "a", put) })
		start("read 2", func() error { return h.view(t.Context(), "a", read) })
		start("other object", func() error { return h.view(t.Context(), "b", read) })

		check := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(answered)
			if !slices.Equal(answered, want) {
				t.Fatalf("answered %q, want %q", answered, want)
			}
			answered = nil
		}
		check("other object")
		session.mu.pending[0].Resolve(nil)
		check("read 1", "write 1")
		session.mu.pending[1].Resolve(nil)
		check("read 2", "write 2")
		start("read 3", func() error { return h.view(t.Context(), "a", read) })
		check("read 3")
	})
}

// TestBrokenGateFailsAll (GATE-08, GATE-20): when a commit fails, the replies
// that depend on it fail, calls that wait are told of a reset, and the object
// comes back with what is stored.
func TestBrokenGateFailsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session := &manualSession{Session: join(t, memkv.New(memkv.Options{}))}
		h := newTestHost(t, session, durable.Limits{}, nil)
		put := func(ctx context.Context, _ *counter, tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) }
		results := make([]chan error, 3)
		for i, fn := range []func(context.Context, *counter, durable.Tx) error{
			put,
			func(context.Context, *counter, durable.Tx) error { time.Sleep(time.Second); return nil },
			put,
		} {
			results[i] = make(chan error, 1)
			go func() { results[i] <- h.update(t.Context(), "a", fn) }()
			synctest.Wait()
		}
		session.mu.pending[0].Resolve(storage.ErrLost)
		if err := <-results[0]; !errors.Is(err, durable.ErrCommitFailed) {
			t.Errorf("the call whose commit failed: %v", err)
		}
		if err := <-results[1]; !errors.Is(err, durable.ErrCommitFailed) {
			t.Errorf("the call that ran: %v", err)
		}
		if err := <-results[2]; !errors.Is(err, durable.ErrReset) || errors.Is(err, durable.ErrCommitFailed) {
			t.Errorf("the call that waited: %v", err)
		}
		if n := len(session.mu.pending); n != 1 {
			t.Errorf("%d commits, want 1", n)
		}
		if err := h.update(t.Context(), "a", func(context.Context, *counter, durable.Tx) error { return nil }); err != nil {
			t.Errorf("the next call: %v", err)
		}
	})
}

// TestUnconfirmedFails (GATE-22): nobody waits for an unconfirmed write, but the
// next call notices that it failed and starts from what is stored.
func TestUnconfirmedFails(t *testing.T) {
	session := &manualSession{Session: join(t, memkv.New(memkv.Options{}))}
	h := newTestHost(t, session, durable.Limits{}, nil)
	put := func(ctx context.Context, s *counter, tx durable.Tx) error {
		s.n++
		return tx.KV().Unconfirmed().Put(ctx, "k", []byte("v"))
	}
	if err := h.update(t.Context(), "a", put); err != nil {
		t.Fatal(err)
	}
	session.mu.pending[0].Resolve(storage.ErrLost)
	if err := h.update(t.Context(), "a", func(_ context.Context, s *counter, _ durable.Tx) error {
		if s.n != 0 {
			t.Errorf("the field is %d on top of a write that failed", s.n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestAnswerFromMemoryNeedsLease (LIFE-13b): when the lease has run out, an
// answer from memory leaves only if the store still names this host as the
// owner. A durable commit shows that by itself.
func TestAnswerFromMemoryNeedsLease(t *testing.T) {
	session := &leasedSession{Session: join(t, memkv.New(memkv.Options{})), owned: true}
	h := newTestHost(t, session, durable.Limits{}, nil)
	read := func(context.Context, *counter, durable.View) error { return nil }
	if err := h.view(t.Context(), "a", read); err != nil {
		t.Errorf("confirmed: %v", err)
	}
	session.owned = false
	if err := h.view(t.Context(), "a", read); !errors.Is(err, durable.ErrNotOwner) {
		t.Errorf("not confirmed: %v", err)
	}
	if err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		return tx.KV().Put(ctx, "k", []byte("v"))
	}); err != nil {
		t.Errorf("a write: %v", err)
	}
}

// TestClientStreamResponse: the response of a client stream waits for what the
// stream wrote, and does not leave when that is lost. (GATE-17)
func TestClientStreamResponse(t *testing.T) {
	for _, outcome := range []error{nil, storage.ErrLost} {
		synctest.Test(t, func(t *testing.T) {
			session := &manualSession{Session: join(t, memkv.New(memkv.Options{}))}
			h := newTestHost(t, session, durable.Limits{}, nil)
			m := &durable.Method{ClientStream: true, Streaming: func(ctx context.Context, _ any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
				return &emptypb.Empty{}, port.Update(ctx, func(tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) })
			}}
			port := &sendPort{}
			result := make(chan error, 1)
			go func() { result <- h.Stream(t.Context(), h.call("a", m), port, nil) }()
			synctest.Wait()
			if len(port.sent) != 0 {
				t.Error("the response left before the commit was durable")
			}
			session.mu.pending[0].Resolve(outcome)
			err := <-result
			if outcome == nil && (err != nil || len(port.sent) != 1) {
				t.Errorf("%v, %d sent", err, len(port.sent))
			}
			if outcome != nil && (!errors.Is(err, durable.ErrCommitFailed) || len(port.sent) != 0) {
				t.Errorf("%v, %d sent", err, len(port.sent))
			}
		})
	}
}
