package sqlitedb

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLockContext(t *testing.T) {
	errFirst, errSecond := errors.New("the first context"), errors.New("the second context")
	for name, c := range map[string]struct {
		first, second time.Duration // when they end; 0: never
		after         time.Duration
		want          error
	}{
		"the first context ends":     {time.Second, 0, time.Second, errFirst},
		"the second context ends":    {0, time.Second, time.Second, errSecond},
		"the sooner one counts":      {2 * time.Second, time.Second, time.Second, errSecond},
		"the lock becomes free":      {0, 0, 10 * time.Second, nil},
		"the lock becomes free soon": {20 * time.Second, 30 * time.Second, 10 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ending := func(in time.Duration, cause error) context.Context {
					if in == 0 {
						return t.Context()
					}
					ctx, cancel := context.WithTimeoutCause(t.Context(), in, cause)
					t.Cleanup(cancel)
					return ctx
				}
				var l lock
				l.Lock()
				release := time.AfterFunc(10*time.Second, l.Unlock)
				start := time.Now()
				err := l.LockContext(ending(c.first, errFirst), ending(c.second, errSecond))
				if took := time.Since(start); !errors.Is(err, c.want) || took != c.after {
					t.Errorf("%v after %v, want %v after %v", err, took, c.want, c.after)
				}
				if err != nil {
					if release.Stop(); l.mu.TryLock() {
						t.Error("a waiter that gave up has the lock")
					}
				}
				l.Unlock()
				if err := l.LockContext(t.Context(), t.Context()); err != nil {
					t.Error(err)
				}
				l.Unlock()
			})
		})
	}
	t.Run("a lock that is free is had at once", func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var l lock
		for range 2 {
			if err := l.LockContext(ended, ended); err != nil {
				t.Error(err) // who has it asks the contexts
			}
			l.Unlock()
		}
	})
}

// TestLockWakes has many goroutines want a lock, of which some give up. If one
// waited for ever after the last Unlock, the bubble would report a deadlock.
func TestLockWakes(t *testing.T) {
	const workers, rounds = 30, 200
	for name, c := range map[string]struct {
		plain bool   // some use Lock, for which the time of the bubble stands still
		hold  func() // by who has the lock
	}{
		"held for some time":        {false, func() { time.Sleep(time.Microsecond) }},
		"held for a moment":         {true, runtime.Gosched},
		"given back at once":        {true, func() {}},
		"given back, no plain Lock": {false, func() {}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l lock
				var wg sync.WaitGroup
				var gaveUp atomic.Int64
				locked := 0 // guarded by the lock
				for n := range workers {
					wg.Go(func() {
						for i := range rounds {
							ctx, cancel := context.WithCancel(t.Context())
							switch {
							case c.plain && n%3 == 0:
								l.Lock()
							default:
								if n%3 == 1 {
									if i%2 == 0 {
										go cancel()
									} else {
										time.AfterFunc(time.Duration(i%20)*time.Microsecond, cancel)
									}
								}
								if err := l.LockContext(t.Context(), ctx); err != nil {
									gaveUp.Add(1)
									cancel()
									continue
								}
							}
							locked++
							c.hold()
							l.Unlock()
							cancel()
						}
					})
				}
				wg.Wait()
				t.Logf("locked %d times, gave up %d times", locked, gaveUp.Load())
				if locked+int(gaveUp.Load()) != workers*rounds {
					t.Errorf("%d times had no outcome", workers*rounds-locked-int(gaveUp.Load()))
				}
				if n := l.waiters.Load(); n != 0 {
					t.Errorf("%d waiters are left", n)
				}
				if !l.mu.TryLock() {
					t.Error("the lock is held")
				}
			})
		})
	}
}
