package main

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

// fill gives a room messages that are posted now.
func fill(t *testing.T, s *durabletest.Server, room chatv1durable.RoomStub, count int) {
	t.Helper()
	err := durabletest.RunIn(s, room.Ref, func(ctx context.Context, _ any, tx durable.Tx) error {
		_, err := tx.SQL().Exec(ctx, `INSERT INTO messages (author, text, time, client_id)
			SELECT 'ann', 'text ' || value, ?, '' FROM generate_series(1, ?)`, tx.Now(), count)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ids returns the first and the last id, and how many there are, as text.
func ids(messages []*chatv1.Message) string {
	if len(messages) == 0 {
		return "none"
	}
	for i, m := range messages {
		if m.GetId() != messages[0].GetId()+int64(i) {
			return fmt.Sprintf("not in order: %v", messages)
		}
	}
	return fmt.Sprintf("%d to %d", messages[0].GetId(), messages[len(messages)-1].GetId())
}

func TestHistory(t *testing.T) {
	s := durabletest.New(t, register)
	room := roomOf(s.Conn())
	fill(t, s, room, 120)
	for _, c := range []struct {
		before int64
		limit  int32
		want   string
	}{
		{0, 0, "71 to 120, more true"},
		{71, 0, "21 to 70, more true"},
		{21, 0, "1 to 20, more false"},
		{1, 0, "none, more false"},
		{101, 100, "1 to 100, more false"},
		{102, 100, "2 to 101, more true"},
		{999, 1, "120 to 120, more true"},
	} {
		res, err := room.History(t.Context(), &chatv1.HistoryRequest{BeforeId: c.before, Limit: c.limit})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s, more %v", ids(res.GetMessages()), res.GetMore()); got != c.want {
			t.Errorf("%d before %d: %s, want %s", c.limit, c.before, got, c.want)
		}
	}
	for _, req := range []*chatv1.HistoryRequest{{Limit: -1}, {Limit: 101}, {BeforeId: -1}} {
		if _, err := room.History(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: %v, want invalid_argument", req, err)
		}
	}
}

// TestMissed comes back with the last message it has.
func TestMissed(t *testing.T) {
	s := durabletest.New(t, register)
	room := roomOf(s.Conn())
	fill(t, s, room, 120)
	for last, want := range map[int64]string{
		0:   "71 to 120, fresh true, more true",
		120: "none, fresh false, more false",
		119: "120 to 120, fresh false, more false",
		20:  "21 to 120, fresh false, more false",
		19:  "71 to 120, fresh true, more true", // too many
		121: "71 to 120, fresh true, more true", // of a room that was deleted
	} {
		g := enter(t, room)
		g.hello(fmt.Sprint(last), last)
		welcome := g.welcome()
		if got := fmt.Sprintf("%s, fresh %v, more %v", ids(welcome.GetMessages()), welcome.GetFresh(), welcome.GetMore()); got != want {
			t.Errorf("after %d: %s, want %s", last, got, want)
		}
	}
}

// TestTrim: while messages come the room is trimmed every hour; then it sleeps
// until they are a month old. Ids are not given twice. ALM-12.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := durabletest.New(t, register)
		room := roomOf(s.Conn())
		post := func() int64 {
			res, err := room.Post(t.Context(), &chatv1.PostRequest{Author: "ann", Text: "hello"})
			if err != nil {
				t.Fatal(err)
			}
			return res.GetMessage().GetId()
		}
		want := func(when, want string) {
			t.Helper()
			err := durabletest.RunIn(s, room.Ref, func(ctx context.Context, _ any, tx durable.Tx) error {
				all, err := durable.All[*chatv1.Message](ctx, tx.SQL(), `SELECT * FROM messages ORDER BY id`)
				if got := ids(all); got != want {
					t.Errorf("%s there are the messages %s, want %s", when, got, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		fill(t, s, room, 1200)
		post()
		want("at first", "1 to 1201")
		time.Sleep(time.Hour - time.Second)
		want("before the first hour is over", "1 to 1201")
		time.Sleep(2 * time.Second)
		want("after it", "202 to 1201")
		post()
		time.Sleep(time.Hour + time.Second)
		want("an hour later", "203 to 1202")
		time.Sleep(30*24*time.Hour - time.Hour - 10*time.Second)
		want("a month after the first, less some time", "1202 to 1202")
		time.Sleep(2 * time.Hour)
		want("a month after the last", "none")
		if id := post(); id != 1203 {
			t.Errorf("the next message has the id %d, want 1203", id)
		}
	})
}

// TestPost: what is posted from outside reaches those in the room, once for each
// key.
func TestPost(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		ann := join(t, room, "ann", "ann")
		req := &chatv1.PostRequest{Author: "bot", Text: "deployed", RequestId: "build-7"}
		for range 2 {
			res, err := room.Post(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			same(t, &chatv1.PostResponse{Message: message(1, "bot", "deployed", "")}, res)
			if ago := time.Since(res.GetMessage().GetTime().AsTime()); ago < 0 || ago > time.Second {
				t.Errorf("the message was posted %v ago, want some milliseconds", ago)
			}
			history, err := room.History(t.Context(), &chatv1.HistoryRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]*chatv1.Message{res.GetMessage()}, history.GetMessages(), protocmp.Transform()); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			s.Evict(room.Ref)
		}
		for _, req := range []*chatv1.PostRequest{{Author: "", Text: "x"}, {Author: "bot", Text: " "}} {
			if _, err := room.Post(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%v: %v, want invalid_argument", req, err)
			}
		}
		ann.post("thanks", "1")
		ann.want(posted(1, "bot", "deployed", ""), posted(2, "ann", "thanks", "1"))
	})
}

// TestWatch begins with the newest messages and goes on with those that come.
func TestWatch(t *testing.T) {
	everyWay(t, func(t *testing.T, s *durabletest.Server, conn durable.Conn) {
		room := roomOf(conn)
		fill(t, s, room, 3)
		stream, err := room.Watch(t.Context(), &chatv1.WatchRequest{Last: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		receive := func(want *chatv1.Message) {
			t.Helper()
			res, err := stream.Receive()
			if err != nil {
				t.Fatal(err)
			}
			same(t, &chatv1.WatchResponse{Posted: want}, res)
		}
		receive(message(2, "ann", "text 2", ""))
		receive(message(3, "ann", "text 3", ""))
		s.Evict(room.Ref)
		bob := join(t, room, "bob", "bob") // who watches is not in the room
		bob.post("hello", "1")
		receive(message(4, "bob", "hello", "1"))

		refused, err := room.Watch(t.Context(), &chatv1.WatchRequest{Last: 101})
		if err == nil {
			_, err = refused.Receive()
		}
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v, want invalid_argument", err)
		}
	})
}
