package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// onceFile declares an object whose requests may have an idempotency key in a
// field.
func onceFile(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	service, key, requestID := &descriptorpb.ServiceOptions{}, &descriptorpb.FieldOptions{}, &descriptorpb.FieldOptions{}
	proto.SetExtension(service, durablev1.E_Service, &durablev1.ServiceOptions{Object: &durablev1.ObjectOptions{Type: "once"}})
	proto.SetExtension(key, durablev1.E_Field, &durablev1.FieldOptions{Key: durablev1.KeyKind_KEY_KIND_NAME})
	proto.SetExtension(requestID, durablev1.E_Field, &durablev1.FieldOptions{IdempotencyKey: true})
	text := func(name string, number int32, opts *descriptorpb.FieldOptions) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: &name, Number: &number, JsonName: &name, Options: opts,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		}
	}
	method := func(name, request string, m *descriptorpb.MethodDescriptorProto) *descriptorpb.MethodDescriptorProto {
		m.Name, m.InputType, m.OutputType = &name, proto.String(".once.v1."+request), proto.String(".once.v1.Reply")
		return m
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("once.proto"), Package: proto.String("once.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"durable/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("Request"), Field: []*descriptorpb.FieldDescriptorProto{text("name", 1, key), text("request_id", 2, requestID), text("text", 3, nil)}},
			{Name: proto.String("Bare"), Field: []*descriptorpb.FieldDescriptorProto{text("name", 1, key), text("text", 3, nil)}},
			{Name: proto.String("Reply"), Field: []*descriptorpb.FieldDescriptorProto{text("text", 1, nil)}},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("OnceService"), Options: service,
			Method: []*descriptorpb.MethodDescriptorProto{
				method("Do", "Request", &descriptorpb.MethodDescriptorProto{}),
				method("DoAgain", "Request", &descriptorpb.MethodDescriptorProto{}),
				method("DoBare", "Bare", &descriptorpb.MethodDescriptorProto{}),
				method("Look", "Request", &descriptorpb.MethodDescriptorProto{Options: &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}}),
				method("Watch", "Request", &descriptorpb.MethodDescriptorProto{ServerStreaming: proto.Bool(true)}),
				method("Collect", "Request", &descriptorpb.MethodDescriptorProto{ClientStreaming: proto.Bool(true)}),
			},
		}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// An onceLab is a server with objects that do as they are told, and count how
// often.
type onceLab struct {
	*durabletest.Server
	file protoreflect.FileDescriptor
	runs atomic.Int64 // how often a handler ran
}

func startOnce(t *testing.T, opts ...durable.ObjectOption) *onceLab {
	t.Helper()
	t.Parallel()
	l := &onceLab{file: onceFile(t)}
	l.Server = durabletest.New(t, func(r durable.Registrar) error { return l.register(r, opts) })
	return l
}

const onceService = "/once.v1.OnceService/"

func (l *onceLab) register(r durable.Registrar, opts []durable.ObjectOption) error {
	service := l.file.Services().Get(0)
	part := func(name string, m durable.Method) durable.Part {
		desc := service.Methods().ByName(protoreflect.Name(name))
		m.Procedure = onceService + name
		m.NewRequest = func() proto.Message { return dynamicpb.NewMessage(desc.Input()) }
		m.NewResponse = func() proto.Message { return dynamicpb.NewMessage(desc.Output()) }
		return m
	}
	do := func(ctx context.Context, _ any, tx durable.Tx, req proto.Message) (proto.Message, error) {
		return l.do(ctx, tx, get(req, "text"))
	}
	return durable.Register(r, "once", service, func(context.Context, struct{ durable.Tx }) (any, error) { return l, nil }, opts,
		part("Do", durable.Method{Unary: do}),
		part("DoAgain", durable.Method{Unary: do}),
		part("DoBare", durable.Method{Unary: do}),
		part("Look", durable.Method{ReadOnly: true, UnaryView: func(context.Context, any, durable.View, proto.Message) (proto.Message, error) {
			return l.reply("looked"), nil
		}}),
		part("Watch", durable.Method{ServerStream: true, Streaming: func(_ context.Context, _ any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
			return nil, port.Send(l.reply("watched"))
		}}),
		part("Collect", durable.Method{ClientStream: true, Streaming: func(_ context.Context, _ any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
			for {
				err := port.Receive(dynamicpb.NewMessage(l.file.Messages().ByName("Request")))
				if errors.Is(err, io.EOF) {
					return l.reply("collected"), nil
				}
				if err != nil {
					return nil, err
				}
			}
		}}),
	)
}

