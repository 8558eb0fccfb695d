package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	durable "github.com/durable-go/durable"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// The schema and the statements, the same for objects and files.
const (
	sqlSchema = `CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, count INTEGER NOT NULL, body TEXT NOT NULL);
		CREATE INDEX item_kind ON item (kind)`
	sqlLogSchema = `CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL)`
	sqlInsert    = `INSERT INTO log (body) VALUES (?) RETURNING id`
	sqlPoint     = `SELECT id, kind, body FROM item WHERE id = ?`
	sqlRange     = `SELECT id, kind, body FROM item WHERE id > ? ORDER BY id LIMIT 100`
	sqlUpdate    = `UPDATE item SET kind = ? WHERE id = ?`
	sqlCount     = `UPDATE item SET count = ? WHERE id = ?`
	sqlFill      = `INSERT INTO item (kind, count, body) VALUES (?, ?, ?)`

	sqlRows = 200 // of item, in each database
	sqlBulk = 1000
)

// sqlBody is the text of a row of about 130 bytes.
func sqlBody(i int64) string {
	return fmt.Sprintf(`{"id":%d,"name":"item %d","tags":["a","b","c"],"note":"%s"}`, i, i, strings.Repeat("x", 70))
}

// A sqlUser runs statements in one transaction on one database.
type sqlUser interface {
	exec(ctx context.Context, query string, args ...any) (rows int, err error)
}

// A sqlKind is one kind of transaction.
type sqlKind struct {
	name  string
	reads bool
	run   func(ctx context.Context, u sqlUser) error
	// big ones are measured for one object alone.
	big bool
}

func one(query string, args func() []any) func(context.Context, sqlUser) error {
	return func(ctx context.Context, u sqlUser) error {
		_, err := u.exec(ctx, query, args()...)
		return err
	}
}

func anItem() int64 { return 1 + rand.Int64N(sqlRows) }

var sqlKinds = []sqlKind{
	{name: "insert a row, returning its id", run: one(sqlInsert, func() []any { return []any{sqlBody(rand.Int64N(1000))} })},
	{name: "update an integer", run: one(sqlCount, func() []any { return []any{1<<29 + rand.Int64N(1<<29), anItem()} })},
	{name: "update an indexed integer", run: one(sqlUpdate, func() []any { return []any{rand.Int64N(sqlRows), anItem()} })},
	{name: "select a row by key", reads: true, run: one(sqlPoint, func() []any { return []any{anItem()} })},
	{name: "select 100 rows", reads: true, run: one(sqlRange, func() []any { return []any{rand.Int64N(sqlRows - 100)} })},
	{name: fmt.Sprintf("insert %d rows in one transaction", sqlBulk), big: true, run: func(ctx context.Context, u sqlUser) error {
		for i := range sqlBulk {
			if _, err := u.exec(ctx, sqlInsert, sqlBody(int64(i))); err != nil {
				return err
			}
		}
		return nil
	}},
}

func sqlSetUp(ctx context.Context, u sqlUser) error {
	for _, schema := range []string{sqlSchema, sqlLogSchema} {
		if _, err := u.exec(ctx, schema); err != nil {
			return err
		}
	}
	for i := range sqlRows {
		if _, err := u.exec(ctx, sqlFill, int64(i), int64(1<<29), sqlBody(int64(i))); err != nil {
			return err
		}
	}
	return nil
}

// A turnUser is the SQL of a turn.
type turnUser struct{ sql durable.SQL }

