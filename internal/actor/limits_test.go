package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// TestLimits: what is over a limit is refused whole, with the limit in the
// error. (KV-04, KV-05, KV-08, KV-50, KV-51, OVL-08)
func TestLimits(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{MaxKeyBytes: 8, MaxValueBytes: 300 << 10, MaxBatchKeys: 3}, nil)
	keys := func(n int) (keys []string) {
		for i := range n {
			keys = append(keys, fmt.Sprint(i))
		}
		return keys
	}
	entries := func(n, size int) (entries []durable.Entry) {
		for _, key := range keys(n) {
			entries = append(entries, durable.Entry{Key: key, Value: make([]byte, size)})
		}
		return entries
	}
	tests := []struct {
		name string
		run  func(ctx context.Context, kv durable.KV) error
		want string // part of the error; empty: none
	}{
		{"key", func(ctx context.Context, kv durable.KV) error { return kv.Put(ctx, "123456789", []byte{}) }, "9 key bytes, the limit is 8"},
		{"key read", func(ctx context.Context, kv durable.KV) error { _, _, err := kv.Get(ctx, "123456789"); return err }, "9 key bytes"},
		{"key deleted", func(ctx context.Context, kv durable.KV) error { _, err := kv.Delete(ctx, "123456789"); return err }, "9 key bytes"},
		{"longest key", func(ctx context.Context, kv durable.KV) error { return kv.Put(ctx, "12345678", []byte{}) }, ""},
		{"empty key and value", func(ctx context.Context, kv durable.KV) error { return kv.Put(ctx, "", []byte{}) }, ""},
		{"nil value", func(ctx context.Context, kv durable.KV) error { return kv.Put(ctx, "k", nil) }, "nil"},
		{"value", func(ctx context.Context, kv durable.KV) error { return kv.Put(ctx, "k", make([]byte, 300<<10+1)) }, "307201 value bytes, the limit is 307200"},
		{"keys got", func(ctx context.Context, kv durable.KV) error { _, err := kv.GetMany(ctx, keys(4)...); return err }, "4 keys in one call, the limit is 3"},
		{"keys deleted", func(ctx context.Context, kv durable.KV) error { _, err := kv.DeleteMany(ctx, keys(4)...); return err }, "4 keys"},
		{"keys put", func(ctx context.Context, kv durable.KV) error { return kv.PutMany(ctx, entries(4, 1)...) }, "4 keys"},
		{"most keys", func(ctx context.Context, kv durable.KV) error { return kv.PutMany(ctx, entries(3, 1)...) }, ""},
		{"one bad entry", func(ctx context.Context, kv durable.KV) error {
			return kv.PutMany(ctx, append(entries(2, 5), durable.Entry{Key: "bad"})...)
		}, "nil"},
		{"commit", func(ctx context.Context, kv durable.KV) error {
			if err := kv.PutMany(ctx, entries(3, 300<<10)...); err != nil {
				return err
			}
			return kv.PutMany(ctx, durable.Entry{Key: "new", Value: make([]byte, 100<<10)}, durable.Entry{Key: "new2", Value: make([]byte, 100<<10)})
		}, "bytes written in one commit"},
	}
	for _, unconfirmed := range []bool{false, true} {
		for _, test := range tests {
			name := test.name
			err := h.update(t.Context(), fmt.Sprint(name, unconfirmed), func(ctx context.Context, _ *counter, tx durable.Tx) error {
				kv := tx.KV()
				if unconfirmed {
					kv = kv.Unconfirmed()
				}
				before := 0
				if test.name == "commit" {
					before = 3
				}
				err := test.run(ctx, kv)
				if err == nil {
					return nil
				}
				n := 0
				for range kv.List(ctx) {
					n++
				}
				if n != before {
					t.Errorf("%s: %d pairs are there, want %d", name, n, before)
				}
				return err
			})
			switch {
			case err == nil && test.want != "":
				t.Errorf("%s: no error", name)
			case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestBatchIsWhole: a call that would make the commit too large changes nothing,
// and what was written before it stays. (KV-04)
func TestBatchIsWhole(t *testing.T) {
	h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{}, nil)
	err := h.update(t.Context(), "a", func(ctx context.Context, _ *counter, tx durable.Tx) error {
		kv := tx.KV()
		if err := kv.PutMany(ctx, durable.Entry{Key: "d1", Value: []byte("v")}, durable.Entry{Key: "d2", Value: []byte("v")}); err != nil {
			return err
		}
		if err := tx.Sync(ctx); err != nil {
			return err
		}
		if err := kv.Put(ctx, "fill", make([]byte, 1<<20-reservedBytes-10)); err != nil {
			return err
		}
		var limit *durable.LimitError
		n, err := kv.DeleteMany(ctx, "d1", "d2")
		if n != 0 || !errors.As(err, &limit) || limit.Max != 1<<20-reservedBytes || limit.Actual != 1<<20-reservedBytes+1 {
			t.Errorf("deleted %d: %v", n, err)
		}
		if err := kv.Put(ctx, "k", make([]byte, 10)); !errors.As(err, &limit) {
			t.Errorf("put: %v", err)
		}
		if got, err := kv.GetMany(ctx, "d1", "d2", "k"); len(got) != 2 || err != nil {
			t.Errorf("there are %d of the keys: %v", len(got), err)
		}
		if existed, err := kv.Delete(ctx, "d1"); !existed || err != nil {
			t.Errorf("one delete: %v %v", existed, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOverloadError: the error is one that names limit, value and depth.
func TestOverloadError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestHost(t, join(t, memkv.New(memkv.Options{})), durable.Limits{MaxQueuedCalls: 2}, nil)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := h.update(t.Context(), "a", func(context.Context, *counter, durable.Tx) error { time.Sleep(time.Second); return nil }); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		err := h.update(t.Context(), "a", nil)
		var overload *durable.OverloadError
		if !errors.As(err, &overload) || *overload != (durable.OverloadError{Limit: "queued calls", Max: 2, Actual: 2}) {
			t.Errorf("got %#v", err)
		}
		wg.Wait()
	})
}
