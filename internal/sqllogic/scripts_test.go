package sqllogic

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestScripts(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.test": "halt", "README.md": "not a script", "a/c.test": "statement ok\nSELECT 1\n\nhalt",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(folderVariable, dir)
	scripts := Scripts(t)
	if len(scripts) != 2 || scripts[0].Name != "a/c.test" || scripts[1].Name != "b.test" ||
		len(scripts[0].Records) != 2 || len(scripts[1].Records) != 1 {
		t.Errorf("%+v", scripts)
	}
}

func TestScriptsAbsent(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("go.mod", []byte("module m"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(folderVariable, "") // so that it is restored
	if err := os.Unsetenv(folderVariable); err != nil {
		t.Fatal(err)
	}
	t.Run("skipped", func(t *testing.T) {
		t.Cleanup(func() {
			if !t.Skipped() {
				t.Error("not skipped")
			}
		})
		Scripts(t)
	})
}

func TestLoadMalformed(t *testing.T) {
	_, err := load(fstest.MapFS{"a/b.test": {Data: []byte("\nnonsense")}})
	if err == nil || !strings.HasPrefix(err.Error(), "a/b.test:2: ") {
		t.Errorf("%v, want the file and the line", err)
	}
}
