package durableconnect_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// A network answers requests as told, and notes what it was asked and when. Its
// last answer goes on.
type network struct {
	answers []answer
	takes   time.Duration // each request

	begun  time.Time
	at     []time.Duration // since the first
	keys   []string
	bodies []string
}

type answer func(*http.Request) (*http.Response, error)

// Do implements [connecthttp.HTTPClient].
func (n *network) Do(req *http.Request) (*http.Response, error) {
	if len(n.at) == 0 {
		n.begun = time.Now()
	}
	n.at = append(n.at, time.Since(n.begun))
	n.keys = append(n.keys, req.Header.Get("Idempotency-Key"))
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	n.bodies = append(n.bodies, string(body))
	if n.takes > 0 {
		select {
		case <-time.After(n.takes):
		case <-req.Context().Done():
			return nil, &url.Error{Op: "Post", URL: req.URL.String(), Err: req.Context().Err()}
		}
	}
	next := n.answers[0]
	if len(n.answers) > 1 {
		n.answers = n.answers[1:]
	}
	return next(req)
}

// plain is a method that may do anything.
var plain = durable.MethodSpec{Procedure: "/a.B/C"}

// call makes a call of a method and returns what came of it.
func (n *network) call(ctx context.Context, method durable.MethodSpec, opts ...durable.CallOption) (string, error) {
	return n.callWith(ctx, method, wrapperspb.String("request"), opts...)
}

func (n *network) callWith(ctx context.Context, method durable.MethodSpec, req proto.Message, opts ...durable.CallOption) (string, error) {
	conn := durableconnect.New(n, "http://bubble")
	res, err := durable.CallUnary[wrapperspb.StringValue](ctx, durable.RefByName(conn, "a", "b"), method, req, opts)
	return res.GetValue(), err
}

func respond(status int, contentType string, body []byte) answer {
	return func(req *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status),
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header:  http.Header{"Content-Type": {contentType}, "X-Status": {strconv.Itoa(status)}},
			Body:    io.NopCloser(bytes.NewReader(body)),
			Request: req,
		}, nil
	}
}

// reply is a response.
func reply(text string) answer {
	b, err := proto.Marshal(wrapperspb.String(text))
	if err != nil {
		panic(err)
	}
	return respond(http.StatusOK, "application/proto", b)
}

// refuse is an error of the server, with what the runtime says of it, if
// anything.
func refuse(code connect.Code, info *durablev1.ErrorInfo) answer {
	details := ""
	if info != nil {
		b, err := proto.Marshal(info)
		if err != nil {
			panic(err)
		}
		details = fmt.Sprintf(`{"type":"durable.v1.ErrorInfo","value":%q}`, base64.RawStdEncoding.EncodeToString(b))
	}
	return respond(http.StatusServiceUnavailable, "application/json",
		fmt.Appendf(nil, `{"code":%q,"message":"refused","details":[%s]}`, code, details))
}

// fail is a failure of the network, as package http tells it.
func fail(err error) answer {
	return func(req *http.Request) (*http.Response, error) {
		return nil, &url.Error{Op: "Post", URL: req.URL.String(), Err: err}
	}
}

// breakOff is a response that breaks off.
func breakOff(err error) answer {
	return func(req *http.Request) (*http.Response, error) {
		res, rerr := reply("half a response")(req)
		res.Body = io.NopCloser(io.MultiReader(io.LimitReader(res.Body, 3), failing{err}))
		return res, rerr
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

var (
	draining   = refuse(connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING, Retryable: true})
	inProgress = refuse(connect.CodeUnavailable, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_IN_PROGRESS, Retryable: true})
	refused    = fail(&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	cutOff     = fail(&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET})
)

