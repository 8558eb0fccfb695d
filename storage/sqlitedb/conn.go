package sqlitedb

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/durable-go/durable/storage"
)

// cacheKiB is how much of its database a connection keeps in its own cache.
const cacheKiB = 512

// grownBytes is the memory at which a connection is closed after its session:
// it never gives memory back otherwise.
const grownBytes = 8 << 20

// A conn is one connection to a database.
type conn struct {
	entry
	db   *database
	seq  uint64 // of the database, as of its last look at it
	main bool   // the one that writes
	// doomed is set when it is to be closed after the session, and used by no
	// other.
	doomed atomic.Bool

	mu     lock // held while SQLite runs, and guards the rest
	file   *file
	lite   *sqlite3.Conn
	linear reflect.Value // see linearMemory
	guard  guard
	intr   interrupter
	cache  cache
	index  indexes

	begin, commit, rollback *sqlite3.Stmt

	fts5   bool // full-text search was added
	loaded bool // the pages know what is stored
	inTx   bool // SQLite has a transaction open
}

// ensure opens what is not open yet, and makes a reading connection see what was
// committed up to seq. The caller holds mu.
func (c *conn) ensure(ctx context.Context, seq uint64) (err error) {
	p := &c.file.pages
	p.ctx = ctx
	if c.lite != nil && (c.main || c.seq == seq) {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = c.db.engine.panicked(v)
		}
		if err != nil {
			c.doomed.Store(true)
		}
	}()
	if !p.wiped && c.seq != seq || !c.loaded {
		if err := p.load(); err != nil {
			return readFailed(err)
		}
		c.loaded, c.seq = true, seq
	}
	if c.lite != nil {
		if _, err := c.lite.FileControl("main", sqlite3.FCNTL_RESET_CACHE); err != nil {
			return c.failed(err, "")
		}
		return nil
	}
	return c.connect()
}

// connect opens SQLite on the pages.
func (c *conn) connect() error {
	name := offer(c.file)
	defer opening.files.Delete(name)
	uri := "file:" + name + "?vfs=" + vfsName
	if !c.main {
		uri += "&mode=ro"
	}
	limit := max(c.db.limits.MemoryBytes, 1<<20)
	lite, err := sqlite3.OpenContext(sqlite3.WithMaxMemory(context.Background(), limit), uri)
	if err != nil {
		return c.failed(err, "")
	}
	c.lite, c.linear = lite, linearMemory(lite)
	configured := false
	defer func() {
		if !configured { // nobody may use it like that
			c.shut()
		}
	}()
	if err := c.configure(); err != nil {
		return c.failed(err, "")
	}
	configured = true
	return nil
}

func (c *conn) configure() error {
	l := &c.db.limits
	size := c.file.pages.size
	mode := "locking_mode=EXCLUSIVE"
	if !c.main {
		mode = "query_only=ON"
	}
	settings := fmt.Sprintf("PRAGMA cache_size=-%d; PRAGMA temp_store=MEMORY; PRAGMA synchronous=OFF; PRAGMA %s; PRAGMA journal_mode=MEMORY; PRAGMA max_page_count=%d",
		cacheKiB, mode, c.maxPages())
	if c.file.pages.count == 0 {
		settings = fmt.Sprintf("PRAGMA page_size=%d; ", size) + settings
	}
	if err := c.lite.Exec(settings); err != nil {
		return err
	}
	for _, set := range []struct {
		op sqlite3.DBConfig
		on bool
	}{
		{sqlite3.DBCONFIG_ENABLE_QPSG, true},
		{sqlite3.DBCONFIG_ENABLE_FKEY, true},
		{sqlite3.DBCONFIG_TRUSTED_SCHEMA, false},
		{sqlite3.DBCONFIG_DEFENSIVE, true},
	} {
		if _, err := c.lite.Config(set.op, set.on); err != nil {
			return err
		}
	}
	for pragma, value := range c.db.pragmas {
		if err := c.lite.Exec("PRAGMA " + pragma + "=" + value); err != nil {
			return err
		}
	}
	for _, limit := range []struct {
		id    sqlite3.LimitCategory
		value int
	}{
		{sqlite3.LIMIT_LENGTH, l.RowBytes},
		// The text is checked before SQLite sees it; triggers and views of
		// the schema, which are parsed again, must fit too.
		{sqlite3.LIMIT_SQL_LENGTH, max(l.StatementBytes, 1_000_000)},
		{sqlite3.LIMIT_VARIABLE_NUMBER, l.Parameters},
		{sqlite3.LIMIT_COLUMN, l.Columns},
		{sqlite3.LIMIT_COMPOUND_SELECT, l.CompoundTerms},
		{sqlite3.LIMIT_LIKE_PATTERN_LENGTH, l.LikeBytes},
		{sqlite3.LIMIT_TRIGGER_DEPTH, l.TriggerDepth},
		{sqlite3.LIMIT_EXPR_DEPTH, l.ExprDepth},
		{sqlite3.LIMIT_FUNCTION_ARG, l.FunctionArgs},
		{sqlite3.LIMIT_VDBE_OP, l.Instructions},
		{sqlite3.LIMIT_WORKER_THREADS, 0},
	} {
		c.lite.Limit(limit.id, limit.value)
	}
	c.lite.SetInterrupt(&c.intr)
	return c.lite.SetAuthorizer(c.guard.authorize)
}

