// Command inventory serves warehouses: objects that keep items, stock and
// reservations in SQL tables of their own. The folders client and ts have
// programs that call it.
package main

import (
	"context"
	"embed"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/examples/inventory/gen/inventory/v1/inventoryv1durable"
	"github.com/durable-go/durable/serve"
)

//go:embed migrations/*.sql
var files embed.FS

func main() { serve.Main(register) }

func register(r durable.Registrar) error {
	schema, err := durable.MigrationsFS(files, "migrations")
	if err != nil {
		return err
	}
	return inventoryv1durable.RegisterWarehouse(r, func(ctx context.Context, tx inventoryv1durable.WarehouseTx) (inventoryv1durable.WarehouseHandler, error) {
		return newWarehouse(ctx, tx, schema)
	})
}
