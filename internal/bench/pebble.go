package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/pebblekv"
)

// measurePebble measures what the commit of an increment costs below the
// runtime: in the engine, and in bare Pebble with the same bytes.
func measurePebble(ctx context.Context, s settings) error {
	fmt.Print("## Commits below the runtime\n\nDurable commits of one pair of 50 bytes, each waiting for its sync, to 1,000 objects in turn.\n\n")
	fmt.Println("| committers | Pebble commits/s | CPU a commit | engine commits/s | CPU a commit |")
	fmt.Println("| --- | --- | --- | --- | --- |")

	db, err := pebble.Open(filepath.Join(s.data, "pebble"), &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       16 << 20,
		WALMinSyncInterval: func() time.Duration { return 200 * time.Microsecond },
		Logger:             quiet{},
	})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	engine, err := pebblekv.Open(filepath.Join(s.data, "engine"), pebblekv.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = engine.Close() }()
	shards, objects, err := claimAll(ctx, engine)
	if err != nil {
		return err
	}

	value := make([]byte, 8)
	for _, committers := range []int{1, 16, 64, 256} {
		bare, err := commits(committers, s.length, func(i int) error {
			o := objects[i%len(objects)]
			key := append(append([]byte{0, 0, 0, 0, 0, 1}, o.ID[:]...), "\x01kvalue"...)
			return db.Set(key, value, pebble.Sync)
		})
		if err != nil {
			return err
		}
		through, err := commits(committers, s.length, func(i int) error {
			o := objects[i%len(objects)]
			return shards[o.Shard()].Commit(&storage.Batch{
				Object: o,
				Create: &storage.Meta{Created: time.Now()},
				Put:    []storage.Pair{{Key: []byte("kvalue"), Val: value}},
			}).Wait()
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %d | %.0f | %v | %.0f | %v |\n", committers, bare.rate, bare.cpu, through.rate, through.cpu)
	}
	fmt.Println()
	return nil
}

func claimAll(ctx context.Context, engine storage.Engine) (map[storage.ShardID]storage.Shard, []storage.ObjectID, error) {
	session, err := engine.Join(ctx, storage.Node{ID: "bench"})
	if err != nil {
		return nil, nil, err
	}
	var want []storage.ShardID
	for i := range storage.Shards {
		want = append(want, storage.ShardID(i))
	}
	got, err := session.Claim(ctx, want)
	if err != nil {
		return nil, nil, err
	}
	shards := map[storage.ShardID]storage.Shard{}
	for _, sh := range got {
		shards[sh.ID()] = sh
	}
	typ, err := session.Type(ctx, "bench")
	if err != nil {
		return nil, nil, err
	}
	var objects []storage.ObjectID
	for i := range 1000 {
		objects = append(objects, storage.ObjectID{Type: typ, ID: [32]byte{byte(i), byte(i >> 8)}})
	}
	return shards, objects, nil
}

func commits(committers int, length time.Duration, commit func(i int) error) (measured, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total int
		fail  error
	)
	cpu, began := cpuTime(), time.Now()
	end := began.Add(length)
	for c := range committers {
		wg.Go(func() {
			n := 0
			var err error
			for i := c; err == nil && time.Now().Before(end); i += committers {
				if err = commit(i); err == nil {
					n++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
			if err != nil {
				fail = err
			}
		})
	}
	wg.Wait()
	if fail != nil {
		return measured{}, fail
	}
	return measured{
		rate: float64(total) / time.Since(began).Seconds(),
		cpu:  ((cpuTime() - cpu) / time.Duration(total)).Round(100 * time.Nanosecond),
	}, nil
}

// quiet keeps Pebble from writing its log.
type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
