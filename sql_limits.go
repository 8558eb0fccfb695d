package durable

import (
	"fmt"
	"math"
	"time"
)

// SQLLimits bound the database of one object. Zero fields mean the defaults;
// [Register] refuses those that are negative or beyond what SQLite can do.
type SQLLimits struct {
	// DatabaseBytes is the size of the database, unused pages included. Writes
	// beyond it fail with SQLITE_FULL; reads and deletes go on. Default 10 GiB,
	// at most 4,294,967,294 pages of 4 KiB.
	DatabaseBytes int64
	// RowBytes is the length of the longest row, string or blob. Default 2 MiB,
	// at most 1,000,000,000.
	RowBytes int
	// StatementBytes is the length of the longest text given to Exec. Default
	// 1 MB (1,000,000 bytes), at most 1,000,000,000.
	StatementBytes int
	// Parameters is the most bound parameters. Default, and most, 32,766.
	Parameters int
	// Columns is the most columns of a table, an index, a view or a result.
	// Default, and most, 2,000; at least 8, which SQLite itself needs.
	Columns int
	// CompoundTerms is the most terms of a compound SELECT. Default 200, at most
	// 500. The stack of the SQL engine may be too small for more than 200: the
	// statement then fails with SQLITE_NOMEM, and the turn with it.
	CompoundTerms int
	// LikeBytes is the length of the longest pattern of LIKE and GLOB. Default,
	// and most, 50,000; at least 16, which SQLite itself needs. One call of a
	// function cannot be interrupted, and LIKE with a long pattern on a long text
	// takes its time: set it, and RowBytes, lower where callers choose both.
	LikeBytes int
	// TriggerDepth is how deep triggers may trigger others. Default 100, at
	// most 1,000.
	TriggerDepth int
	// ExprDepth is how deep expressions may nest. Default, and most, 1,000: chains
	// of AND and OR reach it. Others, such as function calls in one another,
	// fill the stack of the SQL engine at 200 to 500 levels: the statement then
	// fails with SQLITE_NOMEM, and the turn with it.
	ExprDepth int
	// FunctionArgs is the most arguments of a function. Default, and most, 127;
	// at least 10, which SQLite itself needs.
	FunctionArgs int
	// Instructions is the longest program that a statement may be compiled to.
	// Default, and most, 250,000,000.
	Instructions int
	// MemoryBytes is the most memory that a connection to the database may use:
	// for sorting, for the pages that a turn changes, which it keeps to undo them,
	// and for Vacuum, the whole database.
	// A statement that needs more fails, and the turn with it. Default 64 MiB,
	// at least 1 MiB, at most 4 GiB.
	MemoryBytes int64
	// MaxResultBytes is the most memory that the rows of one [All], or of one
	// All of a [Cursor], may take, as [Cursor].All counts it. Reading row by row
	// has no limit. Default 64 MiB.
	MaxResultBytes int64
}

func (l SQLLimits) withDefaults() SQLLimits {
	setDefault(&l.DatabaseBytes, 10<<30)
	setDefault(&l.RowBytes, 2<<20)
	setDefault(&l.StatementBytes, 1_000_000)
	setDefault(&l.Parameters, 32_766)
	setDefault(&l.Columns, 2_000)
	setDefault(&l.CompoundTerms, 200)
	setDefault(&l.LikeBytes, 50_000)
	setDefault(&l.TriggerDepth, 100)
	setDefault(&l.ExprDepth, 1_000)
	setDefault(&l.FunctionArgs, 127)
	setDefault(&l.Instructions, 250_000_000)
	setDefault(&l.MemoryBytes, 64<<20)
	setDefault(&l.MaxResultBytes, defaultResultBytes)
	return l
}

// defaultResultBytes is the default of [SQLLimits].MaxResultBytes.
const defaultResultBytes = 64 << 20

// check returns an error that names a limit that cannot be. Zero ones can.
func (l SQLLimits) check() error {
	for _, limit := range []struct {
		name             string
		value, low, high int64
	}{
		{"DatabaseBytes", l.DatabaseBytes, 0, 4_294_967_294 * 4096},
		{"RowBytes", int64(l.RowBytes), 0, 1_000_000_000},
		{"StatementBytes", int64(l.StatementBytes), 0, 1_000_000_000},
		{"Parameters", int64(l.Parameters), 0, 32_766},
		{"Columns", int64(l.Columns), 8, 2_000},
		{"CompoundTerms", int64(l.CompoundTerms), 0, 500},
		{"LikeBytes", int64(l.LikeBytes), 16, 50_000},
		{"TriggerDepth", int64(l.TriggerDepth), 0, 1_000},
		{"ExprDepth", int64(l.ExprDepth), 0, 1_000},
		{"FunctionArgs", int64(l.FunctionArgs), 10, 127},
		{"Instructions", int64(l.Instructions), 0, 250_000_000},
		{"MemoryBytes", l.MemoryBytes, 1 << 20, 4 << 30},
		{"MaxResultBytes", l.MaxResultBytes, 0, math.MaxInt64},
	} {
		switch {
		case limit.value < 0:
			return fmt.Errorf("the limit SQL.%s is negative", limit.name)
		case limit.value > limit.high:
			return fmt.Errorf("the limit SQL.%s is %d, and at most %d", limit.name, limit.value, limit.high)
		case limit.value != 0 && limit.value < limit.low:
			return fmt.Errorf("the limit SQL.%s is %d, and at least %d", limit.name, limit.value, limit.low)
		}
	}
	return nil
}

// CloudflareLimits returns the limits of Cloudflare's Durable Objects with
// SQLite, as far as they are published, for a program that is to run, or ran,
// there too: with [WithLimits] what passes here passes there. Its megabytes are
// taken as the smaller, decimal ones. Fields without a published number are
// zero and so mean the defaults.
func CloudflareLimits() Limits {
	return Limits{
		HandlerTimeout:     30 * time.Second,
		ConstructorTimeout: 30 * time.Second,
		GateTimeout:        30 * time.Second,
		MaxKeyBytes:        2_048,
		MaxValueBytes:      2_000_000,
		MaxBatchKeys:       128,
		MaxConns:           32_768,
		MaxAttachmentBytes: 16_384,
		SQL: SQLLimits{
			DatabaseBytes:  10_000_000_000,
			RowBytes:       2_000_000,
			StatementBytes: 100_000,
			Parameters:     100,
			Columns:        100,
			CompoundTerms:  5,
			LikeBytes:      50,
			TriggerDepth:   10,
			ExprDepth:      100,
			FunctionArgs:   32,
			Instructions:   25_000,
		},
	}
}
