package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// durableModule is the module that a project needs.
const durableModule = "github.com/durable-go/durable"

type initCommand struct {
	Name    string `arg:"" help:"Name of the project and of its folder: lower-case letters, digits, '-' and '_'."`
	Module  string `help:"Module path of the project. Default: the name." placeholder:"PATH"`
	Replace string `help:"Use the durable module of this local checkout." placeholder:"FOLDER"`
}

// Help is shown by durable init --help.
func (*initCommand) Help() string {
	return "The project has a schema with one object, its handler, a test and a main, and the" +
		" configuration to generate code with pinned tools. Files that exist are never overwritten."
}

// Run writes the project.
func (c *initCommand) Run(k *kong.Kong) error {
	p, err := newProject(c.Name, c.Module)
	if err != nil {
		return err
	}
	if c.Replace != "" {
		if p.Replace, err = replacement(c.Name, c.Replace); err != nil {
			return err
		}
	}
	p.Version = requiredVersion(p.Replace)
	files, err := p.files()
	if err != nil {
		return err
	}
	if err := writeNew(c.Name, files); err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.Stdout, `%s is ready: %d files. Next:

  cd %s && go mod tidy && go generate && go test
  go run .

The first "go generate" builds buf, which takes a few minutes.
`, c.Name, len(files), c.Name)
	return err
}

// replacement returns the target of the replace directive in folder/go.mod that
// means the checkout. A relative path stays relative, so that both can move.
func replacement(folder, checkout string) (string, error) {
	mod, err := os.ReadFile(filepath.Join(checkout, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("--replace: no checkout of %s: %w", durableModule, err)
	}
	if !strings.Contains("\n"+string(mod), "\nmodule "+durableModule+"\n") {
		return "", fmt.Errorf("--replace: %s is another module than %s", filepath.Join(checkout, "go.mod"), durableModule)
	}
	if filepath.IsAbs(checkout) {
		return filepath.ToSlash(filepath.Clean(checkout)), nil
	}
	relative, err := filepath.Rel(folder, checkout)
	if err != nil {
		return "", fmt.Errorf("--replace: %w", err)
	}
	relative = filepath.ToSlash(relative)
	if !strings.HasPrefix(relative, "../") && relative != ".." {
		relative = "./" + relative
	}
	return relative, nil
}

// requiredVersion returns the version of the durable module for go.mod: that of
// this program, if it is a release. Otherwise it is empty, and "go mod tidy"
// takes the newest.
func requiredVersion(replace string) string {
	if replace != "" {
		return "v0.0.0-00010101000000-000000000000" // what the go command writes for a replaced module
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Path != durableModule || !strings.HasPrefix(info.Main.Version, "v") || strings.Contains(info.Main.Version, "+") {
		return ""
	}
	return info.Main.Version
}

// writeNew writes files into folder, all or none. If one of them exists it
// writes nothing and names every one that does.
func writeNew(folder string, files []file) error {
	var existing []string
	seen := make(map[string]bool)
	for _, f := range files {
		path, found, err := obstacle(folder, f.path)
		if err != nil {
			return err
		}
		if found && !seen[path] {
			seen[path] = true
			existing = append(existing, path)
		}
	}
	if len(existing) > 0 {
		return fmt.Errorf("nothing was written, because these exist:\n  %s", strings.Join(existing, "\n  "))
	}

	var made []string // what to remove again if a write fails
	for _, f := range files {
		if err := writeFile(filepath.Join(folder, filepath.FromSlash(f.path)), f.content, &made); err != nil {
			for i := len(made) - 1; i >= 0; i-- {
				_ = os.Remove(made[i])
			}
			return err
		}
	}
	return nil
}

// obstacle looks for what is in the way of the file at path: the file itself, or
// something that is no folder where the path needs one.
func obstacle(folder, path string) (at string, found bool, err error) {
	at = folder
	elements := strings.Split(path, "/")
	for i := 0; ; i++ {
		info, err := os.Stat(at)
		if err != nil {
			// A link that leads nowhere is in the way as well.
			if _, lerr := os.Lstat(at); lerr == nil {
				return at, true, nil
			}
			if os.IsNotExist(err) {
				return "", false, nil
			}
			return "", false, err
		}
		if i == len(elements) || !info.IsDir() {
			return at, true, nil
		}
		at = filepath.Join(at, elements[i])
	}
}

// writeFile writes a file that must not exist, makes the folders it needs, and
// adds what it made to made.
func writeFile(path string, content []byte, made *[]string) error {
	if err := makeFolder(filepath.Dir(path), made); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	*made = append(*made, path)
	if _, err := out.Write(content); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func makeFolder(path string, made *[]string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(path); parent != path {
		if err := makeFolder(parent, made); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, fs.FileMode(0o777)); err != nil {
		return err
	}
	*made = append(*made, path)
	return nil
}