func (l *onceLab) reply(text string) proto.Message {
	msg := dynamicpb.NewMessage(l.file.Messages().ByName("Reply"))
	set(msg, "text", text)
	return msg
}

func get(msg proto.Message, field protoreflect.Name) string {
	m := msg.ProtoReflect()
	return m.Get(m.Descriptor().Fields().ByName(field)).String()
}

func set(msg proto.Message, field protoreflect.Name, text string) {
	m := msg.ProtoReflect()
	if f := m.Descriptor().Fields().ByName(field); f != nil {
		m.Set(f, protoreflect.ValueOfString(text))
	}
}

// do adds one to a number and ends as text says, with a text of its own for each
// run, so that a replay is told from a run.
func (l *onceLab) do(ctx context.Context, tx durable.Tx, text string) (proto.Message, error) {
	run := l.runs.Add(1)
	info := durable.CallInfoFromContext(ctx)
	info.ResponseHeader().Add("X-Run", "h"+strconv.FormatInt(run, 10))
	info.ResponseHeader().Add("X-Run", "again")
	info.ResponseTrailer().Set("X-Trailing", "t"+strconv.FormatInt(run, 10))
	if err := tx.KV().Put(ctx, "n", fmt.Appendf(nil, "%s %d", text, run)); err != nil {
		return nil, err
	}
	said := fmt.Sprintf("%s in run %d", text, run)
	kind, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "coded":
		detail, err := connectproto.NewErrorDetail(wrapperspb.String(said))
		if err != nil {
			return nil, err
		}
		return nil, connect.NewError(connect.CodeNotFound, said).WithDetail(detail)
	case "uncoded":
		return nil, errors.New(said)
	case "odd":
		return nil, connect.NewError(connect.CodeInternal, said+" \xff é")
	case "kept":
		return nil, durable.Keep(connect.NewError(connect.CodeFailedPrecondition, said))
	case "kept-unavailable":
		return nil, durable.Keep(connect.NewError(connect.CodeUnavailable, said))
	case "unavailable":
		return nil, connect.NewError(connect.CodeUnavailable, said)
	case "timeout":
		return nil, fmt.Errorf("%s: %w", said, context.DeadlineExceeded)
	case "no-row":
		return nil, durable.ErrNoRow
	case "too-large":
		return nil, tx.KV().Put(ctx, strings.Repeat("k", 1<<20), nil)
	case "panic":
		panic(said)
	case "abort":
		tx.Abort(said)
	case "synced":
		if err := tx.Sync(ctx); err != nil {
			return nil, err
		}
		return nil, connect.NewError(connect.CodeUnavailable, said)
	case "call": // another object, with a key of its own
		name, inner, _ := strings.Cut(rest, " ")
		res, err := l.call(ctx, tx, "Do", name, inner, "inner", "")
		if err != nil {
			return nil, err
		}
		said += ": " + get(res.msg, "text")
	}
	return l.reply(said), nil
}

// An onceAnswer is what a call ended with.
type onceAnswer struct {
	msg             proto.Message
	header, trailer http.Header
}

// replayed reports what the header says.
func (a onceAnswer) replayed() bool {
	return a.header.Get("Durable-Replayed") == "true" || a.trailer.Get("Durable-Replayed") == "true"
}

// call calls a method with a key in the header, unless it is "-", and in the
// field.
func (l *onceLab) call(ctx context.Context, conn durable.Conn, method, object, text, header, field string) (onceAnswer, error) {
	desc := l.file.Services().Get(0).Methods().ByName(protoreflect.Name(method))
	req := dynamicpb.NewMessage(desc.Input())
	set(req, "text", text)
	set(req, "request_id", field)
	a := onceAnswer{msg: dynamicpb.NewMessage(desc.Output())}
	call := &durable.Call{
		Method: durable.MethodSpec{Procedure: onceService + method}, Object: durable.RefByName(conn, "once", object),
		ResponseHeader: &a.header, ResponseTrailer: &a.trailer, Retry: durable.RetryPolicy{MaxAttempts: 1},
	}
	if header != "-" {
		call.Header = http.Header{"Idempotency-Key": strings.Split(header, "|")}
	}
	err := conn.CallUnary(ctx, call, req, a.msg)
	return a, err
}

