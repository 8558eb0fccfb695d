package lab_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
)

func TestInputGate(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("GATE-01 GATE-02 GO-01 concurrent increments", func(t *testing.T) {
			c := b.counter(t)
			const callers, each = 8, 10
			var mu sync.Mutex
			var values, calls []int64
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range each {
						res, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						values, calls = append(values, res.GetValue()), append(calls, res.GetCalls())
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			slices.Sort(values)
			slices.Sort(calls)
			var all []int64
			for i := range int64(callers * each) {
				all = append(all, i+1)
			}
			same(t, "values", values, all)
			same(t, "calls counted in an unguarded field", calls, all)
		})
		t.Run("GO-10 64-bit integers are exact", func(t *testing.T) {
			c := b.counter(t)
			const big = 1<<62 + 1
			res, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: big})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "value", res.GetValue(), int64(big))
			got, err := c.Get(t.Context(), &labv1.GetRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "read", got.GetValue(), int64(big))
		})
		t.Run("GO-11 sequential calls are in order", func(t *testing.T) {
			r := b.recorder(t)
			var texts []string
			for i := range 10 {
				texts = append(texts, fmt.Sprint(i))
				res, err := r.Append(t.Context(), &labv1.AppendRequest{Text: texts[i]})
				if err != nil {
					t.Fatal(err)
				}
				same(t, "number", res.GetNumber(), int64(i+1))
			}
			res, err := r.ReadAll(t.Context(), &labv1.ReadAllRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "texts", res.GetTexts(), texts)
		})
		t.Run("GO-04 GO-13 a handle outlives its turn", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			for name, step := range map[string]*labv1.Step{
				"get": get("a"), "put": put("a", "2"), "delete": del("a"), "list": list(), "many": putMany("b"),
				"delete all": deleteAll(), "sync": syncNow(), "savepoint": savepoint(), "await": await(),
				"call": callOther("elsewhere"),
			} {
				t.Run(name, func(t *testing.T) {
					same(t, "kind", o.do(stale(tolerate(step)))[0].GetResults()[0].GetKind(), "ErrTxDone")
				})
			}
			same(t, "pairs", o.pairs(), []string{"a=1"})
			_, err := o.try(stale(get("a")))
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}}.check(t, err, o)
		})
		t.Run("GO-04 the handle rests in an Await", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(put("a", "1"), await(tolerate(get("a")), tolerate(put("b", "1"))), get("a"))
			for _, inner := range res[1].GetResults() {
				same(t, "kind", inner.GetKind(), "ErrTxDone")
			}
			same(t, "after", res[2].GetOk(), true)
			same(t, "pairs", o.pairs(), []string{"a=1"})
		})
	})
}

