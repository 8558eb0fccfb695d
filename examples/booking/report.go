package main

import (
	"context"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	bookingv1 "github.com/durable-go/durable/examples/booking/gen/booking/v1"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
)

// everyMorning is at six where the theatre is, in summer and in winter. Mornings
// that are missed, as while the server is down, make one report together.
var everyMorning = durable.Cron("0 6 * * *", "Europe/Berlin")

// DailyReportAlarm sums up what was sold since the report before, until the time
// for which the alarm was set: when it runs late, what was sold since then is for
// the next one. The runtime sets that, in the commit of this report.
func (s *show) DailyReportAlarm(ctx context.Context, tx bookingv1durable.ShowTx, alarm bookingv1durable.ShowDailyReportAlarm) error {
	until := alarm.ScheduledTime
	if tx.Now().Before(until) { // an operator runs it by hand, ahead of its time
		until = tx.Now()
	}
	_, err := tx.SQL().Exec(ctx, `
		WITH day AS (SELECT coalesce((SELECT max(until) FROM reports), ?1) AS since)
		INSERT INTO reports (since, until, orders, seats, revenue)
		SELECT since, ?2, count(number), coalesce(sum(seats), 0), coalesce(sum(amount), 0)
		FROM day LEFT JOIN orders ON time >= since AND time < ?2
		WHERE since < ?2 GROUP BY since`,
		s.hall.GetOpenTime(), until)
	return err
}

// Reports returns the daily reports, the latest first.
func (s *show) Reports(ctx context.Context, view bookingv1durable.ShowView, req *bookingv1.ReportsRequest) (*bookingv1.ReportsResponse, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	limit := req.GetLimit()
	switch {
	case limit < 0 || limit > 100:
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the limit is %d, and must be from 1 to 100, or 0 for 31", limit)
	case limit == 0:
		limit = 31
	}
	reports, err := durable.All[*bookingv1.Report](ctx, view.SQL(), `SELECT * FROM reports ORDER BY until DESC LIMIT ?`, limit)
	return &bookingv1.ReportsResponse{Reports: reports}, err
}
