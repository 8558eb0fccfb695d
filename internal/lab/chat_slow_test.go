package lab_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// block is how much data one big message has.
const block = 64 << 10

// noise returns data that cannot be compressed.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

// flood sends big messages to every connection, each in a turn, and returns how
// many each of them took: by the order in which they were accepted.
func (r *room) flood(t *testing.T, turns int) (taken []int, last []error) {
	t.Helper()
	index := map[string]int{}
	r.says(func(_ context.Context, tx labv1durable.ChatLabTx) error {
		for conn := range tx.JoinConns() {
			i, ok := index[conn.ID()]
			if !ok {
				i = len(index)
				index[conn.ID()] = i
				taken, last = append(taken, 0), append(last, nil)
			}
			err := conn.Send(&labv1.JoinResponse{Data: noise(block)})
			if err == nil {
				taken[i]++
			} else {
				last[i] = err
			}
		}
		return nil
	})
	for range turns {
		if _, err := r.Say(t.Context(), &labv1.SayRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
	return taken, last
}

func TestChatSlow(t *testing.T) {
	t.Parallel()
	small := durable.WithLimits(durable.Limits{MaxConnBuffer: 4 * block, SendTimeout: 20 * time.Second})
	const many = 80 // more than any window between here and there
	inRoom(t, "WS-46 a peer that does not read is closed, and others are not delayed", func(t *testing.T, r *room) {
		slow, quick := r.mute(t), r.guest(t)
		started := time.Now()
		taken, last := r.flood(t, many)
		same(t, "time", time.Since(started), time.Duration(0))
		if taken[0] >= many || !errors.Is(last[0], durable.ErrConnClosed) || !errors.Is(last[0], durable.ErrSlowPeer) {
			t.Errorf("the slow peer took %d of %d messages, and then %v; want ErrConnClosed and ErrSlowPeer", taken[0], many, last[0])
		}
		same(t, "messages to the quick peer", taken[1], many)
		quick.heard(make([]string, many)...)
		same(t, "bytes to the quick peer", quick.bytes, many*block)
		same(t, "connections in the list", len(r.who(t)), 1)
		slow.listen() // within the time that a send has
		want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_SLOW_PEER,
		}}.check(t, slow.ended(), r)
		r.closed(t, ending{1013, anyReason, true, true})
		quick.say("still here")
		quick.heard("still here")
	}, small)
	inRoom(t, "SendTimeout: a peer that reads nothing at all is closed although its buffer has room", func(t *testing.T, r *room) {
		slow := r.mute(t)
		r.flood(t, many)
		time.Sleep(19 * time.Second)
		synctest.Wait()
		r.closed(t)
		time.Sleep(2 * time.Second)
		r.closed(t, ending{1013, anyReason, true, true})
		same(t, "connections", r.who(t), []string{})
		slow.listen()
		if err := slow.ended(); errors.Is(err, io.EOF) {
			t.Error("it ended as if all were well")
		}
	}, durable.WithLimits(durable.Limits{MaxConnBuffer: 16 << 20, SendTimeout: 20 * time.Second}))
	inRoom(t, "a turn that sends too much fails, and closes nothing", func(t *testing.T, r *room) {
		r.joins(steps{"too much": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			for i := range 4 {
				if err := conn.Send(&labv1.JoinResponse{Data: noise(block - 8)}); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
			var limit *durable.LimitError
			err := conn.Send(&labv1.JoinResponse{Data: noise(block)})
			if !errors.As(err, &limit) || limit.Max != 4*block {
				t.Errorf("more than fits: %v, want a LimitError of %d", err, 4*block)
			}
			return err
		}, "big": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return conn.Send(&labv1.JoinResponse{Data: noise(6 * block)}) // alone it may be
		}})
		g := r.guest(t)
		for _, step := range []string{"too much", "next", "big", "too much", "last"} {
			g.say(step) // and wait until it has left
		}
		g.heard("next", "", "last")
		same(t, "bytes", g.bytes, 6*block)
		g.open()
		r.closed(t)
	}, small)
	inRoom(t, "what a rolled back turn sent takes no room", func(t *testing.T, r *room) {
		r.joins(steps{"fail": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			_ = tx.Savepoint(func() error {
				return errors.Join(conn.Send(&labv1.JoinResponse{Data: noise(3 * block)}), errOnPurpose)
			})
			return errors.Join(conn.Send(&labv1.JoinResponse{Data: noise(3 * block)}), errOnPurpose)
		}})
		g := r.guest(t)
		for range 10 {
			g.say("fail")
		}
		g.say("next")
		g.heard("next")
		g.open()
	}, small)
	inRoom(t, "OVL-03 a message that does not fit into the queue closes its connection alone", func(t *testing.T, r *room) {
		r.joins(steps{"slow": func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
			time.Sleep(time.Second)
			return nil
		}})
		a, b, c := r.guest(t), r.guest(t), r.guest(t)
		a.say("slow")
		if err := b.stream.Send(&labv1.JoinRequest{Text: "big", Data: noise(1000)}); err != nil {
			t.Fatal(err)
		}
		c.say("small")
		time.Sleep(2 * time.Second)
		want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, Overloaded: true, Retryable: true,
			Limit: errorInfo(b.ended()).GetLimit(),
		}}.check(t, b.ended(), r)
		same(t, "limit", errorInfo(b.ended()).GetLimit().GetName(), "queued bytes")
		c.heard("small")
		a.open()
		r.closed(t, ending{1013, anyReason, true, true})
	}, durable.WithLimits(durable.Limits{MaxQueuedBytes: 500}))
	inRoom(t, "OVL-02 events of connections are not refused for their number", func(t *testing.T, r *room) {
		r.joins(steps{"slow": func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
			time.Sleep(time.Second)
			return nil
		}})
		var all []*guest
		for range 6 {
			all = append(all, r.guest(t))
		}
		for _, g := range all {
			g.say("slow", "next")
		}
		time.Sleep(20 * time.Second)
		for _, g := range all {
			g.heard("next")
		}
	}, durable.WithLimits(durable.Limits{MaxQueuedCalls: 2}))
	inRoom(t, "OVL-04 a message that waits too long closes its connection", func(t *testing.T, r *room) {
		r.joins(steps{"slow": func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
			time.Sleep(10 * time.Second)
			return nil
		}})
		a, b := r.guest(t), r.guest(t)
		a.say("slow")
		b.say("late")
		time.Sleep(12 * time.Second)
		want{code: connect.CodeResourceExhausted}.check(t, b.ended(), r)
		b.heard()
		a.open()
		r.closed(t, ending{1013, anyReason, true, true})
	}, durable.WithLimits(durable.Limits{MaxQueueWait: 5 * time.Second}))
	inRoom(t, "an auto-response is no reason to take a peer for slow that reads", func(t *testing.T, r *room) {
		// The turn has filled the buffer when the message comes.
		a := r.guest(t)
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			return tx.JoinAutoResponse().Set(&labv1.JoinRequest{Text: "ping", Name: "room"}, &labv1.JoinResponse{Text: "pong", Data: noise(100)})
		})
		says := begin(func() (struct{}, error) {
			r.says(func(_ context.Context, tx labv1durable.ChatLabTx) error {
				err := tx.JoinConns().Send(&labv1.JoinResponse{Data: noise(4*block - 16)})
				time.Sleep(time.Second)
				return err
			})
			_, err := r.Say(context.Background(), &labv1.SayRequest{})
			return struct{}{}, err
		})
		synctest.Wait()
		a.say("ping")
		<-says.done
		a.open()
		a.heard("pong", "")
		r.closed(t)
	}, small)
}

