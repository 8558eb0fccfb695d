package memkv

import (
	"testing"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/storagetest"
)

func TestContract(t *testing.T) { storagetest.Run(t, harness) }

func TestRandom(t *testing.T) { storagetest.Random(t, harness, storagetest.Scale(20_000)) }

func harness(t *testing.T) storagetest.Harness {
	s := New(Options{})
	t.Cleanup(func() { _ = s.Close() })
	return storagetest.Harness{Engine: s, Reopen: func(*testing.T) storage.Engine {
		s.Crash()
		return s
	}}
}
