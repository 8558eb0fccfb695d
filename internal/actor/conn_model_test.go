package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// A modelConn is what a connection should be.
type modelConn struct {
	peer       int // in the order in which connections were accepted
	attachment string
	received   []string
	closed     durable.CloseCode // by the handler; 0: it has not
	causes     []durable.CloseCode
}

func (c modelConn) clone() modelConn {
	c.received, c.causes = slices.Clone(c.received), slices.Clone(c.causes)
	return c
}

// A connModel is an object with connections, next to the model of it.
type connModel struct {
	t      *testing.T
	h      *testHost
	rng    *rand.Rand
	store  *memkv.Store
	paused bool
	method *durable.Method
	number int  // of the last text
	failed bool // the last script

	conns  []modelConn    // committed
	peers  []*testPeer    // all that there ever were
	ended  []modelConn    // what those should have, that are over
	ids    map[string]int // peers by the ids of their connections
	script func(turn *modelTurn) error
}

// A modelTurn is one turn: what it has done so far, and what of that is settled.
type modelTurn struct {
	*connModel
	ctx   context.Context
	tx    durable.Tx
	conn  durable.ConnPort // of the message; nil in a unary call
	conns []modelConn      // as the turn sees them
}

// TestConnModel: random sends, broadcasts, closes, attachments, errors, panics,
// savepoints, commit points, evictions and calls, against a plain model. Each peer
// has received what the model says after each step, and nothing else.
func TestConnModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := memkv.New(memkv.Options{})
				m := &connModel{t: t, store: store, rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), ids: map[string]int{}}
				m.h = newTestHost(t, join(t, store), durable.Limits{}, nil)
				m.run()
			})
		})
	}
}

const modelProcedure = "/test.Service/Join"

func (m *connModel) run() {
	m.method = joinMethod(&durable.ConnectionMethod{
		Open: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, _ proto.Message) error {
			m.ids[conn.ID()] = len(m.peers) - 1
			turn := m.turn(ctx, tx, conn)
			turn.conns = append(turn.conns, modelConn{peer: len(m.peers) - 1})
			return m.script(turn)
		},
		Message: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, _ proto.Message) error {
			return m.script(m.turn(ctx, tx, conn))
		},
		Close: func(_ context.Context, _ any, _ durable.Tx, conn durable.ConnPort, cause error) error {
			var closed *durable.CloseError
			if !errors.As(cause, &closed) {
				m.t.Errorf("the Close handler was told %v", cause)
				return nil
			}
			i := m.ids[conn.ID()]
			for j := range m.ended {
				if m.ended[j].peer == i {
					m.ended[j].causes = append(m.ended[j].causes, closed.Code)
					return nil
				}
			}
			m.t.Errorf("the Close handler ran for peer %d with %v, which is open", i, cause)
			return nil
		},
	})
	defer m.leave()
	for range 60 {
		m.step()
		synctest.Wait()
		if m.t.Failed() {
			return
		}
		if !m.paused {
			m.compare()
		}
	}
	m.resume()
	for _, p := range m.peers {
		if slices.ContainsFunc(m.conns, func(c modelConn) bool { return m.peers[c.peer] == p }) {
			m.end(p, func() { close(p.requests) }, durable.CloseNormal)
		}
		synctest.Wait()
	}
	m.compare()
	if n := m.h.Connections(); n != 0 {
		m.t.Errorf("%d connections are left", n)
	}
}

// leave takes away the peers that are there after a failure, and what waits.
func (m *connModel) leave() {
	m.resume()
	for _, p := range m.peers {
		select {
		case <-p.done:
		default:
			p.vanish.Do(func() { close(p.gone) })
		}
	}
	synctest.Wait()
}

func (m *connModel) turn(ctx context.Context, tx durable.Tx, conn durable.ConnPort) *modelTurn {
	return &modelTurn{connModel: m, ctx: ctx, tx: tx, conn: conn, conns: cloned(m.conns)}
}

func cloned(conns []modelConn) []modelConn {
	out := make([]modelConn, len(conns))
	for i, c := range conns {
		out[i] = c.clone()
	}
	return out
}

