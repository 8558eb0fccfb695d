package sqllogic_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/internal/sqllogic"
)

// refusals are the records that expect what objects refuse: temporary views
// (SQL-47). Two make one, and two drop what was never made.
var refusals = map[string]string{
	"CREATE TEMP VIEW view2 AS SELECT x FROM t1 WHERE x>0":      "SQLITE_AUTH: ",
	"CREATE TEMPORARY VIEW view3 AS SELECT x FROM t1 WHERE x>0": "SQLITE_AUTH: ",
	"DROP VIEW view2": "SQLITE_ERROR: no such view: view2",
	"DROP VIEW view3": "SQLITE_ERROR: no such view: view3",
}

const (
	refusing = "evidence/slt_lang_createview.test" // has the refusals
	stopping = "evidence/slt_lang_aggfunc.test"    // has a sum that overflows
)

// TestObjects: SQLite's own scripts pass in durable objects, one for each, in
// which every record is a call of its own.
func TestObjects(t *testing.T) {
	scripts := sqllogic.Scripts(t)
	s := durabletest.New(t, lab.Register)
	client := labv1durable.NewSQLLabClient(s.Conn())
	for _, script := range scripts {
		t.Run(script.Name, func(t *testing.T) {
			if testing.Short() && len(script.Records) > 2000 {
				t.Skip("takes ten seconds with the race detector")
			}
			o := object{client.GetByName(script.Name)}
			result, err := sqllogic.Run(t.Context(), script.Records, o, "sqlite")
			if err != nil {
				t.Fatal(err)
			}
			refused := map[string]bool{}
			for _, f := range result.Failures {
				if want := refusals[f.SQL]; script.Name == refusing && want != "" && strings.Contains(f.Got, want) && !refused[f.SQL] {
					refused[f.SQL] = true
					continue
				}
				t.Error(f)
			}
			t.Logf("%d passed, %d of them stopped; %d refused as they should be; %d for other engines",
				result.Passed, result.Stopped, len(refused), result.Skipped)
			if result.Passed == 0 {
				t.Error("nothing ran")
			}
			if script.Name == refusing && len(refused) != len(refusals) {
				t.Errorf("only %v were refused", refused)
			}
			if stops := script.Name == stopping; stops != (result.Stopped == 1) {
				t.Errorf("%d queries stopped: only the sum that overflows should", result.Stopped)
			}
		})
	}
}

// An object is a database behind calls: statements in turns that may write,
// queries in views.
type object struct{ labv1durable.SQLLabStub }

// Exec implements [sqllogic.DB]. A statement that fails ends its turn.
func (o object) Exec(ctx context.Context, sql string) error {
	_, err := o.SQLLabStub.Exec(ctx, &labv1.ExecRequest{Steps: []*labv1.SQLStep{exec(sql)}})
	return ofSQLite(err)
}

// Query implements [sqllogic.DB].
func (o object) Query(ctx context.Context, sql string) ([][]any, error) {
	step := exec(sql)
	step.Tolerate = true
	res, err := o.SQLLabStub.Query(ctx, &labv1.QueryRequest{Steps: []*labv1.SQLStep{step}})
	if err != nil {
		return nil, ofSQLite(err)
	}
	result := res.GetResults()[0]
	var rows [][]any
	for _, row := range result.GetRows() {
		var values []any
		for _, v := range row.GetValues() {
			values = append(values, goValue(v))
		}
		rows = append(rows, values)
	}
	switch {
	case result.GetError() == "":
		return rows, nil
	case result.GetCode() == "":
		return nil, fmt.Errorf("%w: %s", sqllogic.ErrUnusable, result.GetError())
	}
	err = errors.New(result.GetError())
	if _, cerr := o.SQLLabStub.Query(ctx, &labv1.QueryRequest{Steps: []*labv1.SQLStep{exec("EXPLAIN " + sql)}}); cerr == nil {
		err = fmt.Errorf("%w: %w", sqllogic.ErrStopped, err) // it compiles, so it ran
	}
	return rows, err
}

// ofSQLite tells errors of SQLite from those of everything around it.
func ofSQLite(err error) error {
	if err != nil && durableconnect.ErrorInfo(err).GetSql() == nil {
		return fmt.Errorf("%w: %w", sqllogic.ErrUnusable, err)
	}
	return err
}

func exec(sql string) *labv1.SQLStep {
	return &labv1.SQLStep{Do: &labv1.SQLStep_Exec{Exec: &labv1.Statement{Text: sql}}}
}

func goValue(v *labv1.SQLValue) any {
	switch v := v.GetKind().(type) {
	case *labv1.SQLValue_Integer:
		return v.Integer
	case *labv1.SQLValue_Real:
		return v.Real
	case *labv1.SQLValue_Text:
		return v.Text
	case *labv1.SQLValue_Blob:
		return v.Blob
	default:
		return nil
	}
}
