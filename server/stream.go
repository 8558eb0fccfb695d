package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/actor"
)

// stream runs a streaming call: it finds out which object it is for, if need be
// from the first message, and hands it to the host.
func (s *Server) stream(ctx context.Context, r *route, outer []candidate, port actor.StreamPort) error {
	k, err := r.outer(outer)
	if err != nil {
		return wireError(err, r, durable.ID{})
	}
	p := &keyedPort{StreamPort: port, r: r, key: k}
	var req proto.Message
	switch {
	case !r.method.ClientStream:
		req = r.method.NewRequest()
		if err := port.Receive(req); err != nil {
			return err
		}
		if p.key, err = r.resolve(outer, req); err != nil {
			return wireError(err, r, durable.ID{})
		}
	case k.where == "" && r.method.KeyField != nil:
		if err := p.peek(); err != nil {
			return err
		}
	}
	if p.key.where == "" {
		if p.key, err = r.missing(); err != nil {
			return wireError(err, r, durable.ID{})
		}
	}
	err = s.host.Stream(ctx, actor.Call{Type: r.typ, Method: r.method, ID: p.key.id, Name: p.key.name}, p, req)
	if err != nil {
		return wireError(err, r, p.key.id)
	}
	return nil
}

// A keyedPort checks that every request of a stream is for its object.
type keyedPort struct {
	actor.StreamPort
	r     *route
	key   key
	first proto.Message // received already, nil when there is none
	ended bool          // the first receive met the end
}

// peek receives the first message and takes the key from it.
func (p *keyedPort) peek() error {
	req := p.r.method.NewRequest()
	err := p.StreamPort.Receive(req)
	if errors.Is(err, io.EOF) {
		p.ended = true
		return nil
	}
	if err != nil {
		return err
	}
	if p.key, err = p.r.inner(p.key, req); err != nil {
		return wireError(err, p.r, durable.ID{})
	}
	p.first = req
	return nil
}

// Receive implements [actor.StreamPort].
func (p *keyedPort) Receive(msg proto.Message) error {
	switch {
	case p.ended:
		return io.EOF
	case p.first != nil:
		proto.Merge(msg, p.first)
		p.first = nil
	default:
		if err := p.StreamPort.Receive(msg); err != nil {
			return err
		}
	}
	if p.r.method.KeyField == nil {
		return nil
	}
	if _, err := p.r.inner(p.key, msg); err != nil {
		return err
	}
	p.r.fill(p.key, msg)
	return nil
}

// Send implements [actor.StreamPort].
func (p *httpPort) Send(msg proto.Message) error {
	if !p.responded { // headers leave with the first message
		p.responded = true
		respond(p.call, p.info)
	}
	return p.stream.Send(msg)
}

// Interrupt implements [actor.StreamPort].
func (p *httpPort) Interrupt() {
	if p.writer != nil {
		_ = http.NewResponseController(p.writer).SetReadDeadline(time.Unix(1, 0))
	}
}

// Receive implements [actor.StreamPort].
func (p *httpPort) Receive(msg proto.Message) error { return p.stream.Receive(msg) }
