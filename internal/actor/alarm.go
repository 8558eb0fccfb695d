package actor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	"github.com/durable-go/durable/storage"
)

// spaceAlarm is the key space of the alarms in an object's map: then comes the
// name.
const spaceAlarm = 'a'

func alarmKey(name string) []byte {
	return append(append(make([]byte, 0, 1+len(name)), spaceAlarm), name...)
}

// Kinds of timers.
const (
	timerAlarms  = 1 // at the due time of the earliest alarm
	timerReplies = 2 // when the oldest remembered reply may be forgotten
	timerConns   = 3 // when connections may have to be closed whose clients are away
)

// The alarms of an activation, as committed. Neither the map nor its records are
// ever changed: a commit puts another map in place.
type activationAlarms struct {
	mu     sync.Mutex
	loaded bool
	set    map[string]*recordv1.Alarm
	// running is the record whose handler runs; nil when none does.
	running *recordv1.Alarm
}

// alarms returns the committed alarms, and the one whose handler runs.
func (a *activation) loadAlarms(ctx context.Context, o *object) (set map[string]*recordv1.Alarm, running *recordv1.Alarm, err error) {
	s := &a.alarms
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		set := map[string]*recordv1.Alarm{}
		if a.exists {
			r := storage.Range{Lo: []byte{spaceAlarm}, Hi: []byte{spaceAlarm + 1}}
			for pair, err := range a.shard.Scan(ctx, o.id, r) {
				if err != nil {
					return nil, nil, readFailed("read the alarms", err)
				}
				rec := new(recordv1.Alarm)
				if err := proto.Unmarshal(pair.Val, rec); err != nil {
					return nil, nil, fmt.Errorf("%w: alarm %q: %w", storage.ErrCorrupt, pair.Key[1:], err)
				}
				set[string(pair.Key[1:])] = rec
			}
		}
		s.set, s.loaded = set, true
	}
	return s.set, s.running, nil
}

// runs notes which record's handler runs; nil when it is over.
func (a *activation) runs(rec *recordv1.Alarm) {
	a.alarms.mu.Lock()
	a.alarms.running = rec
	a.alarms.mu.Unlock()
}

// replaceAlarms puts the alarms of a commit in place of the committed ones.
func (a *activation) replaceAlarms(set map[string]*recordv1.Alarm) {
	a.alarms.mu.Lock()
	a.alarms.set, a.alarms.loaded = set, true
	a.alarms.mu.Unlock()
}

// earliest returns the due time of the first alarm, 0 when there is none.
func earliest(set map[string]*recordv1.Alarm) int64 {
	due := int64(0)
	for _, rec := range set {
		if due == 0 || rec.GetDueMs() < due {
			due = rec.GetDueMs()
		}
	}
	return due
}

// dueTimer returns the timer for a due time in milliseconds; 0 clears it.
func dueTimer(o storage.ObjectID, kind uint8, ms int64) storage.Timer {
	t := storage.Timer{Object: o, Kind: kind}
	if ms != 0 {
		t.Due = time.UnixMilli(ms)
	}
	return t
}

// millis returns a time in milliseconds, 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// A turnAlarms is the alarms of a turn, as [durable.AlarmPort].
type turnAlarms turn

// AlarmReader implements [durable.View].
func (h viewHandle) AlarmReader() durable.AlarmReader { return (*turnAlarms)(h.turn) }

// AlarmPort implements [durable.Tx].
func (h txHandle) AlarmPort() durable.AlarmPort { return (*turnAlarms)(h.turn) }

// Get implements [durable.AlarmReader].
func (a *turnAlarms) Get(name string) (durable.AlarmStatus, bool, error) {
	t := (*turn)(a)
	if _, err := t.alarmType(name); err != nil {
		return durable.AlarmStatus{}, false, err
	}
	visible, err := t.visibleAlarms()
	if err != nil {
		return durable.AlarmStatus{}, false, err
	}
	rec, ok := visible[name]
	if !ok {
		return durable.AlarmStatus{}, false, nil
	}
	return alarmStatus(name, rec), true, nil
}

// All implements [durable.AlarmReader].
func (a *turnAlarms) All() ([]durable.AlarmStatus, error) {
	visible, err := (*turn)(a).visibleAlarms()
	if err != nil {
		return nil, err
	}
	var all []durable.AlarmStatus
	for _, name := range slices.Sorted(maps.Keys(visible)) {
		all = append(all, alarmStatus(name, visible[name]))
	}
	return all, nil
}