// step does something from outside.
func (m *connModel) step() {
	open := m.open()
	switch n := m.rng.IntN(20); {
	case n < 3 || len(open) == 0:
		if len(m.conns) < 6 {
			m.join()
		}
	case n < 11: // a message
		m.act(func() { m.peers[open[m.rng.IntN(len(open))]].say("go") })
	case n < 14:
		m.act(func() {
			go func() { // the reply may wait for the store
				_ = m.h.update(context.Background(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
					return m.script(m.turn(ctx, tx, nil))
				})
			}()
		})
	case n < 16:
		go func() { _, _ = m.h.Evict(context.Background(), m.h.typ, durable.IDFromName("counter", "a")) }()
	case n < 17:
		if m.paused {
			m.resume()
		} else {
			m.store.Pause()
			m.paused = true
		}
	case n < 18 && !m.paused:
		p := m.peers[open[m.rng.IntN(len(open))]]
		m.end(p, func() { p.vanish.Do(func() { close(p.gone) }) }, durable.CloseAbnormal)
	case n < 19 && !m.paused:
		p := m.peers[open[m.rng.IntN(len(open))]]
		m.end(p, func() { close(p.requests) }, durable.CloseNormal)
	case !m.paused:
		for _, c := range m.conns {
			m.ended = append(m.ended, expect(c, 1011)) // what a host without codes of its own says
		}
		m.conns = nil
		if _, err := m.h.Abort(context.Background(), m.h.typ, durable.IDFromName("counter", "a"), "enough"); err != nil {
			m.t.Errorf("abort: %v", err)
		}
	}
}

func (m *connModel) resume() {
	m.store.Resume()
	m.paused = false
	synctest.Wait()
}

// open returns the peers that may send.
func (m *connModel) open() []int {
	var open []int
	for _, c := range m.conns {
		open = append(open, c.peer)
	}
	return open
}

// expect is c after its end, of which the Close handler is told code.
func expect(c modelConn, code durable.CloseCode) modelConn {
	c.closed, c.causes = code, nil
	return c
}

// end ends a connection from the peer's side.
func (m *connModel) end(p *testPeer, how func(), code durable.CloseCode) {
	i := slices.IndexFunc(m.conns, func(c modelConn) bool { return m.peers[c.peer] == p })
	m.ended = append(m.ended, expect(m.conns[i], code))
	m.conns = slices.Delete(m.conns, i, i+1)
	how()
}

// join opens a connection.
func (m *connModel) join() {
	p := newTestPeer()
	m.peers = append(m.peers, p)
	m.act(func() { m.h.hold("a", m.method, p) })
	if m.failed { // whatever of it was committed
		refused := func(c modelConn) bool { return m.peers[c.peer] == p }
		m.conns, m.ended = slices.DeleteFunc(m.conns, refused), slices.DeleteFunc(m.ended, refused)
	}
}

// act makes a turn run a random script by start, and takes over what the turn
// leaves.
func (m *connModel) act(start func()) {
	ran := false
	m.script = func(turn *modelTurn) (err error) {
		if ran {
			m.t.Error("a script ran twice")
		}
		ran, m.failed = true, true
		turn.list()
		turn.actions(1+m.rng.IntN(6), true)
		switch m.rng.IntN(8) {
		case 0:
			return errTest
		case 1:
			panic("on purpose")
		case 2:
			turn.settle()
			return durable.Keep(errTest)
		}
		turn.settle()
		m.failed = false
		return nil
	}
	start()
	synctest.Wait()
	if !ran {
		m.t.Error("the script did not run")
	}
}

// settle commits what the turn has done so far in the model.
func (turn *modelTurn) settle() {
	m := turn.connModel
	m.conns = m.conns[:0]
	for _, c := range cloned(turn.conns) {
		if c.closed != 0 {
			m.ended = append(m.ended, expect(c, c.closed))
		} else {
			m.conns = append(m.conns, c)
		}
	}
	turn.conns = cloned(m.conns)
}

// list compares the connections that the turn sees with the model.
func (turn *modelTurn) list() {
	var got, want []string
	for conn := range turn.tx.ConnsPort().Conns(modelProcedure, nil) {
		got = append(got, fmt.Sprint(turn.ids[conn.ID()], " ", attached(turn.t, conn)))
	}
	for _, c := range turn.conns {
		if c.closed == 0 {
			want = append(want, fmt.Sprint(c.peer, " ", c.attachment))
		}
	}
	if !slices.Equal(got, want) {
		turn.t.Errorf("a turn sees the connections %q, want %q", got, want)
	}
}

