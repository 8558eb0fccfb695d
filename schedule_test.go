package durable_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
)

// TestScheduleNext is WISH-02.
func TestScheduleNext(t *testing.T) {
	tests := []struct {
		name     string
		schedule durable.Schedule
		after    string
		want     []string
	}{
		{"an interval", durable.Every(90 * time.Minute), "2026-01-01T00:00:00Z", []string{"2026-01-01T01:30:00Z", "2026-01-01T03:00:00Z"}},
		{"UTC by default", durable.Cron("0 6 * * *", ""), "2026-01-01T06:00:00Z", []string{"2026-01-02T06:00:00Z", "2026-01-03T06:00:00Z"}},
		{"names", durable.Cron("30 9 * * MON-FRI", "UTC"), "2026-11-20T10:00:00Z", []string{"2026-11-23T09:30:00Z"}},
		{"a descriptor", durable.Cron("@daily", "Europe/Berlin"), "2026-07-01T12:00:00Z", []string{"2026-07-01T22:00:00Z"}},
		{"clocks put forward", durable.Cron("0 6 * * *", "Europe/Berlin"), "2026-03-28T00:00:00Z", []string{"2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z"}},
		{"clocks put back", durable.Cron("0 6 * * *", "Europe/Berlin"), "2026-10-24T00:00:00Z", []string{"2026-10-24T04:00:00Z", "2026-10-25T05:00:00Z"}},
		// 02:30 does not exist on 29 March, and comes twice on 25 October.
		{"in the gap", durable.Cron("30 2 * * *", "Europe/Berlin"), "2026-03-28T00:00:00Z", []string{"2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"}},
		{"in the hour that comes twice", durable.Cron("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"every hour, also that one", durable.Cron("30 * * * *", "Europe/Berlin"), "2026-10-25T00:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		{"twice in the hour that comes twice", durable.Cron("0,30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"}},
		{"half an hour back", durable.Cron("45 1 * * *", "Australia/Lord_Howe"), "2026-04-04T00:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		{"a leap day", durable.Cron("0 0 29 2 *", ""), "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, test.after)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				next, err := test.schedule.Next(at)
				if err != nil {
					t.Fatal(err)
				}
				if got := next.UTC().Format(time.RFC3339); got != want {
					t.Fatalf("after %v comes %s, want %s", at, got, want)
				}
				at = next
			}
		})
	}
}

func TestScheduleRefused(t *testing.T) {
	for name, test := range map[string]struct {
		schedule durable.Schedule
		text     string
	}{
		"no schedule":            {durable.Schedule{}, "at least 1s"},
		"too short":              {durable.Every(999 * time.Millisecond), "999ms"},
		"negative":               {durable.Every(-time.Hour), "-1h"},
		"both":                   {durable.Schedule{Interval: time.Hour, Expression: "@daily"}, "either"},
		"an interval and a zone": {durable.Schedule{Interval: time.Hour, TimeZone: "UTC"}, "time zone"},
		"an unknown zone":        {durable.Cron("@daily", "Mars/Base"), "Mars/Base"},
		"the local zone":         {durable.Cron("@daily", "Local"), "Local"},
		"too few fields":         {durable.Cron("0 6 * *", ""), "0 6 * *"},
		"seconds":                {durable.Cron("0 0 6 * * *", ""), "0 0 6 * * *"},
		"out of range":           {durable.Cron("61 6 * * *", ""), "61"},
		"no such day":            {durable.Cron("0 0 30 2 *", ""), "30 2"},
		"a zone inside":          {durable.Cron("TZ=UTC 0 6 * * *", ""), "time zone"},
		"an interval inside":     {durable.Cron("@every 5s", ""), "Every"},
		"nonsense":               {durable.Cron("whenever", ""), "whenever"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.schedule.Next(time.Now())
			if !errors.Is(err, durable.ErrInvalidArgument) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestScheduleAdvance(t *testing.T) {
	day := func(hours float64) time.Time {
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours * float64(time.Hour)))
	}
	for _, test := range []struct {
		name           string
		schedule       durable.Schedule
		scheduled, now float64 // hours
		want           float64
	}{
		{"in time", durable.Every(time.Hour), 3, 3.01, 4},
		{"missed runs collapse", durable.Every(time.Hour), 3, 7.5, 8},
		{"just at a time", durable.Every(time.Hour), 3, 7, 8},
		{"each is made up for", durable.Every(time.Hour).WithCatchUp(), 3, 7.5, 4},
		{"cron in time", durable.Cron("0 * * * *", ""), 3, 3.01, 4},
		{"cron collapses", durable.Cron("0 * * * *", ""), 3, 7.5, 8},
		{"cron catches up", durable.Cron("0 * * * *", "").WithCatchUp(), 3, 7.5, 4},
		{"run ahead of time", durable.Every(time.Hour), 3, 2.5, 4},
		{"cron ahead of time", durable.Cron("0 * * * *", ""), 3, 2.5, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.schedule.Advance(day(test.scheduled), day(test.now))
			if err != nil || !got.Equal(day(test.want)) {
				t.Errorf("%v %v, want %v", got, err, day(test.want))
			}
		})
	}
}
