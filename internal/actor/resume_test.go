package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// alice is a client that received so many messages.
func alice(received uint64) *Resume { return &Resume{Token: "alice", Received: received} }

// stored returns how many pairs of a kind the store has of connections.
func (h *connHost) stored(kind byte) (n int) {
	h.t.Helper()
	id := storage.ObjectID{Type: h.typ.id, ID: durable.IDFromName("counter", "a")}
	shard, err := h.shard(context.Background(), id.Shard())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, err := range shard.Scan(context.Background(), id, connKeys(kind)) {
		if err != nil {
			h.t.Fatal(err)
		}
		n++
	}
	return n
}

// timer returns for when the timer of connections is stored; zero: it is not.
func (h *connHost) timer() (due time.Time) {
	h.t.Helper()
	for timer, err := range h.session.Timers(context.Background(), time.Now().AddDate(1, 0, 0)) {
		if err != nil {
			h.t.Fatal(err)
		}
		if timer.Kind == timerConns {
			due = timer.Due
		}
	}
	return due
}

// losesShard makes the shard of the object one that another host has.
func (h *connHost) losesShard() {
	close(h.shards[h.entry().shardID].shard.Load().Shard.(*losingShard).done)
}

// A client that vanishes while a turn deletes everything does not keep the lock of
// the object. In real time, since a bubble waits for a lock for ever.
func TestResumeVanishesDuringDeleteAll(t *testing.T) {
	h := newConnHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, new(connHandlers).resumable())
	p := h.join(alice(0))
	o := h.entry()
	locks := make(chan struct{})
	go func() {
		defer close(locks)
		h.does(func(ctx context.Context, tx durable.Tx) error {
			p.vanish.Do(func() { close(p.gone) })
			h.queued(o, 1) // the end of the connection
			return tx.DeleteAll(ctx)
		})
		<-p.done
		time.Sleep(10 * time.Millisecond) // its end has its turn
		o.mu.Lock()
		defer o.mu.Unlock()
	}()
	select {
	case <-locks:
	case <-time.After(10 * time.Second):
		h.stuck = true
		t.Fatal("the lock of the object is held for ever")
	}
	eventually(t, "the connection is over", func() bool { return h.Connections() == 0 })
}

// WS-12: a second call with the token while Open runs, or waits outside of its
// turn, does not get past an Open that refuses.
func TestResumeWhileOpening(t *testing.T) {
	for name, waits := range map[string]func(ctx context.Context, tx durable.Tx, goOn chan struct{}) error{
		"Open runs": func(_ context.Context, _ durable.Tx, goOn chan struct{}) error { <-goOn; return nil },
		"Open awaits": func(ctx context.Context, tx durable.Tx, goOn chan struct{}) error {
			return tx.Await(ctx, func(context.Context) error { <-goOn; return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, store *memkv.Store) {
				goOn := make(chan struct{})
				handlers := &connHandlers{}
				handlers.open = func(ctx context.Context, tx durable.Tx, _ durable.ConnPort) error {
					if handlers.opened.Load() == 1 {
						return errors.Join(waits(ctx, tx, goOn), errRefused)
					}
					return errRefused
				}
				h := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
				first, second := h.peer(), h.peer()
				h.dial(0, alice(0), first)
				synctest.Wait()
				h.dial(0, alice(0), second)
				synctest.Wait()
				if name == "Open awaits" && !second.isDone() {
					t.Error("the second call waits for the Open of another, and is not refused")
				}
				close(goOn)
				synctest.Wait()
				if !second.isDone() {
					second.say("let me in")
					synctest.Wait()
				}
				if n := handlers.handled.Load(); n > 0 || second.isAccepted() || !second.isDone() {
					t.Errorf("a client that Open refused is connected (accepted %t), and sent %d messages", second.isAccepted(), n)
				}
				if !errors.Is(first.result, errRefused) {
					t.Errorf("the first call ended with %v, want what Open returned", first.result)
				}
				for _, kind := range []byte{connRecord, connCount, connMessage} {
					if n := h.stored(kind); n > 0 {
						t.Errorf("%d pairs of kind %c are stored of a refused connection", n, kind)
					}
				}
			})
		})
	}
}

