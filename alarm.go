package durable

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
)

// An AlarmInfo tells the handler of an alarm which run it serves. Generated
// types embed it.
type AlarmInfo struct {
	// Name is the name of the alarm; empty for the default one.
	Name string
	// ScheduledTime is the time that was set, or came from the schedule, to the
	// millisecond. Retries have that of the first run.
	ScheduledTime time.Time
	// RetryCount is 0 for the first run, and counts the retries that count
	// against the limit after that.
	RetryCount int
	// IsRetry reports whether the alarm was run before and did not succeed, as
	// far as the runtime knows.
	IsRetry bool
}

// An AlarmStatus is an alarm that is set.
type AlarmStatus struct {
	AlarmInfo
	// Due is when it runs next: the scheduled time, or that of a retry.
	Due time.Time
	// Schedule says when it recurs; the zero Schedule for one that does not.
	Schedule Schedule
	// Payload is the encoded payload; nil when the alarm has none.
	Payload []byte
}

// An AlarmReader reads the alarms of one object by name, as its turn sees them.
// Its methods return [ErrInvalidArgument] for a name that the schema does not
// declare.
type AlarmReader interface {
	// Get returns the alarm; ok is false when it is not set. While its handler
	// runs, an alarm is not set, unless it was set again.
	Get(name string) (status AlarmStatus, ok bool, err error)
	// All returns the alarms that are set, in order of name.
	All() ([]AlarmStatus, error)
}

// An AlarmPort sets the alarms of one object by name. Generated code wraps it in
// [Alarm] and [PayloadAlarm], which say what its methods do.
type AlarmPort interface {
	AlarmReader
	Set(name string, t time.Time, payload proto.Message) error
	SetSchedule(name string, s Schedule, payload proto.Message) error
	Delete(name string) error
}

// An AlarmView reads one alarm of an object.
type AlarmView struct {
	port AlarmReader
	name string
}

// NewAlarmView returns the alarm of that name. Generated code calls it.
func NewAlarmView(port AlarmReader, name string) AlarmView { return AlarmView{port, name} }

// Get returns the time for which the alarm is set, to the millisecond; ok is
// false when it is not set. While its handler runs it is not set, unless it was
// set again. Between a run that failed and its retry it is set for the time of
// the first.
func (a AlarmView) Get() (t time.Time, ok bool, err error) {
	status, ok, err := a.port.Get(a.name)
	return status.ScheduledTime, ok, err
}

// Status returns everything about the alarm; ok is false when it is not set.
func (a AlarmView) Status() (status AlarmStatus, ok bool, err error) { return a.port.Get(a.name) }

// An Alarm is one alarm of an object: a durable timer that wakes it. Writes are
// part of the turn: they are committed, or rolled back, with everything else it
// wrote. An object has each of its alarms once, whatever is set.
//
// When the alarm is due, its handler runs in a turn of its own, never early, at
// least once, also after a restart. The alarm is removed in the commit of what
// the handler wrote. A handler that fails is run again, by the retry policy of
// the schema: by default six times, after 2, 4, 8, 16, 32 and 64 seconds and up
// to a quarter more. Then the alarm is given up, which the server logs.
type Alarm struct {
	AlarmView
	port AlarmPort
}

// NewAlarm returns the alarm of that name. Generated code calls it.
func NewAlarm(port AlarmPort, name string) Alarm { return Alarm{AlarmView{port, name}, port} }

// Set sets the alarm for t, rounded up to the millisecond, in place of what was
// set before, a schedule and pending retries included. One in the past is due at
// once, after the turn. It returns [ErrInvalidArgument] for the zero time and for
// one beyond the year 9999. Setting the same again is no write.
//
// In the alarm's own handler it sets the next run: the present one is over when
// the handler returns, and if it fails, the alarm that was set takes the place of
// the retry, as far as a commit point made it durable.
func (a Alarm) Set(t time.Time) error { return a.port.Set(a.name, t, nil) }

// SetSchedule makes the alarm recur, from now on. See [Every] and [Cron], and
// [Alarm].Set for the rest. Setting the schedule that is set already changes
// nothing, whenever the next run or retry is due, so a constructor can do it. The next run is set in the commit that ends the
// present one, whether that succeeded or was given up.
func (a Alarm) SetSchedule(s Schedule) error { return a.port.SetSchedule(a.name, s, nil) }

// Delete removes the alarm, its schedule and pending retries. It is no error when
// there is none. A handler that runs already goes on.
func (a Alarm) Delete() error { return a.port.Delete(a.name) }

// A PayloadAlarmView reads one alarm that has a payload.
type PayloadAlarmView[P any, PP Message[P]] struct{ AlarmView }

