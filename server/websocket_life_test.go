package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
)

// WS-19, WS-20: the Close handler is told how a connection ended.
func TestSocketCloseCauses(t *testing.T) {
	t.Parallel()
	closing := func(body []byte) func(*peer) {
		return func(p *peer) { _ = p.WriteMessage(websocket.CloseMessage, body) }
	}
	for name, c := range map[string]struct {
		do    func(p *peer)
		want  durable.CloseError
		reply durable.CloseCode // 0: none
	}{
		"with a code":      {closing(websocket.FormatCloseMessage(3210, "enough")), durable.CloseError{Code: 3210, Reason: "enough", Clean: true}, 3210},
		"without a code":   {closing(nil), durable.CloseError{Code: durable.CloseNoStatus, Clean: true}, durable.CloseNoStatus},
		"leaving the page": {closing(websocket.FormatCloseMessage(1001, "")), durable.CloseError{Code: durable.CloseGoingAway, Clean: true}, 1001},
		"vanished":         {func(p *peer) { p.NetConn().Close() }, durable.CloseError{Code: durable.CloseAbnormal, Reason: "the peer vanished without closing"}, 0},
		"vanished in a message": {
			func(p *peer) { _, _ = p.NetConn().Write([]byte{0x81, 0x85, 1, 2, 3, 4, 5}); p.NetConn().Close() },
			durable.CloseError{Code: durable.CloseAbnormal, Reason: "the peer vanished without closing"},
			0,
		},
		"a bad frame": {func(p *peer) { p.raw([]byte{0x83, 0x80, 0, 0, 0, 0}) }, durable.CloseError{
			Code: durable.CloseProtocolError, Reason: "a frame has the reserved opcode 3", Clean: true, Local: true,
		}, 1002},
		"a bad message": {func(p *peer) { p.text("x") }, durable.CloseError{
			Code: 4003, Reason: "not JSON of lab.v1.JoinRequest: syntax error (line 1:1): invalid value x", Clean: true, Local: true,
		}, 4003},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := new(lab.Lab)
			p := openSocket(t, startChat(t, l), roomPath)
			p.echoes("hello", 1)
			c.do(p)
			if c.reply != 0 {
				p.ends(c.reply, c.want.Reason)
			}
			got := *closedOnce(t, l)
			got.Err = nil
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the cause (-want +got):\n%s", diff)
			}
		})
	}
}

// WS-22: the Close handler may still send, and close with a code of its own.
func TestSocketCloseHandlerAnswers(t *testing.T) {
	t.Parallel()
	l := new(lab.Lab)
	l.Chat.JoinClose = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
		return errors.Join(conn.Send(&labv1.JoinResponse{Text: "goodbye"}), conn.Close(3999, "see you"))
	}
	p := openSocket(t, startChat(t, l), roomPath)
	if err := p.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")); err != nil {
		t.Fatal(err)
	}
	p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "goodbye"})
	p.ends(3999, "see you")
}

// A method to which only the server streams: a request, responses, pings in
// between, and the end by the peer.
func TestSocketOfServerStream(t *testing.T) {
	t.Parallel()
	l := new(lab.Lab)
	s := startChat(t, l)
	p := openSocket(t, s, "/-/name/room"+watchPath)
	p.text(`{"texts":["one","two"]}`)
	p.wants(websocket.TextMessage, &labv1.WatchResponse{Text: "one"})
	p.wants(websocket.TextMessage, &labv1.WatchResponse{Text: "two"})
	ponged := make(chan string, 1)
	p.SetPongHandler(func(data string) error { ponged <- data; return nil })
	if err := p.WriteMessage(websocket.PingMessage, []byte("there?")); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = labv1durable.NewChatLabClient(s.Conn()).GetByName("room").Say(t.Context(), &labv1.SayRequest{Text: "three"})
	}()
	p.wants(websocket.TextMessage, &labv1.WatchResponse{Text: "three"})
	p.closes(durable.CloseNormal, "seen")
	if got := <-ponged; got != "there?" {
		t.Errorf("the ping was answered with %q", got)
	}
	if cause := closedOnce(t, l); cause.Code != durable.CloseNormal || cause.Reason != "seen" {
		t.Errorf("closed with %v, want 1000 seen", cause)
	}
}

