package actor

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// A scheduler runs what is due at a time: the alarms of objects, and the end of
// remembered replies. It holds the timers that are due soonest in memory, and
// reads further ones from the store when it comes to them.
type scheduler struct {
	h   *Host
	run func(ctx context.Context, key timerKey, retry bool) error
	// max is how many timers are held, at least; slots how many run at once.
	max   int
	slots chan struct{}
	wake  chan struct{} // holds a token when mu changed what is due first

	mu struct {
		sync.Mutex
		started bool
		timers  map[timerKey]*timer
		due     timerHeap // those that do not run
		// Every stored timer that is due before horizon, in milliseconds, is in
		// timers. Those that wait after a failure may be later.
		horizon int64
		rereads int // how often reread was called
		crowd   int // how many of due are too many
		// noted has what commits changed while the store is read; nil while it is
		// not.
		noted map[timerKey]int64
	}
}

// A timerKey names a timer.
type timerKey struct {
	object storage.ObjectID
	kind   uint8
}

// A timer is due at a time, or runs.
type timer struct {
	timerKey
	at       int64 // in milliseconds; while it runs, what a commit set meanwhile, 0: nothing
	index    int   // in the heap; -1 while it runs
	failures int   // in a row that are no fault of the object
}

const (
	never = math.MaxInt64
	// heldTimers is how many timers a scheduler reads ahead.
	heldTimers = 16384
	// clockCheck is how long a scheduler sleeps at most while something is due
	// later: the clock may be put forward.
	clockCheck = 10 * time.Second
	// After a failure that is no fault of the object a timer waits
	// platformDelay, doubling up to nine times.
	platformDelay = 2 * time.Second
)

func newScheduler(h *Host, run func(context.Context, timerKey, bool) error, slots int) *scheduler {
	s := &scheduler{h: h, run: run, max: heldTimers, slots: make(chan struct{}, slots), wake: make(chan struct{}, 1)}
	s.mu.timers, s.mu.crowd = map[timerKey]*timer{}, 2*s.max
	return s
}

// start begins to run what is due, until ctx ends.
func (s *scheduler) start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.started || ctx.Err() != nil {
		return
	}
	s.mu.started = true
	go s.loop(ctx)
}

// reread makes the scheduler read the store again, for timers that it could not
// run before.
func (s *scheduler) reread() {
	s.mu.Lock()
	// Commits that were noted may be lost. What waits after a failure keeps waiting.
	kept := s.mu.due[:0]
	for _, t := range s.mu.due {
		if t.failures == 0 {
			delete(s.mu.timers, t.timerKey)
			continue
		}
		t.index = len(kept)
		kept = append(kept, t)
	}
	s.mu.due = kept
	heap.Init(&s.mu.due)
	s.mu.horizon = 0
	s.mu.rereads++
	s.mu.Unlock()
	s.poke()
}

func (s *scheduler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// note takes the time for which a commit set a timer, in milliseconds, 0 when it
// cleared it. Whoever calls it holds the turn of the object.
func (s *scheduler) note(object storage.ObjectID, kind uint8, at int64) {
	key := timerKey{object, kind}
	s.mu.Lock()
	if !s.mu.started {
		s.mu.Unlock()
		return
	}
	if s.mu.noted != nil {
		s.mu.noted[key] = at
	}
	sooner := s.put(key, at)
	s.mu.Unlock()
	if sooner {
		s.poke()
	}
}

// first returns when the first timer that does not run is due. The caller holds
// mu.
func (s *scheduler) first() int64 {
	if len(s.mu.due) == 0 {
		return never
	}
	return s.mu.due[0].at
}

// put sets a timer, and reports whether something is due sooner than before. The
// caller holds mu.
func (s *scheduler) put(key timerKey, at int64) (sooner bool) {
	t, before := s.mu.timers[key], s.first()
	switch {
	case t != nil && t.index < 0:
		t.at = at
		return false
	case at == 0 || at >= s.mu.horizon:
		if t != nil {
			heap.Remove(&s.mu.due, t.index)
			delete(s.mu.timers, key)
		}
		return false
	case t == nil:
		t = &timer{timerKey: key, at: at}
		s.mu.timers[key] = t
		heap.Push(&s.mu.due, t)
	default:
		t.at, t.failures = at, 0
		heap.Fix(&s.mu.due, t.index)
	}
	if len(s.mu.due) > s.mu.crowd {
		s.shed()
	}
	return s.first() < before
}

// shed forgets timers beyond the first ones. They are in the store.
func (s *scheduler) shed() {
	all := slices.SortedFunc(slices.Values(s.mu.due), func(a, b *timer) int { return cmp.Compare(a.at, b.at) })
	s.mu.due = nil
	last := all[s.max-1].at // those of one millisecond stay together
	for i, t := range all {
		if t.at > last && t.failures == 0 {
			s.mu.horizon = min(s.mu.horizon, t.at)
			delete(s.mu.timers, t.timerKey)
			continue
		}
		all[i].index = len(s.mu.due)
		s.mu.due = append(s.mu.due, t) // in order, so it is a heap
	}
	s.mu.crowd = max(2*s.max, 2*len(s.mu.due))
}

func (s *scheduler) loop(ctx context.Context) {
	for ctx.Err() == nil {
		t, wait := s.next()
		if t != nil {
			select {
			case s.slots <- struct{}{}:
				go s.fire(t)
			case <-ctx.Done():
			}
			continue
		}
		if wait < 0 {
			if err := s.read(ctx); err != nil && ctx.Err() == nil {
				s.h.log.Error("alarms cannot be read; trying again", "err", err)
				wait = time.Second
			} else {
				continue
			}
		}
		s.sleep(ctx, wait)
	}
}

// sleep waits until something changed, or for a time that is not 0.
func (s *scheduler) sleep(ctx context.Context, wait time.Duration) {
	var over <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(min(wait, clockCheck))
		defer t.Stop()
		over = t.C
	}
	select {
	case <-over:
	case <-s.wake:
	case <-ctx.Done():
	}
}

