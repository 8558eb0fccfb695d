package sqlitedb

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ncruces/go-sqlite3"

	"github.com/durable-go/durable/storage"
)

// A guard decides what statements may do, when SQLite compiles them. It sees
// what they do whatever their text looks like.
type guard struct {
	internal  bool // it is a statement of ours
	compiling bool // and not running, where SQLite compiles some of its own
	write     bool // the session may write
	reserved  bool // the tables of the runtime are allowed
	explain   bool // it is an EXPLAIN
	facts
	denied *storage.SQLError // why the last one was refused
}

// facts are what the guard found out about a statement.
type facts struct {
	pragma, value string // of a PRAGMA
	ddl           bool   // it changes the schema
	alters        bool
	writes        []change
	indirect      bool     // triggers or virtual tables write, too
	other         bool     // it writes what is no row of a table
	fts5          bool     // it needs full-text search, which SQLite may not say
	behind        []string // the tables that it changes would be parts of virtual ones of these names
}

// A change is one kind of change that a statement makes to a table.
type change struct {
	action sqlite3.AuthorizerActionCode
	table  string
	column string // of an update
}

// compile prepares for a statement to be compiled.
func (g *guard) compile(write, reserved, explain bool) {
	*g = guard{compiling: true, write: write, reserved: reserved, explain: explain}
}

// run prepares for a statement to run, which may compile it again.
func (g *guard) run(s *stmt, write bool) {
	g.compiling, g.explain, g.write, g.reserved, g.denied = false, false, write, s.key.reserved, nil
	g.alters, g.pragma = s.alters, s.pragma
}

func (g *guard) deny(what, hint string) sqlite3.AuthorizerReturnCode {
	if g.denied == nil {
		g.denied = &storage.SQLError{Code: "SQLITE_AUTH", Message: what, Hint: hint, Offset: -1}
	}
	return sqlite3.AUTH_DENY
}

func reservedName(what string) *storage.SQLError {
	return &storage.SQLError{
		Code: "SQLITE_AUTH", Offset: -1, Message: what + " that begins with " + storage.SQLReserved + " is reserved",
		Hint: "the runtime keeps its own tables under such names",
	}
}

// IsReserved reports whether a name of the schema belongs to the runtime.
func isReserved(name string) bool {
	n := len(storage.SQLReserved)
	return len(name) >= n && strings.EqualFold(name[:n], storage.SQLReserved)
}

const (
	hintOne         = "an object has one database: to use another's data, call that object"
	hintTransaction = "a turn is one transaction, committed when the handler returns nil and undone when it fails; use tx.Savepoint for a part of it"
	hintTemp        = "use a table, a common table expression or a Go variable"
	temporary       = "temporary tables, indexes, views and triggers are refused"
)

// modules are the virtual tables that may be made.
var modules = []string{"fts5", "fts5vocab"}

// shadows end the names of the tables behind a full-text index. SQLite guards them
// where it knows of full-text search.
var shadows = []string{"_data", "_idx", "_content", "_docsize", "_config"}

