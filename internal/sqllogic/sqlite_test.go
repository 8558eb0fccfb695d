package sqllogic

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"
)

// openSQLite returns an empty SQLite database in memory.
func openSQLite(t *testing.T) sqlite {
	t.Helper()
	conn, err := sqlite3.Open(":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return sqlite{conn}
}

type sqlite struct{ conn *sqlite3.Conn }

func (db sqlite) Exec(_ context.Context, sql string) error { return db.conn.Exec(sql) }

func (db sqlite) Query(_ context.Context, sql string) ([][]any, error) {
	stmt, tail, err := db.conn.Prepare(sql)
	if err != nil {
		return nil, err
	}
	defer stmt.Close()
	if strings.TrimSpace(tail) != "" {
		return nil, fmt.Errorf("a second statement: %s", tail)
	}
	var rows [][]any
	for stmt.Step() {
		row := make([]any, stmt.ColumnCount())
		if err := stmt.Columns(row...); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if err := stmt.Err(); err != nil {
		return rows, fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return rows, nil
}

func TestSQLite(t *testing.T) {
	for _, script := range Scripts(t) {
		t.Run(script.Name, func(t *testing.T) {
			if testing.Short() && len(script.Records) > 2000 {
				t.Skip("takes ten seconds with the race detector")
			}
			result, err := Run(t.Context(), script.Records, openSQLite(t), "sqlite")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range result.Failures {
				t.Error(f)
			}
			t.Logf("%d passed, %d of them stopped; %d skipped", result.Passed, result.Stopped, result.Skipped)
			if result.Passed == 0 {
				t.Error("nothing ran")
			}
			if stopped := strings.HasSuffix(script.Name, "slt_lang_aggfunc.test"); stopped != (result.Stopped == 1) {
				t.Errorf("%d queries stopped: only the sum that overflows should", result.Stopped)
			}
		})
	}
}

// Whatever SQLite returns has to be rendered as SQLite itself would.
func TestRenderAsSQLite(t *testing.T) {
	values := []any{
		int64(0), int64(math.MaxInt64), int64(math.MinInt64), int64(-1 << 40),
		0.0, math.Copysign(0, -1), 0.5, -0.5, 0.0625, -0.1875, 0.125, 1.0005, -0.0001, 0.0005, 2.5e-5,
		1e12 + 0.0625, 1e13 - 0.0625, 1e13, 1e13 + 0.5, 1e14, 1e15, 1e16, 1e17, 123456789012345678.0, 1e22, 1.0 / 3, 2e300,
		math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1),
		math.MaxInt64 + 0.0, math.MinInt64 + 0.0, math.MinInt64 * 2.0,
		"", "12", " 12x", "-7.9", "+3", "1e3", ".5e", "1.25e2x", "x", "-", "99999999999999999999", "-99999999999999999999",
		"1e999", "\v\f 8", []byte("42"),
		[]byte{},
	}
	exact := len(values) // those below may differ in the last of 16 digits
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed))
	for range 2000 {
		values = append(values, (random.Float64()-0.5)*math.Pow(10, float64(random.IntN(40)-10)))
	}

	db := openSQLite(t)
	stmt, _, err := db.conn.Prepare(`SELECT CAST(?1 AS INTEGER), printf('%.3f', CAST(?1 AS REAL)),
		CASE typeof(?1) WHEN 'real' THEN printf('%!.15g', ?1) ELSE CAST(?1 AS TEXT) END`)
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	for n, value := range values {
		switch v := value.(type) {
		case int64:
			err = stmt.BindInt64(1, v)
		case float64:
			err = stmt.BindFloat(1, v)
		case string:
			err = stmt.BindText(1, v)
		case []byte:
			err = stmt.BindBlob(1, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		if !stmt.Step() {
			t.Fatal(stmt.Err())
		}
		for i, column := range []byte("IRT") {
			if x, ok := value.(float64); ok && column == 'R' && n >= exact && math.Abs(x) > 1e11 {
				continue
			}
			want := stmt.ColumnText(i)
			if column == 'T' {
				want = printable(want)
			}
			if got, err := render(column, value); err != nil || got != want {
				t.Errorf("%T %v in a column of type %c: %s, %v; want %s", value, value, column, got, err, want)
			}
		}
		if err := stmt.Reset(); err != nil {
			t.Fatal(err)
		}
	}
}
