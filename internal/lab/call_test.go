package lab_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

func texts(t *testing.T, r labv1durable.RecorderStub) []string {
	t.Helper()
	res, err := r.ReadAll(t.Context(), &labv1.ReadAllRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetTexts()
}

func inspect(t *testing.T, r labv1durable.RecorderStub, opts ...durable.CallOption) *labv1.Inspection {
	t.Helper()
	res, err := r.Inspect(t.Context(), &labv1.InspectRequest{}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSeen()
}

func inspectTx(t *testing.T, r labv1durable.RecorderStub) *labv1.Inspection {
	t.Helper()
	res, err := r.InspectTx(t.Context(), &labv1.InspectTxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSeen()
}

func TestStubs(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("STUB-01 STUB-08 one run for each call", func(t *testing.T) {
			r := b.recorder(t)
			before := b.lab.Handled.Load()
			for range 3 {
				if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
					t.Fatal(err)
				}
			}
			same(t, "runs", b.lab.Handled.Load()-before, int64(3))
			same(t, "texts", texts(t, r), []string{"x", "x", "x"})
		})
		t.Run("STUB-02 LIFE-01 LIFE-02 the constructor comes first", func(t *testing.T) {
			r := b.recorder(t)
			before := b.lab.Constructed.Load()
			same(t, "constructed as", inspect(t, r).GetConstructedAs(), b.name(t))
			same(t, "constructors", b.lab.Constructed.Load()-before, int64(1))
		})
		t.Run("STUB-03 one instance for many first calls", func(t *testing.T) {
			c := b.counter(t)
			before := b.lab.Constructed.Load()
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := c.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			same(t, "constructors", b.lab.Constructed.Load()-before, int64(1))
			res, err := c.Increment(t.Context(), &labv1.IncrementRequest{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "value and calls", []int64{res.GetValue(), res.GetCalls()}, []int64{20, 21})
		})
		t.Run("STUB-05 STUB-06 methods that nobody declared", func(t *testing.T) {
			object := durable.RefByName(b.conn, "lab.recorder", b.name(t))
			for _, procedure := range []string{
				"/lab.v1.RecorderService/Nothing", "/lab.v1.RecorderService/New", "/lab.v1.RecorderService/Constructor",
				"/lab.v1.RecorderService/Alarm", "/lab.v1.RecorderService/append", "/lab.v1.NoService/Append",
			} {
				_, err := durable.CallUnary[labv1.AppendResponse](t.Context(), object, durable.MethodSpec{Procedure: procedure}, &labv1.AppendRequest{Text: "x"}, nil)
				want{code: connect.CodeUnimplemented}.check(t, err, object)
			}
			same(t, "texts", texts(t, b.recorder(t)), []string(nil))
		})
		t.Run("STUB-07 methods named as storage is", func(t *testing.T) {
			res, err := b.counter(t).Get(t.Context(), &labv1.GetRequest{})
			same(t, "get", res.GetValue(), int64(0))
			same(t, "error", err, nil)
		})
		t.Run("STUB-09 requests and responses are copies", func(t *testing.T) {
			r := b.recorder(t)
			req := &labv1.AppendRequest{Text: "mine"}
			sent := proto.CloneOf(req)
			if _, err := r.Append(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			same(t, "request", req, sent)
			req.Text = "changed"
			same(t, "texts", texts(t, r), []string{"mine"})
		})
		t.Run("STUB-20 a client stream keeps the order", func(t *testing.T) {
			r := b.recorder(t)
			var trailer http.Header
			stream, err := r.Collect(t.Context(), durable.WithResponseTrailer(&trailer))
			if err != nil {
				t.Fatal(err)
			}
			sent := strings.Split("a b c d e f", " ")
			for _, text := range sent {
				if err := stream.Send(&labv1.CollectRequest{Text: text}); err != nil {
					t.Fatal(err)
				}
			}
			res, err := stream.CloseAndReceive()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "count", res.GetCount(), int64(6))
			same(t, "trailer", trailer.Get("X-Collected"), "6")
			same(t, "fields filled in", res.GetFields()[5], b.name(t))
			same(t, "texts", texts(t, r), sent)
		})
		t.Run("STUB-20 an empty client stream", func(t *testing.T) {
			stream, err := b.recorder(t).Collect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			res, err := stream.CloseAndReceive()
			same(t, "error", err, nil)
			same(t, "count", res.GetCount(), int64(0))
		})
		t.Run("STUB-20 a stream both ways", func(t *testing.T) {
			r := b.recorder(t)
			stream, err := r.Chat(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			for i, text := range []string{"a", "b", "c"} {
				if err := stream.Send(&labv1.ChatRequest{Text: text}); err != nil {
					t.Fatal(err)
				}
				res, err := stream.Receive()
				if err != nil {
					t.Fatal(err)
				}
				same(t, "answer", res, &labv1.ChatResponse{Number: int64(i + 1), Field: b.name(t)})
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Receive()
			same(t, "end", errors.Is(err, io.EOF), true)
			same(t, "texts", texts(t, r), []string{"a", "b", "c"})
		})
		t.Run("STUB-20 server streams that write and that read", func(t *testing.T) {
			r := b.recorder(t)
			tail, err := r.Tail(t.Context(), &labv1.TailRequest{Texts: []string{"a", "b"}})
			if err != nil {
				t.Fatal(err)
			}
			var numbers []int64
			for res, err := range tail.All() {
				if err != nil {
					t.Fatal(err)
				}
				numbers = append(numbers, res.GetNumber())
			}
			same(t, "numbers", numbers, []int64{1, 2})
			replay, err := r.Replay(t.Context(), &labv1.ReplayRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for res, err := range replay.All() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, res.GetText())
			}
			same(t, "texts", got, []string{"a", "b"})
		})
		t.Run("STUB-21 two stubs reach the same object", func(t *testing.T) {
			one, two := b.recorder(t), b.recorder(t)
			for _, r := range []labv1durable.RecorderStub{one, two} {
				if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
					t.Fatal(err)
				}
			}
			same(t, "activation", inspect(t, one).GetActivation(), inspect(t, two).GetActivation())
			same(t, "texts", texts(t, one), []string{"x", "x"})
		})
		t.Run("STUB-23 STUB-24 ABRT-07 a stub stays good after a reset", func(t *testing.T) {
			r := b.recorder(t)
			first := inspect(t, r).GetActivation()
			_, err := r.Misbehave(t.Context(), &labv1.MisbehaveRequest{Text: "kept", Sync: true, Fault: &labv1.MisbehaveRequest_Abort{Abort: "enough"}})
			want{code: connect.CodeAborted}.check(t, err, r)
			same(t, "texts", texts(t, r), []string{"kept"})
			if inspect(t, r).GetActivation() == first {
				t.Error("the activation lived on")
			}
		})
		t.Run("headers and trailers pass both ways", func(t *testing.T) {
			var header, trailer http.Header
			r := b.recorder(t)
			res, err := r.Inspect(t.Context(), &labv1.InspectRequest{
				Headers: map[string]string{"X-Answer": "h"}, Trailers: map[string]string{"X-Last": "t"},
			}, durable.WithHeader("X-Question", "q"), durable.WithResponseHeader(&header), durable.WithResponseTrailer(&trailer))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "request header", res.GetSeen().GetHeaders()["X-Question"], "q")
			same(t, "procedure", res.GetSeen().GetProcedure(), "/lab.v1.RecorderService/Inspect")
			same(t, "response header", header.Get("X-Answer"), "h")
			same(t, "response trailer", trailer.Get("X-Last"), "t")
			protocols := map[string]string{"in process": "", "gRPC": "grpc"}
			wantProtocol, ok := protocols[b.way]
			if !ok {
				wantProtocol = "connect"
			}
			same(t, "protocol", res.GetSeen().GetProtocol(), wantProtocol)
			same(t, "peer", res.GetSeen().GetHasPeer(), b.remote)
		})
		t.Run("headers and trailers of a stream", func(t *testing.T) {
			var header, trailer http.Header
			stream, err := b.recorder(t).Tail(t.Context(), &labv1.TailRequest{
				Texts: []string{"a"}, Headers: map[string]string{"X-Answer": "h"}, Trailers: map[string]string{"X-Last": "t"},
			}, durable.WithResponseHeader(&header), durable.WithResponseTrailer(&trailer))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Receive(); err != nil {
				t.Fatal(err)
			}
			same(t, "response header", header.Get("X-Answer"), "h")
			_, err = stream.Receive()
			same(t, "end", errors.Is(err, io.EOF), true)
			same(t, "response trailer", trailer.Get("X-Last"), "t")
		})
		t.Run("headers of an error", func(t *testing.T) {
			var header http.Header
			r := b.recorder(t)
			_, err := r.Misbehave(t.Context(), &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Fail{Fail: &labv1.Failure{Code: int32(connect.CodeNotFound)}}},
				durable.WithResponseHeader(&header))
			want{code: connect.CodeNotFound}.check(t, err, r)
		})
	})
}

