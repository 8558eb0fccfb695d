package pebblekv_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Harness { return harness(t, vfs.NewMem()) })
}

func TestRandom(t *testing.T) {
	storagetest.Random(t, func(t *testing.T) storagetest.Harness { return harness(t, vfs.NewMem()) },
		storagetest.Scale(20_000))
}

// harness opens an empty store.
func harness(t *testing.T, fs vfs.FS) storagetest.Harness {
	t.Helper()
	var e *pebblekv.Engine
	open := func(t *testing.T) *pebblekv.Engine {
		t.Helper()
		e, err := pebblekv.Open("store", pebblekv.Options{FS: fs, MemTableSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	shut := func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	e = open(t)
	t.Cleanup(shut)
	return storagetest.Harness{
		Engine: e,
		Reopen: func(t *testing.T) storage.Engine {
			shut()
			e = open(t)
			return e
		},
		Churn: func(t *testing.T, n int) {
			if err := e.Churn(n); err != nil {
				t.Error(err)
			}
		},
	}
}
