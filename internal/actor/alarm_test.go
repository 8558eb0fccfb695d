package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// An alarmTest is a host whose objects have a default alarm, an alarm "named"
// with a payload, and an alarm "often" with retries of its own.
type alarmTest struct {
	*testHost
	t     *testing.T
	store *memkv.Store
	wrap  func(storage.Session) storage.Session

	mu   sync.Mutex
	runs []string // what ran, and when
	// run is what the handlers do; nil: nothing.
	run         func(ctx context.Context, c *counter, tx durable.Tx, info durable.AlarmInfo) error
	constructor func(ctx context.Context, tx durable.Tx) error
	start       time.Time
	limits      durable.Limits
	undeclared  string // the schema no longer has this one
}

// inBubble runs a test of alarms in virtual time.
func inBubble(t *testing.T, fn func(t *testing.T, a *alarmTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := &alarmTest{t: t, store: memkv.New(memkv.Options{}), start: time.Now()}
		a.open()
		fn(t, a)
		a.stop()
		_ = a.store.Close()
	})
}

func (a *alarmTest) open() {
	a.t.Helper()
	session := join(a.t, a.store)
	if a.wrap != nil {
		session = a.wrap(session)
	}
	host, err := NewHost(context.Background(), storage.Info{MaxBatch: 1 << 20}, session, Options{})
	if err != nil {
		a.t.Fatal(err)
	}
	a.testHost = &testHost{Host: host}
	alarm := func(name string, payload func() proto.Message, retry durable.AlarmRetry) durable.AlarmType {
		return durable.AlarmType{Name: name, NewPayload: payload, Retry: retry, Run: a.handle}
	}
	usual := durable.AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second}
	typ := &durable.ObjectType{
		Name:   "counter",
		Limits: patient(a.limits).WithDefaults(),
		New: func(ctx context.Context, tx durable.Tx) (any, error) {
			if a.constructor != nil {
				if err := a.constructor(ctx, tx); err != nil {
					return nil, err
				}
			}
			return &counter{}, nil
		},
		Alarms: []durable.AlarmType{
			alarm("", nil, usual),
			alarm("named", func() proto.Message { return new(wrapperspb.StringValue) }, usual),
			alarm("often", nil, durable.AlarmRetry{MaxRetries: -1, FirstDelay: 10 * time.Second}),
		},
	}
	typ.Alarms = slices.DeleteFunc(typ.Alarms, func(t durable.AlarmType) bool { return a.undeclared != "" && t.Name == a.undeclared })
	if a.typ, err = host.Register(context.Background(), typ); err != nil {
		a.t.Fatal(err)
	}
	host.Start()
}

func (a *alarmTest) stop() {
	a.t.Helper()
	if err := a.Drain(context.Background()); err != nil {
		a.t.Error(err)
	}
	synctest.Wait()
}

// crash ends the host without a drain of its own, as a kill does, and starts
// another one.
func (a *alarmTest) crash() {
	a.t.Helper()
	a.stopDrain()
	synctest.Wait()
	a.open()
}

func (a *alarmTest) handle(ctx context.Context, handler any, tx durable.Tx, info durable.AlarmInfo, payload proto.Message) error {
	line := fmt.Sprintf("%v %s", time.Since(a.start).Round(time.Millisecond), tx.Name())
	if info.Name != "" {
		line += " " + info.Name
	}
	if payload != nil {
		line += fmt.Sprintf(" %q", payload.(*wrapperspb.StringValue).GetValue())
	}
	line += fmt.Sprintf(" for %v", info.ScheduledTime.Sub(a.start).Round(time.Millisecond))
	if info.RetryCount > 0 || info.IsRetry {
		line += fmt.Sprintf(" retry %d", info.RetryCount)
	}
	a.mu.Lock()
	a.runs = append(a.runs, line)
	run := a.run
	a.mu.Unlock()
	if run == nil {
		return nil
	}
	return run(ctx, handler.(*counter), tx, info)
}

// does says what the handlers do from now on.
func (a *alarmTest) does(run func(ctx context.Context, c *counter, tx durable.Tx, info durable.AlarmInfo) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.run = run
}

// on runs fn in a turn of object a.
func (a *alarmTest) on(fn func(tx durable.Tx) error) {
	a.t.Helper()
	if err := a.try(fn); err != nil {
		a.t.Fatal(err)
	}
}

