package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// A crashTest runs random calls on objects that count, over a store that loses
// what is not durable, whole shards and acknowledgements.
//
// Each object has a counter and a copy of it, which one turn writes together,
// and its activation has the same number in a field. What callers learn never
// goes back: not after a crash either.
type crashTest struct {
	t     *testing.T
	rng   *rand.Rand
	store *memkv.Store
	host  *testHost

	mu struct {
		sync.Mutex
		shown    map[string]int         // the highest number that a reply told
		given    map[string]map[int]int // numbers that increments were told, with the call
		outcomes map[string]int
	}
}

var errCrashTest = errors.New("the handler failed")

func number(ctx context.Context, kv durable.KVReader, key string) (int, error) {
	value, ok, err := kv.Get(ctx, key)
	if err != nil || !ok {
		return 0, err
	}
	return strconv.Atoi(string(value))
}

// consistent returns the counter, after a look at everything that should be
// equal to it.
func (c *crashTest) consistent(ctx context.Context, s *counter, kv durable.KVReader) (int, error) {
	n, err := number(ctx, kv, "n")
	if err != nil {
		return 0, err
	}
	m, err := number(ctx, kv, "copy")
	if err != nil {
		return 0, err
	}
	if m != n || s.n != n {
		c.t.Errorf("the counter is %d, its copy %d and the field %d", n, m, s.n)
	}
	return n, nil
}

// add adds one, in two keys and the field.
func (c *crashTest) add(ctx context.Context, s *counter, tx durable.Tx) (int, error) {
	n, err := c.consistent(ctx, s, tx.KV())
	if err != nil {
		return 0, err
	}
	n++
	s.n = n
	if err := tx.KV().Put(ctx, "n", fmt.Append(nil, n)); err != nil {
		return 0, err
	}
	return n, tx.KV().Put(ctx, "copy", fmt.Append(nil, n))
}

func (c *crashTest) construct(ctx context.Context, tx durable.Tx) (any, error) {
	n, err := number(ctx, tx.KV(), "n")
	return &counter{n}, err
}

// learned takes a number that a reply told. at is what had been shown when the
// call began.
func (c *crashTest) learned(call int, key string, n, at int, added bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < at || added && n == at {
		c.t.Errorf("call %d: %s is %d, but %d had been shown before", call, key, n, at)
	}
	if added {
		if other, ok := c.mu.given[key][n]; ok {
			c.t.Errorf("calls %d and %d both made %s %d", other, call, key, n)
		}
		if c.mu.given[key] == nil {
			c.mu.given[key] = map[int]int{}
		}
		c.mu.given[key][n] = call
	}
	c.mu.shown[key] = max(c.mu.shown[key], n)
}

// call makes one random call.
func (c *crashTest) call(call int, rng *rand.Rand, host *testHost) {
	key, other := fmt.Sprint("o", rng.IntN(5)), fmt.Sprint("o", rng.IntN(5))
	pause := time.Duration(rng.IntN(3000)) * time.Microsecond
	kind := rng.IntN(12)
	ctx := c.t.Context()
	if rng.IntN(5) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(20000))*time.Microsecond)
		defer cancel()
	}
	c.mu.Lock()
	at, otherAt := c.mu.shown[key], c.mu.shown[other]
	c.mu.Unlock()
	n, inner := 0, 0
	var err error
	added := true
	switch {
	case kind < 3:
		added = false
		err = host.view(ctx, key, func(ctx context.Context, s *counter, view durable.View) error {
			time.Sleep(pause)
			n, err = c.consistent(ctx, s, view.KV())
			return err
		})
	case kind == 3:
		id := durable.IDFromName("counter", key)
		_, err = host.Evict(ctx, host.typ, id)
		n, added = at, false
	case kind == 4:
		err = host.stream(ctx, key, func(ctx context.Context, port durable.StreamPort) error {
			err := port.Update(ctx, func(tx durable.Tx) error {
				// A stream has no handler at hand, so it only reads.
				n, err = number(ctx, tx.KV(), "n")
				return err
			})
			time.Sleep(pause)
			return err
		})
		added = false
	default:
		err = host.update(ctx, key, func(ctx context.Context, s *counter, tx durable.Tx) error {
			switch kind {
			case 5: // the turn is left in the middle
				if _, err := c.add(ctx, s, tx); err != nil {
					return err
				}
				if err := tx.Await(ctx, func(context.Context) error { time.Sleep(pause); return nil }); err != nil {
					return err
				}
			case 6: // another object counts as well
				if _, err := c.add(ctx, s, tx); err != nil {
					return err
				}
				if err := callOther(ctx, tx, other, func(ctx context.Context, s *counter, tx durable.Tx) (err error) {
					inner, err = c.add(ctx, s, tx)
					return err
				}); err != nil {
					return err
				}
				c.learned(call, other, inner, otherAt, true)
			case 7:
				if _, err := c.add(ctx, s, tx); err != nil {
					return err
				}
				if err := tx.Sync(ctx); err != nil {
					return err
				}
			case 8: // fails after it wrote
				if _, err := c.add(ctx, s, tx); err != nil {
					return err
				}
				switch rng.IntN(3) {
				case 0:
					return errCrashTest
				case 1:
					panic(errCrashTest)
				default:
					tx.Abort("crash test")
				}
			case 9: // undoes in a savepoint what it wrote
				before := s.n
				if err := tx.Savepoint(func() error {
					if _, err := c.add(ctx, s, tx); err != nil {
						return err
					}
					return errCrashTest
				}); !errors.Is(err, errCrashTest) {
					return err
				}
				s.n = before
			}
			var err error
			n, err = c.add(ctx, s, tx)
			if rng.IntN(4) == 0 {
				time.Sleep(pause)
			}
			return err
		})
	}
	c.mu.Lock()
	c.mu.outcomes[fmt.Sprint(kind, err == nil)]++
	c.mu.Unlock()
	if err == nil {
		c.learned(call, key, n, at, added)
	}
}

