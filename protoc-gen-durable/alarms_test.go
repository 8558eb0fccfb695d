package main

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/durable-go/durable"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/alarms/alarm"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/alarms/alarms"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/alarms/alarmsv1"
	"github.com/durable-go/durable/protoc-gen-durable/internal/testdata/alarms/alarmsv1/alarmsv1durable"
)

// alarmCases are the alarms of RoomService, in the order of its schema.
var alarmCases = []struct {
	name, constant string
	handler        string
	payload        proto.Message // nil: it has none
	retry          durable.AlarmRetry
	set            func(alarmsv1durable.RoomTx, time.Time) error
	get            func(alarmsv1durable.RoomView) (time.Time, bool, error)
}{
	{
		handler: "Alarm",
		retry:   durable.AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second},
		set:     func(tx alarmsv1durable.RoomTx, at time.Time) error { return tx.Alarm().Set(at) },
		get:     func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarm().Get() },
	},
	{
		name: "sweep", constant: alarmsv1durable.RoomSweepAlarmName, handler: "SweepAlarm",
		payload: &alarmsv1.Sweep{What: "floor"},
		retry:   durable.AlarmRetry{MaxRetries: 0, FirstDelay: 2 * time.Second},
		set: func(tx alarmsv1durable.RoomTx, at time.Time) error {
			return tx.Alarms().Sweep().Set(at, &alarmsv1.Sweep{What: "floor"})
		},
		get: func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarms().Sweep().Get() },
	},
	{
		name: "daily_report", constant: alarmsv1durable.RoomDailyReportAlarmName, handler: "DailyReportAlarm",
		payload: &alarms.Report{Title: "today"},
		retry:   durable.AlarmRetry{MaxRetries: -1, FirstDelay: time.Millisecond},
		set: func(tx alarmsv1durable.RoomTx, at time.Time) error {
			return tx.Alarms().DailyReport().Set(at, &alarms.Report{Title: "today"})
		},
		get: func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarms().DailyReport().Get() },
	},
	{
		name: "at", constant: alarmsv1durable.RoomAtAlarmName, handler: "AtAlarm",
		payload: &timestamppb.Timestamp{Seconds: 7},
		retry:   durable.AlarmRetry{MaxRetries: 1000, FirstDelay: 24 * time.Hour},
		set: func(tx alarmsv1durable.RoomTx, at time.Time) error {
			return tx.Alarms().At().Set(at, &timestamppb.Timestamp{Seconds: 7})
		},
		get: func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarms().At().Get() },
	},
	{
		name: "nested", constant: alarmsv1durable.RoomNestedAlarmName, handler: "NestedAlarm",
		payload: &alarmsv1.Sweep_Nested{What: "box"},
		retry:   durable.AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second},
		set: func(tx alarmsv1durable.RoomTx, at time.Time) error {
			return tx.Alarms().Nested().Set(at, &alarmsv1.Sweep_Nested{What: "box"})
		},
		get: func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarms().Nested().Get() },
	},
	{
		name: "shared", constant: alarmsv1durable.RoomSharedAlarmName, handler: "SharedAlarm",
		payload: &alarm.Shared{What: "all"},
		retry:   durable.AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second},
		set: func(tx alarmsv1durable.RoomTx, at time.Time) error {
			return tx.Alarms().Shared().Set(at, &alarm.Shared{What: "all"})
		},
		get: func(view alarmsv1durable.RoomView) (time.Time, bool, error) { return view.Alarms().Shared().Get() },
	},
}

// room notes which handler of an alarm ran, and with what.
type room struct {
	alarmsv1durable.UnimplementedRoomHandler
	ran     string
	object  string
	info    durable.AlarmInfo
	payload proto.Message
}

var errRan = errors.New("the handler ran")

func (r *room) note(handler string, tx durable.Tx, info durable.AlarmInfo, payload proto.Message) error {
	r.ran, r.object, r.info, r.payload = handler, tx.Name(), info, payload
	return errRan
}

func (r *room) Alarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomAlarm) error {
	return r.note("Alarm", tx.Tx, a.AlarmInfo, nil)
}

