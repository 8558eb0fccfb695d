package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
)

const (
	joinPath  = labv1durable.ChatLabJoinProcedure
	watchPath = labv1durable.ChatLabWatchProcedure
	roomPath  = "/-/name/room" + joinPath
)

// startChat starts a server whose chat labs do what chat says.
func startChat(t *testing.T, chat *lab.Lab, opts ...server.Option) *durabletest.Server {
	t.Helper()
	return durabletest.New(t, chat.Register, opts...)
}

// A peer is the client's end of a WebSocket.
type peer struct {
	*websocket.Conn
	t *testing.T
}

// A dialing is what a client asks for. The zero value asks for nothing beside.
type dialing struct {
	subprotocols []string
	header       http.Header
	compress     bool
}

// handshake returns the peer, or the refusal.
func (d dialing) handshake(t *testing.T, s *durabletest.Server, path string) (*peer, *answer) {
	t.Helper()
	dialer := websocket.Dialer{
		NetDialContext: s.HTTPClient().Transport.(*http.Transport).DialContext, Subprotocols: d.subprotocols,
		EnableCompression: d.compress,
	}
	ws, res, err := dialer.DialContext(t.Context(), "ws://durabletest"+path, d.header)
	if err != nil {
		if res == nil {
			t.Fatalf("dial %s: %v", path, err)
		}
		body, _ := io.ReadAll(res.Body)
		return nil, &answer{status: res.StatusCode, header: res.Header, body: string(body)}
	}
	t.Cleanup(func() { ws.NetConn().Close() })
	return &peer{ws, t}, nil
}

// open returns the peer of a handshake that succeeds.
func (d dialing) open(t *testing.T, s *durabletest.Server, path string) *peer {
	t.Helper()
	p, refused := d.handshake(t, s, path)
	if refused != nil {
		t.Fatalf("the handshake on %s was refused: %d %s", path, refused.status, refused.body)
	}
	return p
}

func openSocket(t *testing.T, s *durabletest.Server, path string) *peer {
	t.Helper()
	return dialing{}.open(t, s, path)
}

// text sends a text frame.
func (p *peer) text(text string) {
	p.t.Helper()
	if err := p.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.t.Fatalf("send %.100s: %v", text, err)
	}
}

// binary sends a message in a binary frame.
func (p *peer) binary(msg proto.Message) {
	p.t.Helper()
	data, err := proto.Marshal(msg)
	if err == nil {
		err = p.WriteMessage(websocket.BinaryMessage, data)
	}
	if err != nil {
		p.t.Fatalf("send %v: %v", msg, err)
	}
}

// wants checks the next message, and the kind of its frame.
func (p *peer) wants(kind int, want proto.Message) {
	p.t.Helper()
	got := want.ProtoReflect().New().Interface()
	_ = p.SetReadDeadline(time.Now().Add(2 * time.Hour)) // of a bubble, maybe
	gotKind, data, err := p.ReadMessage()
	switch {
	case err != nil:
	case gotKind == websocket.TextMessage:
		err = protojson.Unmarshal(data, got)
	default:
		err = proto.Unmarshal(data, got)
	}
	if err != nil {
		p.t.Fatalf("receive %v: %v", want, err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || gotKind != kind {
		p.t.Fatalf("received a frame with opcode %d, want %d (-want +got):\n%s", gotKind, kind, diff)
	}
}

// echoes sends a text and wants it back as the nth.
func (p *peer) echoes(text string, n int64) {
	p.t.Helper()
	p.text(fmt.Sprintf(`{"text":%q}`, text))
	p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: text, Number: n})
}

