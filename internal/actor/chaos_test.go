package actor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

const (
	chaosObjects = 8
	chaosWorkers = 12
	chaosCalls   = 150
)

// A chaos is a host whose few objects are called, evicted, looked at, woken and
// made to fail all at once.
type chaos struct {
	*testHost
	t       *testing.T
	objects [chaosObjects]chaosObject
	mu      struct {
		sync.Mutex
		rng *rand.Rand
	}
}

// A chaosObject is what is known about one object, which counts.
type chaosObject struct {
	name   string
	id     durable.ID
	inside atomic.Int32
	acked  atomic.Int64 // additions that were acknowledged
	maybe  atomic.Int64 // those that may have been stored
}

// TestChaos: whatever happens to objects at once, one turn of each acts at a time
// and on a handler that lives (LIFE-13), no acknowledged write is lost and no
// undone one is stored (LIFE-10), and a minute later nothing is left in memory.
func TestChaos(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaosRound(t, rng.Uint64(), round%2 == 0) })
		})
	}
}

// chaosRound runs the operations. With leave, handlers have an Evict.
func chaosRound(t *testing.T, seed uint64, leave bool) {
	c := &chaos{t: t}
	c.mu.rng = rand.New(rand.NewPCG(seed, 0))
	for i := range c.objects {
		name := fmt.Sprint(i)
		c.objects[i].name, c.objects[i].id = name, durable.IDFromName("counter", name)
	}
	store := memkv.New(memkv.Options{CommitDelay: 3 * time.Millisecond})
	c.open(store, leave)
	var all sync.WaitGroup
	for range chaosWorkers {
		all.Go(func() {
			for range chaosCalls {
				c.step(&c.objects[c.intN(chaosObjects)])
				if c.intN(3) == 0 {
					c.sleep(30)
				}
			}
		})
	}
	all.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	c.check()
	if err := c.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	_ = store.Close()
	synctest.Wait()
}

func (c *chaos) open(store *memkv.Store, leave bool) {
	host, err := NewHost(context.Background(), storage.Info{MaxBatch: 1 << 20}, join(c.t, store), Options{MaxActive: 4})
	if err != nil {
		c.t.Fatal(err)
	}
	c.testHost = &testHost{Host: host}
	typ := &durable.ObjectType{
		Name: "counter",
		Limits: durable.Limits{
			IdleTimeout: 20 * time.Millisecond, BackgroundTimeout: 30 * time.Millisecond,
			HandlerTimeout: 200 * time.Millisecond, StuckTimeout: 100 * time.Millisecond, MaxQueueWait: 5 * time.Second,
		}.WithDefaults(),
		New: func(context.Context, durable.Tx) (any, error) { return &counter{}, nil },
		Alarms: []durable.AlarmType{
			{Name: "", Retry: durable.AlarmRetry{MaxRetries: 6, FirstDelay: 5 * time.Millisecond}, Run: c.alarm},
			{Name: "often", Retry: durable.AlarmRetry{MaxRetries: -1, FirstDelay: 5 * time.Millisecond}, Run: c.alarm},
		},
	}
	if leave {
		leavers(typ)
	}
	if c.typ, err = host.Register(context.Background(), typ); err != nil {
		c.t.Fatal(err)
	}
	host.Start()
}

func (c *chaos) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.rng.IntN(n)
}

// sleep lets less than that many milliseconds pass.
func (c *chaos) sleep(n int) { time.Sleep(time.Duration(c.intN(n)) * time.Millisecond) }

// enter is called when a turn of the object begins to act, and exit when it ends.
func (c *chaos) enter(o *chaosObject) (exit func()) {
	if n := o.inside.Add(1); n != 1 {
		c.t.Errorf("%d turns of object %s act at once", n, o.name)
	}
	return func() { o.inside.Add(-1) }
}

// add adds one to what the object stores.
func (c *chaos) add(ctx context.Context, o *chaosObject, tx durable.Tx) error {
	defer c.enter(o)()
	val, _, err := tx.KV().Get(ctx, "n")
	if err != nil {
		return err
	}
	if c.intN(3) == 0 {
		c.sleep(4)
	}
	return tx.KV().Put(ctx, "n", append(val, 'x'))
}

func (c *chaos) alarm(ctx context.Context, _ any, tx durable.Tx, _ durable.AlarmInfo, _ proto.Message) error {
	for i := range c.objects {
		if o := &c.objects[i]; o.name == tx.Name() {
			defer c.enter(o)()
		}
	}
	if c.intN(4) == 0 {
		return errTest
	}
	return tx.KV().Put(ctx, "rang", []byte("x"))
}