func (u turnUser) exec(ctx context.Context, query string, args ...any) (int, error) {
	cursor, err := u.sql.Exec(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, err := range cursor.Raw() {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// sqlObjects is a server whose objects run what is set at the moment.
type sqlObjects struct {
	engine    *pebblekv.Engine
	databases *sqlitedb.Engine
	server    *server.Server
	client    counterv1durable.CounterClient
	run       func(ctx context.Context, u sqlUser) error
}

func (o *sqlObjects) Add(ctx context.Context, tx counterv1durable.CounterTx, _ *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	return &counterv1.AddResponse{}, o.run(ctx, turnUser{tx.SQL()})
}

func (o *sqlObjects) Get(ctx context.Context, view counterv1durable.CounterView, _ *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	return &counterv1.GetResponse{}, o.run(ctx, turnUser{view.SQL()})
}

// allOpen keeps every connection open, as the files are.
var allOpen = sqlitedb.Options{MemoryBytes: 8 << 30, IdleTimeout: time.Hour}

func openSQLObjects(ctx context.Context, dir string, opts sqlitedb.Options) (*sqlObjects, error) {
	o := &sqlObjects{}
	var err error
	if o.engine, err = pebblekv.Open(dir, pebblekv.Options{}); err != nil {
		return nil, err
	}
	o.databases = sqlitedb.New(opts)
	if o.server, err = server.New(ctx, o.engine, server.WithSQL(o.databases)); err != nil {
		return nil, err
	}
	o.client = counterv1durable.NewCounterClient(o.server.Conn())
	return o, counterv1durable.RegisterCounter(o.server, func(context.Context, counterv1durable.CounterTx) (counterv1durable.CounterHandler, error) {
		return o, nil
	})
}

func (o *sqlObjects) close(ctx context.Context) {
	_ = o.server.Close(ctx)
	_ = o.databases.Close()
	_ = o.engine.Close()
}

// do runs a transaction on object i.
func (o *sqlObjects) do(ctx context.Context, i int, k sqlKind) error {
	stub := o.client.GetByName(objectName(i))
	if k.reads {
		_, err := stub.Get(ctx, &counterv1.GetRequest{})
		return err
	}
	_, err := stub.Add(ctx, &counterv1.AddRequest{})
	return err
}

func (o *sqlObjects) setUp(ctx context.Context, n int) error {
	o.run = sqlSetUp
	return each(n, func(i int) error { return o.do(ctx, i, sqlKind{}) })
}

// each calls f for 0 to n-1, 16 at a time.
func each(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	var once sync.Once
	var fail error
	for c := range 16 {
		wg.Go(func() {
			for i := c; i < n; i += 16 {
				if err := f(i); err != nil {
					once.Do(func() { fail = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return fail
}

// measureSQL measures SQL in objects beside SQLite files with the same library.
func measureSQL(ctx context.Context, s settings) error {
	fmt.Print("## SQL\n\nTransactions in process. An object's call goes through the stub, with its turn and the output gate. A file is one database\nfor each object, opened beforehand, in WAL mode, with the same library and settings; its callers wait for one another at\na lock. CPU is that of the process, callers included.\n\n")
	fmt.Println("| transaction | objects | callers | objects/s | CPU | WAL bytes | file FULL/s | CPU | ratio of CPU | ratio of rate | file NORMAL/s | CPU |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, n := range []int{1, 1000, 10_000} {
		if err := measureSQLWith(ctx, s, n); err != nil {
			return err
		}
	}
	fmt.Println()
	return measureSQLCosts(ctx, s)
}

// maxFiles is the most databases that are measured as files: more need more
// file descriptors than a process usually gets.
const maxFiles = 1000

func measureSQLWith(ctx context.Context, s settings, n int) error {
	o, err := openSQLObjects(ctx, filepath.Join(s.data, "sql"+strconv.Itoa(n)), allOpen)
	if err != nil {
		return err
	}
	defer o.close(ctx)
	if err := o.setUp(ctx, n); err != nil {
		return err
	}
	var files [2]*sqlFiles
	if n <= maxFiles {
		for i, mode := range []string{"FULL", "NORMAL"} {
			if files[i], err = openSQLFiles(filepath.Join(s.data, "files"+mode+strconv.Itoa(n)), mode, n); err != nil {
				return err
			}
			defer files[i].close()
			if err := files[i].setUp(ctx); err != nil {
				return err
			}
		}
	}
	for _, k := range sqlKinds {
		if !strings.Contains(k.name, s.match) || k.big && n > 1 {
			continue
		}
		for _, callers := range []int{1, 16, 64} {
			if n == 10_000 && callers == 16 {
				continue
			}
			o.run = k.run
			var ours, full, normal []measured
			var bytes float64
			for range s.rounds {
				before := o.engine.Metrics().WALBytes
				m, err := commits(callers, s.length, func(int) error { return o.do(ctx, rand.IntN(n), k) })
				if err != nil {
					return err
				}
				ours = append(ours, m)
				if !k.reads {
					bytes = float64(o.engine.Metrics().WALBytes-before) / (m.rate * s.length.Seconds())
				}
				for i, f := range files {
					if f == nil {
						continue
					}
					m, err := commits(callers, s.length, func(int) error { return f.do(ctx, rand.IntN(n), k) })
					if err != nil {
						return err
					}
					if i == 0 {
						full = append(full, m)
					} else {
						normal = append(normal, m)
					}
				}
			}
			m := median(ours)
			line := fmt.Sprintf("| %s | %d | %d | %.0f | %v | %.0f |", k.name, n, callers, m.rate, m.cpu, bytes)
			if full == nil {
				fmt.Println(line, "| | | | | |")
				continue
			}
			f, l := median(full), median(normal)
			fmt.Printf("%s %.0f | %v | %.2f | %.2f | %.0f | %v |\n", line, f.rate, f.cpu, float64(m.cpu)/float64(f.cpu), m.rate/f.rate, l.rate, l.cpu)
		}
	}
	return nil
}

// measureSQLCosts measures what connections cost.
func measureSQLCosts(ctx context.Context, s settings) error {
	const n = 1000
	o, err := openSQLObjects(ctx, filepath.Join(s.data, "sqlcosts"), allOpen)
	if err != nil {
		return err
	}
	defer o.close(ctx)
	if err := o.setUp(ctx, n); err != nil {
		return err
	}
	point := sqlKinds[3]
	o.run = point.run
	pass := func() (time.Duration, error) {
		began := cpuTime()
		for i := range n {
			if err := o.do(ctx, i, point); err != nil {
				return 0, err
			}
		}
		return (cpuTime() - began) / n, nil
	}
	// Evicted, so that connections are closed; the first call activates again.
	typ := o.client.GetByName("a").ObjectType()
	for i := range n {
		if _, err := o.server.Evict(ctx, typ, durable.IDFromName(typ, objectName(i))); err != nil {
			return err
		}
	}
	debug.FreeOSMemory()
	closed := residentBytes()
	cold, err := pass()
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	open := residentBytes()
	connections, counted := o.databases.Connections()
	warm, err := pass()
	if err != nil {
		return err
	}
	fmt.Print("| what | figure |\n| --- | --- |\n")
	fmt.Printf("| CPU of a call that activates its object, opens its database and selects a row | %v |\n", cold)
	fmt.Printf("| CPU of the same call when the connection is open | %v |\n", warm)
	fmt.Printf("| memory of an open connection, resident | %d KiB (the engine counts %d KiB) |\n", (open-closed)/1024/int64(connections), counted/1024/int64(connections))

	const selects = 20_000
	for _, k := range sqlKinds[3:5] {
		times := selects
		if k.name != point.name {
			times /= 20
		}
		var took time.Duration
		o.run = func(ctx context.Context, u sqlUser) error {
			began := cpuTime()
			for range times {
				if err := k.run(ctx, u); err != nil {
					return err
				}
			}
			took = cpuTime() - began
			return nil
		}
		if err := o.do(ctx, 1, k); err != nil {
			return err
		}
		fmt.Printf("| CPU of one statement inside a turn, warm: %s | %v |\n", k.name, took/time.Duration(times))
	}
	idle, err := measureSQLIdle(ctx, s)
	if err != nil {
		return err
	}
	fmt.Print(idle, "\n")
	return nil
}

// measureSQLIdle tells what is left of 10,000 objects that used SQL once, with
// the engine's own settings.
func measureSQLIdle(ctx context.Context, s settings) (string, error) {
	const n = 10_000
	o, err := openSQLObjects(ctx, filepath.Join(s.data, "sqlidle"), sqlitedb.Options{})
	if err != nil {
		return "", err
	}
	defer o.close(ctx)
	files := openFiles()
	o.run = func(ctx context.Context, u sqlUser) error {
		_, err := u.exec(ctx, sqlLogSchema)
		return err
	}
	began := time.Now()
	if err := each(n, func(i int) error { return o.do(ctx, i, sqlKind{}) }); err != nil {
		return "", err
	}
	took := time.Since(began)
	during, bytes := o.databases.Connections()
	after := during
	for wait := time.Now(); after > 0 && time.Since(wait) < 30*time.Second; {
		time.Sleep(time.Second)
		after, _ = o.databases.Connections()
	}
	return fmt.Sprintf("| connections open when %d objects had used SQL once, in %v | %d (%d MiB) |\n"+
		"| the same after the idle timeout of 10 s | %d, and %d more file descriptors than before |\n",
		n, took.Round(time.Millisecond), during, bytes>>20, after, openFiles()-files), nil
}

// openFiles returns how many file descriptors the process has.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// residentBytes returns the memory that the process has in use.
func residentBytes() int64 {
	runtime.GC()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
