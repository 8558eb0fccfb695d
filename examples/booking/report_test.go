package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A day is a report in short.
type day struct {
	Since, Until   string // UTC
	Orders, Seats  int32
	RevenueInCents int64
}

// days returns the reports of a show, the first one first.
func days(t *testing.T, show bookingv1durable.ShowStub) []day {
	t.Helper()
	res, err := show.Reports(t.Context(), &bookingv1.ReportsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const layout = "01-02 15:04"
	all := make([]day, len(res.GetReports()))
	for i, r := range res.GetReports() {
		all[len(all)-1-i] = day{r.GetSince().AsTime().Format(layout), r.GetUntil().AsTime().Format(layout), r.GetOrders(), r.GetSeats(), r.GetRevenue()}
	}
	return all
}

func sleepUntil(month time.Month, day, hour, minute int) {
	time.Sleep(time.Until(time.Date(2000, month, day, hour, minute, 0, 0, time.UTC)))
}

// TestReport is about the two days on which clocks are changed in Berlin: it is
// six o'clock there at 5:00 UTC in winter and at 4:00 UTC in summer. WISH-02.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		name  string
		month time.Month
		day   int // the last one with the old time
		hour  int // at which the show is opened
		want  []day
	}{
		{"to summer time", time.March, 25, 4, []day{
			{"03-25 04:00", "03-25 05:00", 1, 2, 3000},
			{"03-25 05:00", "03-26 04:00", 1, 1, 1500},
		}},
		{"to winter time", time.October, 28, 3, []day{
			{"10-28 03:00", "10-28 04:00", 1, 2, 3000},
			{"10-28 04:00", "10-29 05:00", 1, 1, 1500},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sleepUntil(c.month, c.day, c.hour, 0)
				s := durabletest.New(t, register)
				show := openShow(t, s.Conn())
				checkout(t, show, hold(t, show, "A1", "A2"))
				hold(t, show, "B1") // which nobody pays
				sleepUntil(c.month, c.day, 12, 0)
				checkout(t, show, hold(t, show, "A3"))
				s.EvictAll() // nobody is there when it is time
				sleepUntil(c.month, c.day+1, 5, 1)
				if diff := cmp.Diff(c.want, days(t, show)); diff != "" {
					t.Errorf("reports (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestReportLimit asks for a part of the reports.
func TestReportLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, register)
		show := openShow(t, s.Conn())
		for range 40 {
			time.Sleep(time.Second)
			if ran, err := s.RunAlarm(show.Ref, bookingv1durable.ShowDailyReportAlarmName); !ran || err != nil {
				t.Fatalf("%v, %v", ran, err)
			}
		}
		for limit, want := range map[int32]int{0: 31, 1: 1, 40: 40, 100: 40} {
			res, err := show.Reports(t.Context(), &bookingv1.ReportsRequest{Limit: limit})
			if err != nil || len(res.GetReports()) != want {
				t.Errorf("limit %d: %d reports, %v, want %d", limit, len(res.GetReports()), err, want)
			}
		}
		for _, limit := range []int32{-1, 101} {
			if _, err := show.Reports(t.Context(), &bookingv1.ReportsRequest{Limit: limit}); connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("limit %d: %v, want invalid_argument", limit, err)
			}
		}
	})
}

// TestReportByHand runs the alarm ahead of its time: what is sold between then and
// the morning is in the next report.
func TestReportByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sleepUntil(time.January, 11, 4, 0)
		s := durabletest.New(t, register)
		show := openShow(t, s.Conn())
		checkout(t, show, hold(t, show, "A1"))
		sleepUntil(time.January, 11, 4, 30)
		if ran, err := s.RunAlarm(show.Ref, bookingv1durable.ShowDailyReportAlarmName); !ran || err != nil {
			t.Fatalf("%v, %v", ran, err)
		}
		checkout(t, show, hold(t, show, "A2", "A3"))
		sleepUntil(time.January, 12, 5, 1)
		want := []day{
			{"01-11 04:00", "01-11 04:30", 1, 1, 1500},
			{"01-11 04:30", "01-12 05:00", 1, 2, 3000},
		}
		if diff := cmp.Diff(want, days(t, show)); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

// TestDowntime turns the server off for three mornings, in the middle of a hold:
// the hold ends, and the mornings make one report, without anybody calling. ALM-17,
// WISH-02.
func TestDowntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewMem()
		sleepUntil(time.January, 10, 12, 0)
		conn, off := turnOn(t, disk)
		show := openShow(t, conn)
		checkout(t, show, hold(t, show, "A1"))
		hold(t, show, "A2")
		off()

		sleepUntil(time.January, 14, 4, 0)
		conn, off = turnOn(t, disk)
		defer off()
		synctest.Wait()
		show = bookingv1durable.NewShowClient(conn).GetByName("hamlet")
		wantSums(t, show, "after the downtime", "9 0 1 1500")
		checkout(t, show, hold(t, show, "A3"))
		sleepUntil(time.January, 14, 5, 1)
		want := []day{
			{"01-10 12:00", "01-11 05:00", 1, 1, 1500},
			{"01-11 05:00", "01-14 05:00", 1, 1, 1500},
		}
		if diff := cmp.Diff(want, days(t, show)); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

// turnOn starts a server on a disk, until off is called.
func turnOn(t *testing.T, disk vfs.FS) (conn durable.Conn, off func()) {
	t.Helper()
	engine, err := pebblekv.Open("store", pebblekv.Options{FS: disk, ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	databases := sqlitedb.New(sqlitedb.Options{})
	s, err := server.New(t.Context(), engine, server.WithSQL(databases))
	if err != nil {
		t.Fatal(err)
	}
	if err := register(s); err != nil {
		t.Fatal(err)
	}
	return s.Conn(), func() {
		for _, closed := range []error{s.Close(context.Background()), databases.Close(), engine.Close()} {
			if closed != nil {
				t.Error(closed)
			}
		}
	}
}
