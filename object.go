package durable

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	durablev1 "github.com/durable-go/durable/gen/durable/v1"
)

// SupportsGenerated1 is referred to by generated code of its first version. If
// it does not compile, the durable module is older than the generator.
const SupportsGenerated1 = true

// SupportsGenerated2 is for generated code with hibernatable methods.
const SupportsGenerated2 = true

// A Registrar takes object types. Package server and package durabletest have
// one.
type Registrar interface {
	// RegisterObject adds an object type. It fails when its type, or its
	// service, is registered already.
	RegisterObject(t *ObjectType) error
}

// An ObjectType describes one object type to a [Registrar]. Generated code
// makes it through [Register].
type ObjectType struct {
	// Name is the stored name.
	Name string
	// Service is the schema.
	Service protoreflect.ServiceDescriptor
	// New makes an activation: the constructor. What it writes is committed as
	// a turn of its own, before the first call.
	New func(ctx context.Context, tx Tx) (any, error)
	// Methods are the methods of the service, each once.
	Methods []Method
	// Alarms are the alarms that the schema declares, each once.
	Alarms []AlarmType
	// Limits are the limits of every object of the type.
	Limits Limits
	// DefaultName is the name of the object that calls without a key reach;
	// empty when they are refused.
	DefaultName string
	// KeyHeaders are further request headers that may carry the name.
	KeyHeaders []string
	// KeepActive keeps objects of the type in memory.
	KeepActive bool
	// PlainErrors keeps the runtime from adding to the errors of handlers.
	PlainErrors bool
}

// Limits bound one object. Zero fields mean the defaults; negative ones are
// refused by [Register] where they have no meaning. See [CloudflareLimits]
// for those of the platform.
type Limits struct {
	// MaxQueuedCalls is how many calls may wait for their turn. Default 1024.
	MaxQueuedCalls int
	// MaxQueuedBytes is how many bytes of requests may wait. Default 64 MiB.
	MaxQueuedBytes int64
	// MaxQueueWait is how long a call may wait for its turn. Default 30 s.
	MaxQueueWait time.Duration
	// HandlerTimeout is the deadline of a unary handler, where the caller set
	// none that is earlier. Default 30 s; negative: none.
	HandlerTimeout time.Duration
	// ConstructorTimeout is how long a constructor may run. Default 30 s.
	ConstructorTimeout time.Duration
	// AlarmTimeout is the deadline of the handler of an alarm. Default 15 min;
	// negative: none.
	AlarmTimeout time.Duration
	// BackgroundTimeout is how long the work of [Tx].Background may run. Default 15 min.
	BackgroundTimeout time.Duration
	// EventTimeout is the deadline of a handler of a connection: Open, Message and
	// Close. Default 30 s, at most 7 days; negative: none.
	EventTimeout time.Duration
	// MaxConns is how many connections an object may have. Default 32,768.
	MaxConns int
	// MaxConnBuffer is how many bytes may wait for the peer of a connection,
	// encoded. Default 4 MiB.
	MaxConnBuffer int64
	// MaxAttachmentBytes is the length of the longest attachment of a connection,
	// encoded. Default 16 KiB.
	MaxAttachmentBytes int
	// SendTimeout is how long the peer of a connection may take nothing of what
	// waits for it. Default 30 s.
	SendTimeout time.Duration
	// StuckTimeout is how long a turn may run on after its deadline before the
	// object is reset, so that other calls can go on; the handler that does not
	// end keeps its goroutine. Default 30 s; negative: for ever.
	StuckTimeout time.Duration
	// IdleTimeout is how long an object stays in memory after the last call of
	// it ended. Default 10 s.
	IdleTimeout time.Duration
	// ReplyRetention is how long the reply to a call with an idempotency key is
	// kept. Default 24 h.
	ReplyRetention time.Duration
	// GateTimeout is how long a reply waits for the commits ahead of it.
	// Default 30 s.
	GateTimeout time.Duration
	// MaxKeyBytes is the length of the longest key. Default 2 KiB.
	MaxKeyBytes int
	// MaxValueBytes is the length of the longest value. Default 2 MiB.
	MaxValueBytes int
	// MaxBatchKeys is how many keys one call of GetMany, PutMany or DeleteMany
	// takes. Default 128.
	MaxBatchKeys int
	// SQL bounds the SQL database.
	SQL SQLLimits
}

