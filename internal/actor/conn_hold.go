package actor

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// A Held is a connection that is open, and held by its call.
type Held struct{ p *peer }

// Connect opens a connection of a hibernatable method, or resumes one. It runs the
// Open handler in a turn. req is the request where only the server streams. When it
// returns nil, [Held.Serve] has to be called; otherwise end.Finish was called,
// unless the connection was refused before the turn of Open.
func (h *Host) Connect(ctx context.Context, c Call, end ConnEnd, req proto.Message) (Held, error) {
	p, err := h.connect(ctx, c, end, req)
	return Held{p}, err
}

// Serve holds the connection until it is over. It runs the handlers, each in a
// turn, with values of ctx; while none runs, the object may leave memory. It
// returns nil for a connection that ended as it should, and otherwise what the peer
// is told; end.Finish was called then.
//
// What waits here is what an idle connection takes, so little else should be on the
// stack.
func (held Held) Serve(ctx context.Context) error {
	p := held.p
	defer p.abandoned()
	ctx = context.WithoutCancel(ctx) // a message that has come is handled
	if p.c.o.host.drain.Err() != nil {
		p.finish(&ending{err: durable.ErrStreamDrained, silent: true})
	}
	return p.close(ctx, p.serve(ctx))
}

// abandoned lets go of a peer when a handler ended the goroutine that serves it.
func (p *peer) abandoned() {
	if p.closed {
		return
	}
	p.finish(&ending{err: durable.ErrReset})
	p.wait()
	go func() {
		defer p.c.o.host.letGo(p.c.o)
		p.tell(context.Background(), p.c.o.host.endedLocally(durable.ErrReset))
	}()
}

// connect opens or resumes a connection. When it returns nil the peer is counted
// as held.
func (h *Host) connect(ctx context.Context, c Call, end ConnEnd, req proto.Message) (*peer, error) {
	parent := chainOf(ctx)
	if err := h.start(parent != nil); err != nil {
		return nil, err
	}
	defer h.finish()
	o := h.object(c.Type, c.ID, c.Name)
	defer h.release(o)
	for {
		if c.Resume != nil {
			if p, err := o.resume(ctx, c, end); p != nil || err != nil {
				return p, err
			}
		}
		p, err := o.open(ctx, c, end, req, parent)
		if !errors.Is(err, errTokenTaken) {
			return p, err
		}
	}
}

// accept counts the peer of a connection as held, and lets handlers see it.
func (o *object) accept(c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.opening = false
	o.conns.held++
	o.host.mu.Lock()
	o.host.mu.held++
	o.host.mu.Unlock()
}

// letGo counts a peer out.
func (h *Host) letGo(o *object) {
	h.retain(o)
	o.mu.Lock()
	o.conns.held--
	o.mu.Unlock()
	h.release(o)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.held--
	h.noteIdle()
}

// open makes a connection and runs the Open handler.
func (o *object) open(ctx context.Context, c Call, end ConnEnd, req proto.Message, parent *link) (p *peer, err error) {
	chain, err := o.extend(parent)
	if err != nil {
		return nil, err
	}
	m, err := o.inTurn(ctx, wish{access: exclusive, bytes: c.Bytes}, chain, nil, func(t *turn) (err error) {
		if p, err = o.addConn(c.Method, end, t.start, newSession(c.Resume)); err != nil {
			return err
		}
		opened := false
		defer func() {
			if !opened { // also when it panics: the next turn must not see it
				p.c.remove()
			}
		}()
		t.opens = p.c
		hctx := t.handling(ctx, c.Method.Procedure, o.typ.Limits.EventTimeout)
		defer hctx.end()
		if err := c.Method.Connection.Open(hctx, t.act.handler, txHandle{t}, connHandle{t, p.c, isOpening}, req); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		e := connEffect{c: p.c, accepted: true}
		if p.c.session.Load() != nil {
			e.keep = &keep{record: true}
		}
		if p.reserve(0) == nil {
			e.p = p // its first form, which tells that it was accepted
		}
		t.noteConn(e)
		opened = true
		return nil
	})
	if err == nil {
		return p, nil
	}
	err = o.reply(ctx, m, err)
	if p != nil {
		o.refuse(p, err, m.effects)
	}
	return nil, err
}

// refuse takes a connection back that was not opened. stored tells that a commit
// point in Open may have stored it, or sent something.
func (o *object) refuse(p *peer, err error, stored bool) {
	p.c.remove()
	if stored && p.c.session.Load() != nil {
		_, _ = o.bareWish(context.Background(), patiently, func(t *turn) error { return t.forgetSession(p.c) })
	}
	p.finish(&ending{err: err})
	p.wait()
}

// patiently is the wish of what has to be done, whatever becomes of the object.
var patiently = wish{access: exclusive, patient: true}

