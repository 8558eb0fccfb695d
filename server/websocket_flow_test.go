package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

// WISH-08: a thousand WebSockets of one object send and get numbers while the
// object is evicted at random moments. Nothing is lost or doubled, and the order
// is kept: of what each one gets back, and of what is sent to all.
func TestWebSocketFlow(t *testing.T) {
	length, peers := 30*time.Second, 1000
	if testing.Short() {
		length, peers = 2*time.Second, 100
	}
	engine, err := pebblekv.Open(t.TempDir(), pebblekv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = engine.Close() }()
	s, err := server.New(t.Context(), engine)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	rooms := &lab.Lab{}
	rooms.Chat.JoinMessage = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
		seen, err := conn.Attachment()
		if err != nil {
			return err
		}
		n := seen.GetReceived() + 1
		if err := conn.SetAttachment(&labv1.JoinAttachment{Received: n}); err != nil {
			return err
		}
		if n%3 == 0 { // some answers wait for the disk
			if err := tx.KV().Put(ctx, conn.ID(), []byte(req.GetText())); err != nil {
				return err
			}
		}
		return conn.Send(&labv1.JoinResponse{Text: req.GetText(), Number: n})
	}
	if err := rooms.RegisterChat(s); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	stub := labv1durable.NewChatLabClient(s.Conn()).GetByName("room")

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var echoed, announced atomic.Int64
	var said int64 // announcements, when they have ended
	var over atomic.Bool
	ends := make([]struct{ sent, heard int64 }, peers)
	var open errgroup.Group
	open.SetLimit(32)
	sockets := make([]*websocket.Conn, peers)
	for i := range sockets {
		open.Go(func() (err error) {
			dialer := websocket.Dialer{Subprotocols: []string{"durable.v1.proto"}, ReadBufferSize: 512, WriteBufferSize: 512}
			sockets[i], _, err = dialer.Dial("ws"+strings.TrimPrefix(web.URL, "http")+"/-/name/room/lab.v1.ChatLabService/Join", nil)
			return err
		})
	}
	if err := open.Wait(); err != nil {
		t.Fatal(err)
	}
	for who := 0; who < peers; time.Sleep(10 * time.Millisecond) {
		res, err := stub.Who(t.Context(), &labv1.WhoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		who = len(res.GetPeers())
	}

	var readers, writers errgroup.Group
	for i, ws := range sockets {
		defer func() { _ = ws.Close() }()
		back := make(chan struct{}, 1)
		readers.Go(func() error {
			for !over.Load() || ends[i].heard < said {
				_ = ws.SetReadDeadline(time.Now().Add(30 * time.Second))
				_, data, err := ws.ReadMessage()
				if err != nil {
					return fmt.Errorf("peer %d after %d answers and %d announcements: %w", i, ends[i].sent, ends[i].heard, err)
				}
				var res labv1.JoinResponse
				if err := proto.Unmarshal(data, &res); err != nil {
					return err
				}
				switch kind, number, _ := strings.Cut(res.GetText(), " "); {
				case kind == "all":
					ends[i].heard++
					announced.Add(1)
					if number != strconv.FormatInt(ends[i].heard, 10) {
						return fmt.Errorf("peer %d got announcement %s, want %d", i, number, ends[i].heard)
					}
				case res.GetText() != fmt.Sprintf("%d %d", i, ends[i].sent+1) || res.GetNumber() != ends[i].sent+1:
					return fmt.Errorf("peer %d got %q as answer %d, want number %d", i, res.GetText(), res.GetNumber(), ends[i].sent+1)
				default:
					ends[i].sent++
					echoed.Add(1)
					back <- struct{}{}
				}
			}
			return nil
		})
		writers.Go(func() error {
			for n := 1; ctx.Err() == nil; n++ {
				data, err := proto.Marshal(&labv1.JoinRequest{Text: fmt.Sprintf("%d %d", i, n)})
				if err != nil {
					return err
				}
				if err := ws.WriteMessage(websocket.BinaryMessage, data); err != nil {
					return fmt.Errorf("peer %d: %w", i, err)
				}
				select {
				case <-back:
				case <-time.After(30 * time.Second):
					return fmt.Errorf("peer %d had no answer to message %d for 30 s", i, n)
				}
				time.Sleep(rand.N(500 * time.Millisecond))
			}
			return nil
		})
	}
	evicted := 0
	var others errgroup.Group
	others.Go(func() error {
		for ctx.Err() == nil {
			was, err := s.Evict(t.Context(), labv1durable.ChatLabType, stub.ID())
			if err != nil {
				return fmt.Errorf("evict: %w", err)
			}
			if was {
				evicted++
			}
			time.Sleep(rand.N(20 * time.Millisecond))
		}
		return nil
	})
	others.Go(func() error {
		for ctx.Err() == nil {
			if _, err := stub.Say(t.Context(), &labv1.SayRequest{Text: fmt.Sprintf("all %d", said+1)}); err != nil {
				return fmt.Errorf("announce: %w", err)
			}
			said++
			time.Sleep(rand.N(time.Second))
		}
		return nil
	})
	if err := writers.Wait(); err != nil {
		t.Error(err)
	}
	if err := others.Wait(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		return
	}
	said++ // a last one, for readers that wait
	over.Store(true)
	if _, err := stub.Say(t.Context(), &labv1.SayRequest{Text: fmt.Sprintf("all %d", said)}); err != nil {
		t.Fatal(err)
	}
	if err := readers.Wait(); err != nil {
		t.Error(err)
	}
	if evicted < int(length/(100*time.Millisecond)) {
		t.Errorf("the object was evicted %d times: too few to tell anything", evicted)
	}
	if closed := rooms.Chat.Closed(); len(closed) != 0 {
		t.Errorf("%d connections were closed, the first: %v", len(closed), closed[0])
	}
	t.Logf("%d answers and %d announcements to %d peers, %d evictions", echoed.Load(), announced.Load(), peers, evicted)
}
