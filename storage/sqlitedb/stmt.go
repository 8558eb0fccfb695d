package sqlitedb

import (
	"container/list"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/ext/fts5"

	"github.com/durable-go/durable/storage"
)

// Bounds of the idle statements that a connection keeps.
const (
	maxCachedText  = 1 << 20
	maxCachedStmts = 128
)

// A stmt is a compiled statement. While it runs nobody else has it.
type stmt struct {
	*sqlite3.Stmt
	facts
	key    stmtKey
	last   bool   // nothing but blanks follows
	tail   string // what follows
	params int
	begins bool // it needs a transaction

	// As of the time when it had been compiled again so many times.
	described      int
	columns, types []string
	// perChange is how many rows of tables and indexes change with one row, as
	// of a generation of the schema.
	perChange, generation int64
}

type stmtKey struct {
	text     string
	reserved bool
}

// A cache keeps idle statements by their text. Several may have the same.
type cache struct {
	stmts map[stmtKey]*list.Element
	order list.List // of *stmt, the least recently used first
	text  int
}

// take removes a statement from the cache and returns it, nil if there is none.
func (c *cache) take(key stmtKey) *stmt {
	el := c.stmts[key]
	if el == nil {
		return nil
	}
	return c.remove(el)
}

func (c *cache) remove(el *list.Element) *stmt {
	s := c.order.Remove(el).(*stmt)
	delete(c.stmts, s.key)
	c.text -= len(s.key.text)
	return s
}

// put keeps a statement that was reset, and closes what is too much.
func (c *cache) put(s *stmt) {
	if c.stmts[s.key] != nil || len(s.key.text) > maxCachedText/8 || s.pragma != "" {
		_ = s.Close()
		return
	}
	if c.stmts == nil {
		c.stmts = map[stmtKey]*list.Element{}
	}
	c.stmts[s.key] = c.order.PushBack(s)
	c.text += len(s.key.text)
	for c.text > maxCachedText || c.order.Len() > maxCachedStmts {
		_ = c.remove(c.order.Front()).Close()
	}
}

// prepare returns the first statement of text, nil if it has none.
func (c *conn) prepare(text string, write bool, opts storage.SQLOptions) (*stmt, error) {
	key := stmtKey{text, opts.Reserved}
	if s := c.cache.take(key); s != nil {
		return s, nil
	}
	word, explain := firstWord(text)
	if word == "VACUUM" {
		return nil, &storage.SQLError{Code: "SQLITE_AUTH", Message: "VACUUM is refused", Hint: "use tx.SQL().Vacuum", Offset: -1}
	}
	c.guard.compile(write, opts.Reserved, explain)
	compiled, tail, err := c.lite.PrepareFlags(text, sqlite3.PREPARE_PERSISTENT)
	again := err != nil && c.addFTS5(err)
	if err == nil && !c.fts5 && (c.guard.fts5 || slices.ContainsFunc(c.guard.behind, c.isVirtual)) {
		_ = compiled.Close()
		again = c.registerFTS5()
	}
	if again {
		c.guard.compile(write, opts.Reserved, explain)
		compiled, tail, err = c.lite.PrepareFlags(text, sqlite3.PREPARE_PERSISTENT)
	}
	if err != nil {
		return nil, c.failed(err, text)
	}
	if compiled == nil {
		return nil, nil
	}
	s := &stmt{Stmt: compiled, key: key, tail: tail, last: strings.TrimSpace(tail) == "", facts: c.guard.facts}
	s.params = compiled.BindCount()
	switch {
	case explain:
		s.facts = facts{} // it does nothing of that
	case s.pragma == "":
		s.begins = !compiled.ReadOnly()
	default:
		p := pragmas[s.pragma]
		s.begins = p.writes || p.begins && s.value != ""
	}
	return s, nil
}

// addFTS5 adds full-text search to the connection when err says that it is
// missing, and reports whether it did. It costs time and memory, and few
// databases use it.
func (c *conn) addFTS5(err error) bool {
	text := strings.ToLower(err.Error()) // the name is as the statement writes it
	if c.fts5 || !strings.Contains(text, "no such module: fts5") && !strings.Contains(text, "no such function: fts5") {
		return false
	}
	return c.registerFTS5()
}

func (c *conn) registerFTS5() bool {
	c.fts5 = true
	if fts5.Register(c.lite) != nil {
		return false
	}
	// SQLite looks which tables are behind an index when it reads the schema.
	return c.internal("PRAGMA writable_schema=RESET") == nil
}

