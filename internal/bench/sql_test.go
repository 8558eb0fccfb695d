package main

import (
	"context"
	"testing"

	"github.com/durable-go/durable/storage/sqlitedb"
)

// benchSQL runs a kind of transaction on one object by 64 callers.
func benchSQL(b *testing.B, k sqlKind) {
	o, err := openSQLObjects(b.Context(), b.TempDir(), sqlitedb.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { o.close(context.Background()) })
	if err := o.setUp(b.Context(), 1); err != nil {
		b.Fatal(err)
	}
	o.run = k.run
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := o.do(b.Context(), 0, k); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkInProcessSQLInsert is a durable insert of a row, through the stub.
func BenchmarkInProcessSQLInsert(b *testing.B) { benchSQL(b, sqlKinds[0]) }

// BenchmarkInProcessSQLSelect is a row by its key, through the stub.
func BenchmarkInProcessSQLSelect(b *testing.B) { benchSQL(b, sqlKinds[3]) }
