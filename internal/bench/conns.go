package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// The server's side.

// registerRooms registers objects whose connections echo. They leave memory soon.
func registerRooms(r durable.Registrar) error {
	room := &lab.Lab{Options: []durable.ObjectOption{durable.WithIdleTimeout(time.Second)}}
	room.Chat.JoinMessage = func(_ context.Context, _ labv1durable.ChatLabTx, conn labv1durable.ChatLabJoinConn, req *labv1.JoinRequest) error {
		return conn.Send(&labv1.JoinResponse{Text: req.GetText()})
	}
	return room.RegisterChat(r)
}

// bareUpgrader has the settings that package server uses.
var bareUpgrader = websocket.Upgrader{ReadBufferSize: 1 << 10, WriteBufferSize: 1088, WriteBufferPool: new(sync.Pool)}

// bareEcho is an echo of the WebSocket library alone.
func bareEcho(w http.ResponseWriter, r *http.Request) {
	ws, err := bareUpgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	go func() { // as package server, so that package http lets go of its own
		defer func() { _ = ws.Close() }()
		for {
			kind, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			if err := ws.WriteMessage(kind, data); err != nil {
				return
			}
		}
	}()
}

// memoryInUse returns the bytes of the heap and of the stacks that are in use after
// a collection, and those of the process that are in memory when it has given back
// what it does not use.
func memoryInUse() (heap, stacks, resident uint64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	statm, _ := os.ReadFile("/proc/self/statm")
	if fields := strings.Fields(string(statm)); len(fields) > 1 {
		pages, _ := strconv.ParseUint(fields[1], 10, 64)
		resident = pages * uint64(os.Getpagesize()) //nolint:gosec // positive
	}
	return m.HeapInuse, m.StackInuse, resident
}

// The clients' side.

const (
	idleConns      = 10_000
	idlePath       = "/-/name/room-%d/lab.v1.ChatLabService/Join"
	echoPath       = "/bare"
	protoProtocol  = "durable.v1.proto"
	broadcastBytes = 100
)

// measureConns measures connections over WebSockets.
func measureConns(ctx context.Context, s settings) error {
	fmt.Print("## Connections over WebSockets\n\n")
	if err := measureIdle(ctx, s); err != nil {
		return err
	}
	if err := measureRoundTrips(ctx, s); err != nil {
		return err
	}
	return measureBroadcasts(ctx, s)
}

// dial opens n WebSockets; the path of each is made with its number.
func dial(ctx context.Context, c *child, n int, path string, subprotocols ...string) ([]*websocket.Conn, error) {
	conns := make([]*websocket.Conn, n)
	dialer := &websocket.Dialer{Subprotocols: subprotocols, ReadBufferSize: 512, WriteBufferSize: 512}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range conns {
		g.Go(func() error {
			url := "ws" + strings.TrimPrefix(c.url, "http") + path
			if strings.Contains(path, "%d") {
				url = fmt.Sprintf(url, i)
			}
			ws, res, err := dialer.DialContext(ctx, url, nil)
			if err != nil {
				if res != nil {
					err = fmt.Errorf("%w: %s", err, res.Status)
				}
				return err
			}
			conns[i] = ws
			return nil
		})
	}
	return conns, g.Wait()
}

func hangUp(conns []*websocket.Conn) {
	for _, ws := range conns {
		if ws != nil {
			_ = ws.Close()
		}
	}
}

