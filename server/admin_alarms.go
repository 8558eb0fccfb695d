package server

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	"github.com/durable-go/durable/internal/actor"
)

// ListAlarms implements [adminv1connect.AdminServiceHandler].
func (a admin) ListAlarms(ctx context.Context, req *adminv1.ListAlarmsRequest) (*adminv1.ListAlarmsResponse, error) {
	o, err := a.object(req)
	if err != nil {
		return nil, err
	}
	set, err := a.s.host.Alarms(ctx, o.typ, o.id)
	if err != nil {
		return nil, o.answer(err)
	}
	return &adminv1.ListAlarmsResponse{Alarms: alarms(o.typ, set)}, nil
}

// RunAlarm implements [adminv1connect.AdminServiceHandler].
func (a admin) RunAlarm(ctx context.Context, req *adminv1.RunAlarmRequest) (*adminv1.RunAlarmResponse, error) {
	o, _, err := a.alarm(req)
	if err != nil {
		return nil, err
	}
	ran, err := a.s.host.RunAlarm(ctx, o.typ, o.id, req.GetAlarm())
	if err = a.changed(ctx, "run alarm", o, ran, err, "alarm", req.GetAlarm()); err != nil {
		return nil, err
	}
	return &adminv1.RunAlarmResponse{Ran: ran}, nil
}

// SetAlarm implements [adminv1connect.AdminServiceHandler].
func (a admin) SetAlarm(ctx context.Context, req *adminv1.SetAlarmRequest) (*adminv1.SetAlarmResponse, error) {
	o, alarm, err := a.alarm(req)
	if err != nil {
		return nil, err
	}
	if req.GetTime() == nil {
		return nil, invalid("the request does not say when the alarm is due: set time")
	}
	t := req.GetTime().AsTime()
	if err := req.GetTime().CheckValid(); err != nil || t.IsZero() {
		return nil, invalid("the time of the alarm must be after the year 1 and before the year 10000")
	}
	payload, err := unpack(alarm, req.GetPayload())
	if err != nil {
		return nil, err
	}
	err = a.s.host.SetAlarm(ctx, o.typ, o.id, alarm.Name, t, payload)
	if err = a.changed(ctx, "set alarm", o, true, err, "alarm", alarm.Name, "due", t); err != nil {
		return nil, err
	}
	return &adminv1.SetAlarmResponse{}, nil
}

// DeleteAlarm implements [adminv1connect.AdminServiceHandler].
func (a admin) DeleteAlarm(ctx context.Context, req *adminv1.DeleteAlarmRequest) (*adminv1.DeleteAlarmResponse, error) {
	o, _, err := a.alarm(req)
	if err != nil {
		return nil, err
	}
	was, err := a.s.host.DeleteAlarm(ctx, o.typ, o.id, req.GetAlarm())
	if err = a.changed(ctx, "delete alarm", o, was, err, "alarm", req.GetAlarm()); err != nil {
		return nil, err
	}
	return &adminv1.DeleteAlarmResponse{Deleted: was}, nil
}

// alarm finds the object that a request names, and the alarm as its schema
// declares it.
func (a admin) alarm(req interface {
	GetType() string
	GetName() string
	GetId() string
	GetAlarm() string
},
) (target, *durable.AlarmType, error) {
	o, err := a.object(req)
	if err != nil {
		return target{}, nil, err
	}
	if alarm := declared(o.typ, req.GetAlarm()); alarm != nil {
		return o, alarm, nil
	}
	var names []string
	for _, alarm := range o.typ.Alarms {
		names = append(names, fmt.Sprintf("%q", alarm.Name))
	}
	has := "it has none"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	return target{}, nil, connect.Errorf(connect.CodeNotFound, "object type %s has no alarm %q: %s", o.typ.Name, req.GetAlarm(), has)
}

func declared(typ *actor.Type, name string) *durable.AlarmType {
	for i := range typ.Alarms {
		if typ.Alarms[i].Name == name {
			return &typ.Alarms[i]
		}
	}
	return nil
}

// payloadName returns the full name of the payload's message, empty when the
// alarm has none.
func payloadName(alarm *durable.AlarmType) string {
	if alarm.NewPayload == nil {
		return ""
	}
	return string(alarm.NewPayload().ProtoReflect().Descriptor().FullName())
}

// unpack returns the payload of an alarm that is to be set.
func unpack(alarm *durable.AlarmType, packed *anypb.Any) (proto.Message, error) {
	want := payloadName(alarm)
	switch {
	case want == "" && packed != nil:
		return nil, invalid("alarm %q has no payload: leave it out", alarm.Name)
	case want == "":
		return nil, nil
	}
	payload := alarm.NewPayload()
	if packed == nil {
		return payload, nil
	}
	if got := string(packed.MessageName()); got != want {
		return nil, invalid("the payload of alarm %q is a %s, not a %q", alarm.Name, want, got)
	}
	if err := proto.Unmarshal(packed.GetValue(), payload); err != nil {
		return nil, invalid("the payload of alarm %q does not parse as a %s", alarm.Name, want)
	}
	return payload, nil
}

// alarms returns alarms that are set as the service tells of them.
func alarms(typ *actor.Type, set []durable.AlarmStatus) []*adminv1.Alarm {
	var all []*adminv1.Alarm
	for _, status := range set {
		alarm := &adminv1.Alarm{
			Name: status.Name, ScheduledTime: timestamp(status.ScheduledTime), Due: timestamp(status.Due),
			RetryCount: int32(status.RetryCount), IsRetry: status.IsRetry,
			Schedule: schedule(status.Schedule), Payload: pack(declared(typ, status.Name), status.Payload),
		}
		all = append(all, alarm)
	}
	return all
}

func schedule(s durable.Schedule) *adminv1.Schedule {
	out := &adminv1.Schedule{CatchUp: s.CatchUp}
	switch {
	case s.IsZero():
		return nil
	case s.Expression != "":
		out.When = &adminv1.Schedule_Cron{Cron: &adminv1.Cron{Expression: s.Expression, TimeZone: s.TimeZone}}
	default:
		out.When = &adminv1.Schedule_Interval{Interval: durationpb.New(s.Interval)}
	}
	return out
}

// pack returns a stored payload. One that does not parse comes as bytes, since as
// a message it could not be written as JSON.
func pack(alarm *durable.AlarmType, stored []byte) *anypb.Any {
	expected := alarm != nil && alarm.NewPayload != nil
	if !expected && len(stored) == 0 {
		return nil
	}
	if expected {
		if payload := alarm.NewPayload(); proto.Unmarshal(stored, payload) == nil {
			return &anypb.Any{TypeUrl: anyPrefix + payloadName(alarm), Value: stored}
		}
	}
	packed, err := anypb.New(wrapperspb.Bytes(stored))
	if err != nil {
		return nil // a message of bytes always marshals
	}
	return packed
}

// anyPrefix is what every type URL of a google.protobuf.Any begins with.
const anyPrefix = "type.googleapis.com/"
