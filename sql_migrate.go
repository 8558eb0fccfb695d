package durable

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// A Migration is one step of a schema.
type Migration struct {
	// Name tells the step from the others and must not be empty.
	Name string
	// SQL is one or more statements, without parameters.
	SQL string
}

// Migrations are the steps of a schema, oldest first. What was once applied to
// an object must not be changed, renamed, reordered or removed: add a step.
type Migrations []Migration

// MigrationsFS returns the files of one folder whose names end in .sql as
// migrations, in the order of their names, which are those of the steps without
// the ending: begin them with a number of fixed width. Other files, and folders
// inside, are left alone. It fails if there is no such file, or one without a
// statement. With an [embed.FS], call it when the program starts.
func MigrationsFS(fsys fs.FS, dir string) (Migrations, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("durable: migrations: %w", err)
	}
	var m Migrations
	for _, entry := range entries {
		name, isSQL := strings.CutSuffix(entry.Name(), ".sql")
		if !isSQL || entry.IsDir() {
			continue
		}
		text, err := fs.ReadFile(fsys, path.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("durable: migrations: %w", err)
		}
		step := Migration{Name: name, SQL: string(text)}
		m = append(m, step)
		if trimSQL(step.SQL) == "" {
			return nil, m.refuse(len(m)-1, "it has no statement")
		}
	}
	if len(m) == 0 {
		return nil, fmt.Errorf("durable: migrations: the folder %q has no file *.sql", dir)
	}
	return m, m.check()
}

// check returns an error for steps that cannot be told apart.
func (m Migrations) check() error {
	positions := make(map[string]int, len(m))
	for i, step := range m {
		if step.Name == "" {
			return m.refuse(i, "its name is empty")
		}
		if first, again := positions[step.Name]; again {
			return m.refuse(i, fmt.Sprintf("migration %d has the same name", first+1))
		}
		positions[step.Name] = i
	}
	return nil
}

func (m Migrations) refuse(i int, problem string) error {
	return &MigrationError{Position: i + 1, Name: m[i].Name, Problem: problem}
}

// Migrate applies the steps that the database has not seen, in order and as one:
// when one fails, none of them was applied. It is for the constructor of the
// object, whose writes are committed before the first call. When there is nothing
// to do, it writes nothing and costs one query.
//
// What was applied is recorded in the database, by name and by a checksum of the
// text. Migrate returns a [MigrationError] for a step that fails; for names that
// are empty or not unique; for a step that was changed, renamed, reordered or
// removed after it was applied; and for a database that has more steps than m,
// because a newer program has opened the object.
func (s SQL) Migrate(ctx context.Context, m Migrations) error {
	if s.port == nil {
		return ErrTxDone
	}
	if err := m.check(); err != nil {
		return err
	}
	applied, fresh, err := s.applied(ctx)
	if err != nil {
		return fmt.Errorf("durable: migrate: %w", err)
	}
	if err := m.compare(applied); err != nil {
		return err
	}
	if len(applied) == len(m) {
		return nil
	}
	end, err := s.port.Savepoint()
	if err != nil {
		return fmt.Errorf("durable: migrate: %w", err)
	}
	keep := false
	defer func() {
		if !keep { // also after a panic
			_ = end(false) // what went wrong is known already
		}
	}()
	if fresh {
		if err := s.run(ctx, createMigrations, true); err != nil {
			return fmt.Errorf("durable: migrate: %w", err)
		}
	}
	for i := len(applied); i < len(m); i++ {
		if err := s.apply(ctx, m, i); err != nil {
			return err
		}
	}
	keep = true
	if err := end(true); err != nil {
		return fmt.Errorf("durable: migrate: %w", err)
	}
	return nil
}

// The table of the steps that were applied.
const (
	createMigrations = `CREATE TABLE _durable_migrations (
	position INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	checksum TEXT NOT NULL,
	applied_at TEXT NOT NULL
) STRICT`
	listMigrations  = `SELECT position, name, checksum FROM _durable_migrations ORDER BY position`
	insertMigration = `INSERT INTO _durable_migrations (position, name, checksum, applied_at) VALUES (?, ?, ?, ?)`
)

// An appliedStep is what the database knows of a step.
type appliedStep struct {
	Position int
	Name     string
	Checksum string
}

// applied returns the steps that were applied; fresh is set when there is no
// table of them yet.
func (s SQL) applied(ctx context.Context) (steps []appliedStep, fresh bool, err error) {
	rows, err := s.port.Exec(ctx, listMigrations, nil, true)
	if err != nil {
		var refused *SQLError
		if errors.As(err, &refused) && strings.Contains(refused.Message, "no such table") {
			return nil, true, nil
		}
		return nil, false, err
	}
	defer rows.Close()
	for {
		values, err := rows.Next()
		if err != nil || values == nil {
			return steps, false, err
		}
		var step appliedStep
		if err := (Row{rows.Columns(), values}).Scan(&step.Position, &step.Name, &step.Checksum); err != nil {
			return nil, false, err
		}
		steps = append(steps, step)
	}
}

// compare returns an error unless m begins with the steps that were applied.
func (m Migrations) compare(applied []appliedStep) error {
	position := func(name string) int {
		for i, step := range m {
			if step.Name == name {
				return i + 1
			}
		}
		return 0
	}
	for i, was := range applied {
		problem := ""
		switch {
		case i >= len(m):
			problem = fmt.Sprintf("it was applied, and this program has %d: the database is newer than this program", len(m))
		case was.Name != m[i].Name && position(was.Name) != 0:
			problem = fmt.Sprintf("it was applied, and is now at position %d: steps must not be reordered", position(was.Name))
		case was.Name != m[i].Name && was.Checksum == checksum(m[i].SQL):
			problem = fmt.Sprintf("it was applied, and is now called %q: steps must not be renamed", m[i].Name)
		case was.Name != m[i].Name:
			problem = fmt.Sprintf("it was applied, and %q has its place: steps must not be removed", m[i].Name)
		case was.Checksum != checksum(m[i].SQL):
			problem = "its text was changed after it was applied"
		case was.Position != i+1:
			problem = fmt.Sprintf("it is recorded at position %d", was.Position)
		}
		if problem != "" {
			return &MigrationError{Position: i + 1, Name: was.Name, Problem: problem}
		}
	}
	return nil
}

// apply runs step i of m and records it.
func (s SQL) apply(ctx context.Context, m Migrations, i int) error {
	step := m[i]
	text := trimSQL(step.SQL)
	if text == "" {
		return m.refuse(i, "it has no statement")
	}
	err := s.run(ctx, text, false)
	if err == nil {
		err = s.run(ctx, insertMigration, true, int64(i+1), step.Name, checksum(step.SQL), time.Now().UTC().Format(SQLTimeFormat))
	}
	if err != nil {
		return &MigrationError{Position: i + 1, Name: step.Name, Err: err}
	}
	return nil
}

// run runs statements to their end.
func (s SQL) run(ctx context.Context, query string, reserved bool, args ...any) error {
	rows, err := s.port.Exec(ctx, query, args, reserved)
	if err != nil {
		return err
	}
	return drain(rows)
}

// drain reads rows to their end and closes them.
func drain(rows RowsPort) error {
	defer rows.Close()
	for {
		if values, err := rows.Next(); err != nil || values == nil {
			return err
		}
	}
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
