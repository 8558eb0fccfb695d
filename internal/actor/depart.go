package actor

import (
	"context"
	"errors"
	"time"

	durable "github.com/durable-go/durable"
)

// A departure is what one turn, or one stretch of it, does to connections. It
// waits until everything up to its mark is durable.
type departure struct {
	mark
	items []departing
}

// departing is a form that leaves by a peer, or the end of it.
type departing struct {
	p *peer
	sized
	end *ending // in place of a form
}

// depart lets items leave in the order of the calls, each after its mark. The
// caller holds the turn that made them, if one did, and flushes own, where that is
// not nil, when it has left it.
func (o *object) depart(m mark, items []departing, own *peer) {
	o.mu.Lock()
	if o.conns == nil {
		o.conns = &connections{}
	}
	conns := o.conns
	if !conns.leaving && o.mayLeave(m) {
		o.mu.Unlock()
		leave(items, own)
		return
	}
	conns.out = append(conns.out, departure{m, items})
	if !conns.leaving {
		conns.leaving = true
		go o.departures()
	}
	o.mu.Unlock()
}

// mayLeave reports whether nothing is to wait for, and nobody to ask. The caller
// holds mu.
func (o *object) mayLeave(m mark) bool {
	if !outputGate || m.act == nil {
		return true
	}
	if m.pending != nil {
		if done, err := m.pending.Resolved(); !done || err != nil {
			return false
		}
	}
	return m.act.err() == nil && o.host.session.Lease().IsZero() && !m.act.shard.lost()
}

// departures lets what waits leave.
func (o *object) departures() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.conns.out) > 0 {
		d := o.conns.out[0]
		o.conns.out[0] = departure{}
		o.conns.out = o.conns.out[1:]
		o.mu.Unlock()
		if err := o.await(context.Background(), d.mark); err != nil {
			miss(d.items, err)
		} else {
			leave(d.items, nil)
		}
		o.mu.Lock()
	}
	o.conns.out = nil
	o.conns.leaving = false
}

func leave(items []departing, own *peer) {
	for i := range items {
		if d := &items[i]; d.end != nil {
			d.p.finish(d.end)
		} else {
			d.p.put(d.sized, d.p == own)
		}
	}
}

// miss ends the peers by which something does not leave, since the commit failed
// that it followed.
func miss(items []departing, err error) {
	for i := range items {
		if d := &items[i]; d.end != nil {
			d.p.finish(&ending{err: err})
		} else {
			d.p.refuse(d.sized, err)
		}
	}
}

// disconnect ends every connection of the object, after what was sent before.
func (o *object) disconnect(err error, silent bool) { o.disconnectAt(mark{}, err, silent) }

// disconnectAt is disconnect when everything up to a mark is durable.
func (o *object) disconnectAt(m mark, err error, silent bool) {
	o.mu.Lock()
	var items []departing
	if o.conns != nil {
		e := &ending{err: err, silent: silent}
		for _, g := range o.conns.methods {
			for _, c := range g.all {
				if p := c.peer.Load(); p != nil {
					items = append(items, departing{p: p, end: e})
				}
			}
		}
		if errors.Is(err, durable.ErrCommitFailed) || errors.Is(err, durable.ErrNotOwner) {
			o.unloadSessions(err)
		}
	}
	o.mu.Unlock()
	if len(items) > 0 {
		o.depart(m, items, nil)
	}
}

// autoRespond answers the peer without a turn, in its place behind what waits
// for the gate. The caller flushes.
func (p *peer) autoRespond(auto *autoResponse) {
	f, err := p.encode(&durable.ConnMessage{Message: auto.res})
	if err != nil {
		return
	}
	p.c.autoAt.Store(time.Now().UnixMilli())
	if p.respond(f) {
		p.c.o.depart(mark{}, []departing{{p: p, sized: f}}, nil)
	}
}

// respond sends a form at once, or reports that it has to wait for others that
// wait for the gate.
func (p *peer) respond(f sized) (wait bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over != nil:
		return false
	case p.waiting > p.own && p.waiting-p.own+f.size > p.c.o.typ.Limits.MaxConnBuffer:
		p.tooSlow()
		return false
	}
	p.waiting += f.size
	if p.gated == 0 {
		p.putLocked(f, p.end.Quick())
		return false
	}
	p.gated++
	return true
}