// ways are the connections to a server.
func ways(s *durabletest.Server) map[string]durable.Conn {
	conns := map[string]durable.Conn{"in process": s.Conn()}
	for _, p := range protocols {
		conns[p.name] = over(s, p.opts...)
	}
	return conns
}

// A told is an error as its caller sees it.
type told struct {
	Code    connect.Code
	Message string
	Details []*connect.ErrorDetail
}

func tell(err error) told {
	var coded *connect.Error
	if !errors.As(err, &coded) {
		return told{}
	}
	details := coded.Details()
	for _, d := range details {
		d.Debug = nil
	}
	return told{coded.Code(), coded.Message(), details}
}

// TestReplay: a call with the key of an earlier one ends as that one did, and
// does nothing, whatever the way. What says nothing of the call itself is not
// remembered.
func TestReplay(t *testing.T) {
	l := startOnce(t)
	for way, conn := range ways(l.Server) {
		for _, c := range []struct {
			text  string
			again bool // the handler runs again
		}{
			{text: "reply"},
			{text: "coded"},
			{text: "uncoded"},
			{text: "odd"},
			{text: "kept"},
			{text: "kept-unavailable"},
			{text: "no-row"},
			{text: "synced"},
			{text: "call " + way + "-inner reply"},
			{text: "call " + way + "-inner-coded coded"},

			{text: "unavailable", again: true},
			{text: "timeout", again: true},
			{text: "too-large", again: true},
			{text: "panic", again: true},
			{text: "abort", again: true},
		} {
			t.Run(way+"/"+c.text, func(t *testing.T) {
				object := way + " " + c.text
				first, firstErr := l.call(t.Context(), conn, "Do", object, c.text, "k", "")
				if first.replayed() {
					t.Fatal("the first answer is marked as replayed")
				}
				runs := l.runs.Load()
				second, err := l.call(t.Context(), conn, "Do", object, c.text, "k", "")
				if ran := l.runs.Load() != runs; ran != c.again || second.replayed() == c.again {
					t.Fatalf("the handler ran again: %v, replayed: %v, header %v, trailer %v, error %v", ran, second.replayed(), second.header, second.trailer, err)
				}
				if c.again {
					return
				}
				if diff := cmp.Diff(tell(firstErr), tell(err)); diff != "" {
					t.Errorf("error (-first +replayed):\n%s", diff)
				}
				if diff := cmp.Diff(first.msg, second.msg, protocmp.Transform()); diff != "" {
					t.Errorf("response (-first +replayed):\n%s", diff)
				}
				for _, h := range []struct {
					name          string
					first, second []string
				}{
					{"header", first.header.Values("X-Run"), second.header.Values("X-Run")},
					{"trailer", first.trailer.Values("X-Trailing"), second.trailer.Values("X-Trailing")},
				} {
					if diff := cmp.Diff(h.first, h.second); diff != "" || len(h.first) == 0 {
						t.Errorf("%s (-first +replayed):\n%s\n%v", h.name, diff, h.first)
					}
				}
			})
		}
	}
}

// TestReplayAcross: it does not matter how a call came, nor where its key was.
func TestReplayAcross(t *testing.T) {
	l := startOnce(t)
	first, err := l.call(t.Context(), l.Conn(), "Do", "a", "reply", "k", "")
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, fn func() (onceAnswer, error)) {
		t.Run(name, func(t *testing.T) {
			got, err := fn()
			if err != nil || !got.replayed() || get(got.msg, "text") != get(first.msg, "text") {
				t.Errorf("%v, header %v, error %v; want %v", got.msg, got.header, err, first.msg)
			}
		})
	}
	for way, conn := range ways(l.Server) {
		for name, key := range map[string][2]string{"header": {"k", ""}, "field": {"-", "k"}, "both": {"k", "k"}, "the same header twice": {"k|k", ""}} {
			check(way+", key in "+name, func() (onceAnswer, error) {
				return l.call(t.Context(), conn, "Do", "a", "reply", key[0], key[1])
			})
		}
	}
	if runs := l.runs.Load(); runs != 1 {
		t.Errorf("%d runs", runs)
	}
	l.Crash()
	check("after a crash", func() (onceAnswer, error) { return l.call(t.Context(), l.Conn(), "Do", "a", "reply", "k", "") })
	for name, fn := range map[string]func() (onceAnswer, error){
		"another object": func() (onceAnswer, error) { return l.call(t.Context(), l.Conn(), "Do", "b", "reply", "k", "") },
		"another key":    func() (onceAnswer, error) { return l.call(t.Context(), l.Conn(), "Do", "a", "reply", "l", "") },
		"no key":         func() (onceAnswer, error) { return l.call(t.Context(), l.Conn(), "Do", "a", "reply", "-", "") },
	} {
		t.Run(name, func(t *testing.T) {
			runs := l.runs.Load()
			if got, err := fn(); err != nil || got.replayed() || l.runs.Load() != runs+1 {
				t.Errorf("%v, header %v, error %v", got.msg, got.header, err)
			}
		})
	}
	t.Run("a field that is empty is filled", func(t *testing.T) {
		// What one request asks for does not depend on where its key is, so it
		// is the field, too, that the handler sees.
		if _, err := l.call(t.Context(), l.Conn(), "DoBare", "c", "reply", "k", ""); err != nil {
			t.Fatal(err)
		}
		if got, err := l.call(t.Context(), l.Conn(), "DoBare", "c", "reply", "k", ""); err != nil || !got.replayed() {
			t.Errorf("a method without the field: %v, error %v", got.header, err)
		}
	})
}

