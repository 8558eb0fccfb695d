package durabletest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// socket opens a WebSocket of a chat lab, and returns it when it was answered once.
func socket(t *testing.T, s *durabletest.Server) *websocket.Conn {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: s.HTTPClient().Transport.(*http.Transport).DialContext}
	url := "ws" + strings.TrimPrefix(s.URL(), "http") + "/-/name/room" + labv1durable.ChatLabJoinProcedure
	ws, res, err := dialer.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatalf("dial: %v, %v", err, res)
	}
	t.Cleanup(func() { _ = ws.NetConn().Close() })
	answers(t, ws)
	return ws
}

// answers sends a message and wants an answer.
func answers(t *testing.T, ws *websocket.Conn) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"text":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
	if _, data, err := ws.ReadMessage(); err != nil || !strings.Contains(string(data), "hello") {
		t.Fatalf("received %q, %v, want the echo", data, err)
	}
}

// TEST-12: a WebSocket ends with the server that has it. A crash cuts it with no
// word, an orderly stop says why.
func TestSocketEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(s *durabletest.Server, ws *websocket.Conn)
		told bool
	}{
		"Crash": {end: func(s *durabletest.Server, _ *websocket.Conn) { s.Crash() }},
		"CrashAt": {end: func(s *durabletest.Server, _ *websocket.Conn) {
			over := s.CrashAt(durabletest.BeforeSync)
			stub := labv1durable.NewAlarmLabClient(s.Conn()).GetByName("a")
			_, _ = stub.Act(context.Background(), &labv1.ActRequest{Steps: []*labv1.AlarmStep{put("k", "v")}}, durable.WithoutRetry())
			<-over
		}},
		"Restart": {told: true, end: func(s *durabletest.Server, _ *websocket.Conn) { s.Restart() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, new(lab.Lab).Register)
				ws := socket(t, s)
				ended := make(chan error, 1)
				_ = ws.SetReadDeadline(time.Now().Add(time.Hour))
				go func() {
					_, data, err := ws.ReadMessage()
					if err == nil {
						err = errors.New("received " + string(data))
					}
					ended <- err
				}()
				began := time.Now()
				c.end(s, ws)
				err := <-ended
				if took := time.Since(began); took > time.Minute {
					t.Errorf("the WebSocket ended %v after the server, with %v", took, err)
				}
				var closed *websocket.CloseError
				word := errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure
				if word != c.told {
					t.Errorf("the client was told %v, want a close code: %t", err, c.told)
				}
				answers(t, socket(t, s)) // of the next one
			})
		})
	}
}
