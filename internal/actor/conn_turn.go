package actor

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// turnConns is what a turn did to connections since its last commit point. What
// handlers see is changed at once, since no other turn runs, and changed back when
// the turn is rolled back; what peers see leaves after the commit.
type turnConns struct {
	effects []connEffect
	wrote   bool // something that handlers see was changed, savepoints that were rolled back included
}

// A connEffect is one thing that a turn did.
type connEffect struct {
	c    *conn
	p    *peer   // what it leaves by; nil where nothing leaves
	form sized   // to send, unless end is set
	end  *ending // the connection is closed
	undo func()  // changes back what handlers see; nil where that is nothing
	auto *autoSetting
	// accepted is set where the peer is accepted with the commit.
	accepted bool
	keep     *keep // what the store has to know of a connection that can be resumed; nil: nothing
}

// An autoSetting is an auto-response that a turn sets. Since messages are matched
// outside of turns, it is in force from the commit on.
type autoSetting struct {
	of   *methodConns
	auto *autoResponse // nil: none
}

// rollback undoes everything after the first n effects.
func (v *turnConns) rollback(n int) {
	for _, e := range slices.Backward(v.effects[min(n, len(v.effects)):]) {
		if e.p != nil && e.end == nil {
			e.p.unreserve(e.form.size)
		}
		if e.undo != nil {
			e.undo()
		}
	}
	v.effects = v.effects[:min(n, len(v.effects))]
}

// leaveConns lets what the turn did to connections leave, after everything that
// the object has committed by now. The caller holds mu, and has committed; last
// tells the end of the turn from a commit point.
func (t *turn) leaveConns(last bool) {
	effects := t.conns.effects
	t.conns = turnConns{}
	if len(effects) == 0 {
		return
	}
	items := make([]departing, 0, len(effects))
	for _, e := range effects {
		if e.auto != nil {
			e.auto.of.auto.Store(e.auto.auto)
		}
		if e.accepted {
			t.o.accept(e.c)
		}
		if e.p == nil {
			if e.end != nil { // nobody holds it who would see that
				t.o.closeSoon(e.c, e.end.err)
			}
			continue
		}
		if e.end == nil {
			e.p.gate(e.form.size)
		}
		items = append(items, departing{p: e.p, sized: e.form, end: e.end})
	}
	if len(items) == 0 {
		return
	}
	t.sent = true
	own := t.own
	if !last {
		own = nil
	}
	t.o.depart(t.o.now(t.act), items, own)
}

// closeSoon ends a connection whose client is away, after the turn.
func (o *object) closeSoon(c *conn, cause error) {
	_ = o.host.start(true) // a drain waits for it
	o.host.retain(o)
	go func() {
		defer o.host.finish()
		defer o.host.release(o)
		o.closeAway(c, cause)
	}()
}

// noteConn notes an effect. The caller holds mu.
func (t *turn) noteConn(e connEffect) { t.conns.effects = append(t.conns.effects, e) }

// A connHandle is the [durable.ConnPort] of a connection in one turn.
type connHandle struct {
	t     *turn
	c     *conn
	stage connStage
}

// A connStage says which handler has a handle.
type connStage uint8

const (
	isOpen    connStage = iota
	isOpening           // Open, which may set tags
	isClosing           // Close, when it is not listed any more
)

// takes reports whether messages can be sent.
func (h connHandle) takes() bool {
	c := h.c
	p := c.peer.Load()
	there := p != nil && p.ending() == nil
	switch {
	case c.closing:
		return false
	case h.stage == isClosing:
		return there
	case c.gone.Load():
		return false
	}
	return there || c.session.Load() != nil
}

// kept reports whether the store has to know what becomes of the connection.
func (h connHandle) kept() bool { return h.stage != isClosing && h.c.session.Load() != nil }

// ID implements [durable.ConnReader].
func (h connHandle) ID() string { return h.c.id }

// Tags implements [durable.ConnReader].
func (h connHandle) Tags() []string { return slices.Clone(h.c.tags) }

