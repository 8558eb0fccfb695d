package durable_test

import (
	"strings"
	"testing"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/lab"
)

func TestSQLLimits(t *testing.T) {
	if err := registerLimits(durable.CloudflareLimits()); err != nil {
		t.Error(err)
	}
	if err := registerLimits(durable.Limits{}.WithDefaults()); err != nil {
		t.Error(err)
	}
	if max := (durable.Limits{}).WithDefaults().SQL.Parameters; max != 32766 {
		t.Errorf("%d parameters by default", max)
	}
	for want, l := range map[string]durable.SQLLimits{
		"SQL.DatabaseBytes is negative":                     {DatabaseBytes: -1},
		"SQL.RowBytes is 1000000001, and at most":           {RowBytes: 1_000_000_001},
		"SQL.StatementBytes is negative":                    {StatementBytes: -1},
		"SQL.Parameters is 32767, and at most 32766":        {Parameters: 32767},
		"SQL.Columns is 2001, and at most 2000":             {Columns: 2001},
		"SQL.CompoundTerms is 501":                          {CompoundTerms: 501},
		"SQL.LikeBytes is 50001":                            {LikeBytes: 50001},
		"SQL.TriggerDepth is 1001":                          {TriggerDepth: 1001},
		"SQL.ExprDepth is 1001":                             {ExprDepth: 1001},
		"SQL.FunctionArgs is 128":                           {FunctionArgs: 128},
		"SQL.Instructions is 250000001":                     {Instructions: 250_000_001},
		"SQL.MemoryBytes is 1048575, and at least 1048576":  {MemoryBytes: 1<<20 - 1},
		"SQL.MemoryBytes is 4294967297, and at most":        {MemoryBytes: 4<<30 + 1},
		"SQL.Columns is 7, and at least 8":                  {Columns: 7},
		"SQL.LikeBytes is 15, and at least 16":              {LikeBytes: 15},
		"SQL.FunctionArgs is 9, and at least 10":            {FunctionArgs: 9},
		"SQL.MaxResultBytes is negative":                    {MaxResultBytes: -1},
		"SQL.DatabaseBytes is 17592186044416, and at most ": {DatabaseBytes: 1 << 44},
	} {
		if err := registerLimits(durable.Limits{SQL: l}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func registerLimits(l durable.Limits) error {
	return (&lab.Lab{Options: []durable.ObjectOption{durable.WithLimits(l)}}).Register(&registrar{})
}
