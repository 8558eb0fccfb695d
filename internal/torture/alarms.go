package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// alarms is the load of alarms. Each caller makes bells, and sets some of their
// alarms.
type alarms struct {
	*torture
	client torturev1durable.BellClient

	mu struct {
		sync.Mutex
		sets    []bellSet
		runs    int
		retries int
		latest  time.Duration
	}
	bells int
}

// A bellSet is a call that set an alarm.
type bellSet struct {
	name    string
	bell    *torturev1.Bell
	outcome outcome
}

const (
	// tooLate is how late an alarm may run while a server serves.
	tooLate = 10 * time.Second
	// flakyDelay is how long after a failure an alarm is run again at the
	// earliest.
	flakyDelay = 2 * time.Second
	// settingPause bounds how many bells there are.
	settingPause = 100 * time.Millisecond
)

func newAlarms(t *torture) *alarms {
	return &alarms{torture: t, client: torturev1durable.NewBellClient(t.conn)}
}

func (l *alarms) step(ctx context.Context, c *client) {
	name := c.name()
	for _, alarm := range []string{"", torturev1durable.BellHopAlarmName, torturev1durable.BellFlakyAlarmName, torturev1durable.BellTickAlarmName} {
		if c.IntN(2) == 0 {
			continue
		}
		bell := &torturev1.Bell{Alarm: alarm, Runs: 1}
		at := time.Now().Add(upTo(c.Rand, l.ahead+l.ahead/10) - l.ahead/10) // some are in the past
		switch alarm {
		case torturev1durable.BellHopAlarmName:
			bell.Runs, bell.EveryMs = 1+c.Int32N(5), 1+c.Int64N(400)
		case torturev1durable.BellTickAlarmName:
			bell.Runs, bell.EveryMs, bell.CatchUp = 1+c.Int32N(3), 1000+c.Int64N(500), c.IntN(2) == 0
			at = time.UnixMilli(0)
		}
		bell.AtMs = at.UnixMilli()
		out := notStarted
		for out == notStarted && pause(ctx, 10*time.Millisecond) {
			out = l.once(ctx, func(ctx context.Context) error {
				_, err := l.client.GetByName(name).Set(ctx, &torturev1.SetRequest{Bell: bell}, singly)
				return err
			})
		}
		l.mu.Lock()
		l.mu.sets = append(l.mu.sets, bellSet{name, bell, out})
		l.mu.Unlock()
	}
	pause(ctx, settingPause)
}

