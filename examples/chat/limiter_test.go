package main

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

// TestFlood: who posts too fast is refused, in every room and by every way, and
// nobody else is.
func TestFlood(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		bob := join(t, room, "bob", "bob")
		eve := join(t, room, "eve", "bob", "eve")
		bob.want(joined("eve"))
		for i := range 15 {
			eve.post("spam", fmt.Sprint(i))
		}
		for i := range int64(10) {
			eve.want(posted(i+1, "eve", "spam", fmt.Sprint(i)))
			bob.want(posted(i+1, "eve", "spam", fmt.Sprint(i)))
		}
		for i := range 5 {
			no := eve.receive()
			same(t, refused(chatv1.RefusedReason_REFUSED_REASON_RATE, fmt.Sprint(10+i)), no)
			if wait := no.GetRefused().GetRetryAfter().AsDuration(); wait <= 0 || wait > time.Second {
				t.Errorf("eve is to wait for %v, want at most a second", wait)
			}
		}
		other := chatv1durable.NewRoomClient(conn).GetByName("other")
		if _, err := other.Post(t.Context(), &chatv1.PostRequest{Author: "eve", Text: "spam"}); connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("a post in another room: %v, want resource_exhausted", err)
		}
		bob.post("stop it", "1")
		bob.want(posted(11, "bob", "stop it", "1"))
		eve.want(posted(11, "bob", "stop it", "1"))

		time.Sleep(time.Second)
		s.EvictAll()
		eve.post("sorry", "10") // the id of one that was refused
		eve.want(posted(12, "eve", "sorry", "10"))
		bob.want(posted(12, "eve", "sorry", "10"))
		eve.post("so sorry", "20")
		eve.want(refused(chatv1.RefusedReason_REFUSED_REASON_RATE, "20"))
	})
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, register)
		ann := chatv1durable.NewLimiterClient(s.Conn()).GetByName("ann")
		take := func(tokens int32, want time.Duration) {
			t.Helper()
			res, err := ann.Take(t.Context(), &chatv1.TakeRequest{Tokens: tokens})
			if err != nil {
				t.Fatal(err)
			}
			// A commit takes some time, also in a bubble.
			if got := res.GetRetryAfter().AsDuration().Round(10 * time.Millisecond); got != want || res.GetAllowed() != (want == 0) {
				t.Fatalf("%d tokens: %v, want to wait %v", tokens, res, want)
			}
		}
		take(7, 0)
		take(4, time.Second)
		take(3, 0)
		take(0, time.Second) // which is 1
		time.Sleep(500 * time.Millisecond)
		take(1, 500*time.Millisecond)
		s.Evict(ann.Ref)
		time.Sleep(500 * time.Millisecond)
		take(1, 0)
		take(10, 10*time.Second)
		time.Sleep(time.Minute) // no more than ten gather
		take(10, 0)
		take(1, time.Second)
		for _, tokens := range []int32{-1, 11} {
			if _, err := ann.Take(t.Context(), &chatv1.TakeRequest{Tokens: tokens}); connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%d tokens: %v, want invalid_argument", tokens, err)
			}
		}
	})
}

// TestForget: of who has not posted for some time nothing is left.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, register)
		ann := chatv1durable.NewLimiterClient(s.Conn()).GetByName("ann")
		for range 61 {
			if _, err := ann.Take(t.Context(), &chatv1.TakeRequest{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second - time.Millisecond)
		}
		if got := s.ListIDs(chatv1durable.LimiterType); len(got) != 1 || got[0] != ann.ID() {
			t.Errorf("the limiters are %v, want that of ann, whose bucket is not full", got)
		}
		time.Sleep(time.Minute)
		if got := s.ListIDs(chatv1durable.LimiterType); len(got) != 0 {
			t.Errorf("the limiters are %v, want none", got)
		}
	})
}
