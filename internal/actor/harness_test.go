package actor

import (
	"context"
	"errors"
	"flag"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

var seedFlag = flag.Uint64("seed", 0, "replays a random test; 0 draws a seed")

// seed returns the seed of a random test and says how to use it again.
func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("go test -run '^%s$' -seed=%d", t.Name(), s)
	return s
}

// A testHost is a host whose handlers are closures.
type testHost struct {
	*Host
	typ *Type
}

// A counter is the handler of a testHost's objects.
type counter struct{ n int }

// newTestHost returns a host for session. It has objects of type "counter"
// unless made is given, which makes them.
func newTestHost(t *testing.T, session storage.Session, limits durable.Limits, made func(context.Context, durable.Tx) (any, error)) *testHost {
	t.Helper()
	if made == nil {
		made = func(context.Context, durable.Tx) (any, error) { return &counter{}, nil }
	}
	h := &testHost{}
	limits = patient(limits)
	var err error
	databases := sqlitedb.New(sqlitedb.Options{})
	t.Cleanup(func() { _ = databases.Close() })
	if h.Host, err = NewHost(t.Context(), storage.Info{MaxBatch: 1 << 20}, session, Options{Conn: closureConn{h}, SQL: databases}); err != nil {
		t.Fatal(err)
	}
	h.typ, err = h.Register(t.Context(), &durable.ObjectType{Name: "counter", New: made, Limits: limits.WithDefaults()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// patient lets objects stay, and handlers take as long as they like, unless
// limits say otherwise: most tests are about something else.
func patient(limits durable.Limits) durable.Limits {
	if limits.IdleTimeout == 0 {
		limits.IdleTimeout = 24 * time.Hour
	}
	if limits.StuckTimeout == 0 {
		limits.StuckTimeout = -1
	}
	return limits
}

func join(t *testing.T, store *memkv.Store) storage.Session {
	t.Helper()
	session, err := store.Join(t.Context(), storage.Node{ID: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func (h *testHost) call(key string, m *durable.Method) Call {
	return Call{Type: h.typ, Method: m, ID: durable.IDFromName("counter", key), Name: key}
}

func (h *testHost) update(ctx context.Context, key string, fn func(context.Context, *counter, durable.Tx) error) error {
	m := &durable.Method{Unary: func(ctx context.Context, handler any, tx durable.Tx, _ proto.Message) (proto.Message, error) {
		return &emptypb.Empty{}, fn(ctx, handler.(*counter), tx)
	}}
	return h.Unary(ctx, h.call(key, m), &emptypb.Empty{}, &emptypb.Empty{})
}

func (h *testHost) view(ctx context.Context, key string, fn func(context.Context, *counter, durable.View) error) error {
	m := &durable.Method{ReadOnly: true, UnaryView: func(ctx context.Context, handler any, view durable.View, _ proto.Message) (proto.Message, error) {
		return &emptypb.Empty{}, fn(ctx, handler.(*counter), view)
	}}
	return h.Unary(ctx, h.call(key, m), &emptypb.Empty{}, &emptypb.Empty{})
}

func (h *testHost) stream(ctx context.Context, key string, fn func(context.Context, durable.StreamPort) error) error {
	m := &durable.Method{ServerStream: true, Streaming: func(ctx context.Context, _ any, port durable.StreamPort, _ proto.Message) (proto.Message, error) {
		return nil, fn(ctx, port)
	}}
	return h.Stream(ctx, h.call(key, m), nil, &emptypb.Empty{})
}

// A closureConn carries a call whose handler is in its context.
type closureConn struct{ h *testHost }

type closureKey struct{}

func (c closureConn) CallUnary(ctx context.Context, call *durable.Call, _, _ proto.Message) error {
	key, _ := call.Object.Name()
	return c.h.update(ctx, key, ctx.Value(closureKey{}).(func(context.Context, *counter, durable.Tx) error))
}

func (c closureConn) OpenStream(context.Context, *durable.Call) (durable.ClientStreamPort, error) {
	return nil, errors.New("no streams")
}

// callOther calls another object from inside a turn.
func callOther(ctx context.Context, tx durable.Tx, key string, fn func(context.Context, *counter, durable.Tx) error) error {
	ctx = context.WithValue(ctx, closureKey{}, fn)
	return tx.CallUnary(ctx, &durable.Call{Object: durable.RefByName(tx, "counter", key)}, &emptypb.Empty{}, &emptypb.Empty{})
}

// A manualSession has shards whose commits become durable when the test says.
type manualSession struct {
	storage.Session
	mu struct {
		sync.Mutex
		pending []*storage.Pending
	}
}

type manualShard struct {
	storage.Shard
	s *manualSession
}

func (s *manualSession) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := s.Session.Claim(ctx, want)
	for i := range got {
		got[i] = manualShard{got[i], s}
	}
	return got, err
}

func (s manualShard) Commit(b *storage.Batch) *storage.Pending {
	if p := s.Shard.Commit(b); p.Wait() != nil {
		return p
	}
	p := storage.NewPending()
	s.s.mu.Lock()
	s.s.mu.pending = append(s.s.mu.pending, p)
	s.s.mu.Unlock()
	return p
}

// A leasedSession has a lease that has run out, and asks whether it still owns
// its shards.
type leasedSession struct {
	storage.Session
	owned bool
}

type leasedShard struct {
	storage.Shard
	s *leasedSession
}

func (s *leasedSession) Lease() time.Time { return time.Now().Add(-time.Second) }

func (s *leasedSession) Claim(ctx context.Context, want []storage.ShardID) ([]storage.Shard, error) {
	got, err := s.Session.Claim(ctx, want)
	for i := range got {
		got[i] = leasedShard{got[i], s}
	}
	return got, err
}

func (s leasedShard) Confirm(ctx context.Context) error {
	if !s.s.owned {
		return storage.ErrLost
	}
	return s.Shard.Confirm(ctx)
}

// A sendPort takes what a stream sends.
type sendPort struct {
	StreamPort
	sent []proto.Message
}

func (p *sendPort) Send(msg proto.Message) error {
	p.sent = append(p.sent, msg)
	return nil
}
