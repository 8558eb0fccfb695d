package actor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	recordv1 "github.com/durable-go/durable/gen/durable/record/v1"
	"github.com/durable-go/durable/storage"
)

// The key space of connections that can be resumed.
const spaceConn = 'w'

// The kinds of keys there.
const (
	connRecord  = 's' // then the number of the connection (8): a [recordv1.Connection]
	connMessage = 'm' // then that, and the number of the message (8): the message
)

func connKey(number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceConn, connRecord}, number)
}

func connMessageKey(number, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{spaceConn, connMessage}, number), seq)
}

// connMessages is the range of the messages of a connection from seq on.
func connMessages(number, seq uint64) storage.Range {
	return storage.Range{Lo: connMessageKey(number, seq), Hi: binary.BigEndian.AppendUint64([]byte{spaceConn, connMessage}, number+1)}
}

// A Resume is what a client says that wants to be able to come back, or does.
type Resume struct {
	Token    string // names the connection; a secret of the client
	Received uint64 // how many messages it got
}

// A session is the part of a connection that can be resumed. Turns that are alone
// change it.
type session struct {
	token string
	sent  uint64 // messages
	first uint64 // the oldest one that is kept; sent+1: none
	bytes int64  // of those that are kept
	// sizes has those of the newest messages, as far as they are known.
	sizes []uint32
	lost  time.Time // when the client went away; zero: it is there
}

// newSession returns nil where the client did not ask for one.
func newSession(r *Resume) *session {
	if r == nil {
		return nil
	}
	return &session{token: r.Token, first: 1}
}

// resumes reports whether connections of the type can be resumed.
func (t *Type) resumes() bool {
	return slices.ContainsFunc(t.Methods, func(m durable.Method) bool { return m.Connection != nil && m.Connection.Resume != nil })
}

// A keep is what a turn has the store keep of a connection beside its record.
type keep struct {
	data   []byte // a message; nil: none
	forget bool   // the connection is over: nothing is kept
}

// encodeKept returns a message as it is stored.
func encodeKept(msg *durable.ConnMessage) ([]byte, error) {
	data, err := proto.MarshalOptions{}.MarshalAppend([]byte{}, msg.Message) // not nil when it is empty
	if err != nil {
		return nil, notEncoded(err)
	}
	return data, nil
}

// keeps reports whether the store has to know of something.
func (v *turnConns) keeps() bool {
	return slices.ContainsFunc(v.effects, func(e connEffect) bool { return e.keep != nil })
}

// forgetSession makes the commit of the turn forget a connection.
func (t *turn) forgetSession(c *conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return err
	}
	t.noteConn(connEffect{c: c, keep: &keep{forget: true}})
	return nil
}

// addSessions adds to a batch what the turn did to connections that can be
// resumed, and returns them as they are when it is committed.
func (t *turn) addSessions(b *storage.Batch) (map[*conn]*session, error) {
	if b.Wipe {
		return nil, nil
	}
	var after map[*conn]*session
	type added struct {
		from     uint64
		messages [][]byte
	}
	news := map[*conn]*added{}
	var order []*conn
	for _, e := range t.conns.effects {
		if e.keep == nil || e.c.session.Load() == nil {
			continue
		}
		next := after[e.c]
		if next == nil {
			if after == nil {
				after = map[*conn]*session{}
			}
			next = new(*e.c.session.Load())
			after[e.c], news[e.c] = next, &added{from: next.sent + 1}
			order = append(order, e.c)
		}
		if e.keep.forget {
			next.token = ""
		}
		if e.keep.data != nil {
			next.sent++
			next.bytes += int64(len(e.keep.data))
			next.sizes = append(next.sizes, uint32(len(e.keep.data))) //nolint:gosec // protobuf messages are smaller
			news[e.c].messages = append(news[e.c].messages, e.keep.data)
		}
	}
	for _, c := range order {
		next, add := after[c], news[c]
		if next.token == "" {
			b.Del = append(b.Del, connKey(c.number))
			b.Drop = append(b.Drop, connMessages(c.number, 0))
			continue
		}
		if err := t.prune(c, next, add.from, b); err != nil {
			return nil, err
		}
		for i, data := range add.messages {
			if seq := add.from + uint64(i); seq >= next.first { //nolint:gosec // an index
				b.Put = append(b.Put, storage.Pair{Key: connMessageKey(c.number, seq), Val: data})
			}
		}
		rec := &recordv1.Connection{
			Token: next.token, Procedure: c.group.method.Procedure, Id: c.id, OpenedMs: c.opened.UnixMilli(),
			Tags: c.tags, Attachment: c.attachment, Sent: next.sent, First: next.first, Bytes: next.bytes,
		}
		val, err := proto.Marshal(rec)
		if err != nil {
			return nil, fmt.Errorf("store a connection: %w", err)
		}
		b.Put = append(b.Put, storage.Pair{Key: connKey(c.number), Val: val})
	}
	if len(order) > 0 && t.o.connTimer() == 0 {
		due := t.start.Add(order[0].group.method.Connection.Resume.Window).UnixMilli()
		b.Timers = append(b.Timers, dueTimer(t.o.id, timerConns, due))
	}
	return after, nil
}

