package actor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/storage/memkv"
)

// TestConnStress (WISH-08, WS-17, WS-45): messages flow both ways on 200
// connections while their objects are evicted at random moments. Each peer gets
// an answer to each of its messages and every broadcast of its object, in order,
// none lost and none twice.
func TestConnStress(t *testing.T) {
	const objects, peersEach = 4, 50
	lasts := 4 * time.Second
	if testing.Short() {
		lasts = time.Second
	}
	var news atomic.Int64
	h := newTestHost(t, join(t, memkv.New(memkv.Options{CommitDelay: 300 * time.Microsecond})), durable.Limits{},
		func(context.Context, durable.Tx) (any, error) { news.Add(1); return &counter{}, nil })
	rng := rand.New(rand.NewPCG(seed(t), 0))
	var closed atomic.Int64
	const procedure = "/test.Service/Join"
	m := joinMethod(&durable.ConnectionMethod{
		Open: func(context.Context, any, durable.Tx, durable.ConnPort, proto.Message) error { return nil },
		Message: func(ctx context.Context, _ any, tx durable.Tx, conn durable.ConnPort, req proto.Message) error {
			text := req.(*wrapperspb.StringValue).GetValue()
			want, _ := strconv.Atoi("0" + attached(t, conn))
			if got, err := strconv.Atoi(text); got != want+1 || err != nil {
				t.Errorf("a handler got message %s after %d", text, want)
			}
			if want%3 == 0 {
				if err := tx.KV().Put(ctx, "k", []byte(text)); err != nil {
					return err
				}
			}
			if err := conn.SetAttachment(wrapperspb.String(text)); err != nil {
				return err
			}
			return sendText(conn, "echo "+text)
		},
		Close: func(context.Context, any, durable.Tx, durable.ConnPort, error) error { closed.Add(1); return nil },
	})
	// broadcast sends the next number of the object to all of its connections.
	broadcast := func(ctx context.Context, _ *counter, tx durable.Tx) error {
		val, _, err := tx.KV().Get(ctx, "n")
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi("0" + string(val))
		msg := &durable.ConnMessage{Message: wrapperspb.String(fmt.Sprint("all ", n+1))}
		for conn := range tx.ConnsPort().Conns(procedure, nil) {
			if err := conn.Send(msg); err != nil {
				return err
			}
		}
		return tx.KV().Put(ctx, "n", []byte(strconv.Itoa(n+1)))
	}

	peers := make([]*testPeer, objects*peersEach)
	key := func(i int) string { return fmt.Sprint("room ", i%objects) }
	for i := range peers {
		peers[i] = newTestPeer()
		h.hold(key(i), m, peers[i])
	}
	eventually(t, "every connection is open", func() bool { return h.Connections() == len(peers) })

	stop := make(chan struct{})
	time.AfterFunc(lasts, func() { close(stop) })
	over := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	sent := make([]int, len(peers))
	broadcasts := make([]int, objects)
	var all sync.WaitGroup
	for i, p := range peers {
		pause := rand.New(rand.NewPCG(rng.Uint64(), 0))
		all.Go(func() {
			for !over() {
				sent[i]++
				p.say(strconv.Itoa(sent[i]))
				if pause.IntN(4) == 0 {
					time.Sleep(time.Duration(pause.IntN(10)) * time.Millisecond)
				}
			}
		})
	}
	for i := range objects {
		pause := rand.New(rand.NewPCG(rng.Uint64(), 0))
		all.Go(func() {
			for !over() {
				if err := h.update(context.Background(), key(i), broadcast); err != nil {
					t.Errorf("broadcast: %v", err)
					return
				}
				broadcasts[i]++
				time.Sleep(time.Duration(pause.IntN(4)) * time.Millisecond)
			}
		})
	}
	for range 2 {
		pause := rand.New(rand.NewPCG(rng.Uint64(), 0))
		all.Go(func() {
			for !over() {
				if _, err := h.Evict(context.Background(), h.typ, durable.IDFromName("counter", key(pause.IntN(objects)))); err != nil {
					t.Errorf("evict: %v", err)
					return
				}
				time.Sleep(time.Duration(pause.IntN(3000)) * time.Microsecond)
			}
		})
	}
	all.Wait()
	for i, p := range peers {
		want := sent[i] + broadcasts[i%objects]
		eventually(t, fmt.Sprintf("peer %d has %d messages", i, want), func() bool { return len(p.received()) >= want })
		echoes, alls := 0, 0
		for _, text := range p.received() {
			kind, number, _ := strings.Cut(text, " ")
			n, last := &echoes, "an answer"
			if kind == "all" {
				n, last = &alls, "a broadcast"
			}
			if *n++; strconv.Itoa(*n) != number {
				t.Fatalf("peer %d received number %s as %s, want %d", i, number, last, *n)
			}
		}
		if echoes != sent[i] || alls != broadcasts[i%objects] {
			t.Errorf("peer %d received %d answers and %d broadcasts, want %d and %d", i, echoes, alls, sent[i], broadcasts[i%objects])
		}
		close(p.requests)
	}
	for i, p := range peers {
		<-p.done
		if p.result != nil {
			t.Errorf("the connection of peer %d ended with %v", i, p.result)
		}
	}
	if n := closed.Load(); n != int64(len(peers)) {
		t.Errorf("the Close handler ran %d times for %d connections", n, len(peers))
	}
	total := 0
	for _, n := range sent {
		total += n
	}
	t.Logf("%d messages, %d broadcasts, %d activations", total, broadcasts, news.Load())
	if news.Load() < 3*objects {
		t.Errorf("%d activations: too few evictions to show anything", news.Load())
	}
	if n := h.Connections(); n != 0 {
		t.Errorf("%d connections are counted after the end", n)
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not after 20 seconds: %s", what)
		}
	}
}
