package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/torture/gen/torture/v1/torturev1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/pebblekv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// serve is the process that is killed. It prints its address when it serves, and
// ends with its standard input, so that it does not outlive the one that kills.
//
// It has less memory than it needs, so that tables are flushed and objects are
// dropped all the time.
func serve(data string) error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	engine, err := pebblekv.Open(data, pebblekv.Options{Logger: log, MemTableSize: 1 << 20})
	if err != nil {
		return err
	}
	s, err := server.New(context.Background(), engine, server.WithLogger(log),
		server.WithSQL(sqlitedb.New(sqlitedb.Options{Logger: log})), server.WithMaxActive(30))
	if err != nil {
		return err
	}
	if err := register(s); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	handler := s.Handler()
	if _, err := fmt.Println(listener.Addr()); err != nil {
		return err
	}
	web := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err = <-failed:
	case <-s.Done():
		err = s.Err()
	}
	return err
}

func register(r durable.Registrar) error {
	short := durable.WithIdleTimeout(300 * time.Millisecond)
	if err := torturev1durable.RegisterCell(r, newCell, short); err != nil {
		return err
	}
	if err := torturev1durable.RegisterCounter(r, newCounter, short); err != nil {
		return err
	}
	if err := torturev1durable.RegisterAccount(r, newAccount, short); err != nil {
		return err
	}
	return torturev1durable.RegisterBell(r, newBell, short)
}
