package serve

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A oneConn listens for one connection.
type oneConn struct {
	net.Listener
	conns chan net.Conn
}

func (l oneConn) Accept() (net.Conn, error) {
	if conn, ok := <-l.conns; ok {
		return conn, nil
	}
	return nil, io.EOF
}

func (l oneConn) Close() error   { return nil }
func (l oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// WS-35: a caller over HTTP/2 that does not answer pings is gone, although its
// stream is open.
func TestDeadPeersOfHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := newWeb(slog.New(slog.DiscardHandler))
		began := time.Now()
		ended := make(chan error, 1)
		web.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		})
		ours, theirs := net.Pipe()
		l := oneConn{conns: make(chan net.Conn, 1)}
		l.conns <- theirs
		go func() { _ = web.Serve(l) }()
		go func() { _, _ = io.Copy(io.Discard, ours) }() // and nothing is answered
		var open bytes.Buffer
		open.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		open.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // SETTINGS
		// HEADERS of stream 1, their end but not that of the stream: POST, http, /,
		// and the authority x.
		open.Write([]byte{0, 0, 6, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84, 0x41, 1, 'x'})
		if _, err := ours.Write(open.Bytes()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if took := time.Since(began); took != 45*time.Second {
				t.Errorf("the stream ended with %v after %v, want 45s", err, took)
			}
		case <-time.After(time.Hour):
			t.Error("the stream did not end within an hour")
		}
		close(l.conns)
		web.Close()
		ours.Close()
	})
}
