package pebblekv

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// failStop is a file system that stops at the first write, sync, create or
// rename that fails. From then on nothing reaches the disk any more, and every
// operation reports success: what Pebble goes on to write lands in memory.
//
// Pebble must not see such a failure. It panics on some of them with its locks
// in a state that ends the process, and calls its logger's Fatalf on others.
// That it carries on unaware harms nobody: the engine stops acknowledging
// before the failed operation returns, and the disk keeps what it had.
type failStop struct {
	vfs.FS
	dir    string
	onFail func(error) // called once, before the failed operation returns

	once    sync.Once
	sealed  atomic.Bool
	opened  atomic.Bool // Pebble is open
	scratch *vfs.MemFS  // what Pebble writes after the failure

	walSyncs atomic.Int64
	walBytes atomic.Int64
}

// walCategory is what Pebble passes when it creates a file of its log.
const walCategory = "pebble-wal"

// seal stops the file system.
func (f *failStop) seal(op string, cause error) {
	f.once.Do(func() {
		f.scratch = vfs.NewMem()
		_ = f.scratch.MkdirAll(f.dir, 0o755)
		f.onFail(fmt.Errorf("%s: %w", op, cause))
		f.sealed.Store(true)
	})
}

func (f *failStop) Unwrap() vfs.FS { return f.FS }

func (f *failStop) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		f.syncDir()
	}
	if !f.sealed.Load() {
		file, err := f.FS.Create(name, category)
		if err == nil {
			return f.guard(file, category), nil
		}
		f.seal("create", err)
	}
	return f.scratch.Create(name, category)
}

// syncDir makes the entries of the folder durable. Pebble points to a new file,
// such as a manifest, by a second file, a marker, and syncs the folder only
// then: a crash could keep the marker and lose what it points to.
func (f *failStop) syncDir() {
	if f.sealed.Load() {
		return
	}
	dir, err := f.FS.OpenDir(f.dir)
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		f.seal("sync folder", err)
	}
}

func (f *failStop) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !f.sealed.Load() {
		file, err := f.FS.ReuseForWrite(old, name, category)
		if err == nil {
			return f.guard(file, category), nil
		}
		f.seal("reuse", err)
	}
	return f.scratch.Create(name, category)
}

func (f *failStop) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if !f.sealed.Load() {
		file, err := f.FS.OpenReadWrite(name, category, opts...)
		if err == nil {
			return f.guard(file, category), nil
		}
		f.seal("open for writing", err)
	}
	return f.scratch.OpenReadWrite(name, category, opts...)
}

func (f *failStop) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return f.guard(file, vfs.WriteCategoryUnspecified), nil
}

// Open hides from Pebble that a file does not exist, once the file system is
// sealed: it would take that for the end of the world. A table that was cut
// short by the failure is opened again and again, so that is slowed down.
func (f *failStop) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if !f.sealed.Load() {
		file, err := f.FS.Open(name, opts...)
		if err != nil {
			return nil, err
		}
		return readFile{file}, nil
	}
	if f.opened.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	if file, err := f.scratch.Open(name, opts...); err == nil {
		return file, nil
	}
	file, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, fmt.Errorf("open after a failure: %v", err) //nolint:errorlint // Pebble must not look into it
	}
	return readFile{file}, nil
}

// readFile is a file open for reading: no harm is done when it does not close.
type readFile struct{ vfs.File }

func (f readFile) Close() error {
	_ = f.File.Close()
	return nil
}

func (f *failStop) Stat(name string) (vfs.FileInfo, error) {
	if f.sealed.Load() {
		if info, err := f.scratch.Stat(name); err == nil {
			return info, nil
		}
	}
	return f.FS.Stat(name)
}

func (f *failStop) Rename(old, name string) error {
	if !f.sealed.Load() {
		err := f.FS.Rename(old, name)
		if err == nil {
			return nil
		}
		f.seal("rename", err)
	}
	_ = f.scratch.Rename(old, name)
	return nil
}

// Remove passes errors on: Pebble copes with a file that stays.
func (f *failStop) Remove(name string) error {
	if !f.sealed.Load() {
		return f.FS.Remove(name)
	}
	_ = f.scratch.Remove(name)
	return nil
}

func (f *failStop) RemoveAll(name string) error {
	if !f.sealed.Load() {
		return f.FS.RemoveAll(name)
	}
	_ = f.scratch.RemoveAll(name)
	return nil
}

func (f *failStop) Link(old, name string) error {
	if !f.sealed.Load() {
		return f.FS.Link(old, name)
	}
	return nil
}

func (f *failStop) MkdirAll(dir string, perm os.FileMode) error {
	if !f.sealed.Load() {
		return f.FS.MkdirAll(dir, perm)
	}
	return nil
}

func (f *failStop) guard(file vfs.File, category vfs.DiskWriteCategory) vfs.File {
	return &failStopFile{File: file, fs: f, wal: category == walCategory}
}

// failStopFile is a file open for writing.
type failStopFile struct {
	vfs.File
	fs  *failStop
	wal bool
}

func (f *failStopFile) Write(p []byte) (int, error) {
	if f.fs.sealed.Load() {
		return len(p), nil
	}
	size := len(p)
	if _, err := f.File.Write(p); err != nil {
		f.fs.seal("write", err)
	} else if f.wal {
		f.fs.walBytes.Add(int64(size))
	}
	return size, nil
}

func (f *failStopFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.sealed.Load() {
		return len(p), nil
	}
	if _, err := f.File.WriteAt(p, off); err != nil {
		f.fs.seal("write", err)
	}
	return len(p), nil
}

// Preallocate only saves time, so its error means nothing.
func (f *failStopFile) Preallocate(off, length int64) error {
	if !f.fs.sealed.Load() {
		_ = f.File.Preallocate(off, length)
	}
	return nil
}

func (f *failStopFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *failStopFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *failStopFile) sync(do func() error) error {
	if f.fs.sealed.Load() {
		return nil
	}
	if err := do(); err != nil {
		f.fs.seal("sync", err)
	} else if f.wal {
		f.fs.walSyncs.Add(1)
	}
	return nil
}

func (f *failStopFile) SyncTo(length int64) (bool, error) {
	if f.fs.sealed.Load() {
		return false, nil
	}
	full, err := f.File.SyncTo(length)
	if err != nil {
		f.fs.seal("sync", err)
	} else if full && f.wal {
		f.fs.walSyncs.Add(1)
	}
	return full, nil
}

func (f *failStopFile) Close() error {
	if err := f.File.Close(); err != nil {
		f.fs.seal("close", err)
	}
	return nil
}
