package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	durable "github.com/durable-go/durable"
	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
)

// bell writes a record of each run of its alarms, in the commit that ends it.
type bell struct{}

func newBell(context.Context, torturev1durable.BellTx) (torturev1durable.BellHandler, error) {
	return bell{}, nil
}

const (
	bellPrefix = "bell/" // and the name of an alarm
	runPrefix  = "run/"  // the name of an alarm, and the number of the run
)

var errFirstRun = errors.New("the first run fails on purpose")

// Set implements [torturev1durable.BellHandler].
func (b bell) Set(ctx context.Context, tx torturev1durable.BellTx, req *torturev1.SetRequest) (*torturev1.SetResponse, error) {
	set := req.GetBell()
	at := time.UnixMilli(set.GetAtMs())
	every := durable.Every(time.Duration(set.GetEveryMs()) * time.Millisecond)
	if set.GetCatchUp() {
		every = every.WithCatchUp()
	}
	var err error
	switch alarms := tx.Alarms(); set.GetAlarm() {
	case "":
		err = tx.Alarm().Set(at)
	case torturev1durable.BellHopAlarmName:
		err = alarms.Hop().Set(at, set)
	case torturev1durable.BellFlakyAlarmName:
		err = alarms.Flaky().Set(at, set)
	case torturev1durable.BellTickAlarmName:
		err = alarms.Tick().SetSchedule(every, set)
	}
	if err != nil {
		return nil, err
	}
	status, ok, err := tx.AlarmPort().Get(set.GetAlarm())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("the alarm %q was set and is not there", set.GetAlarm())
	}
	set.AtMs = status.ScheduledTime.UnixMilli()
	return &torturev1.SetResponse{}, durable.PutProto(ctx, tx.KV(), bellPrefix+set.GetAlarm(), set)
}

// Alarm implements [torturev1durable.BellHandler].
func (b bell) Alarm(ctx context.Context, tx torturev1durable.BellTx, alarm torturev1durable.BellAlarm) error {
	_, err := b.record(ctx, tx, alarm.AlarmInfo)
	return err
}

// HopAlarm implements [torturev1durable.BellHandler].
func (b bell) HopAlarm(ctx context.Context, tx torturev1durable.BellTx, alarm torturev1durable.BellHopAlarm) error {
	runs, err := b.record(ctx, tx, alarm.AlarmInfo)
	if err != nil || runs >= alarm.Payload.GetRuns() {
		return err
	}
	next := alarm.ScheduledTime.Add(time.Duration(alarm.Payload.GetEveryMs()) * time.Millisecond)
	return tx.Alarms().Hop().Set(next, alarm.Payload)
}

// FlakyAlarm implements [torturev1durable.BellHandler].
func (b bell) FlakyAlarm(ctx context.Context, tx torturev1durable.BellTx, alarm torturev1durable.BellFlakyAlarm) error {
	if _, err := b.record(ctx, tx, alarm.AlarmInfo); err != nil {
		return err
	}
	if alarm.RetryCount == 0 {
		return errFirstRun // and what was written is rolled back
	}
	return nil
}

// TickAlarm implements [torturev1durable.BellHandler].
func (b bell) TickAlarm(ctx context.Context, tx torturev1durable.BellTx, alarm torturev1durable.BellTickAlarm) error {
	runs, err := b.record(ctx, tx, alarm.AlarmInfo)
	if err != nil || runs < alarm.Payload.GetRuns() {
		return err
	}
	return tx.Alarms().Tick().Delete()
}

// record writes that an alarm runs, and returns how often it has.
func (bell) record(ctx context.Context, tx torturev1durable.BellTx, info durable.AlarmInfo) (int32, error) {
	run := &torturev1.Run{
		Alarm:       info.Name,
		AtMs:        time.Now().UnixMilli(),
		ScheduledMs: info.ScheduledTime.UnixMilli(),
		RetryCount:  int32(info.RetryCount),
		IsRetry:     info.IsRetry,
	}
	prefix := runPrefix + info.Name + "/"
	number := int32(1)
	for _, err := range tx.KV().List(ctx, durable.ListPrefix(prefix)) {
		if err != nil {
			return 0, err
		}
		number++
	}
	return number, durable.PutProto(ctx, tx.KV(), fmt.Sprintf("%s%06d", prefix, number), run)
}

// History implements [torturev1durable.BellHandler].
func (bell) History(ctx context.Context, view torturev1durable.BellView, _ *torturev1.HistoryRequest) (*torturev1.HistoryResponse, error) {
	res := &torturev1.HistoryResponse{}
	for e, err := range durable.ListProto[torturev1.Bell](ctx, view.KV(), durable.ListPrefix(bellPrefix)) {
		if err != nil {
			return nil, err
		}
		res.Bells = append(res.Bells, e.Message)
	}
	for e, err := range durable.ListProto[torturev1.Run](ctx, view.KV(), durable.ListPrefix(runPrefix)) {
		if err != nil {
			return nil, err
		}
		res.Runs = append(res.Runs, e.Message)
	}
	pending, err := view.AlarmReader().All()
	for _, status := range pending {
		res.Pending = append(res.Pending, status.Name)
	}
	return res, err
}