// TestReplayWithPlainErrors: errors of handlers come back without an ErrorInfo
// where they had none.
func TestReplayWithPlainErrors(t *testing.T) {
	l := startOnce(t, durable.WithPlainErrors())
	for _, text := range []string{"coded", "uncoded", "kept-unavailable"} {
		_, first := l.call(t.Context(), l.Conn(), "Do", text, text, "k", "")
		got, err := l.call(t.Context(), l.Conn(), "Do", text, text, "k", "")
		if diff := cmp.Diff(tell(first), tell(err)); diff != "" || !got.replayed() || durableconnect.ErrorInfo(err) != nil {
			t.Errorf("%s, replayed: %v (-first +replayed):\n%s", text, got.replayed(), diff)
		}
	}
}

// TestIdempotencyKeys: what a key may be, and where.
func TestIdempotencyKeys(t *testing.T) {
	l := startOnce(t)
	const (
		invalid  = durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_INVALID
		mismatch = durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_MISMATCH
	)
	longest := strings.Repeat("k", 255)
	tooLong := &durablev1.Limit{Name: "idempotency key bytes", Max: 255, Actual: 256}
	conns := ways(l.Server)
	for way, conn := range conns {
		if _, err := l.call(t.Context(), conn, "Do", way, "reply", "used", ""); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name, method, text, header, field string
			reason                            durablev1.ErrorReason // none: the call succeeds
			limit                             *durablev1.Limit
			says                              string
		}{
			{name: "longest", method: "Do", text: "reply", header: longest},
			{name: "longest in the field", method: "Do", text: "reply", header: "-", field: longest},
			{name: "any visible ASCII", method: "Do", text: "reply", header: `!"#$%&'()*+,-./09:;<=>?@AZ[\]^_az{}~`},
			{name: "none", method: "Do", text: "reply", header: "-"},
			{name: "reading with a key", method: "Look", header: "k", field: "k"},
			{name: "reading with a bad key", method: "Look", header: "x y", field: "z"},

			{name: "too long", method: "Do", text: "reply", header: longest + "k", reason: invalid, limit: tooLong, says: "255 bytes"},
			{name: "too long in the field", method: "Do", text: "reply", header: "-", field: longest + "k", reason: invalid, limit: tooLong, says: "field request_id"},
			{name: "empty", method: "Do", text: "reply", header: "", reason: invalid, says: "is empty"},
			{name: "empty beside the field", method: "Do", text: "reply", header: "", field: "k", reason: invalid, says: "is empty"},
			{name: "a blank", method: "Do", text: "reply", header: "a b", reason: invalid, says: "visible ASCII"},
			{name: "a control in the field", method: "Do", text: "reply", header: "-", field: "a\x7f", reason: invalid, says: "visible ASCII"},
			{name: "more than ASCII in the field", method: "Do", text: "reply", header: "-", field: "é", reason: invalid, says: "visible ASCII"},
			{name: "two", method: "Do", text: "reply", header: "a|b", reason: invalid, says: "twice"},
			{name: "two, without the field", method: "DoBare", text: "reply", header: "a|b", reason: invalid, says: "twice"},
			{name: "two after one in the field", method: "Do", text: "reply", header: "a|b", field: "a", reason: invalid, says: "twice"},
			{name: "header and field", method: "Do", text: "reply", header: "a", field: "b", reason: invalid, says: "different"},

			{name: "used for another text", method: "Do", text: "reply 2", header: "used", reason: mismatch, says: "another request"},
			{name: "used for another method", method: "DoAgain", text: "reply", header: "used", reason: mismatch, says: "another request"},
		} {
			t.Run(way+"/"+c.name, func(t *testing.T) {
				runs := l.runs.Load()
				_, err := l.call(t.Context(), conn, c.method, way, c.text, c.header, c.field)
				if c.reason == 0 {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				info := durableconnect.ErrorInfo(err)
				if connect.CodeOf(err) != connect.CodeInvalidArgument || info.GetReason() != c.reason || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, %v", err, info)
				}
				if diff := cmp.Diff(c.limit, info.GetLimit(), protocmp.Transform()); diff != "" {
					t.Errorf("limit (-want +got):\n%s", diff)
				}
				if l.runs.Load() != runs {
					t.Error("the handler ran")
				}
			})
		}
	}
}

