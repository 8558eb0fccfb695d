package durabletest

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
)

// Conn returns a connection to the server that stays good over restarts. Calls
// that a crash cuts off fail with code unavailable and nothing more, as when a
// connection is lost: they may have taken effect or not. They do so when their
// handlers return, which run on the goroutines of the callers. Calls that come
// while the server starts again after a crash wait for that.
func (s *Server) Conn() durable.Conn { return conn{s} }

// URL is what to call over HTTP, with [Server.HTTPClient].
func (s *Server) URL() string { return "http://durabletest" }

// HTTPClient returns a client for [Server.URL], over connections in memory. It
// speaks HTTP/2 without TLS, as gRPC wants.
func (s *Server) HTTPClient() *http.Client { return s.client }

type conn struct{ s *Server }

// CallUnary implements [durable.Conn].
func (c conn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	in := c.s.running()
	return c.s.reply(in, in.server.Conn().CallUnary(ctx, call, req, res))
}

// OpenStream implements [durable.Conn].
func (c conn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	in := c.s.running()
	port, err := in.server.Conn().OpenStream(ctx, call)
	if err != nil {
		return nil, c.s.reply(in, err)
	}
	return stream{port, c.s, in}, nil
}

// A stream is the caller's end of a stream, which a crash cuts off.
type stream struct {
	durable.ClientStreamPort
	s  *Server
	in *incarnation
}

// Receive implements [durable.ClientStreamPort].
func (p stream) Receive(msg proto.Message) error {
	return p.s.reply(p.in, p.ClientStreamPort.Receive(msg))
}

// errLost is what a caller learns of a call that a crash cut off.
func errLost() error {
	return connect.NewError(connect.CodeUnavailable, "durabletest: the connection was lost: the server crashed")
}

// reply returns what the caller learns of a reply: err, or that the connection
// was lost.
func (s *Server) reply(in *incarnation, err error) error {
	s.losesReply(in)
	if in.power.isOff() {
		return errLost()
	}
	return err
}

// losing serves h until a crash cuts off a reply.
func (s *Server) losing(in *incarnation, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&replyWriter{ResponseWriter: w, leave: func() { s.losesReply(in) }}, r)
	})
}

// A replyWriter calls leave before anything leaves.
type replyWriter struct {
	http.ResponseWriter
	leave func()
}

// Unwrap is for [http.ResponseController].
func (w *replyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *replyWriter) WriteHeader(status int) {
	w.leave()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *replyWriter) Write(p []byte) (int, error) {
	w.leave()
	return w.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher].
func (w *replyWriter) Flush() {
	w.leave()
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

func (s *Server) transport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.running().listener.dial(ctx)
		},
	}
}

// A pipeListener accepts connections that never leave the process. It keeps them,
// so that it can cut those too that the web server let go of, as WebSockets are.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	served sync.WaitGroup

	mu   sync.Mutex
	open map[*pipeConn]struct{} // nil when they were cut
}

// A pipeConn is the server's end of a connection.
type pipeConn struct {
	net.Conn
	l *pipeListener
}

// Close implements [net.Conn].
func (c *pipeConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{}), open: map[*pipeConn]struct{}{}}
}

// serve runs web on the listener until that is closed.
func (l *pipeListener) serve(web *http.Server) {
	l.served.Go(func() { _ = web.Serve(l) })
}

// cut closes every connection. Those that are accepted later are closed at once.
func (l *pipeListener) cut() {
	l.mu.Lock()
	conns := l.open
	l.open = nil
	l.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

func (l *pipeListener) wait() { l.served.Wait() }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return l.keep(c), nil
	case <-l.closed:
		return nil, io.EOF
	}
}

// keep keeps a connection until it is closed, and closes it where they were cut.
func (l *pipeListener) keep(c net.Conn) net.Conn {
	kept := &pipeConn{c, l}
	l.mu.Lock()
	over := l.open == nil
	if !over {
		l.open[kept] = struct{}{}
	}
	l.mu.Unlock()
	if over {
		_ = c.Close()
	}
	return kept
}

// Close implements [net.Listener]. It cuts the connections, since the web server
// that closes it does not know those any more that were hijacked.
func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.cut()
	})
	return nil
}

// Addr implements [net.Listener].
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "durabletest" }
