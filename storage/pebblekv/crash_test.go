package pebblekv_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/storagetest"
)

const (
	ledgerCommits = 60
	churnEvery    = 13
)

// runLedger runs a workload with flushes and compactions in between.
func runLedger(t *testing.T, l *storagetest.Ledger, e *pebblekv.Engine) error {
	return l.Run(t.Context(), e, ledgerCommits, func(n int) {
		if n%churnEvery == churnEvery-1 {
			_ = e.Churn(n / churnEvery)
		}
	})
}

// TestCrash takes the power away at every sync, with anything from none to all
// of the unsynced data kept, and looks at what is left.
func TestCrash(t *testing.T) {
	for seed := range uint64(storagetest.Scale(4)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testCrash(t, seed) })
	}
}

func testCrash(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	mem := vfs.NewCrashableMem()
	ledger := storagetest.NewLedger(seed)
	type wreck struct {
		fs   *vfs.MemFS
		mark storagetest.Mark
		at   string
	}
	wrecks := make(chan wreck, 10_000)
	var mu sync.Mutex
	crash := func(at string) {
		mu.Lock()
		defer mu.Unlock()
		// First the mark: what is acknowledged by then has to be in the clone.
		mark := ledger.Mark()
		percent := []int{0, 0, 30, 70, 100}[r.IntN(5)]
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(r.Uint64(), 0))}
		wrecks <- wreck{mem.CrashClone(cfg), mark, fmt.Sprintf("%s, %d %% kept", at, percent)}
	}
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			crash("before the sync of " + op.Path)
		}
		return nil
	}))
	e, err := pebblekv.Open("store", pebblekv.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := runLedger(t, ledger, e); err != nil {
		t.Fatal(err)
	}
	crash("at the end")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	crash("after close")
	close(wrecks)
	t.Logf("%d crashes", len(wrecks))
	for w := range wrecks {
		if err := checkLedger(t, ledger, w.fs, w.mark); err != nil {
			t.Errorf("crash %s: %v", w.at, err)
		}
	}
}

// checkLedger opens what is left of a store and compares.
func checkLedger(t *testing.T, l *storagetest.Ledger, fs vfs.FS, mark storagetest.Mark) error {
	e, err := pebblekv.Open("store", pebblekv.Options{FS: fs})
	if err != nil {
		return err
	}
	return errors.Join(l.Check(t.Context(), e, mark), e.Close())
}

// TestFault lets the nth write, sync, create, rename or close fail, for every n,
// once and for good, and opens the store again on a healthy disk.
func TestFault(t *testing.T) {
	for _, forGood := range []bool{false, true} {
		t.Run(map[bool]string{false: "once", true: "for good"}[forGood], func(t *testing.T) {
			step := int64(1)
			if testing.Short() {
				step = 7
			}
			for n := int64(0); ; n += step {
				if !testFault(t, n, forGood) {
					t.Logf("%d operations", n)
					return
				}
				if t.Failed() {
					t.Fatalf("operation %d", n)
				}
			}
		})
	}
}

// testFault reports whether there is an nth operation.
func testFault(t *testing.T, n int64, forGood bool) (hit bool) {
	mem := vfs.NewCrashableMem()
	var count atomic.Int64
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpCreate, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpFileWrite, errorfs.OpFileWriteAt,
			errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileClose, errorfs.OpRemove:
		default:
			return nil
		}
		if i := count.Add(1) - 1; i == n || forGood && i > n {
			return errorfs.ErrInjected
		}
		return nil
	}))
	ledger := storagetest.NewLedger(1)
	e, err := pebblekv.Open("store", pebblekv.Options{FS: fs})
	if err == nil {
		err = runLedger(t, ledger, e)
		hit := count.Load() > n
		switch {
		case err != nil && !hit:
			t.Errorf("workload without a fault: %v", err)
		case err != nil && !errors.Is(err, storage.ErrLost):
			t.Errorf("workload with a fault: %v", err)
		}
		closed := e.Close()
		if err != nil && closed == nil {
			t.Error("close hides that the store had failed")
		}
	}
	hit = count.Load() > n
	// The power goes too, so that only what was synced is left.
	left := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := checkLedger(t, ledger, left, ledger.Mark()); err != nil {
		t.Errorf("after operation %d failed: %v", n, err)
	}
	return hit
}