func TestErrors(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		misbehave := func(t *testing.T, req *labv1.MisbehaveRequest) (labv1durable.RecorderStub, error) {
			t.Helper()
			r := b.recorder(t)
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "before"}); err != nil {
				t.Fatal(err)
			}
			req.Text = "written"
			_, err := r.Misbehave(t.Context(), req)
			return r, err
		}
		failing := func(f *labv1.Failure) *labv1.MisbehaveRequest {
			return &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Fail{Fail: f}}
		}
		t.Run("ERR-01 ERR-03 an error without a code", func(t *testing.T) {
			r, err := misbehave(t, failing(&labv1.Failure{Message: "no such seat"}))
			want{code: connect.CodeUnknown, message: "no such seat", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			same(t, "texts", texts(t, r), []string{"before"})
		})
		for code := connect.CodeCanceled; code <= connect.CodeUnauthenticated; code++ {
			t.Run("ERR-01 a coded error, "+code.String(), func(t *testing.T) {
				r, err := misbehave(t, failing(&labv1.Failure{Code: int32(code), Message: "é%\n" + code.String()}))
				want{code: code, message: "é%\n" + code.String(), info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			})
		}
		t.Run("ERR-02 GO-07 ERR-05 a panic tells nothing", func(t *testing.T) {
			r, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Panic{Panic: "secret"}})
			want{code: connect.CodeInternal, message: "the handler panicked", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true,
			}}.check(t, err, r)
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), ".go:") {
				t.Errorf("the caller learns what the panic was: %v", err)
			}
			same(t, "texts", texts(t, r), []string{"before"})
		})
		t.Run("ERR-04 details pass", func(t *testing.T) {
			_, err := misbehave(t, failing(&labv1.Failure{Code: int32(connect.CodeNotFound), Message: "x", Details: []string{"one", "two"}}))
			same(t, "details", details(err), []string{"one", "two"})
		})
		t.Run("ERR-17 a made-up ErrorInfo does not", func(t *testing.T) {
			r, err := misbehave(t, failing(&labv1.Failure{Code: int32(connect.CodeNotFound), Message: "x", Details: []string{"one"}, Spoof: true}))
			want{code: connect.CodeNotFound, info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			same(t, "infos", infos(err), 1)
			same(t, "details", details(err), []string{"one"})
		})
		t.Run("ERR-08 ABRT-01 an abort", func(t *testing.T) {
			r, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Abort{Abort: "config changed"}})
			want{code: connect.CodeAborted, message: "config changed", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
			}}.check(t, err, r)
			same(t, "texts", texts(t, r), []string{"before"})
		})
		t.Run("ABRT-03 an abort without a reason", func(t *testing.T) {
			r, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Abort{}})
			want{code: connect.CodeAborted, message: "the object asked to be reset"}.check(t, err, r)
		})
		t.Run("ERR-14 GO-06 Keep commits and fails", func(t *testing.T) {
			r, err := misbehave(t, failing(&labv1.Failure{Code: int32(connect.CodeNotFound), Message: "x", Keep: true, Details: []string{"one"}}))
			want{code: connect.CodeNotFound, message: "x", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			same(t, "details", details(err), []string{"one"})
			same(t, "texts", texts(t, r), []string{"before", "written"})
		})
		t.Run("ERR-14 Keep without a code", func(t *testing.T) {
			r, err := misbehave(t, failing(&labv1.Failure{Message: "x", Keep: true}))
			want{code: connect.CodeUnknown, message: "x", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			same(t, "texts", texts(t, r), []string{"before", "written"})
		})
		t.Run("ERR-15 GO-06 an error without writes drops nothing", func(t *testing.T) {
			r := b.recorder(t)
			first := inspect(t, r).GetActivation()
			_, err := r.Misbehave(t.Context(), failing(&labv1.Failure{Message: "x"}))
			want{code: connect.CodeUnknown}.check(t, err, r)
			same(t, "activation", inspect(t, r).GetActivation(), first)
		})
		t.Run("ERR-15 GO-06 an error after a write drops the activation", func(t *testing.T) {
			r := b.recorder(t)
			first := inspect(t, r).GetActivation()
			_, err := r.Misbehave(t.Context(), &labv1.MisbehaveRequest{Text: "x", Fault: &labv1.MisbehaveRequest_Fail{Fail: &labv1.Failure{Message: "x"}}})
			want{code: connect.CodeUnknown}.check(t, err, r)
			if inspect(t, r).GetActivation() == first {
				t.Error("memory runs ahead of storage")
			}
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "y"}); err != nil {
				t.Fatal(err)
			}
			same(t, "texts", texts(t, r), []string{"y"})
		})
		t.Run("ERR-01 neither response nor error", func(t *testing.T) {
			r, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Nothing{Nothing: true}})
			want{code: connect.CodeInternal, message: "the handler returned neither a response nor an error", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_MISUSE,
			}}.check(t, err, r)
		})
		t.Run("ERR-03 an error passed on tells where it is from", func(t *testing.T) {
			inner := b.recorder(t, "inner")
			name, _ := inner.Name()
			_, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Relay{Relay: &labv1.MisbehaveRequest{
				Name: name, Fault: &labv1.MisbehaveRequest_Fail{Fail: &labv1.Failure{Code: int32(connect.CodeNotFound), Message: "x", Details: []string{"one"}, Spoof: true}},
			}}})
			want{code: connect.CodeNotFound, message: "x", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, inner)
			same(t, "details", details(err), []string{"one"})
			same(t, "infos", infos(err), 1)
		})
		t.Run("ERR-03 so does one of a stream", func(t *testing.T) {
			inner := b.recorder(t, "inner")
			name, _ := inner.Name()
			_, err := misbehave(t, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_RelayStream{RelayStream: &labv1.MisbehaveRequest{
				Name: name, Fault: &labv1.MisbehaveRequest_Panic{Panic: "now"},
			}}})
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true,
			}}.check(t, err, inner)
			same(t, "infos", infos(err), 1)
		})
		t.Run("ERR-04 ERR-17 an error ends a stream", func(t *testing.T) {
			r := b.recorder(t)
			stream, err := r.Tail(t.Context(), &labv1.TailRequest{Texts: []string{"a"}, Fail: &labv1.Failure{
				Code: int32(connect.CodeNotFound), Message: "x", Details: []string{"one"}, Spoof: true,
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if _, err := stream.Receive(); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Receive()
			want{code: connect.CodeNotFound, message: "x", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, r)
			same(t, "details", details(err), []string{"one"})
			same(t, "texts", texts(t, r), []string{"a"}) // the turns were committed
		})
		t.Run("GO-07 a panic ends a stream", func(t *testing.T) {
			r := b.recorder(t)
			stream, err := r.Tail(t.Context(), &labv1.TailRequest{Panic: true})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			_, err = stream.Receive()
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true,
			}}.check(t, err, r)
		})
	})
}