// close ends the connection. The caller has seized it.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut()
	c.file.pages = pages{} // the database may still know the connection
}

// shut closes SQLite and keeps the pages. The caller holds mu.
func (c *conn) shut() {
	lite := c.lite
	if lite == nil {
		return
	}
	c.lite, c.cache, c.intr, c.index = nil, cache{}, interrupter{}, indexes{}
	c.begin, c.commit, c.rollback, c.fts5, c.linear = nil, nil, nil, false, reflect.Value{}
	for _, stmt := range slices.Collect(lite.Stmts()) {
		quietly(stmt.Close)
	}
	quietly(lite.Close)
}

// quietly closes something of SQLite's. It panics when the memory ran out
// before; after another panic its own memory may stay.
func quietly(end func() error) {
	defer func() { _ = recover() }()
	_ = end()
}

// memory returns about how many bytes the connection takes: the linear memory
// of its SQLite and the pages beside it.
func (c *conn) memory() int64 {
	const around = 64 << 10 // tables, stack, Go values
	if c.lite == nil {
		return around
	}
	images := (len(c.file.pages.images) + len(c.file.pages.spare)) * c.file.pages.size
	return int64(c.linear.Len()) + int64(images) + around
}

// linearMemory returns the linear memory of a connection, a slice that grows,
// which go-sqlite3 shows nowhere.
func linearMemory(lite *sqlite3.Conn) reflect.Value {
	v := reflect.ValueOf(lite)
	for _, field := range []string{"wrp", "Memory", "Buf"} {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		v = v.FieldByName(field)
	}
	return v
}

// An interrupter is the context that SQLite asks whether to go on: at every
// step, and every 1,000 instructions within one. Only now and then does it ask
// the real ones, and whether the session may go on. The zero value never stops.
type interrupter struct {
	stmt, turn context.Context
	live       func() error
	rows       *rows // whose steps these are, if it is known
	asked      uint
	err        error // why SQLite was stopped
}

// interruptEvery is how many questions one is passed on for.
const interruptEvery = 32

// reset sets what to ask for what runs next, and asks.
func (i *interrupter) reset(stmt, turn context.Context, live func() error) error {
	*i = interrupter{stmt: stmt, turn: turn, live: live}
	return i.look()
}

// resume is reset for the next step of a statement, which need not ask again
// where nothing else ran in between.
func (i *interrupter) resume(stmt, turn context.Context, live func() error, r *rows) error {
	if i.rows == r && i.err == nil {
		return nil
	}
	err := i.reset(stmt, turn, live)
	i.rows = r
	return err
}

func (i *interrupter) look() error {
	switch {
	case i.turn == nil:
		return nil
	case i.turn.Err() != nil:
		i.err = context.Cause(i.turn)
	case i.stmt != i.turn && i.stmt.Err() != nil: // those of turns can be compared
		i.err = context.Cause(i.stmt)
	default:
		i.err = i.live()
	}
	return i.err
}

// turnOver reports whether the turn was stopped, and not the statement alone.
func (i *interrupter) turnOver() bool {
	return i.turn != nil && (i.turn.Err() != nil || i.live() != nil)
}

func (i *interrupter) Err() error {
	if i.asked++; i.asked%interruptEvery != 0 {
		return nil
	}
	return i.look()
}

func (i *interrupter) Deadline() (time.Time, bool) { return time.Time{}, false }
func (i *interrupter) Done() <-chan struct{}       { return nil }
func (i *interrupter) Value(any) any               { return nil }

// internal runs a statement of ours.
func (c *conn) internal(sql string) error {
	c.guard.internal = true
	defer func() { c.guard.internal = false }()
	return c.lite.Exec(sql)
}

// transaction runs one of the statements that begin and end transactions.
func (c *conn) transaction(stmt **sqlite3.Stmt, sql string) error {
	c.guard.internal = true
	defer func() { c.guard.internal = false }()
	if *stmt == nil {
		var err error
		if *stmt, _, err = c.lite.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT); err != nil {
			return err
		}
	}
	return (*stmt).Exec()
}

// query returns the single value of an internal query.
func (c *conn) query(sql string) (int64, error) {
	c.guard.internal = true
	defer func() { c.guard.internal = false }()
	stmt, _, err := c.lite.Prepare(sql)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stmt.Close() }()
	if !stmt.Step() {
		return 0, stmt.Err()
	}
	return stmt.ColumnInt64(0), nil
}

// readFailed is the error of a read outside of SQLite.
func readFailed(err error) error {
	return &storage.SQLError{Code: "SQLITE_IOERR_READ", Message: "the database cannot be read", Offset: -1, Err: err}
}