// WithDefaults returns l with its zero fields set to the defaults.
func (l Limits) WithDefaults() Limits {
	setDefault(&l.MaxQueuedCalls, 1024)
	setDefault(&l.MaxQueuedBytes, 64<<20)
	setDefault(&l.MaxQueueWait, 30*time.Second)
	setDefault(&l.HandlerTimeout, 30*time.Second)
	setDefault(&l.ConstructorTimeout, 30*time.Second)
	setDefault(&l.AlarmTimeout, 15*time.Minute)
	setDefault(&l.BackgroundTimeout, 15*time.Minute)
	setDefault(&l.EventTimeout, 30*time.Second)
	setDefault(&l.MaxConns, 32768)
	setDefault(&l.MaxConnBuffer, 4<<20)
	setDefault(&l.MaxAttachmentBytes, 16<<10)
	setDefault(&l.SendTimeout, 30*time.Second)
	setDefault(&l.StuckTimeout, 30*time.Second)
	setDefault(&l.IdleTimeout, 10*time.Second)
	setDefault(&l.ReplyRetention, 24*time.Hour)
	setDefault(&l.GateTimeout, 30*time.Second)
	setDefault(&l.MaxKeyBytes, DefaultMaxKeyBytes)
	setDefault(&l.MaxValueBytes, DefaultMaxValueBytes)
	setDefault(&l.MaxBatchKeys, DefaultMaxBatchKeys)
	l.SQL = l.SQL.withDefaults()
	return l
}

// check returns an error that names a limit that is negative, or one of SQL
// beyond what SQLite can do.
func (l Limits) check() error {
	for _, limit := range []struct {
		name     string
		negative bool
	}{
		{"MaxQueuedCalls", l.MaxQueuedCalls < 0},
		{"MaxQueuedBytes", l.MaxQueuedBytes < 0},
		{"MaxQueueWait", l.MaxQueueWait < 0},
		{"ConstructorTimeout", l.ConstructorTimeout < 0},
		{"BackgroundTimeout", l.BackgroundTimeout < 0},
		{"MaxConns", l.MaxConns < 0},
		{"MaxConnBuffer", l.MaxConnBuffer < 0},
		{"MaxAttachmentBytes", l.MaxAttachmentBytes < 0},
		{"SendTimeout", l.SendTimeout < 0},
		{"IdleTimeout", l.IdleTimeout < 0},
		{"ReplyRetention", l.ReplyRetention < 0},
		{"GateTimeout", l.GateTimeout < 0},
		{"MaxKeyBytes", l.MaxKeyBytes < 0},
		{"MaxValueBytes", l.MaxValueBytes < 0},
		{"MaxBatchKeys", l.MaxBatchKeys < 0},
	} {
		if limit.negative {
			return fmt.Errorf("the limit %s is negative", limit.name)
		}
	}
	if l.EventTimeout > maxEventTimeout {
		return fmt.Errorf("the limit EventTimeout is %v, and must be at most %v", l.EventTimeout, maxEventTimeout)
	}
	return l.SQL.check()
}

// maxEventTimeout is that of the platform.
const maxEventTimeout = 7 * 24 * time.Hour

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// An ObjectOption changes how an object type is served.
type ObjectOption interface{ applyToObject(*ObjectType) }

type objectOption func(*ObjectType)

func (f objectOption) applyToObject(t *ObjectType) { f(t) }

// WithLimits sets the limits of each object of the type. Zero fields keep the
// defaults.
func WithLimits(l Limits) ObjectOption {
	return objectOption(func(t *ObjectType) { t.Limits = l })
}

// WithDefaultName makes calls without a key reach the object of that name,
// instead of being refused. [Register] refuses a name that [CheckName] refuses.
func WithDefaultName(name string) ObjectOption {
	return objectOption(func(t *ObjectType) { t.DefaultName = name })
}

// WithKeyHeader makes a request header carry the name of the object, as it is,
// beside Durable-Name, whose value is percent-encoded. It can be given more than
// once. [Register] refuses a header that [CheckKeyHeader] refuses.
func WithKeyHeader(header string) ObjectOption {
	return objectOption(func(t *ObjectType) { t.KeyHeaders = append(t.KeyHeaders, header) })
}

// WithPlainErrors lets the errors that handlers return leave as they are,
// without a durable.v1.ErrorInfo beside their details. It is for services whose
// clients know nothing of objects. Errors of the runtime keep theirs.
func WithPlainErrors() ObjectOption {
	return objectOption(func(t *ObjectType) { t.PlainErrors = true })
}

