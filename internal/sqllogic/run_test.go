package sqllogic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string) []Record {
	t.Helper()
	records, err := Parse("f", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func TestRun(t *testing.T) {
	result, err := Run(t.Context(), parse(t, `
statement ok
CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (2, 'b  '), (10, NULL), (1, '')

statement error
CREATE TABLE t (a)

statement error table.*already exists$
CREATE TABLE t (a)

query IT
SELECT a, b FROM t ORDER BY a
----
1
(empty)
2
b
10
NULL

query IT rowsort
SELECT a, b FROM t
----
1
(empty)
10
NULL
2
b

query IT valuesort
SELECT a, b FROM t
----
(empty)
1
10
2
NULL
b

query II nosort both
SELECT 1, 2 UNION ALL SELECT 3, 4
----
4 values hashing to 302c28003d487124d97c242de94da856

query I rowsort both
SELECT value FROM json_each('[3,4,2,1]')
----
1
2
3
4

query I
SELECT a FROM t WHERE a > 10

onlyif mysql
statement ok
not SQL

skipif SQLite
statement ok
not SQL

skipif mysql
onlyif sqlite
statement ok
SELECT 1

onlyif mysql
skipif mssql
halt

skipif mysql
skipif sqlite
query I
not SQL

halt

statement ok
not SQL

hash-threshold 3
`), openSQLite(t), "sqlite")
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Passed: 10, Skipped: 4}
	if diff := cmp.Diff(want, result); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every wrong expectation has to be found, and the run has to go on after it.
func TestFailures(t *testing.T) {
	for _, c := range []struct{ name, text, want, got string }{
		{"statement fails", "statement ok\nSELEC", "no error", "error: sqlite3: SQL logic error: near \"SELEC\": syntax error"},
		{"statement succeeds", "statement error\nSELECT 1", "an error", "no error"},
		{"statement succeeds despite a pattern", "statement error x\nSELECT 1", "an error that matches x", "no error"},
		{"another error", "statement error no such\nSELEC", "an error that matches no such", "error: sqlite3: SQL logic error: near \"SELEC\": syntax error"},
		{"query fails", "query I\nSELEC\n----\n", "no rows", "error: sqlite3: SQL logic error: near \"SELEC\": syntax error"},
		{"value", "query I\nSELECT 1\n----\n2", "2", "1"},
		{"type", "query T\nSELECT 1.0\n----\n1", "1", "1.0"},
		{"fewer rows", "query I\nSELECT 1\n----\n1\n1", "1\n1", "1"},
		{"more rows", "query I\nSELECT 1 UNION ALL SELECT 1\n----\n1", "1", "1\n1"},
		{"no rows", "query I\nSELECT 1 WHERE 0\n----\n1", "1", "no rows"},
		{"rows", "query I\nSELECT 1\n----\n", "no rows", "1"},
		{"rows without a separator", "query I\nSELECT 1", "no rows", "1"},
		{"a value that reads as no rows", "query T\nSELECT 'no rows'", "no rows", "no rows"},
		{"order", "query I\nSELECT 1 UNION ALL SELECT 0\n----\n0\n1", "0\n1", "1\n0"},
		{"order of rows", "query II rowsort\nSELECT 1, 0\n----\n0\n1", "0\n1", "1\n0"},
		{"order of an unsorted expectation", "query I valuesort\nSELECT 0 UNION SELECT 1\n----\n1\n0", "1\n0", "0\n1"},
		{"fewer columns", "query II\nSELECT 1\n----\n1\n2", "1\n2", "error: row 1 has 1 columns, not 2"},
		{"more columns", "query I\nSELECT 1, 2\n----\n1\n2", "1\n2", "error: row 1 has 2 columns, not 1"},
		{
			"hash", "query I\nSELECT 1\n----\n1 values hashing to 00000000000000000000000000000000",
			"1 values hashing to 00000000000000000000000000000000", "1 values hashing to b026324c6904b2a9cb4b88d6d61c81d1",
		},
		{
			"number beside a hash", "query I\nSELECT 1\n----\n2 values hashing to b026324c6904b2a9cb4b88d6d61c81d1",
			"2 values hashing to b026324c6904b2a9cb4b88d6d61c81d1", "1 values hashing to b026324c6904b2a9cb4b88d6d61c81d1",
		},
		{
			"threshold", "hash-threshold 1\nquery I\nSELECT 1 UNION ALL SELECT 2\n----\n1\n3",
			"1\n3", "2 values hashing to 6ddb4095eb719e2a9f0a3f95677d24e0",
		},
		{
			"label", "query I nosort x\nSELECT 1\n----\n1\n\nquery I nosort x\nSELECT 2\n----\n2",
			"as f:1, which has the label x too:\n1", "2",
		},
		{"stopped with other rows", "query I\nSELECT abs(-9223372036854775808)\n----\n1", "1", "no rows\nerror: query stopped: sqlite3: SQL logic error: integer overflow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			script := parse(t, c.text+"\n\nstatement ok\nSELECT 1")
			result, err := Run(t.Context(), script, openSQLite(t), "sqlite")
			if err != nil {
				t.Fatal(err)
			}
			last := script[len(script)-2]
			want := []Failure{{File: "f", Line: last.line, SQL: last.sql, Want: c.want, Got: c.got}}
			if diff := cmp.Diff(want, result.Failures); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if result.Passed == 0 {
				t.Error("the record after the failure did not run")
			}
		})
	}
}

func TestFailureText(t *testing.T) {
	f := Failure{File: "a/b.test", Line: 12, SQL: "SELECT 1\nWHERE 0", Want: "1\n2", Got: "no rows"}
	want := "a/b.test:12:\n\tSELECT 1\n\tWHERE 0\nwant:\n\t1\n\t2\ngot:\n\tno rows"
	if diff := cmp.Diff(want, f.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStopped(t *testing.T) {
	script := parse(t, "query I\nSELECT abs(-9223372036854775808)\n----\n")
	result, err := Run(t.Context(), script, openSQLite(t), "sqlite")
	if diff := cmp.Diff(Result{Passed: 1, Stopped: 1}, result); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// What is no answer of the database must not pass for the error that a script
// expects.
func TestRunEnds(t *testing.T) {
	script := parse(t, "statement ok\nSELECT 1\n\nstatement error\nSELEC\n\nstatement ok\nSELECT 2")
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired")
	for _, c := range []struct {
		name string
		err  func() error
		want error
	}{
		{"unusable", func() error { return fmt.Errorf("%w: no connection", ErrUnusable) }, ErrUnusable},
		{"cancelled", func() error { cancel(tired); return ctx.Err() }, tired},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := Func(func(_ context.Context, sql string) ([][]any, error) {
				if sql == "SELEC" {
					return nil, c.err()
				}
				return nil, nil
			})
			result, err := Run(ctx, script, db, "sqlite")
			if !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "f:4: ") {
				t.Errorf("%v, want f:4: %v", err, c.want)
			}
			if diff := cmp.Diff(Result{Passed: 1}, result); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