// LIFE-04: a refused Open with a token makes no object.
func TestResumeRefusedMakesNoObject(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		handlers := &connHandlers{open: func(context.Context, durable.Tx, durable.ConnPort) error { return errRefused }}
		h := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
		p := h.peer()
		h.dial(0, alice(0), p)
		<-p.done
		described, err := h.Describe(context.Background(), h.typ, durable.IDFromName("counter", "a"))
		if described.Exists {
			t.Errorf("the object exists after a refused Open (%v)", err)
		}
	})
}

// WISH-08: after the loss of a shard a connection is read anew. What was in memory
// handles nothing, its peer is closed, and a client that comes back gets what
// turns sent that committed.
func TestResumeAfterLoss(t *testing.T) {
	for name, c := range map[string]struct {
		loses   func(h *connHost, s *losingSession)
		handled int32
	}{
		"while the object was idle": {func(h *connHost, _ *losingSession) { h.losesShard() }, 0},
		"with the commit":           {func(_ *connHost, s *losingSession) { s.arm() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, store *memkv.Store) {
				session := &losingSession{Session: join(t, store)}
				handlers := &connHandlers{message: func(_ context.Context, _ durable.Tx, conn durable.ConnPort, text string) error {
					return sendText(conn, "re "+text)
				}}
				h := newConnHost(t, session, durable.Limits{}, handlers.resumable())
				stale := h.join(alice(0))
				c.loses(h, session)
				stale.say("1")
				synctest.Wait() // the loss is known
				if !stale.isDone() {
					stale.say("2")
				}
				<-stale.done
				stale.got(t)
				if n := handlers.handled.Load(); n != c.handled {
					t.Errorf("%d messages were handled, want %d: the connection in memory is not the one in the store", n, c.handled)
				}
				time.Sleep(2 * reclaimPause)
				h.tells("all", 1)
				p := h.join(alice(0))
				synctest.Wait()
				p.got(t, "all")
				if n := h.stored(connMessage); n != 1 {
					t.Errorf("%d messages are stored, want the one that was sent", n)
				}
			})
		})
	}
}

// WISH-08: a shard goes to another host while the object is asleep, and comes back:
// the client gets what both sent.
func TestResumeShardMovesAndReturns(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		session := &losingSession{Session: join(t, store)}
		h := newConnHost(t, session, durable.Limits{}, new(connHandlers).resumable())
		first := h.join(alice(0))
		_, _ = h.Evict(context.Background(), h.typ, durable.IDFromName("counter", "a"))
		h.losesShard()
		synctest.Wait()
		other := newConnHost(t, session, durable.Limits{}, new(connHandlers).resumable())
		other.tells("from the other", 1)
		other.drains()
		time.Sleep(2 * reclaimPause)
		h.tells("from the first", 1)
		synctest.Wait()
		first.got(t)
		if n := h.stored(connMessage); n != 2 {
			t.Errorf("%d messages are stored, want both", n)
		}
		p := h.join(alice(0))
		synctest.Wait()
		p.got(t, "from the other", "from the first")
	})
}

// WISH-08: what a turn sends while the host drains is kept for clients that come
// back.
func TestResumeDrainKeepsMessages(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).resumable())
		p := h.join(alice(0))
		in, goOn, left := make(chan struct{}), make(chan struct{}), make(chan error)
		go func() {
			left <- h.tx(func(_ context.Context, tx durable.Tx) error {
				close(in)
				<-goOn
				if n, err := tellAll(tx, "missed"); n != 1 || err != nil {
					t.Errorf("a turn during the drain sent to %d connections, %v; want the one whose client comes back", n, err)
				}
				return nil
			})
		}()
		<-in
		drained := make(chan struct{})
		go func() { defer close(drained); h.drains() }()
		<-p.done
		close(goOn)
		if err := <-left; err != nil {
			t.Errorf("the turn failed: %v", err)
		}
		<-drained
		h.leaves()
		next := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).resumable())
		back := next.join(alice(0))
		synctest.Wait()
		back.got(t, "missed")
	})
}

