package actor

import (
	"container/heap"
	"context"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	durable "github.com/durable-go/durable"
)

// A life lets go of what is idle: activations whose idle time is over, or that
// are too many, and entries of the table that nothing needs.
//
// It looks at an entry when it could be over at the earliest, and not at every
// call: an entry that was used meanwhile is looked at again later. So calls cost
// it next to nothing, and the order in which it looks is that of last use.
type life struct {
	h       *Host
	active  atomic.Int64 // activations in memory
	leaving atomic.Int64 // of them, those whose handlers are being told
	max     int64        // of them; 0: no limit
	memory  uint64       // bytes of live heap beyond which activations go; 0: no limit

	mu struct {
		sync.Mutex
		idle  idleHeap
		timer *time.Timer // set for the first of idle; nil before the first use
		// sampling is set while a look at the memory is to come.
		sampling bool
		cycles   uint64 // of the garbage collector, at the last eviction for memory
		stopped  bool
	}
}

// An idleEntry is the part of an object that life guards.
type idleEntry struct {
	at    time.Time // when to look at it
	index int       // in the heap; -1: not in it
}

const (
	// settlePause is how long life waits for a commit to become durable before it
	// looks again.
	settlePause = time.Second
	// memoryPause is the time between two looks at the memory.
	memoryPause = time.Second
	// evictTimeout is how long an [durable.Evicter] may take.
	evictTimeout = 10 * time.Second
)

// watch takes an entry that is used no more. The caller holds the lock of its
// bucket.
func (l *life) watch(o *object, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.idle.index >= 0 || l.mu.stopped {
		return
	}
	o.idle.at = at
	heap.Push(&l.mu.idle, o)
	if o.idle.index == 0 {
		l.arm(at)
	}
}

// stop ends the looking.
func (l *life) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.stopped = true
	if l.mu.timer != nil {
		l.mu.timer.Stop()
	}
}

// arm sets the timer. The caller holds mu.
func (l *life) arm(at time.Time) {
	wait := max(time.Until(at), 0)
	if l.mu.timer == nil {
		l.mu.timer = time.AfterFunc(wait, l.sweep)
	} else {
		l.mu.timer.Reset(wait)
	}
}

// sweep looks at everything whose time has come.
func (l *life) sweep() {
	for o := l.next(time.Now()); o != nil; o = l.next(time.Now()) {
		l.look(o, false)
	}
}

// next takes the first entry whose time has come by now out of the heap. Where there is
// none it sets the timer for the first of the others.
func (l *life) next(now time.Time) *object {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.idle) == 0 {
		return nil
	}
	if at := l.mu.idle[0].idle.at; at.After(now) {
		l.arm(at)
		return nil
	}
	return heap.Pop(&l.mu.idle).(*object)
}

// look looks at an entry that is not in the heap, and reports whether it dropped
// its activation. force drops it before its time.
func (l *life) look(o *object, force bool) bool {
	act := l.decide(o, force)
	if act == nil {
		return false
	}
	if _, ok := act.handler.(durable.Evicter); !ok {
		act.release()
		return true
	}
	l.leaving.Add(1)
	go func() {
		defer l.leaving.Add(-1)
		defer l.h.release(o)
		ctx, cancel := context.WithTimeout(context.Background(), evictTimeout)
		defer cancel()
		_, _ = o.evict(ctx, act)
	}()
	return true
}

// decide takes an activation that is over, and returns it: out of the table, or,
// when its handler wants to know, with a reference to its entry.
func (l *life) decide(o *object, force bool) *activation {
	b := l.h.bucket(o.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.refs > 0 {
		return nil // whoever uses it gives it back
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	act, settled := o.act, o.isSettled()
	switch over := o.idleSince.Add(o.typ.Limits.IdleTimeout); {
	case act == nil && settled:
		if !o.hasConns() {
			b.remove(o)
		}
		return nil
	case act != nil && o.typ.KeepActive:
		return nil
	case !settled:
		l.watch(o, time.Now().Add(settlePause))
		return nil
	case !force && time.Now().Before(over):
		l.watch(o, over)
		return nil
	}
	if _, ok := act.handler.(durable.Evicter); ok {
		o.refs++
		return act
	}
	o.drop(act)
	if !o.hasConns() {
		b.remove(o)
	}
	return act
}

// added counts an activation that was made, and makes room for it.
func (l *life) added() {
	n := l.active.Add(1)
	for ; l.max > 0 && n-l.leaving.Load() > l.max; n = l.active.Load() {
		if !l.evictOne() {
			return
		}
	}
	if l.memory > 0 {
		l.mu.Lock()
		if !l.mu.sampling {
			l.mu.sampling = true
			time.AfterFunc(memoryPause, l.sample)
		}
		l.mu.Unlock()
	}
}

// evictOne drops the activation that was not used for longest, and reports
// whether there was one that could be dropped.
func (l *life) evictOne() bool {
	for range l.waiting() {
		l.mu.Lock()
		if len(l.mu.idle) == 0 {
			l.mu.Unlock()
			return false
		}
		o := heap.Pop(&l.mu.idle).(*object)
		at := o.idle.at
		l.mu.Unlock()
		b := l.h.bucket(o.id)
		b.mu.Lock()
		over := o.idleSince.Add(o.typ.Limits.IdleTimeout)
		fresh := o.refs == 0 && over.After(at) // used since it was put there
		if fresh {
			l.watch(o, over)
		}
		b.mu.Unlock()
		if !fresh && l.look(o, true) {
			return true
		}
	}
	return false
}

func (l *life) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.idle)
}