// measureIdle tells what an idle connection takes, of a sleeping object and of
// what is below it.
func measureIdle(ctx context.Context, s settings) error {
	fmt.Printf("| %d idle connections | heap, each | stacks, each | resident, each | goroutines, each | objects in memory |\n| --- | --- | --- | --- | --- | --- |\n", idleConns)
	for _, kind := range []struct {
		name string
		open func(c *child) (hold func(), err error)
	}{
		{"keep-alive HTTP/1.1, nothing under way", func(c *child) (func(), error) { return keepAlive(ctx, c, idleConns) }},
		{"WebSocket of the library alone", func(c *child) (func(), error) {
			conns, err := dial(ctx, c, idleConns, echoPath)
			return func() { hangUp(conns) }, err
		}},
		{"connection, each of an object of its own", func(c *child) (func(), error) {
			conns, err := dial(ctx, c, idleConns, idlePath, protoProtocol)
			for _, ws := range conns {
				if err == nil {
					err = talk(ws, encodeRequest("hello"))
				}
			}
			return func() { hangUp(conns) }, err
		}},
	} {
		c, err := start(storeDir(s) + "-conns")
		if err != nil {
			return err
		}
		var before, after stats
		if _, err = c.stats(ctx, true); err == nil { // twice: the first warms up what measures
			before, err = c.stats(ctx, true)
		}
		hold := func() {}
		if err == nil {
			hold, err = kind.open(c)
		}
		if err == nil {
			time.Sleep(3 * time.Second) // beyond the idle time of the objects
			after, err = c.stats(ctx, true)
		}
		hold()
		c.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		each := func(a, b uint64) float64 { return float64(int64(a-b)) / idleConns / 1024 } //nolint:gosec // a difference
		fmt.Printf("| %s | %.1f KiB | %.1f KiB | %.1f KiB | %.2f | %d |\n", kind.name, each(after.HeapInUse, before.HeapInUse), each(after.Stacks, before.Stacks), each(after.Resident, before.Resident),
			float64(after.Threads-before.Threads)/idleConns, after.Active)
	}
	fmt.Println()
	return nil
}

// keepAlive opens n HTTP connections, each of which was used once.
func keepAlive(ctx context.Context, c *child, n int) (func(), error) {
	transports := make([]*http.Transport, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range transports {
		transports[i] = &http.Transport{MaxIdleConns: 1}
		g.Go(func() error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/nothing", nil)
			if err != nil {
				return err
			}
			res, err := transports[i].RoundTrip(req)
			if err != nil {
				return err
			}
			var body bytes.Buffer
			_, err = body.ReadFrom(res.Body)
			return errors.Join(err, res.Body.Close())
		})
	}
	return func() {
		for _, t := range transports {
			t.CloseIdleConnections()
		}
	}, g.Wait()
}

// A frame is a message as it goes over a WebSocket.
type frame struct {
	kind int
	data []byte
}

func encodeRequest(text string) frame {
	data, err := proto.Marshal(&labv1.JoinRequest{Text: text})
	if err != nil {
		panic(err) // a message of two strings
	}
	return frame{websocket.BinaryMessage, data}
}

func encodeJSON(text string) frame {
	return frame{websocket.TextMessage, []byte(`{"text":"` + text + `"}`)}
}

// talk sends a message and reads one.
func talk(ws *websocket.Conn, f frame) error {
	if err := ws.WriteMessage(f.kind, f.data); err != nil {
		return err
	}
	_, _, err := ws.ReadMessage()
	return err
}

// measureRoundTrips compares a hot object with an echo of the library.
func measureRoundTrips(ctx context.Context, s settings) error {
	c, err := start(storeDir(s) + "-conns")
	if err != nil {
		return err
	}
	defer c.stop()
	text := strings.Repeat("x", broadcastBytes)
	kinds := []struct {
		name, path, protocol string
		frame                frame
	}{
		{"echo of the library", echoPath, "", encodeRequest(text)},
		{"hot object, binary", fmt.Sprintf(idlePath, 1), protoProtocol, encodeRequest(text)},
		{"hot object, JSON", fmt.Sprintf(idlePath, 2), "durable.v1.json", encodeJSON(text)},
	}
	fmt.Print("| round trip of 100 bytes | connections | p50 | p99 | round trips/s | CPU of the server, each | of the echo |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, n := range []int{1, 64} {
		figures := make([][]measured, len(kinds))
		for range s.rounds {
			for i, kind := range kinds {
				m, err := roundTrips(ctx, c, n, kind.path, kind.protocol, kind.frame, s.length)
				if err != nil {
					return fmt.Errorf("%s: %w", kind.name, err)
				}
				figures[i] = append(figures[i], m)
			}
		}
		echo := median(figures[0])
		for i, kind := range kinds {
			m := median(figures[i])
			fmt.Printf("| %s | %d | %v | %v | %.0f | %v | %.2f × |\n", kind.name, n, m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond),
				m.rate, m.cpu.Round(100*time.Nanosecond), float64(m.p50)/float64(echo.p50))
		}
	}
	fmt.Println()
	return nil
}

