package durable_test

import (
	"errors"
	"strings"
	"testing"

	durable "github.com/durable-go/durable"
)

func TestZeroSQL(t *testing.T) {
	var s durable.SQL
	ctx := t.Context()
	_, exec := s.Exec(ctx, "SELECT 1")
	_, size := s.DatabaseSize(ctx)
	_, one := durable.One[int](ctx, s, "SELECT 1")
	_, all := durable.All[int](ctx, s, "SELECT 1")
	for name, err := range map[string]error{
		"Exec": exec, "DatabaseSize": size, "Vacuum": s.Vacuum(ctx), "Migrate": s.Migrate(ctx, nil), "One": one, "All": all,
	} {
		if !errors.Is(err, durable.ErrTxDone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.DB().Ping(); err == nil {
		t.Error("the DB of the zero SQL is open")
	}
}

func TestSQLSize(t *testing.T) {
	s, _ := newSQL(t, "CREATE TABLE a (x)")
	before, err := s.DatabaseSize(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Exec(t.Context(), "CREATE TABLE b (x)"); err != nil {
		t.Fatal(err)
	}
	if after, err := s.DatabaseSize(t.Context()); err != nil || after != before+4096 {
		t.Errorf("%d bytes, then %d, %v", before, after, err)
	}
	if err := s.Vacuum(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSQLErrorText(t *testing.T) {
	boom := errors.New("boom")
	for want, err := range map[string]error{
		"durable: SQLITE_AUTH: not authorized (use tx.Savepoint): boom": &durable.SQLError{Code: "SQLITE_AUTH", Message: "not authorized", Hint: "use tx.Savepoint", Err: boom},
		"durable: SQLITE_FULL":                       &durable.SQLError{Code: "SQLITE_FULL"},
		`durable: column "a": boom`:                  &durable.ScanError{Column: "a", Err: boom},
		`durable: migration 2 "b": boom`:             &durable.MigrationError{Position: 2, Name: "b", Err: boom},
		`durable: migration 2 "b": its name is long`: &durable.MigrationError{Position: 2, Name: "b", Problem: "its name is long"},
	} {
		if err.Error() != want {
			t.Errorf("%s, want %s", err, want)
		}
		if strings.HasSuffix(want, "boom") && !errors.Is(err, boom) {
			t.Errorf("%s: the cause is lost", want)
		}
	}
}