// Server streams over HTTP/1.1: messages come as they are sent, the peer's end
// and the server's are seen.
func TestChatHTTP1(t *testing.T) {
	t.Parallel()
	l := &lab.Lab{}
	s := durabletest.New(t, l.Register)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Server().Handler().ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	ctx := deadline(t)
	stub := labv1durable.NewChatLabClient(durableconnect.New(web.Client(), web.URL)).GetByName("room")
	watching, stop := context.WithCancel(ctx)
	stream, err := stub.Watch(watching, &labv1.WatchRequest{Texts: []string{"one"}})
	if err != nil {
		t.Fatal(err)
	}
	last, err := stub.Watch(ctx, &labv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			s.Evict(stub.Ref)
			res, err := stub.Say(ctx, &labv1.SayRequest{Text: want})
			if err != nil || res.GetConnections() != 2 {
				t.Fatalf("it was sent to %v, %v, want 2", res, err)
			}
			if res, err := last.Receive(); err != nil || res.GetText() != want {
				t.Fatalf("the second stream received %v, %v, want %q", res, err, want)
			}
		}
		if res, err := stream.Receive(); err != nil || res.GetText() != want {
			t.Fatalf("received %v, %v, want %q", res, err, want)
		}
	}
	stop()
	_ = stream.Close()
	for len(l.Chat.Closed()) == 0 {
		if ctx.Err() != nil {
			t.Fatal("the Close handler was not told that the peer left")
		}
		time.Sleep(time.Millisecond)
	}
	var closed *durable.CloseError
	if cause := l.Chat.Closed()[0]; !errors.As(cause, &closed) || closed.Code != durable.CloseAbnormal || closed.Clean || closed.Local {
		t.Errorf("the Close handler was told %v, want 1006", cause)
	}
	if err := s.Server().Drain(ctx); err != nil {
		t.Error(err)
	}
	want{code: connect.CodeUnavailable}.check(t, receiveError(last), stub)
}

// receiveError returns the error with which a stream ends.
func receiveError(stream *durable.ServerStreamingClient[labv1.WatchResponse]) error {
	for {
		if _, err := stream.Receive(); err != nil {
			return err
		}
	}
}