// open starts a host on what is stored, and checks that everything that was
// shown is there.
func (c *crashTest) open() {
	session, err := c.store.Join(c.t.Context(), storage.Node{ID: "n1"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.host = newTestHost(c.t, session, durable.Limits{GateTimeout: 40 * time.Millisecond}, c.construct)
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, shown := range c.mu.shown {
		stored := 0
		if err := c.host.view(c.t.Context(), key, func(ctx context.Context, _ *counter, view durable.View) error {
			stored, err = number(ctx, view.KV(), "n")
			return err
		}); err != nil {
			c.t.Fatal(err)
		}
		if stored < shown {
			c.t.Errorf("%s is %d after a crash, and %d had been shown", key, stored, shown)
		}
	}
}

// TestCrash: what a reply told is never lost, and no two increments get the
// same number. (GATE-02, GATE-29, GATE-39, LIFE-03, LIFE-10)
func TestCrash(t *testing.T) {
	s := seed(t)
	rounds := uint64(4)
	if testing.Short() {
		rounds = 1
	}
	if *seedFlag != 0 {
		rounds = 1
	}
	total := map[string]int{}
	for round := range rounds {
		t.Logf("round %d has seed %d", round, s+round)
		synctest.Test(t, func(t *testing.T) {
			c := &crashTest{t: t, rng: rand.New(rand.NewPCG(s+round, 0))}
			c.mu.shown, c.mu.given, c.mu.outcomes = map[string]int{}, map[string]map[int]int{}, map[string]int{}
			c.store = memkv.New(memkv.Options{CommitDelay: 2345 * time.Microsecond})
			c.open()
			var calls sync.WaitGroup
			for call := range 2000 {
				rng := rand.New(rand.NewPCG(c.rng.Uint64(), 0))
				host := c.host
				calls.Go(func() { c.call(call, rng, host) })
				synctest.Wait()
				time.Sleep(time.Duration(c.rng.IntN(700)) * time.Microsecond)
				switch k := c.rng.IntN(300); {
				case k < 4:
					c.store.Crash()
					if k < 2 { // the calls of the old host fail later than the new one begins
						c.open()
						break
					}
					calls.Wait()
					c.open()
				case k < 8:
					c.store.LoseAck("n1")
				case k < 10:
					c.store.Pause()
					time.Sleep(time.Duration(c.rng.IntN(60)) * time.Millisecond)
					c.store.Resume()
				case k < 12:
					c.store.Fill(true)
					time.Sleep(time.Millisecond)
					c.store.Fill(false)
				}
			}
			calls.Wait()
			if err := c.host.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			c.store.Crash()
			c.open()
			for k, n := range c.mu.outcomes {
				total[k] += n
			}
			if err := c.store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if testing.Verbose() {
		t.Log("outcomes by kind of call:", total)
	}
}
