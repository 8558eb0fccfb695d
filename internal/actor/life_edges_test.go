package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// A leaver is a handler that takes its time to leave.
type leaver struct{ gone atomic.Bool }

func (v *leaver) Evict(context.Context) {
	v.gone.Store(true)
	time.Sleep(time.Millisecond)
}

func leavers(typ *durable.ObjectType) {
	typ.New = func(context.Context, durable.Tx) (any, error) { return &leaver{}, nil }
}

// A slowSum adds to a number in the store, and tells of turns that overlap.
type slowSum struct {
	t      *testing.T
	inside atomic.Int32
}

func (s *slowSum) add(ctx context.Context, tx durable.Tx, took time.Duration) error {
	if n := s.inside.Add(1); n != 1 {
		s.t.Errorf("%d turns of one object run at once", n)
	}
	defer s.inside.Add(-1)
	val, _, err := tx.KV().Get(ctx, "n")
	if err != nil {
		return err
	}
	time.Sleep(took)
	return tx.KV().Put(ctx, "n", append(val, 'x'))
}

func (s *slowSum) want(l *lifeTest, want string) {
	s.t.Helper()
	if err := l.view(context.Background(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
		if got, _, err := v.KV().Get(ctx, "n"); string(got) != want || err != nil {
			s.t.Errorf("the sum is %q, want %q: %v", got, want, err)
		}
		return nil
	}); err != nil {
		s.t.Error(err)
	}
}

// TestOneEntry: an object has one entry, and so one turn at a time, whatever
// became of earlier entries of it.
func TestOneEntry(t *testing.T) {
	lifeBubble(t, "LIFE-13 an entry that was dropped", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		ctx := t.Context()
		l.touch(t, "a") // the first entry is looked at after 10 s
		if err := l.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), errTest) // and leaves the table
		}); !errors.Is(err, errTest) {
			t.Error(err)
		}
		sum := &slowSum{t: t}
		add := func(took time.Duration) {
			if err := l.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error { return sum.add(ctx, tx, took) }); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(5 * time.Second)
		var all sync.WaitGroup
		all.Go(func() { add(8 * time.Second) }) // on the second entry, until 13 s
		time.Sleep(6 * time.Second)
		all.Go(func() { add(time.Second) })
		all.Wait()
		sum.want(l, "xx")
	})
	limits := durable.Limits{BackgroundTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second}
	lifeBubble(t, "LIFE-15 background work in a turn when its time is over", Options{}, limits, nil, func(t *testing.T, l *lifeTest) {
		sum := &slowSum{t: t}
		if err := l.update(t.Context(), "a", func(_ context.Context, _ *counter, tx durable.Tx) error {
			return tx.Background(func(_ context.Context, turns durable.TurnPort) error {
				time.Sleep(9 * time.Second)
				ctx := context.Background() // not the one that ends
				return turns.Update(ctx, func(tx durable.Tx) error { return sum.add(ctx, tx, 20*time.Second) })
			})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(18 * time.Second)
		if err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error { return sum.add(ctx, tx, time.Second) }); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		sum.want(l, "xx")
	})
}