// next returns a timer to run now, or how long to wait: negative when the store
// has to be read first, 0 until something is set.
func (s *scheduler) next() (*timer, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.first()
	switch {
	case s.mu.horizon == 0 || first >= s.mu.horizon && s.mu.horizon != never:
		return nil, -1
	case first == never:
		return nil, 0
	}
	t := s.mu.due[0]
	// The wall clock says what is due, and the monotonic one how long to sleep.
	if wait := time.UnixMilli(t.at).Sub(time.Now().Round(0)); wait > 0 {
		return nil, wait
	}
	heap.Pop(&s.mu.due)
	t.index, t.at = -1, 0
	return t, 0
}

// read reads the timers that are due soonest.
func (s *scheduler) read(ctx context.Context) error {
	s.mu.Lock()
	s.mu.noted = map[timerKey]int64{}
	rereads := s.mu.rereads
	held := make(map[timerKey]bool, len(s.mu.timers))
	for key := range s.mu.timers {
		held[key] = true
	}
	s.mu.Unlock()
	read, horizon, err := s.scan(ctx, held)
	s.mu.Lock()
	defer s.mu.Unlock()
	noted := s.mu.noted
	s.mu.noted = nil
	if err != nil {
		return err
	}
	s.mu.horizon = horizon
	defer func() {
		if s.mu.rereads != rereads {
			s.mu.horizon = 0
		}
	}()
	for _, t := range read {
		key := timerKey{t.Object, t.Kind}
		if _, ok := noted[key]; !ok && s.mu.timers[key] == nil {
			s.put(key, max(t.Due.UnixMilli(), 1))
		}
	}
	for key, at := range noted {
		s.put(key, at)
	}
	return nil
}

// scan returns the first timers of the store that are not held, of types that are
// registered, and the time before which there are no others.
func (s *scheduler) scan(ctx context.Context, held map[timerKey]bool) (read []storage.Timer, horizon int64, err error) {
	unknown := map[storage.TypeID]bool{}
	for t, err := range s.h.session.Timers(ctx, latestAlarm.AddDate(1, 0, 0)) {
		if err != nil {
			return nil, 0, err
		}
		at := t.Due.UnixMilli()
		// Those of one millisecond stay together, or none of them would be beyond
		// the horizon.
		if len(read) >= s.max && at > read[len(read)-1].Due.UnixMilli() {
			return read, at, nil
		}
		if s.h.typeOf(t.Object.Type) == nil {
			if !unknown[t.Object.Type] {
				unknown[t.Object.Type] = true
				s.h.log.Warn("objects of a type that is not registered have alarms, which wait for it", "type_number", uint32(t.Object.Type))
			}
			continue
		}
		if !held[timerKey{t.Object, t.Kind}] {
			read = append(read, t)
		}
	}
	return read, never, nil
}

// fire runs a timer.
func (s *scheduler) fire(t *timer) {
	err := s.run(context.Background(), t.timerKey, t.failures > 0)
	<-s.slots
	s.mu.Lock()
	key, at := t.timerKey, t.at
	switch {
	case err != nil && !errors.Is(err, durable.ErrDraining):
		t.failures++
		delay := platformDelay << min(t.failures-1, 9)
		again := time.Now().Add(jittered(delay)).UnixMilli()
		if t.failures == 1 || t.failures%10 == 0 {
			s.h.log.Error("an alarm could not be run, and is tried again",
				"type_number", uint32(key.object.Type), "id", durable.ID(key.object.ID).String(), "failures", t.failures, "in", delay, "err", err)
		}
		t.at = again // what a commit set meanwhile may be lost; the rows tell
		heap.Push(&s.mu.due, t)
	case at != 0 && at < s.mu.horizon:
		t.at, t.failures = at, 0
		heap.Push(&s.mu.due, t)
	default:
		delete(s.mu.timers, key)
		if s.mu.noted != nil && at != 0 { // the reader takes it for held
			s.mu.noted[key] = at
		}
	}
	s.mu.Unlock()
	s.poke()
}

// jittered returns d and up to a quarter more.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/4+1))
}

// A timerHeap has the timer that is due first at its front.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(v any) {
	t := v.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}
