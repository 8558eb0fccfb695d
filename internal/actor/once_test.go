package actor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// A onceTest is a host whose calls have idempotency keys. Replies are "ok", or
// the text of an error.
type onceTest struct {
	*testHost
	t     *testing.T
	store *memkv.Store
	runs  int
}

// newOnceTest returns a host in a synctest bubble.
func newOnceTest(t *testing.T) *onceTest {
	o := &onceTest{t: t, store: memkv.New(memkv.Options{})}
	o.open()
	return o
}

func (o *onceTest) open() {
	o.t.Helper()
	o.testHost = newTestHost(o.t, join(o.t, o.store), durable.Limits{}, nil)
	o.Start()
}

func (o *onceTest) close() {
	_ = o.Drain(context.Background())
	_ = o.store.Close()
	synctest.Wait()
}

// do calls object a with a key, and returns how the call ended.
func (o *onceTest) do(key, request string, fn func(ctx context.Context, tx durable.Tx) error) string {
	got := ""
	once := &Once{
		Key: key,
		Encode: func(err error) ([]byte, bool) {
			if err == nil {
				return []byte("ok"), true
			}
			return []byte(err.Error()), !errors.Is(err, context.Canceled)
		},
		Replay: func(reply []byte) error { got = "again: " + string(reply); return nil },
	}
	copy(once.Request[:], request)
	c := o.call("a", &durable.Method{Unary: func(ctx context.Context, _ any, tx durable.Tx, _ proto.Message) (proto.Message, error) {
		o.runs++
		return &emptypb.Empty{}, fn(ctx, tx)
	}})
	c.Once = once
	err := o.Unary(context.Background(), c, &emptypb.Empty{}, &emptypb.Empty{})
	switch {
	case err != nil:
		return err.Error()
	case got != "":
		return got
	}
	return "ok"
}

func (o *onceTest) want(what, got, want string, runs int) {
	o.t.Helper()
	if got != want || o.runs != runs {
		o.t.Errorf("%s: %q after %d runs, want %q after %d", what, got, o.runs, want, runs)
	}
}

func increment(ctx context.Context, tx durable.Tx) error {
	val, _, err := tx.KV().Get(ctx, "n")
	if err != nil {
		return err
	}
	return tx.KV().Put(ctx, "n", append(val, 'x'))
}

func (o *onceTest) count() (n int) {
	err := o.view(context.Background(), "a", func(ctx context.Context, _ *counter, v durable.View) error {
		val, _, err := v.KV().Get(ctx, "n")
		n = len(val)
		return err
	})
	if err != nil {
		o.t.Error(err)
	}
	return n
}

// rows returns how many keys of the runtime's own for replies are stored.
func (o *onceTest) rows() (n int) {
	id := storage.ObjectID{Type: o.typ.id, ID: durable.IDFromName("counter", "a")}
	shard, err := o.shard(context.Background(), id.Shard())
	if err != nil {
		o.t.Fatal(err)
	}
	for pair, err := range shard.Scan(context.Background(), id, storage.Range{}) {
		if err != nil {
			o.t.Fatal(err)
		}
		if pair.Key[0] == spaceReply || pair.Key[0] == spaceExpiry {
			n++
		}
	}
	return n
}

