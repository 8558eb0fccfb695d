package durabletest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

var crashPoints = []durabletest.CrashPoint{durabletest.BeforeSync, durabletest.AfterSync, durabletest.BeforeReply}

// eachCrash runs fn in a bubble for each point and each way to call.
func eachCrash(t *testing.T, fn func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint)) {
	t.Helper()
	for _, point := range crashPoints {
		for _, way := range []string{"in process", "Connect", "gRPC"} {
			t.Run(fmt.Sprint(point, ", ", way), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := durabletest.New(t, new(lab.Lab).Register)
					fn(t, s, way, point)
				})
			})
		}
	}
}

func TestCrashAt(t *testing.T) { // TEST-12
	t.Parallel()
	t.Run("KV, SQL and an alarm of one turn", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			conn := conns(s)[way]
			o := alarmLab{t, labv1durable.NewAlarmLabClient(conn).GetByName("a")}
			o.act(put("k", "old"))
			s.CrashAt(point)
			o.look(get("")) // commits nothing, so nothing happens
			_, err := o.Act(t.Context(), &labv1.ActRequest{Steps: []*labv1.AlarmStep{
				put("k", "new"), sql("CREATE TABLE t (a)"), set("renew", time.Minute),
			}}, durable.WithoutRetry())
			if err == nil {
				t.Fatal("the call was acknowledged")
			}
			if info := durableconnect.ErrorInfo(err); connect.CodeOf(err) != connect.CodeUnavailable || info != nil {
				t.Errorf("error %v, with %v", err, info)
			}
			want := map[durabletest.CrashPoint]string{
				durabletest.BeforeSync:  "old",
				durabletest.AfterSync:   `new t alarm "renew"`,
				durabletest.BeforeReply: `new t alarm "renew"`,
			}[point]
			if got := strings.Join(strings.Fields(o.stored()), " "); got != want {
				t.Errorf("stored is %s, want %s", got, want)
			}
			time.Sleep(2 * time.Minute)
			if n := len(o.events().GetCommitted()); (n == 1) != (point != durabletest.BeforeSync) {
				t.Errorf("the alarm ran %d times", n)
			}
			o.act(put("k", "once more")) // it crashes once
			if got := string(o.look(&labv1.AlarmStep{Do: &labv1.AlarmStep_Value{Value: []byte("k")}})[0].GetValue()); got != "once more" {
				t.Error(got)
			}
		})
	})
	t.Run("RETRY-02: calls with a key count once", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			conn := conns(s)[way]
			if value, err := incrementOnce(t.Context(), conn, durable.IdempotencyKey()); err != nil || value != 1 {
				t.Fatalf("value %d, error %v", value, err)
			}
			for round := range 3 {
				before, err := increment(t.Context(), s.Conn(), "a", 0)
				if err != nil {
					t.Fatal(err)
				}
				s.CrashAt(point)
				key, replayed := durable.WithIdempotencyKey(fmt.Sprint("call-", round)), ""
				for range 2 {
					var header http.Header
					value, err := incrementOnce(t.Context(), conn, key, durable.WithResponseHeader(&header))
					if connect.CodeOf(err) == connect.CodeUnavailable && way == "in process" {
						continue // where nothing repeats calls
					} else if err != nil {
						t.Fatal(err)
					}
					replayed = header.Get("Durable-Replayed")
					if value != before+1 {
						t.Errorf("value %d, want %d", value, before+1)
					}
					break
				}
				if want := map[bool]string{false: "true"}[point == durabletest.BeforeSync]; replayed != want {
					t.Errorf("replayed %q, want %q", replayed, want)
				}
				if value, err := increment(t.Context(), s.Conn(), "a", 0); err != nil || value != before+1 {
					t.Errorf("value %d after one call, want %d, error %v", value, before+1, err)
				}
			}
		})
	})
	t.Run("ALM-28: the commit of an alarm", func(t *testing.T) {
		for _, point := range crashPoints[:2] {
			t.Run(point.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := durabletest.New(t, new(lab.Lab).Register)
					o := alarmLab{t, labv1durable.NewAlarmLabClient(s.Conn()).GetByName("a")}
					o.act(set("", time.Minute))
					crashed := s.CrashAt(point)
					<-crashed
					time.Sleep(time.Minute)
					events := o.events()
					want := map[durabletest.CrashPoint]int{durabletest.BeforeSync: 2, durabletest.AfterSync: 1}[point]
					if len(events.GetBegan()) != want || len(events.GetCommitted()) != 1 {
						t.Errorf("%d runs began, want %d: %v", len(events.GetBegan()), want, events)
					}
				})
			})
		}
	})
	t.Run("GATE-29: what waits for the gate leaves only before the reply", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			conn := conns(s)[way]
			put := &labv1.Step{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte("k")}}}
			inner := &labv1.RunRequest{Name: "b", Steps: []*labv1.Step{put}}
			s.CrashAt(point)
			_, err := labv1durable.NewKVLabClient(conn).GetByName("a").Run(t.Context(), &labv1.RunRequest{
				Steps: []*labv1.Step{put, {Do: &labv1.Step_Call{Call: inner}}},
			}, durable.WithoutRetry())
			if err == nil {
				t.Fatal("the call was acknowledged")
			}
			want := map[durabletest.CrashPoint]int{durabletest.BeforeSync: 0, durabletest.AfterSync: 1, durabletest.BeforeReply: 2}[point]
			if n := len(s.ListIDs("lab.kv")); n != want {
				t.Errorf("%d objects exist, want %d", n, want)
			}
		})
	})
	t.Run("a turn hears of its commit only before the reply", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			o := labv1durable.NewCounterClient(conns(s)[way]).GetByName("a")
			s.CrashAt(point)
			var synced error
			err := durabletest.RunIn(s, o.Ref, func(ctx context.Context, _ any, tx durable.Tx) error {
				if err := tx.KV().Put(ctx, "k", []byte("v")); err != nil {
					return err
				}
				synced = tx.Sync(ctx)
				return synced
			})
			if connect.CodeOf(err) != connect.CodeUnavailable {
				t.Error(err)
			}
			if (synced == nil) != (point == durabletest.BeforeReply) {
				t.Errorf("Sync returned %v", synced)
			}
		})
	})
	t.Run("streams", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			conn := conns(s)[way]
			r := labv1durable.NewRecorderClient(conn).GetByName("a")
			s.CrashAt(point)
			stream, err := r.Tail(t.Context(), &labv1.TailRequest{Texts: []string{"x", "y"}, Hang: true})
			if err == nil {
				_, err = stream.Receive()
				err = errors.Join(err, stream.Close())
			}
			if err == nil {
				t.Error("a message arrived")
			}
			res, err := r.ReadAll(t.Context(), &labv1.ReadAllRequest{})
			if n := len(res.GetTexts()); err != nil || (n > 0) != (point != durabletest.BeforeSync) {
				t.Errorf("%d texts, error %v", n, err)
			}
		})
	})
	t.Run("RunIn and RunAlarm", func(t *testing.T) {
		eachCrash(t, func(t *testing.T, s *durabletest.Server, way string, point durabletest.CrashPoint) {
			conn := conns(s)[way]
			o := alarmLab{t, labv1durable.NewAlarmLabClient(conn).GetByName("a")}
			s.CrashAt(point)
			err := durabletest.RunIn(s, o.Ref, func(ctx context.Context, _ any, tx durable.Tx) error {
				return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), tx.AlarmPort().Set("", time.Now().Add(time.Hour), nil))
			})
			if connect.CodeOf(err) != connect.CodeUnavailable {
				t.Error(err)
			}
			want := map[durabletest.CrashPoint]string{durabletest.AfterSync: `v  alarm ""`, durabletest.BeforeReply: `v  alarm ""`}[point]
			if got := o.stored(); got != want {
				t.Errorf("stored is %s, want %s", got, want)
			}
			o.act(set("renew", time.Hour))
			s.CrashAt(point)
			if _, err := s.RunAlarm(o.Ref, "renew"); connect.CodeOf(err) != connect.CodeUnavailable {
				t.Error(err)
			}
			if ran, err := s.RunAlarm(o.Ref, "renew"); ran != (point == durabletest.BeforeSync) || err != nil {
				t.Errorf("again: ran %t, error %v", ran, err)
			}
		})
	})
	t.Run("calls side by side", func(t *testing.T) {
		for _, point := range crashPoints {
			t.Run(point.String(), func(t *testing.T) {
				s := durabletest.New(t, lab.Register)
				for round := range int64(3) {
					crashed := s.CrashAt(point)
					var wg sync.WaitGroup
					for way, conn := range conns(s) {
						for i := range 4 {
							wg.Go(func() {
								name := fmt.Sprint(way, i)
								for n := 0; ; n++ {
									_, err := increment(context.Background(), conn, name, 1)
									select {
									case <-crashed:
										return
									default:
									}
									if n > 10_000 {
										t.Errorf("it never crashed; the last error is %v", err)
										return
									}
								}
							})
						}
					}
					wg.Wait()
					if ids := s.ListIDs("lab.counter"); point != durabletest.BeforeSync && len(ids) == 0 {
						t.Errorf("round %d: nothing is there", round)
					}
				}
			})
		}
	})
	t.Run("one takes the place of another", func(t *testing.T) {
		inBubble(t, "", func(t *testing.T, s *durabletest.Server, o alarmLab) {
			first := s.CrashAt(durabletest.BeforeSync)
			second := s.CrashAt(durabletest.AfterSync)
			s.Restart() // nor does a restart count
			_, err := o.Act(t.Context(), &labv1.ActRequest{Steps: []*labv1.AlarmStep{put("k", "v")}})
			if err == nil {
				t.Error("acknowledged")
			}
			<-second
			select {
			case <-first:
				t.Error("the first came")
			default:
			}
			if got := o.stored(); got != "v" {
				t.Error(got)
			}
		})
	})
	t.Run("one that never came fails the test", func(t *testing.T) {
		f := &failing{T: t}
		t.Run("", func(t *testing.T) {
			f.T = t
			s := durabletest.New(f, lab.Register)
			s.CrashAt(durabletest.AfterSync)
		})
		if diff := cmp.Diff([]string{"durabletest: the crash that was to come AfterSync never came"}, f.said); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a point that is none", func(t *testing.T) {
		f := &failing{T: t}
		s := durabletest.New(f, lab.Register)
		defer func() {
			if recover() != f || len(f.said) != 1 || !strings.Contains(f.said[0], "no crash point 0") {
				t.Errorf("it said %q", f.said)
			}
		}()
		s.CrashAt(0)
	})
}

// TestCrashLeavesNothing: what is left of the server before a crash, handlers and
// timers, does no harm to the one after.
func TestCrashLeavesNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, "", func(t *testing.T, s *durabletest.Server, o alarmLab) {
		o.act(put("k", "kept"), set("", time.Second))
		slow := make(chan error)
		go func() {
			_, err := o.Act(context.Background(), &labv1.ActRequest{Steps: []*labv1.AlarmStep{
				{Do: &labv1.AlarmStep_SleepMs{SleepMs: 20_000}}, put("k", "lost"),
			}})
			slow <- err
		}()
		synctest.Wait()
		s.Crash()
		time.Sleep(time.Minute)
		if err := <-slow; connect.CodeOf(err) != connect.CodeUnavailable {
			t.Error(err)
		}
		if got := o.stored(); got != "kept" {
			t.Error(got)
		}
		if events := o.events(); len(events.GetBegan()) != 1 {
			t.Error(events)
		}
	})
}
