package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	torturev1 "github.com/durable-go/durable/internal/torture/gen/torture/v1"
)

// These tests give the checks what a broken runtime would leave.

// found returns what was found wrong, in one line each.
func (t *torture) found() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.mu.violations, "\n")
}

func judge(t *testing.T, tt *torture, want string) {
	t.Helper()
	got := tt.found()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestCells(t *testing.T) {
	known := func(found int64) cellOutput { return cellOutput{known: true, found: found} }
	reading, writing := cellInput{kind: read}, func(v int64) cellInput { return cellInput{kind: write, value: v} }
	swapping := func(v, expected int64) cellInput { return cellInput{kind: swap, value: v, expected: expected} }
	const never = math.MaxInt64
	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    bool
		stale   string
	}{
		"in order": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: swapping(2, 1), Call: 3, Output: known(1), Return: 4},
			{Input: swapping(3, 1), Call: 5, Output: known(2), Return: 6},
			{Input: reading, Call: 7, Output: known(2), Return: 8},
		}, true, ""},
		"an answered write is lost": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: writing(2), Call: 3, Output: known(0), Return: 4},
			{Input: reading, Call: 5, Output: known(1), Return: 6},
		}, false, "found 1, though 2"},
		"all is lost": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: reading, Call: 5, Output: known(0), Return: 6},
		}, false, "found 0, though 1"},
		"a write without an answer took effect": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: writing(2), Call: 3, Output: cellOutput{}, Return: never},
			{Input: reading, Call: 5, Output: known(2), Return: 6},
		}, true, ""},
		"it did not": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: writing(2), Call: 3, Output: cellOutput{}, Return: never},
			{Input: swapping(3, 9), Call: 3, Output: cellOutput{}, Return: never},
			{Input: reading, Call: 3, Output: cellOutput{}, Return: never},
			{Input: reading, Call: 5, Output: known(1), Return: 6},
		}, true, ""},
		"it was seen and is lost": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: writing(2), Call: 3, Output: cellOutput{}, Return: never},
			{Input: reading, Call: 5, Output: known(2), Return: 6},
			{Input: reading, Call: 7, Output: known(1), Return: 8},
		}, false, ""},
		"a swap of what was not there": {[]porcupine.Operation{
			{Input: writing(1), Call: 1, Output: known(0), Return: 2},
			{Input: swapping(3, 2), Call: 3, Output: known(2), Return: 4},
		}, false, "found 2, which nobody wrote"},
	} {
		t.Run(name, func(t *testing.T) {
			history := withoutUnseen(c.history)
			if got := porcupine.CheckOperations(cellModel, history); got != c.want {
				t.Errorf("linearizable: %t, want %t", got, c.want)
			}
			if got := stale(history); !strings.Contains(got, c.stale) || c.stale == "" && got != "" {
				t.Errorf("stale: %q, want %q", got, c.stale)
			}
		})
	}
}

func TestBookings(t *testing.T) {
	transfer := booking{reference: "a", from: 0, to: 1, amount: 5, outcome: answered}
	declined := transfer
	declined.outcome = refused
	lost := transfer
	lost.outcome = unknown
	for name, c := range map[string]struct {
		booking  booking
		from, to []int64
		want     string
	}{
		"booked":          {transfer, []int64{-5}, []int64{5}, ""},
		"lost":            {transfer, nil, nil, "is lost"},
		"half":            {transfer, []int64{-5}, nil, "account-1 with 5, and is lost"},
		"given twice":     {transfer, []int64{-5}, []int64{5, 5}, "in account-1 2 times"},
		"taken twice":     {transfer, []int64{-5, -5}, []int64{5}, "in account-0 2 times"},
		"another amount":  {transfer, []int64{-5}, []int64{6}, "account-1 with 5"},
		"refused":         {declined, nil, nil, ""},
		"refused, booked": {declined, []int64{-5}, []int64{5}, "is in account-0"},
		"no answer":       {lost, nil, nil, "was not answered"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := &torture{}
			(&bank{torture: tt}).compare(c.booking, [accountCount]map[string][]int64{{"a": c.from}, {"a": c.to}})
			judge(t, tt, c.want)
		})
	}
}

