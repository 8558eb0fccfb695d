package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	durable "github.com/durable-go/durable"
	chatv1 "github.com/durable-go/durable/examples/chat/gen/chat/v1"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
)

const (
	pageSize    = 50  // of the history
	maxPageSize = 100 // also how many messages a client may have missed

	// What is kept: the newest messages, for some time.
	keepMessages = 1000
	keepTime     = 30 * 24 * time.Hour
	trimEvery    = time.Hour // while messages come
)

// Post posts a message of somebody who need not be in the room, as a program or a
// line of curl.
func (r *room) Post(ctx context.Context, tx chatv1durable.RoomTx, req *chatv1.PostRequest) (*chatv1.PostResponse, error) {
	author, err := cleanUser(req.GetAuthor())
	var message *chatv1.Message
	if err == nil {
		message, _, err = r.post(ctx, tx, author, req.GetText(), "")
	}
	var no *refusal
	if errors.As(err, &no) {
		return nil, no.wire()
	}
	if err != nil {
		return nil, err
	}
	return &chatv1.PostResponse{Message: message}, nil
}

// post stores a message and sends it to everybody, its author included. Nobody
// sees it before it is durable. It returns the message that was posted before
// with the same client id, and true, where there is one.
func (r *room) post(ctx context.Context, tx chatv1durable.RoomTx, author, text, clientID string) (message *chatv1.Message, again bool, err error) {
	text, err = cleanText(text, clientID)
	if err != nil {
		return nil, false, err
	}
	if clientID != "" {
		message, err = durable.One[*chatv1.Message](ctx, tx.SQL(), `SELECT * FROM messages WHERE author = ? AND client_id = ?`, author, clientID)
		if !errors.Is(err, durable.ErrNoRow) {
			return message, true, err
		}
	}
	// Another object says how fast somebody may post. The room waits for it, and
	// does nothing else meanwhile.
	take, err := chatv1durable.NewLimiterClient(tx).GetByName(author).Take(ctx, &chatv1.TakeRequest{})
	if err != nil {
		return nil, false, err
	}
	if !take.GetAllowed() {
		no := refuse(chatv1.RefusedReason_REFUSED_REASON_RATE, "That was too fast: wait a second.")
		no.refused.RetryAfter = take.GetRetryAfter()
		return nil, false, no
	}

	message = &chatv1.Message{Author: author, Text: text, Time: timestamppb.New(tx.Now()), ClientId: clientID}
	message.Id, err = durable.One[int64](ctx, tx.SQL(), `INSERT INTO messages (author, text, time, client_id) VALUES (?, ?, ?, ?) RETURNING id`,
		message.GetAuthor(), message.GetText(), message.GetTime(), message.GetClientId())
	if err != nil {
		return nil, false, err
	}
	if err := trimWithin(tx, trimEvery); err != nil {
		return nil, false, err
	}
	if err := joiners(tx).Send(&chatv1.JoinResponse{Event: &chatv1.JoinResponse_Posted{Posted: message}}); err != nil {
		return nil, false, err
	}
	return message, false, tx.WatchConns().Send(&chatv1.WatchResponse{Posted: message})
}

// History returns one page.
func (r *room) History(ctx context.Context, view chatv1durable.RoomView, req *chatv1.HistoryRequest) (*chatv1.HistoryResponse, error) {
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = pageSize
	}
	if limit < 1 || limit > maxPageSize {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the limit is %d, and must be 1 to %d, or 0 for %d", limit, maxPageSize, pageSize)
	}
	if req.GetBeforeId() < 0 {
		return nil, connect.Errorf(connect.CodeInvalidArgument, "the before_id is %d", req.GetBeforeId())
	}
	messages, more, err := newest(ctx, view.SQL(), req.GetBeforeId(), limit)
	return &chatv1.HistoryResponse{Messages: messages, More: more}, err
}

// WatchOpen sends what the new reader wants to begin with.
func (r *room) WatchOpen(ctx context.Context, tx chatv1durable.RoomTx, conn chatv1durable.RoomWatchConn, req *chatv1.WatchRequest) error {
	last := int(req.GetLast())
	if last < 0 || last > maxPageSize {
		return connect.Errorf(connect.CodeInvalidArgument, "last is %d, and must be 0 to %d", last, maxPageSize)
	}
	messages, _, err := newest(ctx, tx.SQL(), 0, last)
	if err != nil {
		return err
	}
	for _, message := range messages {
		if err := conn.Send(&chatv1.WatchResponse{Posted: message}); err != nil {
			return err
		}
	}
	return nil
}

// WatchClose has nothing to do: nobody knows who watches.
func (r *room) WatchClose(context.Context, chatv1durable.RoomTx, chatv1durable.RoomWatchConn, error) error {
	return nil
}

// newest returns the newest messages before one, or of all where before is 0, in
// the order in which they were posted, and whether there are older ones.
func newest(ctx context.Context, sql durable.SQL, before int64, limit int) (messages []*chatv1.Message, more bool, err error) {
	messages, err = durable.All[*chatv1.Message](ctx, sql, `SELECT * FROM messages WHERE id < ?1 OR ?1 = 0 ORDER BY id DESC LIMIT ?2`, before, limit+1)
	if more = len(messages) > limit; more {
		messages = messages[:limit]
	}
	slices.Reverse(messages)
	return messages, more, err
}

// missed returns what a client has to know that has all up to the message last.
func missed(ctx context.Context, sql durable.SQL, last int64) (*chatv1.JoinResponse_Welcome, error) {
	// One that is not there any more, or was the last of a room that was deleted,
	// does not help.
	known, err := durable.One[bool](ctx, sql, `SELECT EXISTS (SELECT * FROM messages WHERE id = ?)`, last)
	if err != nil {
		return nil, err
	}
	if known {
		messages, err := durable.All[*chatv1.Message](ctx, sql, `SELECT * FROM messages WHERE id > ? ORDER BY id LIMIT ?`, last, maxPageSize+1)
		if err != nil || len(messages) <= maxPageSize {
			return &chatv1.JoinResponse_Welcome{Messages: messages}, err
		}
	}
	messages, more, err := newest(ctx, sql, 0, pageSize)
	return &chatv1.JoinResponse_Welcome{Messages: messages, Fresh: true, More: more}, err
}

// TrimAlarm removes what is not kept. A room in which nobody says anything sleeps
// until its oldest message is too old.
func (r *room) TrimAlarm(ctx context.Context, tx chatv1durable.RoomTx, _ chatv1durable.RoomTrimAlarm) error {
	_, err := tx.SQL().Exec(ctx, `DELETE FROM messages WHERE time <= ? OR id <= (SELECT id FROM messages ORDER BY id DESC LIMIT 1 OFFSET ?)`,
		tx.Now().Add(-keepTime), keepMessages)
	if err != nil {
		return err
	}
	oldest, err := durable.One[*time.Time](ctx, tx.SQL(), `SELECT min(time) FROM messages`)
	if err != nil || oldest == nil {
		return err
	}
	return tx.Alarms().Trim().Set(oldest.Add(keepTime))
}

// trimWithin sets the alarm for d from now, unless it comes earlier.
func trimWithin(tx chatv1durable.RoomTx, d time.Duration) error {
	alarm := tx.Alarms().Trim()
	if due, ok, err := alarm.Get(); err != nil || ok && !due.After(tx.Now().Add(d)) {
		return err
	}
	return alarm.Set(tx.Now().Add(d))
}
