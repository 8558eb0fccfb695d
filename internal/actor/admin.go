package actor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// bare runs fn in a turn that does not run the constructor: on the activation
// where there is one, and on what is stored otherwise.
func (o *object) bare(ctx context.Context, a access, fn func(t *turn) error) (mark, error) {
	return o.bareWish(ctx, wish{access: a, known: true}, fn)
}

func (o *object) bareWish(ctx context.Context, want wish, fn func(t *turn) error) (mark, error) {
	a := want.access
	if _, err := o.enter(ctx, want); err != nil {
		return mark{}, err
	}
	act := o.settled()
	if act == nil {
		var err error
		if act, err = o.load(ctx); err != nil {
			o.leave(a)
			return mark{}, err
		}
	}
	t := newTurn(o, act, a, nil)
	err := t.call(func() error { return fn(t) }, func(err error) { _, _ = t.finish(err) })
	return t.finish(err)
}

// A Description tells about one object.
type Description struct {
	Exists     bool
	Name       string
	Created    time.Time
	LastCommit time.Time // to the minute when it is not in memory; zero: not known
	// StoredBytes is how many bytes of keys and values are stored; of a big object
	// about how many it takes in the store, as far as that can tell.
	StoredBytes int64
	Active      bool // it is in memory
	Connections int  // that are open
	Alarms      []durable.AlarmStatus
}

// with runs fn on the entry of an object, as a call does.
func (h *Host) with(typ *Type, id durable.ID, fn func(o *object) error) error {
	if err := h.start(false); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(typ, id, "")
	defer h.release(o)
	return fn(o)
}

// look runs fn in a reading turn without a handler, and change in one that may
// write. They return when what fn saw and wrote is durable, and
// [durable.ErrNoObject] for an object that does not exist.
func (h *Host) look(ctx context.Context, typ *Type, id durable.ID, fn func(t *turn) error) error {
	return h.bareTurn(ctx, typ, id, shared, existing(fn))
}

func (h *Host) change(ctx context.Context, typ *Type, id durable.ID, fn func(t *turn) error) error {
	return h.bareTurn(ctx, typ, id, exclusive, existing(fn))
}

func existing(fn func(t *turn) error) func(t *turn) error {
	return func(t *turn) error {
		if !t.act.exists {
			return durable.ErrNoObject
		}
		return fn(t)
	}
}

func (h *Host) bareTurn(ctx context.Context, typ *Type, id durable.ID, a access, fn func(t *turn) error) error {
	return h.with(typ, id, func(o *object) error {
		m, err := o.bare(ctx, a, fn)
		return o.reply(ctx, m, err)
	})
}

// Describe returns what is known of an object; of one that does not exist, that
// it does not, and whether it is in memory.
func (h *Host) Describe(ctx context.Context, typ *Type, id durable.ID) (d Description, err error) {
	err = h.bareTurn(ctx, typ, id, shared, func(t *turn) error {
		act := t.act
		d.Active, d.Connections = act.handler != nil, t.o.connCount()
		d.Name, d.Exists = t.name, act.exists
		if !act.exists {
			return nil
		}
		d.Created = act.created
		if d.Alarms, err = (*turnAlarms)(t).All(); err != nil {
			return err
		}
		if d.LastCommit, err = act.commitTime(ctx, t.o.id); err != nil {
			return err
		}
		d.StoredBytes, err = act.size(ctx, t.o.id)
		return err
	})
	return d, err
}

// countedPairs is how many pairs of an object are counted one by one.
const countedPairs = 1000

// size returns how many bytes the object has stored.
func (a *activation) size(ctx context.Context, id storage.ObjectID) (int64, error) {
	sizer, _ := a.shard.Shard.(storage.Sizer)
	n, pairs := int64(0), 0
	for pair, err := range a.shard.Scan(ctx, id, storage.Range{}) {
		if err != nil {
			return 0, readFailed("describe", err)
		}
		n += int64(len(pair.Key) + len(pair.Val))
		if pairs++; pairs >= countedPairs && sizer != nil {
			estimate, err := sizer.Size(ctx, id)
			if err != nil {
				return 0, readFailed("describe", err)
			}
			return max(n, estimate), nil
		}
	}
	return n, nil
}

// Inspect runs fn in a reading turn that does not run the constructor. It returns
// [durable.ErrNoObject] for an object that does not exist.
func (h *Host) Inspect(ctx context.Context, typ *Type, id durable.ID, fn func(view durable.View) error) error {
	return h.look(ctx, typ, id, func(t *turn) error {
		t.ctx = ctx
		return fn(viewHandle{t})
	})
}