// TestRetry tells which calls are made again: in each case a call that goes
// wrong the first time and would succeed the second.
func TestRetry(t *testing.T) {
	readOnly := durable.MethodSpec{Procedure: "/a.B/C", ReadOnly: true}
	idempotent := durable.MethodSpec{Procedure: "/a.B/C", Idempotent: true}
	keyed := []durable.CallOption{durable.WithIdempotencyKey("k")}
	type way struct {
		name   string
		method durable.MethodSpec
		opts   []durable.CallOption
		req    proto.Message
	}
	unsafe := []way{
		{name: "may do anything", method: plain},
		{name: "an empty key in the field", method: plain, req: withKeyField(t, "")},
	}
	safe := []way{
		{name: "RETRY-02 key", method: plain, opts: keyed},
		{name: "RETRY-02 key in the field", method: plain, req: withKeyField(t, "k")},
		{name: "RETRY-03 idempotent", method: idempotent},
		{name: "only reads", method: readOnly},
	}
	all := slices.Concat(unsafe, safe)
	for _, c := range []struct {
		name   string
		answer answer
		again  []way
		never  []way
	}{
		{name: "RETRY-01 draining", answer: draining, again: all},
		{name: "RETRY-01 a call with the key is under way", answer: inProgress, again: all},
		{name: "RETRY-01 the connection is refused", answer: refused, again: all},
		{name: "RETRY-01 no name", answer: fail(&net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "bubble"}}), again: all},
		{name: "RETRY-01 connecting took too long", answer: fail(&net.OpError{Op: "dial", Net: "tcp", Err: timeout{}}), again: all},
		{name: "RETRY-01 no connection to the proxy", answer: fail(&net.OpError{Op: "proxyconnect", Net: "tcp", Err: syscall.ECONNREFUSED}), again: all},

		{name: "RETRY-02 reset by peer", answer: cutOff, again: safe, never: unsafe},
		{name: "RETRY-02 broken pipe", answer: fail(&net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}), again: safe, never: unsafe},
		{name: "RETRY-02 closed", answer: fail(io.EOF), again: safe, never: unsafe},
		{name: "RETRY-02 HTTP/2 connection lost", answer: fail(errors.New("http2: client connection lost")), again: safe, never: unsafe},
		{name: "RETRY-02 HTTP/2 stream refused", answer: fail(errors.New("stream error: stream ID 1; REFUSED_STREAM; received from peer")), again: safe, never: unsafe},
		{name: "RETRY-02 HTTP/2 stream broken", answer: fail(errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer")), again: safe, never: unsafe},
		{name: "RETRY-02 half a response", answer: breakOff(io.ErrUnexpectedEOF), again: safe, never: unsafe},
		{name: "RETRY-02 half a response, reset", answer: breakOff(&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}), again: safe, never: unsafe},
		{name: "RETRY-02 unavailable, says somebody", answer: refuse(connect.CodeUnavailable, nil), again: safe, never: unsafe},
		{name: "RETRY-02 a gateway's page", answer: respond(http.StatusBadGateway, "text/html", []byte("<p>")), again: safe, never: unsafe},

		{name: "RETRY-04 the handler's unavailable", answer: refuse(connect.CodeUnavailable, &durablev1.ErrorInfo{Remote: true}), never: all},
		{name: "RETRY-04 the handler's error", answer: refuse(connect.CodeNotFound, &durablev1.ErrorInfo{Remote: true}), never: all},
		{name: "RETRY-04 reset", answer: refuse(connect.CodeAborted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true}), never: all},
		{name: "RETRY-04 commit failed", answer: refuse(connect.CodeInternal, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED, OutcomeUnknown: true}), never: all},
		{name: "RETRY-04 overloaded", answer: refuse(connect.CodeResourceExhausted, &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, Overloaded: true, Retryable: true}), never: all},
		{name: "RETRY-04 overloaded and unavailable", answer: refuse(connect.CodeUnavailable, &durablev1.ErrorInfo{Overloaded: true, Retryable: true}), never: all},
		{name: "RETRY-04 an error without more", answer: refuse(connect.CodeInternal, nil), never: all},
		{name: "RETRY-04 cancelled, says somebody", answer: refuse(connect.CodeCanceled, nil), never: all},
		{name: "RETRY-04 page 500", answer: respond(http.StatusInternalServerError, "text/html", []byte("<p>")), never: all},
		{name: "RETRY-04 page 404", answer: respond(http.StatusNotFound, "text/html", []byte("<p>")), never: all},
		{name: "RETRY-04 page 429", answer: respond(http.StatusTooManyRequests, "text/html", []byte("<p>")), never: all},
		{name: "RETRY-04 a response that is none", answer: respond(http.StatusOK, "application/proto", []byte{0xff}), never: all},
		{name: "RETRY-04 no RPC", answer: respond(http.StatusOK, "text/html", []byte("<p>")), never: all},
	} {
		run := func(w way, attempts int) {
			t.Run(c.name+"/"+w.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := &network{answers: []answer{c.answer, reply("ok")}}
					req := w.req
					if req == nil {
						req = wrapperspb.String("request")
					}
					got, err := n.callWith(t.Context(), w.method, req, w.opts...)
					if len(n.at) != attempts {
						t.Fatalf("%d attempts, want %d: %v", len(n.at), attempts, err)
					}
					if attempts == 1 {
						if err == nil {
							t.Errorf("the call succeeded: %q", got)
						}
						return
					}
					if err != nil || got != "ok" {
						t.Errorf("response %q, error %v", got, err)
					}
					if n.bodies[0] != n.bodies[1] || n.keys[0] != n.keys[1] {
						t.Errorf("another request: %q and %q, keys %q", n.bodies[0], n.bodies[1], n.keys)
					}
				})
			})
		}
		for _, w := range c.again {
			run(w, 2)
		}
		for _, w := range c.never {
			run(w, 1)
		}
	}
}

