package actor

import (
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// A ConnEnd is the network end of a connection. Receive is called by one
// goroutine, Send and Finish by another.
type ConnEnd interface {
	// Encoding tells apart the forms that ends want messages in. It can be
	// compared.
	Encoding() any
	// Encode returns msg in the form that Send takes, which shares nothing with
	// msg, and about how many bytes it takes.
	Encode(msg proto.Message) (form any, size int, err error)
	// Receive reads the next message into msg. Of a method to which only the
	// server streams it waits until the peer leaves. It returns io.EOF when the peer
	// has sent its last message and may still receive, a [durable.CloseError] when
	// it has closed the connection, and another error when it is gone or broke the
	// protocol.
	Receive(msg proto.Message) error
	// Send sends a form. It waits for the peer for at most timeout, and then returns
	// [durable.ErrSlowPeer]. The form nil is sent before any other, when the
	// connection was accepted.
	Send(form any, timeout time.Duration) error
	// Quick reports whether a Send will most likely not wait for the peer, and does
	// not keep Receive from going on if it does.
	Quick() bool
	// Finish is called once, after the last Send. It makes a Receive that waits
	// return soon, and tells the peer what err says, where the end does not
	// do that when [Held.Serve] returns. drop tells that the peer is not there, or
	// takes nothing.
	Finish(err error, drop bool)
}

// A peer is the network end of a connection, and what waits for the peer.
type peer struct {
	c   *conn
	end ConnEnd

	mu      sync.Mutex
	forms   []sized // to send, in order
	waiting int64   // bytes of forms, of those that wait for the gate, and of own
	own     int64   // bytes that the running turn sent
	gated   int     // forms that wait for the gate
	writing bool    // a goroutine sends forms
	// over is set when nothing more is taken: what the peer is told, after forms.
	over     *ending
	finished bool          // over, and the peer was told
	closed   bool          // counted out; the goroutine that serves it has this
	done     chan struct{} // closed when finished; nil while nobody waits for that
}

// An ending is how a peer ends.
type ending struct {
	err    error
	silent bool // the handler is not told
	drop   bool // nor is the peer
}

// sized is a form and about how many bytes it takes.
type sized struct {
	form any
	size int64
}

// ending returns how the peer ends, nil while it is there.
func (p *peer) ending() *ending {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// encode returns a message in the form that the peer wants. Peers
// with the same encoding share it.
func (p *peer) encode(msg *durable.ConnMessage) (sized, error) {
	type encoded struct {
		encoding any
		sized
	}
	encoding := p.end.Encoding()
	forms, _ := msg.Forms.([]encoded)
	for _, f := range forms {
		if f.encoding == encoding {
			return f.sized, nil
		}
	}
	form, size, err := p.end.Encode(msg.Message)
	if err != nil {
		return sized{}, err
	}
	s := sized{form, int64(size)}
	msg.Forms = append(forms, encoded{encoding, s})
	return s, nil
}

// reserve makes room for a form that a turn sends.
func (p *peer) reserve(size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over != nil {
		return durable.ErrConnClosed
	}
	limit := p.c.o.typ.Limits.MaxConnBuffer
	switch {
	case p.waiting == 0: // whatever its size
	case p.own+size > limit:
		return &durable.LimitError{Name: "bytes waiting for a connection", Max: limit, Actual: p.own + size}
	case p.waiting+size > limit:
		p.tooSlow()
		return slowPeer()
	}
	p.waiting += size
	p.own += size
	return nil
}

// tooSlow ends a connection whose peer does not read what was sent. The caller
// holds mu.
func (p *peer) tooSlow() {
	p.forms = nil
	p.endLocked(&ending{err: durable.ErrSlowPeer})
}

// slowPeer is what a handler is told that sends to a peer that is too slow.
func slowPeer() error { return errors.Join(durable.ErrConnClosed, durable.ErrSlowPeer) }

// unreserve gives the room of a form back that a turn did not send after all.
func (p *peer) unreserve(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting -= size
	p.own -= size
}

// gate counts a form that was committed, and waits for the gate.
func (p *peer) gate(size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own -= size
	p.gated++
}

// put sends a form that waited for the gate; or leaves that to flush.
func (p *peer) put(f sized, flushes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gated--
	p.putLocked(f, flushes)
}

func (p *peer) putLocked(f sized, flushes bool) {
	if p.over != nil {
		p.waiting -= f.size
		return
	}
	p.forms = append(p.forms, f)
	if !flushes {
		p.startWriting()
	}
}

// flush sends what waits, on this goroutine, unless another does.
func (p *peer) flush() {
	p.mu.Lock()
	mine := !p.writing && len(p.forms) > 0
	p.writing = p.writing || mine
	p.mu.Unlock()
	if mine {
		p.write(true)
	}
}

// refuse ends a connection that would miss a form.
func (p *peer) refuse(f sized, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gated--
	p.waiting -= f.size
	p.endLocked(&ending{err: err})
}

// finish ends the connection after what was sent before.
func (p *peer) finish(e *ending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(e)
}

func (p *peer) endLocked(e *ending) {
	if p.over != nil {
		return
	}
	p.over = e
	if e.drop {
		p.forms = nil
	}
	p.startWriting()
}

// startWriting starts the goroutine that sends, unless it runs. The caller holds
// mu. So an idle connection has none.
func (p *peer) startWriting() {
	if !p.writing {
		p.writing = true
		go p.write(false)
	}
}

// write sends what waits, and tells the peer of the end after that. The goroutine
// that receives leaves that to another as soon as it may have to wait.
func (p *peer) write(receives bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.forms) > 0 {
		forms := p.forms
		p.forms = nil
		for i, f := range forms {
			if receives && i > 0 && !p.end.Quick() {
				p.forms = append(forms[i:], p.forms...)
				go p.write(false)
				return
			}
			p.mu.Unlock()
			err := p.end.Send(f.form, p.c.o.typ.Limits.SendTimeout)
			forms[i] = sized{}
			p.mu.Lock()
			p.waiting -= f.size
			if err != nil {
				p.cut(sendFailed(err))
			}
			if p.over != nil && (p.over.drop || errors.Is(p.over.err, durable.ErrSlowPeer)) {
				p.forms = nil
				break // the rest is not sent
			}
		}
	}
	if p.over != nil && receives { // which may wait
		go p.write(false)
		return
	}
	if e := p.over; e != nil && !p.finished {
		p.mu.Unlock()
		p.end.Finish(e.err, e.drop)
		p.mu.Lock()
		p.finished = true
		if p.done != nil {
			close(p.done)
		}
	}
	p.writing = false
}

// cut ends a peer to which nothing can be sent, also when it is to end after what
// waits. The caller holds mu.
func (p *peer) cut(err error) {
	e := ending{err: err}
	if p.over != nil {
		e = *p.over
	}
	e.drop = true
	p.over = &e
}

// sendFailed returns the cause of the end of a connection to whose peer nothing
// can be sent.
func sendFailed(err error) error {
	if errors.Is(err, durable.ErrSlowPeer) {
		return durable.ErrSlowPeer
	}
	return &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the peer is gone", Err: err}
}

// wait returns when the peer was told of the end.
func (p *peer) wait() {
	p.mu.Lock()
	if p.finished {
		p.mu.Unlock()
		return
	}
	if p.done == nil {
		p.done = make(chan struct{})
	}
	done := p.done
	p.mu.Unlock()
	<-done
}

// causeOfEnd returns the cause that a handler is told when Receive returned err.
func causeOfEnd(err error) *durable.CloseError {
	var closed *durable.CloseError
	switch {
	case errors.As(err, &closed):
		return closed
	case errors.Is(err, io.EOF):
		return &durable.CloseError{Code: durable.CloseNormal, Clean: true}
	}
	return &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the peer vanished without closing", Err: err}
}
