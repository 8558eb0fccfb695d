package sqlitedb

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/durable-go/durable/storage"
)

// A session is the use of a database in one turn.
type session struct {
	db    *database
	ctx   context.Context
	write bool
	live  func() error

	mu      sync.Mutex // comes before that of the connection, and guards the rest
	settled *sync.Cond // nil but from Flush to Settle, Rollback or End
	conn    *conn      // nil before the first use
	seq     uint64     // what the connection has to have seen
	rows    map[*rows]struct{}
	depth   int // of levels
	marked  int // levels that SQLite has a savepoint for
	wrote   bool
	rewrote bool // SQLite has committed what the store has not
	broken  error
	ended   bool
}

// errEnded is what a session answers after End.
var errEnded = fmt.Errorf("sqlitedb: %w: the session has ended", storage.ErrClosed)

// lock locks the session for an operation, which waits while a batch is on its
// way: what it wrote then would be taken for part of that.
func (s *session) lock() {
	s.mu.Lock()
	for s.settled != nil {
		s.settled.Wait()
	}
}

// settle lets operations in again.
func (s *session) settle() {
	if s.settled != nil {
		s.settled.Broadcast()
		s.settled = nil
	}
}

// do runs f on the connection, which it opens where needed. A panic of the
// engine costs the connection.
func (s *session) do(ctx context.Context, f func(c *conn) error) (err error) {
	s.lock()
	defer s.mu.Unlock()
	if err := s.live(); err != nil {
		return err
	}
	if err := s.usable(); err != nil {
		return err
	}
	c := s.connection()
	if err := c.mu.LockContext(ctx, s.ctx); err != nil { // another view may have it
		return interrupted(err)
	}
	defer c.mu.Unlock()
	if err := c.ensure(ctx, s.seq); err != nil {
		return err
	}
	if err := c.intr.reset(ctx, s.ctx, s.live); err != nil {
		return interrupted(err)
	}
	return s.guarded(c, func() error { return f(c) })
}

func interrupted(cause error) error {
	return &storage.SQLError{Code: "SQLITE_INTERRUPT", Message: "interrupted", Offset: -1, Err: cause}
}

func (s *session) usable() error {
	if s.ended {
		return errEnded
	}
	return s.broken
}

// connection returns the session's connection, which may not be open yet.
func (s *session) connection() *conn {
	if s.conn == nil {
		s.conn, s.seq = s.db.acquire(s.write)
	}
	return s.conn
}

// guarded runs f, and makes an error of a panic of the engine.
func (s *session) guarded(c *conn, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.db.engine.panicked(v)
			c.doomed.Store(true)
			s.wrote = s.wrote || c.inTx
			s.breaks(err)
		}
	}()
	return f()
}

// breaks makes the session refuse everything from now on.
func (s *session) breaks(err error) {
	if s.broken == nil {
		var e *storage.SQLError
		if errors.As(err, &e) {
			e.Lost = true
		}
		s.broken = err
	}
}