func TestRuns(t *testing.T) {
	start := time.Now().UnixMilli()
	ran := func(scheduled, at int64) *torturev1.Run {
		return &torturev1.Run{ScheduledMs: start + scheduled, AtMs: start + at}
	}
	retried := func(at int64, count int32) *torturev1.Run {
		return &torturev1.Run{Alarm: "flaky", ScheduledMs: start, AtMs: start + at, RetryCount: count, IsRetry: count > 0}
	}
	single := &torturev1.Bell{AtMs: start, Runs: 1}
	down := &torturev1.Bell{AtMs: start + 19_000, Runs: 1}
	flaky := &torturev1.Bell{Alarm: "flaky", AtMs: start, Runs: 1}
	hop := &torturev1.Bell{Alarm: "hop", AtMs: start, Runs: 2, EveryMs: 100}
	tick := &torturev1.Bell{Alarm: "tick", AtMs: start, Runs: 2, EveryMs: 1000}
	catchUp := &torturev1.Bell{Alarm: "tick", AtMs: start, Runs: 2, EveryMs: 1000, CatchUp: true}
	for name, c := range map[string]struct {
		bell    *torturev1.Bell
		runs    []*torturev1.Run
		pending bool
		want    string
	}{
		"once":                      {single, []*torturev1.Run{ran(0, 0)}, false, ""},
		"never WISH-07":             {single, nil, false, "ran 0 times"},
		"twice ALM-28":              {single, []*torturev1.Run{ran(0, 0), ran(0, 5)}, false, "ran 2 times"},
		"early ALM-15":              {single, []*torturev1.Run{ran(0, -1)}, false, "too early"},
		"late ALM-17":               {single, []*torturev1.Run{ran(0, 11_000)}, false, "had been due for"},
		"late without a server":     {down, []*torturev1.Run{ran(19_000, 61_000)}, false, ""},
		"told another time ALM-20":  {single, []*torturev1.Run{ran(1, 1)}, false, "of run 1 it was told"},
		"still set ALM-28":          {single, []*torturev1.Run{ran(0, 0)}, true, "still set"},
		"retried":                   {flaky, []*torturev1.Run{retried(2000, 1)}, false, ""},
		"retried too early ALM-30":  {flaky, []*torturev1.Run{retried(1999, 1)}, false, "too early"},
		"the count of retries lost": {flaky, []*torturev1.Run{retried(2000, 0)}, false, "should have been retried"},
		"set in the handler":        {hop, []*torturev1.Run{ran(0, 0), ran(100, 100)}, false, ""},
		"a hop is lost":             {hop, []*torturev1.Run{ran(0, 0)}, false, "ran 1 times"},
		"recurs":                    {tick, []*torturev1.Run{ran(0, 0), ran(1000, 1000)}, false, ""},
		"missed runs collapse":      {tick, []*torturev1.Run{ran(0, 0), ran(3000, 3000)}, false, ""},
		"recurs at odd times":       {tick, []*torturev1.Run{ran(0, 0), ran(1001, 1001)}, false, "recurs every"},
		"the same time twice":       {tick, []*torturev1.Run{ran(0, 0), ran(0, 10)}, false, "recurs every"},
		"catches up":                {catchUp, []*torturev1.Run{ran(0, 2500), ran(1000, 2501)}, false, ""},
		"leaves one out":            {catchUp, []*torturev1.Run{ran(0, 2500), ran(2000, 2501)}, false, "of run 2 it was told"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := &torture{victim: &victim{}}
			at := func(ms int64) time.Time { return time.UnixMilli(start + ms) }
			tt.victim.mu.lives = []life{{at(0), at(20_000)}, {from: at(60_000)}}
			(&alarms{torture: tt}).compareRuns("it", c.bell, c.runs, c.pending)
			judge(t, tt, c.want)
		})
	}
}

func TestBells(t *testing.T) {
	start := time.Now().UnixMilli()
	bell := &torturev1.Bell{AtMs: start, Runs: 1}
	other := &torturev1.Bell{AtMs: start + 1, Runs: 1}
	run := []*torturev1.Run{{ScheduledMs: start, AtMs: start}}
	for name, c := range map[string]struct {
		outcome outcome
		stored  *torturev1.Bell
		runs    []*torturev1.Run
		last    bool
		waits   bool
		want    string
	}{
		"set and ran":             {answered, bell, run, false, false, ""},
		"set and not yet ran":     {answered, bell, nil, false, true, ""},
		"never ran ALM-42":        {answered, bell, nil, true, false, "ran 0 times"},
		"the answer was lost":     {unknown, bell, run, false, false, ""},
		"it was not set":          {unknown, nil, nil, false, false, ""},
		"an answer and no alarm":  {answered, nil, nil, false, false, "is lost"},
		"a run without its alarm": {unknown, nil, run, false, false, "was not set"},
		"not started, but set":    {notStarted, bell, run, false, false, "was not started"},
		"read as another ALM-01":  {answered, other, run, false, false, "could be read as"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := &torture{victim: &victim{}}
			l := &alarms{torture: tt}
			res := &torturev1.HistoryResponse{Runs: c.runs}
			if c.stored != nil {
				res.Bells = append(res.Bells, c.stored)
			}
			if complete := l.compare("b", []bellSet{{"b", bell, c.outcome}}, res, c.last); complete == c.waits {
				t.Errorf("complete: %t", complete)
			}
			judge(t, tt, c.want)
		})
	}
}

// TestServed: the time without a server does not make an alarm late.
func TestServed(t *testing.T) {
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	v := &victim{}
	v.mu.lives = []life{{at(0), at(10)}, {at(15), at(20)}, {from: at(30)}}
	for _, c := range []struct{ from, to, want int }{
		{1, 3, 2}, {5, 12, 5}, {5, 17, 7}, {11, 14, 0}, {12, 31, 6}, {25, 29, 0}, {40, 45, 5}, {5, 5, 0}, {6, 5, 0},
	} {
		t.Run(fmt.Sprintf("%d to %d", c.from, c.to), func(t *testing.T) {
			if got := v.served(at(c.from), at(c.to)); got != time.Duration(c.want)*time.Second {
				t.Errorf("%v, want %d s", got, c.want)
			}
		})
	}
}
