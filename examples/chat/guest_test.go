package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

// A guest is one connection to a room.
type guest struct {
	t      *testing.T
	stream *durable.BidiStreamingClient[chatv1.JoinRequest, chatv1.JoinResponse]
}

func roomOf(conn durable.Conn) chatv1durable.RoomStub {
	return chatv1durable.NewRoomClient(conn).GetByName("lobby")
}

func overHTTP(s *durabletest.Server) durable.Conn {
	return durableconnect.New(s.HTTPClient(), s.URL())
}

// enter connects, and says nothing.
func enter(t *testing.T, room chatv1durable.RoomStub) *guest {
	t.Helper()
	stream, err := room.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t, stream}
	t.Cleanup(g.leave)
	return g
}

// join connects and says hello, and wants to be welcomed among users.
func join(t *testing.T, room chatv1durable.RoomStub, user string, users ...string) *guest {
	t.Helper()
	g := enter(t, room)
	g.hello(user, 0)
	if got := g.welcome().GetUsers(); !cmp.Equal(got, users) {
		t.Fatalf("%s is welcomed among %q, want %q", user, got, users)
	}
	return g
}

func (g *guest) leave() { _ = g.stream.Close() }

func (g *guest) send(req *chatv1.JoinRequest) {
	g.t.Helper()
	if err := g.stream.Send(req); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) hello(user string, last int64) {
	g.t.Helper()
	g.send(&chatv1.JoinRequest{Event: &chatv1.JoinRequest_Hello_{Hello: &chatv1.JoinRequest_Hello{User: user, LastId: last}}})
}

func (g *guest) post(text, clientID string) {
	g.t.Helper()
	g.send(&chatv1.JoinRequest{Event: &chatv1.JoinRequest_Post{Post: &chatv1.JoinRequest_NewMessage{Text: text, ClientId: clientID}}})
}

func (g *guest) typing(active bool) {
	g.t.Helper()
	g.send(&chatv1.JoinRequest{Event: &chatv1.JoinRequest_Typing_{Typing: &chatv1.JoinRequest_Typing{Active: active}}})
}

func (g *guest) ping() {
	g.t.Helper()
	g.send(&chatv1.JoinRequest{Event: &chatv1.JoinRequest_Ping_{Ping: &chatv1.JoinRequest_Ping{}}})
}

func (g *guest) receive() *chatv1.JoinResponse {
	g.t.Helper()
	res, err := g.stream.Receive()
	if err != nil {
		g.t.Fatalf("receive: %v", err)
	}
	return res
}

func (g *guest) welcome() *chatv1.JoinResponse_Welcome {
	g.t.Helper()
	res := g.receive()
	if res.GetWelcome() == nil {
		g.t.Fatalf("received %v, want a welcome", res)
	}
	return res.GetWelcome()
}

// want receives responses that are equal to these, but for times and what is said
// to people.
func (g *guest) want(responses ...*chatv1.JoinResponse) {
	g.t.Helper()
	for _, want := range responses {
		same(g.t, want, g.receive())
	}
}

func same(t *testing.T, want, got proto.Message) {
	t.Helper()
	diff := cmp.Diff(want, got, protocmp.Transform(),
		protocmp.IgnoreFields(&chatv1.Message{}, "time"), protocmp.IgnoreFields(&chatv1.JoinResponse_Refused{}, "text", "retry_after"))
	if diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func message(id int64, author, text, clientID string) *chatv1.Message {
	return &chatv1.Message{Id: id, Author: author, Text: text, ClientId: clientID}
}

func posted(id int64, author, text, clientID string) *chatv1.JoinResponse {
	return &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Posted{Posted: message(id, author, text, clientID)}}
}

func joined(user string) *chatv1.JoinResponse {
	return &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Joined_{Joined: &chatv1.JoinResponse_Joined{User: user}}}
}

func left(user string) *chatv1.JoinResponse {
	return &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Left_{Left: &chatv1.JoinResponse_Left{User: user}}}
}

func typing(user string, active bool) *chatv1.JoinResponse {
	return &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Typing_{Typing: &chatv1.JoinResponse_Typing{User: user, Active: active}}}
}

func refused(reason chatv1.RefusedReason, clientID string) *chatv1.JoinResponse {
	return &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Refused_{Refused: &chatv1.JoinResponse_Refused{Reason: reason, ClientId: clientID}}}
}

var pong = &chatv1.JoinResponse{Event: &chatv1.JoinResponse_Pong_{Pong: &chatv1.JoinResponse_Pong{}}}