// Exec implements [storage.SQLSession].
func (s *session) Exec(ctx context.Context, query string, args []any, opts storage.SQLOptions) (storage.SQLRows, error) {
	if limit := s.db.limits.StatementBytes; len(query) > limit {
		return nil, &storage.LimitError{What: "bytes of a SQL statement", Max: int64(limit), Actual: int64(len(query)), Err: storage.ErrTooLarge}
	}
	var r *rows
	err := s.do(ctx, func(c *conn) (err error) {
		r, err = s.exec(ctx, c, query, args, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s *session) exec(ctx context.Context, c *conn, query string, args []any, opts storage.SQLOptions) (*rows, error) {
	for text := query; ; {
		begin := len(query) - len(text)
		st, err := c.prepare(text, s.write, opts)
		if err != nil {
			return nil, at(err, begin)
		}
		if st == nil {
			return nil, &storage.SQLError{
				Code: "SQLITE_MISUSE", Message: "there is no statement", Offset: begin,
				Hint: "the text is empty, or only a comment follows the last semicolon",
			}
		}
		r := &rows{s: s, c: c, st: st, ctx: ctx}
		err = s.start(c, r, args)
		if err == nil && !st.last {
			err = r.drain(false)
		}
		if err != nil {
			r.close()
			return nil, at(err, begin)
		}
		if st.last {
			return r, nil
		}
		text = st.tail
	}
}

// at moves the offset of an error from a statement to the whole query.
func at(err error, begin int) error {
	var e *storage.SQLError
	if begin > 0 && errors.As(err, &e) && e.Offset >= 0 {
		e.Offset += begin
	}
	return err
}

// start begins the statement of r: it binds, begins the transaction where one
// is needed, and makes the first step. A statement that writes runs to its end.
func (s *session) start(c *conn, r *rows, args []any) error {
	st := r.st
	r.open, r.before = true, c.lite.TotalChanges()
	if st.last {
		if err := c.bind(st, args); err != nil {
			return err
		}
	} else if st.params > 0 {
		return &storage.SQLError{Code: "SQLITE_RANGE", Offset: -1, Message: "only the last statement may have parameters"}
	}
	if st.begins {
		if !s.write {
			return errView
		}
		if err := s.begin(c); err != nil {
			return err
		}
	}
	run := func() error {
		c.guard.run(st, s.write)
		err := r.step()
		if err == nil && st.begins {
			err = r.drain(true)
		}
		return err
	}
	var err error
	switch {
	case st.alters:
		err = s.within(c, r, func() error { return s.checked(c, run) })
	case st.begins:
		err = s.within(c, r, run)
	default:
		if st.pragma == "quick_check" && !c.main {
			c.refreshFullText()
		}
		err = run()
	}
	if st.begins && (err == nil && !st.plain() || r.written > 0) {
		s.wrote = true
		if st.ddl {
			c.index.forget()
		}
	}
	if err == nil && st.settles(c.inTx) {
		s.db.remember(st.pragma, st.value)
	}
	if r.open {
		if s.rows == nil {
			s.rows = map[*rows]struct{}{}
		}
		s.rows[r] = struct{}{}
	}
	return err
}

// errView refuses to write in a view.
var errView = &storage.SQLError{
	Code: "SQLITE_READONLY", Offset: -1, Message: "attempt to write in a view",
	Hint: "a method marked NO_SIDE_EFFECTS only reads: take the mark away, or write in another method",
}

// checked runs a statement that may rename something, and undoes it when that
// took a reserved name: SQLite does not tell the new name beforehand.
func (s *session) checked(c *conn, run func() error) error {
	const count = "SELECT count(*) FROM sqlite_schema WHERE lower(substr(name, 1, 9)) = '" + storage.SQLReserved + "'"
	before, err := c.query(count)
	if err != nil {
		return s.failed(c, err, "")
	}
	if err := c.internal("SAVEPOINT checked"); err != nil {
		return s.failed(c, err, "")
	}
	err = run()
	end := "RELEASE checked"
	if s.broken == nil && err == nil {
		after, qerr := c.query(count)
		if qerr != nil {
			return s.failed(c, qerr, "")
		}
		if after != before && !c.guard.reserved {
			err = reservedName("a name")
			end = "ROLLBACK TO checked; " + end
		}
	}
	if c.inTx {
		if ierr := c.internal(end); ierr != nil {
			return s.failed(c, ierr, "")
		}
	}
	return err
}

// begin makes sure that there is a transaction, and savepoints for all levels.
func (s *session) begin(c *conn) error {
	if !c.inTx {
		if err := c.transaction(&c.begin, "BEGIN"); err != nil {
			return s.failed(c, err, "")
		}
		c.inTx, s.marked = true, 0
	}
	for s.marked < s.depth {
		if err := c.internal("SAVEPOINT s" + strconv.Itoa(s.marked+1)); err != nil {
			return s.failed(c, err, "")
		}
		s.marked++
	}
	return nil
}

// failed makes an error of what SQLite returned, and breaks the session when the
// transaction is gone, or the time of the turn is over.
func (s *session) failed(c *conn, err error, text string) error {
	err = c.failed(err, text)
	if c.inTx && c.lite.GetAutocommit() {
		c.inTx, s.marked, s.wrote = false, 0, true // whether or not something was
		c.file.pages.rollback()
		s.breaks(err)
	}
	if c.intr.err != nil && c.intr.turnOver() {
		s.breaks(err)
	}
	return err
}

// Savepoint implements [storage.SQLSession].
func (s *session) Savepoint() error {
	s.lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.depth++
	return nil
}

// Release implements [storage.SQLSession].
func (s *session) Release(undo bool) error {
	s.lock()
	defer s.mu.Unlock()
	s.depth--
	if err := s.usable(); err != nil {
		return err
	}
	c := s.conn
	if c == nil || s.marked <= s.depth {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.guarded(c, func() error {
		name := "s" + strconv.Itoa(s.marked)
		s.marked--
		text := "RELEASE " + name
		if undo {
			text = "ROLLBACK TO " + name + "; " + text
			c.index.forget()
		}
		c.intr = interrupter{}
		if err := c.internal(text); err != nil {
			err = s.failed(c, err, "")
			s.breaks(err)
			return err
		}
		return nil
	})
}

// Size implements [storage.SQLSession].
func (s *session) Size(ctx context.Context) (size int64, err error) {
	err = s.do(ctx, func(c *conn) error {
		pages, err := c.query("PRAGMA page_count")
		if err != nil {
			return s.failed(c, err, "")
		}
		free, err := c.query("PRAGMA freelist_count")
		if err != nil {
			return s.failed(c, err, "")
		}
		size = (pages - free) * int64(c.file.pages.size)
		return nil
	})
	return size, err
}

// Vacuum implements [storage.SQLSession].
func (s *session) Vacuum(ctx context.Context) error {
	return s.do(ctx, func(c *conn) error {
		if !s.write {
			return errView
		}
		if c.inTx || s.depth > 0 {
			return &storage.SQLError{
				Code: "SQLITE_MISUSE", Offset: -1, Message: "cannot vacuum from within a transaction",
				Hint: "vacuum before the first SQL statement of the turn that writes, or right after Sync, and not inside a savepoint",
			}
		}
		s.closeRows(errRebuilt)
		s.rewrote, s.wrote = true, true
		if err := c.internal("VACUUM"); err != nil {
			err = s.failed(c, err, "")
			s.breaks(err) // part of it may be written
			return err
		}
		return nil
	})
}

// Wipe implements [storage.SQLSession]. It reads nothing, so that a database
// that cannot be read can be deleted.
func (s *session) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connection()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.closeRows(errRebuilt)
	c.shut()
	c.file.pages.wipe()
	c.loaded, c.inTx, s.marked = true, false, 0
	s.rewrote, s.wrote, s.broken = true, true, nil
	s.db.pragmas = nil
	s.db.trim(func(other *conn) bool { return !other.main })
}

// errRebuilt ends the cursors that are open when the database is made anew.
var errRebuilt = &storage.SQLError{Code: "SQLITE_ABORT", Message: "the database was rebuilt or deleted while its rows were read", Offset: -1}

// Wrote implements [storage.SQLSession].
func (s *session) Wrote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote
}

// Pending implements [storage.SQLSession].
func (s *session) Pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rewrote || s.write && s.conn != nil && s.conn.inTx
}

// Err implements [storage.SQLSession].
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

// Flush implements [storage.SQLSession].
func (s *session) Flush(b *storage.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil || s.conn == nil {
		return err
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.intr = interrupter{} // a commit that has begun is not cancelled
	c.file.pages.ctx = context.WithoutCancel(s.ctx)
	return s.guarded(c, func() error {
		if c.inTx {
			if err := c.transaction(&c.commit, "COMMIT"); err != nil {
				err = c.failed(err, "")
				c.nameForeignKey(err)
				s.wrote = true
				s.breaks(err)
				return err
			}
			c.inTx, s.marked = false, 0
		}
		s.rewrote = true
		puts, merges, drops := b.Put, b.Merge, b.Drop
		if err := c.file.pages.flush(b); err != nil {
			b.Put, b.Merge, b.Drop = puts, merges, drops
			err = readFailed(err)
			s.breaks(err)
			return err
		}
		s.settled = sync.NewCond(&s.mu)
		return nil
	})
}

// Settle implements [storage.SQLSession].
func (s *session) Settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	c := s.conn
	if c == nil {
		return
	}
	if err != nil {
		s.breaks(fmt.Errorf("sqlitedb: what SQLite committed was not stored: %w", err))
		return
	}
	c.mu.Lock()
	c.file.pages.committed()
	c.mu.Unlock()
	s.wrote, s.rewrote = false, false
	s.seq = s.db.committed(c)
}

// Rollback implements [storage.SQLSession].
func (s *session) Rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	s.rollback()
}

