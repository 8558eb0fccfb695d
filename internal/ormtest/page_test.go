package ormtest

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/internal/ormtest/plain"
)

// These functions hold the Go code of docs/sql.md, with the same lines.

//go:embed migrations/*.sql
var files embed.FS // 0001_notes.sql, 0002_search.sql

func newNotes(ctx context.Context, tx durable.Tx, steps durable.Migrations) (*notes, error) {
	return &notes{}, tx.SQL().Migrate(ctx, steps) // of durable.MigrationsFS(files, "migrations")
}

type notes struct{}

type Note struct {
	ID    int64
	Title string
	At    time.Time
	Done  bool
	Place *string // NULL is nil; a string would refuse it
}

func pageExec(ctx context.Context, tx durable.Tx, title string, last *int64) error {
	cursor, err := tx.SQL().Exec(ctx, "INSERT INTO note (title, at) VALUES (:title, :at)",
		sql.Named("title", title), sql.Named("at", tx.Now()))
	if err != nil {
		return err
	}
	id := cursor.LastInsertID()
	*last = id
	return nil
}

func pageAll(ctx context.Context, view durable.View, all *[]Note, n *int) error {
	notes, err := durable.All[Note](ctx, view.SQL(), "SELECT * FROM note WHERE NOT done ORDER BY at")
	if err != nil {
		return err
	}
	count, err := durable.One[int](ctx, view.SQL(), "SELECT count(*) FROM note WHERE at < ?", view.Now())
	*all, *n = notes, count
	return err
}

func pageErrors(err error) error {
	var refused *durable.SQLError
	if errors.As(err, &refused) && refused.Code == "SQLITE_CONSTRAINT_UNIQUE" && refused.Constraint == "note.title" {
		return connect.NewError(connect.CodeAlreadyExists, "there is such a note")
	}
	return err
}

func pageSearch(ctx context.Context, view durable.View, words string) ([]string, error) {
	found, err := durable.All[string](ctx, view.SQL(),
		"SELECT highlight(note_search, 0, '[', ']') FROM note_search WHERE note_search MATCH ? ORDER BY rank", words)
	return found, err
}

func pageMappers(ctx context.Context, tx durable.Tx, params plain.CreateAuthorParams, n *int) error {
	author, err := plain.New(tx.SQL().DB()).CreateAuthor(ctx, params)
	if err != nil {
		return err
	}
	db := bun.NewDB(tx.SQL().DB(), dialect) // var dialect = sqlitedialect.New(), one for all turns
	users, err := db.NewSelect().Model((*user)(nil)).Where("name = ?", author.Name).Count(ctx)
	*n = users
	return err
}

// page returns docs/sql.md.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// table returns the rows of the page's table whose head begins with first.
func table(t *testing.T, first string) (rows [][]string) {
	t.Helper()
	_, rest, ok := strings.Cut(page(t), "\n| "+first+" |")
	if !ok {
		t.Fatalf("the page has no table %q", first)
	}
	for i, line := range strings.Split(rest, "\n")[2:] {
		if !strings.HasPrefix(line, "|") {
			if i == 0 {
				t.Fatalf("the table %q is empty", first)
			}
			break
		}
		var row []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		rows = append(rows, row)
	}
	return rows
}

// unindented returns lines without their indentation, and without empty ones.
func unindented(text string) string {
	return "\n" + regexp.MustCompile(`\n\s*`).ReplaceAllString(strings.TrimSpace(text), "\n") + "\n"
}

func TestPageCode(t *testing.T) {
	sources := map[string]string{}
	for language, names := range map[string][]string{"go": {"page_test.go", "bun_test.go"}, "sql": {"migrations/0001_notes.sql", "migrations/0002_search.sql"}} {
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sources[language] += unindented(string(text))
		}
	}
	blocks := regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(page(t), -1)
	if len(blocks) < 7 {
		t.Fatalf("the page has %d blocks of code: has its form changed?", len(blocks))
	}
	for _, block := range blocks {
		for part := range strings.SplitSeq(block[2], "\n\n") {
			if !strings.Contains(sources[block[1]], unindented(part)) {
				t.Errorf("no file has these lines of the page:\n%s", part)
			}
		}
	}
	if !strings.Contains(sources["go"], "\nvar dialect = sqlitedialect.New()\n") {
		t.Error("the dialect is another")
	}
}

