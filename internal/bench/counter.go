package main

import (
	"context"
	"encoding/binary"
	"sync/atomic"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/server"
)

// theServer is the server of the server process.
var theServer atomic.Pointer[server.Server]

func encode(value int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(value)) }

func load(ctx context.Context, kv durable.KVReader) (int64, error) {
	b, ok, err := kv.Get(ctx, "value")
	if err != nil || !ok {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}
