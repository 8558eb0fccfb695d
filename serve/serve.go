// Package serve is a ready main function for a server of durable objects: it
// opens the store in a local folder, serves the registered types on one port,
// and the admin service on another if asked to, and drains on SIGTERM.
//
//	func main() {
//		serve.Main(func(r durable.Registrar) error {
//			return counterv1durable.RegisterCounter(r, newCounter)
//		})
//	}
package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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
// --data, --tls-cert, --tls-key, --tls-client-ca, --admin-listen,
// --admin-token-file, --log-level and --strict-json; --help explains them.
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
	admin, adminTokenFile    string
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
	flags.StringVar(&c.admin, "admin-listen", "", "address to serve the admin service on, which can read and delete everything; empty: it is not served")
	flags.StringVar(&c.adminTokenFile, "admin-token-file", "", "file with the token that calls of the admin service must show; needed where others than this machine reach --admin-listen")
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
	case c.adminTokenFile != "" && c.admin == "":
		return c, errors.New("--admin-token-file needs --admin-listen")
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
	// First: a port that is taken leaves no folder behind.
	public, err := listen(c, "--listen", c.listen, log)
	if err != nil {
		return err
	}
	defer public.close()
	admin, err := listenAdmin(c, log)
	if err != nil {
		return err
	}
	defer admin.close()
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

	public.web.Handler = s.Handler()
	if err := admin.handle(s); err != nil {
		return errors.Join(err, s.Close(context.Background()))
	}
	fmt.Fprintf(stdout, "%s serves %s with its data in %s\n", name, hints.url(c, public.Addr()), c.data)
	hints.print(stdout, c, public.Addr())
	hints.printAdmin(stdout, c, admin)

	failed := make(chan error, 2)
	public.serve(failed)
	admin.serve(failed)
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
	return errors.Join(err, drained, public.shutdown(timeout), admin.shutdown(timeout))
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
