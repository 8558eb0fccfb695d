package lab_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

var errOnPurpose = errors.New("on purpose")

func TestChatTurns(t *testing.T) {
	t.Parallel()
	inRoom(t, "WS-23 WS-28 an error rolls the turn back and leaves the connection open", func(t *testing.T, r *room) {
		act := func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(
				tx.KV().Put(ctx, "k", []byte("lost")), attach(conn, "lost"), conn.Send(text("lost")),
				tx.JoinConns().Except(conn).Send(text("lost")), tx.JoinAutoResponse().Set(&labv1.JoinRequest{Text: "ping", Name: "room"}, text("pong")),
				conn.Close(4000, "lost"),
			)
		}
		r.joins(steps{
			"keep": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return attach(conn, "kept")
			},
			"fail": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return errors.Join(act(ctx, tx, conn), errOnPurpose)
			},
			"panic": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				if err := act(ctx, tx, conn); err != nil {
					t.Error(err)
				}
				panic("on purpose")
			},
		})
		a, b := r.guest(t), r.guest(t)
		a.say("keep", "fail", "one", "panic", "ping", "two")
		a.heard("one", "ping", "two")
		b.heard()
		a.open()
		same(t, "attachments", r.who(t), []string{"kept", ""})
		r.closed(t)
		r.act(t, func(ctx context.Context, tx labv1durable.ChatLabTx) error {
			if _, ok, err := tx.KV().Get(ctx, "k"); ok || err != nil {
				t.Errorf("what the failed turn stored is there: %v, %v", ok, err)
			}
			return nil
		})
	})
	inRoom(t, "a unary call that fails sends and closes nothing", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.says(func(_ context.Context, tx labv1durable.ChatLabTx) error {
			for conn := range tx.JoinConns() {
				if err := errors.Join(conn.Send(text("lost")), attach(conn, "lost"), conn.Close(4000, "")); err != nil {
					t.Error(err)
				}
			}
			return errOnPurpose
		})
		if _, err := r.Say(t.Context(), &labv1.SayRequest{}); err == nil {
			t.Error("the call returned no error")
		}
		g.heard()
		same(t, "attachment", r.who(t), []string{""})
		g.say("still here")
		g.heard("still here")
	})
	inRoom(t, "an error with Keep keeps everything", func(t *testing.T, r *room) {
		r.joins(steps{"keep": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return durable.Keep(errors.Join(errOnPurpose, conn.Send(text("kept")), attach(conn, "kept")))
		}, "leave": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return durable.Keep(errors.Join(errOnPurpose, conn.Close(4001, "kept")))
		}})
		g := r.guest(t)
		g.say("keep")
		g.heard("kept")
		same(t, "attachment", r.who(t), []string{"kept"})
		g.say("leave")
		closedBy(4001, "kept").check(t, g.ended(), r)
		r.closed(t, ending{4001, "kept", true, true})
	})
	inRoom(t, "a savepoint that is rolled back undoes what it did to connections", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		r.joins(steps{"go": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			ping := &labv1.JoinRequest{Text: "ping", Name: "room"}
			err := errors.Join(conn.Send(text("before")), attach(conn, "before"))
			fails := tx.Savepoint(func() error {
				err = errors.Join(err, conn.Send(text("lost")), attach(conn, "lost"), tx.JoinAutoResponse().Set(ping, text("pong")))
				inner := tx.Savepoint(func() error { return errors.Join(conn.Send(text("lost too")), attach(conn, "kept inside")) })
				for other := range tx.JoinConns().Except(conn) {
					err = errors.Join(err, other.Close(4000, "lost"), inner)
				}
				for range tx.JoinConns().Except(conn) {
					t.Error("a connection is in the list that this savepoint closed")
				}
				return errOnPurpose
			})
			if !errors.Is(fails, errOnPurpose) {
				t.Errorf("the savepoint returned %v", fails)
			}
			if req, _, gerr := tx.JoinAutoResponse().Get(); req != nil || gerr != nil {
				t.Errorf("the auto-response of the savepoint is set: %v, %v", req, gerr)
			}
			if at, gerr := conn.Attachment(); at.GetText() != "before" || gerr != nil {
				t.Errorf("the attachment is %q, %v, want the one before the savepoint", at.GetText(), gerr)
			}
			keeps := tx.Savepoint(func() error { return errors.Join(conn.Send(text("kept")), attach(conn, "kept")) })
			return errors.Join(err, keeps, tx.JoinConns().Send(text("after")))
		}})
		a.say("go")
		a.heard("before", "kept", "after")
		b.heard("after")
		b.open()
		r.closed(t)
		same(t, "attachments", r.who(t), []string{"kept", ""})
		a.say("ping")
		a.heard("ping")
	})
	inRoom(t, "a rolled back savepoint changes the handler's fields no more than an error does", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.joins(steps{"go": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			_ = tx.Savepoint(func() error { _ = attach(conn, "lost"); return errOnPurpose })
			return errOnPurpose
		}})
		before := r.lab.Constructed.Load()
		g.say("go", "next")
		g.heard("next")
		same(t, "constructors since: the turn had written", r.lab.Constructed.Load()-before, int64(1))
	})
	inRoom(t, "an Await is a commit point", func(t *testing.T, r *room) {
		g := r.guest(t)
		var seen []string
		r.joins(steps{"go": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			if err := errors.Join(conn.Send(text("before")), attach(conn, "before")); err != nil {
				return err
			}
			err := tx.Await(ctx, func(context.Context) error {
				if err := conn.Send(text("inside")); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("send inside Await: %v, want ErrTxDone", err)
				}
				if err := conn.Close(1000, ""); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("close inside Await: %v, want ErrTxDone", err)
				}
				if _, err := conn.Attachment(); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("attachment inside Await: %v, want ErrTxDone", err)
				}
				if err := attach(conn, "inside"); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("set attachment inside Await: %v, want ErrTxDone", err)
				}
				for range tx.JoinConns() {
					t.Error("the connections are listed inside Await")
				}
				time.Sleep(10 * time.Second)
				return nil
			})
			if err := errors.Join(err, conn.Send(text("after")), attach(conn, "after")); err != nil {
				t.Error(err)
			}
			return errOnPurpose
		}})
		g.say("go")
		g.heard("before")
		seen = r.who(t)
		same(t, "attachment meanwhile", seen, []string{"before"})
		time.Sleep(20 * time.Second)
		g.heard()
		same(t, "attachment after the error", r.who(t), []string{"before"})
		g.open()
	})
	inRoom(t, "a call to another object is a commit point, and Sync is", func(t *testing.T, r *room) {
		g := r.guest(t)
		r.joins(steps{
			"sync": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				err := errors.Join(conn.Send(text("before sync")), tx.Sync(ctx), conn.Send(text("lost")))
				if err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				return errOnPurpose
			},
			"call": func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				err := conn.Send(text("before call"))
				_, cerr := labv1durable.NewCounterClient(tx).GetByName("other").Increment(ctx, &labv1.IncrementRequest{Delta: 1})
				if err = errors.Join(err, cerr, conn.Send(text("lost"))); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				return errOnPurpose
			},
		})
		for _, what := range []string{"sync", "call"} {
			g.say(what)
			g.heard("before " + what)
			time.Sleep(2 * time.Second)
			g.heard()
		}
		g.open()
	})
	inRoom(t, "a connection that is kept after its turn is dead", func(t *testing.T, r *room) {
		g := r.guest(t)
		var kept labv1durable.ChatLabJoinConn
		var keptTx labv1durable.ChatLabTx
		r.joins(steps{"keep": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			kept, keptTx = conn, tx
			return nil
		}})
		g.say("keep")
		for range 2 { // between turns, and in one of the same object
			_, aerr := kept.Attachment()
			_, _, gerr := keptTx.JoinAutoResponse().Get()
			for what, err := range map[string]error{
				"send": kept.Send(text("lost")), "close": kept.Close(1000, ""), "attachment": aerr, "set": attach(kept, "lost"),
				"auto-response": gerr, "set auto-response": keptTx.JoinAutoResponse().Set(&labv1.JoinRequest{}, text("x")),
			} {
				if !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("%s after the turn: %v, want ErrTxDone", what, err)
				}
			}
			for range keptTx.JoinConns() {
				t.Error("the connections are listed after the turn")
			}
			if kept.ID() == "" || !kept.Opened().Equal(time.Now()) {
				t.Errorf("id %q, opened %v", kept.ID(), kept.Opened())
			}
			r.act(t, func(context.Context, labv1durable.ChatLabTx) error {
				if err := kept.Send(text("lost")); !errors.Is(err, durable.ErrTxDone) {
					t.Errorf("send in another turn: %v, want ErrTxDone", err)
				}
				return nil
			})
		}
		g.heard()
		g.open()
	})
	inRoom(t, "an abort undoes what its turn did, also where the handler does not end", func(t *testing.T, r *room) {
		// The turn is cut off after its deadline and the time to be stuck.
		a, b := r.guest(t), r.guest(t)
		stop := make(chan struct{})
		defer close(stop)
		var after []string
		r.do.JoinClose = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, _ error) error {
			attachment, err := conn.Attachment()
			after = append(after, attachment.GetText())
			return err
		}
		setAll := func(_ context.Context, tx labv1durable.ChatLabTx, text string) (err error) {
			for conn := range tx.JoinConns() {
				err = errors.Join(err, attach(conn, text))
			}
			return err
		}
		r.joins(steps{"stick": func(ctx context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			err := errors.Join(setAll(ctx, tx, "lost"), tx.JoinConns().Send(text("lost")))
			<-stop
			return err
		}})
		r.act(t, func(ctx context.Context, tx labv1durable.ChatLabTx) error { return setAll(ctx, tx, "kept") })
		a.say("stick")
		time.Sleep(2 * time.Minute)
		r.closed(t, ending{4010, anyReason, true, true})
		a.heard()
		b.heard()
		_ = b.ended()
		same(t, "attachment that the Close handler sees", after, []string{"kept"})
	})
	inRoom(t, "WS-36 an event that takes too long is cancelled", func(t *testing.T, r *room) {
		var took time.Duration
		var err error
		r.joins(steps{"slow": func(ctx context.Context, _ labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			started := time.Now()
			<-ctx.Done()
			took, err = time.Since(started), ctx.Err()
			return err
		}})
		g := r.guest(t)
		g.say("slow")
		time.Sleep(time.Minute)
		synctest.Wait()
		if took != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the context ended after %v with %v, want 3s and its deadline", took, err)
		}
		g.say("next")
		g.heard("next")
	}, durable.WithLimits(durable.Limits{EventTimeout: 3 * time.Second}))
	inRoom(t, "WS-50 the deadline of an event is not that of the stream", func(t *testing.T, r *room) {
		g := r.guest(t)
		for range 20 { // far beyond any deadline of a handler
			time.Sleep(time.Hour)
			g.say("x")
			g.heard("x")
		}
		g.open()
	})
	inRoom(t, "WS-16 a hundred messages in order", func(t *testing.T, r *room) {
		g := r.guest(t)
		var all []string
		inside := 0
		r.do.JoinMessage = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
			if inside++; inside != 1 {
				t.Errorf("%d messages are handled at once", inside)
			}
			defer func() { inside-- }()
			time.Sleep(time.Millisecond)
			return errors.Join(write(ctx, tx), conn.Send(text(req.GetText())))
		}
		for i := range 100 {
			all = append(all, string(rune('0'+i%10)))
			if err := g.stream.Send(&labv1.JoinRequest{Text: all[i]}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		g.heard(all...)
	})
}
