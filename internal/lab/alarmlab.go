package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// eventPrefix begins the keys under which an alarmLab stores the runs of its
// alarms; then comes a number, big-endian.
const eventPrefix = "event/"

// alarmScripts are what the alarms of all alarm labs do and did. They outlast the
// activations, and the store.
type alarmScripts struct {
	mu    sync.Mutex
	runs  map[alarmOf][]*labv1.AlarmSteps // that are to come
	began map[durable.ID][]*labv1.AlarmEvent
}

type alarmOf struct {
	object durable.ID
	alarm  string
}

// begin notes a run, and returns what it is to do.
func (s *alarmScripts) begin(object durable.ID, event *labv1.AlarmEvent) []*labv1.AlarmStep {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began == nil {
		s.began = map[durable.ID][]*labv1.AlarmEvent{}
	}
	s.began[object] = append(s.began[object], event)
	key := alarmOf{object, event.GetAlarm()}
	runs := s.runs[key]
	if len(runs) == 0 {
		return nil
	}
	s.runs[key] = runs[1:]
	return runs[0].GetSteps()
}

func (s *alarmScripts) set(key alarmOf, runs []*labv1.AlarmSteps) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs == nil {
		s.runs = map[alarmOf][]*labv1.AlarmSteps{}
	}
	s.runs[key] = runs
}

func (s *alarmScripts) events(object durable.ID) []*labv1.AlarmEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.began[object])
}

// An alarmLab takes steps, also when its alarms run.
type alarmLab struct {
	scripts    *alarmScripts
	activation int64
}

func (l *Lab) newAlarmLab(context.Context, labv1durable.AlarmLabTx) (labv1durable.AlarmLabHandler, error) {
	return &alarmLab{scripts: &l.alarms, activation: l.Constructed.Add(1)}, nil
}

// Act implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) Act(ctx context.Context, tx labv1durable.AlarmLabTx, req *labv1.ActRequest) (*labv1.ActResponse, error) {
	results, err := alarmSteps{tx.KV(), tx.SQL(), tx.AlarmPort(), tx.Tx}.run(ctx, req.GetSteps())
	if err != nil {
		return nil, err
	}
	return &labv1.ActResponse{Results: results}, nil
}

// Look implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) Look(ctx context.Context, view labv1durable.AlarmLabView, req *labv1.LookRequest) (*labv1.LookResponse, error) {
	results, err := alarmSteps{view.KV(), view.SQL(), view.AlarmReader(), nil}.run(ctx, req.GetSteps())
	if err != nil {
		return nil, err
	}
	return &labv1.LookResponse{Results: results}, nil
}

// Script implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) Script(_ context.Context, view labv1durable.AlarmLabView, req *labv1.ScriptRequest) (*labv1.ScriptResponse, error) {
	l.scripts.set(alarmOf{view.ID(), req.GetAlarm()}, req.GetRuns())
	return &labv1.ScriptResponse{}, nil
}

// Events implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) Events(ctx context.Context, view labv1durable.AlarmLabView, _ *labv1.EventsRequest) (*labv1.EventsResponse, error) {
	res := &labv1.EventsResponse{Began: l.scripts.events(view.ID())}
	for e, err := range view.KV().List(ctx, durable.ListPrefix(eventPrefix)) {
		if err != nil {
			return nil, err
		}
		event := &labv1.AlarmEvent{}
		if err := proto.Unmarshal(e.Value, event); err != nil {
			return nil, err
		}
		res.Committed = append(res.Committed, event)
	}
	return res, nil
}

// Alarm implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) Alarm(ctx context.Context, tx labv1durable.AlarmLabTx, alarm labv1durable.AlarmLabAlarm) error {
	return l.ring(ctx, tx, alarm.AlarmInfo, nil)
}

// RenewAlarm implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) RenewAlarm(ctx context.Context, tx labv1durable.AlarmLabTx, alarm labv1durable.AlarmLabRenewAlarm) error {
	return l.ring(ctx, tx, alarm.AlarmInfo, alarm.Payload)
}

