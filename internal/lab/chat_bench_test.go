package lab_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A room is a chat lab in a bubble, and one way to reach it.
type room struct {
	*faulty
	labv1durable.ChatLabStub
	// do is what the lab does.
	do   *lab.Chat
	told int // causes that closed has looked at
}

// inRoom runs fn in a bubble of its own for each way to call a server.
func inRoom(t *testing.T, name string, fn func(t *testing.T, r *room), opts ...durable.ObjectOption) {
	t.Helper()
	inBubble(t, name, func(t *testing.T, f *faulty) {
		fn(t, &room{faulty: f, ChatLabStub: labv1durable.NewChatLabClient(f.conn).GetByName("room"), do: &f.lab.Chat})
	}, opts...)
}

// A guest is the peer of a connection of Join in a bubble. It takes what it is
// sent at once.
type guest struct {
	t       *testing.T
	stream  durable.ClientStreamPort
	leave   context.CancelFunc // vanishes
	mu      sync.Mutex
	texts   []string
	bytes   int // of data, altogether
	listens bool
	err     error
	done    chan struct{} // closed when the stream has ended
}

// guest opens a connection, which the handler is told of by the time it returns.
func (r *room) guest(t *testing.T) *guest {
	t.Helper()
	g := r.mute(t)
	g.listen()
	return g
}

// mute opens a connection whose peer takes nothing until it listens.
func (r *room) mute(t *testing.T) *guest {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	call := &durable.Call{
		Method: durable.MethodSpec{Procedure: labv1durable.ChatLabJoinProcedure, ClientStream: true, ServerStream: true},
		Object: r.Ref,
	}
	stream, err := r.conn.OpenStream(ctx, call)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := stream.(interface{ SendHeaders() error }); ok {
		if err := s.SendHeaders(); err != nil {
			t.Fatal(err)
		}
	}
	g := &guest{t: t, stream: stream, leave: cancel, done: make(chan struct{})}
	t.Cleanup(func() {
		cancel()
		_ = stream.Close()
		if g.listens {
			<-g.done
		}
	})
	synctest.Wait()
	return g
}

// listen begins to take what is sent.
func (g *guest) listen() {
	g.listens = true
	go func() {
		defer close(g.done)
		for {
			res := &labv1.JoinResponse{}
			err := g.stream.Receive(res)
			g.mu.Lock()
			if err != nil {
				g.err = err
				g.mu.Unlock()
				return
			}
			g.texts = append(g.texts, res.GetText())
			g.bytes += len(res.GetData())
			g.mu.Unlock()
		}
	}()
	synctest.Wait()
}

// say sends a text, and returns when it was handled, unless something holds that
// up.
func (g *guest) say(texts ...string) {
	g.t.Helper()
	for _, text := range texts {
		if err := g.stream.Send(&labv1.JoinRequest{Text: text}); err != nil {
			g.t.Fatalf("send %q: %v", text, err)
		}
	}
	synctest.Wait()
}

// half ends what the peer sends. It goes on to receive.
func (g *guest) half() {
	g.t.Helper()
	if err := g.stream.CloseSend(); err != nil {
		g.t.Fatal(err)
	}
	synctest.Wait()
}

// vanish takes the peer away.
func (g *guest) vanish() {
	g.leave()
	go func() { _ = g.stream.Close() }() // over HTTP the end of the context alone is not enough
	synctest.Wait()
}

// heard checks what came since it was last called.
func (g *guest) heard(want ...string) {
	g.t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.texts, want) {
		g.t.Errorf("the peer received %q, want %q", g.texts, want)
	}
	g.texts = nil
}

