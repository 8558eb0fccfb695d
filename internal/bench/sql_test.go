package main

import (
	"context"
	"testing"

	durable "github.com/durable-go/durable"
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

// BenchmarkInProcessSQLCold is a row by its key from an object that is not in
// memory.
func BenchmarkInProcessSQLCold(b *testing.B) {
	o, err := openSQLObjects(b.Context(), b.TempDir(), sqlitedb.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { o.close(context.Background()) })
	if err := o.setUp(b.Context(), 1); err != nil {
		b.Fatal(err)
	}
	point := sqlKinds[3]
	o.run = point.run
	typ := o.client.GetByName("a").ObjectType()
	id := durable.IDFromName(typ, objectName(0))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.server.Evict(b.Context(), typ, id); err != nil {
			b.Fatal(err)
		}
		if err := o.do(b.Context(), 0, point); err != nil {
			b.Fatal(err)
		}
	}
}