func details(err error) []string {
	var out []string
	var coded *connect.Error
	if errors.As(err, &coded) {
		for _, d := range coded.Details() {
			msg, err := connectproto.UnmarshalErrorDetail(d)
			if text, ok := msg.(interface{ GetValue() string }); ok && err == nil {
				out = append(out, text.GetValue())
			}
		}
	}
	return out
}

func infos(err error) int {
	n := 0
	var coded *connect.Error
	if errors.As(err, &coded) {
		for _, d := range coded.Details() {
			if d.Type == "durable.v1.ErrorInfo" {
				n++
			}
		}
	}
	return n
}

func TestCallsInBubble(t *testing.T) {
	t.Parallel()
	hang := func(f *faulty, ctx context.Context) *going[*labv1.MisbehaveResponse] {
		return begin(func() (*labv1.MisbehaveResponse, error) {
			return f.recorder("a").Misbehave(ctx, &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Hang{Hang: true}})
		})
	}
	inBubble(t, "GO-12 a running call whose caller leaves", func(t *testing.T, f *faulty) {
		ctx, cancel := context.WithCancel(t.Context())
		call := hang(f, ctx)
		synctest.Wait()
		cancel()
		if !call.over() {
			t.Error("the caller still waits")
		}
		same(t, "code", connect.CodeOf(call.err), connect.CodeCanceled)
		if _, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{}); err != nil {
			t.Errorf("the next call: %v", err)
		}
	})
	inBubble(t, "GO-09 a handler has 30 s", func(t *testing.T, f *faulty) {
		started := time.Now()
		call := hang(f, t.Context())
		<-call.done
		same(t, "code", connect.CodeOf(call.err), connect.CodeDeadlineExceeded)
		same(t, "time", time.Since(started), 30*time.Second)
	})
	inBubble(t, "GO-12 the deadline of the caller counts", func(t *testing.T, f *faulty) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		call := hang(f, ctx)
		<-call.done
		same(t, "code", connect.CodeOf(call.err), connect.CodeDeadlineExceeded)
	})
	inBubble(t, "ERR-08 an abort fails the calls that wait", func(t *testing.T, f *faulty) {
		r := f.recorder("a")
		slow := begin(func() ([]*labv1.Result, error) {
			return f.kv(t, "a").try(&labv1.Step{Do: &labv1.Step_SleepMs{SleepMs: 1000}}, &labv1.Step{Do: &labv1.Step_Abort{Abort: "enough"}})
		})
		synctest.Wait()
		waiting := begin(func() ([]*labv1.Result, error) { return f.kv(t, "a").try(put("a", "1")) })
		<-slow.done
		<-waiting.done
		_ = r
		for _, err := range []error{slow.err, waiting.err} {
			want{code: connect.CodeAborted, message: "enough", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
			}}.check(t, err, f.kv(t, "a"))
		}
		same(t, "pairs", f.kv(t, "a").pairs(), []string{})
	})
	inBubble(t, "ERR-06 a server that drains", func(t *testing.T, f *faulty) {
		stream, err := f.recorder("a").Tail(t.Context(), &labv1.TailRequest{Texts: []string{"a"}, Hang: true})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
		if err := f.srv.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		_, err = stream.Receive()
		want{code: connect.CodeUnavailable}.check(t, err, f.recorder("a"))
		_, err = f.recorder("a").Append(t.Context(), &labv1.AppendRequest{})
		want{code: connect.CodeUnavailable, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING, Retryable: true,
		}}.check(t, err, f.recorder("a"))
	})
	inBubble(t, "ERR-06 a stream that waits for its caller when the server drains", func(t *testing.T, f *faulty) {
		chat, err := f.recorder("a").Chat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer chat.Close()
		if err := chat.Send(&labv1.ChatRequest{Text: "kept"}); err != nil {
			t.Fatal(err)
		}
		if _, err := chat.Receive(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := f.srv.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		_, err = chat.Receive()
		want{code: connect.CodeUnavailable, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING,
		}}.check(t, err, f.recorder("a"))
	})
	inBubble(t, "ERR-06 what had effects is not called safe to retry", func(t *testing.T, f *faulty) {
		// The inner call was refused, but the outer one wrote before it.
		blocked := begin(func() ([]*labv1.Result, error) {
			return f.kv(t, "inner").try(&labv1.Step{Do: &labv1.Step_SleepMs{SleepMs: 10_000}})
		})
		synctest.Wait()
		_, err := f.kv(t, "outer").try(put("a", "1"), callOther("inner", put("a", "1")))
		want{code: connect.CodeResourceExhausted}.check(t, err, f.kv(t, "inner"))
		if info := errorInfo(err); info.GetRetryable() {
			t.Errorf("the call had effects, and its error says that it had none: %v", info)
		}
		same(t, "pairs", f.kv(t, "outer").pairs(), []string{"a=1"})
		<-blocked.done
	}, durable.WithLimits(durable.Limits{MaxQueueWait: time.Second}))
	inBubble(t, "ERR-16 a constructor that fails", func(t *testing.T, f *faulty) {
		f.lab.Constructor = func(ctx context.Context, tx durable.Tx) error {
			time.Sleep(time.Second)
			if f.lab.Constructed.Load() > 1 {
				return nil
			}
			if err := tx.KV().Put(ctx, "left over", []byte{}); err != nil {
				return err
			}
			return connect.NewError(connect.CodeFailedPrecondition, "no schema")
		}
		var calls []*going[*labv1.AppendResponse]
		for range 3 {
			calls = append(calls, begin(func() (*labv1.AppendResponse, error) {
				return f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "x"})
			}))
		}
		for _, call := range calls {
			<-call.done
			want{code: connect.CodeFailedPrecondition, message: "the constructor of the object failed: no schema", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, Remote: true, ObjectReset: true,
			}}.check(t, call.err, f.recorder("a"))
		}
		if _, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "y"}); err != nil {
			t.Errorf("the next call: %v", err)
		}
		same(t, "texts", texts(t, f.recorder("a")), []string{"y"})
	})
	inBubble(t, "BCW-06 a constructor that takes too long", func(t *testing.T, f *faulty) {
		f.lab.Constructor = func(ctx context.Context, _ durable.Tx) error {
			<-ctx.Done()
			return ctx.Err()
		}
		started := time.Now()
		_, err := f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "x"})
		same(t, "time", time.Since(started), 30*time.Second)
		if info := errorInfo(err); info.GetReason() != durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED {
			t.Errorf("reason %v: %v", info.GetReason(), err)
		}
	})
	inBubble(t, "STUB-22 calls that yield finish in another order", func(t *testing.T, f *faulty) {
		slow := begin(func() (*labv1.AppendResponse, error) {
			return f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "slow", SleepMs: 1000, Await: true})
		})
		synctest.Wait()
		quick := begin(func() (*labv1.AppendResponse, error) {
			return f.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "quick"})
		})
		if !quick.over() {
			t.Error("the quick call waits for the one that sleeps outside its turn")
		}
		<-slow.done
		same(t, "texts", texts(t, f.recorder("a")), []string{"quick", "slow"})
	})
	inBubble(t, "GO-12 a stream whose caller leaves", func(t *testing.T, f *faulty) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tail, err := f.recorder("a").Tail(ctx, &labv1.TailRequest{Texts: []string{"a"}, Hang: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		if _, err := tail.Receive(); err != nil {
			t.Fatal(err)
		}
		chat, err := f.recorder("b").Chat(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer chat.Close()
		if err := chat.Send(&labv1.ChatRequest{Text: "a"}); err != nil {
			t.Fatal(err)
		}
		if _, err := chat.Receive(); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		_, err = tail.Receive()
		want{code: connect.CodeCanceled}.check(t, err, f.recorder("a"))
		if err := chat.Send(&labv1.ChatRequest{Text: "b"}); err == nil {
			t.Error("a message was sent")
		}
		_, err = chat.Receive()
		want{code: connect.CodeCanceled}.check(t, err, f.recorder("b"))
		synctest.Wait()
		if err := f.srv.Drain(t.Context()); err != nil {
			t.Errorf("a handler goes on: %v", err)
		}
	})
	inBubble(t, "GO-12 a stream that meets its deadline", func(t *testing.T, f *faulty) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tail, err := f.recorder("a").Tail(ctx, &labv1.TailRequest{Texts: []string{"a"}, Hang: true})
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		if _, err := tail.Receive(); err != nil {
			t.Fatal(err)
		}
		_, err = tail.Receive()
		want{code: connect.CodeDeadlineExceeded}.check(t, err, f.recorder("a"))
	})
	inBubble(t, "a message after the server ended the stream", func(t *testing.T, f *faulty) {
		stream, err := f.recorder("a").Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // the handler ends at the second
			if err := stream.Send(&labv1.CollectRequest{Text: strings.Repeat("x", 3<<20)}); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("send: %v", err)
			}
			synctest.Wait()
		}
		_, err = stream.CloseAndReceive()
		want{code: connect.CodeResourceExhausted}.check(t, err, f.recorder("a"))
	})
	inBubble(t, "STUB-18 a stream that is abandoned", func(t *testing.T, f *faulty) {
		stream, err := f.recorder("a").Tail(t.Context(), &labv1.TailRequest{Texts: []string{"a"}, Hang: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
		if err := stream.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		synctest.Wait()
		if err := f.srv.Drain(t.Context()); err != nil {
			t.Errorf("the handler goes on: %v", err)
		}
	})
	inBubble(t, "STUB-25 a stream whose object was reset", func(t *testing.T, f *faulty) {
		stream, err := f.recorder("a").Chat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		say := func(text string) error {
			if err := stream.Send(&labv1.ChatRequest{Text: text}); err != nil {
				return err
			}
			_, err := stream.Receive()
			return err
		}
		if err := say("a"); err != nil {
			t.Fatal(err)
		}
		_, err = f.recorder("a").Misbehave(t.Context(), &labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Abort{Abort: "enough"}})
		want{code: connect.CodeAborted}.check(t, err, f.recorder("a"))
		want{code: connect.CodeAborted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
		}}.check(t, say("b"), f.recorder("a"))
		same(t, "texts", texts(t, f.recorder("a")), []string{"a"})
	})
	inBubble(t, "STUB-26 calls from a handler keep their order", func(t *testing.T, f *faulty) {
		f.kv(t, "a").do(put("x", "1"), callOther("b", put("n", "1")), callOther("b", put("n", "2")), callOther("b", put("n", "3")))
		same(t, "pairs", f.kv(t, "b").pairs(), []string{"n=3"})
	})
}
