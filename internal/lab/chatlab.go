package lab

import (
	"context"
	"errors"
	"sync"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// Chat says what the handlers of chat labs do, and notes how their connections
// ended. The functions may be nil.
type Chat struct {
	New         func(ctx context.Context, tx labv1durable.ChatLabTx) error
	JoinOpen    func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error
	JoinMessage func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error
	JoinClose   func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, cause error) error
	WatchOpen   func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabWatchConn, req *labv1.WatchRequest) error
	Say         func(ctx context.Context, tx labv1durable.ChatLabTx, req *labv1.SayRequest) (*labv1.SayResponse, error)

	mu     sync.Mutex
	closed []error
}

// Closed returns the causes with which connections were closed, in order.
func (c *Chat) Closed() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error(nil), c.closed...)
}

func (c *Chat) close(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = append(c.closed, cause)
}

// A chatLab echoes, unless the lab says otherwise.
type chatLab struct{ chat *Chat }

// RegisterChat registers the chat labs alone.
func (l *Lab) RegisterChat(r durable.Registrar) error {
	return labv1durable.RegisterChatLab(r, l.newChatLab, l.Options...)
}

func (l *Lab) newChatLab(ctx context.Context, tx labv1durable.ChatLabTx) (labv1durable.ChatLabHandler, error) {
	l.Constructed.Add(1)
	if l.Chat.New != nil {
		if err := l.Chat.New(ctx, tx); err != nil {
			return nil, err
		}
	}
	return &chatLab{&l.Chat}, nil
}

// JoinOpen implements [labv1durable.ChatLabHandler].
func (c *chatLab) JoinOpen(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error {
	if c.chat.JoinOpen != nil {
		return c.chat.JoinOpen(ctx, tx, conn)
	}
	return nil
}

// JoinMessage implements [labv1durable.ChatLabHandler].
func (c *chatLab) JoinMessage(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
	if c.chat.JoinMessage != nil {
		return c.chat.JoinMessage(ctx, tx, conn, req)
	}
	attachment, err := conn.Attachment()
	if err != nil {
		return err
	}
	number := attachment.GetReceived() + 1
	return errors.Join(
		conn.SetAttachment(&labv1.JoinAttachment{Text: req.GetText(), Received: number}),
		conn.Send(&labv1.JoinResponse{Text: req.GetText(), Data: req.GetData(), Number: number}),
	)
}

// JoinClose implements [labv1durable.ChatLabHandler].
func (c *chatLab) JoinClose(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, cause error) error {
	c.chat.close(cause)
	if c.chat.JoinClose != nil {
		return c.chat.JoinClose(ctx, tx, conn, cause)
	}
	return nil
}

// WatchOpen implements [labv1durable.ChatLabHandler].
func (c *chatLab) WatchOpen(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabWatchConn, req *labv1.WatchRequest) error {
	if c.chat.WatchOpen != nil {
		return c.chat.WatchOpen(ctx, tx, conn, req)
	}
	for _, text := range req.GetTexts() {
		if err := conn.Send(&labv1.WatchResponse{Text: text}); err != nil {
			return err
		}
	}
	return nil
}

// WatchClose implements [labv1durable.ChatLabHandler].
func (c *chatLab) WatchClose(_ context.Context, _ labv1durable.ChatLabTx, _ labv1durable.ChatLabWatchConn, cause error) error {
	c.chat.close(cause)
	return nil
}

// FollowOpen implements [labv1durable.ChatLabHandler].
func (c *chatLab) FollowOpen(context.Context, labv1durable.ChatLabTx, labv1durable.ChatLabFollowConn) error {
	return nil
}

// FollowMessage implements [labv1durable.ChatLabHandler].
func (c *chatLab) FollowMessage(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabFollowConn, req *labv1.FollowRequest) error {
	return conn.Send(&labv1.FollowResponse{Text: req.GetText()})
}

// FollowClose implements [labv1durable.ChatLabHandler].
func (c *chatLab) FollowClose(_ context.Context, _ labv1durable.ChatLabTx, _ labv1durable.ChatLabFollowConn, cause error) error {
	c.chat.close(cause)
	return nil
}

// Say implements [labv1durable.ChatLabHandler].
func (c *chatLab) Say(ctx context.Context, tx labv1durable.ChatLabTx, req *labv1.SayRequest) (*labv1.SayResponse, error) {
	if c.chat.Say != nil {
		return c.chat.Say(ctx, tx, req)
	}
	n := int64(0)
	for range tx.JoinConns(req.GetTags()...) {
		n++
	}
	if err := tx.JoinConns(req.GetTags()...).Send(&labv1.JoinResponse{Text: req.GetText()}); err != nil {
		return nil, err
	}
	if len(req.GetTags()) == 0 {
		for range tx.WatchConns() {
			n++
		}
		for range tx.FollowConns() {
			n++
		}
		if err := errors.Join(
			tx.WatchConns().Send(&labv1.WatchResponse{Text: req.GetText()}),
			tx.FollowConns().Send(&labv1.FollowResponse{Text: req.GetText()}),
		); err != nil {
			return nil, err
		}
	}
	return &labv1.SayResponse{Connections: n}, nil
}

// Who implements [labv1durable.ChatLabHandler].
func (c *chatLab) Who(_ context.Context, view labv1durable.ChatLabView, req *labv1.WhoRequest) (*labv1.WhoResponse, error) {
	res := &labv1.WhoResponse{}
	for conn := range view.JoinConns(req.GetTags()...) {
		attachment, err := conn.Attachment()
		if err != nil {
			return nil, err
		}
		res.Peers = append(res.Peers, &labv1.Peer{Id: conn.ID(), Tags: conn.Tags(), Attachment: attachment})
	}
	return res, nil
}
