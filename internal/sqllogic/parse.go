package sqllogic

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// A Record is one step of a script.
type Record struct {
	file string
	line int // of its command, which conditions may precede
	kind kind
	sql  string

	skipIf, onlyIf []string // names of engines

	pattern *regexp.Regexp // of kind statementError, may be nil

	// Of kind query.
	types string
	order order
	label string
	want  expectation

	threshold int // of kind hashThreshold, 0 for none
}

// where is the place of the record as a person or an editor reads it.
func (r *Record) where() string { return fmt.Sprintf("%s:%d", r.file, r.line) }

type kind int

const (
	statementOK kind = iota
	statementError
	query
	hashThreshold
	halt
)

type order string

const (
	noSort    order = "nosort"
	rowSort   order = "rowsort"
	valueSort order = "valuesort"
)

// An expectation is the values that a query has to return, in full or, if hash
// is not empty, as their number and their MD5.
type expectation struct {
	values []string
	count  int
	hash   string
}

// separator is the line between a query and the expected values.
const separator = "----"

var (
	comment  = regexp.MustCompile(`[ \t]#.*`)
	hashed   = regexp.MustCompile(`^(\d+) values hashing to ([0-9a-fA-F]{32})$`)
	likeHash = regexp.MustCompile(`^\d+ values hashing to\b`)
)

// Parse reads a script. The name stands in the errors, before the number of the
// line, and in the failures of [Run].
func Parse(name string, r io.Reader) ([]Record, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	p := parser{file: name, rest: strings.Split(string(text), "\n")}
	var records []Record
	for p.skipBlank() {
		record, err := p.record()
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, p.line, err)
		}
		records = append(records, record)
	}
	return records, nil
}

// A parser goes through the lines of a script. Comments do not exist for it.
type parser struct {
	file string
	rest []string
	line int // the number of the line that next returned last
}

// next returns the next line without its end; !ok at the end of the script.
func (p *parser) next() (line string, ok bool) {
	for len(p.rest) > 0 {
		line, p.rest = strings.TrimSuffix(p.rest[0], "\r"), p.rest[1:]
		p.line++
		if !strings.HasPrefix(line, "#") {
			return line, true
		}
	}
	return "", false
}

// skipBlank goes to the next line that is not blank; false if there is none.
func (p *parser) skipBlank() bool {
	for {
		before := *p
		line, ok := p.next()
		if !ok {
			return false
		}
		if strings.TrimSpace(line) != "" {
			*p = before
			return true
		}
	}
}

// body returns the lines up to the next blank one.
func (p *parser) body() []string {
	var lines []string
	for {
		line, ok := p.next()
		if !ok || strings.TrimSpace(line) == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

// record reads what begins at the next line. When it fails, the line of the
// parser is the one to blame.
func (p *parser) record() (Record, error) {
	rec := Record{file: p.file}
	for {
		line, _ := p.next()
		line = comment.ReplaceAllString(line, "")
		command, rest, _ := strings.Cut(strings.Join(strings.Fields(line), " "), " ")
		args := strings.Fields(rest)
		switch command {
		case "skipif", "onlyif":
			if len(args) != 1 {
				return rec, fmt.Errorf("%s takes the name of one engine", command)
			}
			if command == "skipif" {
				rec.skipIf = append(rec.skipIf, args[0])
			} else {
				rec.onlyIf = append(rec.onlyIf, args[0])
			}
			continue
		case "":
			return rec, errors.New("a condition without a record below it")
		}
		rec.line = p.line
		var err error
		switch command {
		case "statement":
			err = p.statement(&rec, line, args)
		case "query":
			err = p.query(&rec, args)
		case "hash-threshold":
			rec.kind = hashThreshold
			if len(args) == 1 {
				rec.threshold, err = strconv.Atoi(args[0])
			}
			if len(args) != 1 || err != nil || rec.threshold < 0 {
				err = errors.New("hash-threshold takes one number")
			}
		case "halt":
			rec.kind = halt
			if len(args) > 0 {
				err = errors.New("halt takes nothing")
			}
		default:
			err = fmt.Errorf("unknown command %q", command)
		}
		return rec, err
	}
}

// statement reads the rest of a statement whose first line is given.
func (p *parser) statement(rec *Record, line string, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "ok":
		rec.kind = statementOK
	case len(args) > 0 && args[0] == "error":
		rec.kind = statementError
		// The spaces within the pattern are part of it.
		if _, pattern, _ := strings.Cut(line, "error"); strings.TrimSpace(pattern) != "" {
			var err error
			if rec.pattern, err = regexp.Compile(strings.TrimSpace(pattern)); err != nil {
				return fmt.Errorf("pattern of the error: %w", err)
			}
		}
	default:
		return errors.New(`want "statement ok" or "statement error" with or without a pattern`)
	}
	rec.sql = strings.Join(p.body(), "\n")
	if rec.sql == "" {
		p.line = rec.line
		return errors.New("a statement without SQL")
	}
	return nil
}

// query reads the rest of a query with these arguments.
func (p *parser) query(rec *Record, args []string) error {
	if len(args) < 1 || len(args) > 3 {
		return errors.New("a query takes the types of its columns, an order and a label")
	}
	rec.kind, rec.types, rec.order = query, args[0], noSort
	if strings.Trim(rec.types, "ITR") != "" {
		return fmt.Errorf("unknown types of columns %q: want I, T and R", rec.types)
	}
	if len(args) > 1 {
		rec.order = order(args[1])
	}
	switch rec.order {
	case noSort, rowSort, valueSort:
	default:
		return fmt.Errorf("unknown order %q: want nosort, rowsort or valuesort", args[1])
	}
	if len(args) > 2 {
		rec.label = args[2]
	}

	var text []string
	for {
		line, ok := p.next()
		if trimmed := strings.TrimRight(line, " \t"); !ok || strings.TrimSpace(line) == "" {
			break
		} else if trimmed == separator {
			if err := p.expectation(rec); err != nil {
				return err
			}
			break
		}
		text = append(text, line)
	}
	rec.sql = strings.Join(text, "\n")
	if rec.sql == "" {
		p.line = rec.line
		return errors.New("a query without SQL")
	}
	return nil
}

// expectation reads the values of a query up to the next blank line.
func (p *parser) expectation(rec *Record) error {
	begin := p.line
	values := p.body()
	for i, value := range values {
		values[i] = strings.TrimRight(value, " \t")
	}
	rec.want = expectation{values: values, count: len(values)}
	for _, value := range values {
		if !likeHash.MatchString(value) {
			continue
		}
		parts := hashed.FindStringSubmatch(value)
		if len(values) > 1 || parts == nil {
			p.line = begin
			return fmt.Errorf("want one line %q", "<number> values hashing to <MD5>")
		}
		count, err := strconv.Atoi(parts[1])
		if err != nil {
			p.line = begin
			return fmt.Errorf("number of values: %w", err)
		}
		rec.want = expectation{count: count, hash: strings.ToLower(parts[2])}
	}
	if n := len(rec.types); rec.want.count%n != 0 {
		p.line = begin
		return fmt.Errorf("%d values are no rows of %d columns", rec.want.count, n)
	}
	return nil
}
