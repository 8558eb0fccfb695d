// Command chat is a chat with a web page: rooms whose members stay connected
// while the rooms are not in memory.
package main

import (
	"context"
	"embed"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/examples/chat/gen/chat/v1/chatv1durable"
	"github.com/durable-go/durable/serve"
	"github.com/durable-go/durable/server"
)

//go:embed migrations/*.sql
var files embed.FS

func main() { serve.Main(register, server.WithFallback(page())) }

func register(r durable.Registrar) error {
	tables, err := durable.MigrationsFS(files, "migrations")
	if err != nil {
		return err
	}
	if err := chatv1durable.RegisterLimiter(r, newLimiter); err != nil {
		return err
	}
	return chatv1durable.RegisterRoom(r, func(ctx context.Context, tx chatv1durable.RoomTx) (chatv1durable.RoomHandler, error) {
		return newRoom(ctx, tx, tables)
	})
}
