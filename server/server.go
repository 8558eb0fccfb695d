package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/internal/actor"
	"github.com/durable-go/durable/storage"
)

// A Server serves the objects of one store. Its methods may be called by
// several goroutines at once.
type Server struct {
	opts    options
	session storage.Session
	host    *actor.Host

	mu struct {
		sync.Mutex
		types    map[string]*actor.Type // by stored name
		services []string               // full names, in order of registration
		handler  http.Handler           // nil until Handler was called
		draining bool

		sockets   int           // WebSockets
		noSockets chan struct{} // closed when there are none; nil while nobody waits for that
	}
	routes sync.Map // procedure → *route
}

// A route is one method of one object type.
type route struct {
	typ    *actor.Type
	method *durable.Method
}

// streams reports whether the method has a stream of requests or of responses.
func (r *route) streams() bool { return r.method.ClientStream || r.method.ServerStream }

var _ durable.Registrar = (*Server)(nil)

// New joins the store as its one member and returns a server for its objects.
// When it returns, no earlier owner of the store can commit any more. The
// caller closes the server, and the engine after it. It fails for options that
// cannot be, before it touches the store.
func New(ctx context.Context, engine storage.Engine, opts ...Option) (*Server, error) {
	s := &Server{}
	for _, opt := range opts {
		opt.applyToServer(&s.opts)
	}
	if err := s.opts.check(); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s.mu.types = map[string]*actor.Type{}
	info, err := engine.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s.session, err = engine.Join(ctx, storage.Node{ID: "local"})
	if err != nil {
		return nil, fmt.Errorf("server: join the store: %w", err)
	}
	s.host, err = actor.NewHost(ctx, info, s.session, actor.Options{
		Conn:      conn{s},
		SQL:       s.opts.sql,
		MaxActive: s.opts.maxActive,
		MaxMemory: s.opts.maxMemory,
		MaxAlarms: s.opts.maxAlarms,
		CloseCode: closeStatus,
		Logger:    s.opts.logger,
	})
	if err != nil {
		_ = s.session.Leave(ctx)
		return nil, fmt.Errorf("server: %w", err)
	}
	return s, nil
}

// RegisterObject adds an object type. It fails after [Server.Handler] was
// called, and for a type or a service that is registered already.
func (s *Server) RegisterObject(t *durable.ObjectType) error {
	service := string(t.Service.FullName())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.handler != nil {
		return fmt.Errorf("server: register %s: the handler is in use already", t.Name)
	}
	for _, m := range t.Methods {
		if _, ok := s.routes.Load(m.Procedure); ok {
			return fmt.Errorf("server: register %s: service %s is registered already", t.Name, service)
		}
	}
	own := *t // what the server adds stays here
	own.KeyHeaders = slices.Concat(s.opts.keyHeaders, t.KeyHeaders)
	if own.DefaultName == "" {
		own.DefaultName = s.opts.defaultName
	}
	typ, err := s.host.Register(context.Background(), &own)
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	s.mu.types[t.Name] = typ
	s.mu.services = append(s.mu.services, service)
	for i := range t.Methods {
		m := &t.Methods[i]
		s.routes.Store(m.Procedure, &route{typ: typ, method: m})
	}
	return nil
}

// Conn returns a connection to the server's own objects, without a network.
// Requests and responses are copied, so that handlers share nothing with their
// callers. Errors are [*connect.Error] values, as over the network. It starts the
// alarms, as [Server.Handler] does.
func (s *Server) Conn() durable.Conn {
	s.host.Start()
	return conn{s}
}

// Handler returns the handler that serves every type registered so far, health
// and reflection, and everything else under the handler given by
// [WithFallback]. It always returns the same one. Middleware around it that wraps
// the [http.ResponseWriter] needs a method Unwrap, as for
// [http.ResponseController]: without it, streams that wait for their callers hold
// a drain up.
//
// Alarms that are due run from the first call of Handler or Conn on: register
// every type before, since their handlers may call others.
func (s *Server) Handler() http.Handler {
	s.host.Start()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.handler == nil {
		s.mu.handler = s.newHandler()
	}
	return s.mu.handler
}

// Drain stops taking calls: they fail with code unavailable, and health says so.
// Turns under way finish. Open streams end with code unavailable: the contexts of
// their handlers end, Receive fails, and Send fails when the caller does not read
// for some seconds. It returns when no call is left, or with an error when ctx
// ends first; calls under way then go on. What calls wrote may not be durable
// yet: see [Server.Close]. It can be called again.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.mu.draining = true
	s.mu.Unlock()
	err := s.host.Drain(ctx)
	s.awaitSockets(ctx)
	return err
}

// Close drains the server, waits until everything it committed is durable and
// leaves the store, also when ctx ends and calls are still under way: their
// commits then fail. It does not close the engine.
func (s *Server) Close(ctx context.Context) error {
	return errors.Join(s.Drain(ctx), s.session.Leave(ctx))
}

// Done is closed when the store failed or was taken over, and the server can
// serve nothing more. [Server.Err] then tells why.
func (s *Server) Done() <-chan struct{} { return s.session.Done() }

