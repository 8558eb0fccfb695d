package sqlitedb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/durable-go/durable/storage"
)

func TestFirstWord(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   " false",
		" \t;\n;":                            " false",
		"SELECT 1":                           "SELECT false",
		"vacuum":                             "VACUUM false",
		"Vacuum;":                            "VACUUM false",
		"VACUUM/**/INTO 'x'":                 "VACUUM false",
		"-- a\n/* b */ ; -- c\n VaCuUm main": "VACUUM false",
		"-- no end":                          " false",
		"/* no end":                          " false",
		"EXPLAIN vacuum":                     "VACUUM true",
		"explain/* */query -- \nPLAN BEGIN":  "BEGIN true",
		"(VALUES (1))":                       " false",
		"éVACUUM":                            " false",
		"VACUUM_1":                           "VACUUM false",
		"QUERY":                              "QUERY false",
		"PLAN 1":                             "PLAN false",
	} {
		word, explain := firstWord(text)
		if got := fmt.Sprint(word, " ", explain); got != want {
			t.Errorf("%q begins with %s, want %s", text, got, want)
		}
	}
}

func TestPanicked(t *testing.T) {
	below := func() (v any) {
		defer func() { v = recover() }()
		memory, at := make([]byte, 10), uint32(0)
		at -= 200
		return memory[at]
	}
	slice := func() (v any) {
		defer func() { v = recover() }()
		memory, at := make([]byte, 10), uint32(0)
		at -= 60_000
		return memory[at:]
	}
	beyond := func() (v any) {
		defer func() { v = recover() }()
		memory, at := make([]byte, 10), 11
		return memory[at]
	}
	for name, c := range map[string]struct {
		value         any
		code, message string
	}{
		"memory":         {errors.New("sqlite3: out of memory"), "SQLITE_NOMEM", "out of memory"},
		"stack":          {below(), "SQLITE_NOMEM", "the stack of the SQL engine is full"},
		"stack, a slice": {slice(), "SQLITE_NOMEM", "the stack of the SQL engine is full"},
		"a bug":          {beyond(), "SQLITE_INTERNAL", "the SQL engine panicked"},
		"another":        {"boom", "SQLITE_INTERNAL", "the SQL engine panicked"},
	} {
		var e *storage.SQLError
		if err := New(Options{}).panicked(c.value); !errors.As(err, &e) || e.Code != c.code || !strings.HasPrefix(e.Message, c.message) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReservedNames(t *testing.T) {
	for name, want := range map[string]bool{"": false, "_durable_": true, "_DURABLE_x": true, "_durable": false, "x_durable_": false, "_durable_x": true} {
		if isReserved(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
