package lab

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// A sqlLab takes steps with its database. It remembers that of the call before,
// and a cursor, to use them when they are over.
type sqlLab struct {
	stale  durable.SQL
	cursor *durable.Cursor
}

func (l *Lab) newSQLLab(context.Context, labv1durable.SQLLabTx) (labv1durable.SQLLabHandler, error) {
	l.Constructed.Add(1)
	return &sqlLab{}, nil
}

// Exec implements [labv1durable.SQLLabHandler].
func (l *sqlLab) Exec(ctx context.Context, tx labv1durable.SQLLabTx, req *labv1.ExecRequest) (*labv1.ExecResponse, error) {
	results, err := (&sqlSteps{lab: l, db: tx.SQL(), kv: tx.KV(), tx: tx}).run(ctx, req.GetSteps())
	l.stale = tx.SQL()
	if err != nil {
		return nil, err
	}
	return &labv1.ExecResponse{Results: results}, nil
}

// Query implements [labv1durable.SQLLabHandler].
func (l *sqlLab) Query(ctx context.Context, view labv1durable.SQLLabView, req *labv1.QueryRequest) (*labv1.QueryResponse, error) {
	results, err := (&sqlSteps{lab: l, db: view.SQL(), kv: view.KV()}).run(ctx, req.GetSteps())
	if err != nil {
		return nil, err
	}
	return &labv1.QueryResponse{Results: results}, nil
}

// sqlSteps takes steps with one database.
type sqlSteps struct {
	lab *sqlLab
	db  durable.SQL
	kv  durable.KVReader
	tx  durable.Tx // nil in a view
}

func (s *sqlSteps) run(ctx context.Context, todo []*labv1.SQLStep) ([]*labv1.SQLResult, error) {
	var results []*labv1.SQLResult
	for _, step := range todo {
		res := &labv1.SQLResult{}
		if err := s.step(ctx, step, res); err != nil {
			if !step.GetTolerate() {
				return nil, err
			}
			res.Error = err.Error()
			var e *durable.SQLError
			if errors.As(err, &e) {
				res.Code = e.Code
				if e.Offset >= 0 {
					offset := int32(e.Offset) //nolint:gosec // tests have no text that long
					res.Offset = &offset
				}
			}
		}
		results = append(results, res)
	}
	return results, nil
}

func (s *sqlSteps) step(ctx context.Context, step *labv1.SQLStep, res *labv1.SQLResult) (err error) {
	switch do := step.GetDo().(type) {
	case *labv1.SQLStep_Exec:
		return s.exec(ctx, do.Exec, res)
	case *labv1.SQLStep_One:
		cur, err := s.db.Exec(ctx, do.One.GetText(), sqlArgs(do.One.GetArgs())...)
		if err != nil {
			return err
		}
		row, err := cur.One()
		if err != nil {
			return err
		}
		res.Columns, res.Rows = row.Columns(), []*labv1.SQLRow{sqlRow(row)}
	case *labv1.SQLStep_ScanInteger:
		_, err := durable.One[int64](ctx, s.db, do.ScanInteger.GetText(), sqlArgs(do.ScanInteger.GetArgs())...)
		return err
	case *labv1.SQLStep_Open:
		s.lab.cursor, err = s.db.Exec(ctx, do.Open.GetText(), sqlArgs(do.Open.GetArgs())...)
		return err
	case *labv1.SQLStep_StaleCursor:
		_, _, err := s.lab.cursor.Next()
		return err
	case *labv1.SQLStep_Savepoint:
		return s.tx.Savepoint(func() error {
			res.Results, err = s.run(ctx, do.Savepoint.GetSteps())
			return err
		})
	case *labv1.SQLStep_Away:
		return s.tx.Await(ctx, func(ctx context.Context) error {
			res.Results, err = s.run(ctx, do.Away.GetSteps())
			return err
		})
	case *labv1.SQLStep_Stale:
		old := &sqlSteps{lab: s.lab, db: s.lab.stale}
		res.Results, err = old.run(ctx, do.Stale.GetSteps())
		return err
	case *labv1.SQLStep_Sync:
		return s.tx.Sync(ctx)
	case *labv1.SQLStep_DeleteAll:
		return s.tx.DeleteAll(ctx)
	case *labv1.SQLStep_Fail:
		return errors.New(do.Fail)
	case *labv1.SQLStep_Put:
		return s.tx.KV().Put(ctx, string(do.Put.GetKey()), append([]byte{}, do.Put.GetValue()...))
	case *labv1.SQLStep_Get:
		res.Value, _, err = s.kv.Get(ctx, string(do.Get))
		return err
	case *labv1.SQLStep_Size:
		res.Size, err = s.db.DatabaseSize(ctx)
		return err
	case *labv1.SQLStep_Migrate:
		var m durable.Migrations
		for i, text := range do.Migrate.GetTexts() {
			m = append(m, durable.Migration{Name: strconv.Itoa(i + 1), SQL: text})
		}
		return s.db.Migrate(ctx, m)
	}
	return nil
}

// exec runs a statement and adds its rows to the result, also those before an
// error.
func (s *sqlSteps) exec(ctx context.Context, st *labv1.Statement, res *labv1.SQLResult) error {
	if ms := st.GetTimeoutMs(); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	cur, err := s.db.Exec(ctx, st.GetText(), sqlArgs(st.GetArgs())...)
	if err != nil {
		return err
	}
	defer cur.Close()
	res.Columns = cur.Columns()
	for row, err := range cur.Rows() {
		if err != nil {
			return err
		}
		res.Rows = append(res.Rows, sqlRow(row))
	}
	res.RowsWritten, res.Changes = cur.RowsWritten(), cur.Changes()
	return nil
}

func sqlArgs(args []*labv1.SQLValue) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.GetKind().(type) {
		case *labv1.SQLValue_Integer:
			out[i] = v.Integer
		case *labv1.SQLValue_Real:
			out[i] = v.Real
		case *labv1.SQLValue_Text:
			out[i] = v.Text
		case *labv1.SQLValue_Blob:
			out[i] = append([]byte{}, v.Blob...) // empty is not NULL
		}
		if name := arg.GetName(); name != "" {
			out[i] = sql.Named(name, out[i])
		}
	}
	return out
}

func sqlRow(row durable.Row) *labv1.SQLRow {
	out := &labv1.SQLRow{}
	for _, value := range row.Values() {
		v := &labv1.SQLValue{}
		switch value := value.(type) {
		case int64:
			v.Kind = &labv1.SQLValue_Integer{Integer: value}
		case float64:
			v.Kind = &labv1.SQLValue_Real{Real: value}
		case string:
			v.Kind = &labv1.SQLValue_Text{Text: value}
		case []byte:
			v.Kind = &labv1.SQLValue_Blob{Blob: value}
		}
		out.Values = append(out.Values, v)
	}
	return out
}
