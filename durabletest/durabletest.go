// Package durabletest gives tests a whole server in memory.
//
//	s := durabletest.New(t, func(r durable.Registrar) error {
//		return counterv1durable.RegisterCounter(r, newCounter)
//	})
//	counter := counterv1durable.NewCounterClient(s.Conn()).GetByName("a")
//
// The server keeps its store in the memory of the test, so tests may run side
// by side, and ends with the test. It works inside a [testing/synctest] bubble,
// where time passes as fast as nothing happens: alarms an hour ahead and objects
// that are dropped when they were idle are tested without waiting.
//
// Beside the calls that clients make, a test can run code inside an object
// ([RunIn]), run an alarm before it is due, drop objects from memory, and take
// the power from the server at a point of its choice ([Server.CrashAt]). The page
// docs/testing.md shows them together.
package durabletest

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A Server is a server in memory. Its methods fail the test when they cannot do
// what they say, and may be called by several goroutines at once.
type Server struct {
	tb       testing.TB
	register func(durable.Registrar) error
	opts     []server.Option
	client   *http.Client

	// turnover holds a token while one incarnation gives way to the next. It is
	// no mutex, so that time passes in a bubble meanwhile.
	turnover chan struct{}
	now      atomic.Pointer[incarnation]
	armed    atomic.Pointer[crash]
	restarts sync.WaitGroup // those that crashes set off
}

// An incarnation is the server between two restarts.
type incarnation struct {
	mem      *vfs.MemFS
	power    power
	engine   *pebblekv.Engine
	sql      *sqlitedb.Engine
	server   *server.Server
	web      *http.Server
	listener *pipeListener
	seen     objectSet
	serving  atomic.Bool // crashes may come

	over     sync.Once
	replaced chan struct{} // closed when there is a next one, or can be none
}

func (in *incarnation) giveWay() { in.over.Do(func() { close(in.replaced) }) }

// closeTimeout is how long the end of a test waits for work in flight. It is
// more than handlers have by default until they are given up.
const closeTimeout = 2 * time.Minute

// New starts a server with the object types that register registers. register is
// called again at each restart.
//
// At the end of the test the server drains, and the test waits for that and for
// everything that the server started. Work that is still in flight after two
// minutes fails the test, as does a crash that was asked for and never came.
func New(tb testing.TB, register func(durable.Registrar) error, opts ...server.Option) *Server {
	tb.Helper()
	s := &Server{tb: tb, register: register, opts: opts, turnover: make(chan struct{}, 1)}
	if err := s.start(vfs.NewCrashableMem()); err != nil {
		tb.Fatalf("durabletest: %v", err)
	}
	s.client = &http.Client{Transport: s.transport()}
	tb.Cleanup(s.end)
	return s
}

// end ends the server for good.
func (s *Server) end() {
	if c := s.armed.Swap(nil); c != nil && !s.tb.Failed() {
		s.tb.Errorf("durabletest: the crash that was to come %s never came", c.point)
	}
	s.restarts.Wait()
	s.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.now.Load().close(ctx); err != nil {
		s.tb.Errorf("durabletest: close: %v", err)
	}
}

// storeDir is where the store is in the memory file system.
const storeDir = "store"

// start starts an incarnation on a file system, in place of what was.
func (s *Server) start(mem *vfs.MemFS) (err error) {
	in := &incarnation{mem: mem, listener: newPipeListener(), replaced: make(chan struct{})}
	in.power.off = make(chan struct{})
	in.engine, err = pebblekv.Open(storeDir, pebblekv.Options{
		FS: s.disk(in), CacheSize: 1 << 20, MemTableSize: 1 << 20, ReserveBytes: -1, NoTicks: true,
	})
	if err != nil {
		return err
	}
	in.sql = sqlitedb.New(sqlitedb.Options{})
	opts := append([]server.Option{server.WithSQL(in.sql)}, s.opts...)
	in.server, err = server.New(context.Background(), in.engine, opts...)
	if err != nil {
		return errors.Join(err, in.engine.Close())
	}
	if err := s.register(registrar{in.server, &in.seen}); err != nil {
		return errors.Join(err, in.server.Close(context.Background()), in.sql.Close(), in.engine.Close())
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	in.web = &http.Server{Handler: s.losing(in, in.server.Handler()), Protocols: protocols}
	in.listener.serve(in.web)
	in.serving.Store(true)
	if before := s.now.Swap(in); before != nil {
		before.giveWay()
	}
	return nil
}

// close ends everything the incarnation runs. When ctx ends it no longer waits
// for handlers that are under way.
func (in *incarnation) close(ctx context.Context) error {
	in.serving.Store(false)
	_ = in.server.Drain(ctx) // while replies can still leave; Close tells how it went
	err := in.web.Close()
	in.listener.wait()
	return errors.Join(err, in.server.Close(ctx), in.sql.Close(), in.engine.Close())
}

// running returns the incarnation that has power, and waits for it while the
// server starts again after a crash.
func (s *Server) running() *incarnation {
	for {
		in := s.now.Load()
		select {
		case <-in.power.off:
		default:
			return in
		}
		<-in.replaced
		if s.now.Load() == in { // it could not start again, which fails the test
			return in
		}
	}
}

// Server returns the server that runs now.
func (s *Server) Server() *server.Server { return s.running().server }

// Restart drains the server and starts it again on the same store: everything
// that was committed is there, and nothing is in memory. It waits for calls under
// way.
func (s *Server) Restart() {
	s.tb.Helper()
	s.again("restart", func(in *incarnation) *vfs.MemFS { return in.mem })
}

// Reset drains the server and starts it again with an empty store: no object, no
// alarm and no remembered reply is left. It waits for calls under way.
func (s *Server) Reset() {
	s.tb.Helper()
	s.again("reset", func(*incarnation) *vfs.MemFS { return vfs.NewCrashableMem() })
}

// again ends the incarnation in an orderly way and starts the next.
func (s *Server) again(what string, next func(*incarnation) *vfs.MemFS) {
	s.tb.Helper()
	s.turnover <- struct{}{}
	defer func() { <-s.turnover }()
	in := s.now.Load()
	err := in.close(context.Background())
	if in.power.isOff() { // it crashed on the way
		err = nil
		in.mem = in.mem.CrashClone(vfs.CrashCloneCfg{})
	}
	s.client.CloseIdleConnections()
	if err == nil {
		err = s.start(next(in))
	}
	if err != nil {
		in.giveWay()
		s.tb.Fatalf("durabletest: %s: %v", what, err)
	}
}