// TestInspectAsleep: a look at an object that is not in memory ends as it began,
// and calls go on after it.
func TestInspectAsleep(t *testing.T) {
	lifeBubble(t, "a call behind it", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		if err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return tx.KV().Put(ctx, "k", []byte("v"))
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		looks, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- l.Inspect(context.Background(), l.typ, durable.IDFromName("counter", "a"), func(durable.View) error {
				close(looks)
				time.Sleep(time.Second)
				return nil
			})
		}()
		<-looks
		begun := time.Now()
		l.touch(t, "a")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("a call behind a look of a second took %v", took)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestEviction: an eviction takes no more than it must, and cuts nobody off.
func TestEviction(t *testing.T) {
	lifeBubble(t, "LIFE-21 one too many takes the place of one", Options{MaxActive: 100}, durable.Limits{IdleTimeout: time.Hour}, leavers, func(t *testing.T, l *lifeTest) {
		for i := range 101 {
			name := fmt.Sprint(i)
			if err := l.Update(t.Context(), l.typ, durable.IDFromName("counter", name), name, func(context.Context, any, durable.Tx) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if n := l.Active(); n != 100 {
			t.Errorf("%d objects are in memory, want the limit of 100", n)
		}
	})
	lifeBubble(t, "TEST-07 it waits for a handler in Await", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		got := make(chan error, 1)
		go func() {
			got <- l.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				if err := tx.Await(ctx, func(context.Context) error { time.Sleep(5 * time.Second); return nil }); err != nil {
					return err
				}
				return tx.KV().Put(ctx, "k", []byte("v"))
			})
		}()
		time.Sleep(time.Second)
		begun := time.Now()
		if was, err := l.Evict(t.Context(), l.typ, durable.IDFromName("counter", "a")); !was || err != nil {
			t.Errorf("%v %v", was, err)
		}
		if took := time.Since(begun); took != 4*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := <-got; err != nil {
			t.Errorf("the call under way: %v", err)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 2)
	})
	lifeBubble(t, "a call that comes between the decision and its turn", Options{}, durable.Limits{IdleTimeout: time.Second}, leavers, func(t *testing.T, l *lifeTest) {
		id := durable.IDFromName("counter", "a")
		call := func(fn func(ctx context.Context, tx durable.Tx) error) error {
			return l.Update(context.Background(), l.typ, id, "a", func(ctx context.Context, _ any, tx durable.Tx) error { return fn(ctx, tx) })
		}
		if err := call(func(context.Context, durable.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		o := l.object(l.typ, id, "a")
		l.release(o)
		l.life.next(time.Now().Add(time.Minute))
		act := l.life.decide(o, true)
		if act == nil {
			t.Fatal("it is not to go")
		}
		got := make(chan error, 1)
		go func() {
			got <- call(func(ctx context.Context, tx durable.Tx) error {
				return tx.Await(ctx, func(context.Context) error { time.Sleep(time.Second); return nil })
			})
		}()
		synctest.Wait()
		if _, err := o.evict(t.Context(), act); err != nil {
			t.Error(err)
		}
		l.release(o)
		if err := <-got; err != nil {
			t.Errorf("the call: %v", err)
		}
	})
}

// TestAbortEndsStreams: a stream ends with the activation it is on, and nothing
// is sent after that.
func TestAbortEndsStreams(t *testing.T) {
	lifeBubble(t, "ABRT-01", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		m := &durable.Method{ServerStream: true, Streaming: func(ctx context.Context, _ any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
			for ctx.Err() == nil {
				if err := port.Send(&emptypb.Empty{}); err != nil {
					return nil, err
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
			if err := port.Send(&emptypb.Empty{}); !errors.Is(err, durable.ErrReset) {
				t.Errorf("a message after the abort: %v", err)
			}
			return nil, ctx.Err()
		}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		ended := make(chan error, 1)
		port := &sendPort{}
		go func() { ended <- l.Stream(ctx, l.call("a", m), port, &emptypb.Empty{}) }()
		time.Sleep(1500 * time.Millisecond)
		begun := time.Now()
		if was, err := l.Abort(t.Context(), l.typ, durable.IDFromName("counter", "a"), "on purpose"); !was || err != nil {
			t.Errorf("%v %v", was, err)
		}
		var abort *durable.AbortError
		if err := <-ended; !errors.As(err, &abort) || abort.Reason != "on purpose" {
			t.Errorf("the stream ended with %v", err)
		}
		if took := time.Since(begun); took != 0 || len(port.sent) != 2 {
			t.Errorf("it ended after %v, and %d messages", took, len(port.sent))
		}
	})
}

// TestDeadlines: a handler that never returns holds up its own caller and nobody
// else, and one that was away did not ignore its deadline.
func TestDeadlines(t *testing.T) {
	limits := durable.Limits{HandlerTimeout: time.Second, StuckTimeout: time.Second}
	lifeBubble(t, "GO-09 the caller of a handler that never returns", Options{}, limits, nil, func(t *testing.T, l *lifeTest) {
		block := make(chan struct{})
		got := make(chan error, 1)
		go func() {
			got <- l.update(context.Background(), "a", func(context.Context, *counter, durable.Tx) error { <-block; return nil })
		}()
		time.Sleep(time.Hour)
		select {
		case err := <-got:
			t.Errorf("it has an answer while its handler runs: %v", err)
		default:
		}
		begun := time.Now()
		l.touch(t, "a")
		if took := time.Since(begun); took != 0 {
			t.Errorf("another call took %v", took)
		}
		close(block)
		if err := <-got; !errors.Is(err, durable.ErrStuck) {
			t.Errorf("the answer: %v", err)
		}
	})
	var text strings.Builder
	opts := Options{Logger: slog.New(slog.NewTextHandler(&text, nil))}
	limits = durable.Limits{HandlerTimeout: 5 * time.Second, StuckTimeout: 10 * time.Second}
	lifeBubble(t, "a handler that was away for long", opts, limits, nil, func(t *testing.T, l *lifeTest) {
		if err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if err := tx.Await(ctx, func(context.Context) error { time.Sleep(100 * time.Second); return nil }); err != nil {
				return err
			}
			time.Sleep(3 * time.Second) // its time begins anew
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := l.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if strings.Contains(text.String(), "ignores its deadline") {
			t.Errorf("the log says %s", text.String())
		}
	})
}

// TestLimitLeavesRoom: the limit of a turn's puts leaves room for what the runtime
// adds, so that a turn whose puts were taken commits.
func TestLimitLeavesRoom(t *testing.T) {
	for _, alarm := range []bool{false, true} {
		t.Run(fmt.Sprintf("alarm %v", alarm), func(t *testing.T) {
			ctx := t.Context()
			store := memkv.New(memkv.Options{})
			defer func() { _ = store.Close() }()
			info, err := store.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			host, err := NewHost(ctx, info, join(t, store), Options{})
			if err != nil {
				t.Fatal(err)
			}
			h := &testHost{Host: host}
			nothing := func(context.Context, any, durable.Tx, durable.AlarmInfo, proto.Message) error { return nil }
			if h.typ, err = host.Register(ctx, &durable.ObjectType{
				Name: "counter", Limits: durable.Limits{}.WithDefaults(),
				New:    func(context.Context, durable.Tx) (any, error) { return &counter{}, nil },
				Alarms: []durable.AlarmType{{Name: "", Run: nothing}},
			}); err != nil {
				t.Fatal(err)
			}
			err = h.update(ctx, "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				if alarm {
					if err := tx.AlarmPort().Set("", time.Now().Add(time.Hour), nil); err != nil {
						return err
					}
				}
				taken := 0
				for size := 1 << 20; size > 0; { // as much as is taken, to the byte
					key := fmt.Sprintf("%08d", taken)
					var limit *durable.LimitError
					switch err := tx.KV().Put(ctx, key, make([]byte, size)); {
					case err == nil:
						taken++
					case errors.As(err, &limit):
						size /= 2
					default:
						return err
					}
				}
				if taken < info.MaxBatch>>20-1 {
					t.Errorf("no more than %d puts were taken", taken)
				}
				return nil
			})
			if err != nil {
				t.Errorf("every put was taken, and the commit says: %v", err)
			}
			if err := h.Drain(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
