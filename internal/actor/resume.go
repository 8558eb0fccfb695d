package actor

import (
	"cmp"
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
	connCount   = 'c' // then the number of the connection (8): a [recordv1.ConnectionCount]
	connMessage = 'm' // then that, and the number of the message (8): the message
	connRecord  = 's' // then the number of the connection: a [recordv1.Connection]
)

func connKey(kind byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceConn, kind}, number)
}

// connKeys is the range of the keys of a kind.
func connKeys(kind byte) storage.Range {
	return storage.Range{Lo: []byte{spaceConn, kind}, Hi: []byte{spaceConn, kind + 1}}
}

func connMessageKey(number, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(connKey(connMessage, number), seq)
}

// connMessages is the range of the messages of a connection from seq on.
func connMessages(number, seq uint64) storage.Range {
	return storage.Range{Lo: connMessageKey(number, seq), Hi: connKey(connMessage, number+1)}
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

// connMethod returns a method with connections, nil where there is none of that
// name.
func (t *Type) connMethod(procedure string) *durable.Method {
	i := slices.IndexFunc(t.Methods, func(m durable.Method) bool { return m.Procedure == procedure && m.Connection != nil })
	if i < 0 {
		return nil
	}
	return &t.Methods[i]
}

// resumes reports whether connections of the type can be resumed.
func (t *Type) resumes() bool {
	return slices.ContainsFunc(t.Methods, func(m durable.Method) bool { return m.Connection != nil && m.Connection.Resume != nil })
}

// A keep is what a turn has the store keep of a connection.
type keep struct {
	data   []byte // a message; nil: none
	record bool   // what handlers see of it
	forget bool   // nothing: the connection is over
}

// encodeKept returns a message as it is kept with a connection: not nil, also where
// it is empty.
func encodeKept(msg proto.Message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend([]byte{}, msg)
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

// A sessionChange is what a turn does to a connection that can be resumed.
type sessionChange struct {
	*session // as it will be
	from     uint64
	messages [][]byte // from that number on
	record   bool
	forget   bool
	accepted bool
}

// addSessions adds to a batch what the turn did to connections that can be
// resumed, and returns them as they are when it is committed.
func (t *turn) addSessions(b *storage.Batch) (map[*conn]*sessionChange, error) {
	if b.Wipe {
		return nil, nil
	}
	var changes map[*conn]*sessionChange
	var order []*conn
	for _, e := range t.conns.effects {
		s := e.c.sessionOf()
		if e.keep == nil || s == nil || e.c.gone.Load() && !e.keep.forget {
			continue
		}
		change := changes[e.c]
		if change == nil {
			if changes == nil {
				changes = map[*conn]*sessionChange{}
			}
			next := *s
			change = &sessionChange{session: &next, from: s.sent + 1}
			changes[e.c] = change
			order = append(order, e.c)
		}
		change.record = change.record || e.keep.record
		change.accepted = change.accepted || e.accepted
		change.forget = change.forget || e.keep.forget
		if e.keep.data != nil {
			change.sent++
			change.bytes += int64(len(e.keep.data))
			change.sizes = append(change.sizes, uint32(len(e.keep.data))) //nolint:gosec // protobuf messages are smaller
			change.messages = append(change.messages, e.keep.data)
		}
	}
	if len(order) == 0 { // as in most turns
		return nil, nil
	}
	due := int64(never)
	for _, c := range order {
		if err := t.addSession(b, c, changes[c]); err != nil {
			return nil, err
		}
		if !changes[c].forget {
			due = min(due, t.start.Add(c.group.method.Connection.Resume.Window).UnixMilli())
		}
	}
	if set := t.o.connTimer(); due < never && (set == 0 || due < set) {
		b.Timers = append(b.Timers, dueTimer(t.o.id, timerConns, due))
	}
	return changes, nil
}

// sessionOf returns the session of the connection of an effect, nil where there is
// none.
func (c *conn) sessionOf() *session {
	if c == nil {
		return nil
	}
	return c.session.Load()
}

// addSession adds one of them.
func (t *turn) addSession(b *storage.Batch, c *conn, change *sessionChange) error {
	if change.forget {
		b.Del = append(b.Del, connKey(connRecord, c.number), connKey(connCount, c.number))
		b.Drop = append(b.Drop, connMessages(c.number, 0))
		return nil
	}
	if err := t.prune(c, change.session, change.from, b); err != nil {
		return err
	}
	for i, data := range change.messages {
		if seq := change.from + uint64(i); seq >= change.first { //nolint:gosec // an index
			b.Put = append(b.Put, storage.Pair{Key: connMessageKey(c.number, seq), Val: data})
		}
	}
	put := func(kind byte, rec proto.Message) error {
		val, err := proto.Marshal(rec)
		if err != nil {
			return fmt.Errorf("store a connection: %w", err)
		}
		b.Put = append(b.Put, storage.Pair{Key: connKey(kind, c.number), Val: val})
		return nil
	}
	if change.record {
		t.o.mu.Lock()
		opening := c.opening && !change.accepted
		t.o.mu.Unlock()
		err := put(connRecord, &recordv1.Connection{
			Token: change.token, Procedure: c.group.method.Procedure, Id: c.id, OpenedMs: c.opened.UnixMilli(),
			Tags: c.tags, Attachment: c.attachment, Opening: opening,
		})
		if err != nil {
			return err
		}
	}
	if len(change.messages) > 0 {
		err := put(connCount, &recordv1.ConnectionCount{Sent: change.sent, First: change.first, Bytes: change.bytes})
		if err != nil {
			return err
		}
	}
	return nil
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
func (o *object) keptSessions(b *storage.Batch, changes map[*conn]*sessionChange) {
	for c, change := range changes {
		if !change.forget {
			c.session.Store(change.session)
			continue
		}
		o.mu.Lock()
		if o.conns.tokens[change.token] == c {
			delete(o.conns.tokens, change.token)
		}
		o.mu.Unlock()
		c.session.Store(nil)
	}
	for _, timer := range b.Timers {
		if timer.Kind == timerConns {
			o.setConnTimer(millis(timer.Due))
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
		if c.peer.Load() == nil {
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

func (o *object) setConnTimer(ms int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns != nil {
		o.conns.timer = ms
	}
}

// loadSessions reads the connections that can be resumed, unless that was done.
// Their clients are away. The caller holds a turn that is alone.
func (o *object) loadSessions(ctx context.Context, shard *shardHandle) error {
	if !o.typ.resumes() {
		return nil
	}
	o.mu.Lock()
	if o.conns == nil {
		o.conns = &connections{}
	}
	loaded := o.conns.shard == shard
	if !loaded {
		o.unloadSessions(durable.ErrNotOwner)
	}
	o.mu.Unlock()
	if loaded {
		return nil
	}
	counts, err := o.readCounts(ctx, shard)
	if err != nil {
		return err
	}
	var conns []*conn
	highest, now := uint64(0), time.Now()
	for pair, err := range shard.Scan(ctx, o.id, connKeys(connRecord)) {
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
		highest = max(highest, c.number)
		s := &session{token: rec.GetToken(), first: 1, lost: now}
		if count := counts[c.number]; count != nil {
			s.sent, s.first, s.bytes = count.GetSent(), count.GetFirst(), count.GetBytes()
		}
		c.session.Store(s)
		m := o.typ.connMethod(rec.GetProcedure())
		if m == nil || m.Connection.Resume == nil || rec.GetOpening() {
			continue // its method is gone, or can be resumed no more, or it was never accepted
		}
		o.mu.Lock()
		c.group = o.connGroup(m)
		o.mu.Unlock()
		conns = append(conns, c)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range conns {
		c.group.add(c)
	}
	o.conns.number = max(o.conns.number, highest)
	o.conns.shard = shard
	return nil
}

// readCounts reads how much was sent on the connections, by their numbers.
func (o *object) readCounts(ctx context.Context, shard *shardHandle) (map[uint64]*recordv1.ConnectionCount, error) {
	counts := map[uint64]*recordv1.ConnectionCount{}
	for pair, err := range shard.Scan(ctx, o.id, connKeys(connCount)) {
		if err != nil {
			return nil, readFailed("load the connections", err)
		}
		rec := new(recordv1.ConnectionCount)
		if err := proto.Unmarshal(pair.Val, rec); err != nil || len(pair.Key) != 10 {
			return nil, fmt.Errorf("%w: the count of a connection: %w", storage.ErrCorrupt, err)
		}
		counts[binary.BigEndian.Uint64(pair.Key[2:])] = rec
	}
	return counts, nil
}

// unloadSessions forgets the connections that can be resumed, which are stored:
// what is in memory may be ahead of that, or behind. Their peers are told err. The
// caller holds mu.
func (o *object) unloadSessions(err error) {
	for _, c := range o.conns.tokens {
		c.removeLocked()
		if p := c.peer.Load(); p != nil {
			p.finish(&ending{err: err})
		}
	}
	o.conns.shard, o.conns.timer = nil, 0
}

// closeAborted is 4000 and the number of the Connect code aborted.
const closeAborted durable.CloseCode = 4010

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
		opening := c != nil && c.opening
		o.mu.Unlock()
		switch received := call.Resume.Received; {
		case c == nil && received == 0:
			return nil
		case opening:
			return &durable.OverloadError{Limit: "calls that open one connection", Max: 1, Actual: 2}
		case c == nil || c.closing:
			return fmt.Errorf("%w: it is over, or never was", durable.ErrResumeTooOld)
		case c.group.method.Procedure != call.Method.Procedure:
			return fmt.Errorf("%w: the token is that of a connection of %s", durable.ErrInvalidArgument, c.group.method.Procedure)
		}
		if err = c.session.Load().keeps(call.Resume.Received); err != nil {
			over = c
			return err
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

// keeps returns an error unless everything after the first received messages is
// kept.
func (s *session) keeps(received uint64) error {
	switch {
	case received > s.sent:
		return fmt.Errorf("%w: %d messages were sent, and not %d", durable.ErrResumeTooOld, s.sent, received)
	case received+1 < s.first:
		return fmt.Errorf("%w: message %d is not kept any more; the oldest one is %d", durable.ErrResumeTooOld, received+1, s.first)
	}
	return nil
}

// reconnect makes end the network end of a connection with the commit of the turn,
// and sends what was sent after the first received messages.
func (t *turn) reconnect(c *conn, end ConnEnd, received uint64) (*peer, error) {
	p, old, s := &peer{c: c, end: end}, c.peer.Load(), c.session.Load()
	lost := s.lost
	effects := []connEffect{{c: c, p: p, accepted: true, undo: func() {
		c.peer.Store(old)
		s.lost = lost
	}}}
	for pair, err := range t.act.shard.Scan(t.ctx, t.o.id, connMessages(c.number, received+1)) {
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
		f.size = 0 // the schema bounds these
		effects = append(effects, connEffect{c: c, p: p, form: f})
	}
	if n := uint64(len(effects) - 1); n != s.sent-received {
		return nil, fmt.Errorf("%w: %d messages of a connection are stored, and not %d", storage.ErrCorrupt, n, s.sent-received)
	}
	if old != nil {
		taken := &durable.CloseError{Code: closeAborted, Reason: "the client resumed the connection elsewhere", Clean: true, Local: true}
		effects = append(effects, connEffect{c: c, p: old, end: &ending{err: taken}})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	t.conns.effects = append(t.conns.effects, effects...)
	c.peer.Store(p)
	s.lost = time.Time{}
	return p, nil
}

// last reports whether the connection ends with this peer, which is gone, and
// removes it then. If not, its client may come back, or has.
func (p *peer) last() (last bool) {
	c := p.c
	_, _ = c.o.bareWish(context.Background(), patiently, func(*turn) error {
		e, s := p.ending(), c.session.Load()
		switch {
		case c.gone.Load() || c.peer.Load() != p:
		case s == nil, c.closing, e == nil, e.refused():
			last = c.remove()
		default:
			c.peer.Store(nil)
			s.lost = time.Now()
		}
		return nil
	})
	return last
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

// closeAway ends a connection whose client is away, if it still is.
func (o *object) closeAway(c *conn, cause error) {
	over := false
	_, _ = o.bareWish(context.Background(), patiently, func(*turn) error {
		s := c.session.Load()
		if c.peer.Load() == nil && (c.closing || s != nil && !s.lost.IsZero()) {
			over = c.remove()
		}
		return nil
	})
	if over {
		c.closed(context.Background(), cause)
	}
}

// expireConns ends the connections whose clients were away for too long, and sets
// the timer for the next time.
func (o *object) expireConns(ctx context.Context) error {
	var over []*conn
	each := func(fn func(c *conn, s *session, window time.Duration)) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.conns == nil {
			return // the type has no such connections any more
		}
		for _, c := range o.conns.tokens {
			if s := c.session.Load(); s != nil && !c.opening {
				fn(c, s, c.group.method.Connection.Resume.Window)
			}
		}
	}
	m, err := o.bare(ctx, exclusive, func(t *turn) error {
		if err := o.loadSessions(ctx, t.act.shard); err != nil {
			return err
		}
		each(func(c *conn, s *session, window time.Duration) {
			if p := c.peer.Load(); s.lost.IsZero() && p != nil && p.ending() != nil {
				c.peer.Store(nil) // nobody came to that
				s.lost = time.Now()
			}
			if !s.lost.IsZero() && time.Since(s.lost) >= window {
				over = append(over, c)
			}
		})
		return nil
	})
	if err != nil {
		return o.reply(ctx, m, err)
	}
	slices.SortFunc(over, func(a, b *conn) int { return cmp.Compare(a.number, b.number) })
	for _, c := range over {
		o.closeAway(c, &durable.CloseError{Code: durable.CloseAbnormal, Reason: "the client did not come back"})
	}
	m, err = o.bare(ctx, exclusive, func(t *turn) error {
		var next time.Time
		each(func(_ *conn, s *session, window time.Duration) {
			due := time.Now().Add(window)
			if !s.lost.IsZero() {
				due = s.lost.Add(window)
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