// authorize is SQLite's authorizer: see https://sqlite.org/c3ref/c_alter_table.html
// for what the names mean with each action.
func (g *guard) authorize(action sqlite3.AuthorizerActionCode, name, second, schema, inner string) sqlite3.AuthorizerReturnCode {
	if g.internal {
		return sqlite3.AUTH_OK
	}
	switch action {
	case sqlite3.AUTH_TRANSACTION, sqlite3.AUTH_SAVEPOINT:
		if action == sqlite3.AUTH_SAVEPOINT && name == "BEGIN" {
			name = "SAVEPOINT"
		}
		return g.deny(name+" is refused", hintTransaction)
	case sqlite3.AUTH_ATTACH:
		return g.deny("ATTACH is refused", hintOne)
	case sqlite3.AUTH_DETACH:
		return g.deny("DETACH is refused", hintOne)
	case sqlite3.AUTH_CREATE_TEMP_INDEX, sqlite3.AUTH_CREATE_TEMP_TABLE, sqlite3.AUTH_CREATE_TEMP_TRIGGER, sqlite3.AUTH_CREATE_TEMP_VIEW,
		sqlite3.AUTH_DROP_TEMP_INDEX, sqlite3.AUTH_DROP_TEMP_TABLE, sqlite3.AUTH_DROP_TEMP_TRIGGER, sqlite3.AUTH_DROP_TEMP_VIEW:
		return g.deny(temporary, hintTemp)
	case sqlite3.AUTH_PRAGMA:
		return g.authorizePragma(strings.ToLower(name), second)
	case sqlite3.AUTH_FUNCTION:
		if f := strings.ToLower(second); f == "fts5_source_id" || strings.HasPrefix(f, "sqlite_") && !g.alters {
			return g.deny("the function "+second+" is refused", "functions whose names begin with sqlite_ tell of the program, not of the data")
		}
		return sqlite3.AUTH_OK
	case sqlite3.AUTH_CREATE_TABLE, sqlite3.AUTH_CREATE_INDEX, sqlite3.AUTH_CREATE_TRIGGER, sqlite3.AUTH_CREATE_VIEW:
		if schema == "temp" {
			return g.deny(temporary, hintTemp)
		}
	case sqlite3.AUTH_ANALYZE:
		if isReserved(name) && !g.reserved {
			return sqlite3.AUTH_IGNORE // it is one of all
		}
	case sqlite3.AUTH_CREATE_VTABLE:
		if schema == "temp" {
			return g.deny(temporary, hintTemp)
		}
		if !slices.Contains(modules, strings.ToLower(second)) {
			return g.deny("virtual tables of the module "+second+" are refused", "there are "+strings.Join(modules, " and "))
		}
		g.indirect, g.fts5 = true, true
	case sqlite3.AUTH_DROP_VTABLE:
		g.indirect = true
	case sqlite3.AUTH_ALTER_TABLE:
		if g.compiling {
			g.alters, g.ddl = true, true
		}
		name, second = second, ""
	case sqlite3.AUTH_SELECT, sqlite3.AUTH_RECURSIVE:
		return sqlite3.AUTH_OK
	}
	if !g.reserved && (isReserved(name) || isReserved(second) && action != sqlite3.AUTH_READ && action != sqlite3.AUTH_UPDATE) {
		g.denied = reservedName("a name")
		return sqlite3.AUTH_DENY
	}
	if g.compiling {
		g.note(action, name, second, inner)
		if action != sqlite3.AUTH_READ {
			for _, suffix := range shadows {
				if base, ok := strings.CutSuffix(name, suffix); ok {
					g.behind = append(g.behind, base)
				}
				if base, ok := strings.CutSuffix(second, suffix); ok && action != sqlite3.AUTH_UPDATE {
					g.behind = append(g.behind, base) // the table of an index or a trigger
				}
			}
		}
	}
	return sqlite3.AUTH_OK
}

// note keeps what a statement changes.
func (g *guard) note(action sqlite3.AuthorizerActionCode, name, second, inner string) {
	switch action {
	case sqlite3.AUTH_READ:
		return
	case sqlite3.AUTH_ANALYZE, sqlite3.AUTH_REINDEX:
		g.other = true
	case sqlite3.AUTH_INSERT, sqlite3.AUTH_DELETE, sqlite3.AUTH_UPDATE:
		if strings.HasPrefix(name, "sqlite_") {
			return
		}
		g.indirect = g.indirect || inner != ""
		w := change{action: action, table: name}
		if action == sqlite3.AUTH_UPDATE {
			w.column = second
		}
		if !slices.Contains(g.writes, w) {
			g.writes = append(g.writes, w)
		}
	default:
		g.ddl = true
	}
}

// plain reports whether the statement inserts, updates or deletes, and does
// nothing else, so that it wrote nothing if it changed no row.
func (f *facts) plain() bool {
	return len(f.writes) > 0 && !f.ddl && !f.indirect && !f.other && f.pragma == ""
}

