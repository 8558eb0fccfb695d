package server_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	"github.com/durable-go/durable/gen/durable/admin/v1/adminv1connect"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
)

// withAlarms gives recorders two alarms: the default one, and one with a payload,
// which appends to a pair what it is told, or fails.
type withAlarms struct{ durable.Registrar }

// RegisterObject implements [durable.Registrar].
func (r withAlarms) RegisterObject(t *durable.ObjectType) error {
	own := *t
	if t.Name == "lab.recorder" {
		retry := durable.AlarmRetry{MaxRetries: 6, FirstDelay: time.Hour}
		own.Alarms = []durable.AlarmType{
			{Retry: retry, Run: func(context.Context, any, durable.Tx, durable.AlarmInfo, proto.Message) error { return nil }},
			{
				Name: "note", Retry: retry, NewPayload: func() proto.Message { return &labv1.AppendRequest{} },
				Run: func(ctx context.Context, _ any, tx durable.Tx, _ durable.AlarmInfo, payload proto.Message) error {
					text := payload.(*labv1.AppendRequest).GetText()
					if text == "fail" {
						return connect.NewError(connect.CodeFailedPrecondition, "not now")
					}
					return tx.KV().Put(ctx, "noted", []byte(text))
				},
			},
		}
	}
	return r.Registrar.RegisterObject(&own)
}

// An operator calls the admin service of a server.
type operator struct {
	adminv1connect.AdminServiceClient
	*durabletest.Server
	lab     *lab.Lab
	handler http.Handler
	client  *http.Client
}

// operate starts a server with its admin handler.
func operate(t *testing.T, opts ...server.Option) *operator {
	t.Helper()
	l := &lab.Lab{}
	s := durabletest.New(t, func(r durable.Registrar) error { return l.Register(withAlarms{r}) }, opts...)
	h, err := s.Server().AdminHandler()
	if err != nil {
		t.Fatal(err)
	}
	client := clientOf(h)
	return &operator{adminClient(client), s, l, h, client}
}

func adminClient(client *http.Client, opts ...connecthttp.Option) adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(connect.NewClient(connecthttp.NewTransport(client, "http://admin", opts...)))
}

func (o *operator) recorder(name string) labv1durable.RecorderStub {
	return labv1durable.NewRecorderClient(o.Conn()).GetByName(name)
}

// record makes recorders.
func (o *operator) record(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := o.recorder(name).Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
			t.Fatal(err)
		}
	}
}

// recorders returns how many there are.
func (o *operator) recorders(t *testing.T) int {
	t.Helper()
	n := 0
	for _, err := range o.Server.Server().Objects(t.Context(), "lab.recorder") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// post calls a method of the service with JSON.
func (o *operator) post(t *testing.T, method, body string) answer {
	t.Helper()
	return ask(t, o.client, "/durable.admin.v1.AdminService/"+method, body, nil)
}

// ask sends a request with JSON to a server that has no network.
func ask(t *testing.T, client *http.Client, path, body string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://durabletest"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	read, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, res.Trailer, string(read)}
}

// clientOf returns a client whose every request is for h.
func clientOf(h http.Handler) *http.Client {
	return &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		in := req.Clone(req.Context())
		if in.Body == nil {
			in.Body = http.NoBody
		}
		in.RemoteAddr, in.Proto, in.ProtoMajor, in.ProtoMinor = "192.0.2.7:1234", "HTTP/2.0", 2, 0
		w := httptest.NewRecorder()
		h.ServeHTTP(w, in)
		return w.Result(), nil
	})}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// pages asks for all pages of a list of recorders, and returns the names.
