package actor

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

const (
	joinProcedure  = "/test.Service/Join"
	otherProcedure = "/test.Service/Other"
)

var errRefused = errors.New("not you")

// connHandlers are what the handlers of connections do; nil: nothing.
type connHandlers struct {
	open    func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error
	message func(ctx context.Context, tx durable.Tx, conn durable.ConnPort, text string) error
	close   func(ctx context.Context, tx durable.Tx, conn durable.ConnPort, cause error) error

	opened, handled, closed atomic.Int32 // calls
}

// method returns a method with these handlers, whose connections can be resumed
// unless resume is nil.
func (c *connHandlers) method(procedure string, resume *durable.ResumeLimits) durable.Method {
	m := joinMethod(&durable.ConnectionMethod{
		Resume: resume,
		Open: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, _ proto.Message) error {
			c.opened.Add(1)
			if c.open == nil {
				return nil
			}
			return c.open(ctx, tx, conn)
		},
		Message: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, req proto.Message) error {
			c.handled.Add(1)
			if c.message == nil {
				return nil
			}
			return c.message(ctx, tx, conn, req.(*wrapperspb.StringValue).GetValue())
		},
		Close: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, cause error) error {
			c.closed.Add(1)
			if c.close == nil {
				return nil
			}
			return c.close(ctx, tx, conn, cause)
		},
	})
	m.Procedure, m.NewResponse = procedure, m.NewRequest
	return *m
}

// plain returns the method Join.
func (c *connHandlers) plain() durable.Method { return c.method(joinProcedure, nil) }

// resumable returns the method Join with connections that can be resumed.
func (c *connHandlers) resumable() durable.Method {
	return c.method(joinProcedure, &durable.ResumeLimits{MaxMessages: 100, MaxBytes: 1 << 20, Window: time.Hour})
}

// A watchedPeer is a testPeer that the test can hold up, and whose end it sees.
type watchedPeer struct {
	*testPeer
	sending  func(text string) error // called before a text is taken; "": the acceptance
	encoding func()                  // called before a message is encoded

	mu       sync.Mutex
	accepted bool
	over     bool
	end      error // what Finish was told
	dropped  bool
}

// Encode implements [ConnEnd].
func (p *watchedPeer) Encode(msg proto.Message) (any, int, error) {
	if p.encoding != nil {
		p.encoding()
	}
	return p.testPeer.Encode(msg)
}

// Send implements [ConnEnd].
func (p *watchedPeer) Send(form any, timeout time.Duration) error {
	text, _ := form.(string)
	if p.sending != nil {
		if err := p.sending(text); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.accepted = p.accepted || form == nil
	p.mu.Unlock()
	return p.testPeer.Send(form, timeout)
}

// Finish implements [ConnEnd].
func (p *watchedPeer) Finish(err error, drop bool) {
	p.mu.Lock()
	p.over, p.end, p.dropped = true, err, drop
	p.mu.Unlock()
	p.testPeer.Finish(err, drop)
}

func (p *watchedPeer) isAccepted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// ended returns what the peer was told at the end.
func (p *watchedPeer) ended() (over bool, err error, dropped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over, p.end, p.dropped
}

// isDone reports whether the call that holds the connection has returned.
func (p *watchedPeer) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// vanishes loses the network, and returns when the server has seen that.
func (p *watchedPeer) vanishes() {
	p.vanish.Do(func() { close(p.gone) })
	<-p.done
}

// A connHost is a host whose objects have connections. Tests use the object "a".
type connHost struct {
	*testHost
	t       *testing.T
	session storage.Session
	peers   []*watchedPeer
	stuck   bool // a lock is held for ever: the host cannot drain
}

// newConnHost returns a host that drains at the end of the test, or of its bubble.
func newConnHost(t *testing.T, session storage.Session, limits durable.Limits, methods ...durable.Method) *connHost {
	t.Helper()
	made := func(context.Context, durable.Tx) (any, error) { return &counter{}, nil }
	return newConnHostMade(t, session, limits, made, methods...)
}

func newConnHostMade(t *testing.T, session storage.Session, limits durable.Limits, made func(context.Context, durable.Tx) (any, error), methods ...durable.Method) *connHost {
	t.Helper()
	db := sqlitedb.New(sqlitedb.Options{})
	host, err := NewHost(context.Background(), storage.Info{MaxBatch: 1 << 20}, session, Options{SQL: db})
	if err != nil {
		t.Fatal(err)
	}
	h := &connHost{testHost: &testHost{Host: host}, t: t, session: session}
	h.typ, err = h.Register(context.Background(), &durable.ObjectType{
		Name: "counter", New: made, Limits: patient(limits).WithDefaults(), Methods: methods,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.stuck {
			return
		}
		for _, p := range h.peers {
			p.vanish.Do(func() { close(p.gone) })
		}
		h.drains()
		_ = db.Close()
	})
	return h
}

// drains drains the host.
func (h *connHost) drains() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Drain(ctx); err != nil {
		h.t.Error(err)
	}
}

