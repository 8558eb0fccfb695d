// Command counter serves one counter for each name. It is the tutorial of the
// README.
package main

import (
	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/examples/counter/gen/counter/v1/counterv1durable"
	"github.com/durable-go/durable/serve"
)

func main() { serve.Main(register) }

func register(r durable.Registrar) error {
	return counterv1durable.RegisterCounter(r, newCounter)
}
