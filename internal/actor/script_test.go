package actor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage"
	"github.com/durable-go/durable/storage/memkv"
)

// TestScripts runs the scripts of testdata, each in a bubble of virtual time.
//
// A script starts hosts, calls objects and moves the clock. What the handlers
// do is in the script too, one step a line; see [interp.step]. The trace shows
// the time since the host started, then who did what. Lines of one instant are
// put in a fixed order: what ran in turns first, object by object, then what
// happened outside of turns, call by call. Flag -rewrite renews the traces.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{t: t}
				defer w.stop()
				datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
					return w.command(t, d)
				})
			})
		})
	}
}

// A world is what a script acts on.
type world struct {
	t     *testing.T
	store *memkv.Store
	host  *Host
	typ   *Type
	start time.Time
	other storage.Session // of a second node, if there is one

	mu struct {
		sync.Mutex
		lines       []line
		calls       int
		running     map[string]*caller
		constructor map[string][]step // by key
		constructed map[string]int
		names       []string // replacements of ids by keys
	}
}

// A caller is one end of a call that has not ended.
type caller struct {
	cancel context.CancelFunc
	in     chan string // to a stream
}

// A line of the trace.
type line struct {
	at      time.Duration
	key     string // of the object; empty outside of turns
	shared  bool
	seq     int // of the call
	who     string
	text    string
	outside bool
}

func (w *world) log(l line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.at = time.Since(w.start)
	w.mu.lines = append(w.mu.lines, l)
}

// trace returns what was logged since it was last called.
func (w *world) trace() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.mu.lines
	w.mu.lines = nil
	slices.SortStableFunc(lines, func(a, b line) int {
		switch {
		case a.at != b.at:
			return int(min(max(a.at-b.at, -1), 1))
		case a.outside != b.outside && a.outside:
			return 1
		case a.outside != b.outside:
			return -1
		case a.outside && a.seq != b.seq:
			return a.seq - b.seq
		case a.outside:
			return strings.Compare(a.who, b.who)
		}
		return strings.Compare(a.key, b.key)
	})
	// Views run together: within a run of them the order means nothing.
	for i := 0; i < len(lines); {
		j := i + 1
		for ; j < len(lines) && lines[j].at == lines[i].at && lines[j].key == lines[i].key &&
			lines[i].shared && lines[j].shared && !lines[j].outside; j++ {
		}
		slices.SortStableFunc(lines[i:j], func(a, b line) int { return a.seq - b.seq })
		i = j
	}
	var b strings.Builder
	r := strings.NewReplacer(w.mu.names...)
	for _, l := range lines {
		fmt.Fprintf(&b, "%v %s %s\n", l.at, l.who, r.Replace(l.text))
	}
	return b.String()
}

// stop ends everything that still runs.
func (w *world) stop() {
	if w.store == nil {
		return
	}
	w.store.Fill(false)
	w.store.Resume()
	w.mu.Lock()
	for _, r := range w.mu.running {
		r.cancel()
	}
	w.mu.Unlock()
	time.Sleep(time.Hour)
	synctest.Wait()
	w.mu.Lock()
	for name := range w.mu.running {
		w.t.Errorf("call %s never ended", name)
	}
	w.mu.Unlock()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *world) id(key string) durable.ID { return durable.IDFromName("room", key) }

// open starts a host on the store.
func (w *world) open(limits durable.Limits) error {
	limits = patient(limits)
	session, err := w.store.Join(context.Background(), storage.Node{ID: "n1"})
	if err != nil {
		return err
	}
	info, err := w.store.Info(context.Background())
	if err != nil {
		return err
	}
	w.host, err = NewHost(context.Background(), info, session, Options{Conn: fakeConn{w}})
	if err != nil {
		return err
	}
	w.typ, err = w.host.Register(context.Background(), &durable.ObjectType{
		Name: "room", New: w.construct, Limits: limits.WithDefaults(),
	})
	return err
}

// A fakeConn carries calls between objects of one host. Errors arrive as text,
// as they would over a network.
type fakeConn struct{ w *world }

