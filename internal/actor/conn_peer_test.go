package actor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
)

// A testPeer is the network end of a connection whose peer takes what it is sent
// at once.
type testPeer struct {
	requests chan proto.Message // closed where the peer has sent its last one
	gone     chan struct{}      // closed when the peer vanished
	vanish   sync.Once          // closes it, where several may
	finish   chan struct{}      // closed by Finish
	done     chan struct{}      // closed when Hold has returned
	result   error              // of Hold

	mu       sync.Mutex
	got      []string
	finished int // calls of Finish
}

func newTestPeer() *testPeer {
	return &testPeer{
		requests: make(chan proto.Message), gone: make(chan struct{}),
		finish: make(chan struct{}), done: make(chan struct{}),
	}
}

// Encoding implements [ConnEnd].
func (p *testPeer) Encoding() any { return "text" }

// Encode implements [ConnEnd].
func (p *testPeer) Encode(msg proto.Message) (any, int, error) {
	text := msg.(*wrapperspb.StringValue).GetValue()
	return text, len(text), nil
}

// Receive implements [ConnEnd].
func (p *testPeer) Receive(msg proto.Message) error {
	select {
	case req, ok := <-p.requests:
		if !ok {
			return io.EOF
		}
		proto.Merge(msg, req)
		return nil
	case <-p.gone:
		return errors.New("the peer has vanished")
	case <-p.finish:
		return errors.New("the connection is over")
	}
}

// Send implements [ConnEnd].
func (p *testPeer) Send(form any, _ time.Duration) error {
	if form == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished > 0 {
		panic(fmt.Sprintf("%q is sent after Finish", form))
	}
	p.got = append(p.got, form.(string))
	return nil
}

// Finish implements [ConnEnd].
func (p *testPeer) Finish(error, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished++; p.finished > 1 {
		panic("Finish is called twice")
	}
	close(p.finish)
}

// received returns everything that came.
func (p *testPeer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// say sends a message, unless the connection is over.
func (p *testPeer) say(text string) {
	select {
	case p.requests <- wrapperspb.String(text):
	case <-p.finish:
	}
}

// Quick implements [ConnEnd].
func (p *testPeer) Quick() bool { return false }

// hold opens a connection.
func (h *testHost) hold(key string, m *durable.Method, p *testPeer) {
	go func() {
		defer close(p.done)
		held, err := h.Connect(context.Background(), h.call(key, m), p, nil)
		if err == nil {
			err = held.Serve(context.Background())
		}
		p.result = err
	}()
}

// joinMethod returns a method with connections of texts.
func joinMethod(c *durable.ConnectionMethod) *durable.Method {
	return &durable.Method{
		Procedure: "/test.Service/Join", ClientStream: true, ServerStream: true, Connection: c,
		NewRequest: func() proto.Message { return &wrapperspb.StringValue{} },
	}
}

// sendText sends a text.
func sendText(port durable.ConnPort, text string) error {
	return port.Send(&durable.ConnMessage{Message: wrapperspb.String(text)})
}

// attached returns the text that is attached to a connection, empty where none is.
func attached(t *testing.T, port durable.ConnReader) string {
	data, err := port.Attachment()
	if err != nil {
		t.Errorf("attachment: %v", err)
	}
	var text wrapperspb.StringValue
	if err := proto.Unmarshal(data, &text); err != nil {
		t.Errorf("attachment: %v", err)
	}
	return text.GetValue()
}
