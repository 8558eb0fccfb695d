package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"golang.org/x/sync/errgroup"

	durable "github.com/durable-go/durable"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
)

// echoProcedure is the plain Connect handler beside the objects.
const echoProcedure = "/bench.v1.EchoService/Add"

// stats is what the server process tells of itself.
type stats struct {
	CPU     time.Duration // user and system time of the process so far
	Syncs   int64         // of the log, so far
	WAL     int64         // bytes written to the log so far
	Heap    uint64        // live bytes, after a collection
	Active  int           // objects in memory
	Threads int           // goroutines
	Files   int           // open file descriptors
	// Bytes in use after a collection, and what of the process is in memory.
	HeapInUse, Stacks, Resident uint64
}

// serveMain is the server process: objects, an echo and its own figures on one
// port.
func serveMain(data string) error {
	ctx := context.Background()
	engine, err := pebblekv.Open(data, pebblekv.Options{})
	if err != nil {
		return err
	}
	s, err := server.New(ctx, engine, server.WithFallback(fallback(engine)))
	if err != nil {
		return err
	}
	if err := counterv1durable.RegisterCounter(s, newCounter); err != nil {
		return err
	}
	if err := labv1durable.RegisterAlarmLab(s, newSleeper(nil)); err != nil {
		return err
	}
	if err := registerRooms(s); err != nil {
		return err
	}
	theServer.Store(s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", listener.Addr())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: s.Handler(), Protocols: protocols}
	return web.Serve(listener)
}

// fallback serves the echo, /stats and /fill.
func fallback(engine *pebblekv.Engine) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.Handle("/debug/pprof/heap", pprof.Handler("heap"))
	mux.Handle("/debug/pprof/goroutine", pprof.Handler("goroutine"))
	echo := connect.NewServer()
	echo.Register(connect.Method{
		Spec: connect.Spec{Procedure: echoProcedure},
		Handler: func(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
			var req counterv1.AddRequest
			if err := stream.Receive(&req); err != nil {
				return err
			}
			return stream.Send(&counterv1.AddResponse{Value: req.GetDelta()})
		},
	})
	connecthttp.Mount(mux, echo)
	mux.HandleFunc(echoPath, bareEcho)
	mux.HandleFunc("/stats", func(w http.ResponseWriter, r *http.Request) {
		m := engine.Metrics()
		st := stats{CPU: cpuTime(), Syncs: m.WALSyncs, WAL: m.WALBytes}
		if r.URL.Query().Has("memory") {
			runtime.GC()
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			st.Heap, st.Active, st.Threads = mem.HeapAlloc, theServer.Load().Active(), runtime.NumGoroutine()
			st.Files = openFiles()
			st.HeapInUse, st.Stacks, st.Resident = memoryInUse()
		}
		_ = json.NewEncoder(w).Encode(st)
	})
	mux.HandleFunc("/fill", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("objects"))
		if err := fill(r.Context(), n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// fill adds 1 to n counters, and so brings them into memory.
func fill(ctx context.Context, n int) error {
	client := counterv1durable.NewCounterClient(theServer.Load().Conn())
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(256)
	for i := range n {
		g.Go(func() error {
			_, err := client.GetByName(objectName(i)).Add(ctx, &counterv1.AddRequest{Delta: 1})
			return err
		})
	}
	return g.Wait()
}

func objectName(i int) string { return "object-" + strconv.Itoa(i) }

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// counter is the counter of the example, with its value as eight bytes.
type counter struct{}

func newCounter(context.Context, counterv1durable.CounterTx) (counterv1durable.CounterHandler, error) {
	return counter{}, nil
}

func (counter) Add(ctx context.Context, tx counterv1durable.CounterTx, req *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	return add(ctx, tx.KV(), req)
}

func (counter) Get(ctx context.Context, view counterv1durable.CounterView, _ *counterv1.GetRequest) (*counterv1.GetResponse, error) {
	value, err := load(ctx, view.KV())
	return &counterv1.GetResponse{Value: value}, err
}

func add(ctx context.Context, kv durable.KV, req *counterv1.AddRequest) (*counterv1.AddResponse, error) {
	value, err := load(ctx, kv)
	if err != nil {
		return nil, err
	}
	value += req.GetDelta()
	if err := kv.Put(ctx, "value", encode(value)); err != nil {
		return nil, err
	}
	return &counterv1.AddResponse{Value: value}, nil
}
