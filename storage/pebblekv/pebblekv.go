// Package pebblekv keeps a store in a folder of the local disk, in one Pebble
// database.
//
// One process has the folder open at a time, and in it one node is joined; its
// shards stay its own for ever. Commits of all shards go through one log in the
// order in which they were made, and one sync of the log makes many of them
// durable.
//
// Values longer than 256 bytes are stored compressed, if that makes them at least
// an eighth shorter. Patches are stored as they come, and folded into the value
// by compactions and, until then, by every read: who merges bounds their number.
//
// The first write or sync that fails ends the store: nothing is acknowledged
// any more, every commit under way resolves to [storage.ErrLost], and the folder
// keeps what it had. Close the engine and open the folder again to go on.
package pebblekv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
)

// The limits that [storage.Info] reports.
const (
	maxKey   = 4 << 10
	maxValue = 4 << 20
	maxBatch = 64 << 20
)

// Options tunes an engine. The zero value is usable.
type Options struct {
	// FS holds the folder. The default is the file system of the machine.
	FS vfs.FS
	// Logger gets failures, and at debug level what Pebble has to say. The
	// default is silence.
	Logger *slog.Logger
	// CacheSize is how many bytes of table blocks are kept in memory. The
	// default is 32 MiB.
	CacheSize int64
	// MemTableSize is how many bytes of new writes are collected in memory
	// before they are flushed to a table. The default is 16 MiB.
	MemTableSize int64
	// MinSyncInterval is the least time between two syncs of the log. The
	// default is 200 µs; a negative value means none.
	MinSyncInterval time.Duration
	// ReserveBytes is how much disk space is kept free: commits that find less
	// resolve to [storage.ErrNoSpace], except that those that only delete may
	// use half of it. Compactions need it too: a store of many gigabytes wants
	// more. The default is 256 MiB; a negative value turns the check off.
	ReserveBytes int64
	// MaxBytes is how large the files of the store may grow: commits to a
	// larger one resolve to [storage.ErrNoSpace], unless they only delete. The
	// size is looked up once a second, so it can be passed by what is written
	// in one. The default is no limit.
	MaxBytes int64
	// NoTicks keeps the engine from looking ten times a second whether it should
	// compact more: it looks after flushes and compactions alone. It is for tests
	// in virtual time, where a day would have 864,000 looks.
	NoTicks bool
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CacheSize == 0 {
		o.CacheSize = 32 << 20
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = 16 << 20
	}
	if o.MinSyncInterval == 0 {
		o.MinSyncInterval = 200 * time.Microsecond
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 256 << 20
	}
	return o
}

// An Engine is an open folder. See [storage.Engine] for its methods.
type Engine struct {
	dir   string
	db    *pebble.DB
	fs    *failStop
	lock  *pebble.Lock
	log   *slog.Logger
	space space
	info  storage.Info

	inside *gate // reads, commits and iterations under way

	mu struct {
		sync.Mutex
		session *session
		owners  [storage.Shards]*shard
		epoch   storage.Epoch
		types   map[string]*objectType
		next    storage.TypeID
		views   map[*snapshot]struct{}
		closing bool
		stuck   bool // Pebble panicked: its locks may be held for ever
	}

	syncs    chan syncing // in the order of the log
	resolver sync.WaitGroup

	death struct {
		once  sync.Once
		cause atomic.Pointer[error]
		came  chan struct{}
	}
	shutdown struct {
		once sync.Once
		came chan struct{}
		err  error
	}

	batches atomic.Int64
}

var _ storage.Engine = (*Engine)(nil)

// Info describes the store. It does not fail.
func (e *Engine) Info(context.Context) (storage.Info, error) { return e.info, nil }

// Join makes the caller the only member. The epoch of the store has been raised
// durably when it returns.
func (e *Engine) Join(ctx context.Context, node storage.Node) (storage.Session, error) {
	if node.ID == "" {
		return nil, fmt.Errorf("%w: join without a node id", storage.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	if e.mu.closing {
		e.mu.Unlock()
		return nil, storage.ErrClosed
	}
	if old := e.mu.session; old != nil {
		if old.node.ID != node.ID {
			e.mu.Unlock()
			return nil, fmt.Errorf("%w: another node has joined, and the store is not shared", storage.ErrInvalid)
		}
		e.endSession(storage.ErrLost)
	}
	s := &session{e: e, node: node, done: make(chan struct{})}
	e.mu.session = s
	raised := e.raiseEpoch()
	e.mu.Unlock()
	if err := raised.Wait(); err != nil {
		return nil, e.lost()
	}
	return s, nil
}

// Close ends the session, waits for reads and commits under way, and for
// iterations that have begun, and releases the folder. It returns the cause when
// the store had failed. A snapshot that is still open is closed with it.
func (e *Engine) Close() error {
	e.shutdown.once.Do(func() { e.shutdown.err = e.close() })
	return e.shutdown.err
}

func (e *Engine) close() error {
	e.mu.Lock()
	e.mu.closing = true
	e.endSession(storage.ErrClosed)
	close(e.syncs)
	stuck := e.mu.stuck
	e.mu.Unlock()
	close(e.shutdown.came)
	e.resolver.Wait()
	e.inside.close()
	var err error
	if stuck {
		_ = e.lock.Close() // Pebble's half of the lock
	} else {
		for v := range e.mu.views {
			_ = v.src.Close()
		}
		err = e.db.Close()
	}
	err = errors.Join(err, e.lock.Close())
	if cause := e.death.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// Metrics are counts since the engine was opened.
type Metrics struct {
	WALSyncs  int64 // syncs of the log, each one an fsync or fdatasync
	WALBytes  int64 // bytes written to the log
	Batches   int64 // batches applied
	DiskBytes int64 // size of all files of the store
}

// Metrics returns the counts. It is cheap enough for every few seconds.
func (e *Engine) Metrics() Metrics {
	m := Metrics{
		WALSyncs: e.fs.walSyncs.Load(),
		WALBytes: e.fs.walBytes.Load(),
		Batches:  e.batches.Load(),
	}
	if e.inside.enter() {
		defer e.inside.leave()
		m.DiskBytes = int64(e.db.Metrics().DiskSpaceUsage())
	}
	return m
}

// die ends the store. It may be called with any lock held.
func (e *Engine) die(cause error) {
	e.death.once.Do(func() {
		cause = fmt.Errorf("store stopped: %w", cause)
		e.death.cause.Store(&cause)
		close(e.death.came)
	})
}

func (e *Engine) dead() bool { return e.death.cause.Load() != nil }

// lost returns [storage.ErrLost], with the cause when the store has failed.
func (e *Engine) lost() error {
	if cause := e.death.cause.Load(); cause != nil {
		return fmt.Errorf("%w: %w", storage.ErrLost, *cause)
	}
	return storage.ErrLost
}

// watch ends the session when the store dies.
func (e *Engine) watch() {
	defer e.resolver.Done()
	select {
	case <-e.shutdown.came:
	case <-e.death.came:
		e.log.Error("the store has failed", "error", *e.death.cause.Load())
		e.mu.Lock()
		e.endSession(e.lost())
		e.mu.Unlock()
	}
}

// endSession ends the session, if there is one. The caller holds mu.
func (e *Engine) endSession(err error) {
	s := e.mu.session
	if s == nil {
		return
	}
	e.mu.session = nil
	for id, sh := range e.mu.owners {
		if sh != nil {
			sh.end(err)
			e.mu.owners[id] = nil
		}
	}
	s.err = err
	close(s.done)
}
