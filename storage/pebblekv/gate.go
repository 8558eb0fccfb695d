package pebblekv

import (
	"math"
	"sync"
	"sync/atomic"
)

// A gate counts those inside and, once closed, lets nobody in.
type gate struct {
	inside  atomic.Int64 // far below zero once closed
	once    sync.Once
	drained chan struct{}
}

const gateClosed = math.MinInt64 / 2

func newGate() *gate { return &gate{drained: make(chan struct{})} }

// enter reports whether the caller is inside, and must leave.
func (g *gate) enter() bool {
	if g.inside.Add(1) > 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.inside.Add(-1) == gateClosed {
		g.once.Do(func() { close(g.drained) })
	}
}

// close keeps everybody out from now on and waits until nobody is inside. It is
// called once.
func (g *gate) close() {
	if g.inside.Add(gateClosed) == gateClosed {
		g.once.Do(func() { close(g.drained) })
	}
	<-g.drained
}
