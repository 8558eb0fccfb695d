package pebblekv

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// logger hands Pebble's words to slog.
type logger struct {
	slog  *slog.Logger
	fatal func(error)
}

func (l logger) Infof(format string, args ...any) {
	if l.slog.Enabled(context.Background(), slog.LevelDebug) {
		l.slog.Debug("pebble", "text", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	l.slog.Error("pebble", "text", fmt.Sprintf(format, args...))
}

// Fatalf stops the store and returns. Pebble expects that it does not return,
// because what follows could reach the disk; here nothing can, for the file
// system is sealed first. To panic instead would leave Pebble's locks held or
// end the process, since it is called on Pebble's goroutines too.
func (l logger) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf(format, args...))
}

// events returns the listener for failures in the background. A failing flush
// or compaction is tried again at once, so the log is limited to one line a
// second.
func events(log *slog.Logger) *pebble.EventListener {
	var last atomic.Int64
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			now := time.Now().Unix()
			if last.Swap(now) != now {
				log.Error("background work of the store", "error", err)
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("corrupt file in the store", "error", info.Details)
		},
	}
}