// Err tells why Done was closed, nil before.
func (s *Server) Err() error { return s.session.Err() }

// Evict drops the object from memory after the calls that came before, and
// waits until everything it committed is durable. It reports whether the object
// was in memory. Its next call runs the constructor. It returns
// [durable.ErrMethodUnknown] for a type that is not registered, and the error of
// ctx when that ends first.
func (s *Server) Evict(ctx context.Context, objectType string, id durable.ID) (bool, error) {
	typ, err := s.typeNamed(objectType)
	if err != nil {
		return false, err
	}
	return s.host.Evict(ctx, typ, id)
}

// Update runs fn in a turn of an object of its own, with the handler of its
// activation, as a method would: it is committed when fn returns nil, and rolled
// back when it returns an error, which is returned. The object is made if needed.
// When Update returns nil, what fn wrote is durable. There is no deadline but
// that of ctx. It is for tests and tools.
func (s *Server) Update(ctx context.Context, object durable.Ref, fn func(ctx context.Context, handler any, tx durable.Tx) error) error {
	typ, err := s.typeNamed(object.ObjectType())
	if err != nil {
		return err
	}
	name, byName := object.Name()
	if byName {
		err = durable.CheckName(name)
	} else {
		err = durable.CheckID(typ.Name, object.ID())
	}
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return s.host.Update(ctx, typ, object.ID(), name, fn)
}

// RunAlarm runs the handler of an alarm now, as if it were due, and returns when
// the outcome is durable. It reports whether the alarm was set; alarm is its name,
// empty for the default one. The error of the handler is returned, and the alarm is
// then set for its retry, or given up, as always.
func (s *Server) RunAlarm(ctx context.Context, object durable.Ref, alarm string) (bool, error) {
	typ, err := s.typeNamed(object.ObjectType())
	if err != nil {
		return false, err
	}
	return s.host.RunAlarm(ctx, typ, object.ID(), alarm)
}

// Active returns how many objects are in memory.
func (s *Server) Active() int { return s.host.Active() }

// An Object is an object that exists.
type Object struct {
	ID      durable.ID
	Name    string // empty for an object made by id
	Created time.Time
}

// Objects yields the existing objects of a type, in order of name and then id:
// those that were committed to, and not deleted since. It reads them as the
// iteration goes on, a part at a time, so objects that come or go meanwhile may
// be seen or not. After an error, which it yields with the zero Object, it yields
// nothing more.
func (s *Server) Objects(ctx context.Context, objectType string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		typ, err := s.typeNamed(objectType)
		if err != nil {
			yield(Object{}, err)
			return
		}
		for o, err := range s.session.Objects(ctx, storage.ObjectQuery{Type: typ.StorageID()}) {
			if err != nil {
				yield(Object{}, fmt.Errorf("server: list objects: %w", err))
				return
			}
			if !yield(Object{ID: o.ID, Name: o.Name, Created: o.Created}, nil) {
				return
			}
		}
	}
}

// typesByName returns the registered types in order of name.
func (s *Server) typesByName() []*actor.Type {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.mu.types), func(a, b *actor.Type) int {
		return strings.Compare(a.Name, b.Name)
	})
}

func (s *Server) typeNamed(name string) (*actor.Type, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if typ := s.mu.types[name]; typ != nil {
		return typ, nil
	}
	return nil, fmt.Errorf("server: object type %q: %w", name, durable.ErrMethodUnknown)
}

// ExportSQL writes the SQL database of an object to w as an ordinary SQLite file
// and returns its length in bytes. It shows one moment, while the object goes on,
// and only what is durable. An object without a database gives an empty file,
// which SQLite takes for an empty database. It returns [durable.ErrMethodUnknown]
// for a type that is not registered.
func (s *Server) ExportSQL(ctx context.Context, objectType string, id durable.ID, w io.Writer) (int64, error) {
	typ, err := s.typeNamed(objectType)
	if err != nil {
		return 0, err
	}
	return s.host.ExportSQL(ctx, typ, id, w)
}

// ImportSQL makes the SQLite file that it reads from r the SQL database of an
// object that has none; it returns [durable.ErrSQLExists] otherwise. name is that
// of an object with a name, and empty for one made by id. The object is made if
// it does not exist, and is dropped from memory, so that its constructor sees the
// database. A file with a write-ahead log must be closed first, so that the file
// holds everything.
//
// The file is checked, and refused with a [durable.SQLError] where it is not
// sound. No call of the object runs while r is read. When ImportSQL returns nil everything is durable. A file of up to 16 MiB
// is imported whole or not at all; of a larger one a crash of the process may
// leave pages that do not count, and the object, without a database.
func (s *Server) ImportSQL(ctx context.Context, objectType string, id durable.ID, name string, r io.Reader) error {
	typ, err := s.typeNamed(objectType)
	if err != nil {
		return err
	}
	if name != "" && durable.IDFromName(objectType, name) != id {
		return fmt.Errorf("server: import: %w: the id is not that of the name %q", durable.ErrInvalidArgument, name)
	}
	return s.host.ImportSQL(ctx, typ, id, name, r)
}