// RemindAlarm implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) RemindAlarm(ctx context.Context, tx labv1durable.AlarmLabTx, alarm labv1durable.AlarmLabRemindAlarm) error {
	return l.ring(ctx, tx, alarm.AlarmInfo, alarm.Payload)
}

// NeverAgainAlarm implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) NeverAgainAlarm(ctx context.Context, tx labv1durable.AlarmLabTx, alarm labv1durable.AlarmLabNeverAgainAlarm) error {
	return l.ring(ctx, tx, alarm.AlarmInfo, nil)
}

// ForeverAlarm implements [labv1durable.AlarmLabHandler].
func (l *alarmLab) ForeverAlarm(ctx context.Context, tx labv1durable.AlarmLabTx, alarm labv1durable.AlarmLabForeverAlarm) error {
	return l.ring(ctx, tx, alarm.AlarmInfo, nil)
}

// ring is a run of an alarm: it stores that it was, and does what the script says.
func (l *alarmLab) ring(ctx context.Context, tx labv1durable.AlarmLabTx, info durable.AlarmInfo, payload *labv1.AlarmPayload) error {
	event := &labv1.AlarmEvent{
		Alarm:       info.Name,
		ScheduledMs: info.ScheduledTime.UnixMilli(),
		RetryCount:  int32(info.RetryCount), //nolint:gosec // at most 1,000
		IsRetry:     info.IsRetry,
		Payload:     payload.GetText(),
		AtMs:        time.Now().UnixMilli(),
		Activation:  l.activation,
		Object:      tx.Name(),
	}
	steps := l.scripts.begin(tx.ID(), event)
	if err := appendEvent(ctx, tx.KV(), event); err != nil {
		return err
	}
	_, err := alarmSteps{tx.KV(), tx.SQL(), tx.AlarmPort(), tx.Tx}.run(ctx, steps)
	return err
}

func appendEvent(ctx context.Context, kv durable.KV, event *labv1.AlarmEvent) error {
	number := uint64(1)
	for e, err := range kv.List(ctx, durable.ListPrefix(eventPrefix), durable.ListReverse(), durable.ListLimit(1)) {
		if err != nil {
			return err
		}
		number = binary.BigEndian.Uint64([]byte(e.Key[len(eventPrefix):])) + 1
	}
	value, err := proto.Marshal(event)
	if err != nil {
		return err
	}
	return kv.Put(ctx, string(binary.BigEndian.AppendUint64([]byte(eventPrefix), number)), value)
}

// alarmSteps takes steps with one handle.
type alarmSteps struct {
	kv     durable.KVReader
	db     durable.SQL
	alarms durable.AlarmReader
	tx     durable.Tx // nil in a view
}

func (s alarmSteps) run(ctx context.Context, todo []*labv1.AlarmStep) ([]*labv1.AlarmResult, error) {
	var results []*labv1.AlarmResult
	for _, step := range todo {
		res := &labv1.AlarmResult{}
		if err := s.step(ctx, step, res); err != nil {
			if !step.GetTolerate() {
				return nil, err
			}
			res.Error, res.Kind = err.Error(), kind(err)
		}
		results = append(results, res)
	}
	return results, nil
}

