package durabletest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A tally is a counter that has a field beside what it stores.
type tally struct {
	labv1durable.UnimplementedCounterHandler
	factor int64
}

func (c *tally) Increment(ctx context.Context, tx labv1durable.CounterTx, req *labv1.IncrementRequest) (*labv1.IncrementResponse, error) {
	old, _, err := tx.KV().Get(ctx, "value")
	if err != nil {
		return nil, err
	}
	value := int64(len(old)) + req.GetDelta()*c.factor
	return &labv1.IncrementResponse{Value: value}, tx.KV().Put(ctx, "value", make([]byte, value))
}

func newTally(tb testing.TB) (*durabletest.Server, labv1durable.CounterStub) {
	tb.Helper()
	s := durabletest.New(tb, func(r durable.Registrar) error {
		return labv1durable.RegisterCounter(r, func(context.Context, labv1durable.CounterTx) (labv1durable.CounterHandler, error) {
			return &tally{factor: 1}, nil
		})
	})
	return s, labv1durable.NewCounterClient(s.Conn()).GetByName("a")
}

func TestRunIn(t *testing.T) {
	t.Parallel()
	t.Run("TEST-02: sets fields and writes", func(t *testing.T) {
		s, counter := newTally(t)
		err := durabletest.RunIn(s, counter.Ref, func(ctx context.Context, c *tally, tx durable.Tx) error {
			c.factor = 10
			if _, err := tx.SQL().Exec(ctx, "CREATE TABLE t AS SELECT 7 AS n"); err != nil {
				return err
			}
			return tx.KV().Put(ctx, "value", make([]byte, 5))
		})
		if err != nil {
			t.Fatal(err)
		}
		res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 2})
		if err != nil || res.GetValue() != 25 {
			t.Errorf("value %d, error %v", res.GetValue(), err)
		}
		s.Crash() // and it was durable
		err = durabletest.RunIn(s, counter.Ref, func(ctx context.Context, c labv1durable.CounterHandler, tx durable.Tx) error {
			if c.(*tally).factor != 1 {
				t.Error("the handler outlived the crash")
			}
			n, err := durable.One[int](ctx, tx.SQL(), "SELECT n FROM t")
			if n != 7 {
				t.Error(n)
			}
			value, _, gerr := tx.KV().Get(ctx, "value")
			if len(value) != 25 {
				t.Error(len(value))
			}
			return errors.Join(err, gerr)
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("TEST-01: the error comes back as it is", func(t *testing.T) {
		sentinel := errors.New("mine")
		for name, c := range map[string]struct {
			sync bool
			err  error
			kept int64
		}{
			"rolled back":          {err: sentinel},
			"after a commit point": {sync: true, err: sentinel, kept: 3},
			"kept":                 {err: durable.Keep(sentinel), kept: 9},
		} {
			t.Run(name, func(t *testing.T) {
				s, counter := newTally(t)
				err := durabletest.RunIn(s, counter.Ref, func(ctx context.Context, _ *tally, tx durable.Tx) error {
					if c.sync {
						if err := errors.Join(tx.KV().Put(ctx, "value", make([]byte, 3)), tx.Sync(ctx)); err != nil {
							return err
						}
					}
					if err := tx.KV().Put(ctx, "value", make([]byte, 9)); err != nil {
						return err
					}
					return c.err
				})
				if err != sentinel { //nolint:errorlint // it is that very error
					t.Errorf("%#v", err)
				}
				res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{})
				if err != nil || res.GetValue() != c.kept {
					t.Errorf("value %d, error %v", res.GetValue(), err)
				}
			})
		}
	})
	t.Run("TEST-01: it goes through the gate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, counter := newTally(t)
			var order []string
			done := make(chan error)
			go func() {
				done <- durabletest.RunIn(s, counter.Ref, func(ctx context.Context, _ *tally, tx durable.Tx) error {
					time.Sleep(10 * time.Second)
					order = append(order, "run in")
					return tx.KV().Put(ctx, "value", make([]byte, 3))
				})
			}()
			synctest.Wait()
			res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
			order = append(order, fmt.Sprint("call ", res.GetValue()))
			if err := errors.Join(err, <-done); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"run in", "call 4"}, order); diff != "" {
				t.Error(diff)
			}
		})
	})
	t.Run("ID-25: the name is there for a ref by id", func(t *testing.T) {
		s, counter := newTally(t)
		if _, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
			t.Fatal(err)
		}
		s.Evict(counter.Ref)
		for _, id := range s.ListIDs(labv1durable.CounterType) {
			byID := labv1durable.NewCounterClient(s.Conn()).Get(id)
			err := durabletest.RunIn(s, byID.Ref, func(_ context.Context, _ *tally, tx durable.Tx) error {
				if tx.Name() != "a" || tx.ID() != counter.ID() {
					t.Errorf("name %q, id %v", tx.Name(), tx.ID())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("TEST-01: a handler of another type fails the test", func(t *testing.T) {
		f := &failing{T: t}
		s, counter := newTally(f)
		defer func() {
			want := `durabletest: run in lab.counter "a": its handler is a *durabletest_test.tally, and not a *durabletest_test.failing`
			if recover() != f || len(f.said) != 1 || f.said[0] != want {
				t.Errorf("it said %q", f.said)
			}
			if _, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
				t.Error(err)
			}
		}()
		_ = durabletest.RunIn(s, counter.Ref, func(context.Context, *failing, durable.Tx) error {
			t.Error("it ran")
			return nil
		})
	})
	t.Run("a type that is not registered", func(t *testing.T) {
		s, _ := newTally(t)
		other := labv1durable.NewKVLabClient(s.Conn()).GetByName("a")
		if err := durabletest.RunIn(s, other.Ref, func(context.Context, *tally, durable.Tx) error { return nil }); !errors.Is(err, durable.ErrMethodUnknown) {
			t.Error(err)
		}
	})
	t.Run("a test that ends inside", func(t *testing.T) {
		s, counter := newTally(t)
		for name, end := range map[string]func(){"FailNow": runtime.Goexit, "panic": func() { panic("the end") }} {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = durabletest.RunIn(s, counter.Ref, func(ctx context.Context, _ *tally, tx durable.Tx) error {
					err := tx.KV().Put(ctx, "value", make([]byte, 9))
					end()
					return err
				})
			}()
			<-ended
			if res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{}); err != nil || res.GetValue() != 0 {
				t.Errorf("%s: value %d, error %v", name, res.GetValue(), err)
			}
		}
	})
}

func TestListIDs(t *testing.T) { // TEST-05
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	client := labv1durable.NewKVLabClient(s.Conn())
	unnamed := client.NewUniqueID()
	put := &labv1.RunRequest{Steps: []*labv1.Step{{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte("k")}}}}}
	for _, o := range []labv1durable.KVLabStub{client.GetByName("b"), client.GetByName("a"), client.Get(unnamed)} {
		if _, err := o.Run(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.GetByName("read").Read(t.Context(), &labv1.ReadRequest{}); err != nil { // does not exist
		t.Fatal(err)
	}
	want := []durable.ID{unnamed, client.IDFromName("a"), client.IDFromName("b")}
	for again, do := range map[string]func(){"at once": func() {}, "after a restart": s.Restart, "after a crash": s.Crash} {
		do()
		if diff := cmp.Diff(want, s.ListIDs("lab.kv"), cmp.Comparer(func(a, b durable.ID) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", again, diff)
		}
	}
	if ids := s.ListIDs("lab.counter"); len(ids) != 0 {
		t.Error(ids)
	}
	f := &failing{T: t}
	other := durabletest.New(f, func(durable.Registrar) error { return nil })
	defer func() {
		if recover() != f || len(f.said) != 1 || !strings.Contains(f.said[0], "lab.kv") {
			t.Errorf("it said %q", f.said)
		}
	}()
	other.ListIDs("lab.kv")
}

func TestEvict(t *testing.T) {
	t.Parallel()
	t.Run("drops an object", func(t *testing.T) {
		s := durabletest.New(t, lab.Register)
		counter := labv1durable.NewCounterClient(s.Conn()).GetByName("a")
		if s.Evict(counter.Ref) {
			t.Error("an object that was never called was in memory")
		}
		for i := range int64(3) {
			res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]int64{i + 1, 1}, []int64{res.GetValue(), res.GetCalls()}); diff != "" {
				t.Errorf("value and calls (-want +got):\n%s", diff)
			}
			if n := s.Server().Active(); n != 1 {
				t.Errorf("%d objects are in memory", n)
			}
			if !s.Evict(counter.Ref) {
				t.Error("the object was not in memory")
			}
		}
		if n := s.Server().Active(); n != 0 {
			t.Errorf("%d objects are in memory", n)
		}
	})
	// busy makes a call that takes so long.
	busy := func(t *testing.T, conn durable.Conn, d time.Duration) (labv1durable.RecorderStub, <-chan error) {
		t.Helper()
		r := labv1durable.NewRecorderClient(conn).GetByName("a")
		done := make(chan error, 1)
		go func() {
			_, err := r.Append(context.Background(), &labv1.AppendRequest{Text: "x", SleepMs: d.Milliseconds()})
			done <- err
		}()
		synctest.Wait()
		return r, done
	}
	limits := durable.Limits{HandlerTimeout: time.Hour, MaxQueueWait: 3 * time.Second}
	slow := &lab.Lab{Options: []durable.ObjectOption{durable.WithLimits(limits)}}
	t.Run("TEST-07: waits for work in flight", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := durabletest.New(t, slow.Register)
			r, done := busy(t, s.Conn(), 29*time.Second)
			started := time.Now()
			if !s.Evict(r.Ref) {
				t.Error("it was not in memory")
			}
			if passed := time.Since(started); passed < 29*time.Second || passed > 29*time.Second+10*time.Millisecond {
				t.Errorf("it took %v", passed)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("TEST-07: fails after 30 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := &failing{T: t}
			s := durabletest.New(f, slow.Register)
			r, done := busy(t, s.Conn(), time.Minute)
			started := time.Now()
			defer func() {
				want := []string{`durabletest: evict lab.recorder "a": it is still at work after 30s`}
				if diff := cmp.Diff(want, f.said); recover() != f || diff != "" {
					t.Error(diff)
				}
				if passed := time.Since(started); passed < 30*time.Second || passed > 30*time.Second+10*time.Millisecond {
					t.Errorf("it took %v", passed)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			s.Evict(r.Ref)
		})
	})
	t.Run("TEST-08: all", func(t *testing.T) {
		s := durabletest.New(t, (&lab.Lab{Options: []durable.ObjectOption{durable.WithKeepActive()}}).Register)
		if n := s.EvictAll(); n != 0 {
			t.Errorf("%d were in memory", n)
		}
		for round := range int64(3) {
			for _, name := range []string{"a", "b", "c"} {
				if value, err := increment(t.Context(), s.Conn(), name, 1); err != nil || value != round+1 {
					t.Errorf("value %d, error %v", value, err)
				}
			}
			// One that has nothing stored is dropped as well.
			if _, err := labv1durable.NewKVLabClient(s.Conn()).GetByName("a").Read(t.Context(), &labv1.ReadRequest{}); err != nil {
				t.Fatal(err)
			}
			if n := s.Server().Active(); n != 4 {
				t.Errorf("%d objects are in memory", n)
			}
			if n := s.EvictAll(); n != 4 {
				t.Errorf("%d were in memory", n)
			}
			if n := s.Server().Active(); n != 0 {
				t.Errorf("%d objects are in memory", n)
			}
		}
	})
}

func TestReset(t *testing.T) { // TEST-08
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lab.Lab{}
		s := durabletest.New(t, l.Register)
		for way, conn := range conns(s) {
			o := alarmLab{t, labv1durable.NewAlarmLabClient(conn).GetByName("a")}
			once := durable.WithIdempotencyKey("k")
			o.act(set("", time.Minute), put("k", "v"), sql("CREATE TABLE t (a)"))
			if value, err := incrementOnce(t.Context(), conn, once); err != nil || value != 1 {
				t.Errorf("%s: value %d, error %v", way, value, err)
			}
			s.Reset()
			if ids := slices.Concat(s.ListIDs("lab.alarm"), s.ListIDs("lab.counter")); len(ids) != 0 || s.Server().Active() != 0 {
				t.Errorf("%s: %v, %d in memory", way, ids, s.Server().Active())
			}
			time.Sleep(2 * time.Minute)
			if events := o.events(); len(events.GetBegan()) != 0 {
				t.Errorf("%s: %v", way, events)
			}
			if got := o.stored(); got != "" {
				t.Errorf("%s: %s", way, got)
			}
			if value, err := incrementOnce(t.Context(), conn, once); err != nil || value != 1 {
				t.Errorf("%s: value %d, error %v: the reply was remembered", way, value, err)
			}
			s.Reset()
		}
	})
}
