// Command bench measures a server of durable objects beside a plain Connect
// handler that echoes the same message, in one run, and prints one table.
//
// The server is a process of its own, so that its CPU time can be told from
// that of the load. All figures of a run share the machine, so compare them
// with one another and not with those of another run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type settings struct {
	serve    bool
	data     string
	objects  int
	sleepers int
	length   time.Duration
	rounds   int
	only     string
	match    string
	profile  string
}

func run() error {
	began := time.Now()
	var s settings
	var wake bool
	flag.BoolVar(&wake, "wake", false, "be the process that serves the sleeping objects")
	flag.IntVar(&s.sleepers, "sleepers", 1_000_000, "how many sleeping objects with alarms there are")
	flag.BoolVar(&s.serve, "serve", false, "be the server process")
	flag.StringVar(&s.data, "data", "", "folder for the stores; default: a new one, removed at the end")
	flag.IntVar(&s.objects, "objects", 100_000, "how many objects there are")
	flag.DurationVar(&s.length, "length", 1500*time.Millisecond, "how long each figure is measured in a round")
	flag.IntVar(&s.rounds, "rounds", 3, "how often each figure is measured; the median counts")
	flag.StringVar(&s.only, "only", "", "measure only the parts whose names begin with one of these, separated by commas: calls, pebble, life, sql, alarms, sleepers, connections")
	flag.StringVar(&s.match, "match", "", "of the calls, measure only the echo and those whose protocol, callers and kind, as in \"gRPC, h2c/64/read\", hold this text; of SQL, the transactions whose names do")
	flag.StringVar(&s.profile, "profile", "", "write a CPU profile of the server process during the first call figure that is not the echo to this file")
	flag.Parse()
	if wake {
		return wakeMain(s.data, began)
	}
	if s.serve {
		return serveMain(s.data)
	}
	if s.data == "" {
		dir, err := os.MkdirTemp("", "durable-bench-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		s.data = dir
	}
	ctx := context.Background()
	parts := []struct {
		name string
		run  func(context.Context, settings) error
	}{
		{"calls", measureCalls},
		{"pebble", measurePebble},
		{"life", measureLife},
		{"sql", measureSQL},
		{"alarms", measureAlarms},
		{"sleepers", measureSleepers},
		{"connections", measureConns},
	}
	for _, p := range parts {
		if !wanted(s.only, p.name) {
			continue
		}
		if err := p.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func wanted(only, name string) bool {
	if only == "" {
		return true
	}
	for _, prefix := range strings.Split(only, ",") {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// A child is a server process.
type child struct {
	cmd *exec.Cmd
	url string
}

// start runs the server process on a store and waits until it listens.
func start(data string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, "-serve", "-data", data)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	return &child{cmd: cmd, url: url}, nil
}

// stop ends the server as a power cut would.
func (c *child) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func storeDir(s settings) string { return filepath.Join(s.data, "store") }
