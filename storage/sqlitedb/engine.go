package sqlitedb

import (
	"container/list"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/durable-go/durable/storage"
)

// Options configure an [Engine]. The zero value is usable.
type Options struct {
	// MemoryBytes is how much memory open connections may take together before
	// those are closed that were not used for longest. Connections in use stay
	// open. Default 256 MiB, which is about 600 connections.
	MemoryBytes int64
	// IdleTimeout is how long a connection stays open unused. Default 10 s.
	IdleTimeout time.Duration
	// Readers is how many connections one database may have open for views
	// that run at the same time, the one that writes included. Default 2.
	Readers int
	// Logger gets panics of SQLite. Default: nothing.
	Logger *slog.Logger
}

// An Engine opens the databases of objects. It holds connections open for those
// in use, and for a while after.
type Engine struct {
	opts Options

	mu struct {
		sync.Mutex
		open   list.List // of *conn, the least recently used first
		bytes  int64
		timer  *time.Timer // nil: not running
		closed bool
	}
}

var _ storage.SQLEngine = (*Engine)(nil)

// New returns an engine without open connections. The caller closes it after
// the server that uses it.
func New(opts Options) *Engine {
	if opts.MemoryBytes == 0 {
		opts.MemoryBytes = 256 << 20
	}
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = 10 * time.Second
	}
	if opts.Readers == 0 {
		opts.Readers = 2
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{opts: opts}
}

// Database implements [storage.SQLEngine].
func (e *Engine) Database(o storage.ObjectID, r storage.Reader, limits storage.SQLLimits) storage.SQLDatabase {
	return &database{engine: e, object: o, reader: r, limits: limits}
}

// Connections returns how many connections are open, and about how many bytes
// of memory they take.
func (e *Engine) Connections() (n int, bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.open.Len(), e.mu.bytes
}

// Close closes the connections that are not in use. Those in use are closed by
// whoever uses them.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.mu.closed = true
	if e.mu.timer != nil {
		e.mu.timer.Stop()
		e.mu.timer = nil
	}
	victims := e.claim(func(*conn) bool { return true })
	e.mu.Unlock()
	closeAll(victims)
	return nil
}

// entry is the engine's part of a connection.
type entry struct {
	// users counts the sessions that use the connection; -1 says that somebody
	// is closing it.
	users atomic.Int32
	// The lock of the engine guards the rest.
	element  *list.Element // nil: not open
	bytes    int64
	lastUsed time.Time
}

// use counts a session in; ok is false when the connection is being closed.
func (c *entry) use() (ok bool) {
	for {
		n := c.users.Load()
		if n < 0 {
			return false
		}
		if c.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// seize takes a connection that nobody uses out of service, to close it.
func (c *entry) seize() (ok bool) { return c.users.CompareAndSwap(0, -1) }

// used notes that a session used a connection, and makes room for what it left.
// The connection is in use still.
func (e *Engine) used(c *conn, bytes int64) {
	e.mu.Lock()
	if c.element == nil {
		c.element = e.mu.open.PushBack(c)
		if e.mu.timer == nil && !e.mu.closed {
			e.mu.timer = time.AfterFunc(e.opts.IdleTimeout, e.sweep)
		}
	} else {
		e.mu.open.MoveToBack(c.element)
	}
	e.mu.bytes += bytes - c.bytes
	c.bytes, c.lastUsed = bytes, time.Now()
	victims := e.overflow()
	e.mu.Unlock()
	closeAll(victims)
}

// overflow claims connections until the rest fits.
func (e *Engine) overflow() []*conn {
	return e.claim(func(*conn) bool { return e.mu.bytes > e.opts.MemoryBytes })
}

// claim seizes the connections not in use, from the least recently used on, as
// long as want says so. The caller holds mu and closes them without it.
func (e *Engine) claim(want func(*conn) bool) []*conn {
	var victims []*conn
	for el := e.mu.open.Front(); el != nil; {
		c := el.Value.(*conn)
		el = el.Next()
		if !want(c) {
			break
		}
		if c.seize() {
			e.remove(c)
			victims = append(victims, c)
		}
	}
	return victims
}

func (e *Engine) remove(c *conn) {
	if c.element != nil {
		e.mu.open.Remove(c.element)
		e.mu.bytes -= c.bytes
		c.element, c.bytes = nil, 0
	}
}

// discard closes a connection that the caller has seized.
func (e *Engine) discard(c *conn) {
	e.mu.Lock()
	e.remove(c)
	e.mu.Unlock()
	c.close()
}

// sweep closes the connections that were idle for long.
func (e *Engine) sweep() {
	e.mu.Lock()
	if e.mu.timer == nil {
		e.mu.Unlock()
		return // closed meanwhile
	}
	idle := time.Now().Add(-e.opts.IdleTimeout)
	victims := e.claim(func(c *conn) bool { return !c.lastUsed.After(idle) })
	e.mu.timer = nil
	if front := e.mu.open.Front(); front != nil && !e.mu.closed {
		wait := max(time.Until(front.Value.(*conn).lastUsed.Add(e.opts.IdleTimeout)), e.opts.IdleTimeout/10)
		e.mu.timer = time.AfterFunc(wait, e.sweep)
	}
	e.mu.Unlock()
	closeAll(victims)
}

func closeAll(victims []*conn) {
	for _, c := range victims {
		c.close()
	}
}
