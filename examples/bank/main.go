// Command bank serves accounts and transfers between them: objects that call
// objects.
package main

import (
	"errors"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/examples/bank/gen/bank/v1/bankv1durable"
	"github.com/durable-go/durable/serve"
)

func main() { serve.Main(register) }

func register(r durable.Registrar) error {
	return errors.Join(
		bankv1durable.RegisterAccount(r, newAccount),
		bankv1durable.RegisterTransfer(r, newTransfer),
	)
}