// leaves ends the host as a process that stops in an orderly way.
func (h *connHost) leaves() {
	h.t.Helper()
	h.drains()
	if err := h.session.Leave(context.Background()); err != nil {
		h.t.Error(err)
	}
}

// peer returns a peer for [connHost.dial].
func (h *connHost) peer() *watchedPeer {
	p := &watchedPeer{testPeer: newTestPeer()}
	h.peers = append(h.peers, p)
	return p
}

// dial opens a connection of the method with that index, or resumes one.
func (h *connHost) dial(method int, resume *Resume, p *watchedPeer) {
	call := h.call("a", &h.typ.Methods[method])
	call.Resume = resume
	go func() {
		defer close(p.done)
		held, err := h.Connect(context.Background(), call, p, nil)
		if err == nil {
			err = held.Serve(context.Background())
		}
		p.result = err
	}()
}

// join opens or resumes a connection of the first method that is accepted.
func (h *connHost) join(resume *Resume) *watchedPeer {
	h.t.Helper()
	return h.joins(0, resume, h.peer())
}

// joins dials, and returns when the connection was accepted.
func (h *connHost) joins(method int, resume *Resume, p *watchedPeer) *watchedPeer {
	h.t.Helper()
	h.dial(method, resume, p)
	eventually(h.t, "the connection is accepted", func() bool { return p.isAccepted() || p.isDone() })
	if !p.isAccepted() {
		h.t.Fatalf("the connection was refused: %v", p.result)
	}
	return p
}

// tx runs fn in a turn.
func (h *connHost) tx(fn func(ctx context.Context, tx durable.Tx) error) error {
	return h.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error { return fn(ctx, tx) })
}

// does runs fn in a turn that succeeds.
func (h *connHost) does(fn func(ctx context.Context, tx durable.Tx) error) {
	h.t.Helper()
	if err := h.tx(fn); err != nil {
		h.t.Errorf("a turn failed: %v", err)
	}
}

// busy holds a turn until the function it returns is called.
func (h *connHost) busy() (ends func()) {
	in, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		_ = h.tx(func(context.Context, durable.Tx) error { close(in); <-goOn; return nil })
	}()
	<-in
	return func() { close(goOn) }
}

// entry returns the entry of the object.
func (h *connHost) entry() *object {
	sid := storage.ObjectID{Type: h.typ.id, ID: durable.IDFromName("counter", "a")}
	b := h.bucket(sid)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.objects[sid]
}

// queued waits until n calls wait for their turns.
func (h *connHost) queued(o *object, n int) {
	h.t.Helper()
	eventually(h.t, "calls wait for their turns", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.queue.waiting) == n
	})
}

// heldNow returns how many connections are held.
func (h *connHost) heldNow() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.mu.held)
}

