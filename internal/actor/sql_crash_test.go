package actor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// A sqlWreck is what a loss of power left, with the newest turn of each object
// that a reply had told of before.
type sqlWreck struct {
	fs    *vfs.MemFS
	acked []int
	at    string
}

// TestSQLCrash takes the power away at every sync and many writes, with anything from none to
// all of the unsynced data kept. Each object then is as a whole turn left it,
// SQL and KV together, and no earlier than the last reply told. (GATE-32,
// GATE-34, KV-41, TXN-19)
func TestSQLCrash(t *testing.T) {
	s := seed(t)
	rng := rand.New(rand.NewPCG(s, 3))
	models := make([]*sqlModel, 3)
	for i := range models {
		models[i] = newSQLModel(t, fmt.Sprint("object", i), s)
	}
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	var wrecks []sqlWreck
	var writes atomic.Int64
	crash := func(at string) {
		mu.Lock()
		defer mu.Unlock()
		w := sqlWreck{at: at, acked: make([]int, len(models))}
		// First this: what is acknowledged by then has to be in the clone.
		for i, m := range models {
			m.mu.Lock()
			w.acked[i] = m.acked
			m.mu.Unlock()
		}
		percent := []int{0, 0, 30, 70, 100}[rng.IntN(5)]
		w.fs = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(rng.Uint64(), 0))})
		w.at += fmt.Sprintf(", %d %% kept", percent)
		wrecks = append(wrecks, w)
	}
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			crash("before the sync of " + op.Path)
		case errorfs.OpFileWrite, errorfs.OpFileWriteAt:
			if writes.Add(1)%4 == 0 {
				crash("before a write to " + op.Path)
			}
		}
		return nil
	}))
	// Small memtables, so that there are flushes and compactions, too.
	store, err := pebblekv.Open("store", pebblekv.Options{FS: fs, MemTableSize: 512 << 10, MinSyncInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	h := openSQLStore(t, store)
	var all sync.WaitGroup
	for _, m := range models {
		all.Go(func() {
			for turn := range scaled(24) {
				if err := m.turn(t.Context(), h); err != nil {
					t.Errorf("%s, turn %d: %v", m.key, turn, err)
					return
				}
			}
		})
	}
	all.Wait()
	crash("at the end")
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	crash("after close")
	between := 0
	for _, w := range wrecks {
		n, err := checkSQLWreck(t, w, models)
		if err != nil {
			t.Errorf("crash %s: %v", w.at, err)
		}
		between += n
	}
	t.Logf("%d crashes; %d objects were further than the last reply", len(wrecks), between)
}

func openSQLStore(t *testing.T, store *pebblekv.Engine) *testHost {
	t.Helper()
	info, err := store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	session, err := store.Join(t.Context(), storage.Node{ID: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	h, _ := newSQLHost(t, info, session, durable.Limits{}, sqlitedb.Options{MemoryBytes: 2 << 20})
	return h
}

// checkSQLWreck opens what is left of a store, compares, and lets each object
// go on. It returns how many objects have more than a reply told of.
func checkSQLWreck(t *testing.T, w sqlWreck, models []*sqlModel) (further int, err error) {
	store, err := pebblekv.Open("store", pebblekv.Options{FS: w.fs})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	h := openSQLStore(t, store)
	var problems []error
	for i, m := range models {
		err := h.view(t.Context(), m.key, func(ctx context.Context, _ *counter, v durable.View) error {
			value, ok, err := v.KV().Get(ctx, "turns")
			if err != nil {
				return err
			}
			n := 0
			if ok {
				if n, err = strconv.Atoi(string(value)); err != nil {
					return err
				}
			}
			if n < w.acked[i] || n >= len(m.history) {
				return fmt.Errorf("%d turns, and %d were acknowledged", n, w.acked[i])
			}
			if n > w.acked[i] {
				further++
			}
			return m.history[n].compare(ctx, m.key, v)
		})
		if err == nil {
			err = h.update(t.Context(), m.key, func(ctx context.Context, _ *counter, tx durable.Tx) error {
				_, err := tx.SQL().Exec(ctx, "CREATE TABLE later AS SELECT 1 AS n; UPDATE later SET n = n + 1")
				return err
			})
		}
		if err == nil {
			err = h.view(t.Context(), m.key, func(ctx context.Context, _ *counter, v durable.View) error {
				n, err := durable.One[int](ctx, v.SQL(), "SELECT n FROM later")
				if err == nil && n != 2 {
					err = fmt.Errorf("the table made after the crash has %d", n)
				}
				return err
			})
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", m.key, err))
		}
	}
	return further, errors.Join(problems...)
}
