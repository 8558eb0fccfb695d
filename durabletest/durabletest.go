// Package durabletest gives tests a whole server in memory.
//
//	s := durabletest.New(t, func(r durable.Registrar) error {
//		return counterv1durable.RegisterCounter(r, newCounter)
//	})
//	counter := counterv1durable.NewCounterClient(s.Conn()).GetByName("a")
//
// The server keeps its store in the memory of the test, so tests may run side
// by side, and ends with the test. It works inside a [testing/synctest] bubble,
// where time passes as fast as nothing happens.
package durabletest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A Server is a server in memory. Its methods fail the test when they cannot do
// what they say, and may be called by several goroutines at once, except that
// one crash or restart is under way at a time.
type Server struct {
	tb       testing.TB
	register func(durable.Registrar) error
	opts     []server.Option
	now      atomic.Pointer[incarnation]
	client   *http.Client
}

// An incarnation is the server between two restarts.
type incarnation struct {
	fs       *vfs.MemFS
	off      *atomic.Bool // the power is off: nothing reaches fs any more
	engine   *pebblekv.Engine
	sql      *sqlitedb.Engine
	server   *server.Server
	web      *http.Server
	listener *pipeListener
}

// New starts a server with the object types that register registers. It drains
// at the end of the test, for which it waits.
// register is called again at each restart.
func New(tb testing.TB, register func(durable.Registrar) error, opts ...server.Option) *Server {
	tb.Helper()
	s := &Server{tb: tb, register: register, opts: opts}
	s.start(vfs.NewCrashableMem())
	s.client = &http.Client{Transport: s.transport()}
	tb.Cleanup(func() {
		s.client.CloseIdleConnections()
		if err := s.now.Load().close(context.Background()); err != nil {
			tb.Errorf("durabletest: close: %v", err)
		}
	})
	return s
}

var errPowerOff = errors.New("the power is off")

// storeDir is where the store is in the memory file system.
const storeDir = "store"

func (s *Server) start(fs *vfs.MemFS) {
	s.tb.Helper()
	off := new(atomic.Bool)
	disk := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if off.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errPowerOff
		}
		return nil
	}))
	engine, err := pebblekv.Open(storeDir, pebblekv.Options{
		FS: disk, CacheSize: 1 << 20, MemTableSize: 1 << 20, ReserveBytes: -1,
	})
	if err != nil {
		s.tb.Fatalf("durabletest: %v", err)
	}
	databases := sqlitedb.New(sqlitedb.Options{})
	opts := append([]server.Option{server.WithSQL(databases)}, s.opts...)
	srv, err := server.New(context.Background(), engine, opts...)
	if err != nil {
		_ = engine.Close()
		s.tb.Fatalf("durabletest: %v", err)
	}
	if err := s.register(srv); err != nil {
		_ = srv.Close(context.Background())
		_ = engine.Close()
		s.tb.Fatalf("durabletest: register: %v", err)
	}
	in := &incarnation{fs: fs, off: off, engine: engine, sql: databases, server: srv, listener: newPipeListener()}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	in.web = &http.Server{Handler: srv.Handler(), Protocols: protocols}
	in.listener.serve(in.web)
	s.now.Store(in)
}

// close ends everything the incarnation runs. When ctx ends it no longer waits
// for handlers that are under way.
func (in *incarnation) close(ctx context.Context) error {
	_ = in.server.Drain(ctx) // while replies can still leave; Close tells how it went
	err := in.web.Close()
	in.listener.wait()
	return errors.Join(err, in.server.Close(ctx), in.sql.Close(), in.engine.Close())
}

// Conn returns a connection to the server that stays good over restarts.
func (s *Server) Conn() durable.Conn { return conn{s} }

// Server returns the server that runs now.
func (s *Server) Server() *server.Server { return s.now.Load().server }

// URL is what to call over HTTP, with [Server.HTTPClient].
func (s *Server) URL() string { return "http://durabletest" }

// HTTPClient returns a client for [Server.URL], over connections in memory. It
// speaks HTTP/2 without TLS, as gRPC wants.
func (s *Server) HTTPClient() *http.Client { return s.client }

// IDs returns the ids of the existing objects of a type, in order of name and
// then id: those that were committed to, and not deleted since. For their names
// see [server.Server.Objects].
func (s *Server) IDs(objectType string) []durable.ID {
	s.tb.Helper()
	var ids []durable.ID
	for object, err := range s.Server().Objects(context.Background(), objectType) {
		if err != nil {
			s.tb.Fatalf("durabletest: %v", err)
		}
		ids = append(ids, object.ID)
	}
	return ids
}

// Evict drops an object from memory, after the calls that came before, and
// reports whether it was there. Every stub has the ref of its object in a field:
//
//	s.Evict(counter.Ref)
//
// When it returns, what the object committed is durable. The next call of the
// object runs its constructor.
func (s *Server) Evict(object durable.Ref) bool {
	s.tb.Helper()
	was, err := s.Server().Evict(context.Background(), object.ObjectType(), object.ID())
	if err != nil {
		s.tb.Fatalf("durabletest: evict: %v", err)
	}
	return was
}

// Restart drains the server and starts it again on the same store: everything
// that was committed is there, and nothing is in memory. It waits for calls under
// way.
func (s *Server) Restart() {
	s.tb.Helper()
	in := s.now.Load()
	if err := in.close(context.Background()); err != nil {
		s.tb.Fatalf("durabletest: restart: %v", err)
	}
	s.client.CloseIdleConnections()
	s.start(in.fs)
}

// Crash takes the power from the server and starts it again: what was not
// durable at the moment of the call is gone. Calls under way fail.
func (s *Server) Crash() {
	s.tb.Helper()
	in := s.now.Load()
	in.off.Store(true) // first, so that nothing is acknowledged that the copy lacks
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = in.close(gone)
	after := in.fs.CrashClone(vfs.CrashCloneCfg{})
	s.client.CloseIdleConnections()
	s.start(after)
}

type conn struct{ s *Server }

func (c conn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	return c.s.Server().Conn().CallUnary(ctx, call, req, res)
}

func (c conn) OpenStream(ctx context.Context, call *durable.Call) (durable.ClientStreamPort, error) {
	return c.s.Server().Conn().OpenStream(ctx, call)
}

func (s *Server) transport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.now.Load().listener.dial(ctx)
		},
	}
}

// A pipeListener accepts connections that never leave the process.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	served sync.WaitGroup
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// serve runs web on the listener until that is closed.
func (l *pipeListener) serve(web *http.Server) {
	l.served.Go(func() { _ = web.Serve(l) })
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
		return c, nil
	case <-l.closed:
		return nil, io.EOF
	}
}

// Close implements [net.Listener].
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "durabletest" }