// WS-35: a ping does not wake the object.
func TestSocketPingDoesNotWake(t *testing.T) {
	t.Parallel()
	l := new(lab.Lab)
	s := startChat(t, l)
	p := openSocket(t, s, roomPath)
	p.echoes("hello", 1)
	if was, err := s.Server().Evict(t.Context(), labv1durable.ChatLabType, labv1durable.NewChatLabClient(s.Conn()).IDFromName("room")); err != nil || !was {
		t.Fatalf("evict: %v, %v", was, err)
	}
	before := l.Constructed.Load()
	ponged := false
	p.SetPongHandler(func(string) error { ponged = true; return errors.New("ponged") })
	if err := p.WriteMessage(websocket.PingMessage, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.ReadMessage(); !ponged {
		t.Fatalf("no pong: %v", err)
	}
	if n := l.Constructed.Load() - before; n != 0 || s.Server().Active() != 0 {
		t.Errorf("the ping woke the object: %d constructors ran, %d objects are in memory", n, s.Server().Active())
	}
}

// A peer that is silent is asked whether it is there, and is gone when it does not
// answer.
func TestSocketPings(t *testing.T) {
	for name, c := range map[string]struct {
		opts    []server.Option
		answers int64         // pings
		dead    time.Duration // when the Close handler ran; 0: it did not in an hour
	}{
		"no answer":           {nil, 0, 45 * time.Second},
		"two answers":         {nil, 2, 105 * time.Second},
		"as the option says":  {[]server.Option{server.WithWebSocketPing(time.Minute, time.Second)}, 1, 121 * time.Second},
		"without pings":       {[]server.Option{server.WithWebSocketPing(-1, 0)}, 0, 0},
		"answers all of them": {nil, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := new(lab.Lab)
				s := startChat(t, l, c.opts...)
				p := openSocket(t, s, roomPath)
				p.echoes("hello", 1)
				began := time.Now()
				var pings atomic.Int64
				p.SetPingHandler(func(data string) error {
					if pings.Add(1) > c.answers {
						return nil
					}
					return p.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
				})
				read := make(chan error, 1)
				go func() {
					_, _, err := p.ReadMessage()
					read <- err
				}()
				var died time.Duration
				select {
				case err := <-read:
					var closed *websocket.CloseError
					if !errors.As(err, &closed) || closed.Code != websocket.CloseAbnormalClosure {
						t.Errorf("the connection ended with %v, want no close frame", err)
					}
					died = time.Since(began)
					if cause := closedOnce(t, l); cause.Code != durable.CloseAbnormal || !strings.Contains(fmt.Sprint(cause.Err), "nothing came from the peer") {
						t.Errorf("the cause is %v: %v, want 1006, since nothing came", cause, cause.Err)
					}
				case <-time.After(time.Hour):
				}
				if died != c.dead {
					t.Errorf("the peer was gone after %v, want %v", died, c.dead)
				}
				if n := pings.Load(); c.answers == 1000 && n != 119 && n != 120 {
					t.Errorf("%d pings in an hour of silence, want one each 30 s", n)
				}
				p.NetConn().Close()
			})
		})
	}
}

// Data of the peer stands for an answer, and while the peer talks it gets no
// pings.
func TestSocketDataIsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openSocket(t, startChat(t, new(lab.Lab)), roomPath)
		p.SetPingHandler(func(string) error { return errors.New("a ping came") })
		for i := range int64(20) {
			time.Sleep(29 * time.Second)
			p.echoes("hello", i+1)
		}
		p.closes(durable.CloseNormal, "")
	})
}

// A handler that runs for longer than a silent peer would be waited for, and the
// message that came meanwhile is there after it.
func TestSocketLongHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lab.Lab)
		l.Options = append(l.Options, durable.WithLimits(durable.Limits{EventTimeout: time.Hour}))
		l.Chat.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
			time.Sleep(10 * time.Minute)
			return conn.Send(&labv1.JoinResponse{Text: req.GetText()})
		}
		p := openSocket(t, startChat(t, l), roomPath)
		go func() {
			p.text(`{"text":"one"}`)
			p.text(`{"text":"two"}`)
		}()
		p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "one"})
		p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "two"})
		p.closes(durable.CloseNormal, "")
	})
}

// A client that does not send the message that the method needs is not waited for
// for long.
func TestSocketFirstMessageIsAwaited(t *testing.T) {
	for name, c := range map[string]struct {
		path  string
		first string // in a fragment that nothing follows
	}{
		"the request":        {"/-/name/room" + watchPath, ""},
		"the key":            {joinPath, ""},
		"the end of the key": {joinPath, `{"name":`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := openSocket(t, startChat(t, new(lab.Lab)), c.path)
				began := time.Now()
				if c.first != "" {
					p.raw(frameOf(0x01, []byte(c.first)))
				}
				p.ends(4004, "the first message, which the method needs, did not come within 30s")
				if took := time.Since(began); took != 30*time.Second {
					t.Errorf("closed after %v, want 30s", took)
				}
			})
		})
	}
	t.Run("it came", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// The way that notes it last is that through interceptors.
			through := func(next connect.ServerFunc) connect.ServerFunc { return next }
			s := startChat(t, new(lab.Lab), server.WithInterceptors(through))
			p := openSocket(t, s, "/-/name/room"+watchPath)
			p.text("{}")
			go func() {
				time.Sleep(time.Hour + time.Second)
				_, _ = labv1durable.NewChatLabClient(s.Conn()).GetByName("room").Say(t.Context(), &labv1.SayRequest{Text: "late"})
			}()
			p.wants(websocket.TextMessage, &labv1.WatchResponse{Text: "late"})
			p.closes(durable.CloseNormal, "")
		})
	})
	t.Run("none is needed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := openSocket(t, startChat(t, new(lab.Lab)), roomPath)
			go func() {
				time.Sleep(time.Hour + time.Second)
				p.text(`{"text":"late"}`)
			}()
			p.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "late", Number: 1})
			p.closes(durable.CloseNormal, "")
		})
	})
}

