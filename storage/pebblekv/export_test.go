package pebblekv

import (
	"context"

	"github.com/durable-go/durable/storage/internal/check"
)

// Churn flushes what is in memory or compacts the tables.
func (e *Engine) Churn(n int) error {
	if n%2 == 0 {
		return e.db.Flush()
	}
	// A compaction that fails is tried again for ever.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-e.death.came:
			cancel()
		case <-ctx.Done():
		}
	}()
	return e.db.Compact(ctx, []byte{0}, []byte{0xFF}, false)
}

const checkedBuild = check.Enabled
