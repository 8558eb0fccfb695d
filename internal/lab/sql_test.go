package lab_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/storage"
)

// A sqlObject takes steps and fails the test when they fail.
type sqlObject struct {
	t *testing.T
	labv1durable.SQLLabStub
}

func (b *bench) sql(t *testing.T, suffix ...string) sqlObject {
	return sqlObject{t, labv1durable.NewSQLLabClient(b.conn).GetByName(b.name(t, suffix...))}
}

func (f *faulty) sql(t *testing.T, name string) sqlObject {
	return sqlObject{t, labv1durable.NewSQLLabClient(f.conn).GetByName(name)}
}

func (o sqlObject) try(steps ...*labv1.SQLStep) ([]*labv1.SQLResult, error) {
	res, err := o.Exec(o.t.Context(), &labv1.ExecRequest{Steps: steps})
	return res.GetResults(), err
}

func (o sqlObject) do(steps ...*labv1.SQLStep) []*labv1.SQLResult {
	o.t.Helper()
	results, err := o.try(steps...)
	if err != nil {
		o.t.Fatal(err)
	}
	return results
}

func (o sqlObject) read(steps ...*labv1.SQLStep) ([]*labv1.SQLResult, error) {
	res, err := o.Query(o.t.Context(), &labv1.QueryRequest{Steps: steps})
	return res.GetResults(), err
}

// users returns the names in the table of the users, as a view sees them.
func (o sqlObject) users() []string {
	o.t.Helper()
	res, err := o.read(query("SELECT name FROM users ORDER BY id"))
	if err != nil {
		o.t.Fatal(err)
	}
	return column(res[0])
}

// column returns the first column of a result.
func column(res *labv1.SQLResult) []string {
	out := []string{}
	for _, row := range res.GetRows() {
		out = append(out, row.GetValues()[0].GetText())
	}
	return out
}

func statement(text string, args ...any) *labv1.Statement {
	st := &labv1.Statement{Text: text}
	for _, arg := range args {
		v := &labv1.SQLValue{}
		switch arg := arg.(type) {
		case nil:
		case int:
			v.Kind = &labv1.SQLValue_Integer{Integer: int64(arg)}
		case float64:
			v.Kind = &labv1.SQLValue_Real{Real: arg}
		case string:
			v.Kind = &labv1.SQLValue_Text{Text: arg}
		case []byte:
			v.Kind = &labv1.SQLValue_Blob{Blob: arg}
		case *labv1.SQLValue:
			v = arg
		}
		st.Args = append(st.Args, v)
	}
	return st
}

func query(text string, args ...any) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_Exec{Exec: statement(text, args...)}}
}

func one(text string, args ...any) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_One{One: statement(text, args...)}}
}

func within(ms int64, text string, args ...any) *labv1.SQLStep {
	st := statement(text, args...)
	st.TimeoutMs = ms
	return &labv1.SQLStep{Do: &labv1.SQLStep_Exec{Exec: st}}
}

func migrate(texts ...string) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_Migrate{Migrate: &labv1.Migrations{Texts: texts}}}
}

func putSQL(key, value string) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_Put{Put: &labv1.Pair{Key: []byte(key), Value: []byte(value)}}}
}

func getSQL(key string) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_Get{Get: []byte(key)}}
}

func deleteAllSQL() *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_DeleteAll{DeleteAll: true}}
}

func sqlSteps(steps ...*labv1.SQLStep) *labv1.SQLSteps { return &labv1.SQLSteps{Steps: steps} }

func tolerateSQL(step *labv1.SQLStep) *labv1.SQLStep {
	step.Tolerate = true
	return step
}

const schema = `CREATE TABLE users (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	age INTEGER CONSTRAINT adult CHECK (age >= 18),
	boss INTEGER REFERENCES users (id) DEFERRABLE
)`

// found makes an object with one user.
func (o sqlObject) found() sqlObject {
	o.t.Helper()
	o.do(query(schema), query("INSERT INTO users (name, age) VALUES (?, ?)", "ann", 30), putSQL("n", "1"))
	return o
}

// sqlInfo is the info of a SQL error. An offset below 0 is one that is not known.
func sqlInfo(code string, offset int32) *durablev1.ErrorInfo {
	info := &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL, Sql: &durablev1.SqlError{Code: code}}
	if offset >= 0 {
		info.Sql.Offset = &offset
	}
	return info
}

