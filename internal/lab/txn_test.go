package lab_test

import (
	"testing"

	"connectrpc.com/connect/v2"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
)

func TestSavepoints(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("TXN-01 TXN-13 a savepoint commits with its turn", func(t *testing.T) {
			o := b.kv(t)
			res := o.do(savepoint(put("a", "1"), get("a")), put("b", "1"))
			same(t, "inside", show(res[0].GetResults()[1]), []string{"a=1"})
			same(t, "pairs", o.pairs(), []string{"a=1", "b=1"})
		})
		t.Run("TXN-02 an error undoes the savepoint and nothing else", func(t *testing.T) {
			o := b.kv(t)
			o.do(putMany("x", "y"))
			res := o.do(
				put("a", "1"), put("x", "before"),
				tolerate(savepoint(put("a", "2"), put("x", "inside"), del("y"), put("new", "1"), fail("no"))),
				list(),
			)
			same(t, "error", res[2].GetError(), "no")
			same(t, "in the turn", show(res[3]), []string{"a=1", "x=before", "y=vy"})
			same(t, "pairs", o.pairs(), []string{"a=1", "x=before", "y=vy"})
		})
		t.Run("TXN-02 the error reaches the caller", func(t *testing.T) {
			c := b.counter(t)
			if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
				t.Fatal(err)
			}
			_, err := c.SavepointIncrement(t.Context(), &labv1.SavepointIncrementRequest{Delta: 10, Error: "no"})
			want{code: connect.CodeUnknown, message: "no", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, c)
			res, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "value", res.GetValue(), int64(2))
			// It had written, even if a savepoint undid that, so its error resets: GO-06.
			same(t, "calls of the activation", res.GetCalls(), int64(1))
		})
		t.Run("TXN-03 a caught error rolls back and the turn goes on", func(t *testing.T) {
			c := b.counter(t)
			res, err := c.SavepointIncrement(t.Context(), &labv1.SavepointIncrementRequest{Delta: 10, Error: "no", Caught: true})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "value", res.GetValue(), int64(0))
		})
		t.Run("TXN-06 TXN-14 the inner one rolls back alone", func(t *testing.T) {
			o := b.kv(t)
			o.do(savepoint(put("a", "outer"), put("b", "outer"),
				tolerate(savepoint(put("a", "inner"), del("b"), fail("no"))), put("c", "outer")))
			same(t, "pairs", o.pairs(), []string{"a=outer", "b=outer", "c=outer"})
		})
		t.Run("TXN-06 TXN-07 the outer one takes the inner along", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "0"), tolerate(savepoint(put("a", "outer"), savepoint(put("a", "inner"), put("b", "inner")), fail("no"))))
			same(t, "pairs", o.pairs(), []string{"a=0"})
		})
		t.Run("TXN-06 three deep", func(t *testing.T) {
			o := b.kv(t)
			o.do(savepoint(put("a", "1"), tolerate(savepoint(put("a", "2"), tolerate(savepoint(put("a", "3"), fail("3"))), get("a"), fail("2")))), put("b", "1"))
			same(t, "pairs", o.pairs(), []string{"a=1", "b=1"})
		})
		t.Run("TXN-04 TXN-05 no handle is left when it is over", func(t *testing.T) {
			o := b.kv(t)
			// The handle is that of the turn, so writes after a rollback are the turn's.
			o.do(tolerate(savepoint(put("a", "1"), fail("no"))), put("a", "2"), savepoint(), put("b", "3"))
			same(t, "pairs", o.pairs(), []string{"a=2", "b=3"})
		})
		t.Run("TXN-11 deleteAll is refused inside", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			res := o.do(savepoint(tolerate(deleteAll()), put("b", "1")))
			same(t, "kind", res[0].GetResults()[0].GetKind(), "ErrInSavepoint")
			same(t, "pairs", o.pairs(), []string{"a=1", "b=1"})
			_, err := o.try(savepoint(deleteAll()))
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}}.check(t, err, o)
		})
		t.Run("TXN-11 before and after it is not", func(t *testing.T) {
			o := b.kv(t)
			o.do(put("a", "1"))
			res := o.do(deleteAll(), tolerate(savepoint(put("b", "1"), fail("no"))), list(), savepoint(put("c", "1")))
			same(t, "list", show(res[2]), []string{})
			same(t, "pairs", o.pairs(), []string{"c=1"})
		})
		t.Run("TXN-15 a savepoint is lost with its turn", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(savepoint(put("a", "1")), fail("no"))
			want{code: connect.CodeUnknown, message: "no"}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{})
		})
		t.Run("TXN-15 a panic inside undoes it", func(t *testing.T) {
			o := b.kv(t)
			_, err := o.try(put("b", "1"), savepoint(put("a", "1"), &labv1.Step{Do: &labv1.Step_Panic{Panic: "now"}}))
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true,
			}}.check(t, err, o)
			same(t, "pairs", o.pairs(), []string{})
		})
		t.Run("TXN-23 nothing leaves a savepoint", func(t *testing.T) {
			o := b.kv(t)
			other := b.kv(t, "other")
			res := o.do(savepoint(put("a", "1"),
				tolerate(callOther(other.name(), put("x", "1"))), tolerate(await()), tolerate(syncNow())))
			for i, what := range []string{"call", "await", "sync"} {
				same(t, what, res[0].GetResults()[i+1].GetKind(), "ErrInSavepoint")
			}
			same(t, "other", other.pairs(), []string{})
			same(t, "pairs", o.pairs(), []string{"a=1"})
			_, err := o.try(savepoint(callOther("x")))
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE}}.check(t, err, o)
		})
	})
}
