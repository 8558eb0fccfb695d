package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"golang.org/x/sync/errgroup"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

// A sleeper is an object that puts pairs and sets its alarm, which tells when it
// ran.
type sleeper struct {
	labv1durable.UnimplementedAlarmLabHandler
	ran func(time.Time)
}

// alarmSpread makes each alarm that is set another one.
var alarmSpread atomic.Int64

// Act takes two kinds of steps: put, and set of the default alarm, to an hour
// from now and some milliseconds.
func (s *sleeper) Act(ctx context.Context, tx labv1durable.AlarmLabTx, req *labv1.ActRequest) (*labv1.ActResponse, error) {
	for _, step := range req.GetSteps() {
		var err error
		if put := step.GetPut(); put != nil {
			err = tx.KV().Put(ctx, string(put.GetKey()), put.GetValue())
		} else {
			err = tx.Alarm().Set(time.Now().Add(time.Hour + time.Duration(alarmSpread.Add(1)%1_000_000)*time.Millisecond))
		}
		if err != nil {
			return nil, err
		}
	}
	return &labv1.ActResponse{}, nil
}

func (s *sleeper) Alarm(ctx context.Context, tx labv1durable.AlarmLabTx, _ labv1durable.AlarmLabAlarm) error {
	if s.ran != nil {
		s.ran(time.Now())
	}
	return tx.KV().Put(ctx, "ran", []byte("x"))
}

func newSleeper(ran func(time.Time)) labv1durable.AlarmLabFactory {
	return func(context.Context, labv1durable.AlarmLabTx) (labv1durable.AlarmLabHandler, error) {
		return &sleeper{ran: ran}, nil
	}
}

