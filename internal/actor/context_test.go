package actor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type valueKey struct{}

// TestHandlerContext compares the context with those of package context, which
// it stands in for.
func TestHandlerContext(t *testing.T) {
	tests := []struct {
		name    string
		timeout time.Duration
		parent  time.Duration // of the parent, 0: none
	}{
		{"no deadline", 0, 0},
		{"own deadline", time.Second, 0},
		{"parent's deadline", 0, time.Second},
		{"parent's is earlier", 2 * time.Second, time.Second},
		{"own is earlier", time.Second, 2 * time.Second},
	}
	for _, test := range tests {
		for _, ending := range []string{"by itself", "by its parent", "by end"} {
			for _, watched := range []bool{false, true} { // somebody asked for Done
				synctest.Test(t, func(t *testing.T) {
					name := test.name + ", ends " + ending
					base, cancel := context.WithCancelCause(context.WithValue(context.Background(), valueKey{}, 7))
					defer cancel(nil)
					parent := base
					if test.parent > 0 {
						var stop context.CancelFunc
						parent, stop = context.WithTimeout(base, test.parent)
						defer stop()
					}
					var want context.Context
					var stop context.CancelFunc
					if test.timeout > 0 {
						want, stop = context.WithTimeout(parent, test.timeout)
					} else {
						want, stop = context.WithCancel(parent)
					}
					defer stop()
					l := &link{depth: 3}
					got := newHandlerContext(parent, test.timeout, time.Now(), l)
					defer got.end()

					wantDeadline, wantOK := want.Deadline()
					if deadline, ok := got.Deadline(); ok != wantOK || !deadline.Equal(wantDeadline) {
						t.Errorf("%s: deadline %v %v, want %v %v", name, deadline, ok, wantDeadline, wantOK)
					}
					if got.Err() != nil || got.Value(valueKey{}) != 7 || chainOf(got) != l || chainOf(parent) != nil {
						t.Errorf("%s: err %v, value %v, chain %v", name, got.Err(), got.Value(valueKey{}), chainOf(got))
					}
					var child context.Context
					if watched {
						select {
						case <-got.Done():
							t.Errorf("%s: ended at once", name)
						default:
						}
						var stopChild context.CancelFunc
						child, stopChild = context.WithCancel(got)
						defer stopChild()
					}
					switch ending {
					case "by its parent":
						cancel(errors.New("why"))
					case "by end":
						got.end()
						stop()
					case "by itself":
						time.Sleep(time.Second)
						if !wantOK {
							return
						}
					}
					synctest.Wait()
					if got.Err() == nil || !errors.Is(got.Err(), want.Err()) {
						t.Errorf("%s, watched %v: err %v, want %v", name, watched, got.Err(), want.Err())
					}
					if ending == "by its parent" && context.Cause(got).Error() != "why" {
						t.Errorf("%s, watched %v: cause %v", name, watched, context.Cause(got))
					}
					select {
					case <-got.Done():
					default:
						t.Errorf("%s: not done", name)
					}
					if child != nil && child.Err() == nil {
						t.Errorf("%s: its child lives on", name)
					}
				})
			}
		}
	}
}
