// Command conformance runs Connect's conformance suite against a durable object
// that implements its service.
//
// The suite's schema is not part of this repository: it is read from the
// suite's own module, and code is generated from it into a folder that git
// ignores, each time the command runs.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	suite = "connectrpc.com/conformance"
	// version of the suite.
	version = "v1.0.7"

	here = "internal/conformance"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run expects the root of the repository as the working directory. args are
// passed on to the suite.
func run(args []string) error {
	if _, err := os.Stat(here); err != nil {
		return errors.New("run it from the root of the repository")
	}
	if err := generate(); err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	bin, err := os.MkdirTemp("", "durable-conformance-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(bin) }()
	server := filepath.Join(bin, "server")
	if err := command("go", "build", "-tags", "conformance", "-o", server, "./"+here+"/impl").Run(); err != nil {
		return fmt.Errorf("build the server: %w", err)
	}
	install := command("go", "install", suite+"/cmd/connectconformance@"+version)
	install.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=")
	if err := install.Run(); err != nil {
		return fmt.Errorf("build the suite: %w", err)
	}
	args = append([]string{"--mode", "server", "--conf", filepath.Join(here, "config.yaml")}, args...)
	args = append(args, "--", server)
	return command(filepath.Join(bin, "connectconformance"), args...).Run()
}

// generate makes Go code from the suite's schema.
func generate() error {
	download := exec.Command("go", "mod", "download", "-json", suite+"@"+version)
	download.Stderr = os.Stderr
	out, err := download.Output()
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return err
	}
	gen := filepath.Join(here, "gen")
	if err := os.RemoveAll(gen); err != nil {
		return err
	}
	return command("go", "tool", "-modfile=tools/go.mod", "buf", "generate",
		"--template", filepath.Join(here, "buf.gen.yaml"),
		filepath.Join(module.Dir, "proto")).Run()
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}