// Opened implements [durable.ConnReader].
func (h connHandle) Opened() time.Time { return h.c.opened }

// LastAutoResponse implements [durable.ConnReader].
func (h connHandle) LastAutoResponse() time.Time {
	if at := h.c.autoAt.Load(); at != 0 {
		return time.UnixMilli(at)
	}
	return time.Time{}
}

// Attachment implements [durable.ConnReader].
func (h connHandle) Attachment() ([]byte, error) {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	if err := h.t.live(); err != nil {
		return nil, err
	}
	return h.c.attachment, nil
}

// Send implements [durable.ConnPort].
func (h connHandle) Send(msg *durable.ConnMessage) error {
	t, c := h.t, h.c
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if !h.takes() {
		return durable.ErrConnClosed
	}
	e := connEffect{c: c, p: c.peer.Load()}
	if h.kept() {
		data, err := encodeKept(msg.Message)
		if err != nil {
			return notEncoded(err)
		}
		e.keep = &keep{data: data}
	}
	if e.p != nil {
		var err error
		if e.form, err = e.p.encode(msg); err != nil {
			return notEncoded(err)
		}
		if err = e.p.reserve(e.form.size); h.kept() && errors.Is(err, durable.ErrConnClosed) {
			e.p, err = nil, nil // it is kept for the client
		}
		if err != nil {
			return err
		}
	}
	t.noteConn(e)
	return nil
}

// notEncoded returns the error of a message that has no encoding, as one with a
// string that is not UTF-8.
func notEncoded(err error) error {
	return fmt.Errorf("%w: send: %w", durable.ErrInvalidArgument, err)
}

// Close implements [durable.ConnPort].
func (h connHandle) Close(code durable.CloseCode, reason string) error {
	t, c := h.t, h.c
	if err := durable.CheckClose(code, reason); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if !h.takes() {
		return durable.ErrConnClosed
	}
	end := &ending{err: &durable.CloseError{Code: code, Reason: reason, Clean: true, Local: true}}
	e := connEffect{c: c, p: c.peer.Load(), end: end, undo: func() { c.closing = false }}
	if h.kept() {
		e.keep = &keep{forget: true}
	}
	t.noteConn(e)
	c.closing = true
	return nil
}