// WS-40: a drain tells every peer, also those of whom no message came yet, and
// waits until they have closed, but not for those that do not.
func TestSocketDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startChat(t, new(lab.Lab))
		open := openSocket(t, s, roomPath)
		open.echoes("hello", 1)
		watching := openSocket(t, s, "/-/name/room"+watchPath)
		watching.text("{}")
		silent := openSocket(t, s, joinPath)
		stubborn := openSocket(t, s, roomPath)
		stubborn.SetCloseHandler(func(int, string) error { return nil })
		told := make(chan error, 1)
		go func() {
			_, _, err := stubborn.ReadMessage()
			told <- err
		}()
		synctest.Wait()
		began := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- s.Server().Drain(t.Context()) }()
		silent.ends(1001, "the server is shutting down")
		open.ends(1001, "the server is shutting down")
		watching.ends(1001, "the server is shutting down")
		if took := time.Since(began); took > time.Second {
			t.Errorf("peers that close were told after %v", took)
		}
		select {
		case err := <-drained:
			t.Errorf("the drain did not wait for the last peer: %v", err)
		case <-time.After(time.Second):
		}
		if err := <-told; !websocket.IsCloseError(err, 1001) {
			t.Errorf("the peer that does not close was told %v, want 1001", err)
		}
		if err := <-drained; err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("drained with %v after %v, want 5s", err, time.Since(began))
		}
		if _, refused := (dialing{}).handshake(t, s, roomPath); refused == nil || refused.status != http.StatusServiceUnavailable || !strings.Contains(refused.body, "the server is shutting down") {
			t.Errorf("a handshake during the drain: %+v, want 503", refused)
		}
	})
}

// A peer that takes nothing of a message for the send timeout is dropped; others
// do not wait for it.
func TestSocketSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lab.Lab)
		s := startChat(t, l, server.WithWebSocketPing(-1, 0)) // a pipe buffers no ping for the quick one
		slow, quick := openSocket(t, s, roomPath), openSocket(t, s, roomPath)
		synctest.Wait() // Open ran
		began := time.Now()
		if _, err := labv1durable.NewChatLabClient(s.Conn()).GetByName("room").Say(t.Context(), &labv1.SayRequest{Text: "news"}); err != nil {
			t.Fatal(err)
		}
		quick.wants(websocket.TextMessage, &labv1.JoinResponse{Text: "news"})
		if took := time.Since(began); took != 0 {
			t.Errorf("the quick peer waited %v", took)
		}
		cause := closedOnce(t, l)
		if took := time.Since(began); cause.Code != 1013 || !errors.Is(cause.Err, durable.ErrSlowPeer) || took.Round(time.Second) != 30*time.Second {
			t.Errorf("closed with %v after %v, want 1013 for a slow peer after 30s", cause, took)
		}
		if _, _, err := slow.ReadMessage(); err == nil {
			t.Error("the slow peer is still connected")
		}
		quick.closes(durable.CloseNormal, "")
	})
}

// After a bad frame the server closes its half at once, and waits for the peer to
// read why and close too.
func TestSocketClosesHalf(t *testing.T) {
	t.Parallel()
	s := startChat(t, new(lab.Lab))
	web := httptest.NewServer(s.Server().Handler())
	defer web.Close()
	ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), strings.Replace(web.URL, "http", "ws", 1)+roomPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	began := time.Now()
	p := &peer{ws, t}
	p.raw([]byte{0x83, 0x80, 0, 0, 0, 0}, make([]byte, 1<<20)) // much is still to be read
	p.ends(1002, "a frame has the reserved opcode 3")
	if _, err := p.NetConn().Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(began) > 4*time.Second {
		t.Errorf("after the close frame, and %v: %v, want EOF at once", time.Since(began), err)
	}
}

