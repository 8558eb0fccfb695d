package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A victim is the server that is killed, and started again on the same folder.
type victim struct {
	program string // that serves
	folder  string
	log     io.Writer
	dialer  net.Dialer

	kills, killsStarting int // only of torment

	mu struct {
		sync.Mutex
		address string // of the process that serves, or served last
		lives   []life
	}
}

// A life is the time in which one process served. The last one has no end yet.
type life struct{ from, to time.Time }

// A process is one server process.
type process struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	address chan string // closed when it ended without one
	ended   chan struct{}
}

// storeIn returns the folder of the store in the folder of a run.
func storeIn(folder string) string { return filepath.Join(folder, "store") }

// readyTimeout is how long a server may take to start.
const readyTimeout = 30 * time.Second

func (v *victim) launch() (*process, error) {
	cmd := exec.Command(v.program, serveArgument, storeIn(v.folder))
	cmd.Stderr = v.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, stdin, make(chan string, 1), make(chan struct{})}
	go func() {
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err == nil {
			p.address <- strings.TrimSpace(line)
		}
		close(p.address)
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
	_ = p.stdin.Close()
}

var errEnded = errors.New("the server ended by itself")

// start launches a process and returns when it serves.
func (v *victim) start() (*process, error) {
	p, err := v.launch()
	if err != nil {
		return nil, err
	}
	select {
	case address, ok := <-p.address:
		if !ok {
			return nil, fmt.Errorf("%w while it started", errEnded)
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.mu.address = address
		v.mu.lives = append(v.mu.lives, life{from: time.Now()})
		return p, nil
	case <-time.After(readyTimeout):
		p.kill()
		return nil, fmt.Errorf("the server did not start within %v", readyTimeout)
	}
}

// torment kills servers at random moments until length has passed, some of them
// while they start. It returns the last one, which lives.
func (v *victim) torment(length time.Duration, rng *rand.Rand) (*process, error) {
	for end := time.Now().Add(length); ; {
		if v.kills > 0 && rng.IntN(8) == 0 {
			p, err := v.launch()
			if err != nil {
				return nil, err
			}
			time.Sleep(upTo(rng, 150*time.Millisecond))
			p.kill()
			v.kills++
			v.killsStarting++
		}
		p, err := v.start()
		if err != nil {
			return nil, err
		}
		life := 300*time.Millisecond + upTo(rng, 1200*time.Millisecond)
		left := time.Until(end)
		select {
		case <-p.ended:
			return nil, errEnded
		case <-time.After(min(life, left)):
		}
		if life >= left {
			return p, nil
		}
		v.mu.Lock()
		v.mu.lives[len(v.mu.lives)-1].to = time.Now()
		v.mu.Unlock()
		p.kill()
		v.kills++
	}
}

// upTo returns a random time less than d.
func upTo(rng *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(d)))
}

// dial connects to the process that serves, whatever address is asked for.
func (v *victim) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	v.mu.Lock()
	address := v.mu.address
	v.mu.Unlock()
	return v.dialer.DialContext(ctx, network, address)
}

// served returns for how much of a time there was a server.
func (v *victim) served(from, to time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var sum time.Duration
	for _, l := range v.mu.lives {
		begin, end := l.from, to
		if begin.Before(from) {
			begin = from
		}
		if !l.to.IsZero() && l.to.Before(to) {
			end = l.to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}
