package lab_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// writing steps write, and then send what their names say.
func writing() steps {
	all := steps{}
	for i := range 5 {
		name := fmt.Sprint("write ", i)
		all[name] = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), conn.Send(text(name)))
		}
	}
	return all
}

func TestChatGate(t *testing.T) {
	t.Parallel()
	lost := func(overloaded bool) want {
		return want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
			Reason:      durablev1.ErrorReason_ERROR_REASON_COMMIT_FAILED,
			ObjectReset: true, OutcomeUnknown: true, Overloaded: overloaded,
		}}
	}
	// The others are told that no message of theirs is concerned.
	reset := want{code: connect.CodeAborted, info: &durablev1.ErrorInfo{
		Reason: durablev1.ErrorReason_ERROR_REASON_RESET, ObjectReset: true,
	}}
	inRoom(t, "GATE-15 GATE-17 GATE-30 WS-39 messages leave when what was written before is durable, in order", func(t *testing.T, r *room) {
		all := writing()
		all["write all"] = func(ctx context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), tx.JoinConns().Send(text("all")))
		}
		r.joins(all)
		a, b := r.guest(t), r.guest(t)
		r.store.Pause()
		a.say("write 0", "plain", "write 1")
		b.say("write 2", "write all")
		a.say("write 3")
		a.heard()
		b.heard()
		r.store.Resume()
		a.heard("write 0", "plain", "write 1", "all", "write 3")
		b.heard("write 2", "all")
		a.say("after")
		a.heard("after")
	})
	inRoom(t, "GATE-15 Open waits too", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), conn.Send(text("welcome")))
		}
		r.store.Pause()
		g := r.guest(t)
		g.heard()
		r.store.Resume()
		g.heard("welcome")
	})
	inRoom(t, "GATE-17 closes wait, behind what was sent", func(t *testing.T, r *room) {
		r.joins(steps{"leave": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(conn.Send(text("last")), write(ctx, tx), conn.Close(4000, "left"))
		}})
		g := r.guest(t)
		r.store.Pause()
		g.say("leave")
		g.heard()
		g.open()
		r.closed(t)
		r.store.Resume()
		g.heard("last")
		closedBy(4000, "left").check(t, g.ended(), r)
		r.closed(t, ending{4000, "left", true, true})
	})
	inRoom(t, "GATE-17 what the Close handler sends waits", func(t *testing.T, r *room) {
		r.do.JoinClose = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
			return errors.Join(write(ctx, tx), conn.Send(text("bye")))
		}
		g := r.guest(t)
		r.store.Pause()
		g.half()
		r.closed(t, ending{Code: 1000, Clean: true})
		g.heard()
		g.open()
		r.store.Resume()
		g.heard("bye")
		g.finished()
	})
	inRoom(t, "GATE-15 a message that tells of what another turn wrote waits for that", func(t *testing.T, r *room) {
		r.joins(writing())
		a, b := r.guest(t), r.guest(t)
		r.store.Pause()
		a.say("write 0")
		b.say("plain")
		b.heard()
		r.store.Resume()
		b.heard("plain")
		a.heard("write 0")
	})
	inRoom(t, "GATE-16 GATE-20 a commit that fails closes the connections, and nothing of its turn arrives", func(t *testing.T, r *room) {
		all := writing()
		all["leave"] = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(write(ctx, tx), conn.Close(4000, "you won"))
		}
		r.joins(all)
		a, b, c := r.guest(t), r.guest(t), r.guest(t)
		a.say("before")
		r.store.Pause()
		a.say("write 0", "write 1")
		c.say("leave")
		r.store.Crash()
		a.heard("before")
		lost(false).check(t, a.ended(), r)
		reset.check(t, b.ended(), r)
		// What the turn of its Close wrote is lost, so the peer must not be told it.
		if err := c.ended(); errorInfo(err).GetCloseCode() == 4000 {
			t.Errorf("one that was closed in the turn that failed ended with %v, info %v; want COMMIT_FAILED or RESET", err, errorInfo(err))
		}
		b.heard()
		c.heard()
	})
	inRoom(t, "GATE-21 a store that takes too long", func(t *testing.T, r *room) {
		r.joins(writing())
		a, b := r.guest(t), r.guest(t)
		r.store.Pause()
		started := time.Now()
		a.say("write 0")
		time.Sleep(30*time.Second - time.Millisecond)
		a.open()
		time.Sleep(time.Millisecond)
		lost(true).check(t, a.ended(), r)
		reset.check(t, b.ended(), r)
		same(t, "time", time.Since(started), 30*time.Second)
		a.heard()
		r.store.Resume()
		a.heard()
		codes := []durable.CloseCode{}
		for _, cause := range r.do.Closed() {
			var closed *durable.CloseError
			if errors.As(cause, &closed) && closed.Local {
				codes = append(codes, closed.Code)
			}
		}
		slices.Sort(codes)
		same(t, "codes that the Close handler was told", codes, []durable.CloseCode{1013, 4010})
	})
	inRoom(t, "GATE-26 a turn that only reads is not delayed", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.store.Pause()
		r.joins(steps{"attach": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(attach(conn, "x"), conn.Send(text("attached")))
		}})
		g.say("plain", "attach")
		g.heard("plain", "attached")
		r.store.Resume()
	})
	inRoom(t, "GATE-26 nor one of another object", func(t *testing.T, r *room) {
		r.joins(writing())
		a := r.guest(t)
		other := &room{faulty: r.faulty, ChatLabStub: labv1durable.NewChatLabClient(r.conn).GetByName("other"), do: r.do}
		b := other.guest(t)
		r.store.Pause()
		a.say("write 0")
		b.say("plain")
		b.heard("plain")
		a.heard()
		r.store.Resume()
		a.heard("write 0")
	})
	inRoom(t, "GATE-22 unconfirmed writes hold nothing back", func(t *testing.T, r *room) {
		r.joins(steps{"unconfirmed": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(tx.KV().Unconfirmed().Put(ctx, "k", []byte("v")), conn.Send(text("sent")))
		}})
		g := r.guest(t)
		r.store.Pause()
		g.say("unconfirmed")
		g.heard("sent")
		r.store.Resume()
	})
	inRoom(t, "GATE-22 and their failure closes the connections", func(t *testing.T, r *room) {
		r.joins(steps{"unconfirmed": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(tx.KV().Unconfirmed().Put(ctx, "k", []byte("v")), conn.Send(text("sent")))
		}})
		g := r.guest(t)
		r.store.Pause()
		g.say("unconfirmed")
		r.store.Crash()
		g.heard("sent")
		_, _ = r.Who(t.Context(), &labv1.WhoRequest{}) // the next turn notices
		if err := g.ended(); connect.CodeOf(err) == connect.CodeCanceled {
			t.Errorf("it ended with %v", err)
		}
	})
	inRoom(t, "GATE-35 a full disk keeps nothing of a turn", func(t *testing.T, r *room) {
		all := writing()
		attaching := all["write 0"]
		all["write 0"] = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(attaching(ctx, tx, conn), attach(conn, "lost"), conn.Close(1000, ""))
		}
		r.joins(all)
		g := r.guest(t)
		r.store.Fill(true)
		g.say("write 0", "plain")
		g.heard("plain")
		same(t, "attachment", r.who(t), []string{""})
		r.store.Fill(false)
		g.say("write 1")
		g.heard("write 1")
	})
	inRoom(t, "GATE-17 Sync and calls to others wait, and then what was sent before has left", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.joins(steps{"sync": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			err := errors.Join(write(ctx, tx), conn.Send(text("before")), tx.Sync(ctx), conn.Send(text("after")))
			time.Sleep(time.Second)
			return err
		}})
		r.store.Pause()
		g.say("sync")
		g.heard()
		r.store.Resume()
		g.heard("before")
		time.Sleep(time.Second)
		g.heard("after")
	})
	inRoom(t, "GATE-31 auto-responses keep their place", func(t *testing.T, r *room) {
		r.joins(writing())
		g, other := r.guest(t), r.guest(t)
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			return tx.JoinAutoResponse().Set(&labv1.JoinRequest{Text: "ping", Name: "room"}, text("pong"))
		})
		r.store.Pause()
		g.say("ping")
		g.heard("pong") // nothing is queued
		g.say("write 0", "ping", "write 1", "ping")
		other.say("ping")
		g.heard()
		other.heard("pong")
		r.store.Resume()
		g.heard("write 0", "pong", "write 1", "pong")
	})
	inRoom(t, "GATE-31 an auto-response is in force when its turn has committed", func(t *testing.T, r *room) {
		r.joins(steps{"set": func(_ context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			if err := tx.JoinAutoResponse().Set(&labv1.JoinRequest{Text: "ping", Name: "room"}, text("pong")); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return errOnPurpose
		}})
		a, b := r.guest(t), r.guest(t)
		a.say("set")
		b.say("ping")
		b.heard() // it waits for its turn
		time.Sleep(2 * time.Second)
		b.heard("ping") // the echo: the turn was rolled back
	})
	inRoom(t, "LIFE-13 the gate of one object does not hold its eviction", func(t *testing.T, r *room) {
		r.joins(writing())
		g := r.guest(t)
		r.store.Pause()
		g.say("write 0")
		evicted := begin(func() (bool, error) {
			return r.srv.Evict(context.Background(), labv1durable.ChatLabType, r.ID())
		})
		if evicted.over() {
			t.Error("the eviction did not wait for the commit")
		}
		same(t, "objects in memory", r.srv.Active(), 0)
		g.heard()
		g.say("plain") // wakes it
		g.heard()
		r.store.Resume()
		<-evicted.done
		g.heard("write 0", "plain") // WS-45
	})
}