// WS-19: a connection ends while its client comes back. Either the end is first,
// and the client gets a new connection, or the client is; a peer that was accepted
// is listed. In real time, since the test holds a lock.
func TestResumeMeetsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		window time.Duration
		ends   func(h *connHost, p *watchedPeer) (over <-chan struct{})
		away   bool
	}{
		"its client was away for too long": {away: true, ends: func(h *connHost, _ *watchedPeer) <-chan struct{} {
			over := make(chan struct{})
			o := h.entry()
			o.mu.Lock()
			c := o.conns.tokens["alice"]
			o.mu.Unlock()
			go func() {
				defer close(over)
				o.closeAway(c, &durable.CloseError{Code: durable.CloseAbnormal})
			}()
			return over
		}},
		"its client closed it": {ends: func(_ *connHost, p *watchedPeer) <-chan struct{} {
			close(p.requests)
			return p.done
		}},
	} {
		t.Run(name, func(t *testing.T) {
			handlers := &connHandlers{}
			h := newConnHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, handlers.resumable())
			p := h.join(alice(0))
			o := h.entry()
			if c.away {
				p.vanishes()
				eventually(t, "the client is away", func() bool {
					o.mu.Lock()
					defer o.mu.Unlock()
					return o.conns.held == 0
				})
			}
			goOn := h.busy()
			over := c.ends(h, p)
			h.queued(o, 1)
			back := h.peer()
			h.dial(0, alice(0), back)
			h.queued(o, 2)
			b := h.bucket(o.id)
			b.mu.Lock() // holds the end up behind its turn, as the scheduler may
			goOn()
			eventually(t, "both had their turns", func() bool {
				o.mu.Lock()
				defer o.mu.Unlock()
				return len(o.queue.waiting) == 0
			})
			time.Sleep(5 * time.Millisecond) // the turn of the second, which waits for nothing
			b.mu.Unlock()
			<-over
			eventually(t, "the client is back", func() bool { return back.isAccepted() || back.isDone() })
			if back.isDone() {
				t.Fatalf("the client was refused: %v", back.result)
			}
			eventually(t, "the handler was told", func() bool { return handlers.closed.Load() > 0 || handlers.opened.Load() == 1 })
			if opened, closed := handlers.opened.Load(), handlers.closed.Load(); opened != closed+1 {
				t.Errorf("Open ran %d times, Close %d times, and the client is connected", opened, closed)
			}
			h.tells("hello", 1)
			eventually(t, "the client gets what is sent to all", func() bool { return len(back.received()) == 1 })
		})
	}
}

