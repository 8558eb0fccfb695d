package server_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
)

// WS-44, WS-50: a message that a connection over gRPC must not have ends it with a
// status that says why.
func TestConnectionStatus(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bad  *labv1.JoinRequest
		want connect.Code
	}{
		"another key": {&labv1.JoinRequest{Text: "2", Name: "b"}, connect.CodeInvalidArgument},
		"too big":     {&labv1.JoinRequest{Data: make([]byte, 5<<20)}, connect.CodeResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startChat(t, new(lab.Lab))
			st, err := labv1durable.NewChatLabClient(over(s, connecthttp.WithGRPC())).GetByName("a").Join(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Send(&labv1.JoinRequest{Text: "1"}); err != nil {
				t.Fatal(err)
			}
			if res, err := st.Receive(); err != nil || res.GetText() != "1" {
				t.Fatalf("the answer to a good message is %v, %v", res, err)
			}
			_ = st.Send(c.bad) // the server may have refused it before all of it was sent
			if res, err := st.Receive(); connect.CodeOf(err) != c.want {
				t.Errorf("a bad message gets %v, %v: %v, want code %v", res, connect.CodeOf(err), err, c.want)
			}
		})
	}
}

// WS-16: a client in process that sends before it reads gets every answer, in order.
func TestConnectionPipelinedInProcess(t *testing.T) {
	t.Parallel()
	const messages = 10
	s := startChat(t, new(lab.Lab))
	st, err := labv1durable.NewChatLabClient(s.Conn()).GetByName("a").Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for i := range messages {
			if err := st.Send(&labv1.JoinRequest{Text: fmt.Sprint(i)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%d sends before the first receive do not end", messages)
	}
	for i := range messages {
		if res, err := st.Receive(); err != nil || res.GetText() != fmt.Sprint(i) || res.GetNumber() != int64(i+1) {
			t.Fatalf("answer %d is %v, %v", i, res, err)
		}
	}
}

// WS-16, WS-46: a client over TCP that sends 3 MB before it reads gets every
// answer, in order.
func TestConnectionPipelinedSocket(t *testing.T) {
	t.Parallel()
	const messages = 3000
	s, err := server.New(t.Context(), memkv.New(memkv.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	if err := new(lab.Lab).RegisterChat(s); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	dialer := websocket.Dialer{Subprotocols: []string{"durable.v1.proto"}}
	ws, _, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(web.URL, "http")+roomPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.SetWriteDeadline(time.Now().Add(30 * time.Second))
	filler := make([]byte, 1024)
	for i := range messages {
		data, err := proto.Marshal(&labv1.JoinRequest{Text: fmt.Sprint(i), Data: filler})
		if err == nil {
			err = ws.WriteMessage(websocket.BinaryMessage, data)
		}
		if err != nil {
			t.Fatalf("send message %d before the first answer is read: %v", i, err)
		}
	}
	_ = ws.SetReadDeadline(time.Now().Add(30 * time.Second))
	for i := range messages {
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("answer %d of %d: %v", i, messages, err)
		}
		var res labv1.JoinResponse
		if err := proto.Unmarshal(data, &res); err != nil {
			t.Fatal(err)
		}
		if res.GetText() != fmt.Sprint(i) || res.GetNumber() != int64(i+1) || len(res.GetData()) != len(filler) {
			t.Fatalf("answer %d is %q, number %d, with %d bytes", i, res.GetText(), res.GetNumber(), len(res.GetData()))
		}
	}
}