// serve handles the messages of the peer, one after another, until one side ends
// the peer. It returns what Receive said last.
func (p *peer) serve(ctx context.Context) error {
	m := p.c.group.method
	for p.ending() == nil {
		req := m.NewRequest()
		if err := p.end.Receive(req); err != nil {
			return err
		}
		if p.ending() != nil {
			return nil
		}
		if auto := p.c.group.auto.Load(); auto != nil && auto.matches(req, m.KeyField) {
			p.autoRespond(auto)
			p.flush()
			continue
		}
		begun, err := p.c.event(ctx, wish{access: exclusive, bytes: int64(proto.Size(req)), waits: true}, "message",
			func(ctx context.Context, t *turn) error {
				if p.end.Quick() {
					t.own = p // so that an answer needs no other goroutine
				}
				return m.Connection.Message(ctx, t.act.handler, txHandle{t}, connHandle{t: t, c: p.c}, req)
			})
		p.flush()
		if !begun && err != nil {
			p.finish(&ending{err: err, silent: errors.Is(err, durable.ErrDraining)})
		}
	}
	return nil
}

// close ends a peer, of which Receive said received: the connection ends with it,
// and the handler is told, unless its client may come back. It counts the peer out.
func (p *peer) close(ctx context.Context, received error) error {
	c, h := p.c, p.c.o.host
	cause := causeOfEnd(received)
	switch {
	case errors.Is(received, durable.ErrStreamDrained):
		p.depart(&ending{err: durable.ErrStreamDrained, silent: true})
		p.wait()
	case errors.Is(received, durable.ErrSlowPeer):
		p.finish(&ending{err: durable.ErrSlowPeer, drop: true})
	case cause.Code == durable.CloseAbnormal:
		p.finish(&ending{err: cause, drop: true})
	}
	e := p.ending()
	switch {
	case e == nil: // the peer is there, and closed: the handler may still send, and close
		p.tell(ctx, cause)
		p.depart(&ending{err: cause}) // behind that
		p.wait()
		p.closed = true
		h.letGo(c.o)
	case e.silent:
		p.wait()
		if c.session.Load() == nil { // others are there again after a restart
			c.remove()
		}
		p.closed = true
		h.letGo(c.o)
	default:
		p.wait()
		p.closed = true
		go func() { // the caller does not wait for the handler
			defer h.letGo(c.o)
			p.tell(ctx, h.endedLocally(e.err))
		}()
	}
	var closed *durable.CloseError
	if err := p.ending().err; !errors.As(err, &closed) || closed.Code != durable.CloseNormal {
		return err
	}
	return nil
}

// tell tells the handler of the end of a connection, unless its client may come
// back, or it was told.
func (p *peer) tell(ctx context.Context, cause error) {
	last := false
	if p.c.session.Load() == nil {
		last = p.c.remove()
	} else {
		last = p.last()
	}
	if last {
		p.c.closed(ctx, cause)
	}
}

// depart ends a peer behind what was sent before.
func (p *peer) depart(e *ending) { p.c.o.depart(mark{}, []departing{{p: p, end: e}}, nil) }

// closed tells the handler of the end of a connection that was removed.
func (c *conn) closed(ctx context.Context, cause error) {
	o := c.o
	o.host.retain(o)
	defer o.host.release(o)
	// Whatever becomes of the handler, also where it ends its goroutine.
	forget := true
	defer func() {
		if forget && c.session.Load() != nil {
			_, _ = o.bareWish(ctx, patiently, func(t *turn) error { return t.forgetSession(c) })
		}
	}()
	_, err := c.event(ctx, patiently, "close", func(ctx context.Context, t *turn) error {
		if c.session.Load() != nil {
			if err := t.forgetSession(c); err != nil {
				return err
			}
		}
		return c.group.method.Connection.Close(ctx, t.act.handler, txHandle{t}, connHandle{t, c, isClosing}, cause)
	})
	forget = err != nil
}

// endedLocally returns the cause that a handler is told of a connection that was
// not ended by its peer.
func (h *Host) endedLocally(err error) error {
	var closed *durable.CloseError
	if errors.As(err, &closed) {
		return closed
	}
	code, reason := h.closeCode(err)
	return &durable.CloseError{Code: code, Reason: reason, Clean: true, Local: true, Err: err}
}

// event runs a handler of the connection in a turn. begun reports whether that
// began; if so, the error is logged.
func (c *conn) event(ctx context.Context, want wish, what string, fn func(ctx context.Context, t *turn) error) (begun bool, err error) {
	o := c.o
	h := o.host
	parent := chainOf(ctx)
	if err := h.start(parent != nil || want.patient); err != nil { // the end of a connection is told also while the host drains
		return false, err
	}
	defer h.finish()
	h.retain(o)
	defer h.release(o)
	chain, err := o.extend(parent)
	if err != nil {
		return false, err
	}
	_, err = o.inTurn(ctx, want, chain, nil, func(t *turn) error {
		if c.gone.Load() && !want.patient { // it ended, or was loaded anew, while this waited
			return durable.ErrReset
		}
		begun = true
		hctx := t.handling(ctx, c.group.method.Procedure, o.typ.Limits.EventTimeout)
		defer hctx.end()
		return fn(hctx, t)
	})
	if err != nil {
		h.log.Warn("an event of a connection failed", "type", o.typ.Name, "id", o.durableID().String(),
			"procedure", c.group.method.Procedure, "event", what, "err", err)
	}
	return begun, err
}

// disconnectAll ends every connection without telling the handlers.
func (h *Host) disconnectAll(err error) {
	for i := range h.table {
		for _, o := range h.table[i].all() {
			o.disconnect(err, true)
		}
	}
}
