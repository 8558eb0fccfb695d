package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestReadme does what the README says under "Write one", with exactly its
// lines: it makes a project, puts the README's files into it, generates, serves,
// runs its curl lines and compiles and runs its client.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("it generates, builds and runs a whole project")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	checkout, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	section := writeOne(t, filepath.Join(checkout, "README.md"))
	if n := codeLines(section); n >= 60 {
		t.Errorf("the README takes %d lines of code to show it, want under 60", n)
	}

	t.Chdir(t.TempDir())
	c := &initCommand{Name: "visits", Replace: checkout}
	if err := c.Run(&kong.Kong{Stdout: t.Output()}); err != nil {
		t.Fatal(err)
	}
	t.Chdir("visits")
	for _, file := range []string{"handler.go", "handler_test.go"} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	var curls, clients []string
	for _, b := range section {
		path, ok := strings.CutPrefix(strings.SplitN(b.text, "\n", 2)[0], "// ")
		switch {
		case ok:
			if err := os.WriteFile(path, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.language == "sh":
			for line := range strings.Lines(b.text) {
				curls = append(curls, strings.TrimSpace(line))
			}
		case b.language == "go":
			clients = append(clients, b.text)
		}
	}
	if len(curls) != 3 || len(clients) != 1 {
		t.Fatalf("found %d curl lines and %d clients", len(curls), len(clients))
	}
	run(t, "sh", "-c", "go mod tidy && go generate && go build -o server .")
	url := serve(t, "./server", "--listen", "127.0.0.1:0", "--data", "data")

	for i, want := range []string{`{"count":"1"}`, `{"count":"1"}`, `{"count":"1"}`} {
		line := strings.ReplaceAll(curls[i], "http://127.0.0.1:8080", url)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
		if got := strings.ReplaceAll(string(out), " ", ""); err != nil || got != want {
			t.Errorf("%s\nanswered %s, %v; want %s", curls[i], out, err, want)
		}
	}

	client := `package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/durable-go/durable/durableconnect"

	visitsv1 "visits/gen/visits/v1"
	"visits/gen/visits/v1/visitsv1durable"
)

func main() {
	ctx := context.Background()
` + strings.ReplaceAll(clients[0], "http://127.0.0.1:8080", url) + `
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if res.GetCount() != 2 {
		fmt.Println("the count is", res.GetCount())
		os.Exit(1)
	}
}
`
	if err := os.Mkdir("client", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("client", "main.go"), []byte(client), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "go", "run", "./client")
}

type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// writeOne returns the code blocks of the section "Write one".
func writeOne(t *testing.T, file string) []block {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Write one\n")
	if !ok {
		t.Fatal("the README has no section named Write one")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []block
	for _, m := range fence.FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

func codeLines(blocks []block) int {
	n := 0
	for _, b := range blocks {
		n += strings.Count(b.text, "\n")
	}
	return n
}