func (o *operator) pages(t *testing.T, prefix string, size int32, between func()) (names []string, counts []int) {
	t.Helper()
	req := &adminv1.ListObjectsRequest{Type: "lab.recorder", Prefix: prefix, PageSize: size}
	for {
		res, err := o.ListObjects(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range res.GetObjects() {
			if object.GetProblem() != "" {
				t.Errorf("%s: %s", object.GetName(), object.GetProblem())
			}
			names = append(names, object.GetName())
		}
		counts = append(counts, len(res.GetObjects()))
		req.PageToken = res.GetNextPageToken()
		if req.PageToken == "" {
			return names, counts
		}
		if between != nil {
			between()
			between = nil
		}
	}
}

func TestAdminListObjects(t *testing.T) { // WISH-03, OBS-06
	t.Parallel()
	o := operate(t)
	o.record(t, "b/2", "a", "日", "b/10", "c", "b/1")
	inOrder := []string{"a", "b/1", "b/10", "b/2", "c", "日"}
	t.Run("in order of name, in pages of every size", func(t *testing.T) {
		for size, want := range map[int32][]int{0: {6}, 1: {1, 1, 1, 1, 1, 1}, 4: {4, 2}, 6: {6}, 7: {6}, 1000: {6}} {
			names, counts := o.pages(t, "", size, nil)
			if diff := cmp.Diff(inOrder, names) + cmp.Diff(want, counts); diff != "" {
				t.Errorf("page size %d (-want +got):\n%s", size, diff)
			}
		}
	})
	t.Run("by prefix", func(t *testing.T) {
		for prefix, want := range map[string][]string{"b/": {"b/1", "b/10", "b/2"}, "b/1": {"b/1", "b/10"}, "x": nil, "日": {"日"}} {
			if names, _ := o.pages(t, prefix, 1, nil); !cmp.Equal(want, names) {
				t.Errorf("prefix %q: %q, want %q", prefix, names, want)
			}
		}
	})
	t.Run("what is known of each", func(t *testing.T) {
		due := time.Now().Add(time.Hour).Truncate(time.Millisecond)
		for _, set := range []*adminv1.SetAlarmRequest{
			{Alarm: "note", Time: timestamppb.New(due.Add(time.Hour))},
			{Time: timestamppb.New(due)},
		} {
			set.Type, set.Key = "lab.recorder", &adminv1.SetAlarmRequest_Name{Name: "c"}
			if _, err := o.SetAlarm(t.Context(), set); err != nil {
				t.Fatal(err)
			}
		}
		o.Evict(o.recorder("a").Ref)
		res, err := o.ListObjects(t.Context(), &adminv1.ListObjectsRequest{Type: "lab.recorder"})
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range res.GetObjects() {
			name := object.GetName()
			if want := durable.IDFromName("lab.recorder", name).String(); object.GetId() != want || object.GetType() != "lab.recorder" {
				t.Errorf("%s: type %s, id %s", name, object.GetType(), object.GetId())
			}
			if made := object.GetCreated().AsTime(); time.Since(made) < 0 || time.Since(made) > time.Minute || made != made.Truncate(time.Millisecond) {
				t.Errorf("%s: made at %v", name, made)
			}
			if object.GetLastCommit().AsTime().Before(object.GetCreated().AsTime().Add(-time.Minute)) || object.GetStoredBytes() <= 0 {
				t.Errorf("%s: last commit %v, %d bytes", name, object.GetLastCommit(), object.GetStoredBytes())
			}
			if object.GetActive() != (name != "a") {
				t.Errorf("%s: active %v", name, object.GetActive())
			}
			if got := object.GetNextAlarm(); (got != nil) != (name == "c") || got != nil && !got.AsTime().Equal(due) {
				t.Errorf("%s: next alarm %v", name, got)
			}
		}
	})
	t.Run("objects without data are absent", func(t *testing.T) { // LIFE-11
		if _, err := o.recorder("looked at").ReadAll(t.Context(), &labv1.ReadAllRequest{}); err != nil {
			t.Fatal(err)
		}
		if names, _ := o.pages(t, "looked", 0, nil); names != nil {
			t.Errorf("%q", names)
		}
		if res, err := o.ListObjects(t.Context(), &adminv1.ListObjectsRequest{Type: "lab.kv"}); err != nil || len(res.GetObjects()) != 0 || res.GetNextPageToken() != "" {
			t.Errorf("of another type: %v, %v", res, err)
		}
	})
	t.Run("objects without a name come first", func(t *testing.T) {
		var want []string
		for range 3 {
			touched, err := labv1durable.NewUniqueClient(o.Conn()).Get(durable.NewUniqueID("lab.unique")).Touch(t.Context(), &labv1.TouchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, touched.GetId())
		}
		_, err := labv1durable.NewUniqueClient(o.Conn()).GetByName("a").Touch(t.Context(), &labv1.TouchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		req := &adminv1.ListObjectsRequest{Type: "lab.unique", PageSize: 1}
		var got []string
		for {
			res, err := o.ListObjects(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, res.GetObjects()[0].GetId())
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(append(want, durable.IDFromName("lab.unique", "a").String()), got); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
	})
	t.Run("pages are stable while objects come and go", func(t *testing.T) {
		names, _ := o.pages(t, "", 2, func() { // after a and b/1
			o.record(t, "a/new", "b/11")
			for _, name := range []string{"b/1", "c"} {
				res, err := o.DeleteObject(t.Context(), &adminv1.DeleteObjectRequest{Type: "lab.recorder", Key: &adminv1.DeleteObjectRequest_Name{Name: name}})
				if err != nil || !res.GetDeleted() {
					t.Fatalf("delete %s: %v, %v", name, res, err)
				}
			}
		})
		if diff := cmp.Diff([]string{"a", "b/1", "b/10", "b/11", "b/2", "日"}, names); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	})
}

// TestAdminListPassesByABusyObject: the list has what it can, and a description
// waits for the turn.
func TestAdminListPassesByABusyObject(t *testing.T) { // OBS-22
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		o.record(t, "a", "b", "c")
		busy := make(chan error)
		go func() {
			_, err := o.recorder("b").Append(t.Context(), &labv1.AppendRequest{Text: "y", SleepMs: 10_000})
			busy <- err
		}()
		synctest.Wait()
		began := time.Now()
		res, err := o.ListObjects(t.Context(), &adminv1.ListObjectsRequest{Type: "lab.recorder"})
		if err != nil || len(res.GetObjects()) != 3 {
			t.Fatalf("%v, %v", res, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		for _, object := range res.GetObjects() {
			if isBusy := object.GetName() == "b"; isBusy != strings.Contains(object.GetProblem(), "1s") || isBusy == (object.GetStoredBytes() > 0) || object.GetCreated() == nil {
				t.Errorf("%v", object)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := o.ListObjects(ctx, &adminv1.ListObjectsRequest{Type: "lab.recorder"}); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("with a deadline that passes: %v", err)
		}
		pairs, err := o.ListPairs(t.Context(), &adminv1.ListPairsRequest{Type: "lab.recorder", Key: &adminv1.ListPairsRequest_Name{Name: "b"}})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("the pairs came after %v, beside the turn", took)
		}
		if len(pairs.GetPairs()) < 2 {
			t.Errorf("the pairs are not those after the turn: %v", pairs)
		}
		if err := <-busy; err != nil {
			t.Error(err)
		}
	})
}

func TestAdminDescribe(t *testing.T) { // WISH-03
	t.Parallel()
	o := operate(t)
	o.record(t, "a")
	byName := &adminv1.DescribeObjectRequest{Type: "lab.recorder", Key: &adminv1.DescribeObjectRequest_Name{Name: "a"}}
	byID := &adminv1.DescribeObjectRequest{Type: "lab.recorder", Key: &adminv1.DescribeObjectRequest_Id{Id: durable.IDFromName("lab.recorder", "a").String()}}
	one, err := o.DescribeObject(t.Context(), byName)
	if err != nil {
		t.Fatal(err)
	}
	two, err := o.DescribeObject(t.Context(), byID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, two, protocmp.Transform()); diff != "" {
		t.Errorf("by name and by id (-name +id):\n%s", diff)
	}
	if object := one.GetObject(); object.GetName() != "a" || !object.GetActive() || object.GetStoredBytes() == 0 || object.GetCreated() == nil {
		t.Errorf("%v", object)
	}
	types, err := o.ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, typ := range types.GetTypes() {
		names = append(names, typ.GetName())
		if typ.GetName() == "lab.recorder" {
			want := &adminv1.ObjectType{Name: "lab.recorder", Service: "lab.v1.RecorderService", Alarms: []*adminv1.AlarmType{{}, {Name: "note", Payload: "lab.v1.AppendRequest"}}}
			if diff := cmp.Diff(want, typ, protocmp.Transform()); diff != "" {
				t.Errorf("type (-want +got):\n%s", diff)
			}
		}
	}
	sorted := append([]string(nil), names...)
	slices.Sort(sorted)
	if len(names) < 6 || !cmp.Equal(sorted, names) {
		t.Errorf("types %q", names)
	}
}

// stored puts pairs into an object.
func (o *operator) stored(t *testing.T, name string, pairs ...*labv1.Pair) {
	t.Helper()
	for _, pair := range pairs {
		_, err := labv1durable.NewKVLabClient(o.Conn()).GetByName(name).Run(t.Context(), &labv1.RunRequest{
			Steps: []*labv1.Step{{Do: &labv1.Step_Put{Put: pair}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdminListPairs(t *testing.T) { // WISH-04, OBS-22
	t.Parallel()
	o := operate(t)
	small := []*labv1.Pair{
		{Key: []byte(""), Value: []byte("of the empty key")},
		{Key: []byte("\x00"), Value: []byte("zero")},
		{Key: []byte("a"), Value: []byte("")},
		{Key: []byte("a\xff"), Value: []byte("\xff\xfe")},
		{Key: []byte("b"), Value: []byte("b")},
		{Key: []byte("\xff\xff"), Value: []byte("last")},
	}
	o.stored(t, "small", small...)
	all := func(t *testing.T, req *adminv1.ListPairsRequest) (pairs []*adminv1.Pair, counts []int) {
		t.Helper()
		req.Type = "lab.kv"
		for {
			res, err := o.ListPairs(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, res.GetPairs()...)
			counts = append(counts, len(res.GetPairs()))
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				return pairs, counts
			}
		}
	}
	named := func(name string) *adminv1.ListPairsRequest_Name { return &adminv1.ListPairsRequest_Name{Name: name} }
	keys := func(pairs []*adminv1.Pair) (keys []string) {
		for _, pair := range pairs {
			keys = append(keys, string(pair.GetKey()))
		}
		return keys
	}
	t.Run("in order, in pages of every size, without the constructor", func(t *testing.T) {
		ref := durable.RefByName(nil, "lab.kv", "small")
		o.Evict(ref)
		constructed := o.lab.Constructed.Load()
		var want []*adminv1.Pair
		for _, pair := range small {
			want = append(want, &adminv1.Pair{Key: pair.GetKey(), Value: pair.GetValue(), ValueBytes: int64(len(pair.GetValue()))})
		}
		for size := range int32(8) {
			pairs, counts := all(t, &adminv1.ListPairsRequest{Key: named("small"), PageSize: size})
			if diff := cmp.Diff(want, pairs, protocmp.Transform()); diff != "" {
				t.Errorf("page size %d (-want +got):\n%s", size, diff)
			}
			if size > 0 && counts[0] != min(int(size), 6) {
				t.Errorf("page size %d: pages of %v", size, counts)
			}
		}
		if n := o.lab.Constructed.Load() - constructed; n != 0 {
			t.Errorf("%d constructors ran", n)
		}
		if o.Evict(ref) {
			t.Error("the object was left in memory")
		}
	})
	t.Run("by prefix", func(t *testing.T) {
		for prefix, want := range map[string][]string{"a": {"a", "a\xff"}, "a\xff": {"a\xff"}, "\xff": {"\xff\xff"}, "x": nil} {
			if pairs, _ := all(t, &adminv1.ListPairsRequest{Key: named("small"), Prefix: []byte(prefix), PageSize: 1}); !cmp.Equal(want, keys(pairs)) {
				t.Errorf("prefix %q: %q", prefix, keys(pairs))
			}
		}
	})
	t.Run("big values", func(t *testing.T) {
		var want []string
		for i := range 4 {
			want = append(want, fmt.Sprint("k", i))
			o.stored(t, "big", &labv1.Pair{Key: []byte(want[i]), Value: bytes.Repeat([]byte{byte(i)}, 600<<10)})
		}
		for most, c := range map[int32]struct {
			length int
			counts []int
		}{
			0:         {4 << 10, []int{4}},
			1:         {1, []int{4}},
			400 << 10: {400 << 10, []int{2, 2}},
			16 << 20:  {600 << 10, []int{1, 1, 1, 1}},
		} {
			pairs, counts := all(t, &adminv1.ListPairsRequest{Key: named("big"), MaxValueBytes: most})
			if !cmp.Equal(want, keys(pairs)) || !cmp.Equal(c.counts, counts) {
				t.Errorf("max_value_bytes %d: keys %q in pages of %v", most, keys(pairs), counts)
			}
			for i, pair := range pairs {
				if !bytes.Equal(pair.GetValue(), bytes.Repeat([]byte{byte(i)}, c.length)) || pair.GetValueBytes() != 600<<10 || pair.GetTruncated() != (c.length < 600<<10) {
					t.Errorf("max_value_bytes %d: %q has %d of %d bytes, truncated %v", most, pair.GetKey(), len(pair.GetValue()), pair.GetValueBytes(), pair.GetTruncated())
				}
			}
		}
	})
}

func TestAdminChanges(t *testing.T) {
	t.Parallel()
	o := operate(t)
	o.record(t, "a")
	count := func() int {
		res, err := o.recorder("a").ReadAll(t.Context(), &labv1.ReadAllRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(res.GetTexts())
	}
	const a = `{"type":"lab.recorder","name":"a"`
	expect := func(method, body, want string) {
		t.Helper()
		if got := o.post(t, method, body); got.status != http.StatusOK || compact(t, got.body) != want {
			t.Errorf("%s %s: status %d: %s, want %s", method, body, got.status, got.body, want)
		}
	}
	expect("EvictObject", a+`}`, `{"evicted":true}`)
	expect("EvictObject", a+`}`, `{}`)
	expect("AbortObject", a+`}`, `{}`)
	if n := count(); n != 1 {
		t.Errorf("%d texts after an eviction", n)
	}
	expect("DeleteObject", a+`}`, `{"deleted":true}`)
	expect("DeleteObject", a+`}`, `{}`)
	if n := count(); n != 0 {
		t.Errorf("%d texts after a deletion", n)
	}
	o.Crash()
	if n := o.recorders(t); n != 0 {
		t.Errorf("a crash brought back %d", n)
	}
}

func TestAdminAbort(t *testing.T) { // ABRT-02
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := operate(t)
		o.record(t, "a")
		begin := func(sleep time.Duration) chan error {
			ended := make(chan error, 1)
			go func() {
				_, err := o.recorder("a").Append(t.Context(), &labv1.AppendRequest{Text: "y", SleepMs: sleep.Milliseconds()})
				ended <- err
			}()
			synctest.Wait()
			return ended
		}
		running, waiting := begin(10*time.Second), begin(0)
		began := time.Now()
		res, err := o.AbortObject(t.Context(), &adminv1.AbortObjectRequest{
			Type: "lab.recorder", Key: &adminv1.AbortObjectRequest_Name{Name: "a"}, Reason: "enough of this",
		})
		if err != nil || !res.GetAborted() {
			t.Errorf("%v, %v", res, err)
		}
		ended := func(name string, call chan error) {
			t.Helper()
			if err := <-call; connect.CodeOf(err) != connect.CodeAborted || !strings.Contains(err.Error(), "enough of this") {
				t.Errorf("the call that was %s ended with %v", name, err)
			}
		}
		ended("waiting", waiting)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		ended("running", running)
		texts, err := o.recorder("a").ReadAll(t.Context(), &labv1.ReadAllRequest{})
		if err != nil || len(texts.GetTexts()) != 1 {
			t.Errorf("what was committed: %v, %v", texts, err)
		}
	})
}

// compact takes the blanks out of JSON that the encoder puts in at random.
func compact(t *testing.T, body string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(body)); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return out.String()
}

func TestAdminAlarms(t *testing.T) {
	t.Parallel()
	o := operate(t)
	o.record(t, "a")
	const a = `{"type":"lab.recorder","name":"a"`
	expect := func(method, body, want string) {
		t.Helper()
		if got := o.post(t, method, body); got.status != http.StatusOK || compact(t, got.body) != want {
			t.Errorf("%s %s: status %d: %s, want %s", method, body, got.status, got.body, want)
		}
	}
	const note = `"alarm":"note","time":"2999-01-02T03:04:05.0001Z","payload":{"@type":"type.googleapis.com/lab.v1.AppendRequest","text":`
	expect("ListAlarms", a+`}`, `{}`)
	expect("RunAlarm", a+`,"alarm":"note"}`, `{}`)
	expect("SetAlarm", a+`,`+note+`"one"}}`, `{}`)
	expect("SetAlarm", a+`,"time":"2999-01-01T00:00:00Z"}`, `{}`)
	const status = `{"name":"note","scheduledTime":"2999-01-02T03:04:05.001Z","due":"2999-01-02T03:04:05.001Z","payload":{"@type":"type.googleapis.com/lab.v1.AppendRequest","text":"one"}}`
	const standing = `{"scheduledTime":"2999-01-01T00:00:00Z","due":"2999-01-01T00:00:00Z"}`
	expect("ListAlarms", a+`}`, `{"alarms":[`+standing+`,`+status+`]}`)
	if got := o.post(t, "DescribeObject", a+`}`); !strings.Contains(compact(t, got.body), `"alarms":[`+standing+`,`+status+`]`) {
		t.Errorf("described: %s", got.body)
	}
	expect("DeleteAlarm", a+`}`, `{"deleted":true}`)
	expect("DeleteAlarm", a+`}`, `{}`)
	expect("RunAlarm", a+`,"alarm":"note"}`, `{"ran":true}`)
	expect("ListAlarms", a+`}`, `{}`)
	prefix := &adminv1.ListPairsRequest{Type: "lab.recorder", Key: &adminv1.ListPairsRequest_Name{Name: "a"}, Prefix: []byte("noted")}
	if res, err := o.ListPairs(t.Context(), prefix); err != nil || len(res.GetPairs()) != 1 || string(res.GetPairs()[0].GetValue()) != "one" {
		t.Errorf("what the handler wrote: %v, %v", res, err)
	}
	t.Run("the error of the handler", func(t *testing.T) {
		expect("SetAlarm", a+`,`+note+`"fail"}}`, `{}`)
		got := o.post(t, "RunAlarm", a+`,"alarm":"note"}`)
		if got.field(t, "code") != "failed_precondition" || got.field(t, "message") != "not now" {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		res, err := o.ListAlarms(t.Context(), &adminv1.ListAlarmsRequest{Type: "lab.recorder", Key: &adminv1.ListAlarmsRequest_Name{Name: "a"}})
		if err != nil || len(res.GetAlarms()) != 1 {
			t.Fatalf("%v, %v", res, err)
		}
		if alarm := res.GetAlarms()[0]; !alarm.GetIsRetry() || alarm.GetRetryCount() != 1 || !alarm.GetDue().AsTime().After(time.Now()) || alarm.GetDue().AsTime().Year() == 2999 {
			t.Errorf("set for its retry: %v", alarm)
		}
	})
	t.Run("over gRPC", func(t *testing.T) {
		client := adminClient(o.client, connecthttp.WithGRPC())
		payload, err := anypb.New(&labv1.AppendRequest{Text: "two"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.SetAlarm(t.Context(), &adminv1.SetAlarmRequest{
			Type: "lab.recorder", Key: &adminv1.SetAlarmRequest_Name{Name: "a"}, Alarm: "note",
			Time: timestamppb.New(time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)), Payload: payload,
		})
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.RunAlarm(t.Context(), &adminv1.RunAlarmRequest{Type: "lab.recorder", Key: &adminv1.RunAlarmRequest_Name{Name: "a"}, Alarm: "note"})
		if err != nil || !res.GetRan() {
			t.Errorf("%v, %v", res, err)
		}
	})
}

func TestAdminRefusals(t *testing.T) {
	t.Parallel()
	o := operate(t)
	o.record(t, "a", "b")
	token := func(method, body string) string {
		a := o.post(t, method, body)
		if token := a.field(t, "nextPageToken"); token != "" {
			return token
		}
		t.Fatalf("no page token: %s", a.body)
		return ""
	}
	o.stored(t, "a", &labv1.Pair{Key: []byte("a"), Value: []byte("")}, &labv1.Pair{Key: []byte("b"), Value: []byte("")})
	objects := token("ListObjects", `{"type":"lab.recorder","pageSize":1}`)
	pairs := token("ListPairs", `{"type":"lab.kv","name":"a","pageSize":1}`)
	id := durable.IDFromName("lab.recorder", "a").String()
	const a = `{"type":"lab.recorder","name":"a"`
	raw := durable.IDFromName("lab.recorder", "a")
	madeUp := base64.RawURLEncoding.EncodeToString(slices.Concat([]byte("o"), raw[:], []byte("b")))
	const later = `"time":"2999-01-01T00:00:00Z"`
	for _, c := range []struct {
		name, method, body string
		code, text         string
	}{
		{"unknown type", "ListObjects", `{"type":"lab.nothing"}`, "not_found", `no object type "lab.nothing"`},
		{"unknown type of an object", "DescribeObject", `{"type":"lab.nothing","name":"a"}`, "not_found", `no object type "lab.nothing"`},
		{"no type", "ListObjects", `{}`, "invalid_argument", "set type"},
		{"no object", "DescribeObject", `{"type":"lab.recorder"}`, "invalid_argument", "set name or id"},
		{"both keys", "DescribeObject", a + `,"id":"` + id + `"}`, "invalid_argument", "oneof"},
		{"long name", "EvictObject", `{"type":"lab.recorder","name":"` + strings.Repeat("x", 1025) + `"}`, "invalid_argument", "1025 bytes, the limit is 1024"},
		{"NUL in the name", "EvictObject", `{"type":"lab.recorder","name":"a\u0000"}`, "invalid_argument", "NUL"},
		{"short id", "DescribeObject", `{"type":"lab.recorder","id":"abc"}`, "invalid_argument", "64 hexadecimal digits"},
		{"bad id", "DescribeObject", `{"type":"lab.recorder","id":"` + strings.Repeat("z", 64) + `"}`, "invalid_argument", "64 hexadecimal digits"},
		{"id of another type", "DeleteObject", `{"type":"lab.kv","id":"` + id + `"}`, "invalid_argument", `does not belong to object type "lab.kv"`},
		{"an object that does not exist", "DescribeObject", `{"type":"lab.recorder","name":"x"}`, "not_found", "does not exist"},
		{"pairs of one", "ListPairs", `{"type":"lab.recorder","name":"x"}`, "not_found", "does not exist"},
		{"alarms of one", "ListAlarms", `{"type":"lab.recorder","name":"x"}`, "not_found", "does not exist"},
		{"an alarm for one", "SetAlarm", `{"type":"lab.recorder","name":"x",` + later + `}`, "not_found", "does not exist"},
		{"unknown field", "DeleteObject", `{"type":"lab.recorder","title":"a"}`, "invalid_argument", "title"},
		{"long reason", "AbortObject", a + `,"reason":"` + strings.Repeat("x", 1025) + `"}`, "invalid_argument", "1025 bytes, the limit is 1024"},

		{"negative page size", "ListObjects", `{"type":"lab.recorder","pageSize":-1}`, "invalid_argument", "page_size is -1, and must be from 0 to 1000"},
		{"large page size", "ListPairs", a + `,"pageSize":1001}`, "invalid_argument", "page_size is 1001"},
		{"negative value limit", "ListPairs", a + `,"maxValueBytes":-1}`, "invalid_argument", "max_value_bytes is -1"},
		{"large value limit", "ListPairs", a + `,"maxValueBytes":16777217}`, "invalid_argument", "from 0 to 16777216"},
		{"page token", "ListObjects", `{"type":"lab.recorder","pageToken":"b3o"}`, "invalid_argument", "page token"},
		{"page token that is no base64", "ListObjects", `{"type":"lab.recorder","pageToken":"%"}`, "invalid_argument", "page token"},
		{"page token of another type", "ListObjects", `{"type":"lab.kv","pageToken":"` + objects + `"}`, "invalid_argument", "page token"},
		{"page token of another prefix", "ListObjects", `{"type":"lab.recorder","prefix":"b","pageToken":"` + objects + `"}`, "invalid_argument", "page token"},
		{"page token that was made up", "ListObjects", `{"type":"lab.recorder","pageToken":"` + madeUp + `"}`, "invalid_argument", "page token"},
		{"page token of a list of objects", "ListPairs", a + `,"pageToken":"` + objects + `"}`, "invalid_argument", "page token"},
		{"page token of a list of pairs", "ListObjects", `{"type":"lab.recorder","pageToken":"` + pairs + `"}`, "invalid_argument", "page token"},
		{"page token of another prefix of keys", "ListPairs", `{"type":"lab.kv","name":"a","prefix":"Yg==","pageToken":"` + pairs + `"}`, "invalid_argument", "page token"},

		{"unknown alarm", "RunAlarm", a + `,"alarm":"nothing"}`, "not_found", `lab.recorder has no alarm "nothing": it has "", "note"`},
		{"unknown alarm to delete", "DeleteAlarm", a + `,"alarm":"nothing"}`, "not_found", "no alarm"},
		{"an alarm of a type without", "SetAlarm", `{"type":"lab.kv","name":"a",` + later + `}`, "not_found", "it has none"},
		{"no time", "SetAlarm", a + `}`, "invalid_argument", "set time"},
		{"the zero time", "SetAlarm", a + `,"time":"0001-01-01T00:00:00Z"}`, "invalid_argument", "after the year 1"},
		{"a payload for an alarm without", "SetAlarm", a + `,` + later + `,"payload":{"@type":"type.googleapis.com/lab.v1.AppendRequest"}}`, "invalid_argument", "has no payload"},
		{"a payload of another message", "SetAlarm", a + `,"alarm":"note",` + later + `,"payload":{"@type":"type.googleapis.com/lab.v1.ReadAllRequest"}}`, "invalid_argument", "is a lab.v1.AppendRequest, not a"},
		{"a payload over the limit", "SetAlarm", a + `,"alarm":"note",` + later + `,"payload":{"@type":"type.googleapis.com/lab.v1.AppendRequest","text":"` + strings.Repeat("x", 2<<20) + `"}}`, "resource_exhausted", "the limit is 2097152"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := o.post(t, c.method, c.body)
			if got.field(t, "code") != c.code || !strings.Contains(got.field(t, "message"), c.text) {
				t.Errorf("status %d, want %s with %q: %.500s", got.status, c.code, c.text, got.body)
			}
		})
	}
	t.Run("a payload that does not parse", func(t *testing.T) {
		_, err := o.SetAlarm(t.Context(), &adminv1.SetAlarmRequest{
			Type: "lab.recorder", Key: &adminv1.SetAlarmRequest_Name{Name: "a"}, Alarm: "note", Time: timestamppb.Now(),
			Payload: &anypb.Any{TypeUrl: "type.googleapis.com/lab.v1.AppendRequest", Value: []byte{0xff}},
		})
		if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "does not parse") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a time that is none", func(t *testing.T) {
		_, err := o.SetAlarm(t.Context(), &adminv1.SetAlarmRequest{
			Type: "lab.recorder", Key: &adminv1.SetAlarmRequest_Name{Name: "a"}, Time: &timestamppb.Timestamp{Seconds: 1 << 60},
		})
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v", err)
		}
	})
	if n := o.recorders(t); n != 2 {
		t.Errorf("%d recorders are left of 2", n)
	}
	if res, err := o.ListAlarms(t.Context(), &adminv1.ListAlarmsRequest{Type: "lab.recorder", Key: &adminv1.ListAlarmsRequest_Name{Name: "a"}}); err != nil || len(res.GetAlarms()) != 0 {
		t.Errorf("alarms were set: %v, %v", res, err)
	}
	t.Run("while the server drains", func(t *testing.T) {
		if err := o.Server.Server().Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"ListObjects", "DescribeObject", "ListPairs", "DeleteObject"} {
			body := a + `}`
			if method == "ListObjects" {
				body = `{"type":"lab.recorder"}`
			}
			if got := o.post(t, method, body); got.field(t, "code") != "unavailable" || got.reason(t) != "DRAINING" {
				t.Errorf("%s: status %d: %s", method, got.status, got.body)
			}
		}
	})
}

const adminToken = "correct-horse-battery"

func TestAdminIsNotPublic(t *testing.T) { // SEC-01
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	const path = "/durable.admin.v1.AdminService/ListObjectTypes"
	if a := post(t, s, path, `{}`, nil); a.status != http.StatusNotFound {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if _, status := frame(t, s, path, ""); status != strconv.Itoa(int(connect.CodeUnimplemented)) {
		t.Errorf("gRPC status %q", status)
	}
	body, status := frame(t, s, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "\x3a\x00") // list_services
	if status != "0" || strings.Contains(body, "durable.admin") {
		t.Errorf("reflection lists it: status %q, %q", status, body)
	}
}

func TestAdminToken(t *testing.T) { // SEC-01
	t.Parallel()
	s := durabletest.New(t, lab.Register, server.WithAdminToken(adminToken))
	const path = "/durable.admin.v1.AdminService/ListObjectTypes"
	var refusal string
	for _, c := range []struct {
		name   string
		header []string
		ok     bool
	}{
		{"none", nil, false},
		{"wrong", []string{"Bearer correct-horse-batterY"}, false},
		{"a part", []string{"Bearer correct-horse-batter"}, false},
		{"more", []string{"Bearer " + adminToken + "x"}, false},
		{"empty", []string{"Bearer "}, false},
		{"without its scheme", []string{adminToken}, false},
		{"another scheme", []string{"Basic " + adminToken}, false},
		{"right", []string{"Bearer " + adminToken}, true},
		{"right, in lower case", []string{"bearer " + adminToken}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := http.Header{}
			if c.header != nil {
				header["Authorization"] = c.header
			}
			a := post(t, s, path, `{}`, header)
			if c.ok {
				if a.status != http.StatusOK || !strings.Contains(a.body, "lab.recorder") || a.header.Get("Cache-Control") != "no-store" {
					t.Errorf("status %d: %v %s", a.status, a.header, a.body)
				}
				return
			}
			if a.status != http.StatusUnauthorized || a.field(t, "code") != "unauthenticated" || a.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			if refusal == "" {
				refusal = a.body
			}
			if a.body != refusal || strings.Contains(a.body, "correct") {
				t.Errorf("the answer tells: %s", a.body)
			}
		})
	}
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			client := adminClient(s.HTTPClient(), p.opts...)
			if _, err := client.ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{}); connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("without the token: %v", err)
			}
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("Authorization", "Bearer "+adminToken)
			if res, err := client.ListObjectTypes(ctx, &adminv1.ListObjectTypesRequest{}); err != nil || len(res.GetTypes()) < 6 {
				t.Errorf("with it: %v, %v", res, err)
			}
		})
	}
	t.Run("reflection and health", func(t *testing.T) {
		body, _ := frame(t, s, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "\x3a\x00")
		if !strings.Contains(body, "durable.admin.v1.AdminService") {
			t.Errorf("not listed: %q", body)
		}
		if a := post(t, s, "/grpc.health.v1.Health/Check", `{"service":"durable.admin.v1.AdminService"}`, nil); a.field(t, "status") != "SERVING_STATUS_SERVING" {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("no key in the URL", func(t *testing.T) {
		if a := post(t, s, "/-/name/a"+path, `{}`, http.Header{"Authorization": {"Bearer " + adminToken}}); a.status != http.StatusNotFound {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("interceptors do not see it", func(t *testing.T) {
		refuse := func(connect.ServerFunc) connect.ServerFunc {
			return func(context.Context, connect.Spec, connect.ServerStream) error {
				return connect.NewError(connect.CodePermissionDenied, "no")
			}
		}
		s := durabletest.New(t, lab.Register, server.WithAdminToken(adminToken), server.WithInterceptors(refuse))
		if a := post(t, s, path, `{}`, http.Header{"Authorization": {"Bearer " + adminToken}}); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("a token that is none", func(t *testing.T) {
		for token, want := range map[string]string{
			"":                            "0 bytes, and must have at least 16",
			"fifteen-bytes-x":             "15 bytes, and must have at least 16",
			"a blank in the token":        "0x20",
			"a-line-break-in-it-\n":       "0x0a",
			"ümlaut-in-the-token-of-mine": "0xc3",
		} {
			_, errNew := server.New(t.Context(), nil, server.WithAdminToken(token))
			_, errHandler := s.Server().AdminHandler(server.RequireToken(token))
			for _, err := range []error{errNew, errHandler} {
				if err == nil || !strings.Contains(err.Error(), want) || token != "" && strings.Contains(err.Error(), token) {
					t.Errorf("%q: %v, want %q", token, err, want)
				}
			}
		}
	})
}

func TestAdminHandler(t *testing.T) { // SEC-01
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	open, err := s.Server().AdminHandler()
	if err != nil {
		t.Fatal(err)
	}
	closed, err := s.Server().AdminHandler(server.RequireToken(adminToken))
	if err != nil {
		t.Fatal(err)
	}
	const reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	grpc := http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	const symbol = "durable.admin.v1.AdminService"
	message := "\x22" + string(rune(len(symbol))) + symbol // file_containing_symbol
	message = "\x00\x00\x00\x00" + string(rune(len(message))) + message
	for name, c := range map[string]struct {
		client *http.Client
		token  bool
	}{"open": {clientOf(open), false}, "with a token": {clientOf(closed), true}} {
		t.Run(name, func(t *testing.T) {
			if c.token {
				if a := ask(t, c.client, "/"+symbol+"/ListObjectTypes", `{}`, nil); a.status != http.StatusUnauthorized {
					t.Errorf("service: status %d: %s", a.status, a.body)
				}
				if a := ask(t, c.client, reflection, message, grpc); a.header.Get("Grpc-Status") != "16" && a.trailer.Get("Grpc-Status") != "16" {
					t.Errorf("reflection: status %d: %v %v %q", a.status, a.header, a.trailer, a.body)
				}
			}
			header := http.Header{}
			if c.token {
				header.Set("Authorization", "Bearer "+adminToken)
			}
			if a := ask(t, c.client, "/"+symbol+"/ListObjectTypes", `{}`, header); a.status != http.StatusOK || !strings.Contains(a.body, "lab.recorder") {
				t.Errorf("service: status %d: %s", a.status, a.body)
			}
			if a := ask(t, c.client, "/grpc.health.v1.Health/Check", `{"service":"`+symbol+`"}`, nil); a.field(t, "status") != "SERVING_STATUS_SERVING" {
				t.Errorf("health: status %d: %s", a.status, a.body)
			}
			if a := ask(t, c.client, "/lab.v1.CounterService/Get", `{"name":"a"}`, header); a.status != http.StatusNotFound {
				t.Errorf("an object: status %d: %s", a.status, a.body)
			}
			for key, values := range grpc {
				header[key] = values
			}
			a := ask(t, c.client, reflection, message, header)
			if !strings.Contains(a.body, "durable/admin/v1/admin.proto") {
				t.Errorf("reflection: status %d: %v %q", a.status, a.trailer, a.body)
			}
			if a := ask(t, c.client, reflection, "\x00\x00\x00\x00\x02\x3a\x00", header); strings.Contains(a.body, "lab.v1") || !strings.Contains(a.body, symbol) {
				t.Errorf("listed: %q", a.body)
			}
		})
	}
}

// logged keeps what was logged.
type logged struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

// take returns the attributes of every line so far, and forgets them.
func (l *logged) take(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for dec := json.NewDecoder(&l.lines); ; {
		var line map[string]any
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if line["msg"] == "admin change" {
			delete(line, "time")
			all = append(all, line)
		}
	}
}

func TestAdminLog(t *testing.T) { // WISH-04
	t.Parallel()
	log := &logged{}
	o := operate(t, server.WithLogger(slog.New(slog.NewJSONHandler(log, nil))))
	o.record(t, "a")
	id := durable.IDFromName("lab.recorder", "a").String()
	const a = `{"type":"lab.recorder","name":"a"`
	for _, c := range []struct {
		method, rest string
		want         map[string]any // beside what is the same for all
	}{
		{"EvictObject", `}`, map[string]any{"change": "evict", "changed": true}},
		{"AbortObject", `,"reason":"why not"}`, map[string]any{"change": "abort", "changed": false, "reason": "why not"}},
		{"SetAlarm", `,"time":"2999-01-01T00:00:00Z"}`, map[string]any{"change": "set alarm", "changed": true, "alarm": "", "due": "2999-01-01T00:00:00Z"}},
		{"SetAlarm", `,"alarm":"note","time":"2999-01-01T00:00:00Z","payload":{"@type":"type.googleapis.com/lab.v1.AppendRequest","text":"fail"}}`, map[string]any{"change": "set alarm", "changed": true, "alarm": "note", "due": "2999-01-01T00:00:00Z"}},
		{"RunAlarm", `}`, map[string]any{"change": "run alarm", "changed": true, "alarm": ""}},
		{"RunAlarm", `,"alarm":"note"}`, map[string]any{"change": "run alarm", "alarm": "note", "error": "failed_precondition: not now"}},
		{"DeleteAlarm", `,"alarm":"note"}`, map[string]any{"change": "delete alarm", "changed": true, "alarm": "note"}},
		{"DeleteObject", `}`, map[string]any{"change": "delete", "changed": true}},
		{"ListObjectTypes", ``, nil},
		{"ListObjects", ``, nil},
		{"DescribeObject", `}`, nil},
		{"ListPairs", `}`, nil},
		{"ListAlarms", `}`, nil},
	} {
		body := a + c.rest
		switch c.method {
		case "ListObjectTypes":
			body = `{}`
		case "ListObjects":
			body = `{"type":"lab.recorder"}`
		}
		o.post(t, c.method, body)
		var want []map[string]any
		if c.want != nil {
			all := map[string]any{"level": "INFO", "msg": "admin change", "type": "lab.recorder", "id": id, "name": "a", "peer": "192.0.2.7:1234"}
			for key, value := range c.want {
				all[key] = value
			}
			want = append(want, all)
		}
		if diff := cmp.Diff(want, log.take(t)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, body, diff)
		}
	}
}
