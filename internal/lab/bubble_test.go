package lab_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect/v2/connecthttp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A faulty is a server in a bubble over a store whose faults the test decides,
// and one way to reach it.
type faulty struct {
	store *memkv.Store
	srv   *server.Server
	lab   *lab.Lab
	way   func(*http.Client) durable.Conn // nil: in process
	conn  durable.Conn
}

// inBubble runs fn in a bubble of its own for each way to call a server.
func inBubble(t *testing.T, name string, fn func(t *testing.T, f *faulty), opts ...durable.ObjectOption) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, way := range []struct {
			name string
			conn func(*http.Client) durable.Conn
		}{
			{"in process", nil},
			{"Connect JSON", func(c *http.Client) durable.Conn {
				return durableconnect.New(c, "http://bubble", connecthttp.WithProtoJSON())
			}},
			{"gRPC", func(c *http.Client) durable.Conn {
				return durableconnect.New(c, "http://bubble", connecthttp.WithGRPC())
			}},
		} {
			t.Run(way.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &faulty{store: memkv.New(memkv.Options{}), lab: &lab.Lab{Options: opts}, way: way.conn}
					f.start(t)
					fn(t, f)
				})
			})
		}
	})
}

// start starts a server on the store and connects to it.
func (f *faulty) start(t *testing.T) {
	t.Helper()
	databases := sqlitedb.New(sqlitedb.Options{})
	t.Cleanup(func() { _ = databases.Close() })
	srv, err := server.New(t.Context(), f.store, server.WithSQL(databases))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close(context.Background()) }) // fails where the test took the store away
	if err := f.lab.Register(srv); err != nil {
		t.Fatal(err)
	}
	f.srv, f.conn = srv, srv.Conn()
	if f.way != nil {
		f.conn = f.way(f.serve(t))
	}
}

// serve serves f over pipes and returns a client that speaks HTTP/2.
func (f *faulty) serve(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: f.srv.Handler(), Protocols: protocols}
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			return ours, nil
		},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = web.Close()
		serving.Wait()
	})
	return &http.Client{Transport: transport}
}

func (f *faulty) recorder(name string) labv1durable.RecorderStub {
	return labv1durable.NewRecorderClient(f.conn).GetByName(name)
}

func (f *faulty) counter(name string) labv1durable.CounterStub {
	return labv1durable.NewCounterClient(f.conn).GetByName(name)
}

func (f *faulty) kv(t *testing.T, name string) kvObject {
	return kvObject{t, labv1durable.NewKVLabClient(f.conn).GetByName(name)}
}

// A pipes is a listener of connections within the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// A going is a call under way.
type going[R any] struct {
	done chan struct{}
	res  R
	err  error
}

func begin[R any](fn func() (R, error)) *going[R] {
	g := &going[R]{done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.res, g.err = fn()
	}()
	return g
}

// over reports whether the call has returned, once everything else is idle.
func (g *going[R]) over() bool {
	synctest.Wait()
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// labClient calls a server in process.
func labClient(srv *server.Server) labv1durable.RecorderClient {
	return labv1durable.NewRecorderClient(srv.Conn())
}

func errorInfo(err error) *durablev1.ErrorInfo { return durableconnect.ErrorInfo(err) }
