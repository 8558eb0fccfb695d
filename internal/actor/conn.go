package actor

import (
	"cmp"
	"crypto/rand"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	durable "github.com/durable-go/durable"
)

// A conn is an open connection. It belongs to the entry of its object, and
// outlives activations.
type conn struct {
	o      *object
	group  *methodConns
	id     string
	number uint64 // grows in the order in which connections are accepted
	opened time.Time
	// peer is the network end; nil while a client that may come back is away.
	peer   atomic.Pointer[peer]
	autoAt atomic.Int64 // time of the last auto-response, in milliseconds; 0: none

	session atomic.Pointer[session] // nil: it ends with its peer
	opening bool                    // Open has not committed; mu of the object guards it
	gone    atomic.Bool             // handlers see it no more

	// Turns that are alone change these; see turnConns.

	tags       []string
	attachment []byte
	closing    bool // the running turn, or one before, closes it
}

// connections are those of one object. The object's lock guards them.
type connections struct {
	methods []*methodConns
	open    int
	held    int // calls of Serve
	number  uint64
	tokens  map[string]*conn // of those that can be resumed; nil before the first
	out     []departure
	// shard is that from which the connections that can be resumed were read; nil:
	// they were not.
	shard   *shardHandle
	timer   int64 // when the timer of these is due, in milliseconds; 0: it is not set
	leaving bool  // a goroutine takes departures
}

// methodConns are the open connections of one method, in the order of their
// numbers.
type methodConns struct {
	method *durable.Method
	all    []*conn
	byTag  map[string][]*conn // nil before the first
	auto   atomic.Pointer[autoResponse]
}

// An autoResponse answers req with res.
type autoResponse struct {
	req, res proto.Message
	want     proto.Message // req without its key field
}

// matches reports whether msg is the one to answer, whatever its key field says,
// which the server fills.
func (a *autoResponse) matches(msg proto.Message, key protoreflect.FieldDescriptor) bool {
	if key == nil {
		return proto.Equal(msg, a.want)
	}
	m := msg.ProtoReflect()
	if !m.Has(key) {
		return proto.Equal(msg, a.want)
	}
	value := m.Get(key)
	m.Clear(key)
	defer m.Set(key, value)
	return proto.Equal(msg, a.want)
}

// connGroup returns the connections of a method. The caller holds mu of the object.
func (o *object) connGroup(m *durable.Method) *methodConns {
	if o.conns == nil {
		o.conns = &connections{}
	}
	for _, g := range o.conns.methods {
		if g.method.Procedure == m.Procedure {
			return g
		}
	}
	g := &methodConns{method: m}
	o.conns.methods = append(o.conns.methods, g)
	return g
}

// hasConns reports whether the entry is needed for its connections. The caller
// holds mu.
func (o *object) hasConns() bool { return o.conns != nil && o.conns.open+o.conns.held > 0 }

// connCount returns how many connections the object has.
func (o *object) connCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return 0
	}
	return o.conns.open
}

// addConn makes a connection, for Open, and adds it to those of the object.
func (o *object) addConn(m *durable.Method, end ConnEnd, now time.Time, s *session) (*peer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g := o.connGroup(m)
	if s != nil && o.conns.tokens[s.token] != nil {
		return nil, errTokenTaken
	}
	if limit := o.typ.Limits.MaxConns; o.conns.open >= limit {
		return nil, &durable.OverloadError{Limit: "connections", Max: int64(limit), Actual: int64(o.conns.open)}
	}
	o.conns.number++
	c := &conn{o: o, group: g, id: rand.Text(), number: o.conns.number, opened: now, opening: true}
	c.session.Store(s)
	p := &peer{c: c, end: end}
	c.peer.Store(p)
	g.add(c)
	return p, nil
}

// add adds a connection. The caller holds mu of the object.
func (g *methodConns) add(c *conn) {
	g.all = with(g.all, c)
	c.o.conns.open++
	c.o.host.conns.Add(1)
	c.index()
	if c.session.Load() != nil {
		if c.o.conns.tokens == nil {
			c.o.conns.tokens = map[string]*conn{}
		}
		c.o.conns.tokens[c.session.Load().token] = c
	}
}

// remove takes a connection from those that handlers see, and reports whether it
// was there.
func (c *conn) remove() bool {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	return c.removeLocked()
}

func (c *conn) removeLocked() bool {
	o := c.o
	if c.gone.Swap(true) {
		return false
	}
	c.group.all = without(c.group.all, c)
	o.conns.open--
	o.host.conns.Add(-1)
	c.unindex()
	if s := c.session.Load(); s != nil && o.conns.tokens[s.token] == c {
		delete(o.conns.tokens, s.token)
	}
	return true
}

// with returns conns and c, in order of their numbers. It is one of the last, but
// for others that wait in Open too.
func with(conns []*conn, c *conn) []*conn {
	conns = append(conns, c)
	for i := len(conns) - 1; i > 0 && conns[i-1].number > conns[i].number; i-- {
		conns[i-1], conns[i] = conns[i], conns[i-1]
	}
	return conns
}

// without returns conns without c.
func without(conns []*conn, c *conn) []*conn {
	i, found := slices.BinarySearchFunc(conns, c.number, func(other *conn, n uint64) int {
		return cmp.Compare(other.number, n)
	})
	if !found || conns[i] != c { // those of another host may have the same
		i = slices.Index(conns, c)
	}
	if i < 0 {
		return conns
	}
	return slices.Delete(conns, i, i+1)
}

// retag changes the tags of a connection.
func (c *conn) retag(tags []string) {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	c.unindex()
	c.tags = tags
	c.index()
}

// index adds a connection to those with its tags. The caller holds mu of the
// object.
func (c *conn) index() {
	g := c.group
	for _, tag := range c.tags {
		if g.byTag == nil {
			g.byTag = map[string][]*conn{}
		}
		g.byTag[tag] = with(g.byTag[tag], c)
	}
}

// unindex takes a connection out of those with its tags. The caller holds mu of
// the object.
func (c *conn) unindex() {
	for _, tag := range c.tags {
		if rest := without(c.group.byTag[tag], c); len(rest) > 0 {
			c.group.byTag[tag] = rest
		} else {
			delete(c.group.byTag, tag)
		}
	}
}

// listConns returns the connections of a method that have all of the tags, in the
// order in which they were accepted. Those that wait in Open are left out, but for
// own.
func (o *object) listConns(procedure string, tags []string, own *conn) []*conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return nil
	}
	for _, g := range o.conns.methods {
		if g.method.Procedure != procedure {
			continue
		}
		candidates := g.all
		if len(tags) > 0 {
			candidates = g.byTag[tags[0]]
			tags = tags[1:]
		}
		found := make([]*conn, 0, len(candidates))
		for _, c := range candidates {
			missing := slices.ContainsFunc(tags, func(tag string) bool { return !slices.Contains(c.tags, tag) })
			if !missing && (!c.opening || c == own) {
				found = append(found, c)
			}
		}
		return found
	}
	return nil
}
