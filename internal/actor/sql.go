package actor

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
)

// An activationSQL is the database of an activation, made at its first use.
type activationSQL struct {
	mu     sync.Mutex
	db     storage.SQLDatabase // nil before the first use
	closed bool
}

// database returns the database of the activation.
func (a *activation) database(o *object) storage.SQLDatabase {
	s := &a.sql
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		s.db = o.host.sql.Database(o.id, a.shard, sqlLimits(&o.typ.Limits.SQL))
		if s.closed { // the turns of an activation that ended go on
			s.db.Close()
		}
	}
	return s.db
}

// usesSQL reports whether the activation has a database.
func (a *activation) usesSQL() bool {
	a.sql.mu.Lock()
	defer a.sql.mu.Unlock()
	return a.sql.db != nil
}

// release lets go of what the activation holds outside of memory.
func (a *activation) release() {
	s := &a.sql
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db != nil {
		s.db.Close()
	}
}

func sqlLimits(l *durable.SQLLimits) storage.SQLLimits {
	return storage.SQLLimits{
		DatabaseBytes:  l.DatabaseBytes,
		RowBytes:       l.RowBytes,
		StatementBytes: l.StatementBytes,
		Parameters:     l.Parameters,
		Columns:        l.Columns,
		CompoundTerms:  l.CompoundTerms,
		LikeBytes:      l.LikeBytes,
		TriggerDepth:   l.TriggerDepth,
		ExprDepth:      l.ExprDepth,
		FunctionArgs:   l.FunctionArgs,
		Instructions:   l.Instructions,
		MemoryBytes:    l.MemoryBytes,
	}
}

// A turnSQL is the SQL of a turn, as [durable.SQLPort].
type turnSQL turn

// session returns the turn's use of the database, which it begins.
func (q *turnSQL) session() (storage.SQLSession, error) {
	t := (*turn)(q)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.live(); err != nil {
		return nil, err
	}
	return t.sqlSession()
}

// sqlSession is session without a look at the state. The caller holds mu.
func (t *turn) sqlSession() (storage.SQLSession, error) {
	if t.sql != nil {
		return t.sql, nil
	}
	if t.o.host.sql == nil {
		return nil, durable.ErrNoSQL
	}
	t.sql = t.act.database(t.o).Begin(t.ctx, t.access == exclusive, t.live)
	for range t.levels {
		if err := t.sql.Savepoint(); err != nil {
			return nil, t.sqlFailed(err)
		}
	}
	if t.overlay.wiped {
		t.sql.Wipe()
	}
	return t.sql, nil
}

// endSQL ends the use of the database, which loses what was not committed.
func (t *turn) endSQL() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endSQLLocked()
}

func (t *turn) endSQLLocked() {
	if t.sqlDB != nil {
		_ = t.sqlDB.Close()
		t.sqlDB = nil
	}
	if t.sql != nil {
		t.sql.End()
		t.sql = nil
	}
}

// sqlFailed returns an error of the SQL engine as handlers see it.
func (t *turn) sqlFailed(err error) error {
	var e *storage.SQLError
	var limit *storage.LimitError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrClosed):
		return durable.ErrTxDone
	case notOwner(err):
		err = readFailed("sql", err)
	case errors.As(err, &e):
		out := durable.SQLError(*e)
		err = &out
	case errors.As(err, &limit) && errors.Is(err, storage.ErrTooLarge):
		err = fmt.Errorf("sql: %w", &durable.LimitError{Name: limit.What, Max: limit.Max, Actual: limit.Actual})
	}
	return err
}

// sqlBroken is sqlFailed for an error of the session. It breaks the turn when the
// session is broken.
func (t *turn) sqlBroken(s storage.SQLSession, err error) error {
	if err == nil {
		return nil
	}
	err = t.sqlFailed(err)
	if broken := s.Err(); broken != nil {
		t.broken.CompareAndSwap(nil, &endedError{t.sqlFailed(broken)})
	}
	return err
}

// Exec implements [durable.SQLPort].
func (q *turnSQL) Exec(ctx context.Context, query string, args []any, reserved bool) (durable.RowsPort, error) {
	s, err := q.session()
	if err != nil {
		return nil, err
	}
	rows, err := s.Exec(ctx, query, args, storage.SQLOptions{Reserved: reserved})
	if err != nil {
		return nil, (*turn)(q).sqlBroken(s, err)
	}
	return &sqlRows{(*turn)(q), s, rows}, nil
}

// Savepoint implements [durable.SQLPort].
func (q *turnSQL) Savepoint() (end func(keep bool) error, err error) {
	t := (*turn)(q)
	if t.access != exclusive {
		return func(bool) error { return nil }, nil // there is nothing to undo
	}
	number, err := t.beginLevel()
	if err != nil {
		return nil, err
	}
	return func(keep bool) error { return t.endLevel(number, keep, false) }, nil
}

// Size implements [durable.SQLPort].
func (q *turnSQL) Size(ctx context.Context) (int64, error) {
	s, err := q.session()
	if err != nil {
		return 0, err
	}
	size, err := s.Size(ctx)
	return size, (*turn)(q).sqlBroken(s, err)
}

// Vacuum implements [durable.SQLPort].
func (q *turnSQL) Vacuum(ctx context.Context) error {
	t := (*turn)(q)
	s, err := q.session()
	if err != nil {
		return err
	}
	t.mu.Lock()
	inside := len(t.levels) > 0
	t.mu.Unlock()
	if inside {
		return fmt.Errorf("vacuum: %w", durable.ErrInSavepoint)
	}
	return t.sqlBroken(s, s.Vacuum(ctx))
}

// DB implements [durable.SQLPort].
func (q *turnSQL) DB(open func() *sql.DB) *sql.DB {
	t := (*turn)(q)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live() != nil { // then everything it does fails with the same error
		db := open()
		_ = db.Close()
		return db
	}
	if t.sqlDB == nil {
		t.sqlDB = open()
	}
	return t.sqlDB
}

// MaxResultBytes implements [durable.SQLPort].
func (q *turnSQL) MaxResultBytes() int64 { return q.o.typ.Limits.SQL.MaxResultBytes }

// sqlRows are rows as [durable.RowsPort].
type sqlRows struct {
	t *turn
	s storage.SQLSession
	storage.SQLRows
}

// Next implements [durable.RowsPort].
func (r *sqlRows) Next() ([]any, error) {
	row, err := r.SQLRows.Next()
	return row, r.t.sqlBroken(r.s, err)
}

// Stats implements [durable.RowsPort].
func (r *sqlRows) Stats() durable.SQLStats { return durable.SQLStats(r.SQLRows.Stats()) }