func (r *room) SweepAlarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomSweepAlarm) error {
	return r.note("SweepAlarm", tx.Tx, a.AlarmInfo, a.Payload)
}

func (r *room) DailyReportAlarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomDailyReportAlarm) error {
	return r.note("DailyReportAlarm", tx.Tx, a.AlarmInfo, a.Payload)
}

func (r *room) AtAlarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomAtAlarm) error {
	return r.note("AtAlarm", tx.Tx, a.AlarmInfo, a.Payload)
}

func (r *room) NestedAlarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomNestedAlarm) error {
	return r.note("NestedAlarm", tx.Tx, a.AlarmInfo, a.Payload)
}

func (r *room) SharedAlarm(_ context.Context, tx alarmsv1durable.RoomTx, a alarmsv1durable.RoomSharedAlarm) error {
	return r.note("SharedAlarm", tx.Tx, a.AlarmInfo, a.Payload)
}

// TestAlarms runs every alarm of an object through what it registered, and sets
// and reads each through the generated handles.
func TestAlarms(t *testing.T) {
	r := &registrar{}
	if err := alarmsv1durable.RegisterRoom(r, func(context.Context, alarmsv1durable.RoomTx) (alarmsv1durable.RoomHandler, error) {
		return &room{}, nil
	}); err != nil {
		t.Fatal(err)
	}
	registered := r.types[0].Alarms
	if len(registered) != len(alarmCases) {
		t.Fatalf("%d alarms are registered", len(registered))
	}
	due := time.UnixMilli(1_700_000_000_123)
	for i, want := range alarmCases {
		t.Run("ALM-20 "+want.handler, func(t *testing.T) {
			got := registered[i]
			if got.Name != want.name || want.constant != want.name {
				t.Errorf("it is called %q, and the constant is %q", got.Name, want.constant)
			}
			if diff := cmp.Diff(want.retry, got.Retry); diff != "" {
				t.Errorf("retry (-want +got)\n%s", diff)
			}
			switch {
			case (got.NewPayload != nil) != (want.payload != nil):
				t.Error("it has a payload, or has none")
			case want.payload != nil:
				empty := want.payload.ProtoReflect().New().Interface()
				if diff := cmp.Diff(empty, got.NewPayload(), protocmp.Transform()); diff != "" {
					t.Errorf("new payload (-want +got)\n%s", diff)
				}
			}
			h, info := &room{}, durable.AlarmInfo{Name: want.name, ScheduledTime: due, RetryCount: 3, IsRetry: true}
			if err := got.Run(t.Context(), h, tx{}, info, want.payload); !errors.Is(err, errRan) {
				t.Errorf("got error %v", err)
			}
			if h.ran != want.handler || h.object != "news" || h.payload != want.payload {
				t.Errorf("%q ran, for object %q, with %v", h.ran, h.object, h.payload)
			}
			if diff := cmp.Diff(info, h.info); diff != "" {
				t.Errorf("info (-want +got)\n%s", diff)
			}

			port := &alarmPort{status: durable.AlarmStatus{AlarmInfo: info}}
			if err := want.set(alarmsv1durable.RoomTx{Tx: alarmTx{port: port}}, due); err != nil {
				t.Error(err)
			}
			at, ok, err := want.get(alarmsv1durable.RoomView{View: alarmView{port: port}})
			if err != nil || !ok || !at.Equal(due) {
				t.Errorf("Get returned %v, %t, %v", at, ok, err)
			}
			wantCalls := []alarmCall{{"set", want.name, due, want.payload}, {method: "get", name: want.name}}
			if diff := cmp.Diff(wantCalls, port.calls, cmp.AllowUnexported(alarmCall{}), protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("calls (-want +got)\n%s", diff)
			}
		})
	}
}

