package archtest

// Modules of others that only some packages may reach.
const (
	connect  = "connectrpc.com"
	pebble   = "github.com/cockroachdb/pebble"
	sqlite   = "github.com/ncruces/go-sqlite3"
	protobuf = "google.golang.org/protobuf"
	netHTTP  = "net/http"
)

// A row says what the packages that match a pattern may import. Tests are free:
// the table is about what is built into programs.
//
// Patterns name packages of this module by their folder, "." for the root. "*"
// stands for one path element, and "/..." at the end for the package and all
// below it.
type row struct {
	packages string
	// imports are the packages of this module that may be imported.
	imports []string
	// own, if not 0, also allows the packages that share that many leading path
	// elements with the importing one.
	own int
	// connect allows Connect's modules to be imported.
	connect bool
	// never are packages of this module, or modules of others, that must not
	// even be reached through other packages.
	never []string
}

// public are the packages that our users may import, except those that are only
// for tests.
var public = []string{".", "gen/durable/v1", "gen/durable/admin/v1/...", "proto", "server", "serve", "durableconnect", "storage/..."}

// table has the first row that matches a package first.
var table = []row{
	{
		packages: "gen/durable/v1",
		never:    []string{".", "server", "storage/...", connect, netHTTP},
	},
	// What the runtime itself stores.
	{
		packages: "gen/durable/record/v1",
		never:    []string{".", "server", "storage/...", connect, netHTTP},
	},
	{
		packages: "gen/durable/admin/v1",
		never:    []string{".", "server", "storage/...", connect, netHTTP},
	},
	{
		packages: "gen/durable/admin/v1/adminv1connect",
		imports:  []string{"gen/durable/admin/v1"},
		connect:  true,
		never:    []string{".", "server", "storage/...", "internal/...", pebble, sqlite},
	},
	{
		packages: "proto",
		never:    []string{".", "gen/...", protobuf, connect, netHTTP},
	},
	{
		packages: ".",
		imports:  []string{"gen/durable/v1"},
		never:    []string{"server", "storage/...", "internal/...", connect, pebble, sqlite},
	},
	// Clients that know nothing of durable objects: plain Connect, and messages.
	{
		packages: "examples/inventory/gen/inventory/v1/inventoryv1connect",
		own:      3,
		connect:  true,
		never:    []string{".", "server", "storage/...", "internal/...", pebble, sqlite},
	},
	{
		packages: "examples/inventory/client",
		own:      2,
		connect:  true,
		never:    []string{".", "server", "storage/...", "internal/...", pebble, sqlite},
	},
	{
		packages: "examples/*/gen/...",
		imports:  []string{".", "gen/durable/v1"},
		own:      3,
		never:    []string{"server", "storage/...", "internal/...", connect, pebble, sqlite},
	},
	{
		packages: "protoc-gen-durable/...",
		imports:  []string{"gen/durable/v1"},
		own:      1,
		never:    []string{".", "server", "storage/...", connect, pebble, sqlite},
	},
	{
		packages: "storage",
		never:    []string{connect, netHTTP, protobuf, pebble, sqlite},
	},
	{
		packages: "storage/internal/...",
		imports:  []string{"storage", "internal/invariant"},
		own:      2,
		never:    []string{connect, netHTTP, protobuf, pebble, sqlite},
	},
	{
		packages: "storage/pebblekv/...",
		imports:  []string{"storage", "storage/internal/...", "internal/invariant"},
		own:      2,
		never:    []string{"storage/sqlitedb", "storage/memkv", connect, sqlite},
	},
	{
		packages: "storage/memkv/...",
		imports:  []string{"storage", "storage/internal/...", "internal/invariant"},
		own:      2,
		never:    []string{"storage/pebblekv", "storage/sqlitedb", connect, pebble, sqlite},
	},
	{
		packages: "storage/sqlitedb/...",
		imports:  []string{"storage", "storage/internal/...", "internal/invariant"},
		own:      2,
		never:    []string{"storage/pebblekv", "storage/memkv", connect, pebble},
	},
	{
		packages: "storage/storagetest/...",
		imports:  []string{"storage", "storage/internal/..."},
		own:      2,
		never:    []string{connect, pebble, sqlite},
	},
	{
		packages: "internal/invariant",
		never:    []string{connect, netHTTP, protobuf, pebble, sqlite},
	},
	{
		packages: "internal/archtest",
	},
	{
		packages: "internal/actor/...",
		imports:  []string{".", "gen/durable/v1", "gen/durable/record/v1", "storage", "internal/invariant"},
		own:      2,
		never:    []string{"server", connect, pebble, sqlite},
	},
	{
		packages: "server/...",
		imports:  []string{".", "gen/durable/v1", "gen/durable/admin/v1/...", "gen/durable/record/v1", "storage", "internal/actor/...", "internal/invariant"},
		own:      1,
		connect:  true,
		never:    []string{pebble, sqlite},
	},
	{
		packages: "durableconnect/...",
		imports:  []string{".", "gen/durable/v1"},
		own:      1,
		connect:  true,
		never:    []string{"server", "storage/...", "internal/...", pebble, sqlite},
	},
	{
		packages: "serve/...",
		imports:  []string{".", "server", "storage", "storage/pebblekv", "storage/sqlitedb"},
		own:      1,
		connect:  true,
	},
	{
		packages: "durabletest/...",
		imports:  public,
		own:      1,
		connect:  true,
	},
	{
		packages: "cmd/*/...",
		imports:  public,
		own:      2,
	},
	{
		packages: "examples/*/...",
		imports:  public,
		own:      2,
		connect:  true,
	},
	// Objects that only tests of the whole serve.
	{
		packages: "internal/lab/gen/...",
		imports:  []string{".", "gen/durable/v1"},
		own:      3,
		never:    []string{"server", "storage/...", connect, pebble, sqlite},
	},
	{
		packages: "internal/lab/...",
		imports:  []string{".", "gen/durable/v1"},
		own:      2,
		connect:  true,
	},
	// Runs SQL scripts in tests of the whole.
	{
		packages: "internal/sqllogic",
		never:    []string{connect, netHTTP, protobuf, pebble, sqlite},
	},
	// Programs that measure and check the whole, and which nothing imports.
	{
		packages: "internal/bench/...",
		imports:  []string{"..."},
		connect:  true,
	},
	{
		packages: "internal/conformance/...",
		imports:  []string{"..."},
		connect:  true,
	},
	{
		packages: "internal/torture/gen/...",
		imports:  []string{".", "gen/durable/v1"},
		own:      3,
		never:    []string{"server", "storage/...", connect, pebble, sqlite},
	},
	{
		packages: "internal/torture/...",
		imports:  []string{"..."},
		connect:  true,
	},
}
