package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
)

func start(t *testing.T, opts ...server.Option) *durabletest.Server {
	t.Helper()
	t.Parallel()
	return durabletest.New(t, lab.Register, opts...)
}

// protocols are the ways to call over HTTP.
var protocols = []struct {
	name string
	opts []connecthttp.Option
}{
	{"Connect", nil},
	{"Connect JSON", []connecthttp.Option{connecthttp.WithProtoJSON()}},
	{"Connect GET", []connecthttp.Option{connecthttp.WithHTTPGet()}},
	{"gRPC", []connecthttp.Option{connecthttp.WithGRPC()}},
	{"gRPC-Web", []connecthttp.Option{connecthttp.WithGRPCWeb()}},
}

func over(s *durabletest.Server, opts ...connecthttp.Option) durable.Conn {
	return durableconnect.New(s.HTTPClient(), s.URL(), opts...)
}

// An answer is a response to a bare HTTP request.
type answer struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
}

// send sends a bare request.
func send(t *testing.T, s *durabletest.Server, method, path, body string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if req.Header.Get("Content-Type") == "" && method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	client := *s.HTTPClient()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
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

// post calls a method with JSON.
func post(t *testing.T, s *durabletest.Server, path, body string, header http.Header) answer {
	t.Helper()
	return send(t, s, http.MethodPost, path, body, header)
}

// reason returns the reason in the error of a Connect answer.
func (a answer) reason(t *testing.T) string {
	t.Helper()
	var body struct {
		Details []struct {
			Type  string `json:"type"`
			Debug struct {
				Reason string `json:"reason"`
			} `json:"debug"`
		} `json:"details"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%q: %v", a.body, err)
	}
	for _, d := range body.Details {
		if d.Type == "durable.v1.ErrorInfo" {
			return strings.TrimPrefix(d.Debug.Reason, "ERROR_REASON_")
		}
	}
	return ""
}

// field returns a field of a JSON answer.
func (a answer) field(t *testing.T, name string) string {
	t.Helper()
	var body map[string]any
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%q: %v", a.body, err)
	}
	text, _ := body[name].(string)
	return text
}

const whoami = "/lab.v1.PlainService/Whoami"

func TestKeyOverHTTP(t *testing.T) {
	s := start(t)
	id := durable.NewUniqueID("lab.plain").String()
	named := durable.IDFromName("lab.plain", "a").String()
	other := durable.IDFromName("lab.kv", "a").String()
	for _, c := range []struct {
		name   string
		path   string
		header http.Header
		want   string // the name
		reason string
		status int
	}{
		{name: "URL", path: "/-/name/a" + whoami, want: "a"},
		{name: "URL, escaped slash", path: "/-/name/a%2Fb" + whoami, want: "a/b"},
		{name: "URL, UTF-8", path: "/-/name/%E6%97%A5" + whoami, want: "日"},
		{name: "URL, bare UTF-8", path: "/-/name/日" + whoami, want: "日"},
		{name: "URL, blank", path: "/-/name/a%20b" + whoami, want: "a b"},
		{name: "URL, plus", path: "/-/name/a+b" + whoami, want: "a+b"},
		{name: "URL, percent", path: "/-/name/100%25" + whoami, want: "100%"},
		{name: "URL, escaped twice", path: "/-/name/a%252Fb" + whoami, want: "a%2Fb"},
		{name: "URL, dots", path: "/-/name/%2E%2E" + whoami, want: ".."},
		{name: "URL, question mark", path: "/-/name/a%3Fb" + whoami, want: "a?b"},
		{name: "URL, id", path: "/-/id/" + id + whoami},
		{name: "URL, id in upper case", path: "/-/id/" + strings.ToUpper(id) + whoami},
		{name: "header", path: whoami, header: http.Header{"Durable-Name": {"a%2F%E6%97%A5"}}, want: "a/日"},
		{name: "header, id", path: whoami, header: http.Header{"Durable-Id": {id}}},
		{name: "header and URL", path: "/-/name/a" + whoami, header: http.Header{"Durable-Name": {"%61"}}, want: "a"},
		{name: "id and name", path: "/-/id/" + named + whoami, header: http.Header{"Durable-Name": {"a"}}, want: "a"},
		{name: "the same header twice", path: whoami, header: http.Header{"Durable-Name": {"a", "a"}}, want: "a"},

		{name: "missing", path: whoami, reason: "KEY_MISSING"},
		{name: "headers in conflict", path: whoami, header: http.Header{"Durable-Name": {"a", "b"}}, reason: "KEY_CONFLICT"},
		{name: "header and URL in conflict", path: "/-/name/a" + whoami, header: http.Header{"Durable-Name": {"b"}}, reason: "KEY_CONFLICT"},
		{name: "name and id in conflict", path: "/-/name/b" + whoami, header: http.Header{"Durable-Id": {id}}, reason: "KEY_CONFLICT"},
		{name: "empty header", path: whoami, header: http.Header{"Durable-Name": {""}}, reason: "KEY_INVALID"},
		{name: "bad escape in a header", path: whoami, header: http.Header{"Durable-Name": {"%zz"}}, reason: "KEY_INVALID"},
		{name: "empty name in the URL", path: "/-/name/" + whoami, reason: "KEY_INVALID"},
		{name: "bad UTF-8 in the URL", path: "/-/name/%FF" + whoami, reason: "KEY_INVALID"},
		{name: "NUL in the URL", path: "/-/name/a%00" + whoami, reason: "KEY_INVALID"},
		{name: "short id", path: "/-/id/abc" + whoami, reason: "KEY_INVALID"},
		{name: "id of another type", path: "/-/id/" + other + whoami, reason: "ID_WRONG_TYPE"},
		{name: "long name", path: "/-/name/" + strings.Repeat("x", 1025) + whoami, reason: "KEY_INVALID"},

		{name: "no method", path: "/-/name/a", status: http.StatusNotFound},
		{name: "another kind", path: "/-/key/a" + whoami, status: http.StatusNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := post(t, s, c.path, `{}`, c.header)
			switch {
			case c.status != 0:
				if a.status != c.status {
					t.Errorf("status %d, want %d: %s", a.status, c.status, a.body)
				}
			case c.reason != "":
				if a.status != http.StatusBadRequest || a.field(t, "code") != "invalid_argument" || a.reason(t) != c.reason {
					t.Errorf("status %d, want reason %s: %s", a.status, c.reason, a.body)
				}
			default:
				if a.status != http.StatusOK {
					t.Fatalf("status %d: %s", a.status, a.body)
				}
				wantID := id
				if c.want != "" {
					wantID = durable.IDFromName("lab.plain", c.want).String()
				}
				if diff := cmp.Diff([]string{c.want, wantID}, []string{a.field(t, "name"), a.field(t, "id")}); diff != "" {
					t.Errorf("name and id (-want +got):\n%s", diff)
				}
			}
		})
	}
	t.Run("the path is not cleaned into another call", func(t *testing.T) {
		for _, path := range []string{"/-/name/a/" + whoami, "/-/name/a/x/.." + whoami} {
			if a := post(t, s, path, `{}`, nil); a.status/100 == 2 || a.status/100 == 3 {
				t.Errorf("%s: status %d, %v %s", path, a.status, a.header.Get("Location"), a.body)
			}
		}
	})
	t.Run("the server fills the field", func(t *testing.T) {
		a := post(t, s, "/-/name/x%2Fy/lab.v1.RecorderService/InspectTx", `{}`, nil)
		if !strings.Contains(a.body, `"field":"x/y"`) {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		a = post(t, s, "/-/name/x/lab.v1.UniqueService/Touch", `{}`, nil)
		if want := durable.IDFromName("lab.unique", "x").String(); a.field(t, "field") != want {
			t.Errorf("field %q, want %s: %s", a.field(t, "field"), want, a.body)
		}
	})
}

func TestKeyOptions(t *testing.T) {
	t.Parallel()
	l := &lab.Lab{Options: []durable.ObjectOption{durable.WithDefaultName("main"), durable.WithKeyHeader("X-Tenant"), durable.WithKeyHeader("x-room")}}
	s := durabletest.New(t, l.Register)
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"default", nil, "main"},
		{"header of ours", http.Header{"Durable-Name": {"a"}}, "a"},
		{"key header, as it is", http.Header{"X-Tenant": {"a%2Fb"}}, "a%2Fb"},
		{"second key header", http.Header{"X-Room": {"r"}}, "r"},
		{"both agree", http.Header{"X-Tenant": {"a"}, "Durable-Name": {"a"}}, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := post(t, s, whoami, `{}`, c.header)
			if a.field(t, "name") != c.want {
				t.Errorf("name %q, want %q: %s", a.field(t, "name"), c.want, a.body)
			}
		})
	}
	t.Run("in conflict", func(t *testing.T) {
		if a := post(t, s, whoami, `{}`, http.Header{"X-Tenant": {"a"}, "Durable-Name": {"b"}}); a.reason(t) != "KEY_CONFLICT" {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("caches are told of key headers", func(t *testing.T) {
		a := send(t, s, http.MethodGet, whoami+"?connect=v1&encoding=json&message=%7B%7D", "", http.Header{"X-Tenant": {"a"}})
		vary := strings.Join(a.header.Values("Vary"), ", ")
		for _, name := range []string{"Durable-Name", "Durable-Id", "X-Tenant", "X-Room"} {
			if !strings.Contains(strings.ToLower(vary), strings.ToLower(name)) {
				t.Errorf("Vary is %q, without %s", vary, name)
			}
		}
	})
	t.Run("streams", func(t *testing.T) {
		client := connect.NewClient(connecthttp.NewTransport(s.HTTPClient(), s.URL()))
		count, fields := collect(t, client, "", "")
		if count != 2 || fields[0] != "main" {
			t.Errorf("%d messages of %v", count, fields)
		}
	})
}

// collect sends messages for the named objects and returns what came back.
func collect(t *testing.T, client *connect.Client, names ...string) (int64, []string) {
	t.Helper()
	res, err := tryCollect(t, client, names...)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetCount(), res.GetFields()
}

func tryCollect(t *testing.T, client *connect.Client, names ...string) (*labv1.CollectResponse, error) {
	t.Helper()
	stream, err := client.CallClientStream(t.Context(), connect.Spec{
		Procedure: labv1durable.RecorderCollectProcedure, StreamType: connect.StreamTypeClient,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, name := range names {
		if err := stream.Send(&labv1.CollectRequest{Name: name, Text: "x"}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	res := &labv1.CollectResponse{}
	return res, stream.Receive(res)
}

func TestStreamKeyedByFirstMessage(t *testing.T) {
	s := start(t)
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			client := connect.NewClient(connecthttp.NewTransport(s.HTTPClient(), s.URL(), p.opts...))
			count, fields := collect(t, client, "a", "", "a")
			if diff := cmp.Diff([]string{"a", "a", "a"}, fields); count != 3 || diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			for name, c := range map[string]struct {
				names  []string
				reason durablev1.ErrorReason
			}{
				"a later message in conflict":  {[]string{"a", "b"}, durablev1.ErrorReason_ERROR_REASON_KEY_CONFLICT},
				"a first message without":      {[]string{"", "a"}, durablev1.ErrorReason_ERROR_REASON_KEY_MISSING},
				"no message":                   {nil, durablev1.ErrorReason_ERROR_REASON_KEY_MISSING},
				"a name that is none":          {[]string{"a\x00"}, durablev1.ErrorReason_ERROR_REASON_KEY_INVALID},
				"a later name that is invalid": {[]string{"a", "a\x00"}, durablev1.ErrorReason_ERROR_REASON_KEY_INVALID},
			} {
				_, err := tryCollect(t, client, c.names...)
				if got := durableconnect.ErrorInfo(err).GetReason(); connect.CodeOf(err) != connect.CodeInvalidArgument || got != c.reason {
					t.Errorf("%s: %v, reason %v", name, err, got)
				}
			}
		})
	}
}

func TestGET(t *testing.T) {
	s := start(t)
	query := func(message string) string {
		return "?" + url.Values{"connect": {"v1"}, "encoding": {"json"}, "message": {message}}.Encode()
	}
	t.Run("a reading method", func(t *testing.T) {
		a := send(t, s, http.MethodGet, "/lab.v1.RecorderService/ReadAll"+query(`{"name":"a"}`), "", nil)
		if a.status != http.StatusOK {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control %q", a.header.Get("Cache-Control"))
		}
		if vary := strings.Join(a.header.Values("Vary"), ", "); !strings.Contains(vary, "Durable-Name") || !strings.Contains(vary, "Durable-Id") {
			t.Errorf("Vary %q", vary)
		}
	})
	t.Run("its key in the URL", func(t *testing.T) {
		a := send(t, s, http.MethodGet, "/-/name/a%2Fb"+whoami+query(`{}`), "", nil)
		if a.status != http.StatusOK || a.field(t, "name") != "a/b" {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("the handler has the say on caches", func(t *testing.T) {
		a := send(t, s, http.MethodGet, "/lab.v1.RecorderService/Inspect"+query(`{"name":"a","headers":{"Cache-Control":"max-age=5"}}`), "", nil)
		if got := a.header.Values("Cache-Control"); !cmp.Equal(got, []string{"max-age=5"}) {
			t.Errorf("Cache-Control %q", got)
		}
	})
	t.Run("errors are not cached", func(t *testing.T) {
		a := send(t, s, http.MethodGet, whoami+query(`{}`), "", nil)
		if a.status != http.StatusBadRequest || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("status %d, Cache-Control %q", a.status, a.header.Get("Cache-Control"))
		}
	})
	t.Run("a POST says nothing of caches", func(t *testing.T) {
		if a := post(t, s, "/-/name/a"+whoami, `{}`, nil); a.header.Get("Cache-Control") != "" {
			t.Errorf("Cache-Control %q", a.header.Get("Cache-Control"))
		}
	})
	t.Run("a writing method", func(t *testing.T) {
		a := send(t, s, http.MethodGet, "/lab.v1.RecorderService/Append"+query(`{"name":"a"}`), "", nil)
		if a.status != http.StatusMethodNotAllowed {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		if got := post(t, s, "/lab.v1.RecorderService/ReadAll", `{"name":"a"}`, nil).body; got != "{}" {
			t.Errorf("it ran: %s", got)
		}
	})
}

func TestInternalHeadersAreStripped(t *testing.T) { // SEC-04
	s := start(t)
	a := post(t, s, "/lab.v1.RecorderService/Inspect", `{"name":"a"}`, http.Header{
		"Durable-Chain": {"x"}, "Durable-Epoch": {"x"}, "durable-session": {"x"}, "Durable-": {"x"},
		"X-Mine": {"kept"}, "Durable-Name": {"a"},
	})
	var body struct {
		Seen struct{ Headers map[string]string }
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("status %d, %q: %v", a.status, a.body, err)
	}
	for name := range body.Seen.Headers {
		if strings.HasPrefix(strings.ToLower(name), "durable-") && name != "Durable-Name" {
			t.Errorf("%s came through", name)
		}
	}
	if body.Seen.Headers["X-Mine"] != "kept" {
		t.Errorf("headers %v", body.Seen.Headers)
	}
}

func TestMessageSize(t *testing.T) {
	t.Parallel()
	limited := durabletest.New(t, lab.Register, server.WithMaxMessageBytes(1000))
	usual := durabletest.New(t, lab.Register)
	appendText := func(s *durabletest.Server, n int, opts ...connecthttp.Option) error {
		r := labv1durable.NewRecorderClient(over(s, opts...)).GetByName("a")
		_, err := r.Append(t.Context(), &labv1.AppendRequest{Text: strings.Repeat("x", n)})
		return err
	}
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			if err := appendText(limited, 900, p.opts...); err != nil {
				t.Errorf("900 bytes of 1000: %v", err)
			}
			for _, zip := range [][]connecthttp.Option{nil, {connecthttp.WithSendGzip()}} {
				err := appendText(limited, 2000, append(p.opts[:len(p.opts):len(p.opts)], zip...)...)
				if connect.CodeOf(err) != connect.CodeResourceExhausted {
					t.Errorf("2000 bytes of 1000, gzip %v: %v", zip != nil, err)
				}
			}
			if err := appendText(usual, 5<<20, p.opts...); connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("5 MiB of the usual 4: %v", err)
			}
		})
	}
}

func TestGzip(t *testing.T) {
	s := start(t)
	text := strings.Repeat("compress me ", 1000)
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			r := labv1durable.NewRecorderClient(over(s, append(p.opts[:len(p.opts):len(p.opts)], connecthttp.WithSendGzip())...)).GetByName(p.name)
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			res, err := r.ReadAll(t.Context(), &labv1.ReadAllRequest{})
			if err != nil || !cmp.Equal(res.GetTexts(), []string{text}) {
				t.Errorf("%d texts, error %v", len(res.GetTexts()), err)
			}
		})
	}
	t.Run("on the wire", func(t *testing.T) {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, _ = w.Write([]byte(`{"name":"Connect"}`))
		_ = w.Close()
		a := post(t, s, "/lab.v1.RecorderService/ReadAll", zipped.String(), http.Header{
			"Content-Encoding": {"gzip"}, "Accept-Encoding": {"gzip"}, "Content-Type": {"application/json"},
		})
		if a.status != http.StatusOK || a.header.Get("Content-Encoding") != "gzip" || len(a.body) > len(text)/2 {
			t.Errorf("status %d, encoding %q, %d bytes", a.status, a.header.Get("Content-Encoding"), len(a.body))
		}
	})
}

func TestTimeouts(t *testing.T) {
	s := start(t)
	left := func(t *testing.T, ctx context.Context, opts ...connecthttp.Option) time.Duration {
		t.Helper()
		res, err := labv1durable.NewRecorderClient(over(s, opts...)).GetByName("a").InspectTx(ctx, &labv1.InspectTxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(res.GetSeen().GetDeadlineMs()) * time.Millisecond
	}
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			if d := left(t, t.Context(), p.opts...); d <= 20*time.Second || d > 30*time.Second {
				t.Errorf("without a deadline the handler has %v, want 30 s", d)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if d := left(t, ctx, p.opts...); d <= 0 || d > 15*time.Second {
				t.Errorf("with 15 s the handler has %v", d)
			}
			ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if d := left(t, ctx, p.opts...); d <= 20*time.Second || d > 30*time.Second {
				t.Errorf("with an hour the handler has %v, want 30 s", d)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := labv1durable.NewRecorderClient(over(s, p.opts...)).GetByName("b").Misbehave(ctx,
				&labv1.MisbehaveRequest{Fault: &labv1.MisbehaveRequest_Hang{Hang: true}})
			if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
				t.Errorf("a handler that hangs: %v", err)
			}
		})
	}
	t.Run("Connect-Timeout-Ms", func(t *testing.T) {
		a := post(t, s, "/lab.v1.RecorderService/Misbehave", `{"name":"c","hang":true}`, http.Header{"Connect-Timeout-Ms": {"20"}})
		if a.field(t, "code") != "deadline_exceeded" {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
}

func TestUnknownProcedures(t *testing.T) {
	s := start(t)
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			for _, procedure := range []string{"/lab.v1.RecorderService/Nothing", "/lab.v1.NoService/Append"} {
				for _, spec := range []durable.MethodSpec{
					{Procedure: procedure}, {Procedure: procedure, ReadOnly: true},
				} {
					ref := durable.RefByName(over(s, p.opts...), "lab.recorder", "a")
					_, err := durable.CallUnary[labv1.AppendResponse](t.Context(), ref, spec, &labv1.AppendRequest{}, nil)
					if connect.CodeOf(err) != connect.CodeUnimplemented {
						t.Errorf("%s, read only %v: %v", procedure, spec.ReadOnly, err)
					}
				}
				ref := durable.RefByName(over(s, p.opts...), "lab.recorder", "a")
				stream, err := durable.CallServerStream[labv1.TailResponse](t.Context(), ref, durable.MethodSpec{Procedure: procedure}, &labv1.TailRequest{}, nil)
				if err == nil {
					_, err = stream.Receive()
					_ = stream.Close()
				}
				if connect.CodeOf(err) != connect.CodeUnimplemented {
					t.Errorf("%s, streaming: %v", procedure, err)
				}
			}
		})
	}
	t.Run("something else", func(t *testing.T) {
		if a := send(t, s, http.MethodGet, "/favicon.ico", "", nil); a.status != http.StatusNotFound {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
}

func TestFallback(t *testing.T) {
	s := start(t, server.WithFallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "fallback "+r.URL.Path)
	})))
	if a := send(t, s, http.MethodGet, "/index.html", "", nil); a.body != "fallback /index.html" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a := post(t, s, "/-/name/a"+whoami, `{}`, nil); a.field(t, "name") != "a" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

func TestOnlyObjectsHaveKeysInURLs(t *testing.T) {
	s := start(t, server.WithFallback(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "fallback")
	})))
	grpc := http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	for name, c := range map[string]struct {
		method, path string
		header       http.Header
	}{
		"a page":             {http.MethodGet, "/-/name/a/index.html", nil},
		"a page in a folder": {http.MethodGet, "/-/name/a/admin/index.html", nil},
		"nothing":            {http.MethodGet, "/-/", nil},
		"no key":             {http.MethodGet, "/-/name", nil},
		"no procedure":       {http.MethodGet, "/-/id/a/", nil},
		"health":             {http.MethodPost, "/-/name/a/grpc.health.v1.Health/Check", nil},
		"reflection":         {http.MethodPost, "/-/name/a/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", grpc},
		"an unknown service": {http.MethodPost, "/-/name/a/lab.v1.NoService/Append", nil},
		"a service alone":    {http.MethodPost, "/-/name/a/lab.v1.RecorderService", nil},
		"a service, slash":   {http.MethodPost, "/-/name/a/lab.v1.RecorderService/", nil},
		"below a method":     {http.MethodPost, "/-/name/a" + whoami + "/x", nil},
		"a key within a key": {http.MethodPost, "/-/name/a/-/name/b" + whoami, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if a := send(t, s, c.method, c.path, `{}`, c.header); a.status != http.StatusNotFound || strings.Contains(a.body, "fallback") {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		})
	}
	if a := post(t, s, "/-/name/a/lab.v1.RecorderService/Nothing", `{}`, nil); a.field(t, "code") != "unimplemented" {
		t.Errorf("an unknown method: status %d: %s", a.status, a.body)
	}
}

func TestHealthAndReflectionTakeLittle(t *testing.T) {
	s := start(t)
	huge := strings.Repeat("x", 1<<20)
	if a := post(t, s, "/grpc.health.v1.Health/Check", `{"service":"`+huge+`"}`, nil); a.field(t, "code") != "resource_exhausted" {
		t.Errorf("health: status %d: %.100s", a.status, a.body)
	}
	for _, version := range []string{"v1", "v1alpha"} {
		message := "\x22" + string(binary.AppendUvarint(nil, uint64(len(huge)))) + huge
		_, status := frame(t, s, "/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo", message)
		if status != strconv.Itoa(int(connect.CodeResourceExhausted)) {
			t.Errorf("reflection %s: status %q", version, status)
		}
	}
}

// frame asks a gRPC method with one message and returns the messages that came
// back, and the status.
func frame(t *testing.T, s *durabletest.Server, path, message string) (body, status string) {
	t.Helper()
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	a := send(t, s, http.MethodPost, path, string(head)+message, http.Header{
		"Content-Type": {"application/grpc"}, "Te": {"trailers"},
	})
	status = a.trailer.Get("Grpc-Status")
	if status == "" {
		status = a.header.Get("Grpc-Status")
	}
	return a.body, status
}

func TestReflection(t *testing.T) {
	s := start(t)
	symbol := "lab.v1.RecorderService"
	for _, version := range []string{"v1", "v1alpha"} {
		t.Run(version, func(t *testing.T) {
			path := "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo"
			body, status := frame(t, s, path, "\x3a\x00") // list_services
			for _, name := range []string{symbol, "lab.v1.KVLabService", "grpc.health.v1.Health"} {
				if !strings.Contains(body, name) {
					t.Errorf("%s is not listed", name)
				}
			}
			if status != "0" {
				t.Errorf("status %q", status)
			}
			body, _ = frame(t, s, path, "\x22"+string(rune(len(symbol)))+symbol) // file_containing_symbol
			if !strings.Contains(body, "lab/v1/lab.proto") {
				t.Errorf("the file of %s did not come: %q", symbol, body)
			}
			body, _ = frame(t, s, path, "\x1a\x18durable/v1/options.proto") // file_by_filename
			if !strings.Contains(body, "KEY_KIND_NAME") {
				t.Error("the file of our options did not come")
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		s := durabletest.New(t, lab.Register, server.WithoutReflection())
		_, status := frame(t, s, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "\x3a\x00")
		if status != strconv.Itoa(int(connect.CodeUnimplemented)) {
			t.Errorf("status %q", status)
		}
	})
}

func TestHealth(t *testing.T) {
	s := start(t)
	check := func(service string) answer {
		return post(t, s, "/grpc.health.v1.Health/Check", `{"service":"`+service+`"}`, nil)
	}
	for _, service := range []string{"", "lab.v1.RecorderService"} {
		if a := check(service); a.field(t, "status") != "SERVING_STATUS_SERVING" {
			t.Errorf("%q: status %d: %s", service, a.status, a.body)
		}
	}
	if a := check("lab.v1.NoService"); a.field(t, "code") != "not_found" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if err := s.Server().Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"", "lab.v1.RecorderService"} {
		if a := check(service); a.field(t, "status") != "SERVING_STATUS_NOT_SERVING" {
			t.Errorf("draining, %q: status %d: %s", service, a.status, a.body)
		}
	}
	a := post(t, s, "/-/name/a"+whoami, `{}`, nil)
	if a.field(t, "code") != "unavailable" || a.reason(t) != "DRAINING" {
		t.Errorf("draining: status %d: %s", a.status, a.body)
	}
}

func TestStrictJSON(t *testing.T) {
	t.Parallel()
	strict := durabletest.New(t, lab.Register, server.WithStrictJSON())
	loose := durabletest.New(t, lab.Register)
	const path, body = "/lab.v1.RecorderService/Append", `{"name":"a","text":"x","colour":"red"}`
	if a := post(t, strict, path, body, nil); a.field(t, "code") != "invalid_argument" {
		t.Errorf("strict: status %d: %s", a.status, a.body)
	}
	if a := post(t, loose, path, body, nil); a.status != http.StatusOK {
		t.Errorf("loose: status %d: %s", a.status, a.body)
	}
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			r := labv1durable.NewRecorderClient(over(strict, p.opts...)).GetByName(p.name)
			if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
				t.Errorf("strict: %v", err)
			}
		})
	}
}

func TestExactIntegersInJSON(t *testing.T) { // GO-10
	s := start(t)
	const path = "/lab.v1.CounterService/Increment"
	a := post(t, s, path, `{"name":"a","delta":"9007199254740993"}`, nil)
	if a.field(t, "value") != "9007199254740993" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	a = post(t, s, path, `{"name":"a","delta":9007199254740993}`, nil) // a number is read exactly, too
	if a.field(t, "value") != "18014398509481986" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if a = post(t, s, path, `{"name":"a","delta":"9223372036854775808"}`, nil); a.field(t, "code") != "invalid_argument" {
		t.Errorf("2^63: status %d: %s", a.status, a.body)
	}
}

func TestInterceptors(t *testing.T) {
	var order []string
	named := func(name string) connect.ServerInterceptor {
		return func(next connect.ServerFunc) connect.ServerFunc {
			return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
				order = append(order, name+" "+spec.Procedure)
				return next(ctx, spec, stream)
			}
		}
	}
	refuse := func(connect.ServerFunc) connect.ServerFunc {
		return func(context.Context, connect.Spec, connect.ServerStream) error {
			return connect.NewError(connect.CodeUnauthenticated, "who are you?")
		}
	}
	t.Parallel()
	l := &lab.Lab{}
	s := durabletest.New(t, l.Register, server.WithInterceptors(named("a"), named("b")), server.WithInterceptors(refuse))
	a := post(t, s, "/lab.v1.RecorderService/Append", `{"name":"a"}`, nil)
	if a.field(t, "code") != "unauthenticated" {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if diff := cmp.Diff([]string{"a /lab.v1.RecorderService/Append", "b /lab.v1.RecorderService/Append"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if n := l.Constructed.Load(); n != 0 {
		t.Errorf("%d constructors ran", n)
	}
}

func TestPlainErrors(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, (&lab.Lab{Options: []durable.ObjectOption{durable.WithPlainErrors()}}).Register)
	fault := func(fault string) answer {
		return post(t, s, "/lab.v1.RecorderService/Misbehave", `{"name":"a",`+fault+`}`, nil)
	}
	if a := fault(`"fail":{"code":5,"message":"x","details":["one"],"spoof":true}`); a.field(t, "code") != "not_found" ||
		strings.Contains(a.body, "ErrorInfo") || !strings.Contains(a.body, "StringValue") {
		t.Errorf("of the handler: %s", a.body)
	}
	if a := fault(`"abort":"enough"`); a.reason(t) != "RESET" {
		t.Errorf("of the runtime: %s", a.body)
	}
}