func constrained(code, constraint string) *durablev1.ErrorInfo {
	info := sqlInfo(code, -1)
	info.Sql.Constraint = constraint
	return info
}

func lost(info *durablev1.ErrorInfo) *durablev1.ErrorInfo {
	info.ObjectReset = true
	return info
}

func TestSQL(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		t.Run("SQL-01 SQL-08 SQL-09 SQL-10 values come back as they were", func(t *testing.T) {
			o := b.sql(t)
			args := []any{1<<62 + 1, 0.1, "text", []byte{0, 255}, []byte{}, nil, ""}
			res := o.do(query("CREATE TABLE v (a, b, c, d, e, f, g)"), query("INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?)", args...))
			same(t, "changes", res[1].GetChanges(), int64(1))
			same(t, "rows written", res[1].GetRowsWritten(), int64(1))
			got, err := o.read(query("SELECT * FROM v"), query("SELECT typeof(e), typeof(f), typeof(g) FROM v"))
			if err != nil {
				t.Fatal(err)
			}
			same(t, "columns", got[0].GetColumns(), strings.Split("abcdefg", ""))
			same(t, "row", got[0].GetRows()[0].GetValues(), statement("", args...).GetArgs())
			same(t, "kinds", got[1].GetRows()[0].GetValues(), statement("", "blob", "null", "text").GetArgs())
		})
		t.Run("SQL-02 SQL-03 several statements and names", func(t *testing.T) {
			o := b.sql(t).found()
			res := o.do(query("INSERT INTO users (name) VALUES ('bob'); SELECT name FROM users WHERE id > @least ORDER BY id",
				&labv1.SQLValue{Name: "least", Kind: &labv1.SQLValue_Integer{Integer: 1}}))
			same(t, "names", column(res[0]), []string{"bob"})
		})
		t.Run("SQL-23 one", func(t *testing.T) {
			o := b.sql(t).found()
			same(t, "row", column(o.do(one("SELECT name FROM users"))[0]), []string{"ann"})
			_, err := o.try(query("INSERT INTO users (name) VALUES ('bob')"), one("SELECT name FROM users WHERE id = 7"))
			want{
				code: connect.CodeNotFound, message: "the result has no row",
				info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL},
			}.check(t, err, o)
			_, err = o.try(one("VALUES (1), (2)"))
			want{
				code: connect.CodeInternal, message: "the result has more than one row",
				info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL},
			}.check(t, err, o)
			same(t, "users", o.users(), []string{"ann"})
		})
		t.Run("SQL-33 RETURNING", func(t *testing.T) {
			o := b.sql(t).found()
			same(t, "names", column(o.do(query("INSERT INTO users (name) VALUES ('bob') RETURNING upper(name)"))[0]), []string{"BOB"})
			same(t, "users", o.users(), []string{"ann", "bob"})
		})
		t.Run("SQL-40 size", func(t *testing.T) {
			o := b.sql(t)
			size := &labv1.SQLStep{Do: &labv1.SQLStep_Size{}}
			same(t, "empty", o.do(size)[0].GetSize(), int64(0))
			same(t, "a table", o.do(query("CREATE TABLE t (a)"), size)[1].GetSize(), int64(2*4096))
		})
		t.Run("GATE-34 SQL and pairs are one unit", func(t *testing.T) {
			o := b.sql(t).found()
			_, err := o.try(query("DELETE FROM users"), putSQL("n", "2"), &labv1.SQLStep{Do: &labv1.SQLStep_Fail{Fail: "no"}})
			want{code: connect.CodeUnknown, message: "no", info: &durablev1.ErrorInfo{Remote: true}}.check(t, err, o)
			same(t, "users", o.users(), []string{"ann"})
			same(t, "pair", string(o.do(getSQL("n"))[0].GetValue()), "1")
		})
		t.Run("TXN-13 TXN-14 savepoints", func(t *testing.T) {
			o := b.sql(t).found()
			inner := &labv1.SQLStep{Tolerate: true, Do: &labv1.SQLStep_Savepoint{Savepoint: sqlSteps(
				query("INSERT INTO users (name) VALUES ('bob')"), putSQL("n", "2"), query("INSERT INTO users (name) VALUES ('ann')"),
			)}}
			res := o.do(inner, query("INSERT INTO users (name) VALUES ('cid')"))
			same(t, "code", res[0].GetCode(), "SQLITE_CONSTRAINT_UNIQUE")
			same(t, "users", o.users(), []string{"ann", "cid"})
			same(t, "pair", string(o.do(getSQL("n"))[0].GetValue()), "1")
		})
		t.Run("KV-40 deleteAll takes the tables along", func(t *testing.T) {
			o := b.sql(t).found()
			o.do(deleteAllSQL(), query("CREATE TABLE users (id INTEGER PRIMARY KEY, name)"))
			same(t, "users", o.users(), []string{})
		})
		t.Run("SQL-58 migrations", func(t *testing.T) {
			o := b.sql(t)
			o.do(migrate(schema))
			o.do(migrate(schema, "INSERT INTO users (name) VALUES ('ann')"))
			same(t, "users", o.users(), []string{"ann"})
			for name, c := range map[string]struct {
				step *labv1.SQLStep
				want
			}{
				"a step that fails": {
					migrate(schema, "INSERT INTO users (name) VALUES ('ann')", "DROP TABLE users; CREATE TABLE u (a);\nSELEC 1"),
					want{
						connect.CodeInternal, `migration 3 "3": SQLITE_ERROR: near "SELEC": syntax error`,
						sqlInfo("SQLITE_ERROR", 38),
					},
				},
				"data that does not fit is no answer to the request": {
					migrate(schema, "INSERT INTO users (name) VALUES ('ann')", "INSERT INTO users (name) VALUES ('ann')"),
					want{
						connect.CodeInternal, `migration 3 "3": SQLITE_CONSTRAINT_UNIQUE: UNIQUE constraint failed: users.name`,
						constrained("SQLITE_CONSTRAINT_UNIQUE", "users.name"),
					},
				},
				"an older program": {
					migrate(schema),
					want{
						connect.CodeFailedPrecondition,
						`migration 2 "2": it was applied, and this program has 1: the database is newer than this program`,
						&durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL},
					},
				},
			} {
				t.Run(name, func(t *testing.T) {
					_, err := o.try(putSQL("n", "x"), c.step)
					c.check(t, err, o)
					same(t, "users", o.users(), []string{"ann"})
					same(t, "pair", string(o.do(getSQL("n"))[0].GetValue()), "")
				})
			}
		})
	})
}