// ends checks how the server closes the connection.
func (p *peer) ends(code durable.CloseCode, reason string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(time.Minute))
	_, data, err := p.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		p.t.Fatalf("received %.100q, %v, want close code %d", data, err, code)
	}
	if closed.Code != int(code) || !strings.Contains(closed.Text, reason) || reason == "" && closed.Text != "" {
		p.t.Errorf("closed with %d %q, want %d %q", closed.Code, closed.Text, code, reason)
	}
	if code == durable.CloseProtocolError || code == durable.CloseTooBig {
		return // the server knows no frames any more, and a pipe has no half that it could close
	}
	// And then the network connection.
	if _, err := io.Copy(io.Discard, p.NetConn()); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.t.Errorf("after the close frames: %v, want EOF", err)
	}
}

// closes closes with a code and wants the same back.
func (p *peer) closes(code durable.CloseCode, reason string) {
	p.t.Helper()
	if err := p.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(int(code), reason), time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	p.ends(code, reason)
}

// raw sends bytes, and goes on when the server does not take them.
func (p *peer) raw(data ...[]byte) {
	all := bytes.Join(data, nil)
	go func() { _, _ = p.NetConn().Write(all) }()
}

// closedOnce waits until one connection was closed and returns its cause.
func closedOnce(t *testing.T, l *lab.Lab) *durable.CloseError {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if causes := l.Chat.Closed(); len(causes) > 0 {
			var closed *durable.CloseError
			if len(causes) > 1 || !errors.As(causes[0], &closed) {
				t.Fatalf("the Close handler ran with %v, want one CloseError", causes)
			}
			return closed
		}
	}
	t.Fatal("the Close handler did not run")
	return nil
}

// WS-01: both forms of frames are taken, and the subprotocol says what is sent.
func TestSocketSubprotocols(t *testing.T) {
	t.Parallel()
	s := startChat(t, new(lab.Lab))
	for name, c := range map[string]struct {
		offers []string
		agreed string
		kind   int
	}{
		"none":          {nil, "", websocket.TextMessage},
		"JSON":          {[]string{"durable.v1.json"}, "durable.v1.json", websocket.TextMessage},
		"binary":        {[]string{"durable.v1.proto"}, "durable.v1.proto", websocket.BinaryMessage},
		"both":          {[]string{"durable.v1.proto", "durable.v1.json"}, "durable.v1.proto", websocket.BinaryMessage},
		"beside others": {[]string{"token.abc", "durable.v1.json"}, "durable.v1.json", websocket.TextMessage},
	} {
		t.Run(name, func(t *testing.T) {
			p := dialing{subprotocols: c.offers}.open(t, s, roomPath)
			if p.Subprotocol() != c.agreed {
				t.Errorf("agreed on %q, want %q", p.Subprotocol(), c.agreed)
			}
			p.text(`{"text":"one","data":"AQI=","neverHeardOf":1}`)
			p.wants(c.kind, &labv1.JoinResponse{Text: "one", Data: []byte{1, 2}, Number: 1})
			p.binary(&labv1.JoinRequest{Text: "two"})
			p.wants(c.kind, &labv1.JoinResponse{Text: "two", Number: 2})
			p.closes(durable.CloseNormal, "bye")
		})
	}
}