func (l *alarms) check(ctx context.Context) {
	sets := map[string][]bellSet{}
	var names []string // of the bells whose alarms did not all run yet
	for _, s := range l.mu.sets {
		if sets[s.name] == nil {
			names = append(names, s.name)
		}
		sets[s.name] = append(sets[s.name], s)
	}
	l.bells = len(names)
	ctx, cancel := context.WithTimeout(ctx, l.ahead+tooLate)
	defer cancel()
	for {
		var mu sync.Mutex
		var rest []string
		each(names, func(name string) {
			res, ok := l.history(name)
			last := ctx.Err() != nil
			if !ok || l.compare(name, sets[name], res, last) || last {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			rest = append(rest, name)
		})
		if names = rest; len(names) == 0 {
			return
		}
		pause(ctx, 250*time.Millisecond)
	}
}

func (l *alarms) history(name string) (res *torturev1.HistoryResponse, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out := l.insist(ctx, func(ctx context.Context) (err error) {
		res, err = l.client.GetByName(name).History(ctx, &torturev1.HistoryRequest{}, repeatedly)
		return err
	})
	return res, out == answered
}

// compare compares what a bell has done with what it was told to. It returns
// false, unless this is the last time, while alarms are still to run.
func (l *alarms) compare(name string, sets []bellSet, res *torturev1.HistoryResponse, last bool) bool {
	runs := map[string][]*torturev1.Run{}
	for _, run := range res.GetRuns() {
		runs[run.GetAlarm()] = append(runs[run.GetAlarm()], run)
	}
	stored := map[string]*torturev1.Bell{}
	for _, bell := range res.GetBells() {
		stored[bell.GetAlarm()] = bell
		alarm := bell.GetAlarm()
		if !last && (len(runs[alarm]) < int(bell.GetRuns()) || slices.Contains(res.GetPending(), alarm)) {
			return false
		}
	}
	for _, s := range sets {
		alarm := s.bell.GetAlarm()
		b := stored[alarm]
		where := fmt.Sprintf("bell %s: the alarm %q", name, alarm)
		switch {
		case b == nil && s.outcome == answered:
			l.violated("%s was set, and is lost", where)
		case b == nil:
			if len(runs[alarm]) > 0 {
				l.violated("%s ran, and was not set", where)
			}
		case s.outcome == notStarted:
			l.violated("%s was set by a call that was not started", where)
		case alarm != torturev1durable.BellTickAlarmName && b.GetAtMs() != s.bell.GetAtMs():
			l.violated("%s was set for %d, and could be read as %d", where, s.bell.GetAtMs(), b.GetAtMs())
		default:
			l.compareRuns(where, b, runs[alarm], slices.Contains(res.GetPending(), alarm))
		}
	}
	return true
}

// compareRuns compares the runs of an alarm with how it was set.
func (l *alarms) compareRuns(where string, b *torturev1.Bell, runs []*torturev1.Run, pending bool) {
	switch {
	case len(runs) != int(b.GetRuns()):
		l.violated("%s was to run %d times from %d on, and ran %d times: %v", where, b.GetRuns(), b.GetAtMs(), len(runs), runs)
		return
	case pending:
		l.violated("%s ran %d times, as it should, and is still set", where, len(runs))
	}
	previous := int64(0)
	for i, run := range runs {
		wantRetries, due := int32(0), max(run.GetScheduledMs(), previous)
		if b.GetAlarm() == torturev1durable.BellFlakyAlarmName {
			wantRetries, due = 1, due+flakyDelay.Milliseconds()
		}
		switch earlier := runs[max(0, i-1)].GetScheduledMs(); {
		case run.GetAtMs() < due:
			l.violated("%s ran too early: it was due at %d: %v", where, due, run)
		case run.GetRetryCount() != wantRetries || wantRetries > 0 && !run.GetIsRetry():
			l.violated("%s should have been retried %d times: %v", where, wantRetries, run)
		case b.GetAlarm() == torturev1durable.BellTickAlarmName && !b.GetCatchUp() && i > 0:
			// What was missed collapses into one.
			if passed := run.GetScheduledMs() - earlier; passed <= 0 || passed%b.GetEveryMs() != 0 {
				l.violated("%s recurs every %d, and was due at %d after %d", where, b.GetEveryMs(), run.GetScheduledMs(), earlier)
			}
		case run.GetScheduledMs() != b.GetAtMs()+int64(i)*b.GetEveryMs():
			l.violated("%s was to be due at %d and every %d from then on; of run %d it was told %d", where, b.GetAtMs(), b.GetEveryMs(), i+1, run.GetScheduledMs())
		}
		previous = run.GetAtMs()
		late := l.victim.served(time.UnixMilli(due), time.UnixMilli(run.GetAtMs()))
		if late > tooLate {
			l.violated("%s ran when it had been due for %v in which there was a server", where, late)
		}
		if wantRetries > 0 { // the delay of a retry is not known
			late = 0
		}
		l.ran(run, late)
	}
}

func (l *alarms) ran(run *torturev1.Run, late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.runs++
	if run.GetIsRetry() {
		l.mu.retries++
	}
	l.mu.latest = max(l.mu.latest, late)
}

func (l *alarms) report() string {
	answers := 0
	for _, s := range l.mu.sets {
		if s.outcome == answered {
			answers++
		}
	}
	if answers == 0 {
		return ""
	}
	return fmt.Sprintf("%-10s%d set for %d bells, and %d of unknown outcome; %d runs, %d of them retries; the latest ran %v after it was due or the server was back\n",
		"alarms", answers, l.bells, len(l.mu.sets)-answers, l.mu.runs, l.mu.retries, l.mu.latest.Round(time.Millisecond))
}
