package durabletest_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// TestIsolation runs many tests side by side, half of them in bubbles, that use
// the same names: TEST-06, TEST-10, WISH-06. It is not parallel itself, so that
// the goroutines it counts are its own. A bubble does not end with a goroutine
// that is left.
func TestIsolation(t *testing.T) {
	tests := int64(500)
	if testing.Short() {
		tests = 100
	}
	before := leftGoroutines()
	var ran atomic.Int64
	t.Run("tests", func(t *testing.T) {
		for i := range tests {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				if i%2 == 0 {
					isolated(t, i, false)
				} else {
					synctest.Test(t, func(t *testing.T) { isolated(t, i, true) })
				}
				ran.Add(1)
			})
		}
	})
	if ran.Load() != tests {
		t.Errorf("%d of %d tests came to their end", ran.Load(), tests)
	}
	// Goroutines that were told to end have not all done so yet.
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		left := leftGoroutines()
		if len(left) <= len(before) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left, such as:\n%s", len(left)-len(before), left[0])
		}
	}
}

// isolated is one of the tests: its number tells what it writes.
func isolated(t *testing.T, number int64, bubble bool) {
	s := durabletest.New(t, new(lab.Lab).Register)
	way := []string{"in process", "Connect", "gRPC"}[number%3]
	conn := conns(s)[way]
	if ids := s.ListIDs("lab.counter"); len(ids) != 0 {
		t.Errorf("%d objects are there at the beginning", len(ids))
	}
	for range 2 {
		if _, err := increment(t.Context(), conn, "a", number); err != nil {
			t.Fatal(err)
		}
	}
	o := alarmLab{t, labv1durable.NewAlarmLabClient(conn).GetByName("a")}
	o.act(&labv1.AlarmStep{Do: &labv1.AlarmStep_Set{Set: &labv1.AlarmSetting{
		Alarm: "renew", Payload: fmt.Sprint(number), When: &labv1.AlarmSetting_InMs{InMs: time.Minute.Milliseconds()},
	}}})
	if bubble {
		time.Sleep(time.Minute + time.Second)
	} else if ran, err := s.RunAlarm(o.Ref, "renew"); !ran || err != nil {
		t.Errorf("ran %t, error %v", ran, err)
	}
	if events := o.events().GetBegan(); len(events) != 1 || events[0].GetPayload() != fmt.Sprint(number) {
		t.Error(events)
	}
	o.act(set("", time.Hour)) // is left over
	if number%5 == 0 {
		s.Crash()
	}
	if value, err := increment(t.Context(), conn, "a", 0); err != nil || value != 2*number {
		t.Errorf("value %d, want %d, error %v", value, 2*number, err)
	}
	stream, err := labv1durable.NewRecorderClient(conn).GetByName("a").Tail(t.Context(), &labv1.TailRequest{Texts: []string{"x"}, Hang: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err != nil { // and it is left open
		t.Error(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	// Work in the background that waits for the end of the server.
	err = durabletest.RunIn(s, o.Ref, func(_ context.Context, _ any, tx durable.Tx) error {
		return tx.Background(func(ctx context.Context, _ durable.TurnPort) error {
			<-ctx.Done()
			return ctx.Err()
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// leftGoroutines returns the stacks of goroutines that run our code or that of
// the store.
func leftGoroutines() (stacks []string) {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2)
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		for _, ours := range []string{"durable-go/durable", "cockroachdb/pebble", "ncruces/go-sqlite3", "net/http."} {
			if strings.Contains(stack, ours) && !strings.Contains(stack, "leftGoroutines") && !strings.Contains(stack, "(*T).Parallel") {
				stacks = append(stacks, stack)
				break
			}
		}
	}
	return stacks
}
