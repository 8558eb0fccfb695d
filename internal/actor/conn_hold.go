package actor

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// Hold opens a connection of a hibernatable method and holds it until it is over.
// It runs the handlers, each in a turn, with values of ctx; while none runs, the
// object may leave memory. req is the request where only the server streams.
//
// It returns nil for a connection that ended as it should, and otherwise what the
// peer is told. end.Finish was called then, unless the turn of Open never began.
func (h *Host) Hold(ctx context.Context, c Call, end ConnEnd, req proto.Message) error {
	cn, err := h.open(ctx, c, end, req)
	if err != nil {
		return err
	}
	defer h.letGo()
	ctx = context.WithoutCancel(ctx) // a message that has come is handled
	if h.drain.Err() != nil {
		cn.finish(&ending{err: durable.ErrStreamDrained, silent: true})
	}
	return cn.close(ctx, cn.serve(ctx))
}

// letGo counts a connection out.
func (h *Host) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.held--
	h.noteIdle()
}

// open runs the Open handler. When it returns nil the connection is counted as
// held.
func (h *Host) open(ctx context.Context, c Call, end ConnEnd, req proto.Message) (cn *conn, err error) {
	parent := chainOf(ctx)
	if err := h.start(parent != nil); err != nil {
		return nil, err
	}
	defer h.finish()
	o := h.object(c.Type, c.ID, c.Name)
	defer h.release(o)
	l, err := o.extend(parent)
	if err != nil {
		return nil, err
	}
	m, err := o.inTurn(ctx, wish{access: exclusive, bytes: c.Bytes}, l, nil, func(t *turn) (err error) {
		if cn, err = o.addConn(c.Method, end, t.start); err != nil {
			return err
		}
		hctx := t.handling(ctx, c.Method.Procedure, c.Type.Limits.EventTimeout)
		defer hctx.end()
		if err := c.Method.Connection.Open(hctx, t.act.handler, txHandle{t}, connHandle{t, cn, true}, req); err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if cn.reserve(0) == nil { // the handler did not close it
			t.noteConn(connEffect{c: cn, isForm: true})
		}
		return nil
	})
	if err != nil {
		if cn != nil {
			cn.remove()
		}
		err = o.reply(ctx, m, err)
		if cn != nil { // a commit point in Open may have sent something
			cn.finish(&ending{err: err})
			cn.wait()
		}
		return nil, err
	}
	h.mu.Lock()
	h.mu.held++
	h.mu.Unlock()
	return cn, nil
}

// serve handles the messages of the peer, one after another, until one side ends
// the connection. It returns what Receive said last.
func (c *conn) serve(ctx context.Context) error {
	m := c.group.method
	for c.ending() == nil {
		req := m.NewRequest()
		if err := c.end.Receive(req); err != nil {
			return err
		}
		if c.ending() != nil {
			return nil
		}
		if auto := c.group.auto.Load(); auto != nil && proto.Equal(req, auto.req) {
			c.autoRespond(auto)
			continue
		}
		begun, err := c.event(ctx, wish{access: exclusive, bytes: int64(proto.Size(req)), waits: true}, "message",
			func(ctx context.Context, t *turn) error {
				return m.Connection.Message(ctx, t.act.handler, txHandle{t}, connHandle{t: t, c: c}, req)
			})
		if !begun && err != nil {
			c.finish(&ending{err: err, silent: errors.Is(err, durable.ErrDraining)})
		}
	}
	return nil
}

// close ends a connection, of which Receive said received, and tells the handler.
func (c *conn) close(ctx context.Context, received error) error {
	h := c.o.host
	h.retain(c.o)
	defer h.release(c.o)
	cause := causeOfEnd(received)
	c.remove()
	if errors.Is(received, durable.ErrStreamDrained) {
		c.o.depart(mark{}, []departing{{c: c, end: &ending{err: durable.ErrStreamDrained, silent: true}}})
		c.wait()
	}
	if e := c.ending(); e != nil {
		c.wait() // the peer first
	} else if cause.Code == durable.CloseAbnormal {
		c.finish(&ending{err: cause, drop: true})
	}
	e := c.ending()
	if e == nil || !e.silent {
		told := error(cause)
		if e != nil {
			told = h.endedLocally(e.err)
		}
		_, _ = c.event(ctx, wish{access: exclusive, known: true}, "close", func(ctx context.Context, t *turn) error {
			return c.group.method.Connection.Close(ctx, t.act.handler, txHandle{t}, connHandle{t: t, c: c}, told)
		})
	}
	// Behind what the handler sent.
	c.o.depart(mark{}, []departing{{c: c, end: &ending{err: cause}}})
	c.wait()
	var closed *durable.CloseError
	if err := c.ending().err; !errors.As(err, &closed) || closed.Code != durable.CloseNormal {
		return err
	}
	return nil
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
	if err := h.start(parent != nil); err != nil {
		return false, err
	}
	defer h.finish()
	h.retain(o)
	defer h.release(o)
	l, err := o.extend(parent)
	if err != nil {
		return false, err
	}
	_, err = o.inTurn(ctx, want, l, nil, func(t *turn) error {
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
		b := &h.table[i]
		b.mu.Lock()
		var objects []*object
		for _, o := range b.mu.objects {
			objects = append(objects, o)
		}
		b.mu.Unlock()
		for _, o := range objects {
			o.disconnect(err, true)
		}
	}
}
