package pebblekv

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/internal/keyspace"
	"github.com/durable-go/durable/storage/internal/patch"
)

// format is the version of the layout that the README of package storage
// describes. It goes up when an older version of this software would misread
// the folder.
const format = 1

// pebbleFormat is the version of Pebble's own files. It only ever goes up.
const pebbleFormat = pebble.FormatValueSeparation

// Open opens the store in a folder, and makes it when there is none: what it
// made is durable when it returns.
//
// It fails with [storage.ErrLocked] while another process, or this one, has the
// folder open, with [storage.ErrNewerFormat] for a store of a newer version, and
// with [storage.ErrCorrupt] when stored bytes do not verify.
func Open(dir string, opts Options) (*Engine, error) {
	opts = opts.withDefaults()
	if opts.FS == vfs.Default {
		// The lock of a folder is known to this process by its path.
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		dir = abs
	}
	e, err := open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return e, nil
}

func open(dir string, opts Options) (_ *Engine, err error) {
	if err := makeFolder(opts.FS, dir); err != nil {
		return nil, err
	}
	lock, err := pebble.LockDirectory(dir, opts.FS)
	if err != nil {
		return nil, lockError(err)
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := checkPebbleFormat(opts.FS, dir); err != nil {
		return nil, err
	}

	e := &Engine{
		dir:    dir,
		lock:   lock,
		log:    opts.Logger,
		space:  space{fs: opts.FS, dir: dir, reserve: opts.ReserveBytes, quota: opts.MaxBytes},
		inside: newGate(),
		syncs:  make(chan syncing, 1024),
	}
	e.space.free.Store(-1)
	e.space.stored.Store(-1)
	e.space.size = func() int64 { return e.Metrics().DiskBytes }
	e.fs = &failStop{FS: opts.FS, dir: dir, onFail: e.die}
	e.death.came = make(chan struct{})
	e.shutdown.came = make(chan struct{})
	e.mu.types = map[string]*objectType{}
	e.mu.views = map[*snapshot]struct{}{}
	e.info = storage.Info{
		Format:     format,
		MaxBatch:   maxBatch,
		MaxValue:   maxValue,
		MaxKey:     maxKey,
		CommitHint: 2 * time.Millisecond,
	}

	e.db, err = pebble.Open(dir, e.pebbleOptions(opts))
	if err != nil {
		if cause := e.death.cause.Load(); cause != nil {
			return nil, *cause
		}
		return nil, openError(err)
	}
	e.fs.opened.Store(true)
	if err = e.load(); err == nil && e.dead() {
		err = *e.death.cause.Load()
	}
	if err != nil {
		_ = e.db.Close()
		return nil, err
	}
	e.resolver.Add(2)
	go e.watch()
	go e.resolve()
	return e, nil
}

func (e *Engine) pebbleOptions(opts Options) *pebble.Options {
	o := &pebble.Options{
		FS:                         e.fs,
		Lock:                       e.lock,
		Comparer:                   pebble.DefaultComparer,
		Merger:                     merger,
		FormatMajorVersion:         pebbleFormat,
		CacheSize:                  opts.CacheSize,
		MemTableSize:               uint64(opts.MemTableSize),
		MaxOpenFiles:               500,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		WALMinSyncInterval:         func() time.Duration { return opts.MinSyncInterval },
		EventListener:              events(opts.Logger),
		Logger: logger{slog: opts.Logger, fatal: func(cause error) {
			e.fs.seal("pebble", cause)
		}},
	}
	if opts.NoTicks {
		o.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// makeFolder makes dir and the folders above it, and syncs the entries it made.
func makeFolder(fs vfs.FS, dir string) error {
	var missing []string
	for at := dir; ; {
		if _, err := fs.Stat(at); err == nil {
			break
		}
		missing = append(missing, at)
		up := fs.PathDir(at)
		if up == at {
			break
		}
		at = up
	}
	if len(missing) == 0 {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for _, made := range missing {
		parent, err := fs.OpenDir(fs.PathDir(made))
		if err == nil {
			err = errors.Join(parent.Sync(), parent.Close())
		}
		if err != nil {
			return fmt.Errorf("sync parent folder: %w", err)
		}
	}
	return nil
}

// lockError tells a held lock from other trouble. A lock of another process
// comes as a bare error number, one of this process as a text.
func lockError(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) && (number == syscall.EAGAIN || number == syscall.EACCES) ||
		err.Error() == "lock held by current process" {
		return storage.ErrLocked
	}
	return fmt.Errorf("lock folder: %w", err)
}

// openError tells a damaged store from other trouble. Pebble marks only what
// does not verify; a file that is missing or too short is damage as well.
func openError(err error) error {
	text, _, _ := strings.Cut(err.Error(), "\n") // more lines are for Pebble's own readers
	if pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) ||
		strings.Contains(text, "size mismatch") || strings.Contains(text, "replaying WAL") {
		return fmt.Errorf("%w: %s: put a copy of the folder in its place", storage.ErrCorrupt, text)
	}
	return err
}

// checkPebbleFormat refuses files of a Pebble that is newer than ours.
func checkPebbleFormat(fs vfs.FS, dir string) error {
	value, err := atomicfs.ReadMarker(fs, dir, "format-version")
	if err != nil {
		return err
	}
	if value == "" {
		return nil
	}
	version, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: format of the files: %w", storage.ErrCorrupt, err)
	}
	if version > uint64(pebbleFormat) {
		return fmt.Errorf("%w: files have format %d, this version reads up to %d",
			storage.ErrNewerFormat, version, uint64(pebbleFormat))
	}
	return nil
}

// load reads the records of the store, and writes them when it is new.
func (e *Engine) load() error {
	val, ok, err := get(e.db, keyspace.Info)
	if err != nil {
		return err
	}
	if !ok {
		return e.create()
	}
	version, n := binary.Uvarint(val)
	if n <= 0 {
		return fmt.Errorf("%w: record of the store", storage.ErrCorrupt)
	}
	if version > format {
		return fmt.Errorf("%w: store has format %d, this version reads up to %d",
			storage.ErrNewerFormat, version, format)
	}
	if version == 0 || len(val) != n+len(e.info.Store) {
		return fmt.Errorf("%w: record of the store", storage.ErrCorrupt)
	}
	copy(e.info.Store[:], val[n:])

	epoch, err := getNumber(e.db, keyspace.Epoch, 8)
	if err != nil {
		return err
	}
	next, err := getNumber(e.db, keyspace.NextType, 4)
	if err != nil {
		return err
	}
	e.mu.epoch, e.mu.next = storage.Epoch(epoch), storage.TypeID(next)
	return e.loadTypes()
}

func (e *Engine) loadTypes() error {
	lo, hi := keyspace.Types()
	return each(e.db, lo, hi, func(k, stored []byte) error {
		name, err := keyspace.CutType(k)
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrCorrupt, err)
		}
		val, _, err := patch.Decode(stored)
		if err != nil || len(val) != 4 {
			return fmt.Errorf("%w: number of an object type", storage.ErrCorrupt)
		}
		e.mu.types[name] = &objectType{
			id:      storage.TypeID(binary.BigEndian.Uint32(val)),
			durable: storage.ResolvedPending(nil),
		}
		return nil
	})
}

// create writes the records of a new store.
func (e *Engine) create() error {
	// A store without its own record but with others is not one of ours.
	empty := true
	if err := each(e.db, nil, nil, func(_, _ []byte) error { empty = false; return errStop }); err != nil && !errors.Is(err, errStop) {
		return err
	}
	if !empty {
		return fmt.Errorf("%w: the record of the store is missing", storage.ErrCorrupt)
	}
	if _, err := rand.Read(e.info.Store[:]); err != nil {
		return err
	}
	e.mu.next = 1
	b := e.db.NewBatch()
	defer func() { _ = b.Close() }()
	record := append(binary.AppendUvarint(nil, format), e.info.Store[:]...)
	for _, kv := range []struct{ k, v []byte }{
		{keyspace.Info, record},
		{keyspace.Epoch, make([]byte, 8)},
		{keyspace.NextType, binary.BigEndian.AppendUint32(nil, uint32(e.mu.next))},
	} {
		if err := b.Set(kv.k, patch.AppendRaw(nil, kv.v), nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}