func (s alarmSteps) step(ctx context.Context, step *labv1.AlarmStep, res *labv1.AlarmResult) (err error) {
	switch do := step.GetDo().(type) {
	case *labv1.AlarmStep_Set:
		return s.set(do.Set)
	case *labv1.AlarmStep_Delete:
		return s.tx.AlarmPort().Delete(do.Delete)
	case *labv1.AlarmStep_Get:
		status, ok, err := s.alarms.Get(do.Get)
		if ok {
			return s.found(res, status)
		}
		return err
	case *labv1.AlarmStep_All:
		all, err := s.alarms.All()
		return errors.Join(err, s.found(res, all...))
	case *labv1.AlarmStep_Put:
		return s.tx.KV().Put(ctx, string(do.Put.GetKey()), append([]byte{}, do.Put.GetValue()...))
	case *labv1.AlarmStep_Value:
		res.Value, _, err = s.kv.Get(ctx, string(do.Value))
		return err
	case *labv1.AlarmStep_Sql:
		return s.sql(ctx, do.Sql, res)
	case *labv1.AlarmStep_DeleteAll:
		return s.tx.DeleteAll(ctx)
	case *labv1.AlarmStep_Savepoint:
		return s.tx.Savepoint(func() error {
			res.Results, err = s.run(ctx, do.Savepoint.GetSteps())
			return err
		})
	case *labv1.AlarmStep_Await:
		return s.tx.Await(ctx, func(ctx context.Context) error {
			res.Results, err = s.run(ctx, do.Await.GetSteps())
			return err
		})
	case *labv1.AlarmStep_Sync:
		return s.tx.Sync(ctx)
	case *labv1.AlarmStep_Fail:
		return errors.New(do.Fail)
	case *labv1.AlarmStep_Keep:
		return durable.Keep(errors.New(do.Keep))
	case *labv1.AlarmStep_Panic:
		panic(do.Panic)
	case *labv1.AlarmStep_Abort:
		s.tx.Abort(do.Abort)
	case *labv1.AlarmStep_SleepMs:
		return sleep(ctx, do.SleepMs)
	case *labv1.AlarmStep_Hang:
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

// withPayload are the alarms that have one.
var withPayload = []string{labv1durable.AlarmLabRenewAlarmName, labv1durable.AlarmLabRemindAlarmName}

func (s alarmSteps) set(setting *labv1.AlarmSetting) error {
	name := setting.GetAlarm()
	var payload proto.Message
	if slices.Contains(withPayload, name) {
		payload = &labv1.AlarmPayload{Text: setting.GetPayload()}
	}
	switch when := setting.GetWhen().(type) {
	case *labv1.AlarmSetting_AtMs:
		return s.tx.AlarmPort().Set(name, time.UnixMilli(when.AtMs), payload)
	case *labv1.AlarmSetting_InMs:
		return s.tx.AlarmPort().Set(name, s.tx.Now().Add(time.Duration(when.InMs)*time.Millisecond), payload)
	case *labv1.AlarmSetting_Zero:
		return s.tx.AlarmPort().Set(name, time.Time{}, payload)
	case *labv1.AlarmSetting_Schedule:
		return s.tx.AlarmPort().SetSchedule(name, durable.Schedule{
			Interval:   time.Duration(when.Schedule.GetEveryMs()) * time.Millisecond,
			Expression: when.Schedule.GetCron(),
			TimeZone:   when.Schedule.GetTimeZone(),
			CatchUp:    when.Schedule.GetCatchUp(),
		}, payload)
	}
	return fmt.Errorf("alarm %q: it is not said when", name)
}

func (s alarmSteps) found(res *labv1.AlarmResult, all ...durable.AlarmStatus) error {
	for _, status := range all {
		payload := &labv1.AlarmPayload{}
		if err := proto.Unmarshal(status.Payload, payload); err != nil {
			return err
		}
		set := &labv1.AlarmSet{
			Alarm:       status.Name,
			ScheduledMs: status.ScheduledTime.UnixMilli(),
			DueMs:       status.Due.UnixMilli(),
			RetryCount:  int32(status.RetryCount), //nolint:gosec // at most 1,000
			IsRetry:     status.IsRetry,
			Payload:     payload.GetText(),
		}
		if schedule := status.Schedule; !schedule.IsZero() {
			set.Schedule = &labv1.AlarmSchedule{
				EveryMs:  schedule.Interval.Milliseconds(),
				Cron:     schedule.Expression,
				TimeZone: schedule.TimeZone,
				CatchUp:  schedule.CatchUp,
			}
		}
		res.Alarms = append(res.Alarms, set)
	}
	return nil
}

// sql runs a statement; if it gives a row, the value of that is read as text.
func (s alarmSteps) sql(ctx context.Context, statement *labv1.Statement, res *labv1.AlarmResult) error {
	cursor, err := s.db.Exec(ctx, statement.GetText(), sqlArgs(statement.GetArgs())...)
	if err != nil {
		return err
	}
	defer cursor.Close()
	for row, err := range cursor.Rows() {
		if err != nil {
			return err
		}
		res.Value = fmt.Append(res.Value, row.Values()...)
	}
	return nil
}