// WS-07, WS-19: a connection whose Close handler ran is not in the store any more,
// whatever a handler that had it before does with it, and Close runs once.
func TestResumeEndedStaysEnded(t *testing.T) {
	for name, c := range map[string]struct {
		close func(ctx context.Context, tx durable.Tx, conn durable.ConnPort, _ error) error
		turn  func(h *connHost, p *watchedPeer) // nil: the client closes
	}{
		"a turn that awaited sends": {turn: func(h *connHost, p *watchedPeer) {
			h.does(func(ctx context.Context, tx durable.Tx) error {
				for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
					err := tx.Await(ctx, func(context.Context) error {
						close(p.requests)
						<-p.done
						return nil
					})
					if err != nil {
						return err
					}
					if err := sendText(conn, "late"); !errors.Is(err, durable.ErrConnClosed) {
						h.t.Errorf("a send on a connection that has ended returned %v, want ErrConnClosed", err)
					}
					if err := conn.SetAttachment(wrapperspb.String("late")); !errors.Is(err, durable.ErrConnClosed) {
						h.t.Errorf("an attachment on a connection that has ended returned %v, want ErrConnClosed", err)
					}
				}
				return nil
			})
		}},
		"Close awaits and attaches": {close: func(ctx context.Context, tx durable.Tx, conn durable.ConnPort, _ error) error {
			return errors.Join(tx.Await(ctx, func(context.Context) error { return nil }), conn.SetAttachment(wrapperspb.String("bye")))
		}},
		"Close fails":  {close: func(context.Context, durable.Tx, durable.ConnPort, error) error { return errRefused }},
		"Close panics": {close: func(context.Context, durable.Tx, durable.ConnPort, error) error { panic("close") }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, store *memkv.Store) {
				handlers := &connHandlers{close: c.close}
				h := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
				p := h.join(alice(0))
				if c.turn != nil {
					c.turn(h, p)
				} else {
					close(p.requests)
					<-p.done
				}
				h.leaves()
				next := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
				next.tells("anyone?", 0)
				for _, kind := range []byte{connRecord, connCount, connMessage} {
					if n := next.stored(kind); n > 0 {
						t.Errorf("%d pairs of kind %c are stored of a connection that has ended", n, kind)
					}
				}
				if n := handlers.closed.Load(); n != 1 {
					t.Errorf("Close ran %d times, want once", n)
				}
			})
		})
	}
}

// WS-39, WISH-08: a close that committed is stored with its turn: a client whose
// server stopped before it was told does not come back.
func TestResumeCloseIsStored(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).resumable())
		p := h.peer()
		slow := make(chan struct{})
		p.sending = func(text string) error {
			if text != "" {
				<-slow
			}
			return nil
		}
		h.joins(0, alice(0), p)
		h.does(func(_ context.Context, tx durable.Tx) (err error) {
			for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
				err = errors.Join(sendText(conn, "you are banned"), conn.Close(3000, "banned"))
			}
			return err
		})
		if err := h.session.Leave(context.Background()); err != nil { // as when the process is killed
			t.Fatal(err)
		}
		next := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).resumable())
		next.tells("anyone?", 0)
		back := next.peer()
		next.dial(0, alice(1), back)
		synctest.Wait()
		if !errors.Is(back.result, durable.ErrResumeTooOld) {
			t.Errorf("a client whose connection was closed comes back: accepted %t, %v, want ErrResumeTooOld", back.isAccepted(), back.result)
		}
		close(slow)
	})
}

// A connection whose method is gone keeps its number: what is stored under it is
// sent to no other client.
func TestResumeNumbersAreNotReused(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		limits := &durable.ResumeLimits{MaxMessages: 100, MaxBytes: 1 << 20, Window: time.Hour}
		secret := &connHandlers{open: func(_ context.Context, _ durable.Tx, conn durable.ConnPort) error {
			return sendText(conn, "secret of alice")
		}}
		h := newConnHost(t, join(t, store), durable.Limits{}, secret.resumable(), secret.method(otherProcedure, limits))
		h.join(alice(0))
		h.leaves()
		next := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).method(otherProcedure, limits))
		mallory := &Resume{Token: "mallory"}
		next.join(mallory).vanishes()
		p := next.join(mallory)
		synctest.Wait()
		p.got(t)
	})
}

