package durable_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
)

func TestMigrate(t *testing.T) {
	ctx := t.Context()
	steps := durable.Migrations{
		{Name: "0001_items", SQL: "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT); -- the first\n"},
		{Name: "0002_log", SQL: "CREATE TABLE log (x);\nCREATE TRIGGER tr AFTER INSERT ON items BEGIN INSERT INTO log VALUES (new.id); END;\n/* end */ ; "},
		{Name: "0003_seed", SQL: "INSERT INTO items (name) VALUES ('a;--'), ('b')"},
	}
	count := func(t *testing.T, s durable.SQL, query string) int {
		t.Helper()
		n, err := durable.One[int](ctx, s, query)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	t.Run("SQL-58 steps are applied once", func(t *testing.T) {
		s, p := newSQL(t)
		for i := range len(steps) + 1 {
			if err := s.Migrate(ctx, steps[:i]); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(t, s, "SELECT count(*) FROM log"); n != 2 {
			t.Errorf("%d rows in the log", n)
		}
		p.statements = nil
		writes := p.conn.TotalChanges()
		if err := s.Migrate(ctx, steps); err != nil {
			t.Fatal(err)
		}
		if len(p.statements) != 1 || p.conn.TotalChanges() != writes || len(p.open) != 0 {
			t.Errorf("nothing was to do, and these ran: %q", p.statements)
		}
	})
	t.Run("all at once", func(t *testing.T) {
		s, _ := newSQL(t)
		if err := s.Migrate(ctx, steps); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, "SELECT count(*) FROM items"); n != 2 {
			t.Errorf("%d items", n)
		}
	})
	t.Run("nothing given, nothing made", func(t *testing.T) {
		s, _ := newSQL(t)
		if err := s.Migrate(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, "SELECT count(*) FROM sqlite_schema"); n != 0 {
			t.Errorf("%d tables", n)
		}
	})
	t.Run("a step that fails undoes them all", func(t *testing.T) {
		s, p := newSQL(t)
		bad := append(steps[:2:2], durable.Migration{Name: "0003_bad", SQL: "INSERT INTO items VALUES (1, 'x'); INSERT INTO nowhere VALUES (1)"})
		err := s.Migrate(ctx, bad)
		var m *durable.MigrationError
		var e *durable.SQLError
		if !errors.As(err, &m) || m.Position != 3 || m.Name != "0003_bad" || !errors.As(err, &e) {
			t.Errorf("%v", err)
		}
		if n := count(t, s, "SELECT count(*) FROM sqlite_schema"); n != 0 || len(p.open) != 0 {
			t.Errorf("%d tables are left, %d levels open", n, len(p.open))
		}
		if err := s.Migrate(ctx, steps); err != nil {
			t.Errorf("then %v", err)
		}
	})
	t.Run("reserved tables are not for steps", func(t *testing.T) {
		s, _ := newSQL(t)
		if err := s.Migrate(ctx, durable.Migrations{{Name: "x", SQL: "CREATE TABLE _durable_x (y)"}}); err == nil || !strings.Contains(err.Error(), "SQLITE_AUTH") {
			t.Errorf("%v", err)
		}
	})
	step := func(name, text string) durable.Migration { return durable.Migration{Name: name, SQL: text} }
	for name, c := range map[string]struct {
		given    durable.Migrations
		position int
		want     string
	}{
		"changed":     {durable.Migrations{steps[0], step("0002_log", steps[1].SQL+" ")}, 2, "0002_log\": its text was changed"},
		"renamed":     {durable.Migrations{step("new", steps[0].SQL), steps[1]}, 1, `"0001_items": it was applied, and is now called "new"`},
		"reordered":   {durable.Migrations{steps[1], steps[0]}, 1, `"0001_items": it was applied, and is now at position 2`},
		"inserted":    {durable.Migrations{steps[0], steps[2], steps[1]}, 2, `"0002_log": it was applied, and is now at position 3`},
		"removed":     {durable.Migrations{steps[1], steps[2]}, 1, `"0001_items": it was applied, and "0002_log" has its place`},
		"newer":       {steps[:1], 2, `"0002_log": it was applied, and this program has 1: the database is newer`},
		"none left":   {nil, 1, `the database is newer`},
		"same name":   {durable.Migrations{steps[0], steps[1], step("0001_items", "SELECT 1")}, 3, "migration 1 has the same name"},
		"no name":     {durable.Migrations{steps[0], steps[1], step("", "SELECT 1")}, 3, "its name is empty"},
		"only a text": {durable.Migrations{steps[0], steps[1], step("x", " -- nothing\n;")}, 3, "it has no statement"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			s, _ := newSQL(t)
			if err := s.Migrate(ctx, steps[:2]); err != nil {
				t.Fatal(err)
			}
			err := s.Migrate(ctx, c.given)
			var m *durable.MigrationError
			if !errors.As(err, &m) || m.Position != c.position || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err := s.Migrate(ctx, steps); err != nil {
				t.Errorf("then %v", err)
			}
		})
	}
}

func TestMigrationsFS(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	fsys := fstest.MapFS{
		"good/02_b.sql":       file("SELECT 2"),
		"good/01_a.sql":       file("SELECT 1;"),
		"good/README.md":      file("-"),
		"good/old.sql/00.sql": file("SELECT 0"),
		"blank/01.sql":        file("SELECT 1"),
		"blank/02.sql":        file("-- later\n"),
		"other/x.txt":         file(""),
	}
	got, err := durable.MigrationsFS(fsys, "good")
	if err != nil || !cmp.Equal(got, durable.Migrations{{Name: "01_a", SQL: "SELECT 1;"}, {Name: "02_b", SQL: "SELECT 2"}}) {
		t.Errorf("%v, %v", got, err)
	}
	for dir, want := range map[string]string{
		"blank": `migration 2 "02": it has no statement`,
		"other": `the folder "other" has no file *.sql`,
		"none":  "file does not exist",
	} {
		if _, err := durable.MigrationsFS(fsys, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
