package main

import (
	"bytes"
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	protos "github.com/durable-go/durable/proto"
)

// A project is what the templates are filled with.
type project struct {
	Name    string // my-shop: the folder
	Module  string // example.com/my-shop
	Package string // myshop: the protobuf package, and the stored name of the object type
	Object  string // MyShop: the Go type
	Version string // of the durable module; empty: the newest
	Replace string // the folder that replaces the durable module; empty: none
}

// A file is a file of a new project, its path with slashes.
type file struct {
	path    string
	content []byte
}

const maxNameBytes = 40

var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9]*([-_][a-z0-9]+)*$`)
	moduleForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._~-]*[A-Za-z0-9])?(/[A-Za-z0-9_~]([A-Za-z0-9._~-]*[A-Za-z0-9_~])?)*$`)
)

// The packages of a project have the folder gen/<package>/v1, and the schema the
// protobuf package <package>.v1.
var takenPackages = []string{
	"durable",                        // the schema of the options
	"internal", "testdata", "vendor", // folders with a meaning to the go command
}

// A module cannot have the path of a package of the standard library, nor a name
// that means something else to the go command.
var takenModules = []string{
	"all", "cmd", "main", "std", "tool", "work",
	"archive", "bufio", "bytes", "cmp", "compress", "container", "context", "crypto", "database", "debug", "embed",
	"encoding", "errors", "expvar", "flag", "fmt", "go", "hash", "html", "image", "index", "internal", "io", "iter",
	"log", "maps", "math", "mime", "net", "os", "path", "plugin", "reflect", "regexp", "runtime", "slices", "sort",
	"strconv", "strings", "structs", "sync", "syscall", "testing", "text", "time", "unicode", "unique", "unsafe",
	"vendor", "weak",
}

// newProject derives a project from its name and its module path, which may be
// empty to be the same.
func newProject(name, module string) (*project, error) {
	if !nameForm.MatchString(name) || len(name) > maxNameBytes {
		return nil, fmt.Errorf("%q cannot be the name of a project: a name has lower-case letters and digits, "+
			"with single '-' or '_' between them, begins with a letter and has at most %d characters", name, maxNameBytes)
	}
	p := &project{Name: name, Module: module}
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '-' || r == '_' }) {
		p.Package += word
		p.Object += strings.ToUpper(word[:1]) + word[1:]
	}
	if slices.Contains(takenPackages, p.Package) {
		return nil, fmt.Errorf("%q cannot be the name of a project: the folder gen/%s or the protobuf package %s.v1 is taken; choose another",
			name, p.Package, p.Package)
	}
	if module == "" {
		p.Module = name
		if slices.Contains(takenModules, name) {
			return nil, fmt.Errorf("%q cannot be a module path, because it means something else to the go command: give one with --module, such as example.com/%s", name, name)
		}
		return p, nil
	}
	if !moduleForm.MatchString(module) || slices.Contains(takenModules, module) {
		return nil, fmt.Errorf("--module: %q cannot be a module path: use one such as example.com/%s", module, name)
	}
	return p, nil
}

// ReplaceTarget returns Replace as go.mod writes it.
func (p *project) ReplaceTarget() string {
	if strings.ContainsAny(p.Replace, " \t\"'`(),") || strings.Contains(p.Replace, "//") {
		return strconv.Quote(p.Replace)
	}
	return p.Replace
}

//go:embed template
var templates embed.FS

// layout says which template becomes which file; both are templates.
var layout = []struct{ template, path string }{
	{"README.md", "README.md"},
	{"gitignore", ".gitignore"},
	{"go.mod", "go.mod"},
	{"tools.mod", "tools/go.mod"},
	{"tools.sum", "tools/go.sum"},
	{"buf.yaml", "buf.yaml"},
	{"buf.gen.yaml", "buf.gen.yaml"},
	{"object.proto", "proto/{{.Package}}/v1/{{.Package}}.proto"},
	{"messages.go", "gen/{{.Package}}/v1/doc.go"},
	{"objects.go", "gen/{{.Package}}/v1/{{.Package}}v1durable/doc.go"},
	{"main.go", "main.go"},
	{"handler.go", "handler.go"},
	{"handler_test.go", "handler_test.go"},
}

// files returns the files of the project.
func (p *project) files() ([]file, error) {
	files := []file{{"third_party/durable/" + protos.OptionsPath, []byte(protos.Options)}}
	for _, l := range layout {
		source, err := templates.ReadFile("template/" + l.template + ".tmpl")
		if err != nil {
			return nil, err
		}
		path, err := p.fill(l.template+": path", l.path)
		if err != nil {
			return nil, err
		}
		content, err := p.fill(l.template, string(source))
		if err != nil {
			return nil, err
		}
		files = append(files, file{string(path), content})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

func (p *project) fill(name, text string) ([]byte, error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
