package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// TestAlarmsAgainstModel sets, deletes and runs the alarms of many objects at
// random, with restarts, failures, evictions and a scheduler that holds few, and
// compares what ran with a plain map: each alarm at its time, to the millisecond,
// once (ALM-02, ALM-10, ALM-15, ALM-23, WISH-07).
func TestAlarmsAgainstModel(t *testing.T) {
	for _, max := range []int{1, 4, heldTimers} {
		t.Run(fmt.Sprint("holds ", max), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed(t), uint64(max)))
			synctest.Test(t, func(t *testing.T) {
				m := &alarmModel{t: t, store: memkv.New(memkv.Options{}), max: max, set: map[string]time.Time{}, ran: map[string]time.Time{}}
				m.open()
				for range 400 {
					m.step(rng)
				}
				time.Sleep(time.Hour)
				m.compare()
				if len(m.set) > 0 {
					t.Errorf("%d alarms never ran", len(m.set))
				}
				_ = m.host.Drain(context.Background())
				_ = m.store.Close()
				synctest.Wait()
			})
		})
	}
}

// hold makes the scheduler read so many timers ahead.
func (s *scheduler) hold(max int) { s.max, s.mu.crowd = max, 2*max }

type alarmModel struct {
	t     *testing.T
	store *memkv.Store
	max   int
	host  *testHost
	set   map[string]time.Time // by "object/alarm"

	mu  sync.Mutex
	ran map[string]time.Time
}

var modelAlarms = []string{"", "x", "y"}

func (m *alarmModel) open() {
	host, err := NewHost(context.Background(), storage.Info{MaxBatch: 1 << 20}, join(m.t, m.store), Options{})
	if err != nil {
		m.t.Fatal(err)
	}
	host.alarms.hold(m.max)
	typ := &durable.ObjectType{
		Name:   "counter",
		Limits: durable.Limits{IdleTimeout: time.Duration(1+m.max) * 100 * time.Millisecond}.WithDefaults(),
		New:    func(context.Context, durable.Tx) (any, error) { return &counter{}, nil },
	}
	for _, name := range modelAlarms {
		typ.Alarms = append(typ.Alarms, durable.AlarmType{
			Name: name, Retry: durable.AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second}, Run: m.handle,
		})
	}
	m.host = &testHost{Host: host}
	if m.host.typ, err = host.Register(context.Background(), typ); err != nil {
		m.t.Fatal(err)
	}
	host.Start()
}