// Update runs fn in a turn of the object, which it makes if needed, and returns
// when what fn wrote is durable. name may be empty.
func (h *Host) Update(ctx context.Context, typ *Type, id durable.ID, name string, fn func(ctx context.Context, handler any, tx durable.Tx) error) error {
	parent := chainOf(ctx)
	if err := h.start(parent != nil); err != nil {
		return err
	}
	defer h.finish()
	o := h.object(typ, id, name)
	defer h.release(o)
	l, err := o.extend(parent)
	if err != nil {
		return err
	}
	m, err := o.inTurn(ctx, wish{access: exclusive}, l, nil, func(t *turn) error {
		hctx := t.handling(ctx, "", 0)
		defer hctx.end()
		return fn(hctx, t.act.handler, txHandle{t})
	})
	return o.reply(ctx, m, err)
}

// Abort drops the activation of an object at once, without waiting for its
// turns: their contexts end, their handles are dead, and they and the calls that
// wait fail with a [durable.AbortError]. Connections are closed with it, also those of
// an object that is not in memory. It reports whether there was an activation.
func (h *Host) Abort(_ context.Context, typ *Type, id durable.ID, reason string) (was bool, err error) {
	err = h.with(typ, id, func(o *object) error {
		o.mu.Lock()
		act, turns := o.act, slices.Clone(o.running)
		o.mu.Unlock()
		aborted := &durable.AbortError{Reason: reason}
		if act == nil {
			o.disconnect(aborted, false)
			return nil
		}
		was = true
		o.reset(act, aborted)
		for _, t := range turns {
			if t.act == act {
				t.cutOff()
			}
		}
		return nil
	})
	return was, err
}

// Delete removes everything that an object has stored, drops its activation and
// closes its connections, after the turns that came before. It reports whether the object existed, and
// returns when that is durable.
func (h *Host) Delete(ctx context.Context, typ *Type, id durable.ID) (bool, error) {
	err := h.bareTurn(ctx, typ, id, exclusive, func(t *turn) error {
		if !t.act.exists { // but it may have connections
			t.o.disconnect(durable.ErrNoObject, true)
			return durable.ErrNoObject
		}
		if err := (txHandle{t}).DeleteAll(ctx); err != nil {
			return err
		}
		if err := t.commitNow(); err != nil {
			return err
		}
		t.o.retire(t.act)
		t.o.disconnectAt(t.o.now(t.act), durable.ErrNoObject, true)
		return nil
	})
	if errors.Is(err, durable.ErrNoObject) {
		return false, nil
	}
	return err == nil, err
}

// Alarms returns the alarms of an object, in order of name.
func (h *Host) Alarms(ctx context.Context, typ *Type, id durable.ID) (all []durable.AlarmStatus, err error) {
	err = h.look(ctx, typ, id, func(t *turn) error {
		all, err = (*turnAlarms)(t).All()
		return err
	})
	return all, err
}

// SetAlarm sets an alarm of an object that exists, as [durable.Alarm].Set does,
// and returns when that is durable.
func (h *Host) SetAlarm(ctx context.Context, typ *Type, id durable.ID, alarm string, at time.Time, payload proto.Message) error {
	return h.change(ctx, typ, id, func(t *turn) error { return (*turnAlarms)(t).Set(alarm, at, payload) })
}

// DeleteAlarm removes an alarm of an object, and reports whether it was set.
func (h *Host) DeleteAlarm(ctx context.Context, typ *Type, id durable.ID, alarm string) (was bool, err error) {
	err = h.change(ctx, typ, id, func(t *turn) error {
		_, was, err = (*turnAlarms)(t).Get(alarm)
		if err != nil {
			return err
		}
		return (*turnAlarms)(t).Delete(alarm)
	})
	return was, err
}

// RunAlarm runs the handler of an alarm now, as if it were due, and returns when
// the outcome is durable. It reports whether the alarm was set. The error of the
// handler is returned; the alarm is then set for its retry, or given up, as always.
func (h *Host) RunAlarm(ctx context.Context, typ *Type, id durable.ID, alarm string) (ran bool, err error) {
	if typ.alarm(alarm) == nil {
		return false, fmt.Errorf("%w: the schema of %s declares no alarm %q", durable.ErrInvalidArgument, typ.Name, alarm)
	}
	// The constructor is not run for nothing.
	err = h.look(ctx, typ, id, func(t *turn) error {
		_, ran, err = (*turnAlarms)(t).Get(alarm)
		return err
	})
	if err != nil || !ran {
		if errors.Is(err, durable.ErrNoObject) {
			err = nil
		}
		return false, err
	}
	err = h.with(typ, id, func(o *object) error {
		// A caller that leaves is no failure of the alarm.
		ran, err = o.runAlarm(context.WithoutCancel(ctx), alarm, true, false)
		var failed *alarmFailure
		if errors.As(err, &failed) {
			return failed.error
		}
		return err
	})
	return ran, err
}
