// Command torture runs a server of durable objects as a process of its own, puts
// it under load, kills it with -9 at random moments, starts it again on what it
// left, and compares in the end what the callers were told with what is stored:
//
//   - The histories of cells, which are read, written and swapped, are
//     linearizable, by the checker porcupine.
//   - Calls with idempotency keys, made again until they are answered, took
//     effect once, and every one got the same answer.
//   - Transfers between accounts that were answered are in both ledgers, once;
//     no money came into being or was lost.
//   - Every alarm that was set ran, as often as it should and not once more, and
//     never before its time.
//
// It prints what it did, and exits with code 1 and keeps the data when something
// is wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

// serveArgument makes the program the server that is killed.
const serveArgument = "serve"

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveArgument {
		fmt.Fprintln(os.Stderr, "torture: serve:", serve(os.Args[2]))
		os.Exit(1)
	}
	var s settings
	flag.DurationVar(&s.length, "length", time.Minute, "how long the server is under load and killed; after that, alarms that are still due have time to run")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()), "for what the callers do and when the server is killed; the rest is up to chance")
	flag.StringVar(&s.data, "data", "", "folder for the store and the log of the server; by default a new one, removed when all is well")
	flag.IntVar(&s.clients, "clients", 32, "how many callers there are, at least 8")
	flag.DurationVar(&s.ahead, "ahead", 5*time.Second, "how far ahead alarms are set")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "torture: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	program, err := os.Executable()
	if err == nil {
		s.program = program
		err = run(context.Background(), s, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}
