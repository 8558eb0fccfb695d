package sqlitedb

import (
	"context"
	"sync"
	"sync/atomic"
)

// A lock is a mutex whose waiters can give up.
type lock struct {
	mu      sync.Mutex
	waiters atomic.Int32  // in LockContext
	once    sync.Once     // makes freed
	freed   chan struct{} // holds one token after an Unlock that waiters saw
}

// Lock waits for the lock.
func (l *lock) Lock() { l.mu.Lock() }

// TryLock takes the lock if it is free.
func (l *lock) TryLock() bool { return l.mu.TryLock() }

// LockContext waits for the lock until one of the contexts ends, and returns the
// cause of that.
func (l *lock) LockContext(a, b context.Context) error {
	if l.mu.TryLock() {
		return nil
	}
	l.once.Do(func() { l.freed = make(chan struct{}, 1) })
	l.waiters.Add(1)
	defer l.waiters.Add(-1)
	for !l.mu.TryLock() {
		select {
		case <-l.freed:
		case <-a.Done():
			return context.Cause(a)
		case <-b.Done():
			return context.Cause(b)
		}
	}
	return nil
}

// Unlock gives the lock back.
func (l *lock) Unlock() {
	l.mu.Unlock()
	if l.waiters.Load() > 0 {
		select {
		case l.freed <- struct{}{}:
		default: // somebody is about to look anyway
		}
	}
}
