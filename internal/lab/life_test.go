package lab_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
)

func TestLife(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("LIFE-03 eviction loses memory and keeps storage", func(t *testing.T) {
			c := b.counter(t)
			for range 2 {
				if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
					t.Fatal(err)
				}
			}
			same(t, "was in memory", b.Evict(c.Ref), true)
			same(t, "again", b.Evict(c.Ref), false)
			res, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "value and calls", []int64{res.GetValue(), res.GetCalls()}, []int64{3, 1})
		})
		t.Run("LIFE-11 an object that wrote nothing does not exist", func(t *testing.T) {
			o := b.kv(t)
			o.do(get("a"), exists())
			b.Evict(o.Ref)
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), false)
			same(t, "exists", o.do(exists())[0].GetOk(), false)
		})
		t.Run("LIFE-11 nor one whose write was rolled back", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(put("a", "1"), fail("no"))
			want{code: connect.CodeUnknown}.check(t, err, o)
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), false)
		})
		t.Run("LIFE-12 an empty object exists", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			o.do(del("a"))
			b.Evict(o.Ref)
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), true)
			same(t, "exists", o.do(exists())[0].GetOk(), true)
		})
		t.Run("LIFE-22 one object's failure leaves others alone", func(t *testing.T) {
			good, bad := b.counter(t), b.recorder(t)
			for i := range 5 {
				_, err := bad.Misbehave(t.Context(), &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Panic{Panic: "now"}})
				want{code: connect.CodeInternal}.check(t, err, bad)
				b.Evict(bad.Ref)
				res, err := good.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
				if err != nil {
					t.Fatal(err)
				}
				same(t, "calls", res.GetCalls(), int64(i+1))
			}
		})
	})
}

// TestCrash restarts the server under the cases, so each way has its own.
func TestCrash(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("LIFE-10 GATE-29 GATE-32 what was acknowledged survives", func(t *testing.T) {
			o, c := b.kv(t), b.counter(t)
			for crash := range 5 {
				var mu sync.Mutex
				acknowledged := int64(0)
				before, err := c.Get(t.Context(), &labv1.GetRequest{})
				if err != nil {
					t.Fatal(err)
				}
				stop := make(chan struct{})
				var wg sync.WaitGroup
				tried := int64(0)
				for range 4 {
					wg.Go(func() {
						for {
							select {
							case <-stop:
								return
							default:
							}
							_, err := c.Increment(context.Background(), &labv1.IncrementRequest{Delta: 1})
							mu.Lock()
							tried++
							if err == nil {
								acknowledged++
							}
							mu.Unlock()
							if err != nil {
								return
							}
						}
					})
				}
				for range 10 { // a few turns of two writes each, beside
					o.do(put("a", fmt.Sprint(crash)), put("b", fmt.Sprint(crash)))
				}
				b.Crash()
				close(stop)
				wg.Wait()
				same(t, "unit", o.pairs(), []string{fmt.Sprintf("a=%d", crash), fmt.Sprintf("b=%d", crash)})
				after, err := c.Get(t.Context(), &labv1.GetRequest{})
				if err != nil {
					t.Fatal(err)
				}
				if n := after.GetValue() - before.GetValue(); n < acknowledged || n > tried {
					t.Errorf("crash %d: %d increments are stored, %d of %d were acknowledged", crash, n, acknowledged, tried)
				}
			}
		})
		t.Run("LIFE-10 a restart keeps everything", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			b.Restart()
			same(t, "pairs", o.pairs(), []string{"a=1"})
			same(t, "name", inspectTx(t, b.recorder(t)).GetName(), b.name(t))
		})
		t.Run("KV-41 LIFE-11 deleteAll survives a crash", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany(numbered(50)...))
			o.do(deleteAll())
			b.Crash()
			same(t, "pairs", o.pairs(), []string{})
			same(t, "listed", slices.Contains(b.ListIDs("lab.kv"), o.ID()), false)
		})
	})
}

func TestOverload(t *testing.T) {
	t.Parallel()
	sleeping := func(f *faulty, name string, ms int64) *going[*labv1.AppendResponse] {
		g := begin(func() (*labv1.AppendResponse, error) {
			return f.recorder(name).Append(context.Background(), &labv1.AppendRequest{Text: "x", SleepMs: ms})
		})
		synctest.Wait()
		return g
	}
	overloaded := func(name string, most, actual int64) want {
		return want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, Overloaded: true, Retryable: true,
			Limit: &durablev1.Limit{Name: name, Max: most, Actual: actual},
		}}
	}
	inBubble(t, "OVL-02 OVL-09 OVL-11 ERR-07 too many calls", func(t *testing.T, f *faulty) {
		first := inspectTx(t, f.recorder("a")).GetActivation()
		calls := []*going[*labv1.AppendResponse]{sleeping(f, "a", 1000), sleeping(f, "a", 1000), sleeping(f, "a", 1000)}
		_, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "refused"})
		overloaded("queued calls", 2, 2).check(t, err, f.recorder("a"))
		_, err = f.recorder("b").Append(t.Context(), &labv1.AppendRequest{Text: "x"})
		same(t, "another object", err, nil)
		for i, call := range calls {
			<-call.done
			same(t, "number", call.res.GetNumber(), int64(i+1))
		}
		if _, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "later"}); err != nil {
			t.Errorf("after the queue drained: %v", err)
		}
		same(t, "activation", inspectTx(t, f.recorder("a")).GetActivation(), first)
		same(t, "texts", texts(t, f.recorder("a")), []string{"x", "x", "x", "later"})
	}, durable.WithLimits(durable.Limits{MaxQueuedCalls: 2}))
	inBubble(t, "OVL-03 too many bytes", func(t *testing.T, f *faulty) {
		first, second := sleeping(f, "a", 1000), sleeping(f, "a", 1000)
		_, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: strings.Repeat("x", 200)})
		if info := errorInfo(err); info.GetLimit().GetName() != "queued bytes" || info.GetLimit().GetMax() != 100 || !info.GetOverloaded() {
			t.Errorf("error %v, info %v", err, info)
		}
		same(t, "code", connect.CodeOf(err), connect.CodeResourceExhausted)
		<-first.done
		<-second.done
		if _, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: strings.Repeat("x", 200)}); err != nil {
			t.Errorf("a big request of an idle object: %v", err)
		}
	}, durable.WithLimits(durable.Limits{MaxQueuedBytes: 100}))
	inBubble(t, "OVL-04 too long in the queue", func(t *testing.T, f *faulty) {
		running := sleeping(f, "a", 20_000)
		started := time.Now()
		_, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "late"})
		overloaded("milliseconds in the queue", 10_000, 10_000).check(t, err, f.recorder("a"))
		same(t, "time", time.Since(started), 10*time.Second)
		<-running.done
		same(t, "texts", texts(t, f.recorder("a")), []string{"x"})
	}, durable.WithLimits(durable.Limits{MaxQueueWait: 10 * time.Second}))
	inBubble(t, "OVL-10 accepted calls keep their order", func(t *testing.T, f *faulty) {
		calls := []*going[*labv1.AppendResponse]{}
		for range 6 {
			calls = append(calls, sleeping(f, "a", 100))
		}
		var numbers []int64
		for _, call := range calls {
			<-call.done
			if call.err == nil {
				numbers = append(numbers, call.res.GetNumber())
			}
		}
		same(t, "numbers", numbers, []int64{1, 2, 3, 4})
	}, durable.WithLimits(durable.Limits{MaxQueuedCalls: 3}))
}
