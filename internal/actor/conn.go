package actor

import (
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
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
	// Finish is called once, after the last Send. It makes a Receive that waits
	// return soon, and tells the peer what err says, where the end does not
	// do that when [Host.Hold] returns. drop tells that the peer is not there, or
	// takes nothing.
	Finish(err error, drop bool)
}

// A conn is an open connection. It belongs to the entry of its object, and
// outlives activations.
type conn struct {
	o      *object
	group  *methodConns
	id     string
	number uint64 // grows in the order in which connections are accepted
	opened time.Time
	end    ConnEnd
	autoAt atomic.Int64 // time of the last auto-response, in milliseconds; 0: none

	// Turns that are alone change these two; see turnConns.

	tags       []string
	attachment []byte

	mu      sync.Mutex
	forms   []sized // to send, in order
	waiting int64   // bytes of forms, of those that wait for the gate, and of own
	own     int64   // bytes that the running turn sent
	gated   int     // forms that wait for the gate
	writing bool    // a goroutine sends forms
	// over is set when nothing more is taken: what the peer is told, after forms.
	over     *ending
	closing  bool          // the running turn closes it
	finished bool          // over, and the peer was told
	done     chan struct{} // closed when finished; nil while nobody waits for that
}

// An ending is how a connection ends.
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

// connections are those of one object. The object's lock guards them.
type connections struct {
	methods []*methodConns
	open    int
	number  uint64
	out     []departure
	leaving bool // a goroutine takes departures
}

// methodConns are the open connections of one method, in the order of their
// numbers.
type methodConns struct {
	method *durable.Method
	all    []*conn
	byTag  map[string][]*conn // nil before the first
	auto   atomic.Pointer[autoResponse]
}

// An autoResponse answers req with res.
type autoResponse struct{ req, res proto.Message }

// group returns the connections of a method. The caller holds mu of the object.
func (o *object) connGroup(m *durable.Method) *methodConns {
	if o.conns == nil {
		o.conns = &connections{}
	}
	for _, g := range o.conns.methods {
		if g.method.Procedure == m.Procedure {
			return g
		}
	}
	g := &methodConns{method: m}
	o.conns.methods = append(o.conns.methods, g)
	return g
}

// hasConns reports whether the entry is needed for its connections. The caller
// holds mu.
func (o *object) hasConns() bool { return o.conns != nil && o.conns.open > 0 }

// connCount returns how many connections the object has.
func (o *object) connCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return 0
	}
	return o.conns.open
}

// addConn makes a connection and adds it to those that handlers see.
func (o *object) addConn(m *durable.Method, end ConnEnd, now time.Time) (*conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.connGroup(m)
	if limit := o.typ.Limits.MaxConns; o.conns.open >= limit {
		return nil, &durable.OverloadError{Limit: "connections", Max: int64(limit), Actual: int64(o.conns.open)}
	}
	o.conns.open++
	o.conns.number++
	c := &conn{o: o, group: g, id: rand.Text(), number: o.conns.number, opened: now, end: end}
	g.all = append(g.all, c)
	o.host.conns.Add(1)
	return c, nil
}

// remove takes a connection from those that handlers see, if it is there.
func (c *conn) remove() {
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	var was bool
	if c.group.all, was = without(c.group.all, c); !was {
		return
	}
	o.conns.open--
	o.host.conns.Add(-1)
	c.unindex()
}

// without returns conns without c, and whether it was there.
func without(conns []*conn, c *conn) ([]*conn, bool) {
	i, found := slices.BinarySearchFunc(conns, c.number, func(other *conn, n uint64) int {
		return int(min(max(int64(other.number)-int64(n), -1), 1))
	})
	if !found {
		return conns, false
	}
	return slices.Delete(conns, i, i+1), true
}

// retag changes the tags of a connection.
func (c *conn) retag(tags []string) {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	c.unindex()
	c.tags = tags
	g := c.group
	for _, tag := range tags {
		if g.byTag == nil {
			g.byTag = map[string][]*conn{}
		}
		// Only connections that are being accepted get tags: they are the last ones,
		// but for others that wait in Open too.
		conns := append(g.byTag[tag], c)
		for i := len(conns) - 1; i > 0 && conns[i-1].number > conns[i].number; i-- {
			conns[i-1], conns[i] = conns[i], conns[i-1]
		}
		g.byTag[tag] = conns
	}
}

// unindex takes a connection out of those with its tags. The caller holds mu of
// the object.
func (c *conn) unindex() {
	for _, tag := range c.tags {
		if rest, was := without(c.group.byTag[tag], c); was && len(rest) == 0 {
			delete(c.group.byTag, tag)
		} else {
			c.group.byTag[tag] = rest
		}
	}
}

