package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// A lifeTest is a host of objects that say what becomes of them.
type lifeTest struct {
	*testHost
	store *memkv.Store
	mu    sync.Mutex
	made  map[string]int
	told  []string // whose Evict was called
	slow  time.Duration
}

// A mortal is a handler that wants to know of its end.
type mortal struct {
	l    *lifeTest
	name string
}

func (m *mortal) Evict(ctx context.Context) {
	m.l.mu.Lock()
	m.l.told = append(m.l.told, m.name)
	slow := m.l.slow
	m.l.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
}

func lifeBubble(t *testing.T, name string, opts Options, limits durable.Limits, change func(*durable.ObjectType), fn func(t *testing.T, l *lifeTest)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := &lifeTest{store: memkv.New(memkv.Options{}), made: map[string]int{}}
			host, err := NewHost(t.Context(), storage.Info{MaxBatch: 1 << 20}, join(t, l.store), opts)
			if err != nil {
				t.Fatal(err)
			}
			typ := &durable.ObjectType{Name: "counter", Limits: limits.WithDefaults(), New: func(_ context.Context, tx durable.Tx) (any, error) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.made[tx.Name()]++
				return &counter{}, nil
			}}
			if change != nil {
				change(typ)
			}
			l.testHost = &testHost{Host: host}
			if l.typ, err = host.Register(t.Context(), typ); err != nil {
				t.Fatal(err)
			}
			fn(t, l)
			if err := l.Drain(context.Background()); err != nil {
				t.Error(err)
			}
			_ = l.store.Close()
			synctest.Wait()
		})
	})
}

