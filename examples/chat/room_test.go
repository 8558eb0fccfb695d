package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
)

// everyWay runs a test over both ways to a server, in a bubble of time.
func everyWay(t *testing.T, test func(t *testing.T, s *durabletest.Server, conn durable.Conn)) {
	for name, conn := range map[string]func(*durabletest.Server) durable.Conn{
		"in process": (*durabletest.Server).Conn,
		"over HTTP":  overHTTP,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, register)
				test(t, s, conn(s))
			})
		})
	}
}

// TestTalk lets two people talk, while the room leaves memory after every step.
// WS-17, WS-25, GATE-17.
func TestTalk(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		evict := func() {
			t.Helper()
			if !s.Evict(room.Ref) {
				t.Fatal("the room was not in memory")
			}
		}
		ann := join(t, room, "ann", "ann")
		evict()
		bob := join(t, room, " bob  b ", "ann", "bob b")
		ann.want(joined("bob b"))
		evict()
		ann.post("hello", "1")
		ann.want(posted(1, "ann", "hello", "1"))
		bob.want(posted(1, "ann", "hello", "1"))
		evict()
		bob.typing(true)
		ann.want(typing("bob b", true))
		evict()
		bob.post(" hi,\nann ", "1") // the id is of bob's
		ann.want(posted(2, "bob b", "hi,\nann", "1"))
		bob.want(posted(2, "bob b", "hi,\nann", "1"))
		evict()
		bob.leave()
		ann.want(left("bob b"))
		evict()
		res, err := room.History(t.Context(), &chatv1.HistoryRequest{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, &chatv1.HistoryResponse{Messages: []*chatv1.Message{
			message(1, "ann", "hello", "1"), message(2, "bob b", "hi,\nann", "1"),
		}}, res)
	})
}

// TestTwoTabs: somebody is in the room as long as one connection is. Both get
// everything, but for what one of them types.
func TestTwoTabs(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		bob := join(t, room, "bob", "bob")
		one := join(t, room, "ann", "bob", "ann")
		bob.want(joined("ann"))
		two := join(t, room, "ann", "bob", "ann") // and bob is not told again
		s.Evict(room.Ref)
		one.post("hello", "1")
		for _, g := range []*guest{bob, one, two} {
			g.want(posted(1, "ann", "hello", "1"))
		}
		one.leave()
		synctest.Wait()
		two.post("still here", "2")
		bob.want(posted(2, "ann", "still here", "2")) // ann has not left
		two.want(posted(2, "ann", "still here", "2"))
		two.leave()
		bob.want(left("ann"))
		join(t, room, "eve", "bob", "eve")
	})
}

// TestTyping: the others are told at most every two seconds, and of an end only
// where there was a beginning.
func TestTyping(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		ann := join(t, room, "ann", "ann")
		bob := join(t, room, "bob", "ann", "bob")
		ann.want(joined("bob"))
		for range 50 { // 5 s
			bob.typing(true)
			time.Sleep(100 * time.Millisecond)
		}
		bob.typing(false)
		bob.typing(false)
		bob.post("done", "1")
		ann.want(typing("bob", true), typing("bob", true), typing("bob", true), typing("bob", false), posted(1, "bob", "done", "1"))
		bob.want(posted(1, "bob", "done", "1")) // and nothing of his typing
		for range 20 {
			bob.typing(true)
			bob.typing(false)
		}
		bob.post("done", "2")
		ann.want(posted(2, "bob", "done", "2")) // all within two seconds
		s.Evict(room.Ref)
		time.Sleep(2 * time.Second)
		bob.typing(true)
		ann.want(typing("bob", true))
	})
}

// TestRefusals: what is wrong is answered on the connection it came from, which
// goes on.
func TestRefusals(t *testing.T) {
	everyWay(t, func(t *testing.T, _ *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		ann := join(t, room, "ann", "ann")

		eve := enter(t, room)
		eve.ping()
		eve.want(pong)
		ann.post("not for who said no hello", "")
		ann.want(posted(1, "ann", "not for who said no hello", ""))
		eve.post("hello", "1")
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_NO_HELLO, "1"))
		eve.typing(true)
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_NO_HELLO, ""))
		for _, user := range []string{"", " \t", strings.Repeat("ä", 33), "e\u200bve", "e\x00ve"} {
			eve.hello(user, 0)
			eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_BAD_USER, ""))
		}
		long := strings.Repeat("ä", 32)
		eve.hello(long, 0)
		eve.welcome()
		ann.want(joined(long))

		eve.hello("eve", 0)
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_SECOND_HELLO, ""))
		eve.send(&chatv1.JoinRequest{})
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_UNKNOWN_EVENT, ""))
		eve.post("", "2")
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_EMPTY, "2"))
		eve.post(" \n ", "3")
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_EMPTY, "3"))
		eve.post(strings.Repeat("ä", 2001), "4")
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_TOO_LONG, "4"))
		eve.post("hello", strings.Repeat("5", 65))
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_TOO_LONG, strings.Repeat("5", 65)))

		text := strings.Repeat("ä", 2000)
		eve.post(text, "6")
		ann.want(posted(2, long, text, "6"))
		eve.want(posted(2, long, text, "6"))
	})
}

// TestSleep: with nothing to do the room leaves memory, and neither pings nor time
// wake it. WS-30, LIFE-04.
func TestSleep(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		ann := join(t, room, "ann", "ann")
		bob := join(t, room, "bob", "ann", "bob")
		ann.want(joined("bob"))
		for range 5 {
			time.Sleep(20 * time.Second)
			if n := s.Server().Active(); n != 0 {
				t.Fatalf("%d objects are in memory, want none", n)
			}
			ann.ping()
			ann.want(pong)
			if n := s.Server().Active(); n != 0 {
				t.Fatal("a ping woke the room")
			}
		}
		ann.post("still there?", "1")
		bob.want(posted(1, "ann", "still there?", "1"))
		if n := s.Server().Active(); n != 2 {
			t.Fatalf("%d objects are in memory, want the room and the limiter", n)
		}
	})
}

// TestRestart: those who come back get what they missed, and see who is there. A
// message that is sent again is posted once.
func TestRestart(t *testing.T) {
	for name, restart := range map[string]func(*durabletest.Server){
		"drained": (*durabletest.Server).Restart,
		"killed":  (*durabletest.Server).Crash,
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
				room := roomOf(conn)
				ann := join(t, room, "ann", "ann")
				bob := join(t, room, "bob", "ann", "bob")
				ann.want(joined("bob"))
				ann.post("one", "1")
				bob.want(posted(1, "ann", "one", "1"))
				restart(s)
				for _, g := range []*guest{bob, ann} {
					for res, err := range g.stream.All() {
						if err == nil && res.GetPosted() == nil && res.GetLeft() == nil {
							t.Errorf("received %v", res)
						}
					}
				}

				ann = join(t, room, "ann", "ann")
				ann.post("one", "1") // whose answer was lost
				ann.want(posted(1, "ann", "one", "1"))
				ann.post("two", "2")
				ann.want(posted(2, "ann", "two", "2"))
				bob = enter(t, room)
				bob.hello("bob", 1)
				same(t, &chatv1.JoinResponse_Welcome{
					User: "bob", Users: []string{"ann", "bob"}, Messages: []*chatv1.Message{message(2, "ann", "two", "2")},
				}, bob.welcome())
				ann.want(joined("bob"))
			})
		})
	}
}
