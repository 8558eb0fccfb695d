package ormtest

import (
	"context"
	"testing"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
)

// An object is a durable object whose handlers are closures of the test.
type object struct {
	t      *testing.T
	server *durabletest.Server
	stub   counterv1durable.CounterStub
	write  func(ctx context.Context, tx durable.Tx) error
	read   func(ctx context.Context, view durable.View) error
	err    error // what the closure returned
}

// newObject returns an object of a server of its own, with the database that setup
// makes. Its calls come one after another.
func newObject(t *testing.T, setup ...string) *object {
	t.Helper()
	o := &object{t: t}
	o.server = durabletest.New(t, func(r durable.Registrar) error {
		return counterv1durable.RegisterCounter(r, func(context.Context, counterv1durable.CounterTx) (counterv1durable.CounterHandler, error) {
			return handler{o: o}, nil
		})
	})
	o.stub = counterv1durable.NewCounterClient(o.server.Conn()).GetByName("a")
	for _, query := range setup {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, query)
			return err
		})
	}
	return o
}

type handler struct {
	counterv1durable.UnimplementedCounterHandler
	o *object
}

func (h handler) Add(ctx context.Context, tx counterv1durable.CounterTx, _ *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	h.o.err = h.o.write(ctx, tx)
	return &counterv1.AddResponse{}, h.o.err
}

func (h handler) Get(ctx context.Context, view counterv1durable.CounterView, _ *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	h.o.err = h.o.read(ctx, view)
	return &counterv1.GetResponse{}, h.o.err
}

// update runs fn in a turn that may write. It returns what the caller gets; what
// fn returned is in err of o.
func (o *object) update(fn func(ctx context.Context, tx durable.Tx) error) error {
	o.write = fn
	_, err := o.stub.Add(o.t.Context(), &counterv1.AddRequest{})
	return err
}

// view runs fn in a turn that reads.
func (o *object) view(fn func(ctx context.Context, view durable.View) error) error {
	o.read = fn
	_, err := o.stub.Get(o.t.Context(), &counterv1.GetRequest{})
	return err
}

func (o *object) must(fn func(ctx context.Context, tx durable.Tx) error) {
	o.t.Helper()
	if err := o.update(fn); err != nil {
		o.t.Fatal(err)
	}
}

func (o *object) mustView(fn func(ctx context.Context, view durable.View) error) {
	o.t.Helper()
	if err := o.view(fn); err != nil {
		o.t.Fatal(err)
	}
}

// names returns the authors' names, as the next turn sees them.
func (o *object) names() (names []string) {
	o.t.Helper()
	o.mustView(func(ctx context.Context, view durable.View) (err error) {
		names, err = durable.All[string](ctx, view.SQL(), "SELECT name FROM author ORDER BY name")
		return err
	})
	return names
}

// pair returns the value of the pair "k", as the next turn sees it, "" without one.
func (o *object) pair() (value string) {
	o.t.Helper()
	o.mustView(func(ctx context.Context, view durable.View) error {
		b, _, err := view.KV().Get(ctx, "k")
		value = string(b)
		return err
	})
	return value
}
