package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// TestScaffold makes a project in an empty folder, does what durable init says
// comes next, and calls the server. It needs a Go module proxy, or a module
// cache that has what it would ask for.
func TestScaffold(t *testing.T) {
	if testing.Short() {
		t.Skip("it generates, builds and runs a whole project")
	}
	checkout, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	c := &initCommand{Name: "my-shop", Module: "example.com/my-shop", Replace: checkout}
	var said bytes.Buffer
	if err := c.Run(&kong.Kong{Stdout: &said}); err != nil {
		t.Fatal(err)
	}

	// The two commands, as they were printed, with a program in place of
	// "go run .", so that it can be stopped.
	var next []string
	for line := range strings.Lines(said.String()) {
		if command, ok := strings.CutPrefix(line, "  "); ok {
			next = append(next, strings.TrimSpace(command))
		}
	}
	if len(next) != 2 || next[1] != "go run ." {
		t.Fatalf("durable init printed %q", next)
	}
	run(t, "sh", "-c", next[0])
	t.Chdir("my-shop")
	run(t, "go", "mod", "tidy", "-diff") // generating asked for nothing more
	run(t, "go", "vet", "./...")
	run(t, "go", "tool", "-modfile=tools/go.mod", "buf", "lint")
	run(t, "go", "tool", "-modfile=tools/go.mod", "buf", "format", "--diff", "--exit-code")
	run(t, "go", "build", "-o", "server", ".")

	url := serve(t, "./server", "--listen", "127.0.0.1:0", "--data", "data") + "/myshop.v1.MyShopService/"
	if got := post(t, url+"Add", `{"name": "a", "text": "hello"}`); !strings.Contains(got, `"text":"hello"`) || !strings.Contains(got, `"number":"1"`) {
		t.Errorf("Add answered %s", got)
	}
	if got := post(t, url+"List", `{"name": "a"}`); !strings.Contains(got, `"text":"hello"`) {
		t.Errorf("List answered %s", got)
	}
	if got := post(t, url+"Add", `{"name": "a"}`); !strings.Contains(got, `"invalid_argument"`) {
		t.Errorf("Add without a text answered %s", got)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	begin := time.Now()
	cmd := exec.CommandContext(t.Context(), name, args...)
	// A workspace around the temporary folder would change the module.
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	t.Logf("%s: %.1f s", strings.Join(cmd.Args, " "), time.Since(begin).Seconds())
}

// serve runs a server until the test ends, checks that it then stops when it is
// asked to, and returns the URL that it prints.
func serve(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), name, args...)
	var logged bytes.Buffer
	cmd.Stderr = &logged
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	printed := bufio.NewReader(stdout)
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, printed)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the server logged:\n%s", &logged)
		}
	})
	line, err := printed.ReadString('\n')
	if err != nil {
		t.Fatalf("the server printed %q and then: %v", line, err)
	}
	url := regexp.MustCompile(`http://[0-9.:]+`).FindString(line)
	if url == "" {
		t.Fatalf("the server printed no address: %q", line)
	}
	return url
}

// post sends JSON and returns the answer, without the space that protobuf's JSON
// has after a colon in some versions.
func post(t *testing.T, url, body string) string {
	t.Helper()
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(answer), `": `, `":`)
}
