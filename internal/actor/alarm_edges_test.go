package actor

import (
	"context"
	"iter"
	"runtime"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// losing starts again on a session that loses a commit when it is armed.
func (a *alarmTest) losing() *losingSession {
	a.t.Helper()
	lose := &losingSession{}
	a.stop()
	a.wrap = func(s storage.Session) storage.Session { lose.Session = s; return lose }
	a.open()
	return lose
}

// ran returns how many runs have begun.
func (a *alarmTest) ran() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.runs)
}

// TestAlarmLostCommit: what a lost commit said about an alarm does not count, and
// the alarm is run as it is stored, whether or not anybody calls the object.
func TestAlarmLostCommit(t *testing.T) {
	t.Run("ALM-40 of a run that set the next one", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			lose := a.losing()
			a.does(func(_ context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
				if a.ran() == 1 {
					lose.arm()
				}
				return tx.AlarmPort().Set("", a.at(time.Hour), nil)
			})
			a.set(time.Second)
			a.wait(30 * time.Minute)
			if n := a.ran(); n != 2 {
				t.Errorf("half an hour later it ran %d times, want 2: the run that was lost, and the retry", n)
			}
			a.wantSet("1h0m0s")
		})
	})
	for what, change := range map[string]func(a *alarmTest, p durable.AlarmPort) error{
		"that put it off": func(a *alarmTest, p durable.AlarmPort) error { return p.Set("", a.at(time.Hour), nil) },
		"that deleted it": func(_ *alarmTest, p durable.AlarmPort) error { return p.Delete("") },
	} {
		t.Run("ALM-10 "+what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *alarmTest) {
				lose := a.losing()
				a.set(time.Minute)
				a.wait(time.Second)
				if err := a.try(func(tx durable.Tx) error {
					lose.arm()
					return change(a, tx.AlarmPort())
				}); err == nil {
					t.Error("the call succeeded, and its commit was lost")
				}
				a.wait(30 * time.Minute)
				a.wantRuns("1m0s a for 1m0s")
			})
		})
	}
}

// TestAlarmNeverReturns: an alarm's handler that does not come back is a failed
// run, and keeps neither its retry nor the other alarms of the object.
func TestAlarmNeverReturns(t *testing.T) {
	t.Run("ALM-25 GO-09 stuck", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.stop()
			a.limits = durable.Limits{AlarmTimeout: time.Second, StuckTimeout: time.Second}
			a.open()
			release := make(chan struct{})
			a.does(func(context.Context, *counter, durable.Tx, durable.AlarmInfo) error {
				if a.ran() == 1 {
					<-release
				}
				return nil
			})
			a.set(time.Second)
			a.on(func(tx durable.Tx) error { return tx.AlarmPort().Set("often", a.at(10*time.Minute), nil) })
			a.wait(time.Hour)
			a.mu.Lock()
			if n := len(a.runs); n != 3 || a.runs[2] != "10m0s a often for 10m0s" {
				t.Errorf("the runs were %q, want the stuck one, its retry, and that of another alarm", a.runs)
			}
			a.mu.Unlock()
			a.wantSet("")
			close(release)
		})
	})
	t.Run("runtime.Goexit", func(t *testing.T) {
		inBubble(t, func(t *testing.T, a *alarmTest) {
			a.does(func(context.Context, *counter, durable.Tx, durable.AlarmInfo) error {
				if a.ran() == 1 {
					runtime.Goexit()
				}
				return nil
			})
			a.set(time.Second)
			a.wait(time.Hour)
			if n := a.ran(); n != 2 {
				t.Errorf("it ran %d times, want a run and its retry", n)
			}
			a.wantSet("")
		})
	})
}

// TestAlarmOpenSavepoint (ALM-28): what the handler left open is undone, and what
// becomes of the alarm is not.
func TestAlarmOpenSavepoint(t *testing.T) {
	inBubble(t, func(t *testing.T, a *alarmTest) {
		databases := sqlitedb.New(sqlitedb.Options{})
		defer func() { _ = databases.Close() }()
		a.sql = databases
		a.does(func(ctx context.Context, _ *counter, tx durable.Tx, _ durable.AlarmInfo) error {
			if _, err := tx.SQL().DB().BeginTx(ctx, nil); err != nil {
				return err
			}
			return tx.AlarmPort().Set("", a.at(time.Hour), nil)
		})
		a.set(time.Second)
		a.wait(time.Minute)
		a.wantRuns("1s a for 1s")
		a.wantSet("")
		a.crash()
		a.wait(2 * time.Hour)
		a.wantRuns()
	})
}

// A slowTimersSession takes its time to list timers.
type slowTimersSession struct {
	storage.Session
	took time.Duration
}

func (s slowTimersSession) Timers(ctx context.Context, until time.Time) iter.Seq2[storage.Timer, error] {
	return func(yield func(storage.Timer, error) bool) {
		for t, err := range s.Session.Timers(ctx, until) {
			if !yield(t, err) {
				return
			}
		}
		time.Sleep(s.took)
	}
}

// TestAlarmLateType (ALM-17): the alarms of a type that is registered while the
// scheduler reads the store run in time.
func TestAlarmLateType(t *testing.T) {
	inBubble(t, func(t *testing.T, a *alarmTest) {
		a.set(time.Hour)
		a.stop()
		host, err := NewHost(t.Context(), storage.Info{MaxBatch: 1 << 20}, slowTimersSession{join(t, a.store), time.Second}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		host.Start()
		time.Sleep(time.Second / 2) // it is being read
		a.testHost = &testHost{Host: host}
		if a.typ, err = host.Register(t.Context(), &durable.ObjectType{
			Name: "counter", Limits: durable.Limits{}.WithDefaults(),
			New:    func(context.Context, durable.Tx) (any, error) { return &counter{}, nil },
			Alarms: []durable.AlarmType{{Name: "", Run: a.handle}},
		}); err != nil {
			t.Fatal(err)
		}
		a.wait(3 * time.Hour)
		a.wantRuns("1h0m0s a for 1h0m0s")
	})
}