// isVirtual reports whether there is a virtual table of this name.
func (c *conn) isVirtual(table string) (is bool) {
	c.each("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND rootpage = 0 AND name = ?1 COLLATE NOCASE", table, func(*sqlite3.Stmt) { is = true })
	return is
}

// firstWord returns the keyword that a statement begins with, in upper case,
// after comments. Where that is EXPLAIN, explain is set, and word is the one it
// explains.
func firstWord(text string) (word string, explain bool) {
	for {
		text = strings.TrimLeft(text, " \t\n\v\f\r;\ufeff") // SQLite skips a byte order mark, too
		switch {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
			continue
		case strings.HasPrefix(text, "/*"):
			_, text, _ = strings.Cut(text[2:], "*/")
			continue
		}
		end := strings.IndexFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
		if end < 0 {
			end = len(text)
		}
		word, text = strings.ToUpper(text[:end]), text[end:]
		if word == "EXPLAIN" || explain && (word == "QUERY" || word == "PLAN") {
			explain = true
			continue
		}
		return word, explain
	}
}

// bind sets the parameters of a statement.
func (c *conn) bind(s *stmt, args []any) error {
	if s.params == 0 && len(args) == 0 {
		return nil
	}
	positional, names := 0, 0
	for _, arg := range args {
		if _, ok := arg.(sql.NamedArg); ok {
			names++
		} else {
			positional++
		}
	}
	if names == 0 && positional != s.params {
		return &storage.SQLError{
			Code: "SQLITE_RANGE", Offset: -1,
			Message: fmt.Sprintf("wrong number of bindings: the statement has %d parameters, %d values were given", s.params, positional),
		}
	}
	bound := make([]bool, 0, 16)
	if names > 0 {
		bound = make([]bool, s.params)
	}
	next := 1
	for _, arg := range args {
		if named, ok := arg.(sql.NamedArg); ok {
			found := false
			for _, prefix := range [...]string{":", "@", "$"} {
				if i := s.BindIndex(prefix + named.Name); i > 0 {
					if err := c.bindValue(s, i, named.Value); err != nil {
						return err
					}
					bound[i-1], found = true, true
				}
			}
			if !found {
				return &storage.SQLError{Code: "SQLITE_RANGE", Offset: -1, Message: fmt.Sprintf("the statement has no parameter named %q", named.Name)}
			}
			continue
		}
		if names > 0 {
			for next <= s.params && s.BindName(next) != "" {
				next++
			}
			if next > s.params {
				return &storage.SQLError{Code: "SQLITE_RANGE", Offset: -1, Message: "wrong number of bindings: more values than parameters"}
			}
			bound[next-1] = true
		}
		if err := c.bindValue(s, next, arg); err != nil {
			return err
		}
		next++
	}
	for i, ok := range bound {
		if names > 0 && !ok {
			return &storage.SQLError{Code: "SQLITE_RANGE", Offset: -1, Message: fmt.Sprintf("wrong number of bindings: parameter %d %s has no value", i+1, s.BindName(i+1))}
		}
	}
	return nil
}

func (c *conn) bindValue(s *stmt, i int, value any) error {
	var err error
	size := 0
	switch v := value.(type) {
	case nil:
		err = s.BindNull(i)
	case int64:
		err = s.BindInt64(i, v)
	case float64:
		err = s.BindFloat(i, v)
	case string:
		if size = len(v); size <= c.db.limits.RowBytes {
			err = s.BindText(i, v)
		}
	case []byte:
		if size = len(v); size <= c.db.limits.RowBytes {
			err = s.BindBlob(i, v)
		}
	default:
		return fmt.Errorf("%w: a %T as parameter %d", storage.ErrInvalid, value, i)
	}
	if limit := c.db.limits.RowBytes; size > limit {
		return &storage.LimitError{What: "bytes of a SQL value", Max: int64(limit), Actual: int64(size), Err: storage.ErrTooLarge}
	}
	if err != nil {
		return c.failed(err, "")
	}
	return nil
}

// free gives a statement back.
func (c *conn) free(s *stmt) {
	if c.lite == nil { // closed under it
		return
	}
	_ = s.Reset()
	if s.params > 0 {
		_ = s.ClearBindings()
	}
	c.cache.put(s)
}
