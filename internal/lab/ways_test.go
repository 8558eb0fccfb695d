package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A bench is a server with the lab and one way to reach it.
type bench struct {
	*durabletest.Server
	lab    *lab.Lab
	way    string
	conn   durable.Conn
	remote bool // the way leads over HTTP
}

// threeWays runs fn against one server, called in process, over Connect in its
// two encodings, and over gRPC.
func threeWays(t *testing.T, fn func(t *testing.T, b *bench), opts ...durable.ObjectOption) {
	t.Helper()
	t.Parallel()
	l := &lab.Lab{Options: opts}
	s := durabletest.New(t, l.Register)
	http1 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Server().Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(http1.Close)
	client, url := s.HTTPClient(), s.URL()
	for _, b := range []*bench{
		{way: "in process", conn: s.Conn()},
		{way: "Connect", conn: durableconnect.New(client, url), remote: true},
		{way: "Connect JSON and GET over HTTP 1", conn: splitConn{
			durableconnect.New(http1.Client(), http1.URL, connecthttp.WithProtoJSON(), connecthttp.WithHTTPGet()),
			durableconnect.New(client, url, connecthttp.WithProtoJSON()),
		}, remote: true},
		{way: "gRPC", conn: durableconnect.New(client, url, connecthttp.WithGRPC()), remote: true},
	} {
		b.Server, b.lab = s, l
		t.Run(b.way, func(t *testing.T) { fn(t, b) })
	}
}

// A splitConn sends streams another way than unary calls.
type splitConn struct{ unary, streams durable.Conn }

func (c splitConn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	return c.unary.CallUnary(ctx, call, req, res)
}

func (c splitConn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	return c.streams.OpenStream(ctx, call)
}

// name returns a name that no other case uses.
func (b *bench) name(t *testing.T, suffix ...string) string {
	return t.Name() + strings.Join(suffix, "/")
}

func (b *bench) counter(t *testing.T, suffix ...string) labv1durable.CounterStub {
	return labv1durable.NewCounterClient(b.conn).GetByName(b.name(t, suffix...))
}

func (b *bench) recorder(t *testing.T, suffix ...string) labv1durable.RecorderStub {
	return labv1durable.NewRecorderClient(b.conn).GetByName(b.name(t, suffix...))
}

func (b *bench) kv(t *testing.T, suffix ...string) kvObject {
	return kvObject{t, labv1durable.NewKVLabClient(b.conn).GetByName(b.name(t, suffix...))}
}

// A kvObject takes steps and fails the test when they fail.
type kvObject struct {
	t *testing.T
	labv1durable.KVLabStub
}

func (o kvObject) try(steps ...*labv1.Step) ([]*labv1.Result, error) {
	res, err := o.Run(o.t.Context(), &labv1.RunRequest{Steps: steps})
	return res.GetResults(), err
}

func (o kvObject) do(steps ...*labv1.Step) []*labv1.Result {
	o.t.Helper()
	results, err := o.try(steps...)
	if err != nil {
		o.t.Fatal(err)
	}
	return results
}

func (o kvObject) view(steps ...*labv1.Step) []*labv1.Result {
	o.t.Helper()
	res, err := o.Read(o.t.Context(), &labv1.ReadRequest{Steps: steps})
	if err != nil {
		o.t.Fatal(err)
	}
	return res.GetResults()
}

// pairs returns everything that is stored, as "key=value".
func (o kvObject) pairs() []string {
	o.t.Helper()
	return show(o.view(list())[0])
}

func show(res *labv1.Result) []string {
	out := []string{}
	for _, p := range res.GetPairs() {
		out = append(out, fmt.Sprintf("%s=%s", p.GetKey(), p.GetValue()))
	}
	return out
}

func put(key, value string) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte(key), Value: []byte(value)}}}
}

func putMany(pairs ...string) *labv1.Step {
	many := &labv1.Pairs{}
	for _, key := range pairs {
		many.Pairs = append(many.Pairs, &labv1.Pair{Key: []byte(key), Value: []byte("v" + key)})
	}
	return &labv1.Step{Do: &labv1.Step_PutMany{PutMany: many}}
}

