package server_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
)

// pipes is a listener of connections within the process, for both versions of
// HTTP.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// window is how much of a response HTTP/2 takes in ahead of its reader.
const window = 64 << 10

// piped starts a server that is reached through pipes, over HTTP/1.1 and 2.
func piped(t *testing.T) (s *server.Server, http1, http2 *http.Client) {
	s, err := server.New(t.Context(), memkv.New(memkv.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Register(s); err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: s.Handler(), Protocols: protocols}
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	t.Cleanup(func() {
		_ = web.Close()
		serving.Wait()
		_ = s.Close(context.Background())
	})
	client := func(choose func(*http.Protocols)) *http.Client {
		protocols := new(http.Protocols)
		choose(protocols)
		transport := &http.Transport{
			Protocols: protocols,
			HTTP2:     &http.HTTP2Config{MaxReceiveBufferPerStream: window},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				select {
				case l.conns <- theirs:
					return ours, nil
				case <-l.closed:
					return nil, net.ErrClosed
				}
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	http1 = client(func(p *http.Protocols) { p.SetHTTP1(true) })
	http2 = client(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	return s, http1, http2
}

// drained drains the server and fails the test unless that takes at most d.
func drained(t *testing.T, s *server.Server, d time.Duration) {
	t.Helper()
	synctest.Wait() // until handlers wait
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := s.Drain(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > d {
		t.Errorf("the drain took %v", took)
	}
}

// TestDrainEndsStreams: whatever a stream waits for, a drain ends it.
func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	type stub = labv1durable.RecorderStub
	receives := map[string]func(t *testing.T, s stub) func() error{
		"client stream": func(t *testing.T, s stub) func() error {
			stream, err := s.Collect(t.Context())
			if err == nil {
				err = stream.Send(&labv1.CollectRequest{Text: "x"})
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error { _, err := stream.CloseAndReceive(); return err }
		},
		"bidi stream": func(t *testing.T, s stub) func() error {
			stream, err := s.Chat(t.Context())
			if err == nil {
				err = stream.Send(&labv1.ChatRequest{Text: "x"})
			}
			if err == nil {
				_, err = stream.Receive()
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error { defer stream.Close(); _, err := stream.Receive(); return err }
		},
		"server stream": func(t *testing.T, s stub) func() error {
			stream, err := s.Tail(t.Context(), &labv1.TailRequest{Texts: []string{"x"}, Hang: true})
			if err == nil {
				_, err = stream.Receive()
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error { defer stream.Close(); _, err := stream.Receive(); return err }
		},
	}
	for kind, open := range receives {
		for _, way := range []string{"in process", "HTTP/1.1", "HTTP/2", "gRPC"} {
			if kind == "bidi stream" && way == "HTTP/1.1" {
				continue // which cannot
			}
			t.Run(kind+" that waits, "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, http1, http2 := piped(t)
					conn := map[string]durable.Conn{
						"in process": s.Conn(),
						"HTTP/1.1":   durableconnect.New(http1, "http://pipe"),
						"HTTP/2":     durableconnect.New(http2, "http://pipe"),
						"gRPC":       durableconnect.New(http2, "http://pipe", connecthttp.WithGRPC()),
					}[way]
					end := open(t, labv1durable.NewRecorderClient(conn).GetByName("a"))
					drained(t, s, time.Second)
					if err := end(); connect.CodeOf(err) != connect.CodeUnavailable {
						t.Errorf("the stream ended with %v", err)
					}
				})
			})
		}
	}
	for version := range 2 {
		for _, method := range []string{"Collect", "Tail"} {
			t.Run(fmt.Sprintf("%s that waits for its first message, HTTP/%d", method, version+1), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, http1, http2 := piped(t)
					body, w := io.Pipe()
					defer w.Close()
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://pipe/lab.v1.RecorderService/"+method, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Content-Type", "application/connect+proto")
					answer := make(chan string, 1)
					go func() {
						res, err := []*http.Client{http1, http2}[version].Do(req)
						if err != nil {
							answer <- err.Error()
							return
						}
						defer res.Body.Close()
						text, err := io.ReadAll(res.Body)
						answer <- fmt.Sprintf("%s, %v", text, err)
					}()
					drained(t, s, time.Second)
					if text := <-answer; !strings.Contains(text, `"unavailable"`) || !strings.Contains(text, `"ERROR_REASON_DRAINING"`) {
						t.Errorf("the call ended with %s", text)
					}
				})
			})
		}
	}
	for _, way := range []string{"in process", "HTTP/1.1", "HTTP/2", "gRPC"} {
		t.Run("a reader that stalls, "+way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, http1, http2 := piped(t)
				recorder := labv1durable.NewRecorderClient(s.Conn()).GetByName("a")
				for range 4 { // more than the window takes, and nothing that compresses
					raw := make([]byte, window)
					_, _ = rand.Read(raw)
					if _, err := recorder.Append(t.Context(), &labv1.AppendRequest{Text: hex.EncodeToString(raw)}); err != nil {
						t.Fatal(err)
					}
				}
				conn := map[string]durable.Conn{
					"in process": s.Conn(),
					"HTTP/1.1":   durableconnect.New(http1, "http://pipe"),
					"HTTP/2":     durableconnect.New(http2, "http://pipe"),
					"gRPC":       durableconnect.New(http2, "http://pipe", connecthttp.WithGRPC()),
				}[way]
				stream, err := labv1durable.NewRecorderClient(conn).GetByName("a").Replay(t.Context(), &labv1.ReplayRequest{})
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				drained(t, s, 10*time.Second)
				for err == nil {
					_, err = stream.Receive()
				}
				if errors.Is(err, io.EOF) {
					t.Error("the stream ended as if it were whole")
				}
			})
		})
	}
}

// TestDrainWhileStreamsEnd: a drain touches no stream that is over. Package http
// ends the process otherwise.
func TestDrainWhileStreamsEnd(t *testing.T) {
	t.Parallel()
	for range 8 {
		s := durabletest.New(t, lab.Register)
		var wg sync.WaitGroup
		begun := make(chan struct{}, 1000)
		for i := range 16 {
			recorder := labv1durable.NewRecorderClient(over(s)).GetByName(fmt.Sprint(i))
			wg.Go(func() {
				for {
					begun <- struct{}{}
					if _, err := recorder.ReadAll(t.Context(), &labv1.ReadAllRequest{}); err != nil {
						return
					}
					if i%2 == 0 {
						stream, err := recorder.Chat(t.Context())
						if err == nil {
							_ = stream.CloseSend()
							_, err = stream.Receive()
							_ = stream.Close()
						}
						if !errors.Is(err, io.EOF) {
							return
						}
					} else {
						stream, err := recorder.Collect(t.Context())
						if err == nil {
							_, err = stream.CloseAndReceive()
						}
						if err != nil {
							return
						}
					}
				}
			})
		}
		for range 50 {
			<-begun
		}
		go func() {
			for range begun { // so that nobody waits
				continue
			}
		}()
		if err := s.Server().Drain(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		close(begun)
	}
}
