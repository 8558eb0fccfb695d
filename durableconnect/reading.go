package durableconnect

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// A reading is a stream of responses of a method that only reads. Until its first
// message it is opened again as a unary call is made again; then its caller has
// seen a part, and must decide.
type reading struct {
	conn   *conn
	ctx    context.Context // ends with the stream, lest a pause outlive it
	cancel context.CancelFunc
	call   *durable.Call
	policy durable.RetryPolicy
	opened time.Time
	req    proto.Message // nil: it must not be opened again

	mu struct {
		sync.Mutex
		*stream
		closed bool
	}
}

func (c *conn) openReading(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	r := &reading{conn: c, call: call, policy: call.Retry.WithDefaults(), opened: time.Now()}
	r.ctx, r.cancel = context.WithCancel(ctx)
	s, err := c.open(r.ctx, call)
	if err != nil {
		r.cancel()
		return nil, err
	}
	r.mu.stream = s
	return r, nil
}

func (r *reading) now() *stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.stream
}

// Send implements [durable.ClientStreamPort].
func (r *reading) Send(msg proto.Message) error {
	err := r.now().Send(msg)
	if err == nil {
		r.req = proto.Clone(msg)
	}
	return err
}

// CloseSend implements [durable.ClientStreamPort].
func (r *reading) CloseSend() error { return r.now().CloseSend() }

// Receive implements [durable.ClientStreamPort].
func (r *reading) Receive(msg proto.Message) error {
	for attempt := 1; ; attempt++ {
		s := r.now()
		err := s.Receive(msg)
		if err == nil {
			r.req = nil
			return nil
		}
		again := !errors.Is(err, io.EOF) && r.req != nil && attempt < r.policy.MaxAttempts && r.ctx.Err() == nil &&
			mayRepeat(s.info, r.call, r.req, err) && pause(r.ctx, r.policy.Delay(attempt), r.opened.Add(r.policy.Window))
		if !again || !r.reopen() {
			r.cancel()
			return err
		}
		proto.Reset(msg)
	}
}

// reopen opens the stream again, with its request, and reports whether there is
// something to receive from.
func (r *reading) reopen() bool {
	_ = r.now().Close()
	s, err := r.conn.open(r.ctx, r.call)
	if err != nil {
		return false
	}
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		_ = s.Close()
		return false
	}
	r.mu.stream = s
	r.mu.Unlock()
	return s.Send(r.req) == nil && s.CloseSend() == nil
}

// Close implements [durable.ClientStreamPort].
func (r *reading) Close() error {
	r.mu.Lock()
	r.mu.closed = true
	s := r.mu.stream
	r.mu.Unlock()
	r.cancel()
	return s.Close()
}
