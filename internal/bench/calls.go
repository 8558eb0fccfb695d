package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/durable-go/durable/durableconnect"
	counterv1 "github.com/durable-go/durable/examples/counter/gen/counter/v1"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
)

// A figure is one line of the table: one kind of call, by one protocol, over so
// many objects, with so many callers.
type figure struct {
	protocol string
	callers  int
	objects  int // 0: the echo
	kind     string
	call     func(ctx context.Context, name string) error
	rounds   []measured
}

type measured struct {
	rate     float64 // calls a second
	p50, p99 time.Duration
	cpu      time.Duration // of the server, a call
	syncs    float64       // a call
	failed   int64
}

// measureCalls measures calls over the network beside the echo.
func measureCalls(ctx context.Context, s settings) error {
	c, err := start(storeDir(s))
	if err != nil {
		return err
	}
	defer c.stop()
	before, err := c.stats(ctx, true)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := c.get(ctx, fmt.Sprintf("/fill?objects=%d", s.objects), io.Discard); err != nil {
		return err
	}
	filled := time.Since(began)
	after, err := c.stats(ctx, true)
	if err != nil {
		return err
	}

	figures := slices.DeleteFunc(allFigures(c.url, s.objects), func(f *figure) bool {
		return f.objects > 0 && !strings.Contains(f.name(), s.match)
	})
	if s.profile != "" {
		if err := c.writeProfile(ctx, s, figures); err != nil {
			return err
		}
	}
	for range s.rounds {
		for _, f := range figures {
			m, err := c.measure(ctx, f, s.length)
			if err != nil {
				return err
			}
			f.rounds = append(f.rounds, m)
		}
	}

	fmt.Printf("## Calls\n\nMedian of %d rounds of %v each. CPU is that of the server process. Echo is a plain Connect handler\nin the same process.\n\n", s.rounds, s.length)
	fmt.Println("| protocol | callers | call | calls/s | of echo | p50 | p99 | CPU a call | of echo | fsyncs a call |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	var echo measured
	for _, f := range figures {
		m := median(f.rounds)
		if f.objects == 0 {
			echo = m
		}
		if m.failed > 0 {
			return fmt.Errorf("%s %s: %d calls failed", f.protocol, f.kind, m.failed)
		}
		fmt.Printf("| %s | %d | %s | %.0f | %.2f | %v | %v | %v | %.2f | %.3f |\n", f.protocol, f.callers, f.kind,
			m.rate, m.rate/echo.rate, m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond),
			m.cpu.Round(100*time.Nanosecond), float64(m.cpu)/float64(echo.cpu), m.syncs)
	}
	fmt.Printf("\n%d objects were made and kept in memory in %v by 256 callers in process: %d live bytes, %.5f goroutines and\n%.5f file descriptors each.\n\n",
		s.objects, filled.Round(time.Millisecond), (after.Heap-min(before.Heap, after.Heap))/uint64(max(1, after.Active)),
		float64(after.Threads-before.Threads)/float64(max(1, after.Active)), float64(after.Files-before.Files)/float64(max(1, after.Active)))
	return nil
}

func allFigures(url string, objects int) []*figure {
	var figures []*figure
	protocols := []struct {
		name string
		opts []connecthttp.Option
		h2   bool
	}{
		{"Connect JSON, HTTP/1.1", []connecthttp.Option{connecthttp.WithProtoJSON(), connecthttp.WithCompressors()}, false},
		{"gRPC, h2c", []connecthttp.Option{connecthttp.WithGRPC(), connecthttp.WithCompressors()}, true},
	}
	for _, p := range protocols {
		for _, callers := range []int{1, 16, 64, 256} {
			transport := connecthttp.NewTransport(httpClient(p.h2, callers), url, p.opts...)
			client := connect.NewClient(transport)
			counters := counterv1durable.NewCounterClient(durableconnect.NewClient(client))
			figures = append(figures, &figure{protocol: p.name, callers: callers, kind: "echo", call: func(ctx context.Context, name string) error {
				return client.CallUnary(ctx, connect.Spec{Procedure: echoProcedure}, &counterv1.AddRequest{Name: name, Delta: 1}, new(counterv1.AddResponse))
			}})
			for _, n := range []int{1, 1000, objects} {
				figures = append(figures,
					&figure{protocol: p.name, callers: callers, objects: n, kind: fmt.Sprintf("read, %d objects", n), call: func(ctx context.Context, name string) error {
						_, err := counters.GetByName(name).Get(ctx, &counterv1.GetRequest{Name: name})
						return err
					}},
					&figure{protocol: p.name, callers: callers, objects: n, kind: fmt.Sprintf("increment, %d objects", n), call: func(ctx context.Context, name string) error {
						_, err := counters.GetByName(name).Add(ctx, &counterv1.AddRequest{Name: name, Delta: 1})
						return err
					}},
				)
			}
		}
	}
	return figures
}

