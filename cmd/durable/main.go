// Command durable helps with projects that use the durable module.
//
//	durable init NAME   write a ready project into the folder NAME
package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"
)

type commands struct {
	Init initCommand `cmd:"" help:"Write a ready project into a new folder."`
}

func main() {
	parser := kong.Must(&commands{},
		kong.Name("durable"),
		kong.Description("Durable objects for Go: stateful, single-threaded, declared in protobuf."),
		kong.ShortUsageOnError(),
	)
	ctx, err := parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	if err := ctx.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "durable:", err)
		os.Exit(1)
	}
}
