package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// asleep waits until the object has left memory by itself, and checks it.
func (r *room) asleep(t *testing.T) {
	t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	if n := r.srv.Active(); n != 0 {
		t.Fatalf("%d objects are in memory a minute after the last event, want none", n)
	}
}

func TestChatSleeps(t *testing.T) {
	t.Parallel()
	inRoom(t, "LIFE-04 LIFE-14 WS-10 WS-17 it sleeps with connections open, and a message wakes it", func(t *testing.T, r *room) {
		r.opens([]string{"red"}, []string{"blue"}, []string{"red"})
		var news []string
		r.do.New = func(context.Context, labv1durable.ChatLabTx) error { news = append(news, "constructor"); return nil }
		r.do.JoinMessage = func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
			news = append(news, req.GetText())
			return errors.Join(conn.Send(text(req.GetText())), tx.JoinConns("red").Except(conn).Send(text("to others")))
		}
		a, b, c := r.guest(t), r.guest(t), r.guest(t)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		same(t, "in memory within the idle time", r.srv.Active(), 1)
		for range 3 {
			r.asleep(t)
			a.open()
			news = nil
			a.say("wake")
			same(t, "what ran", news, []string{"constructor", "wake"})
			a.heard("wake")
			b.heard()
			c.heard("to others")
			same(t, "all", r.who(t), []string{"1 red", "2 blue", "3 red"})
			same(t, "red", r.who(t, "red"), []string{"1 red", "3 red"})
		}
		r.closed(t)
	})
	inRoom(t, "WS-17 a plain call sends to connections of an object that sleeps", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		r.asleep(t)
		res, err := r.Say(t.Context(), &labv1.SayRequest{Text: "wake up"})
		if err != nil || res.GetConnections() != 2 {
			t.Errorf("it sent to %d connections, %v, want 2", res.GetConnections(), err)
		}
		a.heard("wake up")
		b.heard("wake up")
	})
	inRoom(t, "WS-17 several messages that come while it sleeps", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.asleep(t)
		before := r.lab.Constructed.Load()
		g.say("1", "2", "3")
		g.heard("1", "2", "3")
		same(t, "constructors", r.lab.Constructed.Load()-before, int64(1))
	})
	inRoom(t, "WS-19 the end of a connection wakes it", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		a.say("one")
		r.asleep(t)
		a.half()
		r.closed(t, ending{Code: 1000, Clean: true})
		a.heard("one")
		a.finished()
		r.asleep(t)
		b.vanish()
		r.closed(t, ending{Code: 1006, Reason: anyReason})
		r.asleep(t)
		same(t, "connections", r.who(t), []string{})
	})
	inRoom(t, "WS-45 WISH-08 messages arrive that were sent right before an eviction", func(t *testing.T, r *room) {
		r.joins(writing())
		g := r.guest(t)
		for i := range 20 {
			if err := g.stream.Send(&labv1.JoinRequest{Text: fmt.Sprint("write ", i%5)}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.srv.Evict(t.Context(), labv1durable.ChatLabType, r.ID()); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error { return tx.JoinConns().Send(text("all")) })
				r.evict(t)
			}
			synctest.Wait()
		}
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		var writes []string
		all := 0
		for _, text := range g.texts {
			if text == "all" {
				all++
			} else {
				writes = append(writes, text)
			}
		}
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint("write ", i%5))
		}
		same(t, "broadcasts", all, 10)
		same(t, "answers", writes, want)
	})
	inRoom(t, "WS-45 a close that is sent right before an eviction", func(t *testing.T, r *room) {
		r.joins(steps{"leave": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), conn.Send(text("last")), conn.Close(4000, "left"))
		}})
		g := r.guest(t)
		r.store.Pause()
		if err := g.stream.Send(&labv1.JoinRequest{Text: "leave"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		evicted := begin(func() (bool, error) { return r.srv.Evict(context.Background(), labv1durable.ChatLabType, r.ID()) })
		synctest.Wait()
		r.store.Resume()
		<-evicted.done
		g.heard("last")
		closedBy(4000, "left").check(t, g.ended(), r)
		r.closed(t, ending{4000, "left", true, true})
	})
	inRoom(t, "WS-41 a constructor that fails on wake", func(t *testing.T, r *room) {
		fails := false
		r.do.New = func(ctx context.Context, tx labv1durable.ChatLabTx) error {
			if !fails {
				return nil
			}
			err := errors.Join(write(ctx, tx), tx.JoinConns().Send(text("never")))
			for conn := range tx.JoinConns() {
				err = errors.Join(err, attach(conn, "never"))
			}
			if err != nil {
				t.Error(err)
			}
			return errOnPurpose
		}
		r.joins(nil)
		a, b := r.guest(t), r.guest(t)
		r.asleep(t)
		fails = true
		a.say("wake")
		a.heard()
		want{code: connect.CodeUnknown, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_CONSTRUCTOR_FAILED, ObjectReset: true, Remote: true,
		}}.check(t, a.ended(), r)
		b.open()
		fails = false
		b.say("again")
		b.heard("again")
		same(t, "attachments", r.who(t), []string{""})
	})
	inRoom(t, "WS-41 a constructor that takes too long on wake", func(t *testing.T, r *room) {
		slow := false
		r.do.New = func(_ context.Context, tx labv1durable.ChatLabTx) error {
			if !slow {
				return nil
			}
			err := tx.JoinConns().Send(text("never"))
			n := 0
			for conn := range tx.JoinConns() {
				err = errors.Join(err, attach(conn, "never"))
				if n++; n == 3 {
					err = errors.Join(err, conn.Close(1000, "never"))
				}
			}
			if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			return nil
		}
		r.joins(nil)
		a, b, c := r.guest(t), r.guest(t), r.guest(t)
		r.asleep(t)
		slow = true
		a.say("wake")
		time.Sleep(2 * time.Minute)
		a.heard()
		want{code: connect.CodeResourceExhausted}.check(t, a.ended(), r)
		slow = false
		b.say("again")
		b.heard("again")
		same(t, "attachments of those that are open: what the constructor set is rolled back", r.who(t), []string{"", ""})
		c.open()
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error { return tx.JoinConns().Send(text("all")) })
		c.heard("all")
	})
	inRoom(t, "a constructor sends and closes", func(t *testing.T, r *room) {
		wakes := false
		r.do.New = func(ctx context.Context, tx labv1durable.ChatLabTx) error {
			if !wakes {
				return nil
			}
			for conn := range tx.JoinConns("old") {
				if err := conn.Close(4001, "too old"); err != nil {
					return err
				}
			}
			return errors.Join(write(ctx, tx), tx.JoinConns().Send(text("good morning")))
		}
		r.opens(nil, []string{"old"})
		a, b := r.guest(t), r.guest(t)
		r.asleep(t)
		wakes = true
		a.say("wake")
		a.heard("good morning", "wake")
		closedBy(4001, "too old").check(t, b.ended(), r)
	})
	inRoom(t, "WS-30 WS-31 WS-33 WS-34 auto-responses do not wake it", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.do.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
			at := conn.LastAutoResponse()
			if at.IsZero() {
				return conn.Send(text(req.GetText() + ", never"))
			}
			return conn.Send(text(fmt.Sprint(req.GetText(), ", ", time.Since(at))))
		}
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			auto := tx.JoinAutoResponse()
			if req, res, err := auto.Get(); req != nil || res != nil || err != nil {
				t.Errorf("before the first: %v, %v, %v", req, res, err)
			}
			req := &labv1.JoinRequest{Text: "ping", Name: "room"}
			if err := auto.Set(req, text("pong")); err != nil {
				return err
			}
			req.Text = "changed"
			got, res, err := auto.Get()
			same(t, "request", got, &labv1.JoinRequest{Text: "ping", Name: "room"})
			same(t, "response", res, text("pong"))
			return err
		})
		g.say("when?")
		g.heard("when?, never")
		r.asleep(t)
		before := r.lab.Constructed.Load()
		for range 3 {
			g.say("ping")
			g.heard("pong")
			time.Sleep(time.Minute)
		}
		same(t, "objects in memory", r.srv.Active(), 0)
		same(t, "constructors since", r.lab.Constructed.Load()-before, int64(0))
		g.say("ping ", "Ping", "pingping", "")
		g.heard("ping , 1m0s", "Ping, 1m0s", "pingping, 1m0s", ", 1m0s")
		late := r.guest(t) // one for all of a method
		late.say("ping", "when?")
		late.heard("pong", "when?, 0s")
		if err := g.stream.Send(&labv1.JoinRequest{Text: "ping", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		g.heard("ping, 1m0s")
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			err := errors.Join(tx.JoinAutoResponse().Delete(), tx.JoinAutoResponse().Delete())
			if req, res, gerr := tx.JoinAutoResponse().Get(); req != nil || res != nil || gerr != nil {
				t.Errorf("after Delete: %v, %v, %v", req, res, gerr)
			}
			return err
		})
		g.say("ping")
		g.heard("ping, 1m0s")
	})
	inRoom(t, "WS-30 an auto-response matches what the client sends, which does not repeat the key", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			return tx.JoinAutoResponse().Set(&labv1.JoinRequest{Text: "ping"}, text("pong"))
		})
		g.say("ping")
		g.heard("pong")
	})
	inRoom(t, "WS-32 limits of auto-responses", func(t *testing.T, r *room) {
		bytes := func(n int) []byte { return make([]byte, n-3) } // beside the number of the field and the length
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			auto := tx.JoinAutoResponse()
			var limit *durable.LimitError
			for what, err := range map[string]error{
				"request":  auto.Set(&labv1.JoinRequest{Data: bytes(2049)}, text("x")),
				"response": auto.Set(&labv1.JoinRequest{Text: "x"}, &labv1.JoinResponse{Data: bytes(2049)}),
			} {
				if !errors.As(err, &limit) || limit.Max != 2048 || limit.Actual != 2049 {
					t.Errorf("a %s of 2,049 bytes: %v, want a LimitError of 2048", what, err)
				}
			}
			if req, _, err := auto.Get(); req != nil || err != nil {
				t.Errorf("it was set all the same: %v, %v", req, err)
			}
			return auto.Set(&labv1.JoinRequest{Data: bytes(2048)}, &labv1.JoinResponse{Data: bytes(2048)})
		})
	})
	inRoom(t, "LIFE-14 an Await and background work hold off eviction, with connections too", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.joins(steps{"await": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(tx.Await(ctx, func(context.Context) error { time.Sleep(time.Minute); return nil }), conn.Send(text("done")))
		}})
		g.say("await")
		time.Sleep(50 * time.Second)
		same(t, "in memory meanwhile", r.srv.Active(), 1)
		time.Sleep(20 * time.Second)
		g.heard("done")
		r.asleep(t)
	}, durable.WithLimits(durable.Limits{EventTimeout: 5 * time.Minute}))
	inRoom(t, "background work sends to connections", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.joins(steps{"later": func(_ context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			return tx.Go(func(ctx context.Context, turns labv1durable.ChatLabTurns) error {
				time.Sleep(time.Second)
				return turns.Update(ctx, func(tx labv1durable.ChatLabTx) error { return tx.JoinConns().Send(text("later")) })
			})
		}})
		g.say("later")
		g.heard()
		time.Sleep(2 * time.Second)
		g.heard("later")
	})
}