func (a *alarmTest) try(fn func(tx durable.Tx) error) error {
	return a.update(context.Background(), "a", func(_ context.Context, _ *counter, tx durable.Tx) error { return fn(tx) })
}

// at is a time after the start.
func (a *alarmTest) at(d time.Duration) time.Time { return a.start.Add(d) }

func (a *alarmTest) set(d time.Duration) {
	a.t.Helper()
	a.on(func(tx durable.Tx) error { return tx.AlarmPort().Set("", a.at(d), nil) })
}

// wantSet checks the default alarm, "" for none.
func (a *alarmTest) wantSet(want string) {
	a.t.Helper()
	if got := a.isSet(); got != want {
		a.t.Errorf("after %v: the alarm is set for %q, want %q", time.Since(a.start), got, want)
	}
}

func (a *alarmTest) isSet() (got string) {
	err := a.view(context.Background(), "a", func(_ context.Context, _ *counter, v durable.View) error {
		s, ok, err := v.AlarmReader().Get("")
		if ok {
			got = s.ScheduledTime.Sub(a.start).String()
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	return got
}

func (a *alarmTest) wantRuns(want ...string) {
	a.t.Helper()
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.runs, want) {
		a.t.Errorf("after %v: the runs were\n\t%s\nwant\n\t%s", time.Since(a.start), strings.Join(a.runs, "\n\t"), strings.Join(want, "\n\t"))
	}
	a.runs = nil
}

// wait lets time pass until d after the start.
func (a *alarmTest) wait(d time.Duration) {
	time.Sleep(time.Until(a.at(d)))
	synctest.Wait()
}

// TestAlarmSetting is section 7.1 of the rules.
func TestAlarmSetting(t *testing.T) {
	t.Run("ALM-01 ALM-02 ALM-05", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.wantSet("")
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Delete("") })
			a.set(10 * time.Second)
			a.wantSet("10s")
			a.set(5 * time.Second)
			a.wantSet("5s")
			a.wait(4999 * time.Millisecond)
			a.wantRuns() // ALM-15
			a.wait(time.Minute)
			a.wantRuns("5s a for 5s")
			a.wantSet("")
		})
	})
	t.Run("ALM-03", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.wait(time.Hour)
			a.on(func(tx durable.Tx) error {
				if err := tx.AlarmPort().Set("", a.at(time.Minute), nil); err != nil {
					return err
				}
				time.Sleep(time.Second)
				a.wantRuns()
				return nil
			})
			a.wantRuns("1h0m1s a for 1m0s")
		})
	})
	t.Run("ALM-04 bad input", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			for name, set := range map[string]func(p durable.AlarmPort) error{
				"the zero time":         func(p durable.AlarmPort) error { return p.Set("", time.Time{}, nil) },
				"beyond 9999":           func(p durable.AlarmPort) error { return p.Set("", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), nil) },
				"an unknown alarm":      func(p durable.AlarmPort) error { return p.Set("other", a.at(time.Hour), nil) },
				"a payload too many":    func(p durable.AlarmPort) error { return p.Set("", a.at(time.Hour), wrapperspb.String("x")) },
				"no payload":            func(p durable.AlarmPort) error { return p.Set("named", a.at(time.Hour), nil) },
				"another payload":       func(p durable.AlarmPort) error { return p.Set("named", a.at(time.Hour), wrapperspb.Bool(true)) },
				"an interval too short": func(p durable.AlarmPort) error { return p.SetSchedule("", durable.Every(time.Millisecond), nil) },
				"a bad expression":      func(p durable.AlarmPort) error { return p.SetSchedule("", durable.Cron("* * *", ""), nil) },
				"a bad zone":            func(p durable.AlarmPort) error { return p.SetSchedule("", durable.Cron("@daily", "Mars/Base"), nil) },
				"delete an unknown":     func(p durable.AlarmPort) error { return p.Delete("other") },
			} {
				a.on(func(tx durable.Tx) error {
					if err := set(tx.AlarmPort()); !errors.Is(err, durable.ErrInvalidArgument) {
						t.Errorf("%s: %v", name, err)
					}
					return nil
				})
			}
			a.on(func(tx durable.Tx) error {
				err := tx.AlarmPort().Set("named", a.at(time.Hour), wrapperspb.String(strings.Repeat("x", 2<<20)))
				var limit *durable.LimitError
				if !errors.As(err, &limit) || limit.Max != 2<<20 {
					t.Errorf("a payload that is too long: %v", err)
				}
				return nil
			})
			a.wait(2 * time.Hour)
			a.wantRuns()
		})
	})
	t.Run("ALM-07", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.set(time.Hour)
			a.on(func(tx durable.Tx) error {
				t := tx.(txHandle).turn
				if err := tx.AlarmPort().Set("", a.at(time.Hour), nil); err != nil {
					return err
				}
				if t.overlay.dirty() {
					a.t.Error("setting the same again is a write")
				}
				return nil
			})
		})
	})
	t.Run("ALM-08 with the turn's writes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			err := a.try(func(tx durable.Tx) error {
				if err := tx.AlarmPort().Set("", a.at(time.Minute), nil); err != nil {
					return err
				}
				if _, ok, err := tx.AlarmPort().Get(""); !ok || err != nil {
					t.Errorf("the turn does not see its alarm: %v", err)
				}
				return errTest
			})
			if !errors.Is(err, errTest) {
				t.Error(err)
			}
			a.wantSet("")
			a.on(func(tx durable.Tx) error {
				p := tx.AlarmPort()
				if err := p.Set("", a.at(time.Minute), nil); err != nil {
					return err
				}
				_ = tx.Savepoint(func() error {
					if err := p.Set("", a.at(time.Second), nil); err != nil {
						return err
					}
					if err := p.Set("often", a.at(time.Second), nil); err != nil {
						return err
					}
					return errTest
				})
				all, err := p.All()
				if err != nil || len(all) != 1 || !all[0].ScheduledTime.Equal(a.at(time.Minute)) {
					t.Errorf("after the savepoint: %v %v", all, err)
				}
				return nil
			})
			a.wait(time.Hour)
			a.wantRuns("1m0s a for 1m0s")
		})
	})
	t.Run("ALM-10 ALM-16 ALM-17 ALM-42 WISH-07 ID-21", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.set(time.Hour)
			a.crash()
			a.wait(59 * time.Minute)
			a.wantRuns()
			a.wait(time.Hour)
			a.wantRuns("1h0m0s a for 1h0m0s")
			a.set(2 * time.Hour)
			a.stop()
			a.wait(3 * time.Hour) // down meanwhile
			a.open()
			a.wantRuns("3h0m0s a for 2h0m0s")
		})
	})
	t.Run("WISH-01 in order of time", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.on(func(tx durable.Tx) error {
				p := tx.AlarmPort()
				return errors.Join(
					p.Set("often", a.at(3*time.Second), nil),
					p.Set("named", a.at(2*time.Second), wrapperspb.String("one")),
					p.Set("", a.at(time.Second), nil),
					p.Set("named", a.at(4*time.Second), wrapperspb.String("two")),
				)
			})
			a.wait(time.Minute)
			a.wantRuns("1s a for 1s", "3s a often for 3s", `4s a named "two" for 4s`)
		})
	})
}

