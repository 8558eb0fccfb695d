package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
	"github.com/durable-go/durable/storage/sqlitedb"
)

// TestSQLFaultsAreLoggedOnce: of the calls that wait for a constructor, and of
// those that pass an error on, one is in the log.
func TestSQLFaultsAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		databases := sqlitedb.New(sqlitedb.Options{})
		defer func() { _ = databases.Close() }()
		srv, err := server.New(t.Context(), memkv.New(memkv.Options{}),
			server.WithSQL(databases), server.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = srv.Close(context.Background()) }()
		l := &lab.Lab{Constructor: func(ctx context.Context, tx durable.Tx) error {
			if tx.Name() == "outer" {
				return nil
			}
			time.Sleep(100 * time.Millisecond)
			_, err := tx.SQL().Exec(ctx, "SELEC 1")
			return err
		}}
		if err := l.Register(srv); err != nil {
			t.Fatal(err)
		}
		client := labv1durable.NewRecorderClient(srv.Conn())
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				_, err := client.GetByName("a").ReadAll(t.Context(), &labv1.ReadAllRequest{})
				if got := durableconnect.ErrorInfo(err).GetSql().GetCode(); connect.CodeOf(err) != connect.CodeInternal || got != "SQLITE_ERROR" {
					t.Errorf("%v, %q", err, got)
				}
			})
		}
		calls.Wait()
		if n := strings.Count(log.String(), "SQL failed"); n != 1 {
			t.Errorf("%d lines:\n%s", n, &log)
		}
		log.Reset()
		_, err = client.GetByName("outer").Misbehave(t.Context(), &labv1.MisbehaveRequest{
			Fault: &labv1.MisbehaveRequest_Relay{Relay: &labv1.MisbehaveRequest{Name: "inner"}},
		})
		inner := client.GetByName("inner").ID()
		if got := durableconnect.ErrorInfo(err); got.GetSql().GetCode() != "SQLITE_ERROR" || got.GetObjectId() != inner.String() {
			t.Errorf("%v, %v", err, got)
		}
		if n := strings.Count(log.String(), "SQL failed"); n != 1 || !strings.Contains(log.String(), inner.String()) {
			t.Errorf("%d lines:\n%s", n, &log)
		}
	})
}