// WithIdleTimeout sets how long an object of the type stays in memory after the
// last call of it ended. Default 10 s. It is one of the [Limits].
func WithIdleTimeout(d time.Duration) ObjectOption {
	return objectOption(func(t *ObjectType) { t.Limits.IdleTimeout = d })
}

// WithKeepActive keeps objects of the type in memory once they were called,
// whatever limits the server has.
func WithKeepActive() ObjectOption {
	return objectOption(func(t *ObjectType) { t.KeepActive = true })
}

// An Evicter is a handler that wants to know when its activation leaves memory.
type Evicter interface {
	// Evict is called when the object is about to be dropped because it was idle,
	// because of a limit, or because the server drains: not after an error, a
	// panic, an abort or a crash. No turn runs meanwhile, and none runs after on
	// this handler. It is for what the handler holds outside of the object; state
	// is written in turns, as they go. After ten seconds ctx ends, and the object
	// is dropped.
	Evict(ctx context.Context)
}

// A Part is a method or an alarm of an object type, given to [Register].
type Part interface{ addTo(*ObjectType) }

// Register describes an object type to r: its stored name, its schema, its
// constructor, which is called once for each activation, and its methods and
// alarms. Generated code calls it.
func Register[H any, T ~struct{ Tx }](
	r Registrar,
	name string,
	service protoreflect.ServiceDescriptor,
	newHandler func(context.Context, T) (H, error),
	opts []ObjectOption,
	parts ...Part,
) error {
	if newHandler == nil {
		return fmt.Errorf("durable: register %s: the constructor is nil", name)
	}
	t := &ObjectType{
		Name:    name,
		Service: service,
		New: func(ctx context.Context, tx Tx) (any, error) {
			h, err := newHandler(ctx, T(struct{ Tx }{tx}))
			if err != nil {
				return nil, err
			}
			if any(h) == nil {
				return nil, errors.New("the constructor returned nil")
			}
			return h, nil
		},
	}
	for _, part := range parts {
		part.addTo(t)
	}
	for _, opt := range opts {
		opt.applyToObject(t)
	}
	t.Limits = t.Limits.WithDefaults()
	if err := t.complete(); err != nil {
		return fmt.Errorf("durable: register %s: %w", name, err)
	}
	return r.RegisterObject(t)
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// CheckKeyHeader returns an error unless header can carry the names of objects:
// it is the name of an HTTP header, neither Host, which servers do not pass on,
// nor one of the runtime's, which begin with Durable-.
func CheckKeyHeader(header string) error {
	canonical := http.CanonicalHeaderKey(header)
	switch {
	case !headerName.MatchString(header):
		return fmt.Errorf("the key header %q is not the name of an HTTP header", header)
	case canonical == "Host" || strings.HasPrefix(canonical, "Durable-"):
		return fmt.Errorf("the key header %q has a meaning of its own", header)
	}
	return nil
}

var typeName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// complete checks t and fills in what the schema says of its methods.
func (t *ObjectType) complete() error {
	if !typeName.MatchString(t.Name) {
		return fmt.Errorf("the type name %q is not 1 to 128 letters, digits, '_', '-' and '.', beginning with a letter", t.Name)
	}
	if t.DefaultName != "" {
		if err := CheckName(t.DefaultName); err != nil {
			return fmt.Errorf("the default name: %w", err)
		}
	}
	for _, header := range t.KeyHeaders {
		if err := CheckKeyHeader(header); err != nil {
			return err
		}
	}
	if err := t.Limits.check(); err != nil {
		return err
	}
	descs := t.Service.Methods()
	if descs.Len() != len(t.Methods) {
		return fmt.Errorf("%d methods were given, the service has %d", len(t.Methods), descs.Len())
	}
	for i := range t.Methods {
		m := &t.Methods[i]
		prefix := "/" + string(t.Service.FullName()) + "/"
		if len(m.Procedure) <= len(prefix) || m.Procedure[:len(prefix)] != prefix {
			return fmt.Errorf("method %s is of another service", m.Procedure)
		}
		desc := descs.ByName(protoreflect.Name(m.Procedure[len(prefix):]))
		if desc == nil {
			return fmt.Errorf("the service has no method %s", m.Procedure)
		}
		if desc.IsStreamingClient() != m.ClientStream || desc.IsStreamingServer() != m.ServerStream {
			return fmt.Errorf("method %s streams in another direction than its schema says", m.Procedure)
		}
		m.Desc = desc
		m.readFields(desc.Input())
		if err := m.readOptions(); err != nil {
			return err
		}
	}
	return t.completeAlarms()
}

// readFields finds the fields of a request that have a meaning to the runtime.
func (m *Method) readFields(msg protoreflect.MessageDescriptor) {
	for i := range msg.Fields().Len() {
		field := msg.Fields().Get(i)
		opts, ok := field.Options().(*descriptorpb.FieldOptions)
		if !ok || !proto.HasExtension(opts, durablev1.E_Field) {
			continue
		}
		ext, _ := proto.GetExtension(opts, durablev1.E_Field).(*durablev1.FieldOptions)
		if kind := ext.GetKey(); kind != durablev1.KeyKind_KEY_KIND_UNSPECIFIED && m.KeyField == nil {
			m.KeyField, m.KeyKind = field, kind
		}
		text := field.Kind() == protoreflect.StringKind && field.Cardinality() != protoreflect.Repeated
		if ext.GetIdempotencyKey() && text && m.IdempotencyField == nil {
			m.IdempotencyField = field
		}
	}
}

// readOptions checks what the schema says of a method's connections, and fills in
// what it says of resuming them.
func (m *Method) readOptions() error {
	var ext *durablev1.MethodOptions
	if opts, ok := m.Desc.Options().(*descriptorpb.MethodOptions); ok {
		ext, _ = proto.GetExtension(opts, durablev1.E_Method).(*durablev1.MethodOptions)
	}
	hibernates := ext.GetStream() == durablev1.StreamMode_STREAM_MODE_HIBERNATABLE
	if hibernates != (m.Connection != nil) {
		return fmt.Errorf("method %s is hibernatable in its schema or in the code, but not in both: generate the code again", m.Procedure)
	}
	resume := ext.GetResume()
	if resume == nil || m.Connection == nil {
		return nil
	}
	limits := ResumeLimits{MaxMessages: int(resume.GetMaxMessages()), MaxBytes: int(resume.GetMaxBytes()), Window: 2 * time.Minute}
	if resume.GetWindow() != nil {
		limits.Window = resume.GetWindow().AsDuration()
	}
	setDefault(&limits.MaxMessages, 256)
	setDefault(&limits.MaxBytes, 1<<20)
	if limits.MaxMessages > 10_000 || limits.MaxBytes > 64<<20 || limits.Window < time.Second || limits.Window > 7*24*time.Hour {
		return fmt.Errorf("method %s keeps %d messages of %d bytes for %v for those who resume: at most 10,000 of 67,108,864 for 1s to 168h",
			m.Procedure, limits.MaxMessages, limits.MaxBytes, limits.Window)
	}
	m.Connection.Resume = &limits
	return nil
}

// completeAlarms checks the alarms of t and fills in what the schema says of
// them.
func (t *ObjectType) completeAlarms() error {
	var declared []*durablev1.AlarmOptions
	if opts, ok := t.Service.Options().(*descriptorpb.ServiceOptions); ok {
		ext, _ := proto.GetExtension(opts, durablev1.E_Service).(*durablev1.ServiceOptions)
		declared = ext.GetObject().GetAlarms()
	}
	if len(declared) != len(t.Alarms) {
		return fmt.Errorf("%d alarms were given, the service declares %d", len(t.Alarms), len(declared))
	}
	for i := range t.Alarms {
		a := &t.Alarms[i]
		d := declared[i]
		if a.Name != d.GetName() {
			return fmt.Errorf("the service declares no alarm %q in place %d", a.Name, i+1)
		}
		a.Retry = AlarmRetry{MaxRetries: 6, FirstDelay: 2 * time.Second}
		retry := d.GetRetry()
		if retry != nil && retry.MaxRetries != nil {
			a.Retry.MaxRetries = int(retry.GetMaxRetries())
		}
		if retry.GetUnlimited() {
			a.Retry.MaxRetries = -1
		}
		if retry.GetFirstDelay() != nil {
			a.Retry.FirstDelay = retry.GetFirstDelay().AsDuration()
		}
		if a.Retry.FirstDelay < time.Millisecond || a.Retry.FirstDelay > 24*time.Hour {
			return fmt.Errorf("the first delay of alarm %q is %v, and must be from 1ms to 24h", a.Name, a.Retry.FirstDelay)
		}
	}
	return nil
}
