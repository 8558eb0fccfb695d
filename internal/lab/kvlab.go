package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A kvLab takes steps. It remembers the handle of the call before, to use it
// when it is over.
type kvLab struct{ stale durable.Tx }

func (l *Lab) newKVLab(context.Context, labv1durable.KVLabTx) (labv1durable.KVLabHandler, error) {
	l.Constructed.Add(1)
	return &kvLab{}, nil
}

// Run implements [labv1durable.KVLabHandler].
func (k *kvLab) Run(ctx context.Context, tx labv1durable.KVLabTx, req *labv1.RunRequest) (*labv1.RunResponse, error) {
	results, err := (&steps{lab: k, handle: tx, reader: tx.KV(), tx: tx}).run(ctx, req.GetSteps())
	k.stale = tx
	if err != nil {
		return nil, err
	}
	return &labv1.RunResponse{Results: results}, nil
}

// Read implements [labv1durable.KVLabHandler].
func (k *kvLab) Read(ctx context.Context, view labv1durable.KVLabView, req *labv1.ReadRequest) (*labv1.ReadResponse, error) {
	results, err := (&steps{lab: k, handle: view, reader: view.KV()}).run(ctx, req.GetSteps())
	if err != nil {
		return nil, err
	}
	return &labv1.ReadResponse{Results: results}, nil
}

// steps takes steps with one handle.
type steps struct {
	lab    *kvLab
	handle durable.Handle
	reader durable.KVReader
	tx     durable.Tx // nil in a view
}

func (s *steps) run(ctx context.Context, todo []*labv1.Step) ([]*labv1.Result, error) {
	var results []*labv1.Result
	for _, step := range todo {
		res := &labv1.Result{}
		if err := s.step(ctx, step, res); err != nil {
			if !step.GetTolerate() {
				return nil, err
			}
			res.Error, res.Kind = err.Error(), kind(err)
		}
		results = append(results, res)
	}
	return results, nil
}

// kind names the error that err is.
func kind(err error) string {
	var limit *durable.LimitError
	var chain *durable.ChainError
	switch {
	case errors.Is(err, durable.ErrTxDone):
		return "ErrTxDone"
	case errors.Is(err, durable.ErrInvalidArgument):
		return "ErrInvalidArgument"
	case errors.Is(err, durable.ErrInSavepoint):
		return "ErrInSavepoint"
	case errors.As(err, &limit):
		return fmt.Sprintf("LimitError: %s, %d of %d", limit.Name, limit.Actual, limit.Max)
	case errors.As(err, &chain):
		return "ChainError"
	}
	return ""
}

