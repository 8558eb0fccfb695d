package sqllogic

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A DB is the database that a script runs against. It is empty at first. One
// call is made at a time.
type DB interface {
	// Exec runs one or more statements and drops their rows.
	Exec(ctx context.Context, sql string) error
	// Query runs one statement and returns all its rows, whose values are nil,
	// int64, float64, string or []byte.
	Query(ctx context.Context, sql string) (rows [][]any, err error)
}

// A Func is a [DB] of one function, which runs one or more statements to their
// end and returns the rows of the last.
type Func func(ctx context.Context, sql string) (rows [][]any, err error)

// Exec implements [DB].
func (f Func) Exec(ctx context.Context, sql string) error {
	_, err := f(ctx, sql)
	return err
}

// Query implements [DB].
func (f Func) Query(ctx context.Context, sql string) ([][]any, error) { return f(ctx, sql) }

// What the errors of a [DB] may wrap. All other errors are about the SQL.
var (
	// ErrStopped: the query compiled and ran, and an error such as an integer
	// overflow ended it after the rows that are returned. These are compared
	// then, whatever the error: a script cannot say that a query should fail,
	// and one of SQLite's expects no rows of a sum that overflows. Without
	// ErrStopped a query that fails is a failure.
	ErrStopped = errors.New("query stopped")
	// ErrUnusable: the database does not answer. Nothing follows from that,
	// also where an error is expected, and the run ends.
	ErrUnusable = errors.New("database unusable")
)

// A Result is what became of the statements and queries of a script.
type Result struct {
	Passed  int
	Stopped int // of Passed: queries with [ErrStopped]
	Skipped int // for other engines, or below a halt
	// Failures are in the order of the script.
	Failures []Failure
}

// A Failure is a record that did not do what it should.
type Failure struct {
	File string
	Line int
	SQL  string
	Want string
	Got  string
}

func (f Failure) Error() string {
	return fmt.Sprintf("%s:%d:%s\nwant:%s\ngot:%s", f.File, f.Line, indent(f.SQL), indent(f.Want), indent(f.Got))
}

func indent(s string) string { return "\n\t" + strings.ReplaceAll(s, "\n", "\n\t") }

// Run runs the records of one script that are for the engine, whose name has no
// case. A failure does not end it; what does is the end of ctx or an
// [ErrUnusable], and then it returns that error with the result so far.
func Run(ctx context.Context, script []Record, db DB, engine string) (Result, error) {
	r := run{db: db, labels: map[string]labelled{}}
	for i := range script {
		rec := &script[i]
		is := func(name string) bool { return strings.EqualFold(name, engine) }
		others := func(name string) bool { return !is(name) }
		if slices.ContainsFunc(rec.skipIf, is) || slices.ContainsFunc(rec.onlyIf, others) {
			r.skip(rec)
			continue
		}
		switch rec.kind {
		case hashThreshold:
			r.threshold = rec.threshold
			continue
		case halt:
			for j := range script[i:] {
				r.skip(&script[i+j])
			}
			return r.result, nil
		}
		if err := r.step(ctx, rec); err != nil {
			return r.result, fmt.Errorf("%s: %w", rec.where(), err)
		}
	}
	return r.result, nil
}

// A run is the state of one [Run].
type run struct {
	db        DB
	result    Result
	threshold int
	labels    map[string]labelled
}

// labelled is what the first query of a label returned.
type labelled struct {
	where  string
	values []string
}

func (r *run) skip(rec *Record) {
	if rec.kind != hashThreshold && rec.kind != halt {
		r.result.Skipped++
	}
}

// step runs a statement or a query. Its error ends the run.
func (r *run) step(ctx context.Context, rec *Record) error {
	var rows [][]any
	var err error
	if rec.kind == query {
		rows, err = r.db.Query(ctx, rec.sql)
	} else {
		err = r.db.Exec(ctx, rec.sql)
	}
	if errors.Is(err, ErrUnusable) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	f := Failure{File: rec.file, Line: rec.line, SQL: rec.sql}
	var ok bool
	if rec.kind == query {
		f.Want, f.Got, ok = r.query(rec, rows, err)
	} else {
		f.Want, f.Got, ok = statement(rec, err)
	}
	if ok {
		r.result.Passed++
	} else {
		r.result.Failures = append(r.result.Failures, f)
	}
	return nil
}