// tellAll sends a text on every connection of Join, and returns how many those are.
func tellAll(tx durable.Tx, text string) (n int, err error) {
	msg := &durable.ConnMessage{Message: wrapperspb.String(text)}
	for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
		n++
		err = errors.Join(err, conn.Send(msg))
	}
	return n, err
}

// tells sends a text on every connection of Join, which are n.
func (h *connHost) tells(text string, n int) {
	h.t.Helper()
	h.does(func(_ context.Context, tx durable.Tx) error {
		got, err := tellAll(tx, text)
		if got != n {
			h.t.Errorf("%d connections are listed, want %d", got, n)
		}
		return err
	})
}

// got checks the texts that a peer received.
func (p *watchedPeer) got(t *testing.T, want ...string) {
	t.Helper()
	if got := p.received(); !slices.Equal(got, want) {
		t.Errorf("the peer received %q, want %q", got, want)
	}
}

// bubble runs a test in virtual time on an empty store.
func bubble(t *testing.T, fn func(t *testing.T, store *memkv.Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, memkv.New(memkv.Options{})) })
}

// WS-07, WS-12: a connection that was not accepted is not listed, gets no
// broadcast, and nothing of it is sent when Open refuses.
func TestConnNotAccepted(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		goOn := make(chan struct{})
		handlers := &connHandlers{open: func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error {
			if err := sendText(conn, "welcome"); err != nil {
				return err
			}
			return errors.Join(tx.Await(ctx, func(context.Context) error { <-goOn; return nil }), errRefused)
		}}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.plain())
		p := h.peer()
		h.dial(0, nil, p)
		synctest.Wait() // Open waits outside of its turn
		h.tells("for members only", 0)
		close(goOn)
		<-p.done
		if !errors.Is(p.result, errRefused) {
			t.Errorf("the connection ended with %v, want what Open returned", p.result)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if slices.Contains(p.received(), "for members only") || p.accepted {
			t.Errorf("a refused peer was accepted (%t), or received %q", p.accepted, p.received())
		}
		if got := h.Connections(); got != 0 {
			t.Errorf("%d connections are open after the refusal", got)
		}
	})
}

// LIFE-14: a connection that could not be opened or resumed is held by nobody, so
// that a drain ends.
func TestConnHeldReturnsToZero(t *testing.T) {
	opening := func(handlers *connHandlers, during func(h *connHost)) func(*connHost, *memkv.Store) *watchedPeer {
		return func(h *connHost, _ *memkv.Store) *watchedPeer {
			in, goOn := make(chan struct{}), make(chan struct{})
			handlers.open = func(context.Context, durable.Tx, durable.ConnPort) error { close(in); <-goOn; return nil }
			p := h.peer()
			h.dial(1, nil, p)
			<-in
			during(h)
			close(goOn)
			return p
		}
	}
	handlers := func(open func(ctx context.Context, tx durable.Tx, conn durable.ConnPort) error) *connHandlers {
		return &connHandlers{open: open}
	}
	aborted := &connHandlers{}
	for name, c := range map[string]struct {
		handlers *connHandlers
		dial     func(h *connHost, store *memkv.Store) *watchedPeer // nil: plainly
	}{
		"Open refuses": {handlers: handlers(func(context.Context, durable.Tx, durable.ConnPort) error { return errRefused })},
		"Open panics":  {handlers: handlers(func(context.Context, durable.Tx, durable.ConnPort) error { panic("open") })},
		"reset while Open runs": {aborted, opening(aborted, func(h *connHost) {
			_, _ = h.Abort(context.Background(), h.typ, durable.IDFromName("counter", "a"), "test")
		})},
		"the commit of Open fails": {
			handlers(func(ctx context.Context, tx durable.Tx, _ durable.ConnPort) error {
				return tx.KV().Put(ctx, "k", []byte("v"))
			}),
			func(h *connHost, store *memkv.Store) *watchedPeer {
				store.Fill(true)
				defer store.Fill(false)
				p := h.peer()
				h.dial(1, nil, p)
				<-p.done
				return p
			},
		},
		"what it resumes is not known": {&connHandlers{}, func(h *connHost, _ *memkv.Store) *watchedPeer {
			p := h.peer()
			h.dial(0, &Resume{Token: "unknown", Received: 5}, p)
			return p
		}},
		"reset while it resumes": {
			handlers(func(_ context.Context, _ durable.Tx, conn durable.ConnPort) error { return sendText(conn, "1") }),
			func(h *connHost, _ *memkv.Store) *watchedPeer {
				h.join(&Resume{Token: "alice"}).vanishes()
				p := h.peer()
				p.encoding = func() { _, _ = h.Abort(context.Background(), h.typ, durable.IDFromName("counter", "a"), "test") }
				h.dial(0, &Resume{Token: "alice"}, p)
				return p
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, store *memkv.Store) {
				h := newConnHost(t, join(t, store), durable.Limits{},
					c.handlers.resumable(), c.handlers.method(otherProcedure, nil))
				var p *watchedPeer
				if c.dial != nil {
					p = c.dial(h, store)
				} else {
					p = h.peer()
					h.dial(1, nil, p)
				}
				<-p.done
				if p.result == nil {
					t.Error("the connection was opened")
				}
				synctest.Wait()
				if got := h.heldNow(); got != 0 {
					t.Errorf("%d connections are held, and none is served", got)
				}
				h.drains()
			})
		})
	}
}