func get(key string) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Get{Get: []byte(key)}}
}

func getMany(keys ...string) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_GetMany{GetMany: &labv1.Keys{Keys: raw(keys)}}}
}

func del(key string) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Delete{Delete: []byte(key)}}
}

func deleteMany(keys ...string) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_DeleteMany{DeleteMany: &labv1.Keys{Keys: raw(keys)}}}
}

func raw(keys []string) [][]byte {
	out := make([][]byte, len(keys))
	for i, key := range keys {
		out[i] = []byte(key)
	}
	return out
}

func list(opts ...func(*labv1.List)) *labv1.Step {
	l := &labv1.List{}
	for _, opt := range opts {
		opt(l)
	}
	return &labv1.Step{Do: &labv1.Step_List{List: l}}
}

func start(key string) func(*labv1.List) { return func(l *labv1.List) { l.Start = []byte(key) } }
func startAfter(key string) func(*labv1.List) {
	return func(l *labv1.List) { l.StartAfter = []byte(key) }
}
func end(key string) func(*labv1.List)    { return func(l *labv1.List) { l.End = []byte(key) } }
func prefix(key string) func(*labv1.List) { return func(l *labv1.List) { l.Prefix = []byte(key) } }
func limit(n int32) func(*labv1.List)     { return func(l *labv1.List) { l.Limit = &n } }
func reverse() func(*labv1.List)          { return func(l *labv1.List) { l.Reverse = true } }

func during(steps ...*labv1.Step) func(*labv1.List) {
	return func(l *labv1.List) { l.During = steps }
}

func deleteAll() *labv1.Step { return &labv1.Step{Do: &labv1.Step_DeleteAll{}} }
func syncNow() *labv1.Step   { return &labv1.Step{Do: &labv1.Step_Sync{}} }
func exists() *labv1.Step    { return &labv1.Step{Do: &labv1.Step_Exists{}} }

func fail(text string) *labv1.Step { return &labv1.Step{Do: &labv1.Step_Fail{Fail: text}} }

func savepoint(steps ...*labv1.Step) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Savepoint{Savepoint: &labv1.Steps{Steps: steps}}}
}

func await(steps ...*labv1.Step) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Await{Await: &labv1.Steps{Steps: steps}}}
}

func stale(steps ...*labv1.Step) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Stale{Stale: &labv1.Steps{Steps: steps}}}
}

func callOther(name string, steps ...*labv1.Step) *labv1.Step {
	return &labv1.Step{Do: &labv1.Step_Call{Call: &labv1.RunRequest{Name: name, Steps: steps}}}
}

func tolerate(step *labv1.Step) *labv1.Step {
	step.Tolerate = true
	return step
}

func unconfirmed(step *labv1.Step) *labv1.Step {
	step.Unconfirmed = true
	return step
}

// want is what a failed call must be. Zero fields are not looked at, except
// those of the info.
type want struct {
	code    connect.Code
	message string
	info    *durablev1.ErrorInfo
}

// An object is what the info of an error names.
type object interface {
	ObjectType() string
	ID() durable.ID
}

// check fails the test unless err is the one wanted. The object of the info is
// filled in.
func (w want) check(t *testing.T, err error, object object) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want code %v", w.code)
	}
	if got := connect.CodeOf(err); got != w.code {
		t.Errorf("code %v, want %v: %v", got, w.code, err)
	}
	var coded *connect.Error
	if !errors.As(err, &coded) {
		t.Fatalf("%T is no *connect.Error: %v", err, err)
	}
	if w.message != "" && coded.Message() != w.message {
		t.Errorf("message %q, want %q", coded.Message(), w.message)
	}
	if w.info != nil {
		w.info.ObjectType, w.info.ObjectId = object.ObjectType(), object.ID().String()
		if diff := cmp.Diff(w.info, durableconnect.ErrorInfo(err), protocmp.Transform()); diff != "" {
			t.Errorf("info (-want +got):\n%s", diff)
		}
	}
}

// deadline returns the context of the test with a time limit, against tests
// that would hang.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// name returns the name that the stub was made from.
func (o kvObject) name() string {
	name, _ := o.Name()
	return name
}