func (s *session) rollback() {
	c := s.conn
	if c == nil || !s.write && len(s.rows) == 0 { // another view may have the connection
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.closeRows(errEnded)
	if c.inTx && c.lite != nil {
		c.intr = interrupter{}
		err := s.guarded(c, func() error {
			if c.lite.GetAutocommit() {
				return nil
			}
			return c.transaction(&c.rollback, "ROLLBACK")
		})
		if err != nil {
			c.doomed.Store(true)
		}
	}
	// SQLite believes what is not so.
	if s.rewrote {
		c.doomed.Store(true)
	}
	c.inTx, s.marked, s.wrote, s.rewrote = false, 0, false, false
	c.index.forget()
	c.file.pages.rollback()
}

// End implements [storage.SQLSession].
func (s *session) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.ended {
		return
	}
	s.ended = true
	c := s.conn
	if c == nil {
		return
	}
	if s.wrote || s.rewrote || s.write && c.inTx {
		s.rollback()
	} else if len(s.rows) > 0 {
		c.mu.Lock()
		s.closeRows(errEnded)
		c.mu.Unlock()
	}
	s.conn = nil
	s.db.release(c)
}

// closeRows closes what statements are open; who reads on gets err. The caller
// holds the lock of the connection.
func (s *session) closeRows(err error) {
	for r := range s.rows {
		r.err = err
		r.close()
	}
}
