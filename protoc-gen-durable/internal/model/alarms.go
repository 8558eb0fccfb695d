package model

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// Limits of what a schema may say of alarms. The options.proto tells them.
const (
	maxAlarms     = 32
	maxAlarmName  = 64 // bytes
	maxRetries    = 1000
	minFirstDelay = time.Millisecond
	maxFirstDelay = 24 * time.Hour
)

// The fields of ObjectOptions, AlarmOptions and AlarmRetry, for positions.
const (
	alarmsField       = 2
	alarmNameField    = 1
	alarmPayloadField = 2
	alarmRetryField   = 3
	maxRetriesField   = 1
	unlimitedField    = 2
	firstDelayField   = 3
)

var alarmSyntax = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// addAlarms adds to o the alarms that it declares, without those that have no
// name of their own. What is wrong in a file that is not to generate is told when
// it is.
func (l *loader) addAlarms(file *protogen.File, o *Object, declared []*durablev1.AlarmOptions) {
	addf := func(path protoreflect.SourcePath, code Code, format string, args ...any) {
		if file.Generate {
			l.diags.addf(file.Proto, path, code, format, args...)
		}
	}
	if len(declared) > maxAlarms {
		addf(objectPath(o, alarmsField, maxAlarms), AlarmTooMany, "%s has %d alarms: an object has at most %d",
			o.ServiceName, len(declared), maxAlarms)
	}
	for i, opts := range declared {
		where := objectPath(o, alarmsField, protoreflect.FieldNumber(i))
		name := opts.GetName()
		switch {
		case name != "" && (len(name) > maxAlarmName || !alarmSyntax.MatchString(name)):
			addf(at(where, alarmNameField), AlarmName, "the alarm name %q of %s is not lower_snake_case of at most %d bytes",
				name, o.ServiceName, maxAlarmName)
			continue
		case slices.ContainsFunc(o.Alarms, func(a *Alarm) bool { return a.Name == name }):
			addf(at(where, alarmNameField), AlarmDuplicate, "%s declares %s twice", o.ServiceName, (&Alarm{Name: name}).What())
			continue
		}
		a := &Alarm{Name: name, GoName: camelCase(name), object: o, path: at(where, alarmNameField)}
		o.Alarms = append(o.Alarms, a)
		if opts.GetPayload() != "" {
			of := a.What() + " of " + o.ServiceName
			a.Payload = l.message(file, payloadReference, of, opts.GetPayload(), func(code Code, format string, args ...any) {
				addf(at(where, alarmPayloadField), code, format, args...)
			})
		}
		checkRetry(a, opts.GetRetry(), func(field protoreflect.FieldNumber, format string, args ...any) {
			addf(at(where, alarmRetryField, field), AlarmRetry, format, args...)
		})
	}
}

func checkRetry(a *Alarm, retry *durablev1.AlarmRetry, addf func(field protoreflect.FieldNumber, format string, args ...any)) {
	if retry == nil {
		return
	}
	if retry.MaxRetries != nil && retry.GetUnlimited() {
		addf(unlimitedField, "%s of %s has both max_retries and unlimited retries", a.What(), a.object.ServiceName)
	}
	if n := retry.GetMaxRetries(); n > maxRetries {
		addf(maxRetriesField, "%s of %s has %d as max_retries: at most %d, or unlimited", a.What(), a.object.ServiceName, n, maxRetries)
	}
	switch delay := retry.GetFirstDelay(); {
	case delay == nil:
	case !delay.IsValid():
		addf(firstDelayField, "%s of %s has a first_delay of %d seconds and %d nanos: that is no duration",
			a.What(), a.object.ServiceName, delay.GetSeconds(), delay.GetNanos())
	case delay.AsDuration() < minFirstDelay || delay.AsDuration() > maxFirstDelay:
		addf(firstDelayField, "%s of %s has a first_delay of %v: it must be from 1ms to 24h", a.What(), a.object.ServiceName, delay.AsDuration())
	}
}

// camelCase returns the Go name that protoc-gen-go makes of a lower_snake_case
// one: letters after an underscore or a digit are capitals, and an underscore
// stays in front of a digit.
func camelCase(name string) string {
	isLower := func(i int) bool { return i < len(name) && 'a' <= name[i] && name[i] <= 'z' }
	var b strings.Builder
	for i := range len(name) {
		switch {
		case name[i] == '_' && isLower(i+1):
		case isLower(i) && (i == 0 || !isLower(i-1)):
			b.WriteByte(name[i] - 'a' + 'A')
		default:
			b.WriteByte(name[i])
		}
	}
	return b.String()
}