func (s *steps) step(ctx context.Context, step *labv1.Step, res *labv1.Result) (err error) {
	var kv durable.KV
	if s.tx != nil {
		kv = s.tx.KV()
		if step.GetUnconfirmed() {
			kv = kv.Unconfirmed()
			s = &steps{s.lab, s.handle, kv, s.tx}
		}
	}
	switch do := step.GetDo().(type) {
	case *labv1.Step_Put:
		return kv.Put(ctx, string(do.Put.GetKey()), append([]byte{}, do.Put.GetValue()...))
	case *labv1.Step_PutNil:
		return kv.Put(ctx, string(do.PutNil), nil)
	case *labv1.Step_PutMany:
		return kv.PutMany(ctx, entries(do.PutMany.GetPairs())...)
	case *labv1.Step_Get:
		var value []byte
		value, res.Ok, err = s.reader.Get(ctx, string(do.Get))
		if res.Ok {
			res.Pairs = []*labv1.Pair{{Key: do.Get, Value: value}}
		}
		return err
	case *labv1.Step_GetMany:
		found, err := s.reader.GetMany(ctx, texts(do.GetMany.GetKeys())...)
		for _, e := range found {
			res.Pairs = append(res.Pairs, &labv1.Pair{Key: []byte(e.Key), Value: e.Value})
		}
		return err
	case *labv1.Step_Delete:
		res.Ok, err = kv.Delete(ctx, string(do.Delete))
		return err
	case *labv1.Step_DeleteMany:
		n, err := kv.DeleteMany(ctx, texts(do.DeleteMany.GetKeys())...)
		res.Count = int64(n)
		return err
	case *labv1.Step_List:
		return s.list(ctx, do.List, res)
	case *labv1.Step_DeleteAll:
		return s.tx.DeleteAll(ctx)
	case *labv1.Step_Savepoint:
		return s.tx.Savepoint(func() error {
			res.Results, err = s.run(ctx, do.Savepoint.GetSteps())
			return err
		})
	case *labv1.Step_Await:
		return s.tx.Await(ctx, func(ctx context.Context) error {
			res.Results, err = s.run(ctx, do.Await.GetSteps())
			return err
		})
	case *labv1.Step_Sync:
		return s.tx.Sync(ctx)
	case *labv1.Step_Fail:
		return errors.New(do.Fail)
	case *labv1.Step_Panic:
		panic(do.Panic)
	case *labv1.Step_Abort:
		s.tx.Abort(do.Abort)
	case *labv1.Step_SleepMs:
		return sleep(ctx, do.SleepMs)
	case *labv1.Step_Call:
		other := labv1durable.NewKVLabClient(s.tx).GetByName(do.Call.GetName())
		out, err := other.Run(ctx, do.Call)
		res.Results = out.GetResults()
		return err
	case *labv1.Step_Stale:
		old := &steps{lab: s.lab, handle: s.lab.stale, reader: s.lab.stale.KV(), tx: s.lab.stale}
		res.Results, err = old.run(ctx, do.Stale.GetSteps())
		return err
	case *labv1.Step_Exists:
		res.Ok = s.handle.Exists()
	case *labv1.Step_Copies:
		return copies(ctx, kv, do.Copies, res)
	}
	return nil
}

func (s *steps) list(ctx context.Context, list *labv1.List, res *labv1.Result) error {
	var opts []durable.ListOption
	if list.Start != nil {
		opts = append(opts, durable.ListStart(string(list.GetStart())))
	}
	if list.StartAfter != nil {
		opts = append(opts, durable.ListStartAfter(string(list.GetStartAfter())))
	}
	if list.End != nil {
		opts = append(opts, durable.ListEnd(string(list.GetEnd())))
	}
	if list.Limit != nil {
		opts = append(opts, durable.ListLimit(int(list.GetLimit())))
	}
	if list.GetReverse() {
		opts = append(opts, durable.ListReverse())
	}
	opts = append(opts, durable.ListPrefix(string(list.GetPrefix())))
	for e, err := range s.reader.List(ctx, opts...) {
		if err != nil {
			return err
		}
		res.Pairs = append(res.Pairs, &labv1.Pair{Key: []byte(e.Key), Value: e.Value})
		inner, err := s.run(ctx, list.GetDuring())
		if err != nil {
			return err
		}
		res.Results = append(res.Results, inner...)
	}
	return nil
}

// copies reports whether neither what was put nor what was got is shared with
// the store.
func copies(ctx context.Context, kv durable.KV, pair *labv1.Pair, res *labv1.Result) error {
	key, value := string(pair.GetKey()), bytes.Clone(pair.GetValue())
	if err := kv.Put(ctx, key, value); err != nil {
		return err
	}
	clear(value)
	got, _, err := kv.Get(ctx, key)
	if err != nil {
		return err
	}
	res.Ok = bytes.Equal(got, pair.GetValue())
	clear(got)
	got, _, err = kv.Get(ctx, key)
	res.Ok = res.Ok && bytes.Equal(got, pair.GetValue())
	return err
}

func entries(pairs []*labv1.Pair) []durable.Entry {
	var out []durable.Entry
	for _, p := range pairs {
		out = append(out, durable.Entry{Key: string(p.GetKey()), Value: append([]byte{}, p.GetValue()...)})
	}
	return out
}

func texts(keys [][]byte) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = string(key)
	}
	return out
}