// prune lets go of the oldest messages that are too many. Those from own on are
// not stored yet.
func (t *turn) prune(c *conn, s *session, own uint64, b *storage.Batch) error {
	limits := c.group.method.Connection.Resume
	before := s.first
	for n := s.sent + 1 - s.first; n > uint64(limits.MaxMessages) || s.bytes > int64(limits.MaxBytes) && n > 1; n-- { //nolint:gosec // positive
		var size int64
		if known := uint64(len(s.sizes)); n <= known {
			size = int64(s.sizes[known-n])
		} else {
			// Not with the context of the handler, which has returned.
			val, _, err := t.act.shard.Get(context.Background(), t.o.id, connMessageKey(c.number, s.first))
			if err != nil {
				return readFailed("read a message of a connection", err)
			}
			size = int64(len(val))
		}
		s.bytes -= size
		s.first++
	}
	if kept := s.sent + 1 - s.first; uint64(len(s.sizes)) > kept {
		s.sizes = slices.Clone(s.sizes[uint64(len(s.sizes))-kept:])
	}
	if stored := min(s.first, own); stored > before {
		r := connMessages(c.number, before)
		r.Hi = connMessageKey(c.number, stored)
		if stored-before == 1 {
			b.Del = append(b.Del, r.Lo)
		} else {
			b.Drop = append(b.Drop, r)
		}
	}
	return nil
}

// keptSessions takes over what addSessions returned, when it was committed.
func (o *object) keptSessions(b *storage.Batch, after map[*conn]*session) {
	for c, next := range after {
		if next.token != "" {
			c.session.Store(next)
		}
	}
	for _, timer := range b.Timers {
		if timer.Kind == timerConns {
			o.mu.Lock()
			o.conns.timer = millis(timer.Due)
			o.mu.Unlock()
			o.host.alarms.note(o.id, timerConns, millis(timer.Due))
		}
	}
	if b.Wipe {
		o.wipedSessions()
	}
}

// wipedSessions makes the connections that could be resumed end with their peers:
// what was kept of them is gone. Those whose clients are away are over.
func (o *object) wipedSessions() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return
	}
	for _, c := range o.conns.tokens {
		if p := c.peer.Load(); p == nil || p.ending() != nil {
			c.removeLocked()
		}
		c.session.Store(nil)
	}
	o.conns.tokens, o.conns.timer = nil, 0
	o.host.alarms.note(o.id, timerConns, 0)
}

// connTimer returns for when the timer of connections is set; 0: it is not.
func (o *object) connTimer() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return 0
	}
	return o.conns.timer
}