// WISH-08: when a send fails nothing behind it is sent, not even where the
// connection is to close after it: the peer is dropped, with no hole in what it got.
func TestConnFailedSendLeavesNoHole(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		handlers := &connHandlers{message: func(_ context.Context, _ durable.Tx, conn durable.ConnPort, _ string) error {
			return errors.Join(sendText(conn, "1"), sendText(conn, "2"), sendText(conn, "3"), conn.Close(1000, "bye"))
		}}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.plain())
		p := h.peer()
		goOn := make(chan struct{})
		p.sending = func(text string) error {
			switch text {
			case "":
				<-goOn // so that the rest waits together
			case "2":
				return durable.ErrSlowPeer
			}
			return nil
		}
		h.dial(0, nil, p)
		synctest.Wait()
		p.say("go")
		synctest.Wait()
		close(goOn)
		<-p.done
		p.got(t, "1")
		if _, err, dropped := p.ended(); !dropped {
			t.Errorf("the peer missed a message, and was told %v as if it had got all", err)
		}
	})
}

// resolve makes the commit with that index durable, or fails it, once it was made.
func (s *manualSession) resolve(t *testing.T, i int, err error) {
	t.Helper()
	pending := func() (p *storage.Pending) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i < len(s.mu.pending) {
			p = s.mu.pending[i]
		}
		return p
	}
	eventually(t, "a commit is made", func() bool { return pending() != nil })
	pending().Resolve(err)
}

// WS-39, GATE-17: what a peer is told of an end leaves after the commit that it
// follows, and not at all when that fails.
func TestConnEndWaitsForCommit(t *testing.T) {
	disk := errors.New("the disk is gone")
	t.Run("a close", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			session := &manualSession{Session: join(t, store)}
			handlers := &connHandlers{message: func(ctx context.Context, tx durable.Tx, conn durable.ConnPort, _ string) error {
				return errors.Join(tx.KV().Put(ctx, "winner", []byte("you")), conn.Close(3001, "you won"))
			}}
			h := newConnHost(t, session, durable.Limits{}, handlers.plain())
			p := h.join(nil)
			p.say("go")
			synctest.Wait()
			if over, err, _ := p.ended(); over {
				t.Errorf("the peer was told %v before the commit", err)
			}
			session.resolve(t, 0, disk)
			<-p.done
			var closed *durable.CloseError
			if _, err, _ := p.ended(); errors.As(err, &closed) && closed.Code == 3001 {
				t.Errorf("the commit failed, and the peer was told %v", err)
			}
		})
	})
	t.Run("a deletion", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			session := &manualSession{Session: join(t, store)}
			h := newConnHost(t, session, durable.Limits{}, new(connHandlers).plain())
			p := h.join(nil)
			go func() {
				_ = h.tx(func(ctx context.Context, tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) })
			}()
			session.resolve(t, 0, nil)
			synctest.Wait()
			deleted := make(chan struct{})
			go func() {
				defer close(deleted)
				_, _ = h.Delete(context.Background(), h.typ, durable.IDFromName("counter", "a"))
			}()
			synctest.Wait()
			if over, err, _ := p.ended(); over {
				t.Errorf("the peer was told %v, and the deletion is not durable", err)
			}
			session.resolve(t, 1, disk)
			<-deleted
		})
	})
}