// statement judges the outcome of a statement. If it is not ok, want and got say
// why.
func statement(rec *Record, err error) (want, got string, ok bool) {
	switch {
	case rec.kind == statementOK:
		return outcome(nil), outcome(err), err == nil
	case rec.pattern != nil:
		return "an error that matches " + rec.pattern.String(), outcome(err),
			err != nil && rec.pattern.MatchString(err.Error())
	default:
		return "an error", outcome(err), err != nil
	}
}

// query judges the outcome of a query. If it is not ok, want and got say why.
func (r *run) query(rec *Record, rows [][]any, err error) (want, got string, ok bool) {
	if err == nil {
		return r.compare(rec, rows)
	}
	if !errors.Is(err, ErrStopped) {
		return rec.want.String(), outcome(err), false
	}
	want, got, ok = r.compare(rec, rows)
	if ok {
		r.result.Stopped++
	}
	return want, got + "\n" + outcome(err), ok
}

func outcome(err error) string {
	if err == nil {
		return "no error"
	}
	return "error: " + err.Error()
}

// compare judges the rows of a query, and whether they are those of its label.
func (r *run) compare(rec *Record, rows [][]any) (want, got string, ok bool) {
	values, err := flatten(rec, rows)
	if err != nil {
		return rec.want.String(), outcome(err), false
	}
	if !rec.want.met(values) {
		return rec.want.String(), r.show(values, rec.want.hash != ""), false
	}
	if rec.label == "" {
		return "", "", true
	}
	first, ok := r.labels[rec.label]
	if !ok {
		r.labels[rec.label] = labelled{rec.where(), values}
		return "", "", true
	}
	want = fmt.Sprintf("as %s, which has the label %s too:\n%s", first.where, rec.label, r.show(first.values, false))
	return want, r.show(values, false), slices.Equal(values, first.values)
}

// flatten renders the rows of a query, brings them into its order, and returns
// their values one after another.
func flatten(rec *Record, rows [][]any) ([]string, error) {
	rendered := make([][]string, len(rows))
	for i, row := range rows {
		if len(row) != len(rec.types) {
			return nil, fmt.Errorf("row %d has %d columns, not %d", i+1, len(row), len(rec.types))
		}
		for j, value := range row {
			text, err := render(rec.types[j], value)
			if err != nil {
				return nil, fmt.Errorf("row %d, column %d: %w", i+1, j+1, err)
			}
			rendered[i] = append(rendered[i], text)
		}
	}
	if rec.order == rowSort {
		slices.SortFunc(rendered, slices.Compare)
	}
	values := slices.Concat(rendered...)
	if rec.order == valueSort {
		slices.Sort(values)
	}
	return values, nil
}

// met reports whether the values are the expected ones.
func (e expectation) met(values []string) bool {
	if len(values) != e.count {
		return false
	}
	if e.hash != "" {
		return hash(values) == e.hash
	}
	// Lines of a script have no spaces at their end.
	return slices.EqualFunc(values, e.values, func(value, line string) bool {
		return strings.TrimRight(value, " ") == line
	})
}

// String writes e as a script does.
func (e expectation) String() string {
	if e.hash != "" {
		return digest(e.count, e.hash)
	}
	return lines(e.values)
}

// show writes values for a failure: as a hash if asked for, or if they are more
// than the threshold.
func (r *run) show(values []string, short bool) string {
	if short || r.threshold > 0 && len(values) > r.threshold {
		return digest(len(values), hash(values))
	}
	return lines(values)
}

func lines(values []string) string {
	if len(values) == 0 {
		return "no rows"
	}
	return strings.Join(values, "\n")
}

func digest(count int, hash string) string {
	return strconv.Itoa(count) + " values hashing to " + hash
}

// hash returns the MD5 of the values, which each end with a newline.
func hash(values []string) string {
	h := md5.New()
	for _, value := range values {
		h.Write([]byte(value + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil))
}
