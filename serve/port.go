package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// A port is an open port and the server for it. The nil port is none.
type port struct {
	net.Listener
	web *http.Server
}

// newWeb returns a server without a handler.
func newWeb(log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// Streams that only wait end when their caller is gone, as WebSockets do.
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// listen opens a port, with TLS where the flags say so. flag is the flag that has
// the address.
func listen(c config, flag, address string, log *slog.Logger) (*port, error) {
	web := newWeb(log)
	if c.cert != "" {
		cert, err := tls.LoadX509KeyPair(c.cert, c.certKey)
		if err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		web.TLSConfig = &tls.Config{
			Certificates: []tls.Certificate{cert},
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
		}
	}
	if c.clientCAs != "" {
		pem, err := os.ReadFile(c.clientCAs)
		if err != nil {
			return nil, fmt.Errorf("read the client authorities: %w", err)
		}
		web.TLSConfig.ClientCAs = x509.NewCertPool()
		if !web.TLSConfig.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the client authorities: %s holds no certificate", c.clientCAs)
		}
		web.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
	if web.TLSConfig != nil {
		listener = tls.NewListener(listener, web.TLSConfig)
	}
	return &port{listener, web}, nil
}

// serve serves until shutdown, and sends the error that ends it.
func (p *port) serve(failed chan<- error) {
	if p != nil {
		go func() { failed <- p.web.Serve(p.Listener) }()
	}
}

// shutdown waits for the connections to end, and cuts them off when ctx ends
// first.
func (p *port) shutdown(ctx context.Context) error {
	if p == nil {
		return nil
	}
	if err := p.web.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("close the connections: %w", err), p.web.Close())
	}
	return nil
}

func (p *port) close() {
	if p != nil {
		_ = p.Close()
	}
}