// WS-28, WS-30: an auto-response is in force from the commit on that sets it.
func TestConnAutoResponseWaitsForCommit(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).plain())
		p := h.join(nil)
		set := func(result error) error {
			return h.tx(func(_ context.Context, tx durable.Tx) error {
				err := tx.ConnsPort().SetAutoResponse(joinProcedure, wrapperspb.String("ping"), wrapperspb.String("pong"))
				p.say("ping")
				synctest.Wait()
				p.got(t)
				return errors.Join(err, result)
			})
		}
		if err := set(errRefused); !errors.Is(err, errRefused) {
			t.Errorf("the turn returned %v", err)
		}
		synctest.Wait()
		p.got(t)
		if err := set(nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		p.say("ping")
		synctest.Wait()
		p.got(t, "pong")
	})
}

// WS-19, WS-20: the handler is told of the end of a connection once, also where
// that met a reset, or a queue in which it waited for too long.
func TestConnCloseHandlerRuns(t *testing.T) {
	for name, meets := range map[string]func(h *connHost){
		"a reset": func(h *connHost) {
			_, _ = h.Abort(context.Background(), h.typ, durable.IDFromName("counter", "a"), "test")
		},
		"a long queue": func(*connHost) { time.Sleep(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, store *memkv.Store) {
				handlers := &connHandlers{}
				h := newConnHost(t, join(t, store), durable.Limits{MaxQueueWait: 50 * time.Millisecond}, handlers.plain(),
					(&connHandlers{}).method(otherProcedure, &durable.ResumeLimits{MaxMessages: 10, MaxBytes: 1000, Window: time.Hour}))
				p, other := h.join(nil), h.joins(1, &Resume{Token: "alice"}, h.peer())
				o := h.entry()
				goOn := h.busy()
				go p.vanishes()
				go other.vanishes()
				h.queued(o, 2)
				meets(h)
				goOn()
				<-p.done
				<-other.done
				synctest.Wait()
				if got := handlers.closed.Load(); got != 1 {
					t.Errorf("Close ran %d times, want once", got)
				}
				h.does(func(context.Context, durable.Tx) error { // so that those are loaded
					o := h.entry()
					o.mu.Lock()
					defer o.mu.Unlock()
					c := o.conns.tokens["alice"]
					if c == nil || c.session.Load().lost.IsZero() {
						t.Error("the connection that can be resumed does not count as away: it never expires")
					}
					return nil
				})
			})
		})
	}
}

// WS-23: a handler that ends its goroutine ends the connection, which nobody would
// serve, and leaves nothing of it.
func TestConnGoexit(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		handlers := &connHandlers{message: func(context.Context, durable.Tx, durable.ConnPort, string) error { runtime.Goexit(); return nil }}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.plain())
		p := h.join(nil)
		p.say("go")
		<-p.done
		synctest.Wait()
		if open, held := h.Connections(), h.heldNow(); open != 0 || held != 0 {
			t.Errorf("%d connections are open, %d are held, want none", open, held)
		}
		if over, _, _ := p.ended(); !over {
			t.Error("the peer was not told")
		}
	})
}