// A timeout is the error of a deadline.
type timeout struct{}

func (timeout) Error() string        { return "i/o timeout" }
func (timeout) Timeout() bool        { return true }
func (timeout) Temporary() bool      { return true }
func (timeout) Is(target error) bool { return target == context.DeadlineExceeded }

// withKeyField returns a request with a field for the idempotency key.
func withKeyField(t *testing.T, key string) proto.Message {
	t.Helper()
	opts := &descriptorpb.FieldOptions{}
	proto.SetExtension(opts, durablev1.E_Field, &durablev1.FieldOptions{IdempotencyKey: true})
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("keyed.proto"), Package: proto.String("keyed"), Syntax: proto.String("proto3"),
		Dependency: []string{"durable/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Request"),
			Field: []*descriptorpb.FieldDescriptorProto{
				{
					Name: proto.String("request_id"), Number: proto.Int32(1), Options: opts,
					Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
				},
			},
		}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	msg := dynamicpb.NewMessage(file.Messages().Get(0))
	msg.Set(msg.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(key))
	return msg
}

// TestRetryTimes is RETRY-05 and RETRY-08.
func TestRetryTimes(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		policy   durable.RetryPolicy
		takes    time.Duration
		deadline time.Duration
		longest  []time.Duration // the pauses before each retry, at most
	}{
		{name: "default", longest: []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms}},
		{name: "two attempts", policy: durable.RetryPolicy{MaxAttempts: 2}, longest: []time.Duration{100 * ms}},
		{name: "one attempt", policy: durable.RetryPolicy{MaxAttempts: 1}},
		{name: "capped", policy: durable.RetryPolicy{FirstDelay: 10 * ms, MaxDelay: 30 * ms}, longest: []time.Duration{10 * ms, 20 * ms, 30 * ms, 30 * ms}},
		{name: "none starts after the window", takes: 4 * time.Second, longest: []time.Duration{100 * ms, 200 * ms}},
		{name: "the first takes longer than the window", takes: 11 * time.Second},
		{name: "none starts after a window of its own", policy: durable.RetryPolicy{Window: time.Second}, takes: 600 * ms, longest: []time.Duration{100 * ms}},
		{name: "none starts at the deadline", deadline: 140 * ms, longest: []time.Duration{100 * ms}},
		{name: "nor waits for it", policy: durable.RetryPolicy{FirstDelay: 5 * time.Second}, deadline: 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 20 {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					if c.deadline > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, c.deadline)
						defer cancel()
					}
					n := &network{answers: []answer{draining}, takes: c.takes}
					began := time.Now()
					_, err := n.call(ctx, plain, durable.WithRetry(c.policy))
					if !durableconnect.ErrorInfo(err).GetRetryable() {
						t.Errorf("error %v, want that of the last attempt", err)
					}
					if len(n.at) != 1+len(c.longest) {
						t.Fatalf("attempts at %v, want %d", n.at, 1+len(c.longest))
					}
					for i, longest := range c.longest {
						if pause := n.at[i+1] - n.at[i] - c.takes; pause < longest-longest/2 || pause > longest {
							t.Errorf("a pause of %v before retry %d, want at most %v and at least half of it", pause, i+1, longest)
						}
					}
					if ended := time.Since(began); ended != n.at[len(n.at)-1]+c.takes {
						t.Errorf("the call ended at %v, the last attempt began at %v", ended, n.at[len(n.at)-1])
					}
				})
			}
		})
	}
}