// noted returns an object with the schema of the page.
func noted(t *testing.T) *object {
	t.Helper()
	steps, err := durable.MigrationsFS(files, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	o := newObject(t)
	for range 2 {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			_, err := newNotes(ctx, tx, steps)
			return err
		})
	}
	return o
}

func TestPageStatements(t *testing.T) {
	o := noted(t)
	for i, title := range []string{"milk a cow", "cows are milked"} {
		o.must(func(ctx context.Context, tx durable.Tx) error {
			var id int64
			if err := pageExec(ctx, tx, title, &id); err != nil {
				return err
			}
			if id != int64(i+1) {
				t.Error(id)
			}
			return nil
		})
	}
	o.mustView(func(ctx context.Context, view durable.View) error {
		var all []Note
		var n int
		if err := pageAll(ctx, view, &all, &n); err != nil {
			return err
		}
		if n != 2 || len(all) != 2 || all[0].Title != "milk a cow" || all[0].Place != nil || time.Since(all[0].At) > time.Minute {
			t.Error(n, all)
		}
		found, err := pageSearch(ctx, view, "milk")
		if diff := cmp.Diff([]string{"[milk] a cow", "cows are [milked]"}, found); diff != "" {
			t.Error(diff)
		}
		return err
	})
	o.must(func(ctx context.Context, tx durable.Tx) error {
		for range 2 { // one that fails changes nothing, and the turn goes on
			err := pageErrors(pageExec(ctx, tx, "milk a cow", new(int64)))
			if connect.CodeOf(err) != connect.CodeAlreadyExists {
				t.Error(err)
			}
		}
		err := tx.Savepoint(func() error {
			return errors.Join(tx.KV().Put(ctx, "k", []byte("v")), pageExec(ctx, tx, "other", new(int64)), errHandler)
		})
		if !errors.Is(err, errHandler) {
			t.Error(err)
		}
		return nil
	})
	o.mustView(func(ctx context.Context, view durable.View) error {
		cursor, err := view.SQL().Exec(ctx, "SELECT id, title FROM note ORDER BY id")
		if err != nil {
			return err
		}
		var id int64
		var title string
		for row, err := range cursor.Rows() {
			if err != nil {
				return err
			}
			if err := row.Scan(&id, &title); err != nil {
				return err
			}
		}
		if id != 2 || title != "cows are milked" {
			t.Error(id, title)
		}
		return nil
	})
	if got := o.pair(); got != "" {
		t.Error(got)
	}
	t.Run("mappers", func(t *testing.T) {
		o := newObject(t, schema)
		o.must(createTables)
		o.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := orm(tx.SQL()).NewInsert().Model(ann()).Exec(ctx); err != nil {
				return err
			}
			var n int
			err := pageMappers(ctx, tx, bare("ann"), &n)
			if n != 1 {
				t.Error(n)
			}
			return err
		})
	})
}