// TestStreamsWithIdempotencyKeys: a stream cannot be repeated.
func TestStreamsWithIdempotencyKeys(t *testing.T) {
	l := startOnce(t)
	for way, conn := range ways(l.Server) {
		for _, c := range []struct {
			name, method, header string
			fields               []string // of the requests
			bad                  bool
		}{
			{"no key", "Watch", "-", []string{""}, false},
			{"header", "Watch", "k", []string{""}, true},
			{"field", "Watch", "-", []string{"k"}, true},
			{"no key", "Collect", "-", []string{"", ""}, false},
			{"header", "Collect", "k", []string{""}, true},
			{"field of the first", "Collect", "-", []string{"k"}, true},
			{"field of the second", "Collect", "-", []string{"", "k"}, true},
		} {
			t.Run(way+"/"+c.method+" "+c.name, func(t *testing.T) {
				err := l.stream(t, conn, c.method, c.header, c.fields)
				if !c.bad {
					if err != nil {
						t.Error(err)
					}
					return
				}
				info := durableconnect.ErrorInfo(err)
				if connect.CodeOf(err) != connect.CodeInvalidArgument || info.GetReason() != durablev1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_INVALID {
					t.Errorf("error %v, %v", err, info)
				}
			})
		}
	}
}

func (l *onceLab) stream(t *testing.T, conn durable.Conn, method, header string, fields []string) error {
	t.Helper()
	call := &durable.Call{
		Method: durable.MethodSpec{Procedure: onceService + method, ClientStream: method == "Collect", ServerStream: method == "Watch"},
		Object: durable.RefByName(conn, "once", "stream"),
	}
	if header != "-" {
		call.Header = http.Header{"Idempotency-Key": {header}}
	}
	port, err := conn.OpenStream(t.Context(), call)
	if err != nil {
		return err
	}
	defer port.Close()
	for _, field := range fields {
		req := dynamicpb.NewMessage(l.file.Messages().ByName("Request"))
		set(req, "request_id", field)
		if err := port.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if err := port.CloseSend(); err != nil {
		return err
	}
	res := l.reply("")
	if err := port.Receive(res); err != nil {
		return err
	}
	if !bytes.HasSuffix([]byte(get(res, "text")), []byte("ed")) {
		t.Errorf("response %v", res)
	}
	return nil
}

// TestReplayOfAHeaderByHand: what curl sees.
func TestReplayOfAHeaderByHand(t *testing.T) {
	l := startOnce(t)
	header := http.Header{"Idempotency-Key": {"k"}}
	path := "/-/name/a" + onceService + "Do"
	for i, want := range []string{"", "true", "true"} {
		a := post(t, l.Server, path, `{"text":"coded"}`, header)
		if got := a.header.Get("Durable-Replayed"); got != want || a.status != http.StatusNotFound || a.field(t, "message") != "coded in run 1" {
			t.Errorf("call %d: replayed %q, status %d, %s", i+1, got, a.status, a.body)
		}
	}
	if a := post(t, l.Server, path, `{"text":"coded","request_id":"j"}`, header); a.status != http.StatusBadRequest || a.reason(t) != "IDEMPOTENCY_KEY_INVALID" {
		t.Errorf("status %d, %s", a.status, a.body)
	}
	if a := post(t, l.Server, path, `{"text":"x"}`, header); a.status != http.StatusBadRequest || a.reason(t) != "IDEMPOTENCY_MISMATCH" {
		t.Errorf("status %d, %s", a.status, a.body)
	}
}