// Timers of connections that can be resumed.
func TestResumeTimer(t *testing.T) {
	window := func(d time.Duration) *durable.ResumeLimits {
		return &durable.ResumeLimits{MaxMessages: 100, MaxBytes: 1 << 20, Window: d}
	}
	t.Run("the shortest window counts", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			handlers := &connHandlers{}
			h := newConnHost(t, join(t, store), durable.Limits{},
				handlers.method(joinProcedure, window(24*time.Hour)), handlers.method(otherProcedure, window(time.Minute)))
			h.join(alice(0))
			h.joins(1, &Resume{Token: "bob"}, h.peer())
			if due := time.Until(h.timer()); due > 2*time.Minute {
				t.Errorf("a connection with a window of 1m is looked at in %v", due)
			}
		})
	})
	t.Run("set again after the commit that set it was lost", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			session := &losingSession{Session: join(t, store)}
			handlers := &connHandlers{}
			h := newConnHost(t, session, durable.Limits{}, handlers.resumable(), handlers.method(otherProcedure, nil))
			h.joins(1, nil, h.peer())
			h.does(func(ctx context.Context, tx durable.Tx) error { return tx.KV().Put(ctx, "k", []byte("v")) })
			entry := h.object(h.typ, durable.IDFromName("counter", "a"), "a") // as a call does
			defer h.release(entry)
			session.arm()
			lost := h.peer()
			h.dial(0, alice(0), lost)
			<-lost.done
			time.Sleep(2 * reclaimPause)
			h.join(alice(0))
			if h.stored(connRecord) != 1 || h.timer().IsZero() {
				t.Errorf("%d connections are stored, and the timer is due at %v; want one and a time", h.stored(connRecord), h.timer())
			}
		})
	})
	t.Run("fires for a method that can be resumed no more", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			handlers := &connHandlers{}
			h := newConnHost(t, join(t, store), durable.Limits{}, handlers.resumable())
			h.join(alice(0))
			h.leaves()
			next := newConnHost(t, join(t, store), durable.Limits{}, handlers.plain())
			sid := storage.ObjectID{Type: next.typ.id, ID: durable.IDFromName("counter", "a")}
			next.joins(0, nil, next.peer()) // has the entry made
			if err := next.runTimer(context.Background(), timerKey{sid, timerConns}, false); err != nil {
				t.Errorf("the timer failed: %v", err)
			}
			if due := next.timer(); !due.IsZero() {
				t.Errorf("the timer is due again at %v, for no connection", due)
			}
		})
	})
	t.Run("fires as the host drains", func(t *testing.T) {
		bubble(t, func(t *testing.T, store *memkv.Store) {
			handlers := &connHandlers{}
			h := newConnHost(t, join(t, store), durable.Limits{}, handlers.method(joinProcedure, window(time.Millisecond)))
			h.join(alice(0)).vanishes()
			time.Sleep(time.Second)
			goOn := h.busy()
			o := h.entry()
			fired, drained := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(fired)
				_ = h.runTimer(context.Background(), timerKey{o.id, timerConns}, false)
			}()
			h.queued(o, 1)
			go func() { defer close(drained); h.drains() }()
			synctest.Wait()
			goOn()
			<-fired
			<-drained
			if told, rows := handlers.closed.Load(), h.stored(connRecord); int(told)+rows != 1 {
				t.Errorf("Close ran %d times, and %d connections are stored; want one of both", told, rows)
			}
		})
	})
}

// WS-46: what a client missed may be more than the buffer for a slow peer, and
// does not count as what waits for it.
func TestResumeBacklogOverBuffer(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{MaxConnBuffer: 50}, new(connHandlers).resumable())
		h.join(alice(0)).vanishes()
		var want []string
		tell := func() {
			want = append(want, fmt.Sprintf("%010d", len(want)))
			h.tells(want[len(want)-1], 1)
		}
		for range 10 {
			tell()
		}
		p := h.peer()
		slow := make(chan struct{})
		p.sending = func(string) error { <-slow; return nil }
		h.dial(0, alice(0), p)
		synctest.Wait()
		tell()
		close(slow)
		synctest.Wait()
		p.got(t, want...)
		if over, err, _ := p.ended(); over {
			t.Errorf("the connection has ended: %v", err)
		}
	})
}