// NewPayloadAlarmView returns the alarm of that name. Generated code calls it.
func NewPayloadAlarmView[P any, PP Message[P]](port AlarmReader, name string) PayloadAlarmView[P, PP] {
	return PayloadAlarmView[P, PP]{AlarmView{port, name}}
}

// Payload returns the payload that is set with the alarm; ok is false when the
// alarm is not set.
func (a PayloadAlarmView[P, PP]) Payload() (payload PP, ok bool, err error) {
	return alarmPayload[P, PP](a.AlarmView)
}

// A PayloadAlarm is an [Alarm] that is set with a message, which its handler
// gets.
type PayloadAlarm[P any, PP Message[P]] struct{ Alarm }

// NewPayloadAlarm returns the alarm of that name. Generated code calls it.
func NewPayloadAlarm[P any, PP Message[P]](port AlarmPort, name string) PayloadAlarm[P, PP] {
	return PayloadAlarm[P, PP]{NewAlarm(port, name)}
}

// Set is [Alarm].Set with a payload, which it copies; nil is an empty one. It
// returns a [LimitError] for a payload over [Limits].MaxValueBytes.
func (a PayloadAlarm[P, PP]) Set(t time.Time, payload PP) error {
	return a.port.Set(a.name, t, orEmpty[P](payload))
}

// SetSchedule is [Alarm].SetSchedule with a payload, which every run gets.
func (a PayloadAlarm[P, PP]) SetSchedule(s Schedule, payload PP) error {
	return a.port.SetSchedule(a.name, s, orEmpty[P](payload))
}

// Payload returns the payload that is set with the alarm; ok is false when the
// alarm is not set.
func (a PayloadAlarm[P, PP]) Payload() (payload PP, ok bool, err error) {
	return alarmPayload[P, PP](a.AlarmView)
}

func orEmpty[P any, PP Message[P]](payload PP) proto.Message {
	if payload == nil {
		return PP(new(P))
	}
	return payload
}

func alarmPayload[P any, PP Message[P]](a AlarmView) (PP, bool, error) {
	status, ok, err := a.Status()
	if err != nil || !ok {
		return nil, false, err
	}
	payload := PP(new(P))
	if err := proto.Unmarshal(status.Payload, payload); err != nil {
		return nil, false, fmt.Errorf("%w: the payload of alarm %q is no %s: %w", ErrMalformedValue, a.name, payload.ProtoReflect().Descriptor().FullName(), err)
	}
	return payload, true, nil
}

// An AlarmType describes an alarm of an object type to a [Registrar]. Generated
// code makes it with [AlarmHandler] and [PayloadAlarmHandler].
type AlarmType struct {
	Name string // empty for the default alarm
	// NewPayload returns an empty payload; nil where the alarm has none.
	NewPayload func() proto.Message
	// Run runs the handler. payload is nil where the alarm has none.
	Run func(ctx context.Context, handler any, tx Tx, info AlarmInfo, payload proto.Message) error

	// Retry is given to the registrar from the schema.
	Retry AlarmRetry
}

func (a AlarmType) addTo(t *ObjectType) { t.Alarms = append(t.Alarms, a) }

// An AlarmRetry says how often and when an alarm is run again whose handler
// failed.
type AlarmRetry struct {
	MaxRetries int           // negative: no limit
	FirstDelay time.Duration // doubles with every retry, up to nine times
}

// AlarmHandler describes an alarm without a payload.
func AlarmHandler[H any, T ~struct{ Tx }, A ~struct{ AlarmInfo }](
	name string, fn func(H, context.Context, T, A) error,
) AlarmType {
	return AlarmType{Name: name, Run: func(ctx context.Context, handler any, tx Tx, info AlarmInfo, _ proto.Message) error {
		return fn(handler.(H), ctx, T(struct{ Tx }{tx}), A(struct{ AlarmInfo }{info}))
	}}
}

// PayloadAlarmHandler describes an alarm with a payload.
func PayloadAlarmHandler[H any, T ~struct{ Tx }, A ~struct {
	AlarmInfo
	Payload PP
}, P any, PP Message[P]](
	name string, fn func(H, context.Context, T, A) error,
) AlarmType {
	return AlarmType{
		Name:       name,
		NewPayload: func() proto.Message { return PP(new(P)) },
		Run: func(ctx context.Context, handler any, tx Tx, info AlarmInfo, payload proto.Message) error {
			return fn(handler.(H), ctx, T(struct{ Tx }{tx}), A(struct {
				AlarmInfo
				Payload PP
			}{info, payload.(PP)}))
		},
	}
}
