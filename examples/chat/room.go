package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

// typingEvery is how often a connection may tell the others that its user is
// typing.
const typingEvery = 2 * time.Second

// room is one room in memory, which it leaves when nothing has happened for ten
// seconds: the connections stay open, and the next message brings it back. All
// that it knows is in its tables and in the attachments of its connections, so it
// has nothing to restore.
type room struct {
	name string // for the log
}

var _ durable.Evicter = (*room)(nil)

func newRoom(ctx context.Context, tx chatv1durable.RoomTx, tables durable.Migrations) (chatv1durable.RoomHandler, error) {
	if err := tx.SQL().Migrate(ctx, tables); err != nil {
		return nil, err
	}
	// Clients ping all the time. This is answered while the room sleeps.
	err := tx.JoinAutoResponse().Set(
		&chatv1.JoinRequest{Event: &chatv1.JoinRequest_Ping_{Ping: &chatv1.JoinRequest_Ping{}}},
		&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Pong_{Pong: &chatv1.JoinResponse_Pong{}}},
	)
	if err != nil {
		return nil, err
	}
	connections := 0
	for range tx.JoinConns() {
		connections++
	}
	slog.InfoContext(ctx, "room comes into memory", "room", tx.Name(), "connections", connections)
	return &room{name: tx.Name()}, nil
}

// Evict implements [durable.Evicter].
func (r *room) Evict(ctx context.Context) {
	slog.InfoContext(ctx, "room leaves memory", "room", r.name)
}

// JoinOpen waits for the hello.
func (r *room) JoinOpen(context.Context, chatv1durable.RoomTx, chatv1durable.RoomJoinConn) error {
	return nil
}

// JoinMessage does what a client asks for. A refusal is no error: it goes to this
// connection, and nothing else has happened.
func (r *room) JoinMessage(ctx context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, req *chatv1.JoinRequest) error {
	err := r.event(ctx, tx, conn, req)
	var no *refusal
	if !errors.As(err, &no) {
		return err
	}
	no.refused.ClientId = req.GetPost().GetClientId()
	return conn.Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Refused_{Refused: no.refused}})
}

func (r *room) event(ctx context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, req *chatv1.JoinRequest) error {
	member, err := conn.Attachment()
	if err != nil {
		return err
	}
	if hello := req.GetHello(); hello != nil {
		if member != nil {
			return refuse(chatv1.RefusedReason_REFUSED_REASON_SECOND_HELLO, "You have said hello already.")
		}
		return r.hello(ctx, tx, conn, hello)
	}
	if member == nil {
		return refuse(chatv1.RefusedReason_REFUSED_REASON_NO_HELLO, "Say hello first.")
	}
	switch event := req.GetEvent().(type) {
	case *chatv1.JoinRequest_Post:
		return r.say(ctx, tx, conn, member, event.Post)
	case *chatv1.JoinRequest_Typing_:
		return r.typing(tx, conn, member, event.Typing.GetActive())
	}
	return refuse(chatv1.RefusedReason_REFUSED_REASON_UNKNOWN_EVENT, "This server does not know what you sent.")
}

// hello lets somebody into the room. Who it is stays with the connection.
func (r *room) hello(ctx context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, hello *chatv1.JoinRequest_Hello) error {
	user, err := cleanUser(hello.GetUser())
	if err != nil {
		return err
	}
	welcome, err := missed(ctx, tx.SQL(), hello.GetLastId())
	if err != nil {
		return err
	}
	here := slices.Contains(users(tx), user) // in another tab
	if err := conn.SetAttachment(&chatv1.Member{User: user}); err != nil {
		return err
	}
	welcome.User, welcome.Users = user, users(tx)
	if err := conn.Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Welcome_{Welcome: welcome}}); err != nil || here {
		return err
	}
	joined := &chatv1.JoinResponse_Joined{User: user}
	return joiners(tx).Except(conn).Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Joined_{Joined: joined}})
}

// say posts a message, and answers one that was posted before, on a connection
// that was lost.
func (r *room) say(ctx context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, member *chatv1.Member, post *chatv1.JoinRequest_NewMessage) error {
	message, again, err := r.post(ctx, tx, member.GetUser(), post.GetText(), post.GetClientId())
	if err != nil {
		return err
	}
	if again {
		return conn.Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Posted{Posted: message}})
	}
	return nil
}

// typing tells the others, who forget it by themselves, and not too often. It is
// stored nowhere but with the connection.
func (r *room) typing(tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, member *chatv1.Member, active bool) error {
	if active && tx.Now().Sub(member.GetTypingTime().AsTime()) < typingEvery || !active && !member.GetTyping() {
		return nil
	}
	member.Typing = active
	if active {
		member.TypingTime = timestamppb.New(tx.Now())
	}
	if err := conn.SetAttachment(member); err != nil {
		return err
	}
	typing := &chatv1.JoinResponse_Typing{User: member.GetUser(), Active: active}
	return joiners(tx).Except(conn).Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Typing_{Typing: typing}})
}

// JoinClose tells the others when the last connection of somebody has ended.
func (r *room) JoinClose(_ context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomJoinConn, _ error) error {
	member, err := conn.Attachment()
	if err != nil || member == nil || slices.Contains(users(tx), member.GetUser()) {
		return err
	}
	left := &chatv1.JoinResponse_Left{User: member.GetUser()}
	return joiners(tx).Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Left_{Left: left}})
}

// members yields the connections that have said hello.
func members(tx chatv1durable.RoomTx) iter.Seq2[chatv1durable.RoomJoinConn, *chatv1.Member] {
	return func(yield func(chatv1durable.RoomJoinConn, *chatv1.Member) bool) {
		for conn := range tx.JoinConns() {
			// An attachment that cannot be read would be one of another program.
			if member, err := conn.Attachment(); err == nil && member != nil && !yield(conn, member) {
				return
			}
		}
	}
}

// joiners are the connections that have said hello: a message that is sent to
// them is encoded once.
func joiners(tx chatv1durable.RoomTx) chatv1durable.RoomJoinConns {
	return func(yield func(chatv1durable.RoomJoinConn) bool) {
		for conn := range members(tx) {
			if !yield(conn) {
				return
			}
		}
	}
}

// users returns who is in the room, each once, in the order in which they came.
func users(tx chatv1durable.RoomTx) []string {
	var users []string
	seen := map[string]bool{}
	for _, member := range members(tx) {
		if user := member.GetUser(); !seen[user] {
			seen[user] = true
			users = append(users, user)
		}
	}
	return users
}