// An Option configures a [Server].
type Option interface{ applyToServer(*options) }

type options struct {
	logger       *slog.Logger
	sql          storage.SQLEngine
	fallback     http.Handler
	interceptors []connect.ServerInterceptor
	http         []connecthttp.Option
	strictJSON   bool
	noReflection bool
	maxMessage   int
	keyHeaders   []string
	defaultName  string
	hasDefault   bool
	maxActive    int
	maxMemory    int64
	maxAlarms    int
	adminToken   *string // nil: the handler does not serve the admin service

	origins                   []string // of pages that may open WebSockets
	pingInterval, pingTimeout time.Duration
	noCompression             bool
}

func (o *options) check() error {
	for _, header := range o.keyHeaders {
		if err := durable.CheckKeyHeader(header); err != nil {
			return err
		}
	}
	if o.maxActive < 0 || o.maxMemory < 0 || o.maxAlarms < 0 {
		return fmt.Errorf("a limit is negative: %d objects, %d bytes, %d alarms", o.maxActive, o.maxMemory, o.maxAlarms)
	}
	if o.hasDefault {
		if err := durable.CheckName(o.defaultName); err != nil {
			return fmt.Errorf("the default name: %w", err)
		}
	}
	return errors.Join(o.checkSockets(), checkAdminToken(o.adminToken))
}

type option func(*options)

func (f option) applyToServer(o *options) { f(o) }

// WithLogger makes the server log panics of handlers, with their stacks, SQL
// errors that are no matter of the caller, such as a syntax error or a migration
// that failed, failures of the store, and every change through the admin service.
// Default: it logs nothing.
func WithLogger(logger *slog.Logger) Option {
	return option(func(o *options) { o.logger = logger })
}

// WithSQL gives objects SQL databases. Package sqlitedb has the engine; the
// caller closes it after the server. Default: [durable.SQL] fails with
// [durable.ErrNoSQL].
func WithSQL(engine storage.SQLEngine) Option {
	return option(func(o *options) { o.sql = engine })
}

// WithFallback serves the requests that are neither for an object nor for
// health or reflection, and whose paths do not begin with /-/. It goes on while
// the server drains. Default: 404.
func WithFallback(h http.Handler) Option {
	return option(func(o *options) { o.fallback = h })
}

// WithInterceptors wraps every call that comes over the network, before its
// message is read, in the order given. Calls within the process, health,
// reflection and the admin service do not pass them. Default: none.
func WithInterceptors(interceptors ...connect.ServerInterceptor) Option {
	return option(func(o *options) { o.interceptors = append(o.interceptors, interceptors...) })
}

// WithMaxMessageBytes limits the size of a request message, after decompression.
// A larger one is refused with code resource exhausted, and over a WebSocket with
// close code 1009. Default, and where n is 0 or less: 4 MiB. WebSockets have at
// most 32 MiB.
func WithMaxMessageBytes(n int) Option {
	return option(func(o *options) { o.maxMessage = n })
}

// WithHTTPOptions passes options on to Connect, such as compressors and codecs.
// Those of this package come after them. Default: none.
func WithHTTPOptions(opts ...connecthttp.Option) Option {
	return option(func(o *options) { o.http = append(o.http, opts...) })
}

// WithStrictJSON refuses JSON requests that have fields the schema does not
// know, instead of ignoring those fields, which is the default.
func WithStrictJSON() Option {
	return option(func(o *options) { o.strictJSON = true })
}

// WithKeyHeader is [durable.WithKeyHeader] for every type registered; those of
// the types add to it. [New] fails for a header that [durable.CheckKeyHeader]
// refuses.
func WithKeyHeader(header string) Option {
	return option(func(o *options) { o.keyHeaders = append(o.keyHeaders, header) })
}

// WithDefaultName is [durable.WithDefaultName] for every type registered that has
// none of its own. [New] fails for a name that [durable.CheckName] refuses.
func WithDefaultName(name string) Option {
	return option(func(o *options) { o.defaultName, o.hasDefault = name, true })
}

// WithMaxActive sets how many objects may be in memory before those that were not
// used for longest are dropped. Objects that serve a call, and types with
// [durable.WithKeepActive], stay, so there may be more. Default: no limit.
func WithMaxActive(n int) Option {
	return option(func(o *options) { o.maxActive = n })
}

// WithMaxMemory sets how big the live heap of the process may be, in bytes,
// before objects that were not used for longest are dropped, an eighth of them at
// a time. It is looked at once in a second, as of the last garbage collection; it
// is no hard limit. Default: none.
func WithMaxMemory(bytes int64) Option {
	return option(func(o *options) { o.maxMemory = bytes })
}

// WithMaxAlarms sets how many handlers of alarms run at once, in different
// objects. Default: 1024.
func WithMaxAlarms(n int) Option {
	return option(func(o *options) { o.maxAlarms = n })
}

// WithoutReflection does not serve gRPC reflection. Default: it is served.
func WithoutReflection() Option {
	return option(func(o *options) { o.noReflection = true })
}