// SetTags implements [durable.ConnPort].
func (h connHandle) SetTags(tags []string) error {
	t, c := h.t, h.c
	if h.stage != isOpening {
		return fmt.Errorf("%w: tags are set in Open", durable.ErrInvalidArgument)
	}
	var distinct []string
	for _, tag := range tags {
		if !utf8.ValidString(tag) {
			return fmt.Errorf("%w: the tag %q is not valid UTF-8", durable.ErrInvalidArgument, tag)
		}
		if n := utf8.RuneCountInString(tag); n > durable.MaxConnTagLen {
			return &durable.LimitError{Name: "characters of a tag", Max: durable.MaxConnTagLen, Actual: int64(n)}
		}
		if !slices.Contains(distinct, tag) {
			distinct = append(distinct, tag)
		}
	}
	if n := len(distinct); n > durable.MaxConnTags {
		return &durable.LimitError{Name: "tags of a connection", Max: durable.MaxConnTags, Actual: int64(n)}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	before := c.tags
	t.noteConn(connEffect{c: c, undo: func() { c.retag(before) }}) // Open stores them
	t.conns.wrote = true
	c.retag(distinct)
	return nil
}

// SetAttachment implements [durable.ConnPort].
func (h connHandle) SetAttachment(msg proto.Message) error {
	t, c := h.t, h.c
	data, err := encodeKept(msg)
	if err != nil {
		return fmt.Errorf("%w: the attachment: %w", durable.ErrInvalidArgument, err)
	}
	if limit := t.o.typ.Limits.MaxAttachmentBytes; len(data) > limit {
		return &durable.LimitError{Name: "attachment bytes", Max: int64(limit), Actual: int64(len(data))}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	if c.gone.Load() && h.stage != isClosing {
		return durable.ErrConnClosed
	}
	before := c.attachment
	e := connEffect{c: c, undo: func() { c.attachment = before }}
	if h.kept() {
		e.keep = &keep{record: true}
	}
	t.noteConn(e)
	t.conns.wrote = true
	c.attachment = data
	return nil
}

// turnConnections is the [durable.ConnsPort] of a turn.
type turnConnections turn

// ConnsReader implements [durable.View].
func (h viewHandle) ConnsReader() durable.ConnsReader { return (*turnConnections)(h.turn) }

// ConnsPort implements [durable.Tx].
func (h txHandle) ConnsPort() durable.ConnsPort { return (*turnConnections)(h.turn) }

// Views implements [durable.ConnsReader].
func (p *turnConnections) Views(procedure string, tags []string) iter.Seq[durable.ConnReader] {
	return func(yield func(durable.ConnReader) bool) {
		for h := range p.list(procedure, tags) {
			if !yield(h) {
				return
			}
		}
	}
}

// Conns implements [durable.ConnsPort].
func (p *turnConnections) Conns(procedure string, tags []string) iter.Seq[durable.ConnPort] {
	return func(yield func(durable.ConnPort) bool) {
		for h := range p.list(procedure, tags) {
			if !yield(h) {
				return
			}
		}
	}
}

// list yields nothing after the turn.
func (p *turnConnections) list(procedure string, tags []string) iter.Seq[connHandle] {
	t := (*turn)(p)
	return func(yield func(connHandle) bool) {
		t.mu.Lock()
		err := t.live()
		t.mu.Unlock()
		if err != nil {
			return
		}
		for _, c := range t.o.listConns(procedure, tags, t.opens) {
			if h := (connHandle{t: t, c: c}); h.takes() && !yield(h) {
				return
			}
		}
	}
}

// AutoResponse implements [durable.ConnsPort].
func (p *turnConnections) AutoResponse(procedure string) (req, res proto.Message, err error) {
	t := (*turn)(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, nil, err
	}
	g, err := t.autoGroup(procedure)
	if err != nil {
		return nil, nil, err
	}
	auto := g.auto.Load()
	for _, e := range t.conns.effects {
		if e.auto != nil && e.auto.of == g {
			auto = e.auto.auto
		}
	}
	if auto == nil {
		return nil, nil, nil
	}
	return proto.Clone(auto.req), proto.Clone(auto.res), nil
}

// SetAutoResponse implements [durable.ConnsPort].
func (p *turnConnections) SetAutoResponse(procedure string, req, res proto.Message) error {
	t := (*turn)(p)
	var auto *autoResponse
	if req != nil {
		for name, msg := range map[string]proto.Message{"request": req, "response": res} {
			if n := proto.Size(msg); n > durable.MaxAutoResponse {
				return &durable.LimitError{Name: name + " bytes of an auto-response", Max: durable.MaxAutoResponse, Actual: int64(n)}
			}
		}
		auto = &autoResponse{req: proto.Clone(req), res: proto.Clone(res), want: proto.Clone(req)}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	g, err := t.autoGroup(procedure)
	if err != nil {
		return err
	}
	if f := g.method.KeyField; f != nil && auto != nil {
		auto.want.ProtoReflect().Clear(f)
	}
	t.noteConn(connEffect{auto: &autoSetting{g, auto}})
	t.conns.wrote = true
	return nil
}

func (t *turn) autoGroup(procedure string) (*methodConns, error) {
	m := t.o.typ.connMethod(procedure)
	if m == nil || m.Connection.Message == nil {
		return nil, fmt.Errorf("%w: %s has no connections that receive messages", durable.ErrInvalidArgument, procedure)
	}
	if m.Connection.Resume != nil {
		return nil, fmt.Errorf("%w: the connections of %s can be resumed, and their clients count messages: it has no auto-response", durable.ErrInvalidArgument, procedure)
	}
	t.o.mu.Lock()
	defer t.o.mu.Unlock()
	return t.o.connGroup(m), nil
}
