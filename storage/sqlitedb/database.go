package sqlitedb

import (
	"context"
	"slices"
	"sync"

	"github.com/durable-go/durable/storage"
)

// A database is the database of one activation.
type database struct {
	engine *Engine
	object storage.ObjectID
	reader storage.Reader
	limits storage.SQLLimits
	// pragmas are the settings that statements changed: they are of the
	// database, whatever connection serves it. Only sessions that write change
	// them.
	pragmas map[string]string

	mu     sync.Mutex
	conns  []*conn // at most one main one that is not doomed, and others
	seq    uint64  // counts commits
	closed bool
}

// Begin implements [storage.SQLDatabase].
func (d *database) Begin(ctx context.Context, write bool, live func() error) storage.SQLSession {
	return &session{db: d, ctx: ctx, write: write, live: live}
}

// remember notes a setting that a statement changed, for connections to come.
func (d *database) remember(pragma, value string) {
	if d.pragmas == nil {
		d.pragmas = map[string]string{}
	}
	d.pragmas[pragma] = value
	d.trim(func(c *conn) bool { return !c.main })
}

// Close implements [storage.SQLDatabase].
func (d *database) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.trim(func(*conn) bool { return true })
}

// trim closes connections that nobody uses.
func (d *database) trim(which func(*conn) bool) {
	d.mu.Lock()
	var victims []*conn
	keep := d.conns[:0]
	for _, c := range d.conns {
		if which(c) && c.seize() {
			victims = append(victims, c)
		} else {
			keep = append(keep, c)
		}
	}
	clear(d.conns[len(keep):])
	d.conns = keep
	d.mu.Unlock()
	for _, c := range victims {
		d.engine.discard(c)
	}
}

// acquire returns a connection for a session, which gives it back with release,
// and what it has to have seen. It may not be open yet. A session that writes
// gets the main one, which it has for itself; the others share what is there, or
// get another one where all are in use.
func (d *database) acquire(write bool) (c *conn, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		// Some may just be closed, by the engine.
		d.conns = slices.DeleteFunc(d.conns, func(c *conn) bool { return c.users.Load() < 0 })
		var best *conn
		hasMain := false
		for _, c := range d.conns {
			if c.doomed.Load() {
				continue
			}
			hasMain = hasMain || c.main
			if (c.main || !write) && (best == nil || c.users.Load() < best.users.Load()) {
				best = c
			}
		}
		if best == nil || (!write && best.users.Load() > 0 && len(d.conns) < d.engine.opts.Readers) {
			c := &conn{db: d, main: !hasMain, file: &file{}}
			c.file.pages = pages{object: d.object, reader: d.reader}
			c.users.Store(1)
			d.conns = append(d.conns, c)
			return c, d.seq
		}
		if best.use() {
			return best, d.seq
		}
	}
}

// release ends the use of a connection.
func (d *database) release(c *conn) {
	if c.mu.TryLock() { // otherwise another view has it, which does the same later
		c.intr = interrupter{} // hold no contexts
		bytes := c.memory()
		if bytes > grownBytes {
			c.doomed.Store(true)
		}
		c.mu.Unlock()
		d.engine.used(c, bytes)
	}
	c.users.Add(-1)
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed || c.doomed.Load() {
		d.trim(func(other *conn) bool { return other == c || closed })
	}
}

// committed notes a commit made through c.
func (d *database) committed(c *conn) (seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	c.seq = d.seq
	return d.seq
}
