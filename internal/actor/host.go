package actor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// Options configure a [Host]. The zero value is usable, except that handlers
// can call no other objects without a Conn.
type Options struct {
	// Conn carries the calls that handlers make through their [durable.Tx].
	Conn durable.Conn
	// SQL opens the databases of objects. Without it they have none.
	SQL storage.SQLEngine
	// MaxActive is how many activations there may be before idle ones go. Default
	// 0: no limit.
	MaxActive int
	// MaxMemory is how many bytes of live heap there may be before idle
	// activations go. Default 0: no limit.
	MaxMemory int64
	// MaxAlarms is how many alarms run at once. Default 1024.
	MaxAlarms int
	// CloseCode tells handlers with which code and reason a connection was closed
	// that the runtime closed with an error. Default: 1011 and its text.
	CloseCode func(error) (durable.CloseCode, string)
	// Logger gets panics and failures of the store. Default: nothing.
	Logger *slog.Logger
}

// A Host runs the objects of one storage session. Its methods may be called by
// several goroutines at once.
type Host struct {
	session storage.Session
	info    storage.Info
	conn    durable.Conn
	sql     storage.SQLEngine
	log     *slog.Logger
	// closeCode is that of the options.
	closeCode func(error) (durable.CloseCode, string)

	shards [storage.Shards]ownedShard
	table  [64]bucket
	alarms *scheduler
	life   life
	conns  atomic.Int64 // open connections

	mu struct {
		sync.Mutex
		types    map[string]*Type
		byID     map[storage.TypeID]*Type
		draining bool
		watching bool          // turns are looked at again
		calls    int           // calls and streams under way
		held     int           // connections
		idle     chan struct{} // closed when draining and calls is 0
	}
	drain     context.Context // ended when draining begins, for streams
	stopDrain context.CancelFunc
}

type ownedShard struct {
	shard      atomic.Pointer[shardHandle]
	reclaiming atomic.Bool // it is tried again soon
	mu         struct {
		sync.Mutex
		tried time.Time // last attempt to get a lost shard back
	}
}

// A shardHandle is one period of ownership.
type shardHandle struct{ storage.Shard }

func (s *shardHandle) lost() bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

type bucket struct {
	mu struct {
		sync.Mutex
		objects map[storage.ObjectID]*object
	}
}

// A Type is an object type that a host serves.
type Type struct {
	*durable.ObjectType
	id storage.TypeID
}

// StorageID returns the number that the store gave to the type.
func (t *Type) StorageID() storage.TypeID { return t.id }

