package pebblekv

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
)

// How often free disk space is looked up: when so much time has passed, or so
// much was written.
const (
	spaceInterval = time.Second
	spaceBytes    = 8 << 20
)

// space watches the free space of the disk and the size of the store.
type space struct {
	fs      vfs.FS
	dir     string
	reserve int64        // negative: not watched
	quota   int64        // 0: none
	size    func() int64 // of the store

	written atomic.Int64 // since the last look
	next    atomic.Int64 // Unix time of the next look, in nanoseconds
	free    atomic.Int64 // at the last look; -1 when it was enough
	stored  atomic.Int64 // at the last look; -1 when it was under the quota

	looking sync.Mutex
}

// check returns an error when there is too little free space for the batch, or
// the store is too large already. A batch that only deletes may use half of the
// reserve, and any quota, so that a full store can be cleared.
func (s *space) check(b *storage.Batch) error {
	if s.reserve < 0 && s.quota == 0 {
		return nil
	}
	if s.written.Add(int64(b.Size())) > spaceBytes || time.Now().UnixNano() >= s.next.Load() {
		s.look()
	}
	if free := s.free.Load(); free >= 0 && (free < s.reserve/2 || !deletes(b)) {
		return &storage.LimitError{
			What: "bytes free", Max: s.reserve, Actual: free, Err: storage.ErrNoSpace,
		}
	}
	if stored := s.stored.Load(); stored >= 0 && !deletes(b) {
		return &storage.LimitError{
			What: "bytes stored", Max: s.quota, Actual: stored, Err: storage.ErrNoSpace,
		}
	}
	return nil
}

// deletes reports whether a batch only deletes.
func deletes(b *storage.Batch) bool {
	return len(b.Put) == 0 && len(b.Merge) == 0 && b.Create == nil && len(b.Timers) == 0
}

func (s *space) look() {
	if !s.looking.TryLock() {
		return
	}
	defer s.looking.Unlock()
	s.written.Store(0)
	s.next.Store(time.Now().Add(spaceInterval).UnixNano())
	if s.quota > 0 {
		stored := s.size()
		if stored < s.quota {
			stored = -1
		}
		s.stored.Store(stored)
	}
	if s.reserve < 0 {
		return
	}
	// A file system that cannot tell, as one in memory, has space.
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil || usage.AvailBytes >= uint64(s.reserve) {
		s.free.Store(-1)
		return
	}
	s.free.Store(int64(usage.AvailBytes))
}
