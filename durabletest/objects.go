package durabletest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	durable "github.com/durable-go/durable"
)

// RunIn runs fn inside an object, in a turn of its own, behind the calls that
// came before: handler is the value that serves the object now, which the
// constructor makes if needed, and tx its handle. fn may use both as a method of
// the handler may. H is the type of the handler: that of the value, or an
// interface that it implements.
//
//	err := durabletest.RunIn(s, room.Ref, func(ctx context.Context, room *room, tx durable.Tx) error {
//		room.limit = 2
//		return tx.KV().Put(ctx, "topic", []byte("tests"))
//	})
//
// What fn wrote is committed, and durable when RunIn returns, unless it returns an
// error: then it is rolled back, and RunIn returns that error. A panic, and
// [testing.T.FailNow] with all that call it, roll back and reset the object. A
// handler of another type fails the test, and fn does not run. There is no
// deadline.
//
// The typed handle of the schema is made of tx: RoomTx{Tx: tx}.
func RunIn[H any](s *Server, object durable.Ref, fn func(ctx context.Context, handler H, tx durable.Tx) error) error {
	s.tb.Helper()
	var own error
	var other any
	in := s.running()
	err := in.server.Update(context.Background(), object, func(ctx context.Context, handler any, tx durable.Tx) error {
		typed, ok := handler.(H)
		if !ok {
			other = handler
			return errOther
		}
		own = fn(ctx, typed, tx)
		return own
	})
	if errors.Is(err, errOther) {
		s.tb.Fatalf("durabletest: run in %s: its handler is a %T, and not a %v", describe(object), other, reflect.TypeFor[H]())
	}
	if own, _ = durable.Kept(own); own != nil && errors.Is(err, own) {
		err = own // without what the runtime noted on the way
	}
	return s.reply(in, err)
}

var errOther = errors.New("the handler is of another type")

// RunAlarm runs the handler of an alarm now, as if it were due, and reports
// whether the alarm was set; alarm is its name, empty for the default one. When it
// returns true and nil, the handler has succeeded, what it wrote is durable, and
// the alarm is removed, or set for its next run where it recurs or where the
// handler set it. It returns the error of the handler as it is, and the alarm is
// then set for its retry, or given up; and [durable.ErrInvalidArgument] for an
// alarm that the schema does not declare. When the alarm is not set, nothing runs.
func (s *Server) RunAlarm(object durable.Ref, alarm string) (bool, error) {
	s.tb.Helper()
	in := s.running()
	ran, err := in.server.RunAlarm(context.Background(), object, alarm)
	return ran, s.reply(in, err)
}

// ListIDs returns the ids of the existing objects of a type, in order of name and
// then id: those that were committed to, and not deleted since. For their names
// see [server.Server.Objects].
func (s *Server) ListIDs(objectType string) []durable.ID {
	s.tb.Helper()
	var ids []durable.ID
	for object, err := range s.Server().Objects(context.Background(), objectType) {
		if err != nil {
			s.tb.Fatalf("durabletest: list the objects of %s: %v", objectType, err)
		}
		ids = append(ids, object.ID)
	}
	return ids
}

const (
	// evictTimeout is how long work in flight may hold an eviction up.
	evictTimeout = 30 * time.Second
	// evictPause is the time between two attempts, where the queue is full.
	evictPause = 10 * time.Millisecond
)

// Evict drops an object from memory, after the calls that came before, and
// reports whether it was there. Every stub has the ref of its object in a field:
//
//	s.Evict(counter.Ref)
//
// When it returns, what the object committed is durable. The next call of the
// object runs its constructor. Calls that are still under way after 30 seconds
// fail the test. Objects that are kept in memory otherwise are dropped as well.
func (s *Server) Evict(object durable.Ref) bool {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), evictTimeout)
	defer cancel()
	return s.evict(ctx, object)
}

func (s *Server) evict(ctx context.Context, object durable.Ref) bool {
	s.tb.Helper()
	was, err := s.Server().Evict(ctx, object.ObjectType(), object.ID())
	var overload *durable.OverloadError
	for errors.As(err, &overload) && ctx.Err() == nil { // the queue is of calls, and shorter perhaps
		time.Sleep(evictPause)
		was, err = s.Server().Evict(ctx, object.ObjectType(), object.ID())
	}
	switch {
	case ctx.Err() != nil && err != nil:
		s.tb.Fatalf("durabletest: evict %s: it is still at work after %v", describe(object), evictTimeout)
	case err != nil:
		s.tb.Fatalf("durabletest: evict %s: %v", describe(object), err)
	}
	return was
}

// EvictAll drops every object from memory, as [Server.Evict] does, and returns
// how many there were. It allows 30 seconds for all together.
func (s *Server) EvictAll() int {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), evictTimeout)
	defer cancel()
	n := 0
	for _, object := range s.running().seen.all() {
		if s.evict(ctx, durable.RefByID(nil, object.objectType, object.id)) {
			n++
		}
	}
	return n
}

// describe names an object in messages.
func describe(object durable.Ref) string {
	if name, ok := object.Name(); ok {
		return fmt.Sprintf("%s %q", object.ObjectType(), name)
	}
	return fmt.Sprintf("%s %s", object.ObjectType(), object.ID())
}

// A registrar notes which objects come into memory.
type registrar struct {
	durable.Registrar
	seen *objectSet
}

// RegisterObject implements [durable.Registrar].
func (r registrar) RegisterObject(t *durable.ObjectType) error {
	own := *t
	own.New = func(ctx context.Context, tx durable.Tx) (any, error) {
		r.seen.add(objectKey{tx.ObjectType(), tx.ID()})
		return t.New(ctx, tx)
	}
	return r.Registrar.RegisterObject(&own)
}

type objectKey struct {
	objectType string
	id         durable.ID
}

// An objectSet has the objects that came into memory.
type objectSet struct {
	mu      sync.Mutex
	objects map[objectKey]struct{}
}

func (o *objectSet) add(key objectKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.objects == nil {
		o.objects = map[objectKey]struct{}{}
	}
	o.objects[key] = struct{}{}
}

func (o *objectSet) all() []objectKey {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []objectKey
	for key := range o.objects {
		all = append(all, key)
	}
	return all
}