// NewHost claims every shard that session can get and returns a host for their
// objects.
func NewHost(ctx context.Context, info storage.Info, session storage.Session, opts Options) (*Host, error) {
	h := &Host{session: session, info: info, conn: opts.Conn, sql: opts.SQL, log: opts.Logger, closeCode: opts.CloseCode}
	if h.closeCode == nil {
		h.closeCode = func(err error) (durable.CloseCode, string) { return 1011, err.Error() }
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.mu.types, h.mu.byID = map[string]*Type{}, map[storage.TypeID]*Type{}
	h.life.h, h.life.max, h.life.memory = h, int64(opts.MaxActive), uint64(max(opts.MaxMemory, 0))
	if opts.MaxAlarms <= 0 {
		opts.MaxAlarms = 1024
	}
	h.alarms = newScheduler(h, h.runTimer, opts.MaxAlarms)
	h.drain, h.stopDrain = context.WithCancel(context.Background())
	want := make([]storage.ShardID, storage.Shards)
	for i := range want {
		want[i] = storage.ShardID(i)
	}
	got, err := session.Claim(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("claim shards: %w", err)
	}
	for _, s := range got {
		h.shards[s.ID()].shard.Store(&shardHandle{s})
	}
	return h, nil
}

// Register adds an object type and returns what calls refer to it by.
func (h *Host) Register(ctx context.Context, t *durable.ObjectType) (*Type, error) {
	id, err := h.session.Type(ctx, t.Name)
	if err != nil {
		return nil, fmt.Errorf("register object type %s: %w", t.Name, err)
	}
	if max := h.info.MaxValue; max > 0 && t.Limits.MaxValueBytes > max {
		return nil, fmt.Errorf("register object type %s: the limit of %d value bytes is over that of the store, %d", t.Name, t.Limits.MaxValueBytes, max)
	}
	if max := h.info.MaxKey - 1; max > 0 && t.Limits.MaxKeyBytes > max {
		return nil, fmt.Errorf("register object type %s: the limit of %d key bytes is over that of the store, %d", t.Name, t.Limits.MaxKeyBytes, max)
	}
	typ := &Type{ObjectType: t, id: id}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.mu.types[t.Name]; ok {
		return nil, fmt.Errorf("register object type %s: it is registered already", t.Name)
	}
	h.mu.types[t.Name], h.mu.byID[id] = typ, typ
	h.alarms.reread()
	return typ, nil
}

func (h *Host) typeOf(id storage.TypeID) *Type {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.byID[id]
}

// Start begins to run alarms that are due. Call it when the types are registered,
// lest alarms find that others are missing.
func (h *Host) Start() { h.alarms.start(h.drain) }

// reclaimPause is how long a host waits before it tries again to get a lost
// shard back.
const reclaimPause = time.Second

// shard returns the shard if this host owns it, and tries to get back one that
// was lost. Otherwise it returns [durable.ErrNotOwner].
func (h *Host) shard(ctx context.Context, id storage.ShardID) (*shardHandle, error) {
	owned := &h.shards[id]
	if s := owned.shard.Load(); s != nil && !s.lost() {
		return s, nil
	}
	owned.mu.Lock()
	defer owned.mu.Unlock()
	if s := owned.shard.Load(); s != nil && !s.lost() {
		return s, nil
	}
	if now := time.Now(); owned.mu.tried.IsZero() || now.Sub(owned.mu.tried) >= reclaimPause {
		owned.mu.tried = now
		got, err := h.session.Claim(ctx, []storage.ShardID{id})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", durable.ErrNotOwner, err)
		}
		if len(got) == 1 {
			s := &shardHandle{got[0]}
			owned.shard.Store(s)
			h.alarms.reread()
			return s, nil
		}
	}
	return nil, durable.ErrNotOwner
}

// reclaimSoon gets a lost shard back although nobody calls its objects: they may
// have alarms.
func (h *Host) reclaimSoon(id storage.ShardID) {
	owned := &h.shards[id]
	if !owned.reclaiming.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(reclaimPause, func() {
		owned.reclaiming.Store(false)
		if h.drain.Err() != nil {
			return
		}
		if _, err := h.shard(h.drain, id); err != nil {
			h.reclaimSoon(id)
		}
	})
}

// confirm returns nil if this host may answer from memory: it still owns the
// shard.
func (h *Host) confirm(ctx context.Context, s *shardHandle) error {
	if s.lost() {
		return durable.ErrNotOwner
	}
	if lease := h.session.Lease(); !lease.IsZero() && !time.Now().Before(lease) {
		if err := s.Confirm(ctx); err != nil {
			return fmt.Errorf("%w: %w", durable.ErrNotOwner, err)
		}
	}
	return nil
}

// start counts a call in. Calls from within a running one are let through while
// the host drains, so that turns can finish.
func (h *Host) start(nested bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.draining && !nested {
		return durable.ErrDraining
	}
	h.mu.calls++
	if !h.mu.watching {
		h.mu.watching = true
		time.AfterFunc(watchPause, h.watchTurns)
	}
	return nil
}

func (h *Host) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.calls--
	h.noteIdle()
}

// noteIdle tells a drain that nothing is under way any more. The caller holds mu.
func (h *Host) noteIdle() {
	if h.mu.calls == 0 && h.mu.held == 0 && h.mu.draining {
		close(h.mu.idle)
		h.mu.idle = make(chan struct{}) // nothing closes twice
	}
}

