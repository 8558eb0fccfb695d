package storage

import "sync"

// Pending is a commit under way.
type Pending struct {
	done chan struct{}
	once sync.Once
	err  error
}

// NewPending returns a commit that has not resolved.
func NewPending() *Pending { return &Pending{done: make(chan struct{})} }

// ResolvedPending returns a commit that has resolved to err.
func ResolvedPending(err error) *Pending {
	p := NewPending()
	p.Resolve(err)
	return p
}

// Resolve ends the commit with its outcome. Only the first call counts.
func (p *Pending) Resolve(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
	})
}

// Done is closed when the outcome is known.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Resolved reports whether the outcome is known, and the outcome.
func (p *Pending) Resolved() (bool, error) {
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Wait returns the outcome as soon as it is known.
func (p *Pending) Wait() error {
	<-p.done
	return p.err
}