func TestOnce(t *testing.T) {
	bubble := func(name string, fn func(t *testing.T, o *onceTest)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOnceTest(t)
				defer o.close()
				fn(t, o)
			})
		})
	}
	bubble("a reply", func(t *testing.T, o *onceTest) {
		o.want("first", o.do("k", "r", increment), "ok", 1)
		o.want("again", o.do("k", "r", increment), "again: ok", 1)
		o.want("another request", o.do("k", "other", increment), durable.ErrIdempotencyMismatch.Error(), 1)
		o.want("another key", o.do("k2", "r", increment), "ok", 2)
		_ = o.Drain(t.Context())
		o.open() // a crash after the commit
		o.want("after a restart", o.do("k", "r", increment), "again: ok", 2)
		if n := o.count(); n != 2 {
			t.Errorf("it counted %d", n)
		}
	})
	bubble("an error", func(t *testing.T, o *onceTest) {
		fail := func(ctx context.Context, tx durable.Tx) error {
			return errors.Join(increment(ctx, tx), errTest)
		}
		o.want("first", o.do("k", "r", fail), errTest.Error(), 1)
		o.want("again", o.do("k", "r", fail), "again: "+errTest.Error(), 1)
		if n := o.count(); n != 0 {
			t.Errorf("what a failed call wrote is there: %d", n)
		}
		keep := func(ctx context.Context, tx durable.Tx) error {
			return durable.Keep(errors.Join(increment(ctx, tx), errTest))
		}
		o.want("kept", o.do("kept", "r", keep), errTest.Error(), 2)
		o.want("kept again", o.do("kept", "r", keep), "again: "+errTest.Error(), 2)
		if n := o.count(); n != 1 {
			t.Errorf("kept %d", n)
		}
	})
	bubble("an error that says nothing", func(t *testing.T, o *onceTest) {
		left := func(ctx context.Context, tx durable.Tx) error {
			return errors.Join(increment(ctx, tx), context.Canceled)
		}
		o.want("first", o.do("k", "r", left), context.Canceled.Error(), 1)
		o.want("again", o.do("k", "r", increment), "ok", 2)
		committed := func(ctx context.Context, tx durable.Tx) error {
			return errors.Join(increment(ctx, tx), tx.Sync(ctx), context.Canceled)
		}
		o.want("with effects", o.do("k2", "r", committed), context.Canceled.Error(), 3)
		o.want("with effects again", o.do("k2", "r", increment), "again: "+context.Canceled.Error(), 3)
	})
	bubble("a panic leaves no reply", func(t *testing.T, o *onceTest) {
		if got := o.do("k", "r", func(context.Context, durable.Tx) error { panic("on purpose") }); got != "durable: the handler panicked" {
			t.Error(got)
		}
		o.want("again", o.do("k", "r", increment), "ok", 2)
	})
	bubble("cut off after a commit point", func(t *testing.T, o *onceTest) {
		half := func(ctx context.Context, tx durable.Tx) error {
			if err := errors.Join(increment(ctx, tx), tx.Sync(ctx)); err != nil {
				return err
			}
			tx.Abort("on purpose")
			return nil
		}
		o.want("first", o.do("k", "r", half), "on purpose", 1)
		o.want("again", o.do("k", "r", half), durable.ErrIdempotencyCutOff.Error(), 1)
		if n := o.count(); n != 1 {
			t.Errorf("it counted %d", n)
		}
	})
	bubble("under way", func(t *testing.T, o *onceTest) {
		first := make(chan string)
		go func() {
			first <- o.do("k", "r", func(ctx context.Context, tx durable.Tx) error {
				return tx.Await(ctx, func(context.Context) error { time.Sleep(time.Minute); return nil })
			})
		}()
		time.Sleep(time.Second)
		o.want("meanwhile", o.do("k", "r", increment), durable.ErrIdempotencyInProgress.Error(), 1)
		o.want("first", <-first, "ok", 1)
		o.want("again", o.do("k", "r", increment), "again: ok", 1)
	})
	bubble("they wait for one another", func(t *testing.T, o *onceTest) {
		got := make(chan string, 5)
		for range 5 {
			go func() {
				got <- o.do("k", "r", func(ctx context.Context, tx durable.Tx) error {
					time.Sleep(time.Second)
					return increment(ctx, tx)
				})
			}()
		}
		oks := 0
		for range 5 {
			if s := <-got; s == "ok" {
				oks++
			} else if s != "again: ok" {
				t.Error(s)
			}
		}
		if oks != 1 || o.count() != 1 {
			t.Errorf("%d ran, and it counted %d", oks, o.count())
		}
	})
	bubble("forgotten after a day", func(t *testing.T, o *onceTest) {
		for i := range 5 {
			o.do(fmt.Sprint(i), "r", increment)
			time.Sleep(time.Hour)
		}
		o.want("kept for a day", o.do("0", "r", increment), "again: ok", 5)
		time.Sleep(24*time.Hour - 5*time.Hour - time.Second)
		o.want("kept for a day", o.do("0", "r", increment), "again: ok", 5)
		if n := o.rows(); n != 10 {
			t.Errorf("%d rows, want 10", n)
		}
		time.Sleep(2 * time.Second)
		o.want("not longer", o.do("0", "r", increment), "ok", 6)
		time.Sleep(90 * time.Minute)
		if n := o.rows(); n != 8 { // the new 0, and 2 to 4
			t.Errorf("%d rows, want 8", n)
		}
		_ = o.Drain(t.Context())
		o.open()
		time.Sleep(24 * time.Hour)
		if n := o.rows(); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if n := o.count(); n != 6 {
			t.Errorf("the object has lost what it stored: %d", n)
		}
	})
	bubble("DeleteAll", func(t *testing.T, o *onceTest) {
		o.do("k", "r", increment)
		wipe := func(ctx context.Context, tx durable.Tx) error { return tx.DeleteAll(ctx) }
		o.want("delete", o.do("delete", "r", wipe), "ok", 2)
		o.want("delete again", o.do("delete", "r", wipe), "again: ok", 2)
		time.Sleep(25 * time.Hour)
		for object, err := range o.session.Objects(t.Context(), storage.ObjectQuery{Type: o.typ.id}) {
			t.Errorf("KV-49: it is still there: %v %v", object, err)
		}
	})
	bubble("more keys than are read or kept", func(t *testing.T, o *onceTest) {
		nothing := func(context.Context, durable.Tx) error { return nil }
		for i := range readKeys + 100 {
			o.do(fmt.Sprint(i), "r", nothing)
		}
		again := func(what string) {
			for _, i := range []int{0, 500, readKeys + 99} {
				if got := o.do(fmt.Sprint(i), "r", nothing); got != "again: ok" {
					t.Errorf("%s: key %d: %q", what, i, got)
				}
			}
		}
		again("kept")
		_ = o.Drain(t.Context())
		o.open()
		again("too many to read")
		if got := o.do("new", "r", nothing); got != "ok" {
			t.Error(got)
		}
	})
	bubble("many expire at once", func(t *testing.T, o *onceTest) {
		for i := range 2500 {
			o.do(fmt.Sprint(i), "r", func(context.Context, durable.Tx) error { return nil })
		}
		time.Sleep(24*time.Hour + time.Second)
		if n := o.rows(); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}