func TestPageArguments(t *testing.T) {
	type pair struct {
		value any
		typ   string // of SQLite
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	cases := map[string][]pair{
		"`nil`, a nil pointer, a nil `[]byte`": {{nil, "null"}, {(*int)(nil), "null"}, {[]byte(nil), "null"}, {(*counterv1.AddRequest)(nil), "null"}},
		"integers, a `time.Duration`":          {{int8(-3), "integer"}, {uint64(math.MaxInt64), "integer"}, {int64(1<<62 + 1), "integer"}, {time.Second, "integer"}},
		"`bool`":                               {{true, "integer"}, {false, "integer"}},
		"floats":                               {{float32(0.5), "real"}, {2.0, "real"}},
		"strings":                              {{"a", "text"}, {"", "text"}},
		"`[]byte`":                             {{[]byte{}, "blob"}, {[]byte{0}, "blob"}},
		"`time.Time`":                          {{at, "text"}},
		"a `driver.Valuer`":                    {{sql.NullString{String: "x", Valid: true}, "text"}, {sql.NullInt64{}, "null"}},
		"an enum of protobuf":                  {{structpb.NullValue_NULL_VALUE, "integer"}},
		"a protobuf message":                   {{&counterv1.AddRequest{Delta: 7}, "blob"}, {&counterv1.AddRequest{}, "blob"}},
		"`Timestamp`, `Duration`, wrappers of protobuf": {{timestamppb.New(at), "text"}, {durationpb.New(time.Second), "integer"}, {wrapperspb.Double(0.5), "real"}, {wrapperspb.String("x"), "text"}},
	}
	o := newObject(t)
	o.mustView(func(ctx context.Context, view durable.View) error {
		for _, row := range table(t, "Go argument, or what it points to") {
			pairs, ok := cases[row[0]]
			if !ok {
				t.Errorf("the row %q is not tested", row[0])
			}
			for _, p := range pairs {
				typ, err := durable.One[string](ctx, view.SQL(), "SELECT typeof(?)", p.value)
				if err != nil || typ != p.typ {
					t.Errorf("%T %v: %s, %v, want %s", p.value, p.value, typ, err, p.typ)
				}
				if p.value == nil {
					continue
				}
				// It comes back as the type it was.
				back := reflect.New(reflect.TypeOf(p.value))
				cursor, err := view.SQL().Exec(ctx, "SELECT ?", p.value)
				if err != nil {
					return err
				}
				got, err := cursor.One()
				if err != nil {
					return err
				}
				_, isMessage := p.value.(proto.Message)
				if err := got.Scan(back.Interface()); err != nil {
					if p.typ == "null" && isMessage {
						continue
					}
					t.Errorf("%T %v: %v", p.value, p.value, err)
				} else if !cmp.Equal(back.Elem().Interface(), p.value, cmp.Comparer(proto.Equal)) {
					t.Errorf("%T %v: %v", p.value, p.value, back.Elem().Interface())
				}
			}
		}
		for _, refused := range []any{math.NaN(), uint64(math.MaxInt64) + 1, struct{}{}, map[string]int{}, []int{1}, make(chan int)} {
			if _, err := view.SQL().Exec(ctx, "SELECT ?", refused); !errors.Is(err, durable.ErrInvalidArgument) {
				t.Errorf("%T: %v", refused, err)
			}
		}
		for query, misfit := range map[string]any{"SELECT 300 AS a": new(int8), "SELECT 2 AS a": new(bool), "SELECT 0.5 AS a": new(int), "SELECT 'x' AS a": new(int), "SELECT 1 AS a": new(string), "SELECT NULL AS a": new(string)} {
			cursor, err := view.SQL().Exec(ctx, query)
			if err != nil {
				return err
			}
			row, err := cursor.One()
			if err != nil {
				return err
			}
			var scan *durable.ScanError
			if err := row.Scan(misfit); !errors.As(err, &scan) || scan.Column != "a" {
				t.Errorf("%s: %v", query, err)
			}
		}
		return nil
	})
	t.Run("times", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			for query, want := range map[string]string{
				"SELECT ?":       "2026-03-04T05:06:07.000000008Z",
				"SELECT date(?)": "2026-03-04",
				// An hour later, in the form of CURRENT_TIMESTAMP, sorts before.
				"SELECT ? < '2026-03-04 06:06:07'":                                            "0",
				"SELECT length(CURRENT_TIMESTAMP) = length('2026-03-04 06:06:07') AND ? > ''": "1",
			} {
				got, err := durable.One[any](ctx, view.SQL(), query, at)
				if err != nil {
					return err
				}
				if fmt.Sprint(got) != want {
					t.Errorf("%s: %v, want %s", query, got, want)
				}
			}
			type event struct {
				At time.Time `db:"at,unix"`
			}
			e, err := durable.One[event](ctx, view.SQL(), "SELECT 86400 AS at")
			if !e.At.Equal(time.Unix(86400, 0)) {
				t.Error(e)
			}
			return err
		})
	})
	t.Run("messages", func(t *testing.T) {
		o.mustView(func(ctx context.Context, view durable.View) error {
			all, err := durable.All[*counterv1.AddRequest](ctx, view.SQL(), "SELECT 7 AS delta, 'a' AS name UNION ALL SELECT NULL, NULL")
			want := []*counterv1.AddRequest{{Name: "a", Delta: 7}, {}}
			if diff := cmp.Diff(want, all, cmp.Comparer(proto.Equal)); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
	t.Run("the form of bun's times", func(t *testing.T) {
		o := newObject(t)
		o.must(createTables)
		o.must(func(ctx context.Context, tx durable.Tx) error {
			if _, err := orm(tx.SQL()).NewInsert().Model(ann()).Exec(ctx); err != nil {
				return err
			}
			text, err := durable.One[string](ctx, tx.SQL(), "SELECT created_at FROM users")
			if text != "2026-03-04 05:06:07.890123+00:00" {
				t.Error(text)
			}
			return err
		})
	})
}

func TestPageErrors(t *testing.T) {
	const endless = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) "
	type run = func(ctx context.Context, tx durable.Tx) error
	exec := func(query string, args ...any) run {
		return func(ctx context.Context, tx durable.Tx) error {
			_, err := tx.SQL().Exec(ctx, query, args...)
			return err
		}
	}
	migrate := func(steps ...string) run {
		return func(ctx context.Context, tx durable.Tx) error {
			var m durable.Migrations
			for i, step := range steps {
				m = append(m, durable.Migration{Name: fmt.Sprint(i), SQL: step})
			}
			return tx.SQL().Migrate(ctx, m)
		}
	}
	said := func(code string) run {
		return func(context.Context, durable.Tx) error { return &durable.SQLError{Code: code, Offset: -1} }
	}
	ended := func(after context.Context) run {
		return func(_ context.Context, tx durable.Tx) error { return exec(endless+"SELECT count(*) FROM n")(after, tx) }
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	const schema = "CREATE TABLE a (id INTEGER PRIMARY KEY, u UNIQUE, n NOT NULL, c CHECK (c > 0), p REFERENCES a); INSERT INTO a (u, n) VALUES (1, 1)"
	// The codes of a row, one after another, each with what ends in it.
	cases := map[string]map[string][]run{
		"`SQLITE_CONSTRAINT_UNIQUE`, `…_PRIMARYKEY`, `…_ROWID`": {"already_exists": {
			exec("INSERT INTO a (u, n) VALUES (1, 1)"), exec("INSERT INTO a (id, n) VALUES (1, 1)"), exec("CREATE TABLE r (a); INSERT INTO r (rowid) VALUES (1), (1)"),
		}},
		"other `SQLITE_CONSTRAINT_…`": {"failed_precondition": {
			exec("INSERT INTO a (u) VALUES (2)"), exec("INSERT INTO a (n, c) VALUES (1, 0)"), exec("INSERT INTO a (n, p) VALUES (1, 9)"),
			exec("PRAGMA defer_foreign_keys = ON; INSERT INTO a (n, p) VALUES (1, 9)"),
		}},
		"`SQLITE_FULL`, `SQLITE_TOOBIG`, `SQLITE_NOMEM`, a `LimitError`": {"resource_exhausted": {
			said("SQLITE_FULL"), exec("SELECT zeroblob(3000000)"), exec(endless + "SELECT i, randomblob(1000) AS r FROM n ORDER BY r"), exec("SELECT ?", make([]byte, 3<<20)),
		}},
		"`SQLITE_INTERRUPT`: the context ended": {"deadline_exceeded": {ended(late)}, "canceled": {ended(gone)}},
		"`SQLITE_CORRUPT`, `SQLITE_NOTADB`":     {"data_loss": {said("SQLITE_CORRUPT"), said("SQLITE_CORRUPT_VTAB"), said("SQLITE_NOTADB")}},
		"other codes: `SQLITE_ERROR`, `SQLITE_AUTH`, `SQLITE_READONLY`, `SQLITE_RANGE`, `SQLITE_MISMATCH` …": {"internal": {
			exec("SELEC 1"), exec("SELECT * FROM absent"), exec("BEGIN"), said("SQLITE_READONLY"), exec("SELECT ?"), exec("INSERT INTO a (id, n) VALUES ('x', 1)"),
		}},
		"`ErrNoRow`": {"not_found": {func(ctx context.Context, tx durable.Tx) error {
			_, err := durable.One[int](ctx, tx.SQL(), "SELECT 1 WHERE 0")
			return err
		}}},
		"`ErrManyRows`, a `ScanError`, a `MigrationError` of a step that fails": {"internal": {
			func(ctx context.Context, tx durable.Tx) error {
				_, err := durable.One[int](ctx, tx.SQL(), "VALUES (1), (2)")
				return err
			},
			func(ctx context.Context, tx durable.Tx) error {
				_, err := durable.One[int](ctx, tx.SQL(), "SELECT 'x'")
				return err
			},
			migrate("SELEC 1"), migrate("INSERT INTO a (u, n) VALUES (1, 1)"),
		}},
		"a `MigrationError` of steps that are not those applied": {"failed_precondition": {func(ctx context.Context, tx durable.Tx) error {
			return errors.Join(migrate("CREATE TABLE m (a)")(ctx, tx), migrate("CREATE TABLE m (a, b)")(ctx, tx))
		}}},
		"`ErrInvalidArgument`: an argument that cannot be stored, a type that cannot take the result": {"invalid_argument": {
			exec("SELECT ?", math.NaN()), func(ctx context.Context, tx durable.Tx) error {
				_, err := tx.SQL().DB().ExecContext(ctx, "SELECT ?", math.NaN())
				return err
			}, func(ctx context.Context, tx durable.Tx) error {
				_, err := durable.One[Note](ctx, tx.SQL(), "SELECT 1 AS absent")
				return err
			},
		}},
		"`sql.ErrNoRows`, from `DB()`": {"unknown: return one of yours": {func(ctx context.Context, tx durable.Tx) error {
			return tx.SQL().DB().QueryRowContext(ctx, "SELECT 1 WHERE 0").Scan(new(int))
		}}},
	}
	for _, row := range table(t, "error") {
		tested, ok := cases[row[0]]
		if !ok {
			t.Errorf("the row %q is not tested", row[0])
		}
		codes := strings.Split(row[1], ", ")
		if len(codes) != len(tested) {
			t.Errorf("%s: %d codes are tested, of %v", row[0], len(tested), codes)
		}
		for _, want := range codes {
			for i, fn := range tested[want] {
				t.Run(row[0]+" "+strconv.Itoa(i), func(t *testing.T) {
					o := newObject(t, schema)
					err := o.update(fn)
					code, _, _ := strings.Cut(want, ":")
					if got := connect.CodeOf(err).String(); err == nil || got != code {
						t.Errorf("%v is %s, want %s", err, got, code)
					}
				})
			}
		}
	}
}

func TestPageLimits(t *testing.T) {
	defaults, platform := reflect.ValueOf(durable.Limits{}.WithDefaults().SQL), reflect.ValueOf(durable.CloudflareLimits().SQL)
	var names []string
	for _, row := range table(t, "`Limits.SQL`") {
		name := strings.Split(row[0], "`")[1]
		names = append(names, name)
		for i, limits := range []reflect.Value{defaults, platform} {
			var listed int64
			if text := strings.ReplaceAll(row[i+1], ",", ""); text != "" {
				var err error
				if listed, err = strconv.ParseInt(text, 10, 64); err != nil {
					t.Error(err)
				}
			}
			field := limits.FieldByName(name)
			if !field.IsValid() || field.Int() != listed {
				t.Errorf("%s: the page says %d, and it is %v", name, listed, field)
			}
		}
	}
	for i := range defaults.NumField() {
		if name := defaults.Type().Field(i).Name; !slices.Contains(names, name) {
			t.Errorf("the page does not have %s", name)
		}
	}
}

func TestPageRefused(t *testing.T) {
	cases := map[string][]string{
		"`BEGIN`, `COMMIT`, `ROLLBACK`, `SAVEPOINT`, `RELEASE`": {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a"},
		"`ATTACH`, `DETACH`": {"ATTACH 'x' AS x", "DETACH x"},
		"`VACUUM`":           {"VACUUM", "VACUUM INTO 'x'"},
		"`CREATE TEMP …`":    {"CREATE TEMP TABLE x (a)", "CREATE TEMP VIEW x AS SELECT 1"},
		"virtual tables but `fts5` and `fts5vocab`":                                                       {"CREATE VIRTUAL TABLE x USING rtree (a, b, c)"},
		"`load_extension`, functions `sqlite_…()`":                                                        {"SELECT load_extension('x')", "SELECT sqlite_version()"},
		"pragmas but those that inspect the schema or set how statements behave; `user_version` is there": {"PRAGMA journal_mode", "PRAGMA synchronous = OFF", "PRAGMA max_page_count"},
		"names that begin with `_durable_`":                                                               {"CREATE TABLE _durable_x (a)", "SELECT * FROM _durable_migrations"},
	}
	o := noted(t)
	o.must(func(ctx context.Context, tx durable.Tx) error {
		for _, row := range table(t, "refused") {
			queries, ok := cases[row[0]]
			if !ok {
				t.Errorf("the row %q is not tested", row[0])
			}
			for _, query := range queries {
				_, err := tx.SQL().Exec(ctx, query)
				var e *durable.SQLError
				if !errors.As(err, &e) || e.Code != "SQLITE_AUTH" || e.Hint == "" {
					t.Errorf("%s: %v", query, err)
				}
			}
		}
		for _, query := range []string{"PRAGMA table_info(note)", "PRAGMA recursive_triggers = ON", "PRAGMA user_version = 3", "PRAGMA foreign_key_check"} {
			if _, err := tx.SQL().Exec(ctx, query); err != nil {
				t.Error(err)
			}
		}
		if on, err := durable.One[bool](ctx, tx.SQL(), "PRAGMA foreign_keys"); !on || err != nil {
			t.Error(on, err)
		}
		return nil
	})
}

func TestPageSize(t *testing.T) {
	o := noted(t)
	o.must(func(ctx context.Context, tx durable.Tx) error {
		if err := pageExec(ctx, tx, "kept", new(int64)); err != nil {
			return err
		}
		_, err := tx.SQL().Exec(ctx, "CREATE TABLE big AS SELECT zeroblob(1000000) AS a")
		return err
	})
	o.must(func(ctx context.Context, tx durable.Tx) error {
		before, err := tx.SQL().DatabaseSize(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.SQL().Exec(ctx, "DROP TABLE big"); err != nil {
			return err
		}
		if after, err := tx.SQL().DatabaseSize(ctx); after > before-1_000_000 || err != nil {
			t.Error(before, after, err)
		}
		return nil
	})
	export := func() *bytes.Buffer {
		var file bytes.Buffer
		if _, err := o.server.Server().ExportSQL(t.Context(), counterv1durable.CounterType, o.stub.ID(), &file); err != nil {
			t.Fatal(err)
		}
		return &file
	}
	if n := export().Len(); n < 1_000_000 {
		t.Errorf("%d bytes: the unused pages are gone", n)
	}
	o.must(func(ctx context.Context, tx durable.Tx) error { return tx.SQL().Vacuum(ctx) })
	file := export()
	if n := file.Len(); n > 200_000 {
		t.Errorf("%d bytes after Vacuum", n)
	}
	s := o.server.Server()
	if err := s.ImportSQL(t.Context(), counterv1durable.CounterType, o.stub.ID(), "a", bytes.NewReader(file.Bytes())); !errors.Is(err, durable.ErrSQLExists) {
		t.Error(err)
	}
	if err := s.ImportSQL(t.Context(), counterv1durable.CounterType, durable.IDFromName(counterv1durable.CounterType, "copy"), "copy", file); err != nil {
		t.Fatal(err)
	}
	o.stub = counterv1durable.NewCounterClient(o.server.Conn()).GetByName("copy")
	o.mustView(func(ctx context.Context, view durable.View) error {
		title, err := durable.One[string](ctx, view.SQL(), "SELECT title FROM note")
		if title != "kept" {
			t.Error(title)
		}
		return err
	})
}
