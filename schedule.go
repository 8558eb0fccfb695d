package durable

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // for machines without time zones

	"github.com/netresearch/go-cron"
)

// MinInterval is the least time between two runs of a recurring alarm.
const MinInterval = time.Second

// A Schedule says when a recurring alarm is due. Make one with [Every] or [Cron].
type Schedule struct {
	// Interval is the time between two runs; 0 where Expression says.
	Interval time.Duration
	// Expression is a cron expression, and TimeZone the IANA name of the zone in
	// which it is read.
	Expression, TimeZone string
	// CatchUp makes every run that was missed, while the server was down or the
	// handler failed, be made up for, one after the other. Otherwise they
	// collapse into one.
	CatchUp bool
}

// Every returns the schedule of an alarm that is due each time that interval has
// passed, the first time one interval from now. It is of at least [MinInterval],
// to the millisecond.
func Every(interval time.Duration) Schedule { return Schedule{Interval: interval} }

// Cron returns the schedule of an alarm that is due at the times of a cron
// expression: minute, hour, day of month, month and day of week, as in
// "30 9 * * MON-FRI", or a descriptor as "@daily". They are read in the time zone
// of that IANA name, as "Europe/Berlin"; "" is UTC. Where clocks are put forward,
// a time that is skipped comes as much later. Where they are put back, a time that
// comes twice counts once if the expression names its hour, and twice if it runs
// in every hour.
func Cron(expression, timeZone string) Schedule {
	return Schedule{Expression: expression, TimeZone: timeZone}
}

// WithCatchUp returns s with CatchUp set.
func (s Schedule) WithCatchUp() Schedule {
	s.CatchUp = true
	return s
}

// IsZero reports whether s is no schedule.
func (s Schedule) IsZero() bool { return s == Schedule{} }

var cronParser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// Next returns the first time of the schedule after t. For an interval it is
// one interval after t. It returns [ErrInvalidArgument] for an interval that is
// too short, an expression that does not parse or has no time in the years to
// come, and a time zone that is not known here.
func (s Schedule) Next(t time.Time) (time.Time, error) {
	switch {
	case s.Expression == "":
		if s.Interval < MinInterval {
			return time.Time{}, fmt.Errorf("%w: an alarm every %v: the interval must be at least %v", ErrInvalidArgument, s.Interval, MinInterval)
		}
		if s.TimeZone != "" {
			return time.Time{}, fmt.Errorf("%w: a schedule with a time zone needs a cron expression", ErrInvalidArgument)
		}
		return t.Add(s.Interval.Round(time.Millisecond)), nil
	case s.Interval != 0:
		return time.Time{}, fmt.Errorf("%w: a schedule has either an interval or a cron expression", ErrInvalidArgument)
	}
	if s.TimeZone == "Local" {
		return time.Time{}, fmt.Errorf(`%w: the time zone "Local" is not the same everywhere: name one, as "Europe/Berlin"`, ErrInvalidArgument)
	}
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: time zone %q: %w", ErrInvalidArgument, s.TimeZone, err)
	}
	if strings.Contains(s.Expression, "TZ=") || strings.HasPrefix(s.Expression, "@every") {
		return time.Time{}, fmt.Errorf("%w: cron expression %q: the time zone goes beside it, and an interval into Every", ErrInvalidArgument, s.Expression)
	}
	parsed, err := cronParser.Parse(s.Expression)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: cron expression %q: %w", ErrInvalidArgument, s.Expression, err)
	}
	next := parsed.Next(t.In(zone))
	for namesHour(s.Expression) && comesAgain(next) {
		next = parsed.Next(next)
	}
	if next.IsZero() {
		return time.Time{}, fmt.Errorf("%w: cron expression %q: no such time in the years to come", ErrInvalidArgument, s.Expression)
	}
	return next.UTC(), nil
}

// namesHour reports whether a cron expression runs at certain hours only.
func namesHour(expression string) bool {
	fields := strings.Fields(expression)
	if len(fields) < 2 {
		return expression != "@hourly"
	}
	return !strings.HasPrefix(fields[1], "*")
}

// comesAgain reports whether the clocks of the zone showed the time of t before,
// until they were put back.
func comesAgain(t time.Time) bool {
	if t.IsZero() {
		return false
	}
	for _, back := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour} { // there are no others
		if before := t.Add(-back); before.Day() == t.Day() && before.Hour() == t.Hour() && before.Minute() == t.Minute() {
			return true
		}
	}
	return false
}

// Advance returns when a run is due that follows the one of scheduled, which is
// ending now: the next time of the schedule that is not past, or with CatchUp the
// next one whatsoever.
func (s Schedule) Advance(scheduled, now time.Time) (time.Time, error) {
	if s.Interval > 0 && !s.CatchUp && now.After(scheduled) {
		interval := s.Interval.Round(time.Millisecond)
		if interval > 0 {
			scheduled = scheduled.Add(now.Sub(scheduled).Truncate(interval))
		}
	} else if !s.CatchUp && now.After(scheduled) {
		scheduled = now
	}
	return s.Next(scheduled)
}
