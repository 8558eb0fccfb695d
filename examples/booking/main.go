// Command booking sells the seats of shows: holds that expire by an alarm, a
// checkout that may be retried, and a daily report by an alarm that recurs.
package main

import (
	"context"
	"embed"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/examples/booking/gen/booking/v1/bookingv1durable"
	"github.com/durable-go/durable/serve"
)

//go:embed migrations/*.sql
var files embed.FS

func main() { serve.Main(register) }

func register(r durable.Registrar) error {
	tables, err := durable.MigrationsFS(files, "migrations")
	if err != nil {
		return err
	}
	return bookingv1durable.RegisterShow(r, func(ctx context.Context, tx bookingv1durable.ShowTx) (bookingv1durable.ShowHandler, error) {
		return newShow(ctx, tx, tables)
	})
}
