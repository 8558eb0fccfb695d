package pebblekv

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/durable-go/durable/storage"
)

// TestSize: what a shard says of the size of an object is of that object alone,
// and about right when it is in the files of the store.
func TestSize(t *testing.T) {
	e, s := start(t, "store", Options{FS: vfs.NewMem()})
	objects := []storage.ObjectID{{Type: 1, ID: [32]byte{1}}, {Type: 1, ID: [32]byte{2}}}
	const value = 1000
	for i, pairs := range []int{100, 2000} {
		o := objects[i]
		sh := claim(t, s, o)
		for k := range pairs {
			val := make([]byte, value)
			_, _ = rand.Read(val)
			b := batch(o)
			b.Put = append(b.Put, storage.Pair{Key: fmt.Append(nil, "key", k), Val: val})
			if err := sh.Commit(b).Wait(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := e.db.Flush(); err != nil {
		t.Fatal(err)
	}
	for i, pairs := range []int{100, 2000} {
		n, err := claimed(t, s, objects[i]).Size(t.Context(), objects[i])
		if want := int64(pairs * value); err != nil || n < want/2 || n > want*2 {
			t.Errorf("%d pairs of %d bytes: %d %v", pairs, value, n, err)
		}
	}
}

// claimed returns the shard of an object as what tells sizes.
func claimed(t *testing.T, s storage.Session, o storage.ObjectID) storage.Sizer {
	t.Helper()
	return s.(*session).e.mu.owners[o.Shard()]
}