// listConns returns the connections of a method that are open and have all of
// the tags, in the order in which they were accepted.
func (o *object) listConns(procedure string, tags []string) []*conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return nil
	}
	for _, g := range o.conns.methods {
		if g.method.Procedure != procedure {
			continue
		}
		if len(tags) == 0 {
			return slices.Clone(g.all)
		}
		var found []*conn
		for _, c := range g.byTag[tags[0]] {
			if !slices.ContainsFunc(tags[1:], func(tag string) bool { return !slices.Contains(c.tags, tag) }) {
				found = append(found, c)
			}
		}
		return found
	}
	return nil
}

// isOpen reports whether messages can be sent.
func (c *conn) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over == nil && !c.closing
}

// ending returns how the connection ends, nil while it is open.
func (c *conn) ending() *ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// encode returns a message in the form that the connection wants. Connections
// with the same encoding share it.
func (c *conn) encode(msg *durable.ConnMessage) (sized, error) {
	type encoded struct {
		encoding any
		sized
	}
	encoding := c.end.Encoding()
	forms, _ := msg.Forms.([]encoded)
	for _, f := range forms {
		if f.encoding == encoding {
			return f.sized, nil
		}
	}
	form, size, err := c.end.Encode(msg.Message)
	if err != nil {
		return sized{}, err
	}
	s := sized{form, int64(size)}
	msg.Forms = append(forms, encoded{encoding, s})
	return s, nil
}

// reserve makes room for a form that a turn sends.
func (c *conn) reserve(size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil || c.closing {
		return durable.ErrConnClosed
	}
	limit := c.o.typ.Limits.MaxConnBuffer
	if c.waiting > 0 && c.waiting+size > limit {
		if c.waiting == c.own {
			return &durable.LimitError{Name: "bytes waiting for a connection", Max: limit, Actual: c.waiting + size}
		}
		c.tooSlow()
		return slowPeer()
	}
	c.waiting += size
	c.own += size
	return nil
}

// tooSlow ends a connection whose peer does not read what was sent. The caller
// holds mu.
func (c *conn) tooSlow() {
	c.forms = nil
	c.endLocked(&ending{err: durable.ErrSlowPeer})
}

// slowPeer is what a handler is told that sends to a peer that is too slow.
func slowPeer() error { return errors.Join(durable.ErrConnClosed, durable.ErrSlowPeer) }

// unreserve gives the room of a form back that a turn did not send after all.
func (c *conn) unreserve(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting -= size
	c.own -= size
}

// gate counts a form that was committed, and waits for the gate.
func (c *conn) gate(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own -= size
	c.gated++
}

// put sends a form that waited for the gate.
func (c *conn) put(f sized) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gated--
	c.putLocked(f)
}

func (c *conn) putLocked(f sized) {
	if c.over != nil {
		c.waiting -= f.size
		return
	}
	c.forms = append(c.forms, f)
	c.startWriting()
}

// refuse ends a connection that would miss a form.
func (c *conn) refuse(f sized, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gated--
	c.waiting -= f.size
	c.endLocked(&ending{err: err})
}

// finish ends the connection after what was sent before.
func (c *conn) finish(e *ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(e)
}

func (c *conn) endLocked(e *ending) {
	if c.over != nil {
		return
	}
	c.over = e
	if e.drop {
		c.forms = nil
	}
	c.startWriting()
}

// startWriting starts the goroutine that sends, unless it runs. The caller holds
// mu. So an idle connection has none.
func (c *conn) startWriting() {
	if !c.writing {
		c.writing = true
		go c.write()
	}
}

// write sends what waits, and tells the peer of the end after that.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.forms) > 0 {
		forms := c.forms
		c.forms = nil
		for i, f := range forms {
			c.mu.Unlock()
			err := c.end.Send(f.form, c.o.typ.Limits.SendTimeout)
			forms[i] = sized{}
			c.mu.Lock()
			c.waiting -= f.size
			if err != nil {
				c.forms = nil
				c.endLocked(&ending{err: sendFailed(err), drop: true})
			}
			if c.over != nil && c.forms == nil && (c.over.drop || errors.Is(c.over.err, durable.ErrSlowPeer)) {
				break // the rest is not sent
			}
		}
	}
	if e := c.over; e != nil && !c.finished {
		c.mu.Unlock()
		c.end.Finish(e.err, e.drop)
		c.mu.Lock()
		c.finished = true
		if c.done != nil {
			close(c.done)
		}
	}
	c.writing = false
}

// sendFailed returns the cause of the end of a connection to whose peer nothing
// can be sent.
func sendFailed(err error) error {
	if errors.Is(err, durable.ErrSlowPeer) {
		return err
	}
	return &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the peer is gone", Err: err}
}

// wait returns when the peer was told of the end.
func (c *conn) wait() {
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		return
	}
	if c.done == nil {
		c.done = make(chan struct{})
	}
	done := c.done
	c.mu.Unlock()
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