func TestTurns(t *testing.T) {
	t.Parallel()
	slow := func(f *faulty, reread bool) func() (*labv1.SlowIncrementResponse, error) {
		return func() (*labv1.SlowIncrementResponse, error) {
			return f.counter("a").SlowIncrement(context.Background(), &labv1.SlowIncrementRequest{Delta: 1, SleepMs: 1000, Reread: reread})
		}
	}
	inBubble(t, "GATE-03 GO-02 an Await loses updates", func(t *testing.T, f *faulty) {
		first, second := begin(slow(f, false)), begin(slow(f, false))
		<-first.done
		<-second.done
		same(t, "errors", []error{first.err, second.err}, []error{nil, nil})
		same(t, "sum", first.res.GetValue()+second.res.GetValue(), int64(2))
	})
	inBubble(t, "GATE-03 unless it reads again", func(t *testing.T, f *faulty) {
		started := time.Now()
		first, second := begin(slow(f, true)), begin(slow(f, true))
		<-first.done
		<-second.done
		same(t, "sum", first.res.GetValue()+second.res.GetValue(), int64(3))
		same(t, "both sleep at once", time.Since(started), time.Second)
	})
	inBubble(t, "GO-02 a call to another object keeps the turn", func(t *testing.T, f *faulty) {
		o, other := f.kv(t, "a"), f.kv(t, "b")
		relay := begin(func() ([]*labv1.Result, error) {
			return o.try(callOther("b", &labv1.Step{Do: &labv1.Step_SleepMs{SleepMs: 1000}}, put("called", "1")), put("n", "1"))
		})
		synctest.Wait()
		waiting := begin(func() ([]*labv1.Result, error) { return o.try(get("n")) })
		if waiting.over() {
			t.Error("a call ran while the object waited for another")
		}
		<-waiting.done
		same(t, "seen by the call that waited", waiting.res[0].GetOk(), true)
		<-relay.done
		same(t, "error", relay.err, nil)
		same(t, "other", other.pairs(), []string{"called=1"})
	})
	inBubble(t, "GO-03 a call cycle fails at once", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		res := o.do(put("x", "1"), tolerate(callOther("b", callOther("a", get("x")))))
		if res[1].GetError() == "" {
			t.Error("the cycle was served")
		}
		_, err := o.try(callOther("b", callOther("a", get("x"))))
		same(t, "code", connect.CodeOf(err), connect.CodeFailedPrecondition)
		_, err = o.try(callOther("a", get("x")))
		want{code: connect.CodeFailedPrecondition, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_CALL_CYCLE,
			Chain:  []string{"lab.kv/" + o.ID().String(), "lab.kv/" + o.ID().String()},
		}}.check(t, err, o)
	})
	inBubble(t, "GATE-05 first come first served", func(t *testing.T, f *faulty) {
		var calls []*going[*labv1.AppendResponse]
		for i := range 5 {
			calls = append(calls, begin(func() (*labv1.AppendResponse, error) {
				return f.recorder("a").Append(context.Background(), &labv1.AppendRequest{Text: fmt.Sprint(i), SleepMs: 100})
			}))
			synctest.Wait()
		}
		for i, call := range calls {
			<-call.done
			same(t, "number", call.res.GetNumber(), int64(i+1))
		}
	})
	inBubble(t, "GATE-05 a view does not overtake a writer that waits", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		o.do(get("x")) // the constructor is out of the way
		napping := &labv1.ReadRequest{Steps: []*labv1.Step{{Do: &labv1.Step_SleepMs{SleepMs: 1000}}, get("x")}}
		read := func() (*labv1.ReadResponse, error) { return o.Read(t.Context(), napping) }
		first := begin(read)
		synctest.Wait()
		writer := begin(func() ([]*labv1.Result, error) { return o.try(put("x", "1")) })
		synctest.Wait()
		last := begin(read)
		synctest.Wait()
		<-first.done
		<-writer.done
		<-last.done
		same(t, "seen by the first", first.res.GetResults()[1].GetOk(), false)
		same(t, "seen by the last", last.res.GetResults()[1].GetOk(), true)
	})
	inBubble(t, "GATE-06 a series of steps is atomic", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		writer := begin(func() ([]*labv1.Result, error) {
			return o.try(put("a", "1"), &labv1.Step{Do: &labv1.Step_SleepMs{SleepMs: 1000}}, put("b", "1"))
		})
		synctest.Wait()
		same(t, "pairs", o.pairs(), []string{"a=1", "b=1"})
		<-writer.done
	})
	inBubble(t, "GATE-07 a call that leaves the queue", func(t *testing.T, f *faulty) {
		r := f.recorder("a")
		appendText := func(ctx context.Context, text string) *going[*labv1.AppendResponse] {
			g := begin(func() (*labv1.AppendResponse, error) {
				return r.Append(ctx, &labv1.AppendRequest{Text: text, SleepMs: 1000})
			})
			synctest.Wait()
			return g
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, left, last := appendText(t.Context(), "first"), appendText(ctx, "left"), appendText(t.Context(), "last")
		cancel()
		if !left.over() {
			t.Error("the call that was cancelled still waits")
		}
		same(t, "code", connect.CodeOf(left.err), connect.CodeCanceled)
		<-first.done
		<-last.done
		same(t, "numbers", []int64{first.res.GetNumber(), last.res.GetNumber()}, []int64{1, 2})
	})
	inBubble(t, "GATE-26 views run together", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		started := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := o.Read(t.Context(), &labv1.ReadRequest{Steps: []*labv1.Step{{Do: &labv1.Step_SleepMs{SleepMs: 1000}}}})
				same(t, "error", err, nil)
			})
		}
		wg.Wait()
		same(t, "time", time.Since(started), time.Second)
	})
}

