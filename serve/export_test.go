package serve

import (
	"context"
	"io"
	"time"

	durable "github.com/durable-go/durable"
)

// RunWithin is Run with other limits for its end.
func RunWithin(ctx context.Context, drain, closing time.Duration, name string, args []string, stdout, stderr io.Writer, register func(durable.Registrar) error) error {
	return run(ctx, patience{drain, closing}, name, args, stdout, stderr, register)
}
