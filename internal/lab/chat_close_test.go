package lab_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// closedBy is what the peer sees that the handler closed with a code that is not
// 1000.
func closedBy(code int32, reason string) want {
	c := connect.CodeAborted
	if code > 4000 && code <= 4016 {
		c = connect.Code(code - 4000) //nolint:gosec // at most 16
	}
	return want{code: c, message: reason, info: &durablev1.ErrorInfo{
		Reason: durablev1.ErrorReason_ERROR_REASON_CONNECTION_CLOSED, Remote: true, CloseCode: code,
	}}
}

func TestChatClose(t *testing.T) {
	t.Parallel()
	inRoom(t, "WS-19 WS-37 WS-51 the peer has sent its last message", func(t *testing.T, r *room) {
		g := r.guest(t)
		g.say("one")
		g.half()
		g.heard("one")
		g.finished()
		r.closed(t, ending{Code: 1000, Clean: true})
		time.Sleep(time.Minute)
		r.closed(t)
		same(t, "connections", r.who(t), []string{})
	})
	inRoom(t, "WS-22 WS-51 and the Close handler still sends", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.do.JoinClose = func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
			for range tx.JoinConns() {
				t.Error("WS-07: a connection that has ended is still in the list")
			}
			return errors.Join(conn.Send(text("good")), conn.Send(text("bye")))
		}
		g.half()
		g.heard("good", "bye")
		g.finished()
		r.closed(t, ending{Code: 1000, Clean: true})
	})
	inRoom(t, "WS-22 WS-51 and closes", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.do.JoinClose = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
			return errors.Join(conn.Send(text("bye")), conn.Close(4321, "come back later"))
		}
		g.half()
		g.heard("bye")
		closedBy(4321, "come back later").check(t, g.ended(), r)
		r.closed(t, ending{Code: 1000, Clean: true})
	})
	inRoom(t, "WS-20 the peer vanishes", func(t *testing.T, r *room) {
		g := r.guest(t)
		var sent, closed error
		r.do.JoinClose = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
			sent, closed = conn.Send(text("hello?")), conn.Close(1000, "")
			return nil
		}
		g.say("one")
		g.vanish()
		r.closed(t, ending{Code: 1006, Reason: "the peer vanished without closing"})
		if !errors.Is(sent, durable.ErrConnClosed) || !errors.Is(closed, durable.ErrConnClosed) {
			t.Errorf("sending to a peer that is gone: %v, closing: %v, want ErrConnClosed", sent, closed)
		}
		time.Sleep(time.Minute)
		r.closed(t)
		same(t, "connections", r.who(t), []string{})
	})
	inRoom(t, "WS-20 the peer vanishes while its message is handled", func(t *testing.T, r *room) {
		g := r.guest(t)
		handled := false
		r.joins(steps{"slow": func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
			time.Sleep(time.Second)
			handled = true
			return nil
		}})
		g.say("slow")
		g.vanish()
		r.closed(t)
		time.Sleep(2 * time.Second)
		r.closed(t, ending{Code: 1006, Reason: anyReason})
		same(t, "the message was handled", handled, true)
	})
	inRoom(t, "the handler closes its connection", func(t *testing.T, r *room) {
		r.joins(steps{
			"leave": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				if err := errors.Join(conn.Send(text("last")), conn.Close(durable.CloseNormal, "done")); err != nil {
					return err
				}
				if err := conn.Send(text("too late")); !errors.Is(err, durable.ErrConnClosed) {
					t.Errorf("WS-38: send after Close: %v, want ErrConnClosed", err)
				}
				if err := conn.Close(durable.CloseNormal, ""); !errors.Is(err, durable.ErrConnClosed) {
					t.Errorf("Close after Close: %v, want ErrConnClosed", err)
				}
				for range tx.JoinConns() {
					t.Error("a connection is in the list that this turn closed")
				}
				return nil
			},
			"full": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return conn.Close(4002, "the room is full")
			},
			"own code": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return conn.Close(3999, "")
			},
		})
		g := r.guest(t)
		g.say("leave")
		g.heard("last")
		g.finished()
		r.closed(t, ending{1000, "done", true, true})
		g = r.guest(t)
		g.say("full")
		closedBy(4002, "the room is full").check(t, g.ended(), r)
		r.closed(t, ending{4002, "the room is full", true, true})
		g = r.guest(t)
		g.say("own code")
		closedBy(3999, "the connection was closed with code 3999").check(t, g.ended(), r)
		r.closed(t, ending{3999, "", true, true})
		time.Sleep(time.Minute)
		r.closed(t)
	})
	inRoom(t, "a unary call closes connections", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			for conn := range tx.JoinConns() {
				if err := errors.Join(conn.Send(text("closing")), conn.Close(durable.CloseNormal, "night")); err != nil {
					return err
				}
			}
			return nil
		})
		for _, g := range []*guest{a, b} {
			g.heard("closing")
			g.finished()
		}
		r.closed(t, ending{1000, "night", true, true}, ending{1000, "night", true, true})
	})
	inRoom(t, "WS-38 codes and reasons that are refused", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			for conn := range tx.JoinConns() {
				for _, code := range []durable.CloseCode{0, 999, 1001, 1005, 1006, 1015, 2999, 5000, -1} {
					if err := conn.Close(code, ""); !errors.Is(err, durable.ErrInvalidArgument) {
						t.Errorf("code %d: %v, want ErrInvalidArgument", code, err)
					}
				}
				var limit *durable.LimitError
				if err := conn.Close(1000, strings.Repeat("x", 124)); !errors.As(err, &limit) || limit.Max != 123 || limit.Actual != 124 {
					t.Errorf("a reason of 124 bytes: %v, want a LimitError of 123", err)
				}
				if err := conn.Close(1000, "\xff"); !errors.Is(err, durable.ErrInvalidArgument) {
					t.Errorf("a reason that is not UTF-8: %v, want ErrInvalidArgument", err)
				}
			}
			return nil
		})
		g.open()
		g.say("still here")
		g.heard("still here")
	})
	inRoom(t, "WS-40 an abort closes every connection", func(t *testing.T, r *room) {
		r.joins(steps{"abort": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			_ = conn.Send(text("never"))
			tx.Abort("enough")
			return nil
		}})
		a, b := r.guest(t), r.guest(t)
		a.say("abort")
		aborted := want{code: connect.CodeAborted, message: "enough", info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
		}}
		for _, g := range []*guest{a, b} {
			g.heard()
			aborted.check(t, g.ended(), r)
		}
		r.closed(t, ending{4010, "enough", true, true}, ending{4010, "enough", true, true})
		same(t, "constructors", r.lab.Constructed.Load(), int64(2))
		same(t, "connections", r.who(t), []string{})
	})
	inRoom(t, "WS-40 a drain ends connections and tells no handler", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		a.say("one")
		drained := begin(func() (struct{}, error) { return struct{}{}, r.srv.Drain(context.Background()) })
		for _, g := range []*guest{a, b} {
			want{code: connect.CodeUnavailable, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_DRAINING,
			}}.check(t, g.ended(), r)
		}
		if !drained.over() || drained.err != nil {
			t.Errorf("the drain: %v, %v", drained.over(), drained.err)
		}
		a.heard("one")
		r.closed(t)
	})
	inRoom(t, "WS-40 a drain lets messages leave that were sent before", func(t *testing.T, r *room) {
		a := r.guest(t)
		r.store.Pause()
		r.joins(steps{"write": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), conn.Send(text("written")))
		}})
		a.say("write")
		drained := begin(func() (struct{}, error) { return struct{}{}, r.srv.Drain(context.Background()) })
		synctest.Wait()
		a.heard()
		r.store.Resume()
		a.heard("written")
		want{code: connect.CodeUnavailable}.check(t, a.ended(), r)
		<-drained.done
		if drained.err != nil {
			t.Errorf("the drain: %v", drained.err)
		}
		r.closed(t)
	})
	inRoom(t, "WS-21 a Close handler that fails", func(t *testing.T, r *room) {
		for _, broken := range []func() error{
			func() error { return errors.New("on purpose") },
			func() error { panic("on purpose") },
		} {
			g := r.guest(t)
			r.do.JoinClose = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
				if err := errors.Join(write(ctx, tx), conn.Send(text("never"))); err != nil {
					t.Error(err)
				}
				return broken()
			}
			g.half()
			g.heard()
			g.finished()
			r.closed(t, ending{Code: 1000, Clean: true})
			same(t, "connections", r.who(t), []string{})
		}
	})
	inRoom(t, "WS-19 the Close handler runs although others are waiting for the object", func(t *testing.T, r *room) {
		// It may not be lost with calls that wait when the object is reset.
		r.joins(steps{"abort": func(_ context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			time.Sleep(time.Second)
			tx.Abort("enough")
			return nil
		}})
		a, b := r.guest(t), r.guest(t)
		a.say("abort")
		b.half()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		var codes []durable.CloseCode
		for _, cause := range r.do.Closed() {
			var closed *durable.CloseError
			if errors.As(cause, &closed) {
				codes = append(codes, closed.Code)
			}
		}
		if len(codes) != 2 {
			t.Errorf("the Close handler ran for %v, want it to run for both connections: one was waiting for its turn when the object was reset", codes)
		}
	})
	inRoom(t, "WS-19 the Close handler runs although the object is busy for long", func(t *testing.T, r *room) {
		r.joins(steps{"slow": func(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabJoinConn) error {
			time.Sleep(20 * time.Second)
			return nil
		}})
		a, b := r.guest(t), r.guest(t)
		a.say("slow")
		b.vanish()
		time.Sleep(time.Minute)
		r.closed(t, ending{Code: 1006, Reason: anyReason})
	}, durable.WithLimits(durable.Limits{MaxQueueWait: 5 * time.Second}))
	inRoom(t, "Watch: the server ends it, and the peer leaves", func(t *testing.T, r *room) {
		r.do.WatchOpen = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabWatchConn, req *labv1.WatchRequest) error {
			if len(req.GetTexts()) > 0 {
				return errors.Join(conn.Send(&labv1.WatchResponse{Text: "only"}), conn.Close(durable.CloseNormal, "that was it"))
			}
			return nil
		}
		stream, err := r.Watch(t.Context(), &labv1.WatchRequest{Texts: []string{"x"}})
		if err != nil {
			t.Fatal(err)
		}
		res, err := stream.Receive()
		if err != nil || res.GetText() != "only" {
			t.Fatalf("received %v, %v", res, err)
		}
		if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("the end: %v, want EOF", err)
		}
		r.closed(t, ending{1000, "that was it", true, true})
		stream, err = r.Watch(t.Context(), &labv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_ = stream.Close()
		r.closed(t, ending{Code: 1006, Reason: anyReason})
	})
}