// TestAlarmFiring is section 7.2 of the rules.
func TestAlarmFiring(t *testing.T) {
	t.Run("ALM-18 one at a time", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			busy := 0
			a.does(func(ctx context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				if busy++; busy > 1 {
					t.Error("two handlers run at once")
				}
				defer func() { busy-- }()
				return tx.Await(ctx, func(context.Context) error { time.Sleep(time.Second); return nil })
			})
			a.on(func(tx durable.Tx) error {
				p := tx.AlarmPort()
				return errors.Join(p.Set("", a.at(time.Second), nil), p.Set("often", a.at(time.Second), nil))
			})
			a.wait(1500 * time.Millisecond)
			a.on(func(durable.Tx) error { return nil }) // calls go on beside it
			a.wait(time.Minute)
			a.wantRuns("1s a for 1s", "2s a often for 1s")
		})
	})
	t.Run("ALM-19 ALM-20 ALM-21 ALM-22", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(func(ctx context.Context, _ *counter, tx durable.Tx, info durable.AlarmInfo) error {
				p := tx.AlarmPort()
				if _, ok, err := p.Get(""); ok || err != nil {
					t.Errorf("it is set while its handler runs: %v", err)
				}
				// Others do not see it either.
				if err := tx.Await(ctx, func(context.Context) error { a.wantSet(""); return nil }); err != nil {
					return err
				}
				if info.ScheduledTime.Equal(a.at(time.Second)) {
					if err := p.Set("", a.at(time.Minute), nil); err != nil {
						return err
					}
					if s, ok, _ := p.Get(""); !ok || !s.ScheduledTime.Equal(a.at(time.Minute)) {
						t.Error("what was set in the handler is not there")
					}
					return nil
				}
				if err := p.Set("", a.at(time.Hour), nil); err != nil {
					return err
				}
				return p.Delete("")
			})
			a.set(time.Second)
			a.wait(10 * time.Second)
			a.wantRuns("1s a for 1s")
			a.wantSet("1m0s")
			a.wait(2 * time.Hour)
			a.wantRuns("1m0s a for 1m0s")
			a.wantSet("")
		})
	})
	t.Run("ALM-23", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.set(time.Second)
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Delete("") })
			a.wait(time.Minute)
			a.wantRuns()
		})
	})
	t.Run("ALM-25", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(func(ctx context.Context, _ *counter, _ durable.Tx, info durable.AlarmInfo) error {
				if info.RetryCount > 0 {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			})
			a.set(time.Second)
			a.wait(15*time.Minute + 10*time.Second)
			a.mu.Lock()
			defer a.mu.Unlock()
			if len(a.runs) != 2 || !strings.HasSuffix(a.runs[1], "retry 1") {
				t.Errorf("the runs were %q", a.runs)
			}
		})
	})
	t.Run("ALM-28 a crash in mid-handler", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			block := make(chan struct{})
			a.does(func(ctx context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
					return err
				}
				if err := tx.Sync(ctx); err != nil { // a commit point keeps the alarm
					return err
				}
				<-block
				return nil
			})
			a.set(time.Second)
			a.wait(2 * time.Second)
			a.wantRuns("1s a for 1s")
			a.does(nil)
			a.crash()
			a.wantRuns("2s a for 1s")
			close(block)
			synctest.Wait()
			a.wantSet("")
		})
	})
	t.Run("ALM-41 set for at once by every run", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			var text strings.Builder
			a.log = slog.New(slog.NewTextHandler(&text, nil))
			left := repeatsWarned + 1
			a.does(func(_ context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				if left--; left == 0 {
					return nil
				}
				return tx.AlarmPort().Set("", time.Now().Add(-time.Second), nil)
			})
			a.set(time.Second)
			a.wait(time.Minute)
			if n := strings.Count(text.String(), "set for at once"); n != 1 {
				t.Errorf("the log tells it %d times: %s", n, text.String())
			}
		})
	})
	t.Run("ALM-06 no longer declared", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.on(func(tx durable.Tx) error {
				p := tx.AlarmPort()
				return errors.Join(p.Set("often", a.at(time.Second), nil), p.Set("", a.at(time.Second), nil))
			})
			a.undeclared = "often"
			a.crash()
			a.wait(time.Minute)
			a.wantRuns("1s a for 1s")
			if all, err := a.Alarms(t.Context(), a.typ, durable.IDFromName("counter", "a")); err != nil || len(all) != 0 {
				t.Errorf("left: %v %v", all, err)
			}
		})
	})
	t.Run("ALM-43 KV-43 KV-44 KV-45", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			ctx := t.Context()
			a.set(time.Second)
			a.on(func(tx durable.Tx) error { return tx.DeleteAll(ctx) })
			a.wantSet("")
			a.wait(time.Minute)
			a.wantRuns()
			a.set(2 * time.Minute)
			a.on(func(tx durable.Tx) error {
				if err := tx.DeleteAll(ctx); err != nil {
					return err
				}
				return tx.AlarmPort().Set("", a.at(3*time.Minute), nil)
			})
			a.wantSet("3m0s")
			a.does(func(ctx context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				return tx.DeleteAll(ctx)
			})
			a.wait(4 * time.Minute)
			a.wantRuns("3m0s a for 3m0s")
			a.wantSet("")
			a.crash()
			a.wait(time.Hour)
			a.wantRuns()
			for o, err := range a.session.Objects(ctx, storage.ObjectQuery{Type: a.typ.id}) {
				t.Errorf("KV-49: still there: %v %v", o, err)
			}
		})
	})
}