func (c fakeConn) CallUnary(ctx context.Context, call *durable.Call, req, res proto.Message) error {
	name, _ := call.Object.Name()
	c.w.knows(name)
	err := c.w.host.Unary(ctx, Call{
		Type: c.w.typ, Method: writeMethod, ID: call.Object.ID(), Name: name, Bytes: int64(proto.Size(req)),
	}, proto.Clone(req), res)
	if err != nil {
		return errors.New(err.Error())
	}
	return nil
}

func (c fakeConn) OpenStream(context.Context, *durable.Call) (durable.ClientStreamPort, error) {
	return nil, errors.New("this connection carries no streams")
}

// knows makes traces show the key in place of the id.
func (w *world) knows(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.names = append(w.mu.names, w.id(key).String(), key)
}

// begin starts a call in the background.
func (w *world) begin(name string, call func(ctx context.Context, seq int, in chan string) (string, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &caller{cancel: cancel, in: make(chan string, 100)}
	w.mu.Lock()
	w.mu.calls++
	seq := w.mu.calls
	if w.mu.running[name] != nil {
		w.t.Errorf("two calls with the name %s", name)
	}
	w.mu.running[name] = r
	w.mu.Unlock()
	go func() {
		defer cancel()
		answer := "ended its goroutine"
		defer func() {
			w.mu.Lock()
			delete(w.mu.running, name)
			w.mu.Unlock()
			if v := recover(); v != nil {
				answer = fmt.Sprintf("PANICS out of the host: %v", v)
			}
			w.log(line{seq: seq, outside: true, who: name, text: answer})
		}()
		reply, err := call(ctx, seq, r.in)
		answer = strings.TrimSpace("answered " + reply)
		if err != nil {
			answer = "failed: " + err.Error()
			if errors.Is(err, durable.ErrReset) && !strings.Contains(answer, durable.ErrReset.Error()) {
				answer += " (reset)"
			}
		}
	}()
}

// A fakePort is a stream whose other end is the script.
type fakePort struct {
	w    *world
	ctx  context.Context
	seq  int
	name string
	in   chan string

	interrupted chan struct{}
}

func (p fakePort) Send(msg proto.Message) error {
	p.w.log(line{seq: p.seq, outside: true, who: p.name, text: "sent " + msg.(*wrapperspb.StringValue).GetValue()})
	return nil
}

func (p fakePort) Interrupt() { close(p.interrupted) }

func (p fakePort) Receive(msg proto.Message) error {
	select {
	case <-p.interrupted:
		return durable.ErrStreamDrained
	case text := <-p.in:
		proto.Merge(msg, wrapperspb.String(text))
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// command runs one command of a script.
func (w *world) command(t *testing.T, d *datadriven.TestData) string {
	arg := func(key string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) == 1 {
				return a.Vals[0]
			}
		}
		return ""
	}
	first := ""
	if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
		first = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "host": // on a new store
		w.stop()
		w.store = memkv.New(memkv.Options{Lease: duration(arg("lease")), CommitDelay: duration(arg("delay"))})
		w.start = time.Now()
		w.mu.lines, w.mu.calls = nil, 0
		w.mu.running = map[string]*caller{}
		w.mu.constructor = map[string][]step{}
		w.mu.constructed = map[string]int{}
		calls, _ := strconv.Atoi(arg("max-calls"))
		bytes, _ := strconv.ParseInt(arg("max-bytes"), 10, 64)
		if err := w.open(durable.Limits{
			MaxQueuedCalls: calls, MaxQueuedBytes: bytes, MaxQueueWait: duration(arg("max-wait")),
			HandlerTimeout: duration(arg("timeout")),
		}); err != nil {
			t.Fatal(err)
		}
	case "restart": // a new host on the old store
		if err := w.open(durable.Limits{}); err != nil {
			return err.Error()
		}
	case "constructor": // what the constructor does from now on
		steps, _, err := parse(strings.Split(d.Input, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.mu.constructor[first] = steps
		w.mu.Unlock()
	case "call", "view", "stream":
		return w.call(d)
	case "push": // a message to a stream
		w.mu.Lock()
		r := w.mu.running[first]
		w.mu.Unlock()
		r.in <- d.Input
	case "cancel":
		w.mu.Lock()
		r := w.mu.running[first]
		w.mu.Unlock()
		if r == nil {
			return "no call " + first
		}
		r.cancel()
	case "advance":
		time.Sleep(duration(first))

	// The store.
	case "pause":
		w.store.Pause()
	case "resume":
		w.store.Resume()
	case "crash":
		w.store.Crash()
	case "cut":
		w.store.Cut("n1")
	case "heal":
		landed, refused := w.store.Heal("n1")
		return fmt.Sprintf("landed %d, refused %d\n%s", landed, refused, w.trace())
	case "lose-ack":
		w.store.LoseAck("n1")
	case "resend": // the latest commit of an object's shard
		id := storage.ObjectID{Type: w.typ.id, ID: w.id(first)}
		return fmt.Sprintf("let in: %v\n", w.store.Resend(w.host.shards[id.Shard()].shard.Load().Shard))
	case "fill":
		w.store.Fill(true)
	case "free":
		w.store.Fill(false)
	case "claim": // by another node
		var err error
		w.other, err = w.store.Join(context.Background(), storage.Node{ID: "n2"})
		if err != nil {
			return err.Error()
		}
		id := storage.ObjectID{Type: w.typ.id, ID: w.id(first)}
		got, err := w.other.Claim(context.Background(), []storage.ShardID{id.Shard()})
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("got %d\n", len(got))
	case "unclaim":
		if err := w.other.Leave(context.Background()); err != nil {
			return err.Error()
		}
	case "objects": // that exist
		var names []string
		for o, err := range w.host.session.Objects(context.Background(), storage.ObjectQuery{Type: w.typ.id}) {
			if err != nil {
				return err.Error()
			}
			names = append(names, o.Name)
		}
		return fmt.Sprintln(names)

	// The host.
	case "evict":
		w.begin("evict-"+first, func(ctx context.Context, _ int, _ chan string) (string, error) {
			was, err := w.host.Evict(ctx, w.typ, w.id(first))
			return strconv.FormatBool(was), err
		})
	case "drain":
		w.begin("drain", func(ctx context.Context, _ int, _ chan string) (string, error) {
			if limit := arg("for"); limit != "" {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration(limit))
				defer cancel()
			}
			return "", w.host.Drain(ctx)
		})
	case "stats":
		w.mu.Lock()
		n := len(w.mu.running)
		w.mu.Unlock()
		entries := 0
		for i := range w.host.table {
			entries += len(w.host.table[i].mu.objects)
		}
		return fmt.Sprintf("running %d, active %d, entries %d\n", n, w.host.Active(), entries)
	default:
		t.Fatalf("%s: no command %q", d.Pos, d.Cmd)
	}
	return w.trace()
}

// call starts a call. Its steps are the further arguments and then the input.
func (w *world) call(d *datadriven.TestData) string {
	var key, name, script string
	times := 1
	for _, a := range d.CmdArgs {
		value := strings.Join(a.Vals, " ")
		switch a.Key {
		case "key":
			key = value
		case "name":
			name = value
		case "times":
			times, _ = strconv.Atoi(value)
		default:
			script += a.Key + " " + value + "\n"
		}
	}
	script += d.Input
	w.knows(key)
	for i := range times {
		name := name
		if times > 1 {
			name += strconv.Itoa(i + 1)
		}
		w.begin(name, func(ctx context.Context, seq int, in chan string) (string, error) {
			req := wrapperspb.String(fmt.Sprintf("%s %d\n%s", name, seq, script))
			c := Call{Type: w.typ, Method: writeMethod, ID: w.id(key), Name: key, Bytes: int64(len(script))}
			var res wrapperspb.StringValue
			switch d.Cmd {
			case "view":
				c.Method = viewMethod
			case "stream":
				c.Method = streamMethod
				return "", w.host.Stream(ctx, c, fakePort{w, ctx, seq, name, in, make(chan struct{})}, req)
			}
			err := w.host.Unary(ctx, c, req, &res)
			return res.GetValue(), err
		})
		synctest.Wait() // calls come one after the other
	}
	return w.trace()
}

// duration parses a duration; none is 0.
func duration(s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}