// over reports whether the stream has ended.
func (g *guest) over() bool {
	synctest.Wait()
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// open checks that the stream has not ended.
func (g *guest) open() {
	g.t.Helper()
	if g.over() {
		g.t.Errorf("the connection ended with %v, want it to be open", g.err)
	}
}

// ended waits for the end of the stream, and returns the error of it: io.EOF
// where it ended as it should.
func (g *guest) ended() error {
	g.t.Helper()
	if !g.over() {
		g.t.Fatal("the connection is open, want its end")
	}
	return g.err
}

// finished checks that the stream has ended as it should.
func (g *guest) finished() {
	g.t.Helper()
	if err := g.ended(); !errors.Is(err, io.EOF) {
		g.t.Errorf("the connection ended with %v, want EOF", err)
	}
}

// An ending is what the Close handler should be told.
type ending struct {
	Code         durable.CloseCode
	Reason       string
	Clean, Local bool
}

// closed checks with which causes the Close handler ran since the last time.
func (r *room) closed(t *testing.T, want ...ending) {
	t.Helper()
	synctest.Wait()
	var got []ending
	causes := r.do.Closed()
	for _, cause := range causes[r.told:] {
		var closed *durable.CloseError
		if !errors.As(cause, &closed) {
			t.Fatalf("the Close handler was told %T: %v, want a *durable.CloseError", cause, cause)
		}
		e := ending{closed.Code, closed.Reason, closed.Clean, closed.Local}
		if i := len(got); i < len(want) && want[i].Reason == anyReason {
			e.Reason = anyReason
		}
		got = append(got, e)
	}
	r.told = len(causes)
	if !slices.Equal(got, want) {
		t.Errorf("the Close handler was told %+v, want %+v", got, want)
	}
}

// anyReason stands for a reason that is not compared.
const anyReason = "*"

// joins makes the handler of messages do what the text says, beside echoing it.
func (r *room) joins(steps steps) {
	r.do.JoinMessage = func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
		if step, ok := steps[req.GetText()]; ok {
			return step(ctx, tx, conn)
		}
		return conn.Send(&labv1.JoinResponse{Text: req.GetText()})
	}
}

// steps are what the handler of messages does, by text.
type steps = map[string]func(ctx context.Context, tx labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn) error

// says sets what the unary method does.
func (r *room) says(fn func(ctx context.Context, tx labv1durable.ChatLabTx) error) {
	r.do.Say = func(ctx context.Context, tx labv1durable.ChatLabTx, _ *labv1.SayRequest) (*labv1.SayResponse, error) {
		return &labv1.SayResponse{}, fn(ctx, tx)
	}
}

// act runs fn in a turn of a unary call.
func (r *room) act(t *testing.T, fn func(ctx context.Context, tx labv1durable.ChatLabTx) error) {
	t.Helper()
	r.says(fn)
	if _, err := r.Say(t.Context(), &labv1.SayRequest{}); err != nil {
		t.Fatalf("a unary call: %v", err)
	}
}

// who returns what a reading turn sees: the attachment and the tags of each
// connection, in order.
func (r *room) who(t *testing.T, tags ...string) []string {
	t.Helper()
	res, err := r.Who(t.Context(), &labv1.WhoRequest{Tags: tags})
	if err != nil {
		t.Fatalf("who: %v", err)
	}
	out := []string{}
	for _, p := range res.GetPeers() {
		out = append(out, strings.Join(append([]string{p.GetAttachment().GetText()}, p.GetTags()...), " "))
	}
	return out
}

// evict takes the object out of memory, and checks that it was there.
func (r *room) evict(t *testing.T) {
	t.Helper()
	if was, err := r.srv.Evict(t.Context(), labv1durable.ChatLabType, r.ID()); err != nil || !was {
		t.Fatalf("evict: %v, %v, want true", was, err)
	}
}

func text(text string) *labv1.JoinResponse { return &labv1.JoinResponse{Text: text} }

// attach sets the attachment to a text.
func attach(conn labv1durable.ChatLabJoinConn, text string) error {
	return conn.SetAttachment(&labv1.JoinAttachment{Text: text})
}

// write makes a turn one that has something to commit.
func write(ctx context.Context, tx labv1durable.ChatLabTx) error {
	return tx.KV().Put(ctx, "k", []byte("v"))
}