// TestAlarmFailure is section 7.3 of the rules.
func TestAlarmFailure(t *testing.T) {
	// within checks the runs against times, each of which may be up to a quarter
	// of its delay later.
	retries := func(t *testing.T, a *alarmTest, first time.Duration, delays ...time.Duration) {
		t.Helper()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.runs) != len(delays)+1 {
			t.Fatalf("%d runs, want %d:\n\t%s", len(a.runs), len(delays)+1, strings.Join(a.runs, "\n\t"))
		}
		last := first
		jitter := false
		for i, run := range a.runs {
			at, err := time.ParseDuration(strings.Fields(run)[0])
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				last = at
				continue
			}
			d := delays[i-1]
			if wait := at - last; wait < d || wait > d+d/4+time.Millisecond {
				t.Errorf("retry %d came after %v, want %v and up to a quarter", i, wait, d)
			} else if wait > d+time.Millisecond {
				jitter = true
			}
			if want := fmt.Sprintf("retry %d", i); !strings.HasSuffix(run, want) {
				t.Errorf("run %d was %q", i, run)
			}
			last = at
		}
		if !jitter {
			t.Error("no retry has any jitter")
		}
	}
	seconds := func(n ...int) (all []time.Duration) {
		for _, s := range n {
			all = append(all, time.Duration(s)*time.Second)
		}
		return all
	}
	fail := func(context.Context, *counter, durable.Tx, durable.AlarmInfo) error { return errTest }

	for name, run := range map[string]func(ctx context.Context, tx durable.Tx) error{
		"an error":             func(context.Context, durable.Tx) error { return errTest },
		"an error after a put": func(ctx context.Context, tx durable.Tx) error { _ = tx.KV().Put(ctx, "k", []byte("v")); return errTest },
		"a kept error": func(ctx context.Context, tx durable.Tx) error {
			_ = tx.KV().Put(ctx, "k", []byte("v"))
			return durable.Keep(errTest)
		},
		"a panic":              func(context.Context, durable.Tx) error { panic("on purpose") },
		"abort ALM-39 ABRT-06": func(_ context.Context, tx durable.Tx) error { tx.Abort("on purpose"); return nil },
	} {
		t.Run("ALM-30 ALM-31 "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *alarmTest) {
				a.does(func(ctx context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error { return run(ctx, tx) })
				a.set(time.Second)
				a.wait(2 * time.Second)
				a.wantSet("1s") // ALM-36
				a.wait(time.Hour)
				retries(t, a, time.Second, seconds(2, 4, 8, 16, 32, 64)...)
				a.wantSet("")
			})
		})
	}
	t.Run("the constructor", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.set(time.Second)
			a.stop()
			constructed := 0
			a.constructor = func(context.Context, durable.Tx) error { constructed++; return errTest }
			a.open()
			a.wait(time.Hour)
			if constructed != 7 {
				t.Errorf("the constructor ran %d times", constructed)
			}
			a.wantRuns()
			a.constructor = nil
			a.wantSet("")
		})
	})
	t.Run("a crash between retries keeps the count", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(fail)
			a.set(time.Second)
			a.wait(5 * time.Second)
			a.crash()
			a.wait(time.Hour)
			retries(t, a, time.Second, seconds(2, 4, 8, 16, 32, 64)...)
		})
	})
	t.Run("a policy of its own", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(fail)
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Set("often", a.at(time.Second), nil) })
			a.wait(24 * time.Hour)
			a.mu.Lock()
			n := len(a.runs)
			a.mu.Unlock()
			// Delays of 10 s doubling to 5,120 s: a day has at least 21 of them.
			if n < 20 {
				t.Errorf("%d runs in a day", n)
			}
		})
	})
	t.Run("ALM-34 ALM-32 ALM-33 ALM-40 the store", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.stop()
			var broken atomic.Bool
			a.wrap = func(s storage.Session) storage.Session {
				return &refusingSession{Session: s, refuse: broken.Load}
			}
			a.does(func(ctx context.Context, _ *counter, tx durable.Tx, info durable.AlarmInfo) error {
				if info.RetryCount > 0 {
					t.Errorf("it counts: %v", info)
				}
				return tx.KV().Put(ctx, "k", []byte("v"))
			})
			a.open()
			a.set(time.Second)
			broken.Store(true)
			a.wait(time.Hour)
			a.mu.Lock()
			n := len(a.runs)
			a.mu.Unlock()
			if n < 8 || n > 14 { // after 2, 4, 8 … 1,024 s and up to a quarter more
				t.Errorf("%d runs", n)
			}
			broken.Store(false)
			a.wait(2 * time.Hour)
			a.wantSet("")
		})
	})
	t.Run("ALM-35", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			first := true
			a.does(func(_ context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				if !first {
					return nil
				}
				first = false
				if err := tx.AlarmPort().Set("", a.at(time.Hour), nil); err != nil {
					return err
				}
				return durable.Keep(errTest)
			})
			a.set(time.Second)
			a.wait(2 * time.Hour)
			a.wantRuns("1s a for 1s", "1h0m0s a for 1h0m0s")
		})
	})
	t.Run("ALM-36 delete and set between retries", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(fail)
			a.set(time.Second)
			a.wait(2 * time.Second)
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Delete("") })
			a.wait(time.Minute)
			a.wantRuns("1s a for 1s")
			a.set(61 * time.Second)
			a.wait(62 * time.Second)
			a.does(nil)
			a.set(90 * time.Second) // the count begins anew
			a.wait(time.Hour)
			a.wantRuns("1m1s a for 1m1s", "1m30s a for 1m30s")
		})
	})
	t.Run("ALM-37", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(func(_ context.Context, _ *counter, tx durable.Tx, info durable.AlarmInfo) error {
				if info.Name == "" {
					return errTest
				}
				return nil
			})
			a.set(time.Second)
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Set("often", a.at(time.Hour), nil) })
			a.wait(2 * time.Hour)
			a.mu.Lock()
			last := a.runs[len(a.runs)-1]
			a.mu.Unlock()
			if last != "1h0m0s a often for 1h0m0s" {
				t.Errorf("the last run was %q", last)
			}
		})
	})
}