// GATE-17: a turn whose message left at a commit point, and then failed, had
// effects: the call must not count as never started.
func TestConnSendCountsAsEffect(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).plain())
		p := h.join(nil)
		err := h.tx(func(ctx context.Context, tx durable.Tx) error {
			_, err := tellAll(tx, "x")
			return errors.Join(err, tx.Sync(ctx), durable.ErrNotOwner)
		})
		synctest.Wait()
		p.got(t, "x")
		if !HadEffects(err) {
			t.Errorf("a message left, and %v counts as a call that never started", err)
		}
	})
}

// WS-28: a turn that was cut off leaves nothing of what it did to connections, and
// undoes nothing when its handler returns at last.
func TestConnCutOffTurn(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		in, goOn := make(chan struct{}), make(chan struct{})
		handlers := &connHandlers{message: func(_ context.Context, _ durable.Tx, conn durable.ConnPort, _ string) error {
			err := errors.Join(conn.SetAttachment(wrapperspb.String("never committed")), conn.Close(3000, "never committed"))
			close(in)
			<-goOn
			return err
		}}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
		p := h.join(&Resume{Token: "alice"})
		p.say("go")
		<-in
		_, _ = h.Abort(context.Background(), h.typ, durable.IDFromName("counter", "a"), "test")
		synctest.Wait()
		is := func(want string) {
			t.Helper()
			h.does(func(_ context.Context, tx durable.Tx) error {
				n := 0
				for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
					n++
					if got := attached(t, conn); got != want {
						t.Errorf("the attachment is %q, want %q", got, want)
					}
				}
				if n != 1 {
					t.Errorf("%d connections are listed, want the one that nobody closed", n)
				}
				return nil
			})
		}
		is("")
		h.does(func(_ context.Context, tx durable.Tx) (err error) {
			for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
				err = errors.Join(err, conn.SetAttachment(wrapperspb.String("committed later")))
			}
			return err
		})
		close(goOn)
		<-p.done
		synctest.Wait()
		is("committed later")
	})
}

// WS-41: what a constructor did to connections that ran out of time is undone: they
// are listed, open, and nothing is reserved.
func TestConnConstructorTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		var slow atomic.Bool
		goOn := make(chan struct{})
		made := func(_ context.Context, tx durable.Tx) (any, error) {
			if slow.Load() {
				for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
					_ = errors.Join(sendText(conn, "0123456789"), conn.Close(3000, "not committed"))
				}
				<-goOn
			}
			return &counter{}, nil
		}
		h := newConnHostMade(t, join(t, store), durable.Limits{ConstructorTimeout: 50 * time.Millisecond}, made, new(connHandlers).plain())
		p := h.join(nil)
		c := h.entry().conns.methods[0].all[0]
		_, _ = h.Evict(context.Background(), h.typ, durable.IDFromName("counter", "a"))
		slow.Store(true)
		if err := h.tx(func(context.Context, durable.Tx) error { return nil }); err == nil {
			t.Error("a call succeeded without a constructor")
		}
		slow.Store(false)
		if end := c.peer.Load().ending(); end == nil { // as long as it is open it works
			h.tells("hello", 1)
			synctest.Wait()
			p.got(t, "hello")
		} else if over, _, _ := p.ended(); !over {
			t.Error("the connection has ended, and the peer was not told")
		}
		close(goOn)
	})
}

// WS-16, WS-46: a peer may send on before it takes the answer to what it sent.
func TestConnPipelined(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		second := make(chan struct{})
		handlers := &connHandlers{message: func(_ context.Context, _ durable.Tx, conn durable.ConnPort, text string) error {
			if text == "2" {
				close(second)
			}
			return sendText(conn, "re "+text)
		}}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.plain())
		p := h.peer()
		p.sending = func(text string) error {
			if text != "re 1" {
				return nil
			}
			select { // as a peer that reads after its second message
			case <-second:
				return nil
			case <-time.After(time.Minute):
				return durable.ErrSlowPeer
			}
		}
		h.joins(0, nil, p)
		p.say("1")
		p.say("2")
		synctest.Wait()
		p.got(t, "re 1", "re 2")
	})
}