// Set implements [durable.AlarmPort].
func (a *turnAlarms) Set(name string, at time.Time, payload proto.Message) error {
	ms, err := alarmTime(at)
	if err != nil {
		return alarmError("set", name, err)
	}
	return (*turn)(a).setAlarm(name, payload, &recordv1.Alarm{DueMs: ms, ScheduledMs: ms})
}

// SetSchedule implements [durable.AlarmPort].
func (a *turnAlarms) SetSchedule(name string, s durable.Schedule, payload proto.Message) error {
	next, err := s.Next(time.Now())
	if err != nil {
		return alarmError("set the schedule of", name, err)
	}
	ms, err := alarmTime(next)
	if err != nil {
		return alarmError("set the schedule of", name, err)
	}
	return (*turn)(a).setAlarm(name, payload, &recordv1.Alarm{DueMs: ms, ScheduledMs: ms, Schedule: &recordv1.Schedule{
		EveryMs:  s.Interval.Round(time.Millisecond).Milliseconds(),
		Cron:     s.Expression,
		TimeZone: s.TimeZone,
		CatchUp:  s.CatchUp,
	}})
}

// Delete implements [durable.AlarmPort].
func (a *turnAlarms) Delete(name string) error {
	t := (*turn)(a)
	if _, err := t.alarmType(name); err != nil {
		return err
	}
	set, _, err := t.act.loadAlarms(t.ctx, t.o)
	if err != nil {
		return alarmError("delete", name, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	_, written := t.overlay.alarms[name]
	_, stored := set[name]
	if written || (stored && !t.overlay.wiped) {
		t.overlay.setAlarm(name, nil, len(t.levels) > 0)
	}
	return nil
}

func alarmError(what, name string, err error) error {
	if name == "" {
		return fmt.Errorf("%s the alarm: %w", what, err)
	}
	return fmt.Errorf("%s alarm %q: %w", what, name, err)
}

// latestAlarm is the last time for which an alarm can be set.
var latestAlarm = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Millisecond)

// alarmTime returns t in milliseconds, rounded up.
func alarmTime(t time.Time) (int64, error) {
	switch {
	case t.IsZero():
		return 0, fmt.Errorf("%w: the time is the zero time", durable.ErrInvalidArgument)
	case t.After(latestAlarm):
		return 0, fmt.Errorf("%w: the time %v is beyond the year 9999", durable.ErrInvalidArgument, t)
	}
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return max(ms, 1), nil // one in the past is as good as any other
}

// alarmType returns the alarm of that name, as the schema declares it.
func (t *turn) alarmType(name string) (*durable.AlarmType, error) {
	if a := t.o.typ.alarm(name); a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("%w: the schema of %s declares no alarm %q", durable.ErrInvalidArgument, t.o.typ.Name, name)
}

func (t *Type) alarm(name string) *durable.AlarmType {
	for i := range t.Alarms {
		if t.Alarms[i].Name == name {
			return &t.Alarms[i]
		}
	}
	return nil
}

// setAlarm sets an alarm to rec, whose payload it fills in.
func (t *turn) setAlarm(name string, payload proto.Message, rec *recordv1.Alarm) error {
	declared, err := t.alarmType(name)
	if err != nil {
		return err
	}
	if rec.Payload, err = encodePayload(declared, payload); err != nil {
		return alarmError("set", name, err)
	}
	if limit := t.o.typ.Limits.MaxValueBytes; len(rec.GetPayload()) > limit {
		return alarmError("set", name, &durable.LimitError{Name: "bytes of the payload", Max: int64(limit), Actual: int64(len(rec.GetPayload()))})
	}
	visible, err := t.visibleAlarms()
	if err != nil {
		return alarmError("set", name, err)
	}
	if old := visible[name]; old != nil && sameAlarm(old, rec) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if err := t.checkSize("set an alarm", 1+len(name)+proto.Size(rec)); err != nil {
		return err
	}
	t.overlay.setAlarm(name, rec, len(t.levels) > 0)
	return nil
}

func encodePayload(declared *durable.AlarmType, payload proto.Message) ([]byte, error) {
	if (payload == nil) != (declared.NewPayload == nil) {
		return nil, fmt.Errorf("%w: the schema declares the alarm %s", durable.ErrInvalidArgument, map[bool]string{true: "without a payload", false: "with a payload"}[declared.NewPayload == nil])
	}
	if payload == nil {
		return nil, nil
	}
	if want, got := declared.NewPayload().ProtoReflect().Descriptor().FullName(), payload.ProtoReflect().Descriptor().FullName(); want != got {
		return nil, fmt.Errorf("%w: the payload is a %s, and the schema says %s", durable.ErrInvalidArgument, got, want)
	}
	return proto.Marshal(payload)
}

// sameAlarm reports whether setting rec in place of old changes nothing. An alarm
// that recurs is the same whenever it is due next.
func sameAlarm(old, rec *recordv1.Alarm) bool {
	if old.GetSchedule() != nil && rec.GetSchedule() != nil {
		return proto.Equal(old.GetSchedule(), rec.GetSchedule()) && string(old.GetPayload()) == string(rec.GetPayload())
	}
	return proto.Equal(old, rec)
}

// visibleAlarms returns the alarms as the turn sees them.
func (t *turn) visibleAlarms() (map[string]*recordv1.Alarm, error) {
	set, running, err := t.act.loadAlarms(t.ctx, t.o)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	if running == nil && len(t.overlay.alarms) == 0 && !t.overlay.wiped {
		return set, nil
	}
	visible := map[string]*recordv1.Alarm{}
	if !t.overlay.wiped {
		for name, rec := range set {
			if rec != running {
				visible[name] = rec
			}
		}
	}
	for name, rec := range t.overlay.alarms {
		if rec == nil {
			delete(visible, name)
		} else {
			visible[name] = rec
		}
	}
	return visible, nil
}

func alarmStatus(name string, rec *recordv1.Alarm) durable.AlarmStatus {
	return durable.AlarmStatus{
		AlarmInfo: alarmInfo(name, rec),
		Due:       time.UnixMilli(rec.GetDueMs()),
		Schedule:  scheduleOf(rec),
		Payload:   slices.Clone(rec.GetPayload()),
	}
}

func alarmInfo(name string, rec *recordv1.Alarm) durable.AlarmInfo {
	return durable.AlarmInfo{
		Name:          name,
		ScheduledTime: time.UnixMilli(rec.GetScheduledMs()),
		RetryCount:    int(rec.GetRetries()),
		IsRetry:       rec.GetRetries() > 0,
	}
}

func scheduleOf(rec *recordv1.Alarm) durable.Schedule {
	s := rec.GetSchedule()
	return durable.Schedule{
		Interval:   time.Duration(s.GetEveryMs()) * time.Millisecond,
		Expression: s.GetCron(),
		TimeZone:   s.GetTimeZone(),
		CatchUp:    s.GetCatchUp(),
	}
}

// afterRun returns the record for the run that follows one that ends now; nil
// when there is none, or the schedule has no next time, which err tells.
func afterRun(rec *recordv1.Alarm, now time.Time) (*recordv1.Alarm, error) {
	if rec.GetSchedule() == nil {
		return nil, nil
	}
	next, err := scheduleOf(rec).Advance(time.UnixMilli(rec.GetScheduledMs()), now)
	if err != nil {
		return nil, err
	}
	ms, err := alarmTime(next)
	if err != nil {
		return nil, err
	}
	return &recordv1.Alarm{DueMs: ms, ScheduledMs: ms, Payload: rec.GetPayload(), Schedule: rec.GetSchedule()}, nil
}

// addAlarms puts the alarms of the turn into its batch, and returns the set that
// is committed with it; nil when the turn changes none.
func (t *turn) addAlarms(b *storage.Batch) (map[string]*recordv1.Alarm, error) {
	v := &t.overlay
	if len(v.alarms) == 0 && !v.wiped {
		return nil, nil
	}
	set := map[string]*recordv1.Alarm{}
	before := int64(0)
	if !v.wiped {
		committed, _, err := t.act.loadAlarms(t.ctx, t.o) // is in memory
		if err != nil {
			return nil, err
		}
		maps.Copy(set, committed)
		before = earliest(committed)
	}
	for _, name := range slices.Sorted(maps.Keys(v.alarms)) {
		rec := v.alarms[name]
		if rec == nil {
			if _, ok := set[name]; ok {
				b.Del = append(b.Del, alarmKey(name))
				delete(set, name)
			}
			continue
		}
		val, err := proto.Marshal(rec)
		if err != nil {
			return nil, alarmError("store", name, err)
		}
		b.Put = append(b.Put, storage.Pair{Key: alarmKey(name), Val: val})
		set[name] = rec
	}
	if after := earliest(set); after != before {
		b.Timers = append(b.Timers, dueTimer(t.o.id, timerAlarms, after))
	}
	return set, nil
}

// dropUnknown removes alarms whose names the schema no longer declares.
func (t *turn) dropUnknown(set map[string]*recordv1.Alarm) (unknown []string) {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if t.o.typ.alarm(name) == nil {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		t.o.host.log.Warn("alarms are dropped that the schema no longer declares",
			"type", t.o.typ.Name, "id", t.o.durableID().String(), "alarms", strings.Join(unknown, ", "))
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, name := range unknown {
			t.overlay.setAlarm(name, nil, false)
		}
	}
	return unknown
}
