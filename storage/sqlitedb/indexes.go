package sqlitedb

import (
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"
)

// indexes are what a connection knows of the indexes of tables, until the schema
// changes.
type indexes struct {
	generation int64
	tables     map[string][]index
}

// An index is the columns of one index; nil for one over expressions.
type index []string

func (x *indexes) forget() {
	x.generation++
	x.tables = nil
}

// rowsPerChange returns how many rows of the table and its indexes change with
// each row that the statement changes: 1 and one for each index concerned. It is
// exact for statements that change one table in one way, and without triggers.
func (c *conn) rowsPerChange(s *stmt) int64 {
	if s.perChange > 0 && s.generation == c.index.generation {
		return s.perChange
	}
	s.perChange, s.generation = 1, c.index.generation
	if s.indirect || len(s.writes) == 0 {
		return 1
	}
	table := s.writes[0].table
	var columns []string
	whole := false
	for _, w := range s.writes {
		if w.table != table {
			return 1
		}
		if w.column == "" || c.isRowID(table, w.column) {
			whole = true // all entries name the row
		} else {
			columns = append(columns, w.column)
		}
	}
	for _, index := range c.indexesOf(table) {
		concerned := whole || index == nil || slices.ContainsFunc(index, func(name string) bool {
			return slices.ContainsFunc(columns, func(column string) bool { return strings.EqualFold(column, name) })
		})
		if concerned {
			s.perChange++
		}
	}
	return s.perChange
}

func (c *conn) indexesOf(table string) []index {
	if known, ok := c.index.tables[table]; ok {
		return known
	}
	var all []index
	// The primary key of a table without rowid is the table itself.
	c.each("SELECT l.name FROM pragma_index_list(?1) l JOIN pragma_table_list(?1) t ON t.schema = 'main' WHERE NOT (t.wr AND l.origin = 'pk')", table, func(s *sqlite3.Stmt) {
		all = append(all, index{s.ColumnText(0)})
	})
	for i, x := range all {
		var columns index
		expression := false
		c.each("SELECT name FROM pragma_index_info(?1)", x[0], func(s *sqlite3.Stmt) {
			if s.ColumnType(0) == sqlite3.NULL {
				expression = true
			}
			columns = append(columns, s.ColumnText(0))
		})
		if expression {
			columns = nil
		}
		all[i] = columns
	}
	if c.index.tables == nil {
		c.index.tables = map[string][]index{}
	}
	c.index.tables[table] = all
	return all
}

// isRowID reports whether the column is the rowid of its table.
func (c *conn) isRowID(table, column string) bool {
	is := column == "ROWID" // so it is called where it is no column
	c.each("SELECT name FROM pragma_table_info(?1) i WHERE i.pk > 0 AND i.type = 'INTEGER' COLLATE NOCASE AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')", table, func(s *sqlite3.Stmt) {
		is = is || strings.EqualFold(s.ColumnText(0), column)
	})
	return is
}

// each calls f with the rows of an internal query with one parameter.
func (c *conn) each(sql, arg string, f func(*sqlite3.Stmt)) {
	internal := c.guard.internal
	c.guard.internal = true
	defer func() { c.guard.internal = internal }()
	stmt, _, err := c.lite.Prepare(sql)
	if err != nil {
		return
	}
	defer func() { _ = stmt.Close() }()
	if stmt.BindText(1, arg) != nil {
		return
	}
	for stmt.Step() {
		f(stmt)
	}
}

// refreshFullText makes full-text tables look for what another connection
// stored. They do with every query, but not when SQLite checks them.
func (c *conn) refreshFullText() {
	var names []string
	c.each("SELECT name FROM sqlite_schema WHERE type = ?1 AND lower(sql) GLOB 'create virtual table*using*fts5*'", "table", func(s *sqlite3.Stmt) {
		names = append(names, s.ColumnText(0))
	})
	for _, name := range names {
		c.each("SELECT ?1 FROM "+sqlite3.QuoteIdentifier(name)+" LIMIT 1", "", func(*sqlite3.Stmt) {})
	}
}