func (m *alarmModel) handle(ctx context.Context, _ any, tx durable.Tx, info durable.AlarmInfo, _ proto.Message) error {
	key := tx.Name() + "/" + info.Name
	now := time.Now()
	if now.Before(info.ScheduledTime) {
		m.t.Errorf("%s ran at %v, before its time %v", key, now, info.ScheduledTime)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.ran[key]; ok {
		m.t.Errorf("%s ran twice: at %v and %v", key, at, now)
	}
	m.ran[key] = info.ScheduledTime
	return tx.KV().Put(ctx, "ran", []byte(info.Name))
}

// compare takes what should have run by now out of the model.
func (m *alarmModel) compare() {
	m.t.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for key, at := range m.set {
		if at.After(now) {
			continue
		}
		if ran, ok := m.ran[key]; !ok || !ran.Equal(at) {
			m.t.Errorf("at %v: %s was due at %v, and ran for %v (%v)", now, key, at, ran, ok)
		}
		delete(m.ran, key)
		delete(m.set, key)
	}
	for key, at := range m.ran {
		m.t.Errorf("at %v: %s ran for %v, and was not set", now, key, at)
		delete(m.ran, key)
	}
}

func (m *alarmModel) step(rng *rand.Rand) {
	object := fmt.Sprint(rng.IntN(12))
	switch k := rng.IntN(20); {
	case k < 10: // a turn that changes some alarms, and may fail
		type change struct {
			key string
			at  time.Time
		}
		var changes []change
		fails, abandons := rng.IntN(6) == 0, rng.IntN(6) == 0
		err := m.host.update(context.Background(), object, func(ctx context.Context, _ *counter, tx durable.Tx) error {
			turn := func() error {
				for range 1 + rng.IntN(3) {
					name := modelAlarms[rng.IntN(len(modelAlarms))]
					if rng.IntN(4) == 0 {
						if err := tx.AlarmPort().Delete(name); err != nil {
							return err
						}
						changes = append(changes, change{key: object + "/" + name})
						continue
					}
					at := time.Now().Add(time.Duration(1+rng.IntN(20000)) * time.Millisecond)
					if err := tx.AlarmPort().Set(name, at, nil); err != nil {
						return err
					}
					changes = append(changes, change{object + "/" + name, at})
				}
				return nil
			}
			if err := turn(); err != nil {
				return err
			}
			if abandons {
				kept := len(changes)
				_ = tx.Savepoint(func() error { return errors.Join(turn(), errTest) })
				changes = changes[:kept]
			}
			if fails {
				return errTest
			}
			return nil
		})
		if fails != errors.Is(err, errTest) {
			m.t.Fatal(err)
		}
		if fails {
			return
		}
		for _, c := range changes {
			delete(m.set, c.key)
			if !c.at.IsZero() {
				m.set[c.key] = c.at
			}
		}
	case k == 10:
		if _, err := m.host.Evict(context.Background(), m.host.typ, durable.IDFromName("counter", object)); err != nil {
			m.t.Fatal(err)
		}
	case k == 11: // another process
		m.host.stopDrain()
		synctest.Wait()
		m.open()
		m.compare()
	case k == 12:
		if _, err := m.host.Delete(context.Background(), m.host.typ, durable.IDFromName("counter", object)); err != nil {
			m.t.Fatal(err)
		}
		for _, name := range modelAlarms {
			delete(m.set, object+"/"+name)
		}
	case k == 13:
		m.host.alarms.reread()
	default:
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
		m.compare()
	}
}

// TestAlarmEarly: ALM-45. A scheduler that is woken too soon, as when the clock
// was put back, runs nothing, and loses nothing.
func TestAlarmEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, a *alarmTest) {
		a.set(time.Minute)
		id := storage.ObjectID{Type: a.typ.id, ID: durable.IDFromName("counter", "a")}
		for range 3 {
			a.alarms.poke()
			if err := a.runTimer(t.Context(), timerKey{id, timerAlarms}, false); err != nil {
				t.Error(err)
			}
		}
		a.wantRuns()
		a.wantSet("1m0s")
		a.wait(2 * time.Minute)
		a.wantRuns("1m0s a for 1m0s")
	})
}

// TestAlarmsOfUnknownType: alarms of a type that is not registered wait until it
// is, and hold up no others.
func TestAlarmsOfUnknownType(t *testing.T) {
	inBubble(t, func(t *testing.T, a *alarmTest) {
		for i := range 20 {
			if err := a.update(t.Context(), fmt.Sprint(i), func(_ context.Context, _ *counter, tx durable.Tx) error {
				return tx.AlarmPort().Set("", a.at(time.Second), nil)
			}); err != nil {
				t.Fatal(err)
			}
		}
		a.stop()
		host, err := NewHost(t.Context(), storage.Info{MaxBatch: 1 << 20}, join(t, a.store), Options{})
		if err != nil {
			t.Fatal(err)
		}
		host.alarms.hold(3)
		host.Start()
		a.wait(time.Minute)
		other := &durable.ObjectType{
			Name: "other", Limits: patient(durable.Limits{}).WithDefaults(),
			New:    func(context.Context, durable.Tx) (any, error) { return &counter{}, nil },
			Alarms: []durable.AlarmType{{Run: a.handle}},
		}
		typ, err := host.Register(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		if err := host.Update(t.Context(), typ, durable.IDFromName("other", "o"), "o", func(_ context.Context, _ any, tx durable.Tx) error {
			return tx.AlarmPort().Set("", a.at(2*time.Minute), nil)
		}); err != nil {
			t.Fatal(err)
		}
		a.wait(3 * time.Minute)
		a.wantRuns("2m0s o for 2m0s")
		own := *a.typ.ObjectType
		if _, err = host.Register(t.Context(), &own); err != nil {
			t.Fatal(err)
		}
		a.wait(4 * time.Minute)
		a.mu.Lock()
		n := len(a.runs)
		a.mu.Unlock()
		if n != 20 {
			t.Errorf("%d alarms ran, want 20", n)
		}
		if err := host.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
