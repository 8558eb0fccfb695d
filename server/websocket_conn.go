package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// pings says when a peer is asked whether it is there.
type pings struct {
	interval time.Duration // of silence, before it is asked; 0: never
	timeout  time.Duration // to wait for anything after that
}

// A socketConn is the network connection under a WebSocket. It follows the frames
// that come, and asks a peer that is silent whether it is there: it does so in
// Read, where an idle connection waits, so that this costs neither a goroutine nor
// a timer.
type socketConn struct {
	net.Conn
	ws       *websocket.Conn
	frames   frames
	ping     pings
	patience time.Duration // how long a peer may take to receive a message

	// The goroutine that reads has these.

	heard   time.Time // the peer was not known to be silent
	armed   time.Time // the read deadline that is set; zero: none
	firstBy time.Time // when the first message must be there; zero: none is needed
	err     error     // of Read, for good
	lost    bool      // err says that the peer is not there

	writing atomic.Bool // a message is being sent
	// rest is what of a Write takes longer; nil or done: nothing does.
	rest atomic.Pointer[restOfWrite]
	// stopped is what Read returns as soon as it is set.
	stopped atomic.Pointer[error]
}

// Read implements [net.Conn]. An error that is a [*durable.CloseError] tells how
// the peer broke the rules; nothing of the frame that did is returned.
func (c *socketConn) Read(p []byte) (int, error) {
	var pinged time.Time
	c.heard = time.Now() // silence counts while somebody listens
	for c.err == nil {
		c.arm(c.due(pinged))
		if why := c.stopped.Load(); why != nil {
			c.err = *why
			break
		}
		n, err := c.Conn.Read(p)
		switch {
		case n > 0:
			if n, c.err = c.frames.follow(p[:n]); n > 0 {
				return n, nil
			}
		case err == nil:
		case isTimeout(err):
			pinged = c.silent(pinged)
		case errors.Is(err, io.EOF):
			c.lose(io.ErrUnexpectedEOF) // io.EOF is a peer that may still receive
		default:
			c.lose(err)
		}
	}
	return 0, c.err
}

// due returns when Read is to look up; zero for never.
func (c *socketConn) due(pinged time.Time) time.Time {
	var at time.Time
	switch {
	case c.ping.interval == 0:
	case pinged.IsZero():
		at = c.heard.Add(c.ping.interval)
	default:
		at = pinged.Add(c.ping.timeout)
	}
	if !c.firstBy.IsZero() && (at.IsZero() || c.firstBy.Before(at)) {
		at = c.firstBy
	}
	return at
}

// arm sets the read deadline, unless one is set that is not later: messages that
// come move what is due, and not the deadline.
func (c *socketConn) arm(at time.Time) {
	if at.IsZero() || !c.armed.IsZero() && !at.Before(c.armed) {
		return
	}
	c.armed = at
	_ = c.SetReadDeadline(at) // the next Read fails if this does
}

// silent does what is due when a Read has waited long enough.
func (c *socketConn) silent(pinged time.Time) time.Time {
	c.armed = time.Time{}
	now := time.Now()
	switch {
	case c.stopped.Load() != nil:
	case !c.firstBy.IsZero() && !now.Before(c.firstBy):
		c.err = refusal(closeDeadline, fmt.Sprintf("the first message, which the method needs, did not come within %v", firstMessageTimeout))
	case c.ping.interval == 0:
	case !pinged.IsZero() && !now.Before(pinged.Add(c.ping.timeout)):
		c.lose(fmt.Errorf("nothing came from the peer for %v, nor an answer to a ping", now.Sub(c.heard)))
	case pinged.IsZero() && !now.Before(c.heard.Add(c.ping.interval)):
		if c.writing.Load() || c.control(websocket.PingMessage, nil, now.Add(c.ping.timeout)) {
			c.heard = now // a message is on its way, and has a deadline itself
			return pinged
		}
		return time.Now()
	}
	return pinged
}

func (c *socketConn) lose(err error) { c.err, c.lost = err, true }

// control sends a ping or a pong. It reports whether that had to give way to a
// message that takes longer than until the deadline.
func (c *socketConn) control(kind int, data []byte, deadline time.Time) (gaveWay bool) {
	if !c.settled() {
		return true
	}
	err := c.ws.WriteControl(kind, data, deadline)
	switch {
	case isTimeout(err) && c.writing.Load():
		return true
	case err != nil && !errors.Is(err, websocket.ErrCloseSent):
		c.lose(err)
	}
	return false
}

// A restOfWrite is a Write that goes on without its caller.
type restOfWrite struct {
	done chan struct{}
	err  error // when done
}

// briefly is how long a Write takes the time of its caller.
const briefly = 2 * time.Millisecond

// Write implements [net.Conn]. What cannot be written at once, over TCP, is written
// by a goroutine, which the next Write waits for: the goroutine that receives also
// sends answers, and a peer that sends on before it reads must not be kept waiting
// by that. It fails like a Write of its own, by stopping the connection.
func (c *socketConn) Write(b []byte) (int, error) {
	if rest := c.rest.Load(); rest != nil {
		<-rest.done
		if rest.err != nil {
			return 0, rest.err
		}
	}
	if !c.isTCP() {
		return c.Conn.Write(b)
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(briefly)) // Write fails if this does
	n, err := c.Conn.Write(b)
	if !isTimeout(err) {
		return n, err
	}
	rest, data := &restOfWrite{done: make(chan struct{})}, bytes.Clone(b[n:])
	c.rest.Store(rest)
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.patience))
	go func() {
		defer close(rest.done)
		if _, rest.err = c.Conn.Write(data); isTimeout(rest.err) {
			rest.err = slowPeer(rest.err)
			c.stop(rest.err)
		}
	}()
	return len(b), nil
}

// SetWriteDeadline implements [net.Conn]. Where Write sets deadlines itself, it does
// nothing.
func (c *socketConn) SetWriteDeadline(t time.Time) error {
	if c.isTCP() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// isTCP reports whether a Write can be cut short and go on: TLS cannot.
func (c *socketConn) isTCP() bool {
	_, ok := c.Conn.(*net.TCPConn)
	return ok
}

// quick reports whether a Write will most likely return at once.
func (c *socketConn) quick() bool { return c.isTCP() && c.settled() }

// settled reports whether no Write goes on without its caller.
func (c *socketConn) settled() bool {
	rest := c.rest.Load()
	if rest == nil {
		return true
	}
	select {
	case <-rest.done:
		return true
	default:
		return false
	}
}

// settle waits for some time until none does, and reports whether that is so.
func (c *socketConn) settle(timeout time.Duration) bool {
	rest := c.rest.Load()
	if rest == nil {
		return true
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-rest.done:
		return true
	case <-timer.C:
		return false
	}
}

// stop makes a Read that waits, and those to come, return why.
func (c *socketConn) stop(why error) {
	c.stopped.CompareAndSwap(nil, &why)
	_ = c.SetReadDeadline(time.Unix(1, 0))
}

// linger waits until the peer has closed too, for at most closeTimeout, so that
// it can read what was sent: to close at once would reset a connection on which
// something is still to be read. No other Read may be under way.
func (c *socketConn) linger() {
	_ = c.SetReadDeadline(time.Now().Add(closeTimeout))
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.frames.err != nil {
		_ = half.CloseWrite() // its close frame would not be recognized
	}
	buf := make([]byte, 512)
	for !c.frames.closed {
		n, err := c.Conn.Read(buf)
		if err != nil {
			return
		}
		_, _ = c.frames.follow(buf[:n])
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