// TestRetryEndsWithItsContext: a pause ends with the context, and the error is
// that of the last attempt.
func TestRetryEndsWithItsContext(t *testing.T) {
	for name, c := range map[string]struct {
		cancel time.Duration
		want   connect.Code
		at     int
	}{
		"in a pause":    {70 * time.Millisecond, connect.CodeUnavailable, 1},
		"in an attempt": {20 * time.Millisecond, connect.CodeCanceled, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(c.cancel, cancel)
				n := &network{answers: []answer{cutOff}, takes: 50 * time.Millisecond}
				if name == "in a pause" {
					n.answers = []answer{draining}
				}
				began := time.Now()
				_, err := n.call(ctx, plain, durable.IdempotencyKey())
				if connect.CodeOf(err) != c.want || len(n.at) != c.at {
					t.Errorf("%d attempts, error %v, want %v", len(n.at), err, c.want)
				}
				if ended := time.Since(began); ended != c.cancel {
					t.Errorf("the call ended after %v, the context after %v", ended, c.cancel)
				}
			})
		})
	}
}

// TestRetryIsTheSameCall is RETRY-06: every attempt has the same random key, and
// the caller gets the response and the headers of the last one alone.
func TestRetryIsTheSameCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: []answer{breakOff(io.ErrUnexpectedEOF), cutOff, inProgress, draining, reply("ok")}}
		var header http.Header
		got, err := n.call(t.Context(), plain, durable.IdempotencyKey(), durable.WithResponseHeader(&header))
		if err != nil || got != "ok" {
			t.Fatalf("response %q, error %v", got, err)
		}
		if len(n.keys) != 5 || n.keys[0] == "" || len(slices.Compact(n.keys)) != 1 {
			t.Errorf("keys %q", n.keys)
		}
		if diff := header.Values("X-Status"); len(diff) != 1 || diff[0] != "200" {
			t.Errorf("header %v", header)
		}
	})
	t.Run("the response is that of the last attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &network{}
			first := func(req *http.Request) (*http.Response, error) {
				// A whole message, and then the stream breaks.
				res, err := respond(http.StatusOK, "application/grpc", frame(t, wrapperspb.Bytes([]byte("first"))))(req)
				res.Body = io.NopCloser(io.MultiReader(res.Body, failing{io.ErrUnexpectedEOF}))
				return res, err
			}
			second := func(req *http.Request) (*http.Response, error) {
				res, err := respond(http.StatusOK, "application/grpc", frame(t, &wrapperspb.BytesValue{}))(req)
				res.Trailer = http.Header{"Grpc-Status": {"0"}}
				return res, err
			}
			n.answers = []answer{first, second}
			conn := durableconnect.New(n, "http://bubble", connecthttp.WithGRPC())
			res := &wrapperspb.BytesValue{}
			call := &durable.Call{Method: durable.MethodSpec{Procedure: "/a.B/C", ReadOnly: true}, Object: durable.RefByName(conn, "a", "b")}
			if err := conn.CallUnary(t.Context(), call, wrapperspb.String("x"), res); err != nil {
				t.Fatal(err)
			}
			if len(n.at) != 2 || len(res.GetValue()) > 0 {
				t.Errorf("%d attempts, response %q", len(n.at), res.GetValue())
			}
		})
	})
}