// An activation that goes on after another one failed lists the connections: they
// are read again in its turns.
func TestResumeListedAfterFailedGate(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		session := &manualSession{Session: join(t, store)}
		h := newConnHost(t, session, durable.Limits{GateTimeout: 300 * time.Millisecond}, new(connHandlers).resumable())
		p := h.peer()
		h.dial(0, alice(0), p)
		resolve := func() {
			session.mu.Lock()
			defer session.mu.Unlock()
			for _, pending := range session.mu.pending {
				pending.Resolve(nil)
			}
			session.mu.pending = nil
		}
		eventually(t, "the connection is accepted", func() bool { resolve(); return p.isAccepted() })
		p.vanishes()
		var calls sync.WaitGroup
		put := func(result error) {
			calls.Go(func() {
				_ = h.tx(func(ctx context.Context, tx durable.Tx) error {
					return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), result)
				})
			})
			synctest.Wait()
		}
		put(nil)        // its reply waits for the commit
		put(errRefused) // fails after a write
		time.Sleep(250 * time.Millisecond)
		calls.Go(func() { _ = h.tx(func(context.Context, durable.Tx) error { return nil }) }) // another activation
		time.Sleep(150 * time.Millisecond)                                                    // the gate of the first gives up
		resolve()
		n := 0
		err := h.tx(func(_ context.Context, tx durable.Tx) error {
			for range tx.ConnsPort().Conns(joinProcedure, nil) {
				n++
			}
			return nil
		})
		if n != 1 || err != nil {
			t.Errorf("%d connections are listed, %v; want the one whose client is away", n, err)
		}
		resolve()
		calls.Wait()
	})
}

// A countingSession counts the bytes of what is put.
type countingSession struct {
	storage.Session
	bytes atomic.Int64
}

type countingShard struct {
	storage.Shard
	s *countingSession
}

func (s *countingSession) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := s.Session.Claim(ctx, want)
	for i := range got {
		got[i] = countingShard{got[i], s}
	}
	return got, err
}

func (s countingShard) Commit(b *storage.Batch) *storage.Pending {
	for _, pair := range b.Put {
		s.s.bytes.Add(int64(len(pair.Key) + len(pair.Val)))
	}
	return s.Shard.Commit(b)
}

// WS-47: a broadcast writes the message and a count for each connection, and not
// what is attached to them.
func TestResumeBroadcastWritesLittle(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		const peers = 100
		handlers := &connHandlers{open: func(_ context.Context, _ durable.Tx, conn durable.ConnPort) error {
			return conn.SetAttachment(wrapperspb.String(strings.Repeat("x", 16000)))
		}}
		session := &countingSession{Session: join(t, store)}
		h := newConnHost(t, session, durable.Limits{}, handlers.resumable())
		for i := range peers {
			h.join(&Resume{Token: fmt.Sprint("client ", i)})
		}
		session.bytes.Store(0)
		h.tells("x", peers)
		if got := session.bytes.Load(); got == 0 || got > 100*peers {
			t.Errorf("a message of 1 byte to %d connections wrote %d bytes, want at most 100 each", peers, got)
		}
	})
}

// A connection whose client is away ends with DeleteAll: a send on it is refused,
// in the same turn too.
func TestResumeSendAfterDeleteAll(t *testing.T) {
	bubble(t, func(t *testing.T, store *memkv.Store) {
		h := newConnHost(t, join(t, store), durable.Limits{}, new(connHandlers).resumable())
		h.join(alice(0)).vanishes()
		synctest.Wait()
		h.does(func(ctx context.Context, tx durable.Tx) (err error) {
			for conn := range tx.ConnsPort().Conns(joinProcedure, nil) {
				err = errors.Join(err, tx.DeleteAll(ctx), tx.Sync(ctx))
				if sent := sendText(conn, "x"); !errors.Is(sent, durable.ErrConnClosed) {
					t.Errorf("a send after DeleteAll returned %v, want ErrConnClosed", sent)
				}
			}
			return err
		})
	})
}
