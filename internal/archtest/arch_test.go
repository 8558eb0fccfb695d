package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/durable-go/durable"

// A listed package is what `go list` tells of one package of this module.
type listed struct {
	ImportPath string
	Imports    []string // directly, without those of tests
	Deps       []string // directly and indirectly
}

func TestImports(t *testing.T) {
	for _, tags := range []string{"", "invariants", "race"} {
		packages := list(t, tags)
		for _, problem := range check(table, packages) {
			t.Error(problem)
		}
		for _, r := range table {
			if tags == "" && !slices.ContainsFunc(packages, func(p listed) bool { return match(r.packages, folder(p.ImportPath)) }) {
				t.Logf("no package %s yet", r.packages)
			}
		}
	}
}

// list returns the packages of this module.
func list(t *testing.T, tags string) []listed {
	t.Helper()
	root := filepath.Join("..", "..")
	statSources(t, root)
	cmd := exec.Command("go", "list", "-tags="+tags, "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// statSources looks at every Go file, so that `go test` does not take a cached
// result for one of the present sources.
func statSources(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && file != root {
			return filepath.SkipDir
		}
		if strings.HasSuffix(file, ".go") {
			_, err = os.Stat(file)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check compares packages with a table and describes every difference.
func check(table []row, packages []listed) []string {
	var problems []string
	for _, p := range packages {
		name := folder(p.ImportPath)
		i := slices.IndexFunc(table, func(r row) bool { return match(r.packages, name) })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("%s has no row in the table of internal/archtest", name))
			continue
		}
		for _, imported := range p.Imports {
			if problem := table[i].direct(name, imported); problem != "" {
				problems = append(problems, problem)
			}
		}
		for _, dep := range p.Deps {
			if never, ok := table[i].forbids(dep); ok {
				problems = append(problems, fmt.Sprintf("%s reaches %s: it must not, even indirectly (%s)", name, short(dep), never))
			}
		}
	}
	return problems
}

// direct says what is wrong with the package of that name importing another.
func (r row) direct(name, imported string) string {
	if within(connect, imported) && !r.connect {
		return fmt.Sprintf("%s imports %s: its row does not allow Connect", name, imported)
	}
	if !within(module, imported) {
		return ""
	}
	imported = folder(imported)
	if r.own > 0 && slices.Equal(leading(name, r.own), leading(imported, r.own)) {
		return ""
	}
	if slices.ContainsFunc(r.imports, func(pattern string) bool { return match(pattern, imported) }) {
		return ""
	}
	return fmt.Sprintf("%s imports %s: its row allows only %q", name, imported, r.imports)
}

// forbids reports whether dep must not be reached, and by which entry.
func (r row) forbids(dep string) (never string, ok bool) {
	i := slices.IndexFunc(r.never, func(never string) bool {
		if within(module, dep) {
			return match(never, folder(dep))
		}
		return within(never, dep)
	})
	if i < 0 {
		return "", false
	}
	return r.never[i], true
}

// match reports whether a package, named by its folder, matches a pattern.
func match(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		pattern = prefix
		name = strings.Join(leading(name, strings.Count(prefix, "/")+1), "/")
	}
	ok, err := path.Match(pattern, name)
	if err != nil {
		panic(err) // the pattern is ours
	}
	return ok
}

// leading returns the first n path elements of a name.
func leading(name string, n int) []string {
	elements := strings.Split(name, "/")
	return elements[:min(n, len(elements))]
}

// folder returns the folder of a package of this module.
func folder(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

func short(importPath string) string {
	if within(module, importPath) {
		return folder(importPath)
	}
	return importPath
}

// within reports whether a package is the one at root or below it.
func within(root, importPath string) bool {
	return importPath == root || strings.HasPrefix(importPath, root+"/")
}

// TestCheck holds the checker to a small table of its own: a checker that finds
// nothing would otherwise look like a tree without faults.
func TestCheck(t *testing.T) {
	table := []row{
		{packages: "."},
		{packages: "a/...", imports: []string{"."}, own: 1, never: []string{"b", pebble}},
		{packages: "b", imports: []string{"..."}, connect: true},
		{packages: "ex/*/gen/...", own: 3},
	}
	ours := func(name string) string {
		if name == "." {
			return module
		}
		return module + "/" + name
	}
	cases := []struct {
		name    string
		pkg     listed
		problem string // part of the only one; "" for none
	}{
		{"nothing imported", listed{ours("."), []string{"fmt"}, []string{"fmt"}}, ""},
		{"allowed", listed{ours("a"), []string{module}, []string{module}}, ""},
		{"own", listed{ours("a/x"), []string{ours("a/y")}, nil}, ""},
		{"own of another", listed{ours("ex/one/gen/v1"), []string{ours("ex/two/gen/v1")}, nil}, "imports ex/two/gen/v1"},
		{"no row", listed{ours("new"), nil, nil}, "new has no row"},
		{"no row for a longer name", listed{ours("ab"), nil, nil}, "ab has no row"},
		{"not allowed", listed{ours("."), []string{ours("a")}, nil}, ". imports a: its row allows only"},
		{"connect", listed{ours("a"), []string{connect + "/connect/v2"}, nil}, "does not allow Connect"},
		{"connect allowed", listed{ours("b"), []string{connect + "/connect/v2"}, nil}, ""},
		{"ours indirectly", listed{ours("a"), nil, []string{ours("b")}}, "a reaches b"},
		{"others indirectly", listed{ours("a/x"), nil, []string{pebble + "/v2/vfs"}}, "a/x reaches github.com/cockroachdb/pebble/v2/vfs"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			problems := check(table, []listed{c.pkg})
			if c.problem == "" {
				if len(problems) > 0 {
					t.Errorf("got %q, want no problem", problems)
				}
				return
			}
			if len(problems) != 1 || !strings.Contains(problems[0], c.problem) {
				t.Errorf("got %q, want one with %q", problems, c.problem)
			}
		})
	}
}
