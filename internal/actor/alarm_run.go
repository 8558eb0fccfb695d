package actor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	"github.com/durable-go/durable/storage"
)

// runTimer does what a timer is for. An error means that it could not be done
// for a reason that is no fault of the object, and is to be tried again; retry
// that it was tried before.
func (h *Host) runTimer(ctx context.Context, key timerKey, retry bool) error {
	typ := h.typeOf(key.object.Type)
	if typ == nil {
		return nil
	}
	if err := h.start(false); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(typ, key.object.ID, "")
	defer h.release(o)
	switch key.kind {
	case timerReplies:
		m, err := o.bare(ctx, exclusive, func(t *turn) error { return t.forget(ctx) })
		return o.reply(ctx, m, err)
	case timerConns:
		return o.expireConns(ctx)
	}
	_, err := o.runAlarm(ctx, "", false, retry)
	var failed *alarmFailure
	if errors.As(err, &failed) { // and was dealt with
		return nil
	}
	return err
}

// An alarmFailure is what the handler of an alarm ended with, or the constructor
// that was to make it. It counts against the limit of retries.
type alarmFailure struct{ error }

func (e *alarmFailure) Unwrap() error { return e.error }

// An alarmRun is one run of the handler of an alarm.
type alarmRun struct {
	name string
	rec  *recordv1.Alarm // nil: there is none to run
	act  *activation
	cut  chan struct{} // closed when the run is cut off from its object
}

// runAlarm runs the handler of the alarm of that name, as if it were due; or of
// the one that is due first, if any is, unless named. It returns when the outcome
// is durable, and reports whether there was an alarm to run. Its error is an
// [alarmFailure] when the handler failed: then the alarm was set for its retry, or
// given up. Other errors leave the alarm as it was.
func (o *object) runAlarm(ctx context.Context, name string, named, retry bool) (ran bool, err error) {
	// One alarm of an object at a time, also where its handler leaves the turn.
	select {
	case o.alarmLock() <- struct{}{}:
		defer func() { <-o.alarmLock() }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	run, err := o.alarmTurn(ctx, name, named, retry)
	var constructor *durable.ConstructorError
	switch {
	case err == nil:
		return run.rec != nil, nil
	case noFault(err):
		return run.rec != nil, err
	case run.rec == nil && !errors.As(err, &constructor):
		return false, err
	}
	if rerr := o.alarmFailed(ctx, run, name, named, err); rerr != nil {
		return true, errors.Join(rerr, err)
	}
	return true, &alarmFailure{err}
}

// alarmTurn runs the handler of an alarm in a turn, on a goroutine of its own: a
// handler that never ends keeps that, and nothing else.
func (o *object) alarmTurn(ctx context.Context, name string, named, retry bool) (run *alarmRun, err error) {
	run = &alarmRun{}
	l, err := o.extend(chainOf(ctx))
	if err != nil {
		return run, err
	}
	picked, ended := make(chan *alarmRun, 1), make(chan error, 1)
	go func() {
		err := error(&durable.PanicError{Value: "the handler called runtime.Goexit"})
		defer func() { ended <- err }()
		m, terr := o.inTurn(ctx, wish{access: exclusive, known: true}, l, nil, func(t *turn) error {
			run, err := t.pickAlarm(name, named)
			if err != nil || run.rec == nil {
				return err
			}
			defer t.act.runs(nil)
			t.alarm.Store(run)
			picked <- run
			hctx := t.handling(ctx, "", o.typ.Limits.AlarmTimeout)
			defer hctx.end()
			return t.handleAlarm(hctx, run, retry)
		})
		err = o.reply(ctx, m, terr)
	}()
	select {
	case err = <-ended:
		select {
		case run = <-picked:
		default: // there was none to run
		}
		return run, err
	case run = <-picked:
	}
	select {
	case err = <-ended:
		return run, err
	case <-run.cut:
		return run, run.act.err()
	}
}

// noFault reports whether an alarm failed for a reason that is no fault of its
// handler, so that it does not count.
func noFault(err error) bool {
	var abort *durable.AbortError
	if errors.As(err, &abort) {
		return false
	}
	for _, cause := range []error{
		durable.ErrCommitFailed, durable.ErrNotOwner, durable.ErrDraining, durable.ErrReset,
		storage.ErrLost, storage.ErrUnavailable, storage.ErrClosed, storage.ErrNoSpace,
	} {
		if errors.Is(err, cause) {
			return !errors.Is(err, durable.ErrStuck)
		}
	}
	var overload *durable.OverloadError
	var constructor *durable.ConstructorError
	return errors.As(err, &overload) && !errors.As(err, &constructor)
}

// pickAlarm returns the alarm to run. When none is due it puts the timer right.
func (t *turn) pickAlarm(name string, named bool) (*alarmRun, error) {
	set, _, err := t.act.loadAlarms(t.ctx, t.o)
	if err != nil {
		return nil, err
	}
	if len(t.dropUnknown(set)) > 0 {
		if err := t.commitNow(); err != nil {
			return nil, err
		}
		if set, _, err = t.act.loadAlarms(t.ctx, t.o); err != nil {
			return nil, err
		}
	}
	run := &alarmRun{name: name, act: t.act, cut: make(chan struct{})}
	if named {
		run.rec = set[name]
	} else {
		now := time.Now().Round(0)
		for other, rec := range set {
			due := rec.GetDueMs()
			if now.Before(time.UnixMilli(due)) {
				continue
			}
			if run.rec == nil || due < run.rec.GetDueMs() || due == run.rec.GetDueMs() && other < run.name {
				run.name, run.rec = other, rec
			}
		}
		if run.rec == nil {
			return run, t.resetTimer(earliest(set))
		}
	}
	if run.rec != nil {
		t.act.runs(run.rec)
	}
	return run, nil
}

// resetTimer sets the timer of the alarms, whatever it was.
func (t *turn) resetTimer(due int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.act.exists {
		b := &storage.Batch{Object: t.o.id, Timers: []storage.Timer{dueTimer(t.o.id, timerAlarms, due)}}
		if err := t.apply(b, false); err != nil {
			return err
		}
	}
	t.o.host.alarms.note(t.o.id, timerAlarms, due)
	return nil
}

// commitNow commits in mid-turn, without leaving it.
func (t *turn) commitNow() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commitLocked(false)
}