func (turn *modelTurn) text() string {
	turn.number++
	return strconv.Itoa(turn.number)
}

// one returns a connection at random, and its model.
func (turn *modelTurn) one() (durable.ConnPort, *modelConn) {
	var open []durable.ConnPort
	for conn := range turn.tx.ConnsPort().Conns(modelProcedure, nil) {
		open = append(open, conn)
	}
	if len(open) == 0 {
		return nil, nil
	}
	conn := open[turn.rng.IntN(len(open))]
	i := slices.IndexFunc(turn.conns, func(c modelConn) bool { return c.peer == turn.ids[conn.ID()] })
	if i < 0 {
		turn.t.Errorf("a turn sees peer %d, which the model has not", turn.ids[conn.ID()])
		return nil, nil
	}
	return conn, &turn.conns[i]
}

// actions does n things to connections. Commit points are made where outer is
// set, and nothing holds commits up.
func (turn *modelTurn) actions(n int, outer bool) {
	check := func(what string, err error) {
		if err != nil {
			turn.t.Errorf("%s: %v", what, err)
		}
	}
	for range n {
		conn, c := turn.one()
		switch turn.rng.IntN(10) {
		case 0, 1, 2:
			if conn != nil {
				text := turn.text()
				check("send", sendText(conn, text))
				c.received = append(c.received, text)
			}
		case 3:
			text := turn.text()
			for conn := range turn.tx.ConnsPort().Conns(modelProcedure, nil) {
				check("broadcast", sendText(conn, text))
			}
			for i := range turn.conns {
				if turn.conns[i].closed == 0 {
					turn.conns[i].received = append(turn.conns[i].received, text)
				}
			}
		case 4, 5:
			if conn != nil {
				c.attachment = turn.text()
				check("attach", conn.SetAttachment(wrapperspb.String(c.attachment)))
			}
		case 6:
			if conn != nil && turn.rng.IntN(3) == 0 {
				c.closed = durable.CloseCode(3000 + turn.rng.IntN(1000))
				check("close", conn.Close(c.closed, ""))
				if err := sendText(conn, "lost"); !errors.Is(err, durable.ErrConnClosed) {
					turn.t.Errorf("send after Close: %v", err)
				}
			}
		case 7:
			check("put", turn.tx.KV().Put(turn.ctx, "k", []byte(turn.text())))
		case 8:
			before, keep := cloned(turn.conns), turn.rng.IntN(2) == 0
			err := turn.tx.Savepoint(func() error {
				turn.actions(1+turn.rng.IntN(4), false)
				if !keep {
					return errTest
				}
				return nil
			})
			if keep == (err != nil) {
				turn.t.Errorf("savepoint: %v", err)
			}
			if !keep {
				turn.conns = before
			}
			turn.list()
		case 9:
			if outer && !turn.paused && !slices.ContainsFunc(turn.conns, func(c modelConn) bool { return c.closed != 0 }) {
				if turn.rng.IntN(2) == 0 {
					check("sync", turn.tx.Sync(turn.ctx))
				} else {
					check("await", turn.tx.Await(turn.ctx, func(context.Context) error { return nil }))
				}
				turn.settle()
				turn.list()
			}
		}
	}
}

// compare looks at what every peer has received.
func (m *connModel) compare() {
	for _, c := range slices.Concat(m.conns, m.ended) {
		p := m.peers[c.peer]
		if got := p.received(); !slices.Equal(got, c.received) {
			m.t.Errorf("peer %d received %q, want %q", c.peer, got, c.received)
		}
		over := false
		select {
		case <-p.done:
			over = true
		default:
		}
		if over != (c.closed != 0) {
			m.t.Errorf("the connection of peer %d is over: %v (with %v), want %v", c.peer, over, p.result, c.closed != 0)
		}
		if c.closed != 0 && !slices.Equal(c.causes, []durable.CloseCode{c.closed}) {
			m.t.Errorf("the Close handler was told %v of peer %d, want %d once", c.causes, c.peer, c.closed)
		}
	}
}
