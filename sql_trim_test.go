package durable

import (
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"
)

func TestTrimSQL(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		" ;\n-- a\n/* b */;\ufeff\f":    "",
		"SELECT 1":                      "SELECT 1",
		"SELECT 1; -- x":                "SELECT 1",
		"SELECT 1 \v":                   "SELECT 1",
		"SELECT 1;\v":                   "SELECT 1;\v",
		"SELECT 1;;\r\n\t/* x; */ ; ":   "SELECT 1",
		"-- first\nSELECT 1;":           "-- first\nSELECT 1",
		"SELECT '--'; --":               "SELECT '--'",
		"SELECT 'it''s --'; ":           "SELECT 'it''s --'",
		"SELECT \"a;--\";":              "SELECT \"a;--\"",
		"SELECT [a--];":                 "SELECT [a--]",
		"SELECT `a/*`; /* open":         "SELECT `a/*`",
		"SELECT 'open; -- x":            "SELECT 'open; -- x",
		"SELECT 1 - -1; SELECT 2--;":    "SELECT 1 - -1; SELECT 2",
		"SELECT 1; SELECT /*/ x */ 2;":  "SELECT 1; SELECT /*/ x */ 2",
		"SELECT 1 /*":                   "SELECT 1 /*",
		"SELECT 'é';\u00a0":             "SELECT 'é';\u00a0",
		"CREATE TRIGGER t BEGIN x; END": "CREATE TRIGGER t BEGIN x; END",
	} {
		if got := trimSQL(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// FuzzTrimSQL: what is cut off is no statement to SQLite, and what is left does
// not end in a blank one.
func FuzzTrimSQL(f *testing.F) {
	for _, text := range []string{
		"SELECT 1; -- x", "SELECT 'it''s --' ;/*;*/", "SELECT [a]]--;", "SELECT \"a\"\"b\"; ", "/*", "/*/", "x/*", "--", "-", "\ufeff;", "SELECT 1;\xef\xbb", " \v",
		"SELECT `a``/*`;--'\n'x", "/**/;/* */SELECT 1;\v", "$a(--", "SELECT x'00' -- x'\n;",
	} {
		f.Add(text)
	}
	conn, err := sqlite3.Open(":memory:")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsRune(text, 0) {
			t.Skip("SQLite ends there")
		}
		kept := trimSQL(text)
		rest, ok := strings.CutPrefix(text, kept)
		if !ok || trimSQL(kept) != kept {
			t.Fatalf("%q is left of %q", kept, text)
		}
		for rest != "" {
			stmt, tail, err := conn.Prepare(rest)
			if err != nil || stmt != nil {
				t.Fatalf("%q was cut off %q: %v", rest, text, err)
			}
			if tail == rest {
				t.Fatalf("%q does not end", rest)
			}
			rest = tail
		}
		// In front of a statement, a comment or an open string would swallow it.
		if stmt, _, err := conn.Prepare(kept); err == nil && stmt == nil && kept != "" {
			t.Fatalf("%q is left of %q, and is blank", kept, text)
		} else if stmt != nil {
			stmt.Close()
		}
	})
}
