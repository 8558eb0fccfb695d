package durabletest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// inBubble runs fn in a bubble with a server of its own.
func inBubble(t *testing.T, name string, fn func(t *testing.T, s *durabletest.Server, o alarmLab)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := durabletest.New(t, new(lab.Lab).Register)
			fn(t, s, alarmLab{t, labv1durable.NewAlarmLabClient(s.Conn()).GetByName("a")})
		})
	})
}

// The tests of this file move time with a bubble: TEST-11.

func TestAlarmsInABubble(t *testing.T) {
	t.Parallel()
	inBubble(t, "ALM-15, ALM-20: an hour ahead", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		due := time.Now().Add(time.Hour)
		o.act(&labv1.AlarmStep{Do: &labv1.AlarmStep_Set{Set: &labv1.AlarmSetting{
			Alarm: "renew", Payload: "of renew", When: &labv1.AlarmSetting_AtMs{AtMs: due.UnixMilli()},
		}}})
		time.Sleep(time.Until(due) - time.Millisecond)
		synctest.Wait()
		if n := len(o.events().GetBegan()); n != 0 {
			t.Errorf("%d runs before it was due", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		events := o.events()
		if len(events.GetBegan()) != 1 || len(events.GetCommitted()) != 1 {
			t.Fatal(events)
		}
		ran := events.GetCommitted()[0]
		got := fmt.Sprintln(ran.GetAlarm(), ran.GetPayload(), ran.GetScheduledMs() == due.UnixMilli(), ran.GetAtMs() == due.UnixMilli(), ran.GetRetryCount(), ran.GetIsRetry(), ran.GetObject())
		if want := "renew of renew true true 0 false a\n"; got != want {
			t.Errorf("it ran as %s, want %s", got, want)
		}
		if n := len(o.look(get("renew"))[0].GetAlarms()); n != 0 {
			t.Error("the alarm is still set")
		}
		if ran, err := s.RunAlarm(o.Ref, "renew"); ran || err != nil {
			t.Errorf("ran %t, error %v", ran, err)
		}
	})
	inBubble(t, "ALM-30: retries after 2, 4 and 8 seconds", func(t *testing.T, _ *durabletest.Server, o alarmLab) {
		o.script("", fail("1"), fail("2"), fail("3"))
		o.act(set("", 0))
		time.Sleep(time.Minute)
		events := o.events()
		if len(events.GetBegan()) != 4 || len(events.GetCommitted()) != 1 {
			t.Fatal(events)
		}
		for i, ran := range events.GetBegan() {
			if int(ran.GetRetryCount()) != i || ran.GetIsRetry() != (i > 0) || ran.GetScheduledMs() != events.GetBegan()[0].GetScheduledMs() {
				t.Errorf("run %d: %v", i, ran)
			}
			if i == 0 {
				continue
			}
			want := time.Second << i
			passed := time.Duration(ran.GetAtMs()-events.GetBegan()[i-1].GetAtMs()) * time.Millisecond
			if passed < want || passed > want+want/4+time.Millisecond {
				t.Errorf("retry %d came after %v, want %v and up to a quarter more", i, passed, want)
			}
		}
	})
	inBubble(t, "ALM-16: one that slept is woken", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		o.act(set("remind", time.Hour))
		first := o.activation()
		time.Sleep(time.Minute)
		if n := s.Server().Active(); n != 0 {
			t.Errorf("%d objects are in memory", n)
		}
		time.Sleep(time.Hour)
		events := o.events().GetCommitted()
		if last := events[len(events)-1]; last.GetAlarm() != "remind" || last.GetActivation() == first {
			t.Error(events)
		}
	})
	for _, again := range []struct {
		name string
		do   func(*durabletest.Server)
	}{{"a crash", (*durabletest.Server).Crash}, {"a restart", (*durabletest.Server).Restart}} {
		inBubble(t, "ALM-17: it survives "+again.name, func(t *testing.T, s *durabletest.Server, o alarmLab) {
			o.act(set("", time.Hour), set("renew", 2*time.Hour))
			again.do(s)
			time.Sleep(time.Hour)
			again.do(s)
			time.Sleep(time.Hour + time.Second)
			var names []string
			for _, ran := range o.events().GetCommitted() {
				names = append(names, ran.GetAlarm())
			}
			if diff := cmp.Diff([]string{"", "renew"}, names); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRunAlarm(t *testing.T) { // TEST-04, ALM-44
	t.Parallel()
	inBubble(t, "runs it now and removes it", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		for _, alarm := range []string{"", "renew"} {
			if ran, err := s.RunAlarm(o.Ref, alarm); ran || err != nil {
				t.Errorf("%q: there is none: ran %t, error %v", alarm, ran, err)
			}
		}
		if ids := s.ListIDs("lab.alarm"); len(ids) != 0 {
			t.Error("asking made the object")
		}
		o.act(set("", time.Hour), set("renew", time.Hour))
		s.Evict(o.Ref)
		if ran, err := s.RunAlarm(o.Ref, "renew"); !ran || err != nil {
			t.Errorf("ran %t, error %v", ran, err)
		}
		if got, want := o.stored(), `alarm ""`; got != want {
			t.Errorf("set is %s, want %s", got, want)
		}
		s.Crash() // and it was durable
		if ran, err := s.RunAlarm(o.Ref, "renew"); ran || err != nil {
			t.Errorf("again: ran %t, error %v", ran, err)
		}
		if n := len(o.events().GetCommitted()); n != 1 {
			t.Errorf("%d runs", n)
		}
	})
	inBubble(t, "returns the error of the handler", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		o.script("", fail("no luck"))
		o.act(set("", time.Hour))
		ran, err := s.RunAlarm(o.Ref, "")
		if !ran || err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Errorf("ran %t, error %v", ran, err)
		}
		status := o.look(get(""))[0].GetAlarms()
		if len(status) != 1 || status[0].GetRetryCount() != 1 {
			t.Error(status)
		}
		time.Sleep(3 * time.Second) // the retry
		if n := len(o.events().GetCommitted()); n != 1 {
			t.Errorf("%d runs", n)
		}
	})
	inBubble(t, "one that the schema does not declare", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		if ran, err := s.RunAlarm(o.Ref, "absent"); ran || err == nil || !strings.Contains(err.Error(), `no alarm "absent"`) {
			t.Errorf("ran %t, error %v", ran, err)
		}
	})
}

// activation returns the number of the object's activation: of the one that runs
// an alarm which is set for now.
func (o alarmLab) activation() int64 {
	o.t.Helper()
	o.act(set("never_again", 0))
	time.Sleep(time.Millisecond) // alarms are due at whole ones
	synctest.Wait()
	began := o.events().GetBegan()
	return began[len(began)-1].GetActivation()
}

func TestIdleEviction(t *testing.T) { // LIFE-05
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, lab.Register)
		counter := labv1durable.NewCounterClient(s.Conn()).GetByName("a")
		calls := func(after time.Duration) int64 {
			t.Helper()
			time.Sleep(after)
			res, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
			if err != nil {
				t.Fatal(err)
			}
			return res.GetCalls()
		}
		var got []int64
		for _, after := range []time.Duration{0, 9900 * time.Millisecond, 9900 * time.Millisecond, 10100 * time.Millisecond, 9900 * time.Millisecond} {
			got = append(got, calls(after))
		}
		if diff := cmp.Diff([]int64{1, 2, 3, 1, 2}, got); diff != "" {
			t.Errorf("calls that the activation has served (-want +got):\n%s", diff)
		}
	})
}