func roundTrips(ctx context.Context, c *child, n int, path, protocol string, f frame, length time.Duration) (measured, error) {
	var protocols []string
	if protocol != "" {
		protocols = append(protocols, protocol)
	}
	conns, err := dial(ctx, c, n, path, protocols...)
	defer hangUp(conns)
	if err != nil {
		return measured{}, err
	}
	before, err := c.stats(ctx, false)
	if err != nil {
		return measured{}, err
	}
	var mu sync.Mutex
	var all []time.Duration
	began := time.Now()
	end := began.Add(length)
	var g errgroup.Group
	for _, ws := range conns {
		g.Go(func() error {
			own := make([]time.Duration, 0, 1024)
			for t := time.Now(); t.Before(end); {
				if err := talk(ws, f); err != nil {
					return err
				}
				now := time.Now()
				own = append(own, now.Sub(t))
				t = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return measured{}, err
	}
	took := time.Since(began)
	after, err := c.stats(ctx, false)
	if err != nil {
		return measured{}, err
	}
	slices.Sort(all)
	return measured{
		rate: float64(len(all)) / took.Seconds(), p50: all[len(all)/2], p99: all[len(all)*99/100],
		cpu: (after.CPU - before.CPU) / time.Duration(len(all)),
	}, nil
}

// measureBroadcasts tells how long it takes until all peers have a message that
// one call sends to all of them.
func measureBroadcasts(ctx context.Context, s settings) error {
	fmt.Print("| broadcast of 100 bytes from one object | broadcasts | p50 of a peer | p99 | slowest | CPU of the server, each |\n| --- | --- | --- | --- | --- | --- |\n")
	for i, b := range []struct {
		peers, times int
		pause        time.Duration
	}{{1000, 100, 100 * time.Millisecond}, {10_000, 10, time.Second}} {
		c, err := start(storeDir(s) + "-conns")
		if err != nil {
			return err
		}
		all, cpu, err := broadcasts(ctx, c, 100+i, b.peers, b.times, b.pause)
		c.stop()
		if err != nil {
			return err
		}
		fmt.Printf("| %d peers | %d | %v | %v | %v | %v |\n", b.peers, b.times, all[len(all)/2].Round(10*time.Microsecond),
			all[len(all)*99/100].Round(10*time.Microsecond), all[len(all)-1].Round(10*time.Microsecond), (cpu / time.Duration(b.times)).Round(10*time.Microsecond))
	}
	fmt.Println()
	return nil
}

func broadcasts(ctx context.Context, c *child, room, peers, times int, pause time.Duration) (all []time.Duration, cpu time.Duration, err error) {
	name := fmt.Sprintf("room-%d", room)
	conns, err := dial(ctx, c, peers, fmt.Sprintf(idlePath, room), protoProtocol)
	defer hangUp(conns)
	if err != nil {
		return nil, 0, err
	}
	stub := labv1durable.NewChatLabClient(durableconnect.New(httpClient(false, 1), c.url)).GetByName(name)
	for n := int64(0); n < int64(peers); { // the last ones may be opening
		res, err := stub.Say(ctx, &labv1.SayRequest{Text: "", Tags: []string{"none"}})
		if err != nil {
			return nil, 0, err
		}
		who, err := stub.Who(ctx, &labv1.WhoRequest{})
		if err != nil {
			return nil, 0, err
		}
		n = int64(len(who.GetPeers())) + res.GetConnections()
	}
	before, err := c.stats(ctx, false)
	if err != nil {
		return nil, 0, err
	}
	text := strings.Repeat("x", broadcastBytes)
	began := make([]time.Time, times)
	took := make([][]time.Duration, peers)
	var g errgroup.Group
	for i, ws := range conns {
		g.Go(func() error {
			took[i] = make([]time.Duration, 0, times)
			for n := range times {
				if _, _, err := ws.ReadMessage(); err != nil {
					return err
				}
				took[i] = append(took[i], time.Since(began[n]))
			}
			return nil
		})
	}
	for n := range times {
		began[n] = time.Now() // before the peers can see it
		if _, err := stub.Say(ctx, &labv1.SayRequest{Text: text}); err != nil {
			return nil, 0, err
		}
		time.Sleep(time.Until(began[n].Add(pause)))
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	after, err := c.stats(ctx, false)
	if err != nil {
		return nil, 0, err
	}
	for _, own := range took {
		all = append(all, own...)
	}
	slices.Sort(all)
	return all, after.CPU - before.CPU, nil
}
