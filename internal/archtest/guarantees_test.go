package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGuarantees checks that every test and script that docs/guarantees.md names
// exists.
func TestGuarantees(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]*)\\.?(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 20 {
		t.Fatalf("the page names %d tests: has its form changed?", len(named))
	}
	for _, m := range named {
		if !declares(t, filepath.Join(root, m[1]), m[2]) {
			t.Errorf("%s has no test %s", m[1], m[2])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)\| *scripts? ([^|;]*)`).FindAllStringSubmatch(string(page), -1) {
		for _, name := range strings.Split(m[1], ",") {
			script := filepath.Join(root, "internal", "actor", "testdata", strings.Trim(name, " `"))
			if _, err := os.Stat(script); err != nil {
				t.Error(err)
			}
		}
	}
}

// declares reports whether a test file of the package declares the test.
func declares(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
