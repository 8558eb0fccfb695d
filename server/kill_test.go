package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2/connecthttp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/serve"
)

// killFolder tells the test binary to be a server of the lab, with its store in
// that folder.
const killFolder = "DURABLE_TEST_KILL_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killFolder); dir != "" {
		args := []string{"--listen", "127.0.0.1:0", "--data", dir, "--log-level", "error"}
		if err := serve.Run(context.Background(), "lab", args, os.Stdout, os.Stderr, lab.Register); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A victim is a server in a process of its own.
type victim struct {
	cmd *exec.Cmd
	url string
}

var servesAt = regexp.MustCompile(`serves (http://[0-9.:]+) `)

func spawn(t *testing.T, dir string) *victim {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killFolder+"="+dir)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &victim{cmd: cmd}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if m := servesAt.FindStringSubmatch(lines.Text()); m != nil {
			v.url = m[1]
			go func() { _, _ = io.Copy(io.Discard, stdout) }() // ends with the process
			return v
		}
	}
	t.Fatalf("the server did not start: %v", cmd.Wait())
	return nil
}

// kill ends the process without a warning.
func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// TestKill: LIFE-10, GATE-29, GATE-32 with kill -9.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	t.Parallel()
	const (
		rounds  = 4
		workers = 6
		calls   = 60 // acknowledged before each kill
	)
	dir := filepath.Join(t.TempDir(), "store")
	// What each counter must hold: from sure to sure+unknown.
	type bounds struct{ sure, unknown atomic.Int64 }
	var shared bounds
	var own [workers]bounds
	tally := func(err error, of ...*bounds) {
		for _, b := range of {
			if err == nil {
				b.sure.Add(1)
			} else {
				b.unknown.Add(1)
			}
		}
	}
	check := func(conn durable.Conn) {
		t.Helper()
		verify := func(name string, b *bounds) {
			res, err := labv1durable.NewCounterClient(conn).GetByName(name).Get(t.Context(), &labv1.GetRequest{})
			if err != nil {
				t.Fatal(err)
			}
			value, sure, unknown := res.GetValue(), b.sure.Load(), b.unknown.Load()
			if value < sure || value > sure+unknown {
				t.Errorf("counter %s is %d; %d increments were acknowledged and %d unknown", name, value, sure, unknown)
			}
			b.sure.Store(value) // what was unknown is known now
			b.unknown.Store(0)
		}
		verify("shared", &shared)
		for i := range own {
			verify(fmt.Sprint(i), &own[i])
			res, err := labv1durable.NewKVLabClient(conn).GetByName(fmt.Sprint(i)).Read(t.Context(), &labv1.ReadRequest{
				Steps: []*labv1.Step{{Do: &labv1.Step_List{List: &labv1.List{}}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			pairs := res.GetResults()[0].GetPairs()
			if len(pairs) != 0 && (len(pairs) != 2 || string(pairs[0].GetValue()) != string(pairs[1].GetValue())) {
				t.Errorf("a turn was torn apart: %v", pairs)
			}
		}
	}
	for range rounds {
		v := spawn(t, dir)
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: protocols}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		check(durableconnect.New(client, v.url))

		acknowledged := make(chan struct{}, workers*1000)
		var wg sync.WaitGroup
		for i := range workers {
			var opts []connecthttp.Option
			if i%2 == 1 {
				opts = append(opts, connecthttp.WithGRPC())
			}
			conn := durableconnect.New(client, v.url, opts...)
			wg.Go(func() {
				for n := 0; ; n++ {
					ctx := context.Background()
					_, err := labv1durable.NewCounterClient(conn).GetByName(fmt.Sprint(i)).Increment(ctx, &labv1.IncrementRequest{Delta: 1})
					tally(err, &own[i])
					if err != nil {
						return
					}
					_, err = labv1durable.NewCounterClient(conn).GetByName("shared").Increment(ctx, &labv1.IncrementRequest{Delta: 1})
					tally(err, &shared)
					if err != nil {
						return
					}
					value := []byte(strings.Repeat(fmt.Sprint(n), 100))
					_, err = labv1durable.NewKVLabClient(conn).GetByName(fmt.Sprint(i)).Run(ctx, &labv1.RunRequest{Steps: []*labv1.Step{
						{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte("a"), Value: value}}},
						{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte("b"), Value: value}}},
					}})
					if err != nil {
						return
					}
					select {
					case acknowledged <- struct{}{}:
					default:
					}
				}
			})
		}
		gone := make(chan struct{})
		go func() {
			wg.Wait()
			close(gone)
		}()
		for range calls {
			select {
			case <-acknowledged:
			case <-gone:
				t.Fatal("every worker met an error before the kill")
			}
		}
		v.kill()
		<-gone
		transport.CloseIdleConnections()
	}
	v := spawn(t, dir)
	defer v.kill()
	check(durableconnect.New(http.DefaultClient, v.url))
	if shared.sure.Load() < rounds*calls {
		t.Errorf("only %d increments", shared.sure.Load())
	}
}
