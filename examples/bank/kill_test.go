package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/durable-go/durable/durableconnect"
	bankv1 "github.com/durable-go/durable/examples/bank/gen/bank/v1"
	"github.com/durable-go/durable/examples/bank/gen/bank/v1/bankv1durable"
	"github.com/durable-go/durable/serve"
)

// TestMain lets the test binary be the server that the test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BANK_DATA"); dir != "" {
		err := serve.Run(context.Background(), "bank", []string{"--listen", "127.0.0.1:0", "--data", dir}, os.Stdout, os.Stderr, register)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestKill kills the server under load again and again, and checks that every
// deposit that was acknowledged is in the statement once, that one that was not
// is there at most once, and that transfers, asked for until they answer, move
// money without making or losing any. GATE-29, LIFE-10.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
	const (
		accounts = 4
		callers  = 8
		kills    = 4
	)
	ctx := t.Context()
	dir := t.TempDir()

	var mu sync.Mutex
	sent := map[string]int64{}        // reference → amount
	acknowledged := map[string]bool{} // reference
	transfers := map[string]*bankv1.TransferRequest{}

	for round := range kills {
		s := start(t, dir)
		conn := durableconnect.New(http.DefaultClient, s.url)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for caller := range callers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(round), uint64(caller)))
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("account-%d", rng.IntN(accounts))
					if i%4 == 3 {
						id := fmt.Sprintf("%d-%d-%d", round, caller, i)
						req := &bankv1.TransferRequest{From: name, To: fmt.Sprintf("account-%d", rng.IntN(accounts)), Amount: 1}
						if req.GetFrom() == req.GetTo() {
							continue
						}
						mu.Lock()
						transfers[id] = req
						mu.Unlock()
						_, _ = bankv1durable.NewTransferClient(conn).GetByName(id).Transfer(ctx, req)
						continue
					}
					reference := fmt.Sprintf("%s/%d-%d-%d", name, round, caller, i)
					amount := 1 + rng.Int64N(100)
					mu.Lock()
					sent[reference] = amount
					mu.Unlock()
					_, err := bankv1durable.NewAccountClient(conn).GetByName(name).Deposit(ctx, &bankv1.DepositRequest{Amount: amount, Reference: reference})
					if err == nil {
						mu.Lock()
						acknowledged[reference] = true
						mu.Unlock()
					}
				}
			})
		}
		time.Sleep(time.Duration(200+rand.IntN(300)) * time.Millisecond)
		s.kill(t)
		close(stop)
		wg.Wait()
	}

	s := start(t, dir)
	defer s.kill(t)
	conn := durableconnect.New(http.DefaultClient, s.url)
	for id, req := range transfers {
		_, err := bankv1durable.NewTransferClient(conn).GetByName(id).Transfer(ctx, req)
		if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Fatalf("transfer %s, asked for again: %v", id, err)
		}
	}
	booked := map[string]int64{}
	var deposited, total int64
	for i := range accounts {
		account := bankv1durable.NewAccountClient(conn).GetByName(fmt.Sprintf("account-%d", i))
		entries := statement(ctx, t, account)
		for n, e := range entries {
			if e.GetNumber() != int64(n+1) {
				t.Fatalf("account %d: entry %d has number %d", i, n+1, e.GetNumber())
			}
			if _, ok := sent[e.GetReference()]; ok {
				if _, twice := booked[e.GetReference()]; twice {
					t.Errorf("%s is booked twice", e.GetReference())
				}
				booked[e.GetReference()] = e.GetAmount()
				deposited += e.GetAmount()
			}
		}
		total += balance(ctx, t, account)
	}
	for reference := range acknowledged {
		if booked[reference] != sent[reference] {
			t.Errorf("%s was acknowledged with %d and is booked with %d", reference, sent[reference], booked[reference])
		}
	}
	if total != deposited {
		t.Errorf("the accounts hold %d, and %d were deposited", total, deposited)
	}
	if len(acknowledged) == 0 {
		t.Error("no deposit was acknowledged: the test proved nothing")
	}
	t.Logf("%d deposits sent, %d acknowledged, %d booked; %d transfers", len(sent), len(acknowledged), len(booked), len(transfers))
}

// A process is a running bank server.
type process struct {
	cmd *exec.Cmd
	url string
}

func start(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "BANK_DATA="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	_, rest, _ := strings.Cut(line, "serves ")
	url, _, _ := strings.Cut(rest, " ")
	return &process{cmd, url}
}

// kill ends the process as kill -9 does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
}
