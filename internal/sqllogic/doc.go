// Package sqllogic runs test scripts in the format of SQLite's sqllogictest
// against any SQL database.
//
// A script is a list of records, with blank lines between them. A statement has
// to succeed or to fail; a query has to return certain values. The script is
// read with [Parse], or together with SQLite's own ones by [Scripts], and run
// with [Run], which returns each record that did not do what it should.
//
//	# A line that begins with this sign is a comment, wherever it is.
//	statement ok
//	CREATE TABLE t (a INTEGER, b TEXT)
//
//	statement error no such table
//	DROP TABLE u
//
//	onlyif sqlite
//	query IT rowsort both
//	SELECT a, b FROM t
//	----
//	1
//	one
//
// After "statement error" may stand a regular expression that the text of the
// error has to match.
//
// The letters after "query" are one for each column: I for integers, R for reals
// with three decimals, T for text. Then follow how the values are ordered before
// they are compared ("nosort" unless it says "rowsort" or "valuesort") and a
// label; queries of one label have to return the same values. Below the line of
// dashes is one value a line, or "30 values hashing to" and the MD5 of all
// values, each with a newline after it. Without that part there must be no rows.
// NULL and the empty string are written NULL and (empty), and every byte that
// is not printable ASCII is written @. Spaces at the end of a line do not count.
//
// Lines with "skipif" or "onlyif" and the name of an engine say for whom the
// record below them is. "hash-threshold 8" asks that longer results are shown as
// a hash; "halt" ends the script. All of these lines, and the first of a statement
// or a query, may end with a comment.
package sqllogic
