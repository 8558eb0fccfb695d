package sqlitedb

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// vfsName is what SQLite knows the file system by.
const vfsName = "durable"

func init() { vfs.Register(vfsName, fileSystem{}) }

// opening holds the files that are about to be opened, by a name that serves
// once.
var opening struct {
	files sync.Map // string → *file
	last  atomic.Uint64
}

// offer makes a file openable, once, and returns the name.
func offer(f *file) string {
	name := "/" + strconv.FormatUint(opening.last.Add(1), 36)
	opening.files.Store(name, f)
	return name
}

// A fileSystem has no files but those on offer. Journals and temporary tables
// are in memory, by the settings of every connection, and are not asked for.
type fileSystem struct{}

func (fileSystem) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if flags&vfs.OPEN_MAIN_DB != 0 {
		if f, ok := opening.files.LoadAndDelete(name); ok {
			return f.(*file), flags, nil
		}
	}
	return nil, flags, sqlite3.CANTOPEN
}

func (fileSystem) Delete(string, bool) error { return sqlite3.IOERR_DELETE_NOENT }

func (fileSystem) Access(string, vfs.AccessFlag) (bool, error) { return false, nil }

func (fileSystem) FullPathname(name string) (string, error) { return name, nil }

// A file is the database file of one connection.
type file struct {
	pages pages
	lock  vfs.LockLevel
	// err is why the last operation failed that did.
	err error
}

var _ vfs.FileLockState = (*file)(nil)

func (f *file) ReadAt(buf []byte, off int64) (int, error) {
	ok, err := f.pages.read(buf, off)
	switch {
	case err != nil:
		f.err = err
		return 0, sqlite3.IOERR_READ
	case !ok:
		return 0, io.EOF
	}
	return len(buf), nil
}

func (f *file) WriteAt(buf []byte, off int64) (int, error) {
	if err := f.pages.write(buf, off); err != nil {
		f.err = err
		return 0, sqlite3.IOERR_WRITE
	}
	return len(buf), nil
}

func (f *file) Truncate(size int64) error {
	f.pages.truncate(size)
	return nil
}

func (f *file) Size() (int64, error) { return int64(f.pages.count) * int64(f.pages.size), nil }

// Sync has nothing to do: the batch of the turn makes the pages durable.
func (f *file) Sync(vfs.SyncFlag) error { return nil }

func (f *file) Close() error { return nil }

// Lock remembers the level alone: turns keep connections apart.
func (f *file) Lock(lock vfs.LockLevel) error {
	f.lock = max(f.lock, lock)
	return nil
}

func (f *file) Unlock(lock vfs.LockLevel) error {
	f.lock = min(f.lock, lock)
	return nil
}

func (f *file) CheckReservedLock() (bool, error) { return f.lock >= vfs.LOCK_RESERVED, nil }

func (f *file) LockState() vfs.LockLevel { return f.lock }

func (f *file) SectorSize() int { return f.pages.size }

// DeviceCharacteristics says that a write touches nothing beside it, without
// which SQLite would write all pages of a sector.
func (f *file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_ATOMIC | vfs.IOCAP_SAFE_APPEND | vfs.IOCAP_SEQUENTIAL | vfs.IOCAP_POWERSAFE_OVERWRITE
}