// frame is a message as gRPC sends it.
func frame(t *testing.T, msg proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{0, 0, 0, 0, byte(len(b))}, b...)
}

// TestRetryOfStreams is RETRY-07: a stream of responses of a method that only
// reads is opened again before its first message, and no other stream is.
func TestRetryOfStreams(t *testing.T) {
	message := frame(t, wrapperspb.String("first"))
	end := append([]byte{2, 0, 0, 0, 2}, "{}"...) // of a stream in Connect's protocol
	whole := respond(http.StatusOK, "application/connect+proto", slices.Concat(message, end))
	half := func(req *http.Request) (*http.Response, error) {
		res, err := respond(http.StatusOK, "application/connect+proto", message)(req)
		res.Body = io.NopCloser(io.MultiReader(res.Body, failing{&net.OpError{Op: "read", Err: syscall.ECONNRESET}}))
		return res, err
	}
	nothing := func(req *http.Request) (*http.Response, error) {
		res, err := half(req)
		res.Body = io.NopCloser(failing{&net.OpError{Op: "read", Err: syscall.ECONNRESET}})
		return res, err
	}
	reading := durable.MethodSpec{Procedure: "/a.B/C", ReadOnly: true}
	for _, c := range []struct {
		name     string
		method   durable.MethodSpec
		answers  []answer
		opts     []durable.CallOption
		attempts int
		messages int
		fails    bool
	}{
		{name: "all is well", method: reading, answers: []answer{whole}, attempts: 1, messages: 1},
		{name: "no connection", method: reading, answers: []answer{refused, refused, whole}, attempts: 3, messages: 1},
		{name: "reset before the first message", method: reading, answers: []answer{nothing, whole}, attempts: 2, messages: 1},
		{name: "five attempts", method: reading, answers: []answer{refused}, attempts: 5, fails: true},
		{name: "reset after the first message", method: reading, answers: []answer{half, whole}, attempts: 1, messages: 1, fails: true},
		{name: "not wanted", method: reading, opts: []durable.CallOption{durable.WithoutRetry()}, answers: []answer{refused, whole}, attempts: 1, fails: true},
		{name: "may write", method: plain, answers: []answer{refused, whole}, attempts: 1, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answers: c.answers}
				ref := durable.RefByName(durableconnect.New(n, "http://bubble"), "a", "b")
				req := wrapperspb.String("request")
				stream, err := durable.CallServerStream[wrapperspb.StringValue](t.Context(), ref, c.method, req, c.opts)
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				req.Value = "the caller's again"
				messages := 0
				for msg, rerr := range stream.All() {
					if err = rerr; err == nil {
						messages++
						if msg.GetValue() != "first" {
							t.Errorf("message %v", msg)
						}
					}
				}
				if len(n.at) != c.attempts || messages != c.messages || (err != nil) != c.fails {
					t.Errorf("%d attempts, %d messages, error %v", len(n.at), messages, err)
				}
				if len(slices.Compact(n.bodies)) != 1 {
					t.Errorf("requests %q", n.bodies)
				}
			})
		})
	}
	t.Run("closed in a pause", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &network{answers: []answer{refused}}
			ref := durable.RefByName(durableconnect.New(n, "http://bubble"), "a", "b")
			began := time.Now()
			stream, err := durable.CallServerStream[wrapperspb.StringValue](t.Context(), ref, reading, wrapperspb.String("x"), nil)
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(20*time.Millisecond, func() { _ = stream.Close() })
			_, err = stream.Receive()
			if connect.CodeOf(err) != connect.CodeUnavailable || len(n.at) != 1 || time.Since(began) != 20*time.Millisecond {
				t.Errorf("%d attempts, error %v after %v", len(n.at), err, time.Since(began))
			}
		})
	})
}