// TestSQLBadInput: whatever a handler does wrong is an error with a code, the
// turn is rolled back whole, and this object and others go on.
func TestSQLBadInput(t *testing.T) {
	const (
		databaseBytes = 256 << 10
		rowBytes      = 64 << 10
		textBytes     = 20 << 10
	)
	limited := func(code string) *durablev1.ErrorInfo {
		info := sqlInfo(code, -1)
		info.Reason = durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT
		return info
	}
	named := func(name string) *labv1.SQLValue { return &labv1.SQLValue{Name: name} }
	type badInput struct {
		name  string
		steps []*labv1.SQLStep
		want
	}
	cases := []badInput{
		{
			"SQL-12 unique constraint",
			[]*labv1.SQLStep{query("INSERT INTO users (name) VALUES (?)", "ann")},
			want{
				connect.CodeAlreadyExists, "SQLITE_CONSTRAINT_UNIQUE: UNIQUE constraint failed: users.name",
				constrained("SQLITE_CONSTRAINT_UNIQUE", "users.name"),
			},
		},
		{
			"SQL-12 primary key",
			[]*labv1.SQLStep{query("INSERT INTO users (id, name) VALUES (?, ?)", 1, "secret")},
			want{code: connect.CodeAlreadyExists, info: constrained("SQLITE_CONSTRAINT_PRIMARYKEY", "users.id")},
		},
		{
			"SQL-12 not null",
			[]*labv1.SQLStep{query("INSERT INTO users (name) VALUES (?)", nil)},
			want{code: connect.CodeFailedPrecondition, info: constrained("SQLITE_CONSTRAINT_NOTNULL", "users.name")},
		},
		{
			"SQL-41 check",
			[]*labv1.SQLStep{query("INSERT INTO users (name, age) VALUES ('secret', 17)")},
			want{
				connect.CodeFailedPrecondition, "SQLITE_CONSTRAINT_CHECK: CHECK constraint failed: adult",
				constrained("SQLITE_CONSTRAINT_CHECK", "adult"),
			},
		},
		{
			"SQL-42 foreign key",
			[]*labv1.SQLStep{query("CREATE TABLE pets (owner REFERENCES users)"), query("INSERT INTO pets VALUES (7)")},
			want{code: connect.CodeFailedPrecondition, info: sqlInfo("SQLITE_CONSTRAINT_FOREIGNKEY", -1)},
		},
		{
			"SQL-43 TXN-20 foreign key found at the commit",
			[]*labv1.SQLStep{query("PRAGMA defer_foreign_keys = ON"), query("INSERT INTO users (name, boss) VALUES ('bob', 7)")},
			want{
				code: connect.CodeFailedPrecondition,
				info: lost(constrained("SQLITE_CONSTRAINT_FOREIGNKEY", "users references users")),
			},
		},
		{
			"SQL-12 type of a rowid",
			[]*labv1.SQLStep{query("INSERT INTO users (id, name) VALUES ('x', 'secret')")},
			want{connect.CodeInternal, "SQLITE_MISMATCH: datatype mismatch", sqlInfo("SQLITE_MISMATCH", -1)},
		},
		{
			"SQL-06 syntax error",
			[]*labv1.SQLStep{query("INSERT INTO users (name) VALUES ('bob'); SELEC 1")},
			want{connect.CodeInternal, `SQLITE_ERROR: near "SELEC": syntax error`, sqlInfo("SQLITE_ERROR", 41)},
		},
		{
			"SQL-06 syntax error at the beginning",
			[]*labv1.SQLStep{query("SELEC 1")},
			want{connect.CodeInternal, `SQLITE_ERROR: near "SELEC": syntax error`, sqlInfo("SQLITE_ERROR", 0)},
		},
		{
			"SQL-06 the statement stays inside",
			[]*labv1.SQLStep{query("SELECT 'hidden secret")},
			want{connect.CodeInternal, `SQLITE_ERROR: unrecognized token: "…"`, sqlInfo("SQLITE_ERROR", 7)},
		},
		{
			"SQL-06 no such table",
			[]*labv1.SQLStep{query("SELECT * FROM absent")},
			want{connect.CodeInternal, "SQLITE_ERROR: no such table: absent", sqlInfo("SQLITE_ERROR", -1)},
		},
		{
			"SQL-04 too few arguments",
			[]*labv1.SQLStep{query("SELECT ?, ?", 1)},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_RANGE", -1)},
		},
		{
			"SQL-04 too many arguments",
			[]*labv1.SQLStep{query("SELECT ?", 1, 2)},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_RANGE", -1)},
		},
		{
			"SQL-04 unknown name",
			[]*labv1.SQLStep{query("SELECT @a", named("b"))},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_RANGE", -1)},
		},
		{
			"SQL-05 no statement",
			[]*labv1.SQLStep{query("-- secret")},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_MISUSE", 0)},
		},
		{
			"SQL-46 BEGIN",
			[]*labv1.SQLStep{query("BEGIN")},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_AUTH", -1)},
		},
		{
			"SQL-47 ATTACH",
			[]*labv1.SQLStep{query("ATTACH '/etc/secret' AS x")},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_AUTH", -1)},
		},
		{
			"SQL-56 PRAGMA",
			[]*labv1.SQLStep{query("PRAGMA journal_mode = wal")},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_AUTH", -1)},
		},
		{
			"SQL-45 reserved name",
			[]*labv1.SQLStep{query("CREATE TABLE _Durable_x (a)")},
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_AUTH", -1)},
		},
		{
			"SQL-62 a row that is too large",
			[]*labv1.SQLStep{query("INSERT INTO users (name) VALUES (CAST(zeroblob(?) AS TEXT))", rowBytes+1)},
			want{code: connect.CodeResourceExhausted, info: sqlInfo("SQLITE_TOOBIG", -1)},
		},
		{
			"SQL-62 an argument that is too large",
			[]*labv1.SQLStep{query("SELECT length(?)", strings.Repeat("secret", rowBytes))},
			want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
				Limit:  &durablev1.Limit{Name: "bytes of a SQL value", Max: rowBytes, Actual: 6 * rowBytes},
			}},
		},
		{
			"SQL-60 a statement that is too long",
			[]*labv1.SQLStep{query("SELECT '" + strings.Repeat("secret", textBytes) + "'")},
			want{code: connect.CodeResourceExhausted, info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_STORAGE_LIMIT,
				Limit:  &durablev1.Limit{Name: "bytes of a SQL statement", Max: textBytes, Actual: 6*textBytes + 9},
			}},
		},
		{
			"SQL-63 a full database",
			[]*labv1.SQLStep{query(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100)
				INSERT INTO users (name) SELECT i || hex(zeroblob(2000)) FROM n`)},
			want{code: connect.CodeResourceExhausted, info: limited("SQLITE_FULL")},
		},
		{
			"TXN-17 out of memory",
			[]*labv1.SQLStep{query(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
				SELECT count(*) FROM (SELECT DISTINCT hex(zeroblob(8000)) || i FROM n)`)},
			want{code: connect.CodeResourceExhausted, info: lost(sqlInfo("SQLITE_NOMEM", -1))},
		},
		{
			"TXN-17 what a handler makes of a lost transaction",
			[]*labv1.SQLStep{tolerateSQL(query("INSERT OR ROLLBACK INTO users (name) VALUES ('ann')"))},
			want{
				code: connect.CodeAlreadyExists,
				info: lost(constrained("SQLITE_CONSTRAINT_UNIQUE", "users.name")),
			},
		},
		{
			"a statement that takes too long",
			[]*labv1.SQLStep{within(20, "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")},
			want{code: connect.CodeDeadlineExceeded, info: &durablev1.ErrorInfo{Sql: &durablev1.SqlError{Code: "SQLITE_INTERRUPT"}}},
		},
		{
			"a value that does not fit",
			[]*labv1.SQLStep{{Do: &labv1.SQLStep_ScanInteger{ScanInteger: &labv1.Statement{Text: "SELECT 'secret'"}}}},
			want{
				connect.CodeInternal, "a value of a result does not fit where the handler puts it",
				&durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_SQL},
			},
		},
		{
			"SQL-32 the database outside of its turn",
			[]*labv1.SQLStep{{Do: &labv1.SQLStep_Away{Away: sqlSteps(query("SELECT 1"))}}},
			want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}},
		},
	}
	limits := durable.Limits{SQL: durable.SQLLimits{
		DatabaseBytes: databaseBytes, RowBytes: rowBytes, StatementBytes: textBytes, MemoryBytes: 8 << 20,
	}}
	threeWays(t, func(t *testing.T, b *bench) {
		other := b.sql(t, "other").found()
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				o := b.sql(t).found()
				before := []*labv1.SQLStep{query("INSERT INTO users (name) VALUES ('before')"), putSQL("n", "2")}
				if c.info.GetReason() == durablev1.ErrorReason_ERROR_REASON_TX_DONE { // Await is a commit point
					before = nil
				}
				_, err := o.try(append(before, c.steps...)...)
				w := c.want
				w.info = proto.CloneOf(w.info)
				w.check(t, err, o)
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the error tells the statement: %v", err)
				}
				same(t, "users", o.users(), []string{"ann"})
				same(t, "pair", string(o.do(getSQL("n"))[0].GetValue()), "1")
				o.do(query("INSERT INTO users (name) VALUES ('after')"))
				same(t, "users after", o.users(), []string{"ann", "after"})
				other.t = t
				same(t, "another object", other.users(), []string{"ann"})
			})
		}
		t.Run("SQL-63 a full database reads and deletes", func(t *testing.T) {
			o := b.sql(t).found()
			fill := query(`WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10)
				INSERT INTO users (name) SELECT ? || i || hex(zeroblob(2000)) FROM n`, "x")
			for i := range 100 {
				fill.GetExec().Args[0] = &labv1.SQLValue{Kind: &labv1.SQLValue_Integer{Integer: int64(i * 100)}}
				if _, err := o.try(fill); err != nil {
					want{code: connect.CodeResourceExhausted, info: limited("SQLITE_FULL")}.check(t, err, o)
					break
				}
			}
			if n := len(o.users()); n < 20 {
				t.Errorf("%d users", n)
			}
			o.do(query("DELETE FROM users WHERE id > 1"))
			same(t, "users", o.users(), []string{"ann"})
			o.do(fill)
		})
		t.Run("SQL-32 the database and its cursors after the turn", func(t *testing.T) {
			o := b.sql(t).found()
			done := want{code: connect.CodeInternal, info: &durablev1.ErrorInfo{Reason: durablev1.ErrorReason_ERROR_REASON_TX_DONE}}
			o.do(&labv1.SQLStep{Do: &labv1.SQLStep_Open{Open: statement("SELECT name FROM users")}})
			_, err := o.try(&labv1.SQLStep{Do: &labv1.SQLStep_StaleCursor{}})
			done.check(t, err, o)
			_, err = o.try(query("DELETE FROM users"), &labv1.SQLStep{Do: &labv1.SQLStep_Stale{Stale: sqlSteps(query("DELETE FROM users"))}})
			done.check(t, err, o)
			same(t, "users", o.users(), []string{"ann"})
		})
		t.Run("a view that writes", func(t *testing.T) {
			o := b.sql(t).found()
			_, err := o.read(query("DELETE FROM users"))
			want{code: connect.CodeInternal, info: sqlInfo("SQLITE_READONLY", -1)}.check(t, err, o)
			same(t, "users", o.users(), []string{"ann"})
		})
		t.Run("the caller's deadline ends a statement", func(t *testing.T) {
			o := b.sql(t).found()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := o.Exec(ctx, &labv1.ExecRequest{Steps: []*labv1.SQLStep{
				query("DELETE FROM users"), query("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"),
			}})
			if got := connect.CodeOf(err); got != connect.CodeDeadlineExceeded {
				t.Errorf("%v: %v", got, err)
			}
			same(t, "users", o.users(), []string{"ann"})
		})
	}, durable.WithLimits(limits))
}