// TestAlarmRecurring is WISH-02.
func TestAlarmRecurring(t *testing.T) {
	t.Run("an interval", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			schedule := func(tx durable.Tx) error { return tx.AlarmPort().SetSchedule("", durable.Every(time.Minute), nil) }
			a.on(schedule)
			a.wait(90 * time.Second)
			a.on(schedule) // the same again changes nothing
			a.wait(2*time.Minute + 30*time.Second)
			a.wantRuns("1m0s a for 1m0s", "2m0s a for 2m0s")
			a.crash()
			a.wait(3*time.Minute + 30*time.Second)
			a.wantRuns("3m0s a for 3m0s")
			a.stop()
			a.wait(10*time.Minute + 30*time.Second)
			a.open() // missed runs collapse into one
			a.wait(12 * time.Minute)
			a.wantRuns("10m30s a for 4m0s", "11m0s a for 11m0s", "12m0s a for 12m0s")
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Delete("") })
			a.wait(time.Hour)
			a.wantRuns()
		})
	})
	t.Run("catching up", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.on(func(tx durable.Tx) error {
				return tx.AlarmPort().SetSchedule("", durable.Every(time.Minute).WithCatchUp(), nil)
			})
			a.stop()
			a.wait(3*time.Minute + 30*time.Second)
			a.open()
			a.wait(4 * time.Minute)
			a.wantRuns("3m30s a for 1m0s", "3m30s a for 2m0s", "3m30s a for 3m0s", "4m0s a for 4m0s")
		})
	})
	t.Run("cron", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) { // begins at midnight UTC, 1 January 2000
			a.on(func(tx durable.Tx) error {
				return tx.AlarmPort().SetSchedule("named", durable.Cron("30 9 * * *", "Europe/Berlin"), wrapperspb.String("report"))
			})
			a.wait(48 * time.Hour)
			a.wantRuns(`8h30m0s a named "report" for 8h30m0s`, `32h30m0s a named "report" for 32h30m0s`)
		})
	})
	t.Run("a failed run", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(func(_ context.Context, _ *counter, _ durable.Tx, info durable.AlarmInfo) error {
				if info.ScheduledTime.Equal(a.at(time.Hour)) {
					return errTest
				}
				return nil
			})
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().SetSchedule("", durable.Every(time.Hour), nil) })
			a.wait(2*time.Hour + time.Minute)
			a.mu.Lock()
			defer a.mu.Unlock()
			if n := len(a.runs); n != 8 || a.runs[7] != "2h0m0s a for 2h0m0s" {
				t.Errorf("%d runs, the last %q", n, a.runs[n-1])
			}
		})
	})
}

// A refusingSession has shards that are lost at a commit, when told so.
type refusingSession struct {
	storage.Session
	refuse func() bool
}

type refusingShard struct {
	storage.Shard
	refuse func() bool
}

func (s *refusingSession) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := s.Session.Claim(ctx, want)
	for i := range got {
		got[i] = refusingShard{got[i], s.refuse}
	}
	return got, err
}

func (s refusingShard) Commit(b *storage.Batch) *storage.Pending {
	if s.refuse() {
		return storage.ResolvedPending(storage.ErrNoSpace)
	}
	return s.Shard.Commit(b)
}
