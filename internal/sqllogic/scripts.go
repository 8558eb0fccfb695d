package sqllogic

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"testing"
)

// folder holds SQLite's scripts, which are not part of this repository. It is
// relative to the root of the module, as is the value of the variable that names
// another one.
const (
	folder         = "../shared/sqllogictest"
	folderVariable = "SQLLOGICTEST_DIR"
)

// A Script is a file of records.
type Script struct {
	Name    string // slash-separated, from the folder of the scripts
	Records []Record
}

// Scripts returns all scripts of the folder ../shared/sqllogictest, or of the
// one that the environment variable SQLLOGICTEST_DIR names, in the order of
// their names. Both are relative to the root of the module. It skips t where the
// folder is absent, unless the variable names it.
func Scripts(t testing.TB) []Script {
	t.Helper()
	dir, named := os.LookupEnv(folderVariable)
	if !named {
		dir = folder
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(moduleRoot(t), dir)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !named {
		t.Skip("sqllogictest: folder " + folder + " is absent; skipped")
	} else if err != nil {
		t.Fatal(err)
	}
	scripts, err := load(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) == 0 {
		t.Fatalf("sqllogictest: folder %s has no scripts", dir)
	}
	return scripts
}

// load parses every script in a tree of files.
func load(files fs.FS) ([]Script, error) {
	var scripts []Script
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".test" {
			return err
		}
		file, err := files.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		records, err := Parse(name, file)
		scripts = append(scripts, Script{name, records})
		return err
	})
	return scripts, err
}

// moduleRoot returns the folder of go.mod. A test begins in the folder of its
// package.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the folder of the test")
		}
		dir = parent
	}
}