// The key of the object comes from any place, and every place must agree.
func TestSocketKeys(t *testing.T) {
	t.Parallel()
	s := startChat(t, new(lab.Lab), server.WithKeyHeader("X-Room"))
	id := labv1durable.NewChatLabClient(s.Conn()).IDFromName("a b/é").String()
	const name, escaped = `a b/é`, "a%20b%2F%C3%A9"
	for where, c := range map[string]struct {
		path   string
		header http.Header
		first  string // message
	}{
		"name in the path":  {path: "/-/name/" + escaped + joinPath},
		"id in the path":    {path: "/-/id/" + id + joinPath},
		"name in the query": {path: joinPath + "?name=" + url.QueryEscape(name)},
		"id in the query":   {path: joinPath + "?id=" + id},
		"Durable-Name":      {path: joinPath, header: http.Header{"Durable-Name": {escaped}}},
		"Durable-Id":        {path: joinPath, header: http.Header{"Durable-Id": {id}}},
		"a key header":      {path: joinPath, header: http.Header{"X-Room": {name}}},
		"the first message": {path: joinPath, first: `"name":"` + name + `",`},
		"all of them": {
			path: "/-/name/" + escaped + joinPath + "?name=" + url.QueryEscape(name) + "&id=" + id,
			header: http.Header{
				"Durable-Name": {escaped}, "Durable-Id": {id}, "X-Room": {name},
			}, first: `"name":"` + name + `",`,
		},
	} {
		t.Run(where, func(t *testing.T) {
			p := dialing{header: c.header}.open(t, s, c.path)
			p.text("{" + c.first + `"text":"hello"}`)
			p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "hello", Number: 1})
			res, err := labv1durable.NewChatLabClient(s.Conn()).GetByName(name).Who(t.Context(), &labv1.WhoRequest{})
			if err != nil || len(res.GetPeers()) != 1 {
				t.Errorf("the connections of the object: %v, %v, want one", res, err)
			}
			p.closes(durable.CloseNormal, "")
			for len(res.GetPeers()) > 0 { // until it is gone
				if res, err = labv1durable.NewChatLabClient(s.Conn()).GetByName(name).Who(t.Context(), &labv1.WhoRequest{}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// WS-02: what a handshake shows to be wrong gets a status and a reason.
func TestSocketHandshakeRefusals(t *testing.T) {
	t.Parallel()
	s := startChat(t, new(lab.Lab))
	other := labv1durable.NewChatLabClient(s.Conn()).IDFromName("other").String()
	wrongType := labv1durable.NewCounterClient(s.Conn()).IDFromName("room").String()
	for name, c := range map[string]struct {
		path         string
		subprotocols []string
		header       http.Header
		status       int
		reason       string
	}{
		"subprotocol":         {roomPath, []string{"graphql-ws", "chat"}, nil, 400, `none of the subprotocols ["graphql-ws" "chat"] is served: offer durable.v1.json or durable.v1.proto`},
		"origin":              {roomPath, nil, http.Header{"Origin": {"https://evil.example"}}, 403, `pages of the origin "https://evil.example" may not connect to "durabletest"`},
		"no object":           {watchPath, nil, nil, 400, "the call does not say which object it is for: use the header Durable-Name or Durable-Id, or a URL"},
		"two objects":         {roomPath + "?name=hall", nil, nil, 400, "the URL and the query parameter name name different objects"},
		"two objects, by id":  {roomPath + "?id=" + other, nil, nil, 400, "the URL and the query parameter id name different objects"},
		"id":                  {joinPath + "?id=7", nil, nil, 400, "key in the query parameter id: "},
		"id of another type":  {joinPath + "?id=" + wrongType, nil, nil, 400, "key in the query parameter id: "},
		"empty name":          {joinPath + "?name=", nil, nil, 400, "key in the query parameter name: "},
		"name in the path":    {"/-/name/%ff" + joinPath, nil, nil, 400, "key in the URL: "},
		"query":               {joinPath + "?name=%zz", nil, nil, 400, `the query of the URL: invalid URL escape "%zz"`},
		"idempotency key":     {roomPath, nil, http.Header{"Idempotency-Key": {"k"}}, 400, "a stream cannot have an idempotency key"},
		"unknown method":      {"/lab.v1.ChatLabService/Leave", nil, nil, 404, ""},
		"unknown method, key": {"/-/name/room/lab.v1.ChatLabService/Leave", nil, nil, 404, ""},
		"not a connection":    {"/-/name/room/lab.v1.ChatLabService/Say", nil, nil, 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, refused := dialing{subprotocols: c.subprotocols, header: c.header}.handshake(t, s, c.path)
			if p != nil {
				t.Fatal("the WebSocket is open")
			}
			if refused.status != c.status || !strings.Contains(refused.body, c.reason) {
				t.Errorf("refused with %d %s, want %d %s", refused.status, refused.body, c.status, c.reason)
			}
		})
	}
}

// What is no handshake, in bytes.
func TestSocketBadHandshakes(t *testing.T) {
	t.Parallel()
	s := startChat(t, new(lab.Lab))
	const key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	const version, upgrade = "Sec-WebSocket-Version: 13\r\n", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
		header  string // name: value
		reason  string
	}{
		"good":              {"GET %s HTTP/1.1\r\n" + upgrade + key + version, 101, "Sec-Websocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=", ""},
		"a plain GET":       {"GET %s HTTP/1.1\r\n", 426, "Upgrade: websocket", "it needs the headers of a WebSocket handshake, over HTTP/1.1"},
		"no Connection":     {"GET %s HTTP/1.1\r\nUpgrade: websocket\r\n" + key + version, 426, "Upgrade: websocket", "a WebSocket handshake"},
		"another protocol":  {"GET %s HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + key + version, 426, "Upgrade: websocket", "a WebSocket handshake"},
		"HTTP/1.0":          {"GET %s HTTP/1.0\r\n" + upgrade + key + version, 426, "Upgrade: websocket", "over HTTP/1.1"},
		"POST":              {"POST %s HTTP/1.1\r\nContent-Length: 0\r\n" + upgrade + key + version, 505, "", ""},
		"version":           {"GET %s HTTP/1.1\r\n" + upgrade + key + "Sec-WebSocket-Version: 8\r\n", 426, "Sec-Websocket-Version: 13", `the WebSocket version "8" is not served: use 13`},
		"no version":        {"GET %s HTTP/1.1\r\n" + upgrade + key, 426, "Sec-Websocket-Version: 13", "use 13"},
		"no challenge":      {"GET %s HTTP/1.1\r\n" + upgrade + version, 400, "", "'Sec-WebSocket-Key' header must be Base64"},
		"a short challenge": {"GET %s HTTP/1.1\r\nSec-WebSocket-Key: AAAA\r\n" + upgrade + version, 400, "", "'Sec-WebSocket-Key' header must be Base64"},
	} {
		t.Run(name, func(t *testing.T) {
			_, res := rawRequest(t, s, strings.Replace(c.request, "\r\n", "\r\nHost: durabletest\r\n", 1)+"\r\n", roomPath)
			var err error
			var body []byte
			if res.StatusCode != 101 {
				if body, err = io.ReadAll(res.Body); err != nil {
					t.Fatal(err)
				}
			}
			header, value, _ := strings.Cut(c.header, ": ")
			if res.StatusCode != c.status || res.Header.Get(header) != value || !strings.Contains(string(body), c.reason) {
				t.Errorf("answered %s %v %s, want %d, %q and %q", res.Status, res.Header, body, c.status, c.header, c.reason)
			}
		})
	}
}

// rawRequest sends bytes, and returns the answer and the connection.
func rawRequest(t *testing.T, s *durabletest.Server, format string, args ...any) (net.Conn, *http.Response) {
	t.Helper()
	conn, err := s.HTTPClient().Transport.(*http.Transport).DialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, format, args...); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, res
}

// rawHandshake opens a WebSocket of which the test reads the bytes. headers are
// those beside the ones of every handshake.
func rawHandshake(t *testing.T, s *durabletest.Server, path, headers string) (net.Conn, *http.Response) {
	t.Helper()
	conn, res := rawRequest(t, s, "GET %s HTTP/1.1\r\nHost: durabletest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n", path, headers)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake got %s", res.Status)
	}
	return conn, res
}

// A page may connect to where it came from, and to where the server says it may.
func TestSocketOrigins(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		allow  []string
		host   string
		origin []string
		want   bool
	}{
		"no page":                      {nil, "chat.example", nil, true},
		"the same":                     {nil, "chat.example", []string{"https://chat.example"}, true},
		"the same, with a port":        {nil, "chat.example:8080", []string{"http://chat.example:8080"}, true},
		"the same, in capitals":        {nil, "chat.example", []string{"https://CHAT.example"}, true},
		"the same, with its own port":  {nil, "chat.example:443", []string{"https://chat.example"}, true},
		"another port":                 {nil, "chat.example:8080", []string{"http://chat.example:8081"}, false},
		"no port":                      {nil, "chat.example:8080", []string{"http://chat.example"}, false},
		"a subdomain":                  {nil, "chat.example", []string{"https://evil.chat.example"}, false},
		"a longer name":                {nil, "chat.example", []string{"https://chat.example.evil"}, false},
		"a user":                       {nil, "chat.example", []string{"https://chat.example@evil"}, false},
		"a user that is the host":      {nil, "chat.example", []string{"https://evil@chat.example"}, false},
		"a path":                       {nil, "chat.example", []string{"https://chat.example/"}, false},
		"null":                         {nil, "chat.example", []string{"null"}, false},
		"empty":                        {nil, "chat.example", []string{""}, false},
		"two":                          {nil, "chat.example", []string{"https://chat.example", "https://evil"}, false},
		"allowed":                      {[]string{"https://app.example"}, "chat.example", []string{"https://app.example"}, true},
		"allowed, with the port":       {[]string{"https://app.example:443"}, "chat.example", []string{"https://app.example"}, true},
		"allowed, by another scheme":   {[]string{"https://app.example"}, "chat.example", []string{"http://app.example"}, false},
		"not among those allowed":      {[]string{"https://app.example"}, "chat.example", []string{"https://other.example"}, false},
		"the same, beside an allowed":  {[]string{"https://app.example"}, "chat.example", []string{"https://chat.example"}, true},
		"every":                        {[]string{"*"}, "chat.example", []string{"https://other.example"}, true},
		"null, where every is allowed": {[]string{"*"}, "chat.example", []string{"null"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startChat(t, new(lab.Lab), server.WithWebSocketOrigins(c.allow...))
			header := http.Header{"Host": {c.host}}
			if c.origin != nil {
				header["Origin"] = c.origin
			}
			p, refused := dialing{header: header}.handshake(t, s, roomPath)
			if (p != nil) != c.want {
				t.Errorf("open: %v, want %v (%+v)", p != nil, c.want, refused)
			}
			if refused != nil && refused.status != http.StatusForbidden {
				t.Errorf("refused with %d %s, want 403", refused.status, refused.body)
			}
		})
	}
}

func TestSocketOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opt  server.Option
		want string
	}{
		"a host":             {server.WithWebSocketOrigins("app.example"), `"app.example" is not an origin`},
		"a path":             {server.WithWebSocketOrigins("https://a", "https://app.example/x"), `"https://app.example/x" is not an origin`},
		"null":               {server.WithWebSocketOrigins("null"), `"null" is not an origin`},
		"a part of a name":   {server.WithWebSocketOrigins("https://*.example"), `"https://*.example" is not an origin`},
		"a negative timeout": {server.WithWebSocketPing(0, -1), "the timeout of pings is negative"},
	} {
		_, err := server.New(t.Context(), memkv.New(memkv.Options{}), c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// What is decided once the WebSocket is open gets a close code and a reason.
func TestSocketCloseCodes(t *testing.T) {
	t.Parallel()
	send := func(text string) func(p *peer) { return func(p *peer) { p.text(text) } }
	large := strings.Repeat("x", 2000)
	for name, c := range map[string]struct {
		path   string // the default is roomPath
		lab    func(l *lab.Lab)
		opts   []server.Option
		do     func(p *peer)
		code   durable.CloseCode
		reason string
	}{
		"JSON":                     {do: send(`{"text":`), code: 4003, reason: "not JSON of lab.v1.JoinRequest: unexpected EOF"},
		"JSON of another type":     {do: send(`{"text":7}`), code: 4003, reason: "invalid value for string field text: 7"},
		"JSON that is empty":       {do: send(""), code: 4003, reason: "not JSON of lab.v1.JoinRequest: it is empty"},
		"an unknown field":         {opts: []server.Option{server.WithStrictJSON()}, do: send(`{"txt":""}`), code: 4003, reason: `unknown field "txt"`},
		"binary":                   {do: func(p *peer) { _ = p.WriteMessage(websocket.BinaryMessage, []byte{0xff}) }, code: 4003, reason: "not binary of lab.v1.JoinRequest: "},
		"text that is not UTF-8":   {do: send("{\"text\":\"\xff\"}"), code: 1007, reason: "a text frame is not UTF-8"},
		"over the limit":           {opts: []server.Option{server.WithMaxMessageBytes(1999)}, do: func(p *peer) { p.raw(frameOf(0x81, []byte(large))) }, code: 1009, reason: "a message is larger than the limit of 1999 bytes"},
		"over the default limit":   {do: func(p *peer) { p.raw(frameOf(0x81, make([]byte, 4<<20+1))) }, code: 1009, reason: "larger than the limit of 4194304 bytes"},
		"another object":           {do: send(`{"name":"hall"}`), code: 4003, reason: "the URL and the field name name different objects"},
		"no object":                {path: joinPath, do: send(`{"text":"hello"}`), code: 4003, reason: "the call does not say which object it is for"},
		"no object that can be":    {path: joinPath, do: send(fmt.Sprintf(`{"name":%q}`, strings.Repeat("n", 2000))), code: 4003, reason: "key in the field name: "},
		"a second request":         {path: "/-/name/room" + watchPath, do: func(p *peer) { p.text("{}"); p.text("{}") }, code: 1008, reason: watchPath + " takes one message"},
		"a request that is no one": {path: "/-/name/room" + watchPath, do: send("[]"), code: 4003, reason: "not JSON of lab.v1.WatchRequest"},
		"Open fails": {lab: func(l *lab.Lab) {
			l.Chat.JoinOpen = func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
				return connect.NewError(connect.CodePermissionDenied, "not in here")
			}
		}, code: 4007, reason: "not in here"},
		"Open refuses": {lab: func(l *lab.Lab) {
			l.Chat.JoinOpen = func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
				return &durable.CloseError{Code: 3456, Reason: "come as a guest"}
			}
		}, code: 3456, reason: "come as a guest"},
		"Open refuses with what is no code": {lab: func(l *lab.Lab) {
			l.Chat.JoinOpen = func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
				return &durable.CloseError{Code: durable.CloseAbnormal, Reason: "no"}
			}
		}, code: 4013, reason: "no"},
		"a handler closes": {lab: func(l *lab.Lab) {
			l.Chat.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ *labv1.JoinRequest) error {
				return conn.Close(4321, "that was all")
			}
		}, do: send("{}"), code: 4321, reason: "that was all"},
		"a handler ends it": {lab: func(l *lab.Lab) {
			l.Chat.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ *labv1.JoinRequest) error {
				return conn.Close(durable.CloseNormal, "")
			}
		}, do: send("{}"), code: 1000},
		"the constructor fails": {lab: func(l *lab.Lab) {
			l.Chat.New = func(context.Context, labv1durable.ChatLabTx) error { return errors.New("no luck") }
		}, code: 4002, reason: "the constructor of the object failed: no luck"},
		"too many connections": {lab: func(l *lab.Lab) {
			l.Options = append(l.Options, durable.WithLimits(durable.Limits{MaxConns: 1}))
		}, do: func(p *peer) {}, code: 1013, reason: "connections"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := new(lab.Lab)
			if c.lab != nil {
				c.lab(l)
			}
			s := startChat(t, l, c.opts...)
			if name == "too many connections" {
				openSocket(t, s, roomPath).echoes("I am here", 1)
			}
			if c.path == "" {
				c.path = roomPath
			}
			p := openSocket(t, s, c.path)
			if c.do != nil {
				c.do(p)
			}
			p.ends(c.code, c.reason)
			// The object and others are unharmed.
			if l.Chat.New == nil && l.Chat.JoinOpen == nil && l.Chat.JoinMessage == nil {
				openSocket(t, s, "/-/name/next"+joinPath).echoes("still here", 1)
			}
		})
	}
}
