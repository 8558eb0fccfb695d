package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// build builds the program, without the race detector, which would make it slow.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "torture")
	args := append([]string{"build", "-o", program}, flags...)
	if out, err := exec.CommandContext(t.Context(), "go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// TestTorture: WISH-07, GATE-29, LIFE-10, ALM-10, ALM-15, ALM-17, ALM-28, ALM-42.
func TestTorture(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	var out bytes.Buffer
	s := settings{
		program: build(t),
		length:  10 * time.Second,
		ahead:   2 * time.Second,
		seed:    uint64(time.Now().UnixNano()),
		clients: 24,
		data:    t.TempDir(),
	}
	if err := run(t.Context(), s, &out); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.data, "server.log"))
		t.Errorf("%v\n%s\nthe log of the server ends with\n%s", err, &out, log[max(0, len(log)-4000):])
	}
	t.Logf("%s", &out)
}

// TestTortureFindsAMissingGate runs the program with a runtime whose replies do
// not wait for their commits. GATE-15, GATE-29.
func TestTortureFindsAMissingGate(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program, and starts and kills processes")
	}
	program := build(t, "-tags", "durable_no_output_gate")
	found := regexp.MustCompile(`(?s)VIOLATIONS.*(is lost|not linearizable|when it was made again)`)
	const runs = 6
	for seed := range runs {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "-length", "5s", "-ahead", "1s", "-seed", strconv.Itoa(seed), "-data", t.TempDir())
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit) && exit.ExitCode() == 1 && found.Match(out):
			t.Logf("found in run %d of at most %d:\n%s", seed+1, runs, out)
			return
		case err != nil:
			t.Fatalf("it ended with %v, and did not find that something is lost:\n%s", err, out)
		}
	}
	t.Errorf("the output gate is off, and %d runs found nothing", runs)
}

func TestSettings(t *testing.T) {
	used := t.TempDir()
	if err := os.Mkdir(storeIn(used), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]settings{
		"no length":     {clients: 8, ahead: time.Second},
		"no clients":    {length: time.Second, ahead: time.Second},
		"not ahead":     {clients: 8, length: time.Second},
		"few clients":   {clients: 7, length: time.Second, ahead: time.Second},
		"a used folder": {clients: 8, length: time.Second, ahead: time.Second, data: used},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), s, t.Output()); err == nil {
				t.Error("it ran")
			}
		})
	}
}
