package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// opens makes Open attach a number to each connection and give it the tags that
// stand beside that.
func (r *room) opens(tags ...[]string) {
	n := 0
	r.do.JoinOpen = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
		n++
		return errors.Join(attach(conn, fmt.Sprint(n)), conn.SetTags(tags[n-1]...))
	}
}

func TestChatLists(t *testing.T) {
	t.Parallel()
	inRoom(t, "WS-06 WS-08 WS-09 tags, in the order in which connections were accepted", func(t *testing.T, r *room) {
		r.opens([]string{"red"}, []string{"blue", "red", "blue"}, nil, []string{"red", "blue", "green"})
		var all []*guest
		for range 4 {
			all = append(all, r.guest(t))
		}
		same(t, "all", r.who(t), []string{"1 red", "2 blue red", "3", "4 red blue green"})
		same(t, "red", r.who(t, "red"), []string{"1 red", "2 blue red", "4 red blue green"})
		same(t, "red and blue", r.who(t, "red", "blue"), []string{"2 blue red", "4 red blue green"})
		same(t, "blue and red", r.who(t, "blue", "red"), []string{"2 blue red", "4 red blue green"})
		same(t, "all three", r.who(t, "green", "red", "blue"), []string{"4 red blue green"})
		same(t, "an unknown tag", r.who(t, "yellow"), []string{})
		same(t, "one known, one not", r.who(t, "red", "yellow"), []string{})
		r.act(t, func(_ context.Context, tx labv1durable.ChatLabTx) error {
			var second labv1durable.ChatLabJoinConn
			n := 0
			for conn := range tx.JoinConns() {
				if n++; n == 2 {
					second = conn
					break
				}
			}
			return errors.Join(
				tx.JoinConns("red").Except(second).Send(text("red but the second")),
				tx.JoinConns("green", "blue").Send(text("green")),
				tx.JoinConns("yellow").Send(text("nobody")),
			)
		})
		all[0].heard("red but the second")
		all[1].heard()
		all[2].heard()
		all[3].heard("red but the second", "green")
		all[1].vanish()
		same(t, "WS-07: red, when the second is gone", r.who(t, "red"), []string{"1 red", "4 red blue green"})
		all[3].half()
		same(t, "green, when the last is gone", r.who(t, "green"), []string{})
		same(t, "all that are left", r.who(t), []string{"1 red", "3"})
	})
	inRoom(t, "WS-06 a broadcast skips those that are closed, and goes to one object's connections", func(t *testing.T, r *room) {
		a, b := r.guest(t), r.guest(t)
		r.joins(steps{"alone": func(_ context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(conn.Close(1000, ""), tx.JoinConns().Send(text("the rest")))
		}})
		other := &room{faulty: r.faulty, ChatLabStub: labv1durable.NewChatLabClient(r.conn).GetByName("other"), do: r.do}
		c := other.guest(t)
		a.say("alone")
		a.finished()
		b.heard("the rest")
		c.heard()
		same(t, "other object", len(other.who(t)), 1)
	})
	inRoom(t, "WS-04 limits of tags", func(t *testing.T, r *room) {
		longest := strings.Repeat("ü", durable.MaxConnTagLen)
		var ten []string
		for i := range durable.MaxConnTags {
			ten = append(ten, fmt.Sprint(i))
		}
		for name, c := range map[string]struct {
			tags []string
			err  string
		}{
			"ten":                {ten, ""},
			"ten and duplicates": {append(ten, ten...), ""},
			"eleven":             {append(ten, "11"), "11 tags of a connection, the limit is 10"},
			"256 characters":     {[]string{longest}, ""},
			"257 characters":     {[]string{longest + "x"}, "257 characters of a tag, the limit is 256"},
			"empty":              {[]string{""}, ""},
			"not UTF-8":          {[]string{"\xff"}, "not valid UTF-8"},
		} {
			r.do.JoinOpen = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return conn.SetTags(c.tags...)
			}
			g := r.guest(t)
			if c.err == "" {
				g.open()
				same(t, name, len(r.who(t, c.tags[0])), 1)
				g.vanish()
				continue
			}
			err := g.ended()
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: the client was told %v, want %q", name, err, c.err)
			}
			same(t, "connections after "+name, r.who(t), []string{})
		}
	})
	inRoom(t, "WS-04 tags are set in Open", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			err := errors.Join(conn.SetTags("first", "both"), conn.SetTags("second", "both"))
			var limit *durable.LimitError
			if lerr := conn.SetTags(strings.Repeat("x", 300)); !errors.As(lerr, &limit) || limit.Max != 256 || limit.Actual != 300 {
				t.Errorf("a tag of 300 characters: %v", lerr)
			}
			return err
		}
		r.joins(steps{"tag": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			if err := conn.SetTags("late"); !errors.Is(err, durable.ErrInvalidArgument) {
				t.Errorf("SetTags in a message: %v, want ErrInvalidArgument", err)
			}
			tags := conn.Tags()
			tags[0] = "changed" // a copy
			return conn.Send(text(strings.Join(conn.Tags(), " ")))
		}})
		g := r.guest(t)
		g.say("tag")
		g.heard("second both")
		same(t, "the first set", r.who(t, "first"), []string{})
		same(t, "the second", r.who(t, "second", "both"), []string{" second both"})
	})
	inRoom(t, "WS-24 WS-25 WS-26 attachments", func(t *testing.T, r *room) {
		full := strings.Repeat("x", 16<<10-3) // beside the number of the field and the length
		r.joins(steps{
			"none": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				if a, err := conn.Attachment(); a != nil || err != nil {
					t.Errorf("before the first: %v, %v, want nil", a, err)
				}
				return nil
			},
			"set": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				mine := &labv1.JoinAttachment{Text: "mine", Received: 7}
				err := conn.SetAttachment(mine)
				mine.Text = "changed"
				read, rerr := conn.Attachment()
				same(t, "read", read, &labv1.JoinAttachment{Text: "mine", Received: 7})
				read.Text = "changed"
				return errors.Join(err, rerr)
			},
			"over": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				var limit *durable.LimitError
				if err := attach(conn, full+"x"); !errors.As(err, &limit) || limit.Max != 16384 || limit.Actual != 16385 {
					t.Errorf("16,385 bytes: %v, want a LimitError of 16384", err)
				}
				read, err := conn.Attachment()
				same(t, "the old one", read.GetText(), "mine")
				return err
			},
			"full": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return attach(conn, full)
			},
			"empty": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				return conn.SetAttachment(&labv1.JoinAttachment{})
			},
			"is empty": func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				if a, err := conn.Attachment(); a == nil || err != nil {
					t.Errorf("an empty attachment: %v, %v", a, err)
				}
				return nil
			},
		})
		g := r.guest(t)
		for _, step := range []string{"none", "set", "over"} {
			g.say(step)
		}
		same(t, "seen in another turn", r.who(t), []string{"mine"})
		g.say("full")
		r.evict(t)
		same(t, "after an eviction", r.who(t), []string{full})
		g.say("empty", "is empty")
		r.evict(t)
		g.say("is empty")
		g.open()
	})
	inRoom(t, "WS-05 connections of an object", func(t *testing.T, r *room) {
		a, _ := r.guest(t), r.guest(t)
		refused := want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
			Reason: durablev1.ErrorReason_ERROR_REASON_OVERLOADED, Overloaded: true, Retryable: true,
			Limit: &durablev1.Limit{Name: "connections", Max: 2, Actual: 2},
		}}
		refused.check(t, r.guest(t).ended(), r)
		same(t, "connections", len(r.who(t)), 2)
		r.closed(t)
		a.vanish()
		r.guest(t).open()
	}, durable.WithLimits(durable.Limits{MaxConns: 2}))
	inRoom(t, "WS-12 an Open that fails", func(t *testing.T, r *room) {
		for _, c := range map[string]struct {
			open func() error
			want want
		}{
			"an error": {func() error { return errOnPurpose }, want{
				code: connect.CodeUnknown, message: "on purpose", info: &durablev1.ErrorInfo{Remote: true},
			}},
			"a panic": {func() error { panic("on purpose") }, want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_PANIC, ObjectReset: true,
			}}},
			"a CloseError": {func() error { return &durable.CloseError{Code: 4016, Reason: "who are you?"} }, closedBy(4016, "who are you?")},
			"a coded error": {func() error { return connect.NewError(connect.CodePermissionDenied, "not you") }, want{
				code: connect.CodePermissionDenied, message: "not you", info: &durablev1.ErrorInfo{Remote: true},
			}},
		} {
			r.do.JoinOpen = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
				err := errors.Join(write(ctx, tx), conn.SetTags("lost"), attach(conn, "lost"), conn.Send(text("lost")))
				if err != nil {
					t.Error(err)
				}
				return c.open()
			}
			g := r.guest(t)
			g.heard()
			c.want.check(t, g.ended(), r)
			r.closed(t)
			same(t, "connections", r.who(t), []string{})
			same(t, "with the tag", r.who(t, "lost"), []string{})
		}
	})
	inRoom(t, "WS-12 a turn right behind an Open that fails does not see it", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(_ context.Context, _ labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			time.Sleep(time.Second)
			return errOnPurpose
		}
		for range 100 {
			g := r.guest(t)
			if seen := r.who(t); len(seen) != 0 { // waits for its turn
				t.Fatalf("a turn saw %d connections, whose Open had failed", len(seen))
			}
			_ = g.ended()
		}
	})
	inRoom(t, "Open sends and closes", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(conn.Send(text("sorry")), conn.Close(4005, "full"))
		}
		g := r.guest(t)
		g.heard("sorry")
		closedBy(4005, "full").check(t, g.ended(), r)
		r.closed(t, ending{4005, "full", true, true}) // Open succeeded
	})
	inRoom(t, "Open sends, and awaits something", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			err := conn.Send(text("hold on"))
			return errors.Join(err, tx.Await(ctx, func(context.Context) error {
				time.Sleep(time.Second)
				return nil
			}), conn.Send(text("welcome")))
		}
		g := r.guest(t)
		g.heard("hold on")
		time.Sleep(2 * time.Second)
		g.heard("welcome")
		g.say("hello")
		g.heard("hello")
	})
	inRoom(t, "Open sends, awaits something, and fails", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
			return errors.Join(conn.Send(text("hold on")), tx.Sync(ctx), conn.Send(text("lost")), errOnPurpose)
		}
		g := r.guest(t)
		g.heard("hold on")
		want{code: connect.CodeUnknown}.check(t, g.ended(), r)
		r.closed(t)
		same(t, "connections", r.who(t), []string{})
	})
	inRoom(t, "Keep of Open refuses the connection and keeps what it wrote", func(t *testing.T, r *room) {
		r.do.JoinOpen = func(ctx context.Context, tx labv1durable.ChatLabTx, _ labv1durable.ChatLabJoinConn) error {
			return durable.Keep(errors.Join(errOnPurpose, write(ctx, tx)))
		}
		want{code: connect.CodeUnknown}.check(t, r.guest(t).ended(), r)
		r.closed(t)
		same(t, "connections", r.who(t), []string{})
		r.act(t, func(ctx context.Context, tx labv1durable.ChatLabTx) error {
			_, ok, err := tx.KV().Get(ctx, "k")
			same(t, "what it wrote is there", ok, true)
			return err
		})
	})
}