// sample drops an eighth of the activations when the live heap is too big. It
// waits for the garbage collector between two times.
func (l *life) sample() {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(samples)
	live, cycles := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	l.mu.Lock()
	due := live > l.memory && cycles != l.mu.cycles
	if due {
		l.mu.cycles = cycles
	}
	l.mu.Unlock()
	if due {
		active := l.active.Load()
		for range active/8 + 1 {
			if !l.evictOne() {
				break
			}
		}
		l.h.log.Info("objects were dropped from memory, which is short", "live_bytes", live, "limit", l.memory, "before", active, "after", l.active.Load())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.sampling = l.active.Load() > 0 && !l.mu.stopped
	if l.mu.sampling {
		time.AfterFunc(memoryPause, l.sample)
	}
}

// evict drops the activation after the turns that came before, those included
// that are away, when it is still the one given and nobody else came, or any where
// only is nil. It tells the handler first, and reports whether there was one.
func (o *object) evict(ctx context.Context, only *activation) (bool, error) {
	for {
		if _, err := o.enter(ctx, wish{access: exclusive, known: true}); err != nil {
			return false, err
		}
		o.mu.Lock()
		away, act := len(o.running) > 0, o.act
		o.mu.Unlock()
		if away {
			o.leave(exclusive)
			if err := o.quiet(ctx); err != nil {
				return false, err
			}
			continue
		}
		evicts := act != nil && (only == nil || act == only && !o.usedByOthers())
		if evicts {
			o.tell(ctx, act)
			o.retire(act)
		}
		o.leave(exclusive)
		return evicts, nil
	}
}

// usedByOthers reports whether others than the caller use the entry.
func (o *object) usedByOthers() bool {
	b := o.host.bucket(o.id)
	b.mu.Lock()
	defer b.mu.Unlock()
	return o.refs > 1
}

// quiet waits until the turns that have begun are over, also those that are away,
// for as long as calls wait in the queue.
func (o *object) quiet(ctx context.Context) error {
	limit := o.typ.Limits.MaxQueueWait
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		o.mu.Lock()
		if len(o.running) == 0 {
			o.mu.Unlock()
			return nil
		}
		if o.ended == nil {
			o.ended = make(chan struct{})
		}
		ended := o.ended
		o.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			ms := limit.Milliseconds()
			return &durable.OverloadError{Limit: "milliseconds until the handlers end", Max: ms, Actual: ms}
		}
	}
}

// tell calls the handler's Evict, if it has one, and waits for a time.
func (o *object) tell(ctx context.Context, act *activation) {
	evicter, ok := act.handler.(durable.Evicter)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		t := &turn{o: o, act: act}
		t.state.Store(done)
		_ = t.call(func() error { evicter.Evict(ctx); return nil }, func(error) {})
	}()
	select {
	case <-returned:
	case <-ctx.Done():
		o.host.log.Warn("Evict of a handler did not end, and the object is dropped", "type", o.typ.Name, "id", o.durableID().String())
	}
}

// drop takes the activation out of memory, if it is the object's. The caller
// holds mu, and releases the activation.
func (o *object) drop(act *activation) bool {
	if act == nil || o.act != act {
		return false
	}
	o.act = nil
	o.host.life.active.Add(-1)
	return true
}

// An idleHeap has the entry to look at first at its front.
type idleHeap []*object

func (h idleHeap) Len() int           { return len(h) }
func (h idleHeap) Less(i, j int) bool { return h[i].idle.at.Before(h[j].idle.at) }
func (h idleHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].idle.index, h[j].idle.index = i, j
}

func (h *idleHeap) Push(v any) {
	o := v.(*object)
	o.idle.index = len(*h)
	*h = append(*h, o)
}

func (h *idleHeap) Pop() any {
	last := len(*h) - 1
	o := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	o.idle.index = -1
	return o
}
