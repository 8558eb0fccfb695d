// Package serve is a ready main function for a server of durable objects: it
// opens the store in a local folder, serves the registered types on one port,
// and drains on SIGTERM.
//
//	func main() {
//		serve.Main(func(r durable.Registrar) error {
//			return counterv1durable.RegisterCounter(r, newCounter)
//		})
//	}
package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// DrainTimeout is how long a server that is told to stop waits for the calls
// under way. It closes their connections after that.
const DrainTimeout = 30 * time.Second

// closeTimeout is how long it then waits for the store, which handlers that
// ignore their contexts keep open.
const closeTimeout = 10 * time.Second

// Main runs a server with the flags of the command line until it gets SIGINT or
// SIGTERM, or its store fails, and ends the process: with code 0 after a clean
// drain, and 1 otherwise. A second signal ends it at once. The flags are --listen,
// --data, --tls-cert, --tls-key, --tls-client-ca, --log-level and --strict-json;
// --help explains them.
func Main(register func(durable.Registrar) error, opts ...server.Option) {
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, drain := context.WithCancel(context.Background())
	context.AfterFunc(signalled, func() {
		stop() // first, so that the next signal kills
		drain()
	})
	err := Run(ctx, filepath.Base(os.Args[0]), os.Args[1:], os.Stdout, os.Stderr, register, opts...)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

type config struct {
	listen, data             string
	cert, certKey, clientCAs string
	level                    slog.Level
	strictJSON               bool
}

func parse(name string, args []string, stderr io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.listen, "listen", "127.0.0.1:8080", "address to serve on")
	flags.StringVar(&c.data, "data", name+"-data", "folder of the store; made when missing")
	flags.StringVar(&c.cert, "tls-cert", "", "file with the certificate chain, PEM; serves TLS instead of plain text")
	flags.StringVar(&c.certKey, "tls-key", "", "file with the private key of --tls-cert, PEM")
	flags.StringVar(&c.clientCAs, "tls-client-ca", "", "file with the authorities, PEM, one of which must have signed a client's certificate")
	flags.TextVar(&c.level, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
	flags.BoolVar(&c.strictJSON, "strict-json", false, "refuse JSON requests with unknown fields")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	switch {
	case flags.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case (c.cert == "") != (c.certKey == ""):
		return c, errors.New("--tls-cert and --tls-key go together")
	case c.data == "":
		return c, errors.New("--data is empty: name a folder for the store")
	case c.clientCAs != "" && c.cert == "":
		return c, errors.New("--tls-client-ca needs --tls-cert and --tls-key")
	}
	return c, nil
}

// Run is Main without the process: it takes the name of the program, its
// arguments and its outputs, and returns when ctx ends and the server has
// drained, or with the error that ended it. It does not wait for ever: calls that
// are still under way after [DrainTimeout] are cut off, and when a handler keeps
// the store open some seconds longer, Run returns an error and leaves it open;
// the process should end then.
func Run(ctx context.Context, name string, args []string, stdout, stderr io.Writer, register func(durable.Registrar) error, opts ...server.Option) error {
	return run(ctx, patience{DrainTimeout, closeTimeout}, name, args, stdout, stderr, register, opts...)
}

// patience is how long an end may take.
type patience struct{ drain, close time.Duration }

func run(ctx context.Context, patience patience, name string, args []string, stdout, stderr io.Writer, register func(durable.Registrar) error, opts ...server.Option) (err error) {
	c, err := parse(name, args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	web, listener, err := listen(c, log) // first: a port that is taken leaves no folder behind
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	engine, err := pebblekv.Open(c.data, pebblekv.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeWithin(patience.close, engine)) }()

	databases := sqlitedb.New(sqlitedb.Options{Logger: log})
	defer func() { _ = databases.Close() }()
	defaults := []server.Option{server.WithLogger(log), server.WithSQL(databases)}
	if c.strictJSON {
		defaults = append(defaults, server.WithStrictJSON())
	}
	s, err := server.New(ctx, engine, append(defaults, opts...)...)
	if err != nil {
		return err
	}
	hints := &hints{Registrar: s}
	if err := register(hints); err != nil {
		return errors.Join(err, s.Close(context.Background()))
	}

	web.Handler = s.Handler()
	fmt.Fprintf(stdout, "%s serves %s with its data in %s\n", name, hints.url(c, listener.Addr()), c.data)
	hints.print(stdout, c, listener.Addr())

	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case <-ctx.Done():
		log.Info("draining", "timeout", patience.drain)
	case <-s.Done():
		err = fmt.Errorf("the store failed: %w", s.Err())
	case err = <-failed:
	}
	timeout, cancel := context.WithTimeout(context.Background(), patience.drain)
	defer cancel()
	drained := s.Close(timeout) // first, so that streams end and replies leave
	shut := web.Shutdown(timeout)
	if shut != nil {
		shut = errors.Join(fmt.Errorf("close the connections: %w", shut), web.Close())
	}
	return errors.Join(err, drained, shut)
}

// closeWithin closes c, or leaves it open when that takes longer than d.
func closeWithin(d time.Duration, c io.Closer) error {
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
		return fmt.Errorf("the store did not close within %v; a handler that ignores its context keeps it open", d)
	}
}

// listen opens the port, with TLS where the flags say so.
func listen(c config, log *slog.Logger) (*http.Server, net.Listener, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if c.cert != "" {
		cert, err := tls.LoadX509KeyPair(c.cert, c.certKey)
		if err != nil {
			return nil, nil, fmt.Errorf("read the certificate: %w", err)
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
			return nil, nil, fmt.Errorf("read the client authorities: %w", err)
		}
		web.TLSConfig.ClientCAs = x509.NewCertPool()
		if !web.TLSConfig.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("read the client authorities: %s holds no certificate", c.clientCAs)
		}
		web.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	}
	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return nil, nil, fmt.Errorf("--listen %s: %w", c.listen, err)
	}
	if web.TLSConfig != nil {
		listener = tls.NewListener(listener, web.TLSConfig)
	}
	return web, listener, nil
}
