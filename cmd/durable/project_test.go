package main

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	cases := []struct{ name, pkg, object string }{
		{"chat", "chat", "Chat"},
		{"my-shop", "myshop", "MyShop"},
		{"my_2nd_shop", "my2ndshop", "My2ndShop"},
		{"x", "x", "X"},
		{"func", "func", "Func"},
	}
	for _, c := range cases {
		p, err := newProject(c.name, "")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Package != c.pkg || p.Object != c.object || p.Module != c.name {
			t.Errorf("%s: got package %s, object %s, module %s", c.name, p.Package, p.Object, p.Module)
		}
	}
}

// TestFormat checks that what the templates make needs no formatting, whatever
// the length of the names.
func TestFormat(t *testing.T) {
	for _, name := range []string{"x", "my-shop", strings.Repeat("long", 10)} {
		p, err := newProject(name, "example.com/"+name)
		if err != nil {
			t.Fatal(err)
		}
		files, err := p.files()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.Contains(string(f.content), "{{") {
				t.Errorf("%s: %s has an action left", name, f.path)
			}
			if !strings.HasSuffix(f.path, ".go") {
				continue
			}
			formatted, err := format.Source(f.content)
			if err != nil {
				t.Errorf("%s: %s: %v", name, f.path, err)
			} else if !bytes.Equal(formatted, f.content) {
				t.Errorf("%s: %s is not formatted", name, f.path)
			}
		}
	}
}

// TestTakenModules compares the list with the standard library of the Go that
// runs the test.
func TestTakenModules(t *testing.T) {
	out, err := exec.Command("go", "list", "std").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		first, _, _ := strings.Cut(pkg, "/")
		if !slices.Contains(takenModules, first) {
			t.Errorf("takenModules lacks %s", first)
		}
	}
}

// TestToolVersions checks that a new project builds the same buf as this
// repository, so that both come from one build cache. To renew the templates
// after an update of tools/go.mod: in an empty folder, "go mod init tools",
// "go get -tool" of buf, "go mod tidy -e", and copy go.mod and go.sum.
func TestToolVersions(t *testing.T) {
	ours := requirements(t, filepath.Join("..", "..", "tools", "go.mod"))
	theirs := requirements(t, filepath.Join("template", "tools.mod.tmpl"))
	if theirs["github.com/bufbuild/buf"] == "" {
		t.Fatal("the template requires no buf")
	}
	for path, version := range theirs {
		if ours[path] != version {
			t.Errorf("the template requires %s %s, this repository %q", path, version, ours[path])
		}
	}
}

var requirement = regexp.MustCompile(`(?m)^\t?(?:require )?([^ \t]+) (v[^ \n]+)`)

func requirements(t *testing.T, file string) map[string]string {
	t.Helper()
	mod, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, m := range requirement.FindAllStringSubmatch(string(mod), -1) {
		found[m[1]] = m[2]
	}
	return found
}