// handleAlarm runs the handler. When it succeeds the alarm is removed, or set for
// its next run, in the commit of what the handler wrote.
func (t *turn) handleAlarm(ctx context.Context, run *alarmRun, retry bool) error {
	declared := t.o.typ.alarm(run.name)
	var payload proto.Message
	if declared.NewPayload != nil {
		payload = declared.NewPayload()
		if err := proto.Unmarshal(run.rec.GetPayload(), payload); err != nil {
			return fmt.Errorf("%w: the payload of alarm %q: %w", durable.ErrMalformedValue, run.name, err)
		}
	}
	info := alarmInfo(run.name, run.rec)
	info.IsRetry = info.IsRetry || retry
	if err := declared.Run(ctx, t.act.handler, txHandle{t}, info, payload); err != nil {
		return err
	}
	return t.endAlarm(run.name, run.rec)
}

// endAlarm removes an alarm whose run is over, or sets its next run, unless it was
// set anew meanwhile.
func (t *turn) endAlarm(name string, rec *recordv1.Alarm) error {
	set, _, err := t.act.loadAlarms(t.ctx, t.o)
	if err != nil {
		return err
	}
	next, err := afterRun(rec, time.Now())
	if err != nil { // the zone is gone from this machine, perhaps
		t.o.host.log.Error("an alarm does not recur any more", "type", t.o.typ.Name,
			"id", t.o.durableID().String(), "alarm", name, "err", err)
	}
	if err := t.endLevel(0, true, true); err != nil { // what nobody ended is undone
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	anew, written := t.overlay.alarms[name]
	if set[name] == rec && !written && !t.overlay.wiped {
		t.overlay.setAlarm(name, next, false)
	}
	t.act.noteRepeat(t, name, anew)
	return nil
}

// repeatsWarned is after how many runs in a row the log tells of an alarm whose
// handler always sets it for at once (ALM-41).
const repeatsWarned = 1000

// noteRepeat counts runs that set their alarm for at once.
func (a *activation) noteRepeat(t *turn, name string, anew *recordv1.Alarm) {
	if anew == nil || anew.GetDueMs() > time.Now().UnixMilli() {
		a.repeats = 0
		return
	}
	if a.repeats++; a.repeats == repeatsWarned {
		t.o.host.log.Warn("an alarm is set for at once by every run of its own handler",
			"type", t.o.typ.Name, "id", t.o.durableID().String(), "alarm", name, "runs", a.repeats)
	}
}

// alarmFailed sets an alarm for its retry after cause, or gives it up. Where the
// constructor failed, it is the one that would have run.
func (o *object) alarmFailed(ctx context.Context, run *alarmRun, name string, named bool, cause error) error {
	m, err := o.bare(ctx, exclusive, func(t *turn) error {
		if run.rec == nil {
			picked, err := t.pickAlarm(name, named)
			t.act.runs(nil)
			if err != nil || picked.rec == nil {
				return err
			}
			run = picked
		}
		set, _, err := t.act.loadAlarms(t.ctx, t.o)
		if err != nil {
			return err
		}
		if now := set[run.name]; now == nil || !proto.Equal(now, run.rec) {
			return nil // the handler, or another turn, set it anew
		}
		next, err := o.afterFailure(run, cause)
		if err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.overlay.setAlarm(run.name, next, false)
		return nil
	})
	return o.reply(ctx, m, err)
}

// afterFailure returns what is set in place of an alarm whose run failed.
func (o *object) afterFailure(run *alarmRun, cause error) (*recordv1.Alarm, error) {
	retry := o.typ.alarm(run.name).Retry
	retries := int(run.rec.GetRetries())
	log := o.host.log.With("type", o.typ.Name, "id", o.durableID().String(), "alarm", run.name)
	if retry.MaxRetries < 0 || retries < retry.MaxRetries {
		next := proto.CloneOf(run.rec)
		delay := jittered(retry.FirstDelay << min(retries, 9))
		due, err := alarmTime(time.Now().Add(delay))
		if err != nil {
			return nil, err
		}
		next.Retries, next.DueMs = uint32(retries)+1, due
		log.Warn("an alarm failed, and is retried", "retry", retries+1, "in", delay, "err", cause)
		return next, nil
	}
	log.Error("an alarm failed for the last time, and is given up",
		"scheduled", time.UnixMilli(run.rec.GetScheduledMs()), "retries", retries, "err", cause)
	next, err := afterRun(run.rec, time.Now())
	if err != nil {
		log.Error("an alarm does not recur any more", "err", err)
	}
	return next, nil
}
