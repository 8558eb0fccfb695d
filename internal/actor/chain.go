package actor

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	durable "github.com/durable-go/durable"
)

// maxChain is how many objects one chain of calls may hold.
const maxChain = 32

// A link is one object in a chain of calls: it called, or may call, the next.
type link struct {
	typeName string
	id       durable.ID
	parent   *link
	depth    int
	// away is set while the object waits outside its turn, and afterwards, so
	// that calls back to it can be served.
	away atomic.Bool
	// ended is set when the call is over: who still has its context is in no
	// chain.
	ended atomic.Bool
}

func (l *link) end() {
	l.away.Store(true)
	l.ended.Store(true)
}

type chainKey struct{}

// chainOf returns the innermost link of the chain that ctx belongs to.
func chainOf(ctx context.Context) *link {
	l, _ := ctx.Value(chainKey{}).(*link)
	for l != nil && l.ended.Load() {
		l = l.parent
	}
	return l
}

// extend returns the chain with the object at its end. It refuses a chain that
// is too long, or comes back to an object that holds its turn.
func (o *object) extend(parent *link) (*link, error) {
	l := &link{typeName: o.typ.Name, id: o.durableID(), parent: parent, depth: 1}
	if parent == nil {
		return l, nil
	}
	l.depth = parent.depth + 1
	for p := parent; p != nil; p = p.parent {
		if p.id == l.id && p.typeName == l.typeName && !p.away.Load() {
			return nil, &durable.ChainError{Cycle: true, Max: maxChain, Chain: l.names()}
		}
	}
	if l.depth > maxChain {
		return nil, &durable.ChainError{Max: maxChain, Chain: l.names()}
	}
	return l, nil
}

// outsideTurns returns a link in place of l, whose turn is over, for a call that
// goes on without one.
func (l *link) outsideTurns() *link {
	out := &link{typeName: l.typeName, id: l.id, parent: l.parent, depth: l.depth}
	out.away.Store(true)
	return out
}

// names lists the chain, outermost first.
func (l *link) names() []string {
	var names []string
	for ; l != nil; l = l.parent {
		names = append(names, fmt.Sprintf("%s/%s", l.typeName, l.id))
	}
	slices.Reverse(names)
	return names
}