// Drain refuses new calls with [durable.ErrDraining], ends open streams with
// [durable.ErrStreamDrained], and connections after what was sent to them, runs no more alarms, and returns when no call is
// under way and handlers know that they are dropped, or when ctx ends.
func (h *Host) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.mu.draining = true
	if h.mu.idle == nil {
		h.mu.idle = make(chan struct{})
	}
	idle, busy := h.mu.idle, h.mu.calls+h.mu.held > 0
	h.mu.Unlock()
	h.stopDrain()
	h.disconnectAll(durable.ErrStreamDrained)
	if !busy {
		return h.leaveAll(ctx)
	}
	select {
	case <-idle:
		return h.leaveAll(ctx)
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.mu.held > 0 {
			return fmt.Errorf("drain: %d calls are still under way, and %d connections: %w", h.mu.calls, h.mu.held, ctx.Err())
		}
		return fmt.Errorf("drain: %d calls are still under way: %w", h.mu.calls, ctx.Err())
	}
}

// leaveAll drops what is in memory.
func (h *Host) leaveAll(ctx context.Context) error {
	h.life.stop()
	var all errgroup.Group
	all.SetLimit(16)
	for i := range h.table {
		for _, o := range h.table[i].all() {
			all.Go(func() error {
				_, err := o.evict(ctx, nil)
				return err
			})
		}
	}
	if err := all.Wait(); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}

// Draining returns a context that ends when the host begins to drain.
func (h *Host) Draining() context.Context { return h.drain }

// object returns the entry of an object, making it if needed. The caller gives
// it back with release.
func (h *Host) object(typ *Type, id durable.ID, name string) *object {
	sid := storage.ObjectID{Type: typ.id, ID: id}
	b := h.bucket(sid)
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.mu.objects[sid]
	if o == nil {
		if b.mu.objects == nil {
			b.mu.objects = map[storage.ObjectID]*object{}
		}
		o = &object{host: h, typ: typ, id: sid, shardID: sid.Shard(), idle: idleEntry{index: -1}}
		b.mu.objects[sid] = o
	}
	o.refs++
	if name != "" && o.calledBy == "" {
		o.calledBy = name
	}
	return o
}

// release gives an entry back. One that holds neither an activation nor
// anything to wait for is forgotten.
func (h *Host) release(o *object) {
	b := h.bucket(o.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	o.refs--
	if o.refs > 0 {
		return
	}
	o.mu.Lock()
	active, settled, held := o.act != nil, o.isSettled(), o.hasConns()
	o.mu.Unlock()
	switch {
	case !active && settled:
		if !held {
			b.remove(o)
		}
	case !active:
		h.life.watch(o, time.Now().Add(settlePause))
	case !o.typ.KeepActive:
		o.idleSince = time.Now()
		h.life.watch(o, o.idleSince.Add(o.typ.Limits.IdleTimeout))
	}
}

// all returns the entries of the bucket.
func (b *bucket) all() []*object {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.mu.objects))
}

// remove takes an entry out of the table, if it is there.
func (b *bucket) remove(o *object) {
	if b.mu.objects[o.id] == o {
		delete(b.mu.objects, o.id)
	}
}

// retain takes another reference to an entry that the caller has one to.
func (h *Host) retain(o *object) {
	b := h.bucket(o.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	o.refs++
}

func (h *Host) bucket(id storage.ObjectID) *bucket {
	return &h.table[id.ID[8]%uint8(len(h.table))]
}

// Evict drops the activation of an object after the turns that came before, and
// waits until everything it committed is durable. It reports whether there was
// one. What the object keeps in memory is gone; what it stored stays.
func (h *Host) Evict(ctx context.Context, typ *Type, id durable.ID) (bool, error) {
	o := h.object(typ, id, "")
	defer h.release(o)
	was, err := o.evict(ctx, nil)
	if err != nil {
		return false, err
	}
	o.mu.Lock()
	last := o.last
	o.mu.Unlock()
	if last != nil {
		select {
		case <-last.Done():
		case <-ctx.Done():
			return was, ctx.Err()
		}
	}
	return was, nil
}

// Connections returns how many connections are open.
func (h *Host) Connections() int { return int(h.conns.Load()) }

// Active returns how many objects are in memory.
func (h *Host) Active() int { return int(h.life.active.Load()) }

// notOwner tells whether a storage error means that the shard is gone.
func notOwner(err error) bool { return errors.Is(err, storage.ErrLost) }