func TestOutputGate(t *testing.T) {
	t.Parallel()
	appendText := func(f *faulty, name, text string) *going[*labv1.AppendResponse] {
		return begin(func() (*labv1.AppendResponse, error) {
			return f.recorder(name).Append(context.Background(), &labv1.AppendRequest{Text: text})
		})
	}
	commitFailed := func() want {
		return want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
			Reason:         durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED,
			ObjectReset:    true,
			OutcomeUnknown: true,
		}}
	}
	inBubble(t, "GATE-15 GATE-37 GO-05 no answer before the commit is durable", func(t *testing.T, f *faulty) {
		f.store.Pause()
		first, second := appendText(f, "a", "1"), appendText(f, "a", "2")
		if first.over() || second.over() {
			t.Error("an answer left before its commit was durable")
		}
		same(t, "turns go on meanwhile", f.lab.Handled.Load(), int64(2))
		f.store.Resume()
		<-first.done
		<-second.done
		same(t, "errors", []error{first.err, second.err}, []error{nil, nil})
	})
	inBubble(t, "GATE-15 a read waits for what it saw", func(t *testing.T, f *faulty) {
		f.store.Pause()
		write := appendText(f, "a", "1")
		synctest.Wait()
		read := begin(func() (*labv1.ReadAllResponse, error) {
			return f.recorder("a").ReadAll(context.Background(), &labv1.ReadAllRequest{})
		})
		if read.over() {
			t.Error("the read told of a write that was not durable")
		}
		f.store.Resume()
		<-read.done
		<-write.done
		same(t, "texts", read.res.GetTexts(), []string{"1"})
	})
	inBubble(t, "GATE-16 GATE-39 a failed commit takes the answers back", func(t *testing.T, f *faulty) {
		appended := appendText(f, "a", "kept")
		<-appended.done
		f.store.Pause()
		lost := appendText(f, "a", "lost")
		synctest.Wait()
		f.store.Crash()
		<-lost.done
		commitFailed().check(t, lost.err, f.recorder("a"))
		f.store.Resume()
		f.start(t)
		res, err := labClient(f.srv).GetByName("a").ReadAll(t.Context(), &labv1.ReadAllRequest{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "texts", res.GetTexts(), []string{"kept"})
	})
	inBubble(t, "GATE-17 calls to others wait too", func(t *testing.T, f *faulty) {
		f.store.Pause()
		o := f.kv(t, "a")
		call := begin(func() ([]*labv1.Result, error) { return o.try(put("a", "1"), callOther("b", put("b", "1"))) })
		synctest.Wait()
		// The other object has not been called: it has no activation.
		same(t, "objects in memory", f.srv.Active(), 1)
		f.store.Resume()
		<-call.done
		same(t, "error", call.err, nil)
	})
	inBubble(t, "GATE-26 reads alone are not delayed", func(t *testing.T, f *faulty) {
		f.store.Pause()
		read := begin(func() (*labv1.ReadAllResponse, error) {
			return f.recorder("a").ReadAll(context.Background(), &labv1.ReadAllRequest{})
		})
		if !read.over() {
			t.Error("a read of an object that wrote nothing waits for the store")
		}
		f.store.Resume()
		<-read.done
	})
	inBubble(t, "GATE-26 other objects are not delayed", func(t *testing.T, f *faulty) {
		<-appendText(f, "b", "1").done
		f.store.Pause()
		held := appendText(f, "a", "1")
		synctest.Wait()
		read := begin(func() (*labv1.ReadAllResponse, error) {
			return f.recorder("b").ReadAll(context.Background(), &labv1.ReadAllRequest{})
		})
		if !read.over() {
			t.Error("a read waits for another object")
		}
		f.store.Resume()
		<-held.done
		<-read.done
	})
	inBubble(t, "GATE-22 an unconfirmed write holds nothing back", func(t *testing.T, f *faulty) {
		f.store.Pause()
		o := f.kv(t, "a")
		call := begin(func() ([]*labv1.Result, error) { return o.try(unconfirmed(put("a", "1"))) })
		if !call.over() {
			t.Error("the answer waits for an unconfirmed write")
		}
		f.store.Resume()
		<-call.done
	})
	inBubble(t, "GATE-24 deleteAll is confirmed", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		o.do(put("a", "1"))
		f.store.Pause()
		call := begin(func() ([]*labv1.Result, error) {
			return o.try(unconfirmed(put("b", "1")), deleteAll(), unconfirmed(put("c", "1")))
		})
		if call.over() {
			t.Error("the answer left before deleteAll was durable")
		}
		f.store.Resume()
		<-call.done
		same(t, "error", call.err, nil)
	})
	inBubble(t, "GATE-27 GATE-28 sync waits for everything before it", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		o.do(syncNow()) // nothing to wait for
		f.store.Pause()
		call := begin(func() ([]*labv1.Result, error) {
			return o.try(unconfirmed(put("a", "1")), syncNow(), syncNow(), put("b", "1"), fail("rolled back"))
		})
		if call.over() {
			t.Error("sync returned before the write was durable")
		}
		f.store.Resume()
		<-call.done
		want{code: connect.CodeUnknown, message: "rolled back"}.check(t, call.err, o)
		same(t, "pairs", o.pairs(), []string{"a=1"})
	})
	inBubble(t, "GATE-27 sync fails with the commit", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		f.store.Pause()
		call := begin(func() ([]*labv1.Result, error) { return o.try(put("a", "1"), syncNow()) })
		synctest.Wait()
		f.store.Crash()
		<-call.done
		commitFailed().check(t, call.err, o)
	})
	inBubble(t, "GATE-21 ERR-10 a store that takes too long", func(t *testing.T, f *faulty) {
		f.store.Pause()
		started := time.Now()
		call := appendText(f, "a", "1")
		<-call.done
		same(t, "time", time.Since(started), 30*time.Second)
		w := commitFailed()
		w.info.Overloaded = true
		w.check(t, call.err, f.recorder("a"))
		f.store.Resume()
	})
	inBubble(t, "GATE-30 each message of a stream waits for the writes before", func(t *testing.T, f *faulty) {
		f.store.Pause()
		first := make(chan struct{})
		tail := begin(func() (numbers []int64, err error) {
			stream, err := f.recorder("a").Tail(t.Context(), &labv1.TailRequest{Texts: []string{"1", "2", "3"}})
			if err != nil {
				return nil, err
			}
			defer stream.Close()
			for res, err := range stream.All() {
				if err != nil {
					return nil, err
				}
				if numbers == nil {
					close(first)
				}
				numbers = append(numbers, res.GetNumber())
			}
			return numbers, nil
		})
		synctest.Wait()
		select {
		case <-first:
			t.Error("a message left before the write ahead of it was durable")
		default:
		}
		f.store.Resume()
		<-tail.done
		same(t, "error", tail.err, nil)
		same(t, "numbers", tail.res, []int64{1, 2, 3})
	})
	inBubble(t, "GATE-35 KV-41 a full disk keeps nothing of a turn", func(t *testing.T, f *faulty) {
		o := f.kv(t, "a")
		o.do(put("a", "1"))
		f.store.Fill(true)
		_, err := o.try(put("a", "2"), put("b", "2"))
		want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
		}}.check(t, err, o)
		same(t, "pairs", o.pairs(), []string{"a=1"})
		f.store.Fill(false)
		o.do(put("a", "3"))
		same(t, "pairs when there is room", o.pairs(), []string{"a=3"})
	})
}