// A pragma says what may be done with one.
type pragma struct {
	read  bool // without a value
	flag  bool // with a boolean
	value func(value string) bool
	// begins is set where giving a value needs a transaction, writes where the
	// pragma needs one always, and stays where the value holds for the connection.
	begins, writes, stays bool
}

func anything(string) bool { return true }

func isNumber(s string) bool {
	return s != "" && strings.Trim(strings.TrimPrefix(s, "-"), "0123456789") == ""
}

// pragmas are those that may be used.
var pragmas = map[string]pragma{
	"data_version": {read: true},
	"page_size":    {read: true},
	"user_version": {read: true, value: isNumber, begins: true},

	"case_sensitive_like":       {flag: true, stays: true},
	"foreign_keys":              {read: true, flag: true, stays: true},
	"defer_foreign_keys":        {read: true, flag: true, begins: true},
	"ignore_check_constraints":  {read: true, flag: true, stays: true},
	"legacy_alter_table":        {read: true, flag: true, stays: true},
	"recursive_triggers":        {read: true, flag: true, stays: true},
	"reverse_unordered_selects": {read: true, flag: true, stays: true},

	"foreign_key_check": {read: true, value: anything},
	"foreign_key_list":  {value: anything},
	"index_info":        {value: anything},
	"index_list":        {value: anything},
	"index_xinfo":       {value: anything},
	"quick_check":       {read: true, value: anything},
	"optimize":          {read: true, value: isMask, writes: true},
	"table_list":        {read: true, value: anything},
	"table_info":        {value: anything},
	"table_xinfo":       {value: anything},
}

func isMask(s string) bool {
	return isNumber(s) || len(s) > 2 && strings.EqualFold(s[:2], "0x") && strings.Trim(s[2:], "0123456789abcdefABCDEF") == ""
}

var booleans = []string{"true", "false", "on", "off", "yes", "no", "1", "0"}

func (g *guard) authorizePragma(name, value string) sqlite3.AuthorizerReturnCode {
	p, ok := pragmas[name]
	switch {
	case !ok:
		return g.deny("PRAGMA "+name+" is refused", hintPragmas())
	case g.explain && value != "" && !p.inspects():
		return g.deny("EXPLAIN of PRAGMA "+name+" with a value is refused", "SQLite would set it")
	case !g.compiling && name != g.pragma && !p.inspects() && (p.writes || value != ""):
		return g.deny("pragma_"+name+" as a table is refused", "use the statement PRAGMA "+name)
	case isReserved(value) && !g.reserved:
		g.denied = reservedName("a name")
		return sqlite3.AUTH_DENY
	case value == "" && !p.read:
		return g.deny("PRAGMA "+name+" without a value is refused", "")
	case value != "" && p.flag && !slices.Contains(booleans, strings.ToLower(value)):
		return g.deny("PRAGMA "+name+" takes a boolean", "use one of "+strings.Join(booleans, ", "))
	case value != "" && !p.flag && (p.value == nil || !p.value(value)):
		return g.deny("setting PRAGMA "+name+" to this value is refused", "")
	case !g.write && (p.writes || value != "" && (p.begins || p.stays)):
		return g.deny("this use of PRAGMA "+name+" in a view is refused", "it changes the database or its settings: use it in a method that writes")
	}
	if g.compiling {
		g.pragma, g.value = name, value
		g.fts5 = name == "quick_check" // which passes over tables that it cannot open
	}
	return sqlite3.AUTH_OK
}

// inspects reports whether the pragma changes nothing, whatever its value.
func (p pragma) inspects() bool { return !p.flag && !p.begins && !p.writes }

// hintPragmas names the pragmas that may be used.
var hintPragmas = sync.OnceValue(func() string {
	return "there are " + strings.Join(slices.Sorted(maps.Keys(pragmas)), ", ")
})

// settles reports whether the statement set something that holds for later
// connections.
func (f *facts) settles(inTx bool) bool {
	if f.pragma == "" || f.value == "" || !pragmas[f.pragma].stays {
		return false
	}
	return f.pragma != "foreign_keys" || !inTx // SQLite ignores it there
}