// loadSessions reads the connections that can be resumed, unless that was done.
// Their clients are away. The caller holds a turn that is alone.
func (o *object) loadSessions(ctx context.Context, shard *shardHandle) error {
	if !o.typ.resumes() {
		return nil
	}
	o.mu.Lock()
	loaded := o.conns != nil && o.conns.resumed
	o.mu.Unlock()
	if loaded {
		return nil
	}
	var conns []*conn
	now := time.Now()
	for pair, err := range shard.Scan(ctx, o.id, storage.Range{Lo: []byte{spaceConn, connRecord}, Hi: []byte{spaceConn, connRecord + 1}}) {
		if err != nil {
			return readFailed("load the connections", err)
		}
		rec := new(recordv1.Connection)
		if err := proto.Unmarshal(pair.Val, rec); err != nil || len(pair.Key) != 10 {
			return fmt.Errorf("%w: a connection: %w", storage.ErrCorrupt, err)
		}
		c := &conn{
			o: o, id: rec.GetId(), number: binary.BigEndian.Uint64(pair.Key[2:]), opened: time.UnixMilli(rec.GetOpenedMs()),
			tags: rec.GetTags(), attachment: rec.Attachment,
		}
		c.session.Store(&session{token: rec.GetToken(), sent: rec.GetSent(), first: rec.GetFirst(), bytes: rec.GetBytes(), lost: now})
		for i := range o.typ.Methods {
			if m := &o.typ.Methods[i]; m.Procedure == rec.GetProcedure() && m.Connection != nil && m.Connection.Resume != nil {
				o.mu.Lock()
				c.group = o.connGroup(m)
				o.mu.Unlock()
			}
		}
		if c.group != nil { // otherwise its method is gone, or can be resumed no more
			conns = append(conns, c)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		o.conns = &connections{}
	}
	for _, c := range conns {
		c.group.add(c)
		o.conns.number = max(o.conns.number, c.number)
		o.conns.timer = max(o.conns.timer, 1) // it was set with them
	}
	o.conns.resumed = true
	return nil
}

// unloadSessions forgets the connections that can be resumed, which are stored:
// what is in memory may be ahead of that. The caller holds mu.
func (o *object) unloadSessions() {
	if o.conns == nil || !o.conns.resumed {
		return
	}
	for _, c := range o.conns.tokens {
		c.removeLocked()
	}
	o.conns.resumed = false
}

// errTokenTaken reports that a connection with the token was made meanwhile.
var errTokenTaken = errors.New("another call opens the connection")

// resume gives a connection a new peer, which gets what its client missed. It
// returns nil for a token that is not known and of which nothing was received.
func (o *object) resume(ctx context.Context, call Call, end ConnEnd) (p *peer, err error) {
	var over *conn
	m, err := o.bare(ctx, exclusive, func(t *turn) error {
		if err := o.loadSessions(ctx, t.act.shard); err != nil {
			return err
		}
		o.mu.Lock()
		c := o.conns.tokens[call.Resume.Token]
		o.mu.Unlock()
		switch received := call.Resume.Received; {
		case c == nil && received == 0:
			return nil
		case c == nil || c.closing:
			return fmt.Errorf("%w: it is over, or never was", durable.ErrResumeTooOld)
		case c.group.method.Procedure != call.Method.Procedure:
			return fmt.Errorf("%w: the token is that of a connection of %s", durable.ErrInvalidArgument, c.group.method.Procedure)
		case received > c.session.Load().sent:
			over = c
			return fmt.Errorf("%w: %d messages were sent, and not %d", durable.ErrResumeTooOld, c.session.Load().sent, received)
		case received+1 < c.session.Load().first:
			over = c
			return fmt.Errorf("%w: message %d is not kept any more; the oldest one is %d", durable.ErrResumeTooOld, received+1, c.session.Load().first)
		}
		p, err = t.reconnect(c, end, call.Resume.Received)
		return err
	})
	if over != nil {
		o.closeAway(over, &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the client came back too late", Err: durable.ErrResumeTooOld})
	}
	if err != nil {
		return nil, o.reply(ctx, m, err)
	}
	return p, nil
}

// reconnect makes end the network end of a connection, and sends what was sent
// after the first received messages.
func (t *turn) reconnect(c *conn, end ConnEnd, received uint64) (*peer, error) {
	o, p := t.o, &peer{c: c, end: end}
	items := []departing{{p: p}} // it is accepted
	for pair, err := range t.act.shard.Scan(t.ctx, o.id, connMessages(c.number, received+1)) {
		if err != nil {
			return nil, readFailed("read the messages of a connection", err)
		}
		msg := c.group.method.NewResponse()
		if err := proto.Unmarshal(pair.Val, msg); err != nil {
			return nil, fmt.Errorf("%w: a message of a connection: %w", storage.ErrCorrupt, err)
		}
		f, err := p.encode(&durable.ConnMessage{Message: msg})
		if err != nil {
			return nil, notEncoded(err)
		}
		p.waiting += f.size
		items = append(items, departing{p: p, sized: f})
	}
	p.gated = len(items)
	if old := c.peer.Swap(p); old != nil {
		old.finish(&ending{err: &durable.CloseError{Code: 4010, Reason: "the client resumed the connection elsewhere", Clean: true, Local: true}})
	}
	c.session.Load().lost = time.Time{}
	o.mu.Lock()
	o.hold()
	o.mu.Unlock()
	o.depart(o.now(t.act), items, nil)
	return p, nil
}

// last reports whether the connection ends with this peer, which is gone. If not,
// its client may come back.
func (p *peer) last(ctx context.Context) (last bool) {
	c, o := p.c, p.c.o
	_, err := o.bare(ctx, exclusive, func(*turn) error {
		o.mu.Lock()
		known := o.conns.tokens[c.session.Load().token] == c
		o.mu.Unlock()
		e := p.ending()
		switch {
		case !known || c.peer.Load() != p: // it was loaded anew, or came back
		case c.closing, e == nil, e.refused():
			last = true
		default:
			c.peer.Store(nil)
			c.session.Load().lost = time.Now()
		}
		return nil
	})
	return last && err == nil
}

// refused reports whether the peer broke a rule, so that it has no use in coming
// back.
func (e *ending) refused() bool {
	var closed *durable.CloseError
	if !errors.As(e.err, &closed) || closed.Local && !e.drop {
		return false
	}
	return closed.Code != durable.CloseAbnormal
}

// closeAway ends a connection whose client is away.
func (o *object) closeAway(c *conn, cause error) {
	o.host.retain(o)
	defer o.host.release(o)
	over := false
	_, err := o.bare(context.Background(), exclusive, func(*turn) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		over = c.session.Load() != nil && o.conns.tokens[c.session.Load().token] == c && (c.closing || !c.session.Load().lost.IsZero())
		return nil
	})
	if over && err == nil {
		c.closed(context.Background(), cause)
	}
}

// expireConns ends the connections whose clients were away for too long, and sets
// the timer for the next time.
func (o *object) expireConns(ctx context.Context) error {
	var over []*conn
	each := func(fn func(c *conn, window time.Duration)) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, c := range o.conns.tokens {
			fn(c, c.group.method.Connection.Resume.Window)
		}
	}
	m, err := o.bare(ctx, exclusive, func(t *turn) error {
		if err := o.loadSessions(ctx, t.act.shard); err != nil {
			return err
		}
		each(func(c *conn, window time.Duration) {
			if lost := c.session.Load().lost; !lost.IsZero() && time.Since(lost) >= window {
				over = append(over, c)
			}
		})
		return nil
	})
	if err != nil {
		return o.reply(ctx, m, err)
	}
	slices.SortFunc(over, func(a, b *conn) int { return int(int64(a.number - b.number)) }) //nolint:gosec // small
	for _, c := range over {
		o.closeAway(c, &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the client did not come back"})
	}
	m, err = o.bare(ctx, exclusive, func(t *turn) error {
		var next time.Time
		each(func(c *conn, window time.Duration) {
			due := time.Now().Add(window)
			if !c.session.Load().lost.IsZero() {
				due = c.session.Load().lost.Add(window)
			}
			if next.IsZero() || due.Before(next) {
				next = due
			}
		})
		b := &storage.Batch{Object: o.id, Timers: []storage.Timer{dueTimer(o.id, timerConns, millis(next))}}
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := t.apply(b, false); err != nil {
			return err
		}
		o.keptSessions(b, nil)
		return nil
	})
	return o.reply(ctx, m, err)
}