func TestCoalescing(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("GATE-32 GATE-34 a turn is one unit", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("x", "1"))
			_, err := o.try(put("a", "1"), del("x"), put("b", "1"), fail("no"))
			want{code: connect.CodeUnknown, message: "no", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{"x=1"})
		})
		t.Run("GATE-33 a call to another object is a commit point", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(put("a", "1"), callOther(b.name(t, "other")), put("b", "1"), fail("no"))
			want{code: connect.CodeUnknown, message: "no"}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{"a=1"})
		})
		t.Run("GATE-33 an Await is a commit point", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(put("a", "1"), await(), put("b", "1"), fail("no"))
			want{code: connect.CodeUnknown, message: "no"}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{"a=1"})
		})
		t.Run("GATE-35 a bad entry of many", func(t *testing.T) {
			o := b.kv(t)
			long := string(make([]byte, durable.DefaultMaxKeyBytes+1))
			res := o.do(put("x", "1"), tolerate(putMany("a", long, "b")), get("a"), get("b"))
			same(t, "kind", res[1].GetKind(), "LimitError: key bytes, 2049 of 2048")
			same(t, "before it", res[2].GetOk(), false)
			same(t, "after it", res[3].GetOk(), false)
			same(t, "pairs", o.pairs(), []string{"x=1"})
		})
		t.Run("GATE-36 reads see what the turn wrote", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(put("a", "1"), get("a"), getMany("a"), list(), del("a"), get("a"))
			same(t, "get", show(res[1]), []string{"a=1"})
			same(t, "many", show(res[2]), []string{"a=1"})
			same(t, "list", show(res[3]), []string{"a=1"})
			same(t, "deleted", res[5].GetOk(), false)
		})
		t.Run("GATE-38 ABRT-02 an abort drops the unit", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(put("a", "1"), syncNow(), put("b", "1"), &labv1.Step{Do: &labv1.Step_Abort{Abort: "enough"}})
			want{code: connect.CodeAborted, message: "enough", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
			}}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{"a=1"})
		})
	})
}
