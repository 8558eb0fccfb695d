package actor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// TestOnceEdges: a call with a key is remembered once and in its own turn, and
// what is remembered ends with its time.
func TestOnceEdges(t *testing.T) {
	bubble := func(name string, fn func(t *testing.T, o *onceTest)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOnceTest(t)
				defer o.close()
				fn(t, o)
			})
		})
	}
	bubble("an error with a transaction left open", func(t *testing.T, o *onceTest) {
		fail := func(ctx context.Context, tx durable.Tx) error {
			db := tx.SQL()
			if _, err := db.Exec(ctx, "create table t (n)"); err != nil {
				return err
			}
			open, err := db.DB().BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			if _, err := open.ExecContext(ctx, "insert into t values (1)"); err != nil {
				return err
			}
			return errTest
		}
		o.want("first", o.do("k", "r", fail), errTest.Error(), 1)
		o.want("again", o.do("k", "r", fail), "again: "+errTest.Error(), 1)
		o.want("its table is gone", o.do("k2", "r", fail), errTest.Error(), 2)
	})
	bubble("LIFE-11 a reply alone makes no object", func(t *testing.T, o *onceTest) {
		o.want("refused", o.do("k", "r", func(context.Context, durable.Tx) error { return errTest }), errTest.Error(), 1)
		time.Sleep(25 * time.Hour)
		for object, err := range o.session.Objects(t.Context(), storage.ObjectQuery{Type: o.typ.id}) {
			t.Errorf("its reply is forgotten, and it is still there: %v %v", object, err)
		}
	})
	bubble("a key that expires under way", func(t *testing.T, o *onceTest) {
		_ = o.Drain(t.Context())
		o.testHost = newTestHost(t, join(t, o.store), durable.Limits{ReplyRetention: time.Second}, nil)
		o.Start()
		slow := func(ctx context.Context, tx durable.Tx) error {
			if err := errors.Join(increment(ctx, tx), tx.Sync(ctx)); err != nil { // from here on it is stored
				return err
			}
			return tx.Await(ctx, func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		}
		first := make(chan string, 1)
		go func() { first <- o.do("k", "r", slow) }()
		time.Sleep(3 * time.Second)
		o.want("meanwhile", o.do("k", "r", slow), durable.ErrIdempotencyInProgress.Error(), 1)
		o.want("first", <-first, "ok", 1)
		if n := o.count(); n != 1 {
			t.Errorf("it counted %d", n)
		}
	})
	bubble("forgetting what is gone", func(t *testing.T, o *onceTest) {
		id := storage.ObjectID{Type: o.typ.id, ID: durable.IDFromName("counter", "gone")}
		if err := o.runTimer(t.Context(), timerKey{id, timerReplies}, false); err != nil {
			t.Error(err)
		}
		for object, err := range o.session.Objects(t.Context(), storage.ObjectQuery{Type: o.typ.id}) {
			t.Errorf("it made an object: %v %v", object, err)
		}
	})
	bubble("LIFE-13b a call that lost its turn stores no reply", func(t *testing.T, o *onceTest) {
		if err := o.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error { return increment(ctx, tx) }); err != nil {
			t.Fatal(err)
		}
		done := make(chan string, 1)
		go func() {
			done <- o.do("k", "r", func(ctx context.Context, tx durable.Tx) error {
				err := tx.Await(ctx, func(context.Context) error { time.Sleep(time.Second); return nil })
				time.Sleep(3 * time.Second) // outside of any turn
				return err
			})
		}()
		time.Sleep(time.Second / 2)
		if err := o.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			return errors.Join(increment(ctx, tx), errTest) // drops the activation
		}); !errors.Is(err, errTest) {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := o.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
			if err := errors.Join(tx.DeleteAll(ctx), increment(ctx, tx), tx.Sync(ctx)); err != nil {
				return err
			}
			time.Sleep(10 * time.Second) // the other call ends meanwhile
			if n := o.rows(); n != 0 {
				t.Errorf("inside of one turn %d rows of another call came", n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if got := <-done; got != durable.ErrReset.Error() {
			t.Errorf("the call that lost its turn: %q", got)
		}
		if n := o.rows(); n != 0 || o.count() != 1 {
			t.Errorf("%d rows of replies are left, and it counted %d", n, o.count())
		}
	})
}