// A page that does not answer the close frame is not waited for for long, and a
// Close handler not at all.
func TestSocketPeerDoesNotClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lab.Lab)
		l.Chat.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ *labv1.JoinRequest) error {
			return conn.Close(4999, "leave")
		}
		p := openSocket(t, startChat(t, l), roomPath)
		p.SetCloseHandler(func(int, string) error { return nil })
		began := time.Now()
		p.text("{}")
		if _, _, err := p.ReadMessage(); !websocket.IsCloseError(err, 4999) {
			t.Errorf("received %v, want close code 4999", err)
		}
		cause := closedOnce(t, l)
		if took := time.Since(began); took > time.Second || cause.Code != 4999 || !cause.Local {
			t.Errorf("the Close handler ran after %v with %+v", took, cause)
		}
		for time.Since(began) < 4*time.Second { // what it still sends is of no interest
			p.text(`{"text":"still here"}`)
			time.Sleep(time.Second)
		}
		buf := make([]byte, 1)
		if _, err := p.NetConn().Read(buf); err == nil || time.Since(began) != 5*time.Second {
			t.Errorf("the network connection ended after %v with %v, want 5s", time.Since(began), err)
		}
	})
}

// Interceptors see WebSockets, may refuse them, and may look at every message.
func TestSocketInterceptors(t *testing.T) {
	t.Parallel()
	type seenCall struct {
		Procedure, Protocol, Codec, Token string
	}
	var mu sync.Mutex
	var calls []seenCall
	var messages []string
	auth := func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			info, _ := connect.CallInfoForServerContext(ctx)
			mu.Lock()
			calls = append(calls, seenCall{spec.Procedure, info.Protocol, info.Codec, info.RequestHeader().Get("Authorization")})
			mu.Unlock()
			switch info.RequestHeader().Get("Authorization") {
			case "":
				return connect.NewError(connect.CodeUnauthenticated, "who are you?")
			case "panic":
				panic("oh")
			case "room":
				info.RequestHeader().Set("Durable-Name", "room")
			case "look":
				stream = lookingStream{stream, func(msg any) {
					mu.Lock()
					defer mu.Unlock()
					messages = append(messages, fmt.Sprintf("%T", msg))
				}}
			}
			return next(ctx, spec, stream)
		}
	}
	l := new(lab.Lab)
	var infos []durable.CallInfo
	l.Chat.JoinOpen = func(ctx context.Context, _ labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
		info := durable.CallInfoFromContext(ctx)
		infos = append(infos, durable.CallInfo{Procedure: info.Procedure, Protocol: info.Protocol, PeerAddr: info.PeerAddr})
		if info.RequestHeader().Get("Authorization") == "" {
			t.Error("the handler does not see the headers")
		}
		return nil
	}
	s := startChat(t, l, server.WithInterceptors(auth))
	as := func(token string) dialing {
		return dialing{header: http.Header{"Authorization": {token}}, subprotocols: []string{"durable.v1.proto"}}
	}

	p := openSocket(t, s, roomPath)
	p.ends(4016, "who are you?")
	as("panic").open(t, s, roomPath).ends(4013, "the server failed")
	p = as("me").open(t, s, roomPath)
	p.binary(&labv1.JoinRequest{Text: "hello"})
	p.wants(websocket.BinaryMessage, &labv1.JoinResponse{Text: "hello", Number: 1})
	p.closes(durable.CloseNormal, "")
	p = as("room").open(t, s, joinPath) // the interceptor knows the key
	p.binary(&labv1.JoinRequest{Text: "hello"})
	p.wants(websocket.BinaryMessage, &labv1.JoinResponse{Text: "hello", Number: 1})
	p.closes(durable.CloseNormal, "")
	p = as("look").open(t, s, roomPath)
	p.binary(&labv1.JoinRequest{Text: "hello"})
	p.wants(websocket.BinaryMessage, &labv1.JoinResponse{Text: "hello", Number: 1})
	p.closes(3001, "done")

	want := []seenCall{
		{joinPath, "websocket", "json", ""},
		{joinPath, "websocket", "proto", "panic"},
		{joinPath, "websocket", "proto", "me"},
		{joinPath, "websocket", "proto", "room"},
		{joinPath, "websocket", "proto", "look"},
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("the interceptor saw (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"*labv1.JoinRequest", "*labv1.JoinResponse"}, messages); diff != "" {
		t.Errorf("of the messages the interceptor saw (-want +got):\n%s", diff)
	}
	if len(infos) != 3 || infos[0].Procedure != joinPath || infos[0].Protocol != "websocket" || infos[0].PeerAddr != "pipe" {
		t.Errorf("the handlers saw %+v", infos)
	}
}

// A lookingStream shows messages to an interceptor.
type lookingStream struct {
	connect.ServerStream
	look func(msg any)
}

func (s lookingStream) Receive(msg any) error {
	err := s.ServerStream.Receive(msg)
	if err == nil {
		s.look(msg)
	}
	return err
}

func (s lookingStream) Send(msg any) error {
	s.look(msg)
	return s.ServerStream.Send(msg)
}
