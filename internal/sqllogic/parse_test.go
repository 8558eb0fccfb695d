package sqllogic

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	text := `# A comment first.

hash-threshold 8
statement ok # a threshold needs no blank line
CREATE TABLE t (
# in the middle
  a, b)


skipif mysql # why
# between conditions
onlyif sqlite
statement error  no  such|missing  # why
DROP TABLE u

query ITR
SELECT 1, ' # ', 2.5
  -- no separator

query I rowsort lbl
SELECT 1
----   
1  
 # 2
# not a value

query TT valuesort
SELECT a, b FROM t
----
30 values hashing to D41D8CD98F00B204E9800998ECF8427E

query I
SELECT 1 WHERE 0
----

onlyif mssql
halt
`
	want := []Record{
		{file: "f", line: 3, kind: hashThreshold, threshold: 8},
		{file: "f", line: 4, kind: statementOK, sql: "CREATE TABLE t (\n  a, b)"},
		{
			file: "f", line: 13, kind: statementError, sql: "DROP TABLE u",
			skipIf: []string{"mysql"}, onlyIf: []string{"sqlite"}, pattern: regexp.MustCompile("no  such|missing"),
		},
		{
			file: "f", line: 16, kind: query, sql: "SELECT 1, ' # ', 2.5\n  -- no separator",
			types: "ITR", order: noSort,
		},
		{
			file: "f", line: 20, kind: query, sql: "SELECT 1", types: "I", order: rowSort, label: "lbl",
			want: expectation{values: []string{"1", " # 2"}, count: 2},
		},
		{
			file: "f", line: 27, kind: query, sql: "SELECT a, b FROM t", types: "TT", order: valueSort,
			want: expectation{count: 30, hash: "d41d8cd98f00b204e9800998ecf8427e"},
		},
		{file: "f", line: 32, kind: query, sql: "SELECT 1 WHERE 0", types: "I", order: noSort},
		{file: "f", line: 37, kind: halt, onlyIf: []string{"mssql"}},
	}
	for _, ends := range []string{"\n", "\r\n"} {
		for _, last := range []string{"\n", ""} {
			script := strings.TrimSuffix(text, "\n") + last
			got, err := Parse("f", strings.NewReader(strings.ReplaceAll(script, "\n", ends)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Record{}, expectation{}),
				cmp.Comparer(func(a, b *regexp.Regexp) bool {
					return a == b || a != nil && b != nil && a.String() == b.String()
				})); diff != "" {
				t.Errorf("with %q between lines and %q at the end (-want +got):\n%s", ends, last, diff)
			}
		}
	}
}

func TestParseNothing(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# only\n# comments", " \t\r\n"} {
		if records, err := Parse("f", strings.NewReader(text)); len(records) > 0 || err != nil {
			t.Errorf("%q: %d records, %v", text, len(records), err)
		}
	}
}

func TestParseMalformed(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"command", "\n# x\nselect 1", `f:3: unknown command "select"`},
		{"second record", "halt\n\nnonsense", `f:3: unknown command "nonsense"`},
		{"statement alone", "statement\nSELECT 1", `f:1: want "statement ok" or`},
		{"statement of a third kind", "statement maybe\nSELECT 1", `f:1: want "statement ok" or`},
		{"statement ok with more", "statement ok fine\nSELECT 1", `f:1: want "statement ok" or`},
		{"statement without SQL", "\nstatement ok\n# SELECT 1\n\nhalt", `f:2: a statement without SQL`},
		{"statement at the end", "statement ok", `f:1: a statement without SQL`},
		{"pattern", "statement error (\nSELECT 1", "f:1: pattern of the error: error parsing regexp"},
		{"query alone", "query\nSELECT 1", "f:1: a query takes the types"},
		{"query with a fourth argument", "query I nosort a b\nSELECT 1", "f:1: a query takes the types"},
		{"query without SQL", "query I\n----\n1", "f:1: a query without SQL"},
		{"type", "query IXI\nSELECT 1", `f:1: unknown types of columns "IXI"`},
		{"order", "query I lbl\nSELECT 1", `f:1: unknown order "lbl"`},
		{"short hash", "query I\nSELECT 1\n----\n30 values hashing to 12", `f:3: want one line "<number> values hashing to <MD5>"`},
		{
			"hash and values", "query I\nSELECT 1\n----\n1\n30 values hashing to d41d8cd98f00b204e9800998ecf8427e\n",
			`f:3: want one line "<number> values hashing to <MD5>"`,
		},
		{
			"huge hash", "query I\nSELECT 1\n----\n99999999999999999999 values hashing to d41d8cd98f00b204e9800998ecf8427e\n",
			"f:3: number of values: ",
		},
		{"half a row", "query II\nSELECT 1, 2\n----\n1\n2\n3", "f:3: 3 values are no rows of 2 columns"},
		{"skipif alone", "skipif\nhalt", "f:1: skipif takes the name of one engine"},
		{"onlyif with two", "onlyif a b\nhalt", "f:1: onlyif takes the name of one engine"},
		{"condition before a blank line", "onlyif a\n\nhalt", "f:2: a condition without a record"},
		{"condition at the end", "onlyif a", "f:1: a condition without a record"},
		{"threshold alone", "hash-threshold", "f:1: hash-threshold takes one number"},
		{"threshold of no number", "hash-threshold x", "f:1: hash-threshold takes one number"},
		{"threshold below 0", "hash-threshold -1", "f:1: hash-threshold takes one number"},
		{"halt with more", "halt now", "f:1: halt takes nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f", strings.NewReader(c.text))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}