// TestAlarmMethods checks that handles have what the schema declares and nothing
// else: ALM-06.
func TestAlarmMethods(t *testing.T) {
	type test struct {
		typ  reflect.Type
		want []string
	}
	for _, c := range []test{
		{reflect.TypeFor[alarmsv1durable.RoomTx](), []string{"Alarm", "Alarms"}},
		{reflect.TypeFor[alarmsv1durable.RoomView](), []string{"Alarm", "Alarms"}},
		{reflect.TypeFor[alarmsv1durable.EggTx](), []string{"Alarm"}},   //nolint:staticcheck // it is deprecated
		{reflect.TypeFor[alarmsv1durable.EggView](), []string{"Alarm"}}, //nolint:staticcheck // it is deprecated
		{reflect.TypeFor[alarmsv1durable.StoneTx](), nil},
		{reflect.TypeFor[alarmsv1durable.StoneView](), nil},
	} {
		var got []string
		for _, name := range []string{"Alarm", "Alarms"} {
			if _, ok := c.typ.MethodByName(name); ok {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("ALM-06 %v (-want +got)\n%s", c.typ, diff)
		}
	}
	for _, c := range []test{
		{reflect.TypeFor[alarmsv1durable.RoomAlarms](), []string{"At", "DailyReport", "Nested", "Shared", "Sweep"}},
		{reflect.TypeFor[alarmsv1durable.RoomAlarmViews](), []string{"At", "DailyReport", "Nested", "Shared", "Sweep"}},
		{reflect.TypeFor[alarmsv1durable.TimerAlarms](), []string{"A", "A1B_2", "Alarm", "Func", "Name", "S", "Tx", "XY2"}},
		{reflect.TypeFor[alarmsv1durable.TimerAlarmViews](), []string{"A", "A1B_2", "Alarm", "Func", "Name", "S", "Tx", "XY2"}},
		{reflect.TypeFor[durable.AlarmView](), []string{"Get", "Status"}}, // a view cannot set
	} {
		var got []string
		for i := range c.typ.NumMethod() {
			got = append(got, c.typ.Method(i).Name)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("ALM-06 %v (-want +got)\n%s", c.typ, diff)
		}
	}
}

// Typed handles go wherever a handle goes.
var (
	_ durable.Tx   = alarmsv1durable.RoomTx{}
	_ durable.View = alarmsv1durable.RoomView{}
)

// TestGo enters turns from background work with typed handles.
func TestGo(t *testing.T) {
	handle := alarmsv1durable.StoneTx{Tx: backgroundTx{}}
	var got []string
	err := handle.Go(func(ctx context.Context, turns alarmsv1durable.StoneTurns) error {
		return errors.Join(
			turns.Update(ctx, func(tx alarmsv1durable.StoneTx) error {
				got = append(got, "updated "+tx.Name())
				return nil
			}),
			turns.View(ctx, func(view alarmsv1durable.StoneView) error {
				got = append(got, "viewed "+view.Name())
				return errRan
			}),
		)
	})
	if !errors.Is(err, errRan) {
		t.Errorf("got error %v", err)
	}
	if diff := cmp.Diff([]string{"updated news", "viewed news"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An alarmCall is a call of an [alarmPort].
type alarmCall struct {
	method, name string
	time         time.Time
	payload      proto.Message
}

// An alarmPort notes calls, and has one alarm.
type alarmPort struct {
	durable.AlarmPort
	status durable.AlarmStatus
	calls  []alarmCall
}

func (p *alarmPort) Set(name string, t time.Time, payload proto.Message) error {
	p.calls = append(p.calls, alarmCall{"set", name, t, payload})
	return nil
}

func (p *alarmPort) Get(name string) (durable.AlarmStatus, bool, error) {
	p.calls = append(p.calls, alarmCall{method: "get", name: name})
	return p.status, true, nil
}

type alarmTx struct {
	durable.Tx
	port *alarmPort
}

func (tx alarmTx) AlarmPort() durable.AlarmPort { return tx.port }

type alarmView struct {
	durable.View
	port *alarmPort
}

func (view alarmView) AlarmReader() durable.AlarmReader { return view.port }

// A backgroundTx runs work in the background at once.
type backgroundTx struct{ durable.Tx }

func (backgroundTx) Background(fn func(ctx context.Context, turns durable.TurnPort) error) error {
	return fn(context.Background(), &streamPort{})
}