// measureAlarms measures calls beside the same calls with an alarm or an
// idempotency key.
func measureAlarms(ctx context.Context, s settings) error {
	c, err := start(storeDir(s))
	if err != nil {
		return err
	}
	defer c.stop()
	put := func(n int) *labv1.AlarmStep {
		return &labv1.AlarmStep{Do: &labv1.AlarmStep_Put{Put: &labv1.Pair{Key: []byte("key" + strconv.Itoa(n)), Value: []byte("12345678")}}}
	}
	set := &labv1.AlarmStep{Do: &labv1.AlarmStep_Set{Set: &labv1.AlarmSetting{}}}
	kinds := []struct {
		name, of string
		steps    []*labv1.AlarmStep
	}{
		{"put", "put", []*labv1.AlarmStep{put(1)}},
		{"set an alarm", "put", []*labv1.AlarmStep{set}},
		{"put, and put another key", "put", []*labv1.AlarmStep{put(1), put(2)}},
		{"put, and set an alarm", "put", []*labv1.AlarmStep{put(1), set}},
		{"increment", "increment", nil},
		{"increment with a new idempotency key", "increment", nil},
		{"increment with a used idempotency key", "increment", nil},
	}
	client := connect.NewClient(connecthttp.NewTransport(httpClient(false, 64), c.url, connecthttp.WithProtoJSON(), connecthttp.WithCompressors()))
	conn := durableconnect.NewClient(client)
	sleepers, counters := labv1durable.NewAlarmLabClient(conn), counterv1durable.NewCounterClient(conn)
	var figures []*figure
	for _, objects := range []int{1, 1000} {
		for _, k := range kinds {
			f := &figure{protocol: "Connect JSON, HTTP/1.1", callers: 64, objects: objects, kind: k.name}
			switch {
			case k.steps != nil:
				f.call = func(ctx context.Context, name string) error {
					_, err := sleepers.GetByName(name).Act(ctx, &labv1.ActRequest{Name: name, Steps: k.steps})
					return err
				}
			default:
				f.call = func(ctx context.Context, name string) error {
					var opts []durable.CallOption
					switch k.name {
					case "increment with a new idempotency key":
						opts = append(opts, durable.WithIdempotencyKey(rand.Text()))
					case "increment with a used idempotency key":
						opts = append(opts, durable.WithIdempotencyKey("used"))
					}
					_, err := counters.GetByName(name).Add(ctx, &counterv1.AddRequest{Name: name, Delta: 1}, opts...)
					return err
				}
			}
			if strings.Contains(f.name(), s.match) {
				figures = append(figures, f)
			}
		}
	}
	if s.profile != "" {
		if err := c.writeProfile(ctx, s, figures); err != nil {
			return err
		}
	}
	for range s.rounds {
		for _, f := range figures {
			m, err := c.measure(ctx, f, s.length)
			if err != nil {
				return err
			}
			f.rounds = append(f.rounds, m)
		}
	}
	fmt.Printf("## Alarms and idempotency keys\n\nMedian of %d rounds of %v each, 64 callers, Connect JSON over HTTP/1.1. CPU is that of the server process.\n\n", s.rounds, s.length)
	fmt.Println("| objects | call | calls/s | CPU a call | of the plain one | fsyncs a call |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	plain := map[string]time.Duration{}
	for _, f := range figures {
		m := median(f.rounds)
		if m.failed > 0 {
			return fmt.Errorf("%s: %d calls failed", f.kind, m.failed)
		}
		of := kinds[slices.IndexFunc(kinds, func(k struct {
			name, of string
			steps    []*labv1.AlarmStep
		},
		) bool {
			return k.name == f.kind
		})].of
		key := fmt.Sprint(of, f.objects)
		if of == f.kind {
			plain[key] = m.cpu
		}
		fmt.Printf("| %d | %s | %.0f | %v | %.2f | %.3f |\n", f.objects, f.kind, m.rate, m.cpu.Round(100*time.Nanosecond),
			float64(m.cpu)/float64(plain[key]), m.syncs)
	}
	fmt.Println()
	return nil
}

// sleepersDue is how many alarms are due in the same second.
const sleepersDue = 10_000

// A wakening is what the process that serves the sleepers tells of itself.
type wakening struct {
	Start  time.Duration // from the start of main to a server that takes calls and has read its alarms
	RSS    int64         // bytes of memory then
	Spread time.Duration // from the first of the due alarms to the last
	Late   time.Duration // of the last one
	Fired  int
	CPU    time.Duration // of all that
	End    int64         // bytes of memory at the end
}

// measureSleepers fills a store with objects that have alarms, and starts a
// process on it.
func measureSleepers(ctx context.Context, s settings) error {
	dir := filepath.Join(s.data, "sleepers")
	due := time.Now().Add(time.Duration(s.sleepers)*120*time.Microsecond + 25*time.Second).Truncate(time.Second)
	began := time.Now()
	if err := fillSleepers(ctx, dir, s.sleepers, due); err != nil {
		return err
	}
	filled := time.Since(began)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "-wake", "-data", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var w wakening
	if err := json.Unmarshal(out, &w); err != nil {
		return err
	}
	fmt.Printf("## %d sleeping objects with alarms\n\nFilled in %v; %d of the alarms are due in the same second, the others in a day.\n\n| what | figure |\n| --- | --- |\n",
		s.sleepers, filled.Round(time.Second), sleepersDue)
	fmt.Printf("| start of the process until it takes calls and has read what is due | %v |\n", w.Start.Round(time.Millisecond))
	fmt.Printf("| resident memory then | %d MB |\n", w.RSS/1_000_000)
	fmt.Printf("| from the first to the last of %d alarms of one second | %v |\n", w.Fired, w.Spread.Round(time.Millisecond))
	fmt.Printf("| lateness of the last | %v |\n", w.Late.Round(time.Millisecond))
	fmt.Printf("| CPU of one: constructor, handler with a put, commit | %v |\n", (w.CPU / time.Duration(max(1, w.Fired))).Round(100*time.Nanosecond))
	fmt.Printf("| resident memory at the end | %d MB |\n\n", w.End/1_000_000)
	return nil
}

func fillSleepers(ctx context.Context, dir string, n int, due time.Time) error {
	engine, err := pebblekv.Open(dir, pebblekv.Options{})
	if err != nil {
		return err
	}
	srv, err := server.New(ctx, engine, server.WithMaxActive(20_000))
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	if err := labv1durable.RegisterAlarmLab(srv, newSleeper(nil)); err != nil {
		return errors.Join(err, engine.Close())
	}
	client := labv1durable.NewAlarmLabClient(nil)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(512)
	for i := range n {
		at := due.Add(24*time.Hour + time.Duration(i)*time.Millisecond)
		if i < sleepersDue {
			at = due.Add(time.Duration(i) * time.Second / sleepersDue)
		}
		g.Go(func() error {
			return srv.Update(gctx, client.GetByName(objectName(i)).Ref, func(_ context.Context, _ any, tx durable.Tx) error {
				return labv1durable.AlarmLabTx{Tx: tx}.Alarm().Set(at)
			})
		})
	}
	return errors.Join(g.Wait(), srv.Close(ctx), engine.Close())
}

// wakeMain is the process that serves the sleepers. It ends when nothing was due
// for some seconds.
func wakeMain(dir string, began time.Time) error {
	ctx := context.Background()
	engine, err := pebblekv.Open(dir, pebblekv.Options{})
	if err != nil {
		return err
	}
	srv, err := server.New(ctx, engine)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var runs []time.Time
	if err := labv1durable.RegisterAlarmLab(srv, newSleeper(func(at time.Time) {
		mu.Lock()
		defer mu.Unlock()
		runs = append(runs, at)
	})); err != nil {
		return err
	}
	_ = srv.Handler()
	if err := srv.Update(ctx, labv1durable.NewAlarmLabClient(nil).GetByName("first").Ref, func(context.Context, any, durable.Tx) error { return nil }); err != nil {
		return err
	}
	w := wakening{Start: time.Since(began)}
	time.Sleep(3 * time.Second) // what the start left behind is in the figure too
	w.RSS = resident()
	before := cpuTime()
	for {
		time.Sleep(5 * time.Second)
		mu.Lock()
		n, last := len(runs), time.Time{}
		if n > 0 {
			last = runs[n-1]
		}
		mu.Unlock()
		if n >= sleepersDue || n > 0 && time.Since(last) > 20*time.Second || time.Since(began) > 5*time.Minute {
			break
		}
	}
	w.CPU, w.End, w.Fired = cpuTime()-before, resident(), len(runs)
	if len(runs) > 0 {
		slices.SortFunc(runs, time.Time.Compare)
		first, last := runs[0], runs[len(runs)-1]
		w.Spread = last.Sub(first)
		w.Late = last.Sub(first.Truncate(time.Second).Add(time.Second - time.Second/sleepersDue))
	}
	return json.NewEncoder(os.Stdout).Encode(w)
}

// resident returns how many bytes of memory the process has.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
