package durabletest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// An alarmLab takes steps and fails the test when they fail.
type alarmLab struct {
	t *testing.T
	labv1durable.AlarmLabStub
}

func (o alarmLab) act(steps ...*labv1.AlarmStep) []*labv1.AlarmResult {
	o.t.Helper()
	res, err := o.Act(o.t.Context(), &labv1.ActRequest{Steps: steps})
	if err != nil {
		o.t.Fatal(err)
	}
	return res.GetResults()
}

func (o alarmLab) look(steps ...*labv1.AlarmStep) []*labv1.AlarmResult {
	o.t.Helper()
	res, err := o.Look(o.t.Context(), &labv1.LookRequest{Steps: steps})
	if err != nil {
		o.t.Fatal(err)
	}
	return res.GetResults()
}

func (o alarmLab) script(alarm string, runs ...*labv1.AlarmStep) {
	o.t.Helper()
	req := &labv1.ScriptRequest{Alarm: alarm}
	for _, run := range runs {
		req.Runs = append(req.Runs, &labv1.AlarmSteps{Steps: []*labv1.AlarmStep{run}})
	}
	if _, err := o.Script(o.t.Context(), req); err != nil {
		o.t.Fatal(err)
	}
}

func (o alarmLab) events() *labv1.EventsResponse {
	o.t.Helper()
	res, err := o.Events(o.t.Context(), &labv1.EventsRequest{})
	if err != nil {
		o.t.Fatal(err)
	}
	return res
}

// stored returns the pair "k", whether there is a table t, and the alarms, as
// text; empty when there are none.
func (o alarmLab) stored() string {
	o.t.Helper()
	res := o.look(
		&labv1.AlarmStep{Do: &labv1.AlarmStep_Value{Value: []byte("k")}},
		sql("SELECT name FROM sqlite_schema WHERE name = 't'"),
		&labv1.AlarmStep{Do: &labv1.AlarmStep_All{All: true}},
	)
	parts := []string{string(res[0].GetValue()), string(res[1].GetValue())}
	for _, alarm := range res[2].GetAlarms() {
		parts = append(parts, fmt.Sprintf("alarm %q", alarm.GetAlarm()))
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

func set(alarm string, in time.Duration) *labv1.AlarmStep {
	return &labv1.AlarmStep{Do: &labv1.AlarmStep_Set{Set: &labv1.AlarmSetting{
		Alarm: alarm, Payload: "of " + alarm, When: &labv1.AlarmSetting_InMs{InMs: in.Milliseconds()},
	}}}
}

func get(alarm string) *labv1.AlarmStep {
	return &labv1.AlarmStep{Do: &labv1.AlarmStep_Get{Get: alarm}}
}

func put(key, value string) *labv1.AlarmStep {
	return &labv1.AlarmStep{Do: &labv1.AlarmStep_Put{Put: &labv1.Pair{Key: []byte(key), Value: []byte(value)}}}
}

func sql(text string) *labv1.AlarmStep {
	return &labv1.AlarmStep{Do: &labv1.AlarmStep_Sql{Sql: &labv1.Statement{Text: text}}}
}

func fail(message string) *labv1.AlarmStep {
	return &labv1.AlarmStep{Do: &labv1.AlarmStep_Fail{Fail: message}}
}

// incrementOnce adds 1 to the counter "a".
func incrementOnce(ctx context.Context, conn durable.Conn, opts ...durable.CallOption) (int64, error) {
	res, err := labv1durable.NewCounterClient(conn).GetByName("a").Increment(ctx, &labv1.IncrementRequest{Delta: 1}, opts...)
	return res.GetValue(), err
}