// TestSQLCorruption: a page that does not verify costs its object alone, and
// DeleteAll makes that usable again.
func TestSQLCorruption(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		page []byte
		code string
		lost bool // a transaction that meets it
	}{
		"zeros":     {make([]byte, 4096), "SQLITE_CORRUPT", false},
		"too short": {make([]byte, 100), "SQLITE_IOERR_READ", true},
	} {
		inBubble(t, name, func(t *testing.T, f *faulty) {
			broken := f.sql(t, "broken").found()
			f.sql(t, "whole").found()
			f.damage(t, broken.ID(), 2, c.page)
			loss := want{code: connect.CodeDataLoss, message: "stored data of the object does not verify", info: &durablev1.ErrorInfo{
				Reason: durablev1.ErrorReason_ERROR_REASON_DATA_LOSS, Sql: &durablev1.SqlError{Code: c.code},
			}}
			whole, broken := f.sql(t, "whole"), f.sql(t, "broken")
			_, err := broken.read(query("SELECT age FROM users"))
			loss.check(t, err, broken)
			_, err = broken.try(putSQL("n", "2"), query("INSERT INTO users (name) VALUES ('bob')"))
			loss.info.ObjectReset = c.lost
			loss.check(t, err, broken)
			same(t, "pair", string(broken.do(getSQL("n"))[0].GetValue()), "1")
			same(t, "another object", whole.users(), []string{"ann"})
			broken.do(deleteAllSQL())
			broken.found()
			same(t, "users", broken.users(), []string{"ann"})
		})
	}
}

// damage replaces a page of a database while no server runs, and starts another
// server.
func (f *faulty) damage(t *testing.T, id durable.ID, page uint32, value []byte) {
	t.Helper()
	ctx := t.Context()
	if err := f.srv.Close(ctx); err != nil {
		t.Fatal(err)
	}
	session, err := f.store.Join(ctx, storage.Node{ID: "damage"})
	if err != nil {
		t.Fatal(err)
	}
	typ, err := session.Type(ctx, "lab.sql")
	if err != nil {
		t.Fatal(err)
	}
	o := storage.ObjectID{Type: typ, ID: id}
	shards, err := session.Claim(ctx, []storage.ShardID{o.Shard()})
	if err != nil {
		t.Fatal(err)
	}
	key := binary.BigEndian.AppendUint32([]byte{storage.SQLSpace}, page)
	if _, ok, err := shards[0].Get(ctx, o, key); err != nil || !ok {
		t.Fatalf("page %d: %v, %v", page, ok, err)
	}
	put := &storage.Batch{Object: o, Put: []storage.Pair{{Key: key, Val: value}}}
	if err := shards[0].Commit(put).Wait(); err != nil {
		t.Fatal(err)
	}
	if err := session.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	f.start(t)
}
