package actor

import (
	"context"
	"sync"
	"time"
)

// A handlerContext is the context of one handler: its parent with a deadline
// and a link of the call chain. The timer behind the deadline is made only when
// somebody asks for Done, which most handlers never do.
type handlerContext struct {
	parent   context.Context
	deadline time.Time // zero: the parent's
	link     *link

	mu struct {
		sync.Mutex
		inner  context.Context
		cancel context.CancelFunc
		ended  bool
	}
}

// newHandlerContext returns a context that ends with parent, after timeout
// (never, when it is 0) or by end.
func newHandlerContext(parent context.Context, timeout time.Duration, start time.Time, l *link) *handlerContext {
	c := new(handlerContext)
	c.init(parent, timeout, start, l)
	return c
}

func (c *handlerContext) init(parent context.Context, timeout time.Duration, start time.Time, l *link) {
	c.parent, c.link = parent, l
	if timeout > 0 {
		c.deadline = start.Add(timeout)
		if d, ok := parent.Deadline(); ok && d.Before(c.deadline) {
			c.deadline = time.Time{}
		}
	}
}

// end cancels the context when the handler has returned.
func (c *handlerContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ended = true
	if c.mu.cancel != nil {
		c.mu.cancel()
	}
}

func (c *handlerContext) Deadline() (time.Time, bool) {
	if !c.deadline.IsZero() {
		return c.deadline, true
	}
	return c.parent.Deadline()
}

func (c *handlerContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.inner == nil {
		if c.deadline.IsZero() {
			c.mu.inner, c.mu.cancel = context.WithCancel(c.parent)
		} else {
			c.mu.inner, c.mu.cancel = context.WithDeadline(c.parent, c.deadline)
		}
		if c.mu.ended {
			c.mu.cancel()
		}
	}
	return c.mu.inner.Done()
}

func (c *handlerContext) Err() error {
	c.mu.Lock()
	inner, ended := c.mu.inner, c.mu.ended
	c.mu.Unlock()
	switch {
	case inner != nil:
		return inner.Err()
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	case ended:
		return context.Canceled
	}
	return nil
}

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(chainKey); ok {
		return c.link
	}
	return c.parent.Value(key)
}