func (l *lifeTest) touch(t *testing.T, name string) {
	t.Helper()
	if err := l.update(context.Background(), name, func(context.Context, *counter, durable.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}

func (l *lifeTest) wantMade(t *testing.T, name string, want int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made[name] != want {
		t.Errorf("%s was made %d times, want %d", name, l.made[name], want)
	}
}

func (l *lifeTest) setSlow(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = d
}

// entries counts the entries of the table.
func (l *lifeTest) entries() (n int) {
	for i := range l.table {
		b := &l.table[i]
		b.mu.Lock()
		n += len(b.mu.objects)
		b.mu.Unlock()
	}
	return n
}

func TestIdle(t *testing.T) {
	lifeBubble(t, "LIFE-03 LIFE-04 LIFE-05", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		l.touch(t, "a")
		time.Sleep(9900 * time.Millisecond)
		l.touch(t, "a")
		time.Sleep(9900 * time.Millisecond)
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
		time.Sleep(10100 * time.Millisecond)
		if l.Active() != 0 || l.entries() != 0 {
			t.Errorf("%d objects and %d entries are in memory", l.Active(), l.entries())
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 2)
	})
	lifeBubble(t, "a type of its own", Options{}, durable.Limits{IdleTimeout: time.Hour}, nil, func(t *testing.T, l *lifeTest) {
		l.touch(t, "a")
		time.Sleep(59 * time.Minute)
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
		time.Sleep(61 * time.Minute)
		l.touch(t, "a")
		l.wantMade(t, "a", 2)
	})
	keep := func(typ *durable.ObjectType) { typ.KeepActive = true }
	lifeBubble(t, "LIFE-08", Options{MaxActive: 2}, durable.Limits{}, keep, func(t *testing.T, l *lifeTest) {
		for i := range 10 {
			l.touch(t, fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		if l.Active() != 10 {
			t.Errorf("%d objects are in memory", l.Active())
		}
	})
	lifeBubble(t, "a call that takes long", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return tx.Await(ctx, func(context.Context) error { time.Sleep(time.Minute); return nil })
		})
		if err != nil {
			t.Error(err)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
	})
	lifeBubble(t, "an open stream", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		err := l.stream(t.Context(), "a", func(context.Context, durable.StreamPort) error { time.Sleep(time.Minute); return nil })
		if err != nil {
			t.Error(err)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
	})
	lifeBubble(t, "LIFE-22 an entry without an activation goes too", Options{}, durable.Limits{}, func(typ *durable.ObjectType) {
		typ.New = func(ctx context.Context, tx durable.Tx) (any, error) {
			_ = tx.KV().Put(ctx, "k", []byte("v"))
			_ = tx.Sync(ctx)
			return nil, errTest
		}
	}, func(t *testing.T, l *lifeTest) {
		for i := range 100 {
			if err := l.update(t.Context(), fmt.Sprint(i), nil); !errors.Is(err, errTest) {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		if n := l.entries(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

func TestActiveLimit(t *testing.T) {
	lifeBubble(t, "LIFE-21 the least recently used goes", Options{MaxActive: 3}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		for _, name := range strings.Split("a b c a d b", " ") {
			l.touch(t, name)
			time.Sleep(time.Millisecond)
		}
		// d took the place of b, and b that of c.
		for name, want := range map[string]int{"a": 1, "b": 2, "c": 1, "d": 1} {
			l.wantMade(t, name, want)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
		l.touch(t, "c")
		l.wantMade(t, "c", 2)
		if l.Active() != 3 {
			t.Errorf("%d objects are in memory", l.Active())
		}
	})
	lifeBubble(t, "objects at work stay", Options{MaxActive: 2}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				if err := l.update(context.Background(), fmt.Sprint(i), func(context.Context, *counter, durable.Tx) error {
					time.Sleep(time.Second)
					return nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		l.touch(t, "x")
		if n := l.Active(); n != 2 {
			t.Errorf("%d objects are in memory", n)
		}
	})
}

func TestEvictHook(t *testing.T) {
	hook := func(l **lifeTest) func(*durable.ObjectType) {
		return func(typ *durable.ObjectType) {
			typ.New = func(_ context.Context, tx durable.Tx) (any, error) {
				return &mortal{l: *l, name: tx.Name()}, nil
			}
		}
	}
	var l *lifeTest
	touch := func(t *testing.T, l *lifeTest, name string) {
		err := l.Update(t.Context(), l.typ, durable.IDFromName("counter", name), name, func(_ context.Context, h any, tx durable.Tx) error {
			h.(*mortal).l = l
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	lifeBubble(t, "LIFE-19", Options{}, durable.Limits{}, hook(&l), func(t *testing.T, l *lifeTest) {
		touch(t, l, "a")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if len(l.told) != 1 || l.Active() != 0 {
			t.Errorf("told %q, %d in memory", l.told, l.Active())
		}
		touch(t, l, "b")
		if err := l.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if len(l.told) != 2 || l.told[1] != "b" {
			t.Errorf("told %q", l.told)
		}
	})
	lifeBubble(t, "one that takes long", Options{}, durable.Limits{}, hook(&l), func(t *testing.T, l *lifeTest) {
		l.setSlow(time.Hour)
		touch(t, l, "a")
		time.Sleep(11 * time.Second)
		begun := time.Now()
		touch(t, l, "a") // waits for the end of the old one
		if took := time.Since(begun); took != 9*time.Second {
			t.Errorf("the call took %v", took)
		}
		l.setSlow(0)
	})
}

func TestWatchdog(t *testing.T) {
	lifeBubble(t, "GO-09 a handler that never returns", Options{}, durable.Limits{IdleTimeout: time.Hour}, nil, func(t *testing.T, l *lifeTest) {
		block := make(chan struct{})
		stuck := make(chan error, 1)
		go func() {
			stuck <- l.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
					return err
				}
				<-block
				if err := tx.KV().Put(context.Background(), "k", []byte("late")); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("the late put: %v", err)
				}
				return nil
			})
		}()
		synctest.Wait()
		time.Sleep(45 * time.Second)
		begun := time.Now()
		err := l.update(context.Background(), "a", func(context.Context, *counter, durable.Tx) error { return nil })
		if !errors.Is(err, durable.ErrStuck) || !errors.Is(err, durable.ErrReset) || time.Since(begun) > 16*time.Second {
			t.Errorf("the call that waits ended after %v with %v", time.Since(begun), err)
		}
		if err := l.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil {
				t.Errorf("what the stuck handler wrote is there: %v", err)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		close(block)
		if err := <-stuck; !errors.Is(err, durable.ErrStuck) {
			t.Errorf("the stuck call: %v", err)
		}
		l.touch(t, "a") // its end harms nobody
		l.wantMade(t, "a", 2)
	})
}

// TestAbortFromOutside: an abort ends the handler's context and frees the object,
// whatever the handler does.
func TestAbortFromOutside(t *testing.T) {
	lifeBubble(t, "ABRT-01 ABRT-07", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		first := make(chan error, 1)
		go func() {
			first <- l.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
				<-ctx.Done()
				time.Sleep(time.Second) // and takes its time
				return tx.KV().Put(context.Background(), "k", []byte("v"))
			})
		}()
		synctest.Wait()
		waiting := make(chan error, 1)
		go func() {
			waiting <- l.update(context.Background(), "a", func(context.Context, *counter, durable.Tx) error { return nil })
		}()
		synctest.Wait()
		begun := time.Now()
		was, err := l.Abort(t.Context(), l.typ, durable.IDFromName("counter", "a"), "on purpose")
		if !was || err != nil {
			t.Errorf("%v %v", was, err)
		}
		if err := <-waiting; !errors.Is(err, durable.ErrReset) {
			t.Errorf("the call that waited: %v", err)
		}
		l.touch(t, "a")
		if took := time.Since(begun); took != 0 {
			t.Errorf("the next call waited for %v", took)
		}
		var abort *durable.AbortError
		if err := <-first; !errors.As(err, &abort) || abort.Reason != "on purpose" {
			t.Errorf("the call under way: %v", err)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 2)
	})
}

func TestBackground(t *testing.T) {
	lifeBubble(t, "LIFE-15 LIFE-16", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		done := make(chan error, 1)
		begun := time.Now()
		if err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return tx.Background(func(ctx context.Context, turns durable.TurnPort) error {
				time.Sleep(time.Minute)
				err := turns.Update(ctx, func(tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) })
				done <- err
				return err
			})
		}); err != nil {
			t.Fatal(err)
		}
		if time.Since(begun) != 0 {
			t.Error("the reply waited")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.touch(t, "a")
		l.wantMade(t, "a", 1)
		time.Sleep(11 * time.Second)
		if l.Active() != 0 {
			t.Error("it stays in memory")
		}
	})
	lifeBubble(t, "15 minutes at most", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		done := make(chan error, 1)
		block := make(chan struct{})
		if err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return tx.Background(func(ctx context.Context, turns durable.TurnPort) error {
				<-block // ignores its context
				done <- turns.Update(context.Background(), func(durable.Tx) error { return nil })
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15*time.Minute + 11*time.Second)
		if l.Active() != 0 {
			t.Error("it stays in memory")
		}
		close(block)
		if err := <-done; !errors.Is(err, durable.ErrReset) {
			t.Errorf("a turn after the end: %v", err)
		}
	})
	lifeBubble(t, "not after a failed turn", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		err := l.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if err := tx.Savepoint(func() error {
				return tx.Background(func(context.Context, durable.TurnPort) error { return nil })
			}); !errors.Is(err, durable.ErrInSavepoint) {
				t.Errorf("in a savepoint: %v", err)
			}
			if err := tx.Background(func(context.Context, durable.TurnPort) error {
				t.Error("it runs")
				return nil
			}); err != nil {
				return err
			}
			return errTest
		})
		if !errors.Is(err, errTest) {
			t.Error(err)
		}
	})
	lifeBubble(t, "a drain ends it", Options{}, durable.Limits{}, nil, func(t *testing.T, l *lifeTest) {
		ended := false
		if err := l.update(t.Context(), "a", func(_ context.Context, _ *counter, tx durable.Tx) error {
			return tx.Background(func(ctx context.Context, _ durable.TurnPort) error {
				<-ctx.Done()
				ended = true
				return ctx.Err()
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := l.Drain(t.Context()); err != nil || !ended {
			t.Errorf("drain: %v, ended %v", err, ended)
		}
	})
}

// TestEvictionStorm: objects that go all the time lose nothing, and never two of
// one act at once.
func TestEvictionStorm(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	store := memkv.New(memkv.Options{CommitDelay: 200 * time.Microsecond})
	defer func() { _ = store.Close() }()
	host, err := NewHost(t.Context(), storage.Info{MaxBatch: 1 << 20}, join(t, store), Options{MaxActive: 3})
	if err != nil {
		t.Fatal(err)
	}
	h := &testHost{Host: host}
	h.typ, err = host.Register(t.Context(), &durable.ObjectType{
		Name: "counter", Limits: durable.Limits{IdleTimeout: time.Millisecond}.WithDefaults(),
		New: func(ctx context.Context, tx durable.Tx) (any, error) {
			val, _, err := tx.KV().Get(ctx, "n")
			return &counter{len(val)}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const objects, workers, calls = 10, 8, 400
	var counts [objects]atomic.Int64
	var all sync.WaitGroup
	for range workers {
		source := rand.New(rand.NewPCG(rng.Uint64(), 0))
		all.Go(func() {
			for range calls {
				i := source.IntN(objects)
				err := h.update(t.Context(), fmt.Sprint(i), func(ctx context.Context, c *counter, tx durable.Tx) error {
					val, _, err := tx.KV().Get(ctx, "n")
					if err != nil {
						return err
					}
					if len(val) != c.n {
						t.Errorf("memory has %d, and the store %d", c.n, len(val))
					}
					c.n++
					return tx.KV().Put(ctx, "n", append(val, 'x'))
				})
				if err != nil {
					t.Error(err)
				}
				counts[i].Add(1)
				if source.IntN(20) == 0 {
					time.Sleep(time.Duration(source.IntN(3)) * time.Millisecond)
				}
				if source.IntN(50) == 0 {
					if _, err := h.Evict(t.Context(), h.typ, durable.IDFromName("counter", fmt.Sprint(source.IntN(objects)))); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	for i := range counts {
		if err := h.view(t.Context(), fmt.Sprint(i), func(_ context.Context, c *counter, _ durable.View) error {
			if int64(c.n) != counts[i].Load() {
				t.Errorf("object %d has %d of %d", i, c.n, counts[i].Load())
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := h.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := h.Active(); n != 0 {
		t.Errorf("%d objects are in memory after the drain", n)
	}
}