func httpClient(h2 bool, callers int) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Client{Transport: &http.Transport{
		Protocols:           protocols,
		MaxIdleConnsPerHost: callers,
		DisableCompression:  true,
	}}
}

func (f *figure) name() string { return fmt.Sprintf("%s/%d/%s", f.protocol, f.callers, f.kind) }

// writeProfile profiles the server process under the first figure that is not
// the echo.
func (c *child) writeProfile(ctx context.Context, s settings, figures []*figure) error {
	i := slices.IndexFunc(figures, func(f *figure) bool { return f.objects > 0 })
	if i < 0 {
		return errors.New("nothing to profile")
	}
	file, err := os.Create(s.profile)
	if err != nil {
		return err
	}
	go figures[i].load(ctx, 6*time.Second)
	err = c.get(ctx, "/debug/pprof/profile?seconds=5", file)
	time.Sleep(time.Second) // the end of the load
	return errors.Join(err, file.Close())
}

// measure runs one figure once.
func (c *child) measure(ctx context.Context, f *figure, length time.Duration) (measured, error) {
	f.load(ctx, length/5) // connections, caches
	before, err := c.stats(ctx, false)
	if err != nil {
		return measured{}, err
	}
	began := time.Now()
	latencies, failed := f.load(ctx, length)
	took := time.Since(began)
	after, err := c.stats(ctx, false)
	if err != nil {
		return measured{}, err
	}
	n := len(latencies)
	if n == 0 {
		return measured{}, fmt.Errorf("%s %s: no call succeeded", f.protocol, f.kind)
	}
	slices.Sort(latencies)
	return measured{
		rate:   float64(n) / took.Seconds(),
		p50:    latencies[n/2],
		p99:    latencies[n*99/100],
		cpu:    (after.CPU - before.CPU) / time.Duration(n),
		syncs:  float64(after.Syncs-before.Syncs) / float64(n),
		failed: failed,
	}, nil
}

// load makes calls for a while and returns how long each took.
func (f *figure) load(ctx context.Context, length time.Duration) (latencies []time.Duration, failed int64) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs atomic.Int64
	)
	end := time.Now().Add(length)
	for range f.callers {
		wg.Go(func() {
			own := make([]time.Duration, 0, 1024)
			for {
				began := time.Now()
				if began.After(end) {
					break
				}
				if err := f.call(ctx, objectName(rand.IntN(max(1, f.objects)))); err != nil {
					errs.Add(1)
					continue
				}
				own = append(own, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
		})
	}
	wg.Wait()
	return latencies, errs.Load()
}

// median returns the round with the median of each figure.
func median(rounds []measured) measured {
	return measured{
		rate:   middle(rounds, func(m measured) float64 { return m.rate }),
		p50:    middle(rounds, func(m measured) time.Duration { return m.p50 }),
		p99:    middle(rounds, func(m measured) time.Duration { return m.p99 }),
		cpu:    middle(rounds, func(m measured) time.Duration { return m.cpu }),
		syncs:  middle(rounds, func(m measured) float64 { return m.syncs }),
		failed: slices.MaxFunc(rounds, func(a, b measured) int { return int(a.failed - b.failed) }).failed,
	}
}

func middle[T int | float64 | time.Duration](rounds []measured, of func(measured) T) T {
	values := make([]T, 0, len(rounds))
	for _, m := range rounds {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func (c *child) stats(ctx context.Context, memory bool) (stats, error) {
	path := "/stats"
	if memory {
		path += "?memory"
	}
	var st stats
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(c.get(ctx, path, w)) }()
	err := json.NewDecoder(r).Decode(&st)
	_ = r.Close()
	return st, err
}

func (c *child) get(ctx context.Context, path string, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	_, err = io.Copy(w, res.Body)
	return err
}
