package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
)

type settings struct {
	program       string // that serves
	length, ahead time.Duration
	seed          uint64
	data          string
	clients       int
}

// A torture is one run.
type torture struct {
	settings
	victim   *victim
	conn     durable.Conn
	repeated atomic.Int64 // calls that were made again

	mu struct {
		sync.Mutex
		violations []string
	}
}

// A load is one kind of work.
type load interface {
	// step makes an operation, for one of several callers at once. It ends when
	// the outcome is known, or cannot be.
	step(ctx context.Context, c *client)
	// check compares what is stored with what the callers know. Nothing else goes
	// on, and nobody kills.
	check(ctx context.Context)
	// report tells what was done; empty where that was nothing.
	report() string
}

// patience is how long after the last kill everything must have been answered, and
// how long it may take to look at what is stored.
const patience = 30 * time.Second

// errViolations is what a run ends with that found something.
var errViolations = errors.New("what was promised was not kept")

// run tortures a server and writes what came of it.
func run(ctx context.Context, s settings, out io.Writer) (err error) {
	if s.clients < 8 || s.length <= 0 || s.ahead <= 0 {
		return errors.New("there must be 8 clients or more, and -length and -ahead must be positive")
	}
	if s.data == "" {
		if s.data, err = os.MkdirTemp("", "durable-torture-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(s.data)
			}
		}()
	} else if err := os.MkdirAll(s.data, 0o750); err != nil {
		return err
	}
	if _, err := os.Stat(storeIn(s.data)); err == nil {
		return fmt.Errorf("-data: the folder %s has the store of another run", s.data)
	}
	defer func() {
		if err != nil {
			fmt.Fprintf(out, "The data and the log of the server are in %s. The seed was %d.\n", s.data, s.seed)
		}
	}()
	log, err := os.OpenFile(filepath.Join(s.data, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	t := &torture{settings: s, victim: &victim{program: s.program, folder: s.data, log: log}}
	transport := &http.Transport{DialContext: t.victim.dial, MaxIdleConnsPerHost: s.clients + checkers}
	defer transport.CloseIdleConnections()
	t.conn = durableconnect.New(&http.Client{Transport: transport}, "http://victim")
	return t.run(ctx, out)
}

func (t *torture) run(ctx context.Context, out io.Writer) error {
	loads := []load{newCells(t), newCounters(t), newBank(t), newAlarms(t)}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range t.clients {
		l := loads[clientLoads[i%len(clientLoads)]]
		c := &client{Rand: rand.New(rand.NewPCG(t.seed, uint64(i))), id: i}
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					l.step(ctx, c)
				}
			}
		})
	}
	last, err := t.victim.torment(t.length, rand.New(rand.NewPCG(t.seed, ^uint64(0))))
	close(stop)
	if err != nil {
		giveUp()
		callers.Wait()
		return err
	}
	defer last.kill()
	enough := time.AfterFunc(patience, giveUp)
	callers.Wait()
	if !enough.Stop() {
		return t.conclude(loads, out)
	}
	for _, l := range loads {
		checking, cancel := context.WithTimeout(ctx, patience+t.ahead)
		l.check(checking)
		cancel()
	}
	return t.conclude(loads, out)
}

// clientLoads says which load each client makes, in groups of that many.
var clientLoads = [...]int{0, 1, 0, 2, 0, 3, 0, 2}

func (t *torture) conclude(loads []load, out io.Writer) error {
	v := t.victim
	fmt.Fprintf(out, "%-10s%d in %v, %d of them while the server started; %d calls made again\n", "kills", v.kills, t.length, v.killsStarting, t.repeated.Load())
	idle := v.kills == 0
	for _, l := range loads {
		report := l.report()
		idle = idle || report == ""
		fmt.Fprint(out, report)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.mu.violations); n > 0 {
		const shown = 20
		fmt.Fprintf(out, "%d VIOLATIONS, of which:\n  %s\n", n, strings.Join(t.mu.violations[:min(n, shown)], "\n  "))
		return errViolations
	}
	if idle {
		return errors.New("nothing was proved: there were no kills, or a kind of operation was never answered; make -length longer")
	}
	fmt.Fprintln(out, "no violations")
	return nil
}

func (t *torture) violated(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.violations = append(t.mu.violations, fmt.Sprintf(format, args...))
}

// checkers is how many checks go on at once.
const checkers = 8

// each runs fn for every one of all, several at once.
func each[T any](all []T, fn func(T)) {
	var wg sync.WaitGroup
	next := make(chan T)
	for range checkers {
		wg.Go(func() {
			for one := range next {
				fn(one)
			}
		})
	}
	for _, one := range all {
		next <- one
	}
	close(next)
	wg.Wait()
}