// lives checks that the handler was not evicted.
func (c *chaos) lives(o *chaosObject, handler any) {
	if v, ok := handler.(*leaver); ok && v.gone.Load() {
		c.t.Errorf("object %s: a turn on an evicted handler", o.name)
	}
}

func (c *chaos) turn(o *chaosObject, fn func(ctx context.Context, tx durable.Tx) error) error {
	return c.Update(context.Background(), c.typ, o.id, o.name, func(ctx context.Context, handler any, tx durable.Tx) error {
		c.lives(o, handler)
		return fn(ctx, tx)
	})
}

// counts adds n to what is known of the object, by how the call that stores it
// ended.
func (o *chaosObject) counts(n int64, err error) {
	if err == nil {
		o.acked.Add(n)
	} else {
		o.maybe.Add(n)
	}
}

// step does something to an object. Many calls may fail, and do.
func (c *chaos) step(o *chaosObject) {
	ctx := context.Background()
	switch c.intN(15) {
	case 0, 1, 2, 3:
		o.counts(1, c.turn(o, func(ctx context.Context, tx durable.Tx) error { return c.add(ctx, o, tx) }))
	case 4:
		o.counts(2, c.turn(o, func(ctx context.Context, tx durable.Tx) error {
			if err := c.add(ctx, o, tx); err != nil {
				return err
			}
			if err := tx.Await(ctx, func(context.Context) error { c.sleep(5); return nil }); err != nil {
				return err
			}
			return c.add(ctx, o, tx)
		}))
	case 5:
		_ = c.turn(o, func(ctx context.Context, tx durable.Tx) error { _ = c.add(ctx, o, tx); return errTest })
	case 6:
		_ = c.turn(o, func(ctx context.Context, tx durable.Tx) error { _ = c.add(ctx, o, tx); panic("on purpose") })
	case 7:
		_ = c.turn(o, func(ctx context.Context, tx durable.Tx) error {
			_ = c.add(ctx, o, tx)
			tx.Abort("on purpose")
			return nil
		})
	case 8:
		_, _ = c.Describe(ctx, c.typ, o.id)
	case 9:
		_, _ = c.Evict(ctx, c.typ, o.id)
	case 10:
		_ = c.Inspect(ctx, c.typ, o.id, func(durable.View) error { time.Sleep(time.Millisecond); return nil })
	case 11:
		_, _ = c.RunAlarm(ctx, c.typ, o.id, "often")
	case 12:
		_ = c.turn(o, func(_ context.Context, tx durable.Tx) error {
			alarm := []string{"", "often"}[c.intN(2)]
			return tx.AlarmPort().Set(alarm, time.Now().Add(time.Duration(c.intN(30))*time.Millisecond), nil)
		})
	case 13:
		o.maybe.Add(1)
		_ = c.turn(o, func(_ context.Context, tx durable.Tx) error {
			return tx.Background(func(_ context.Context, turns durable.TurnPort) error {
				time.Sleep(20 * time.Millisecond)
				c.sleep(20) // perhaps for longer than it may take
				return turns.Update(ctx, func(tx durable.Tx) error { return c.add(ctx, o, tx) })
			})
		})
	case 14:
		o.maybe.Add(1)
		m := &durable.Method{ServerStream: true, Streaming: func(ctx context.Context, handler any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
			c.sleep(5)
			return nil, port.Update(ctx, func(tx durable.Tx) error {
				c.lives(o, handler)
				return c.add(ctx, o, tx)
			})
		}}
		_ = c.Stream(ctx, c.call(o.name, m), nil, nil)
	}
}

// check looks at what is left when everything has come to rest.
func (c *chaos) check() {
	entries := 0
	for i := range c.table {
		entries += len(c.table[i].mu.objects)
	}
	if active, timers := c.Active(), len(c.alarms.mu.timers); active+entries+timers != 0 {
		c.t.Errorf("%d activations, %d entries and %d timers are left", active, entries, timers)
	}
	for i := range c.objects {
		o := &c.objects[i]
		err := c.Inspect(context.Background(), c.typ, o.id, func(v durable.View) error {
			val, _, err := v.KV().Get(context.Background(), "n")
			if err != nil {
				return err
			}
			if n, acked, maybe := int64(len(val)), o.acked.Load(), o.maybe.Load(); n < acked || n > acked+maybe {
				c.t.Errorf("object %s has %d, with %d acknowledged and %d more at most", o.name, n, acked, maybe)
			}
			left, err := v.AlarmReader().All()
			if len(left) > 0 {
				c.t.Errorf("object %s: alarms are left: %v", o.name, left)
			}
			return err
		})
		if err != nil {
			c.t.Error(err)
		}
	}
}
