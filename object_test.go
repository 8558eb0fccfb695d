package durable_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	durable "github.com/durable-go/durable"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
)

type registrar struct{ types []*durable.ObjectType }

func (r *registrar) RegisterObject(t *durable.ObjectType) error {
	r.types = append(r.types, t)
	return nil
}

func TestRegisterChecksOptions(t *testing.T) {
	limits := func(l durable.Limits) durable.ObjectOption { return durable.WithLimits(l) }
	for name, c := range map[string]struct {
		opt  durable.ObjectOption
		want string // empty: accepted
	}{
		"MaxQueuedCalls":     {limits(durable.Limits{MaxQueuedCalls: -1}), "MaxQueuedCalls"},
		"MaxQueuedBytes":     {limits(durable.Limits{MaxQueuedBytes: -1}), "MaxQueuedBytes"},
		"MaxQueueWait":       {limits(durable.Limits{MaxQueueWait: -time.Second}), "MaxQueueWait"},
		"HandlerTimeout":     {limits(durable.Limits{HandlerTimeout: -1}), ""},
		"ConstructorTimeout": {limits(durable.Limits{ConstructorTimeout: -1}), "ConstructorTimeout"},
		"AlarmTimeout":       {limits(durable.Limits{AlarmTimeout: -1}), ""},
		"BackgroundTimeout":  {limits(durable.Limits{BackgroundTimeout: -1}), "BackgroundTimeout"},
		"StuckTimeout":       {limits(durable.Limits{StuckTimeout: -1}), ""},
		"IdleTimeout":        {limits(durable.Limits{IdleTimeout: -1}), "IdleTimeout"},
		"WithIdleTimeout":    {durable.WithIdleTimeout(-1), "IdleTimeout"},
		"ReplyRetention":     {limits(durable.Limits{ReplyRetention: -1}), "ReplyRetention"},
		"GateTimeout":        {limits(durable.Limits{GateTimeout: -1}), "GateTimeout"},
		"MaxKeyBytes":        {limits(durable.Limits{MaxKeyBytes: -1}), "MaxKeyBytes"},
		"MaxValueBytes":      {limits(durable.Limits{MaxValueBytes: -1}), "MaxValueBytes"},
		"MaxBatchKeys":       {limits(durable.Limits{MaxBatchKeys: -1}), "MaxBatchKeys"},
		"key header":         {durable.WithKeyHeader("X-Tenant"), ""},
		"no key header":      {durable.WithKeyHeader(""), "not the name of an HTTP header"},
		"key header of ours": {durable.WithKeyHeader("durable-x"), "a meaning of its own"},
		"default name":       {durable.WithDefaultName("a\xff"), "the default name"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&lab.Lab{Options: []durable.ObjectOption{c.opt}}).Register(&registrar{})
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestRegisterAppliesOptions(t *testing.T) {
	r := &registrar{}
	if err := (&lab.Lab{}).Register(r); err != nil {
		t.Fatal(err)
	}
	if got := r.types[0]; got.KeepActive || got.Limits.IdleTimeout != 10*time.Second {
		t.Errorf("by default KeepActive is %t, and the idle timeout %v", got.KeepActive, got.Limits.IdleTimeout)
	}
	r = &registrar{}
	opts := []durable.ObjectOption{durable.WithKeepActive(), durable.WithIdleTimeout(time.Minute)}
	if err := (&lab.Lab{Options: opts}).Register(r); err != nil {
		t.Fatal(err)
	}
	if got := r.types[0]; !got.KeepActive || got.Limits.IdleTimeout != time.Minute || got.Limits.GateTimeout != 30*time.Second {
		t.Errorf("KeepActive is %t, the limits are %+v", got.KeepActive, got.Limits)
	}
}

// TestRegisterAlarms registers alarms against what the schema declares.
func TestRegisterAlarms(t *testing.T) {
	delay := func(d time.Duration) *durablev1.AlarmOptions {
		return &durablev1.AlarmOptions{Name: "sweep", Retry: &durablev1.AlarmRetry{FirstDelay: durationpb.New(d)}}
	}
	for _, c := range []struct {
		name     string
		declared []*durablev1.AlarmOptions
		given    []string // names
		want     []durable.AlarmRetry
		wantErr  string
	}{
		{name: "none"},
		{
			name:     "ALM-30 ALM-31 by default six retries, the first after two seconds",
			declared: []*durablev1.AlarmOptions{{}, {Name: "sweep", Retry: &durablev1.AlarmRetry{}}},
			given:    []string{"", "sweep"},
			want:     []durable.AlarmRetry{{MaxRetries: 6, FirstDelay: 2 * time.Second}, {MaxRetries: 6, FirstDelay: 2 * time.Second}},
		},
		{
			name: "ALM-38 a policy of its own",
			declared: []*durablev1.AlarmOptions{
				{Name: "never", Retry: &durablev1.AlarmRetry{MaxRetries: proto.Uint32(0)}},
				{Name: "always", Retry: &durablev1.AlarmRetry{Unlimited: true, FirstDelay: durationpb.New(time.Minute)}},
				{Name: "often", Retry: &durablev1.AlarmRetry{MaxRetries: proto.Uint32(1000)}},
			},
			given: []string{"never", "always", "often"},
			want: []durable.AlarmRetry{
				{MaxRetries: 0, FirstDelay: 2 * time.Second},
				{MaxRetries: -1, FirstDelay: time.Minute},
				{MaxRetries: 1000, FirstDelay: 2 * time.Second},
			},
		},
		{
			name:     "the shortest delay",
			declared: []*durablev1.AlarmOptions{delay(time.Millisecond)}, given: []string{"sweep"},
			want: []durable.AlarmRetry{{MaxRetries: 6, FirstDelay: time.Millisecond}},
		},
		{
			name:     "the longest delay",
			declared: []*durablev1.AlarmOptions{delay(24 * time.Hour)}, given: []string{"sweep"},
			want: []durable.AlarmRetry{{MaxRetries: 6, FirstDelay: 24 * time.Hour}},
		},
		{
			name:     "a delay too short",
			declared: []*durablev1.AlarmOptions{delay(time.Millisecond - 1)}, given: []string{"sweep"},
			wantErr: `the first delay of alarm "sweep" is 999.999µs, and must be from 1ms to 24h`,
		},
		{
			name:     "a delay too long",
			declared: []*durablev1.AlarmOptions{delay(24*time.Hour + 1)}, given: []string{"sweep"},
			wantErr: `the first delay of alarm "sweep" is 24h0m0.000000001s, and must be from 1ms to 24h`,
		},
		{
			name:     "a delay of zero",
			declared: []*durablev1.AlarmOptions{delay(0)}, given: []string{"sweep"},
			wantErr: `the first delay of alarm "sweep" is 0s`,
		},
		{
			name:     "ALM-06 one that is not declared",
			declared: []*durablev1.AlarmOptions{{Name: "sweep"}}, given: []string{"sweep", "report"},
			wantErr: "2 alarms were given, the service declares 1",
		},
		{
			name:     "one too few",
			declared: []*durablev1.AlarmOptions{{Name: "sweep"}, {}}, given: []string{"sweep"},
			wantErr: "1 alarms were given, the service declares 2",
		},
		{
			name:     "of another name",
			declared: []*durablev1.AlarmOptions{{}, {Name: "sweep"}}, given: []string{"", "swept"},
			wantErr: `the service declares no alarm "swept" in place 2`,
		},
		{
			name:     "in another order",
			declared: []*durablev1.AlarmOptions{{}, {Name: "sweep"}}, given: []string{"sweep", ""},
			wantErr: `the service declares no alarm "sweep" in place 1`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var parts []durable.Part
			for _, name := range c.given {
				parts = append(parts, durable.AlarmType{Name: name})
			}
			r := &registrar{}
			err := register(r, service(t, &durablev1.ObjectOptions{Alarms: c.declared}), append(parts, durable.Method{Procedure: "/t.Service/Do"}))
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) || len(r.types) > 0 {
					t.Errorf("error %v, want %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []durable.AlarmRetry
			for i, a := range r.types[0].Alarms {
				if got = append(got, a.Retry); a.Name != c.given[i] {
					t.Errorf("alarm %d is called %q", i, a.Name)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestRegisterReadsFields finds the fields of a request that have a meaning.
func TestRegisterReadsFields(t *testing.T) {
	name := &durablev1.FieldOptions{Key: durablev1.KeyKind_KEY_KIND_NAME}
	id := &durablev1.FieldOptions{Key: durablev1.KeyKind_KEY_KIND_ID}
	idempotency := &durablev1.FieldOptions{IdempotencyKey: true}
	for _, c := range []struct {
		name             string
		fields           []*durablev1.FieldOptions // of a, b, c and so on; nil: without options
		key, idempotency string                    // fields; empty: none
		kind             durablev1.KeyKind
	}{
		{name: "no fields"},
		{name: "none has options", fields: []*durablev1.FieldOptions{nil, nil}},
		{name: "empty options", fields: []*durablev1.FieldOptions{{}}},
		{name: "a key", fields: []*durablev1.FieldOptions{nil, name}, key: "b", kind: durablev1.KeyKind_KEY_KIND_NAME},
		{name: "an idempotency key", fields: []*durablev1.FieldOptions{nil, idempotency}, idempotency: "b"},
		{
			name:   "both, in either order",
			fields: []*durablev1.FieldOptions{idempotency, nil, id},
			key:    "c", kind: durablev1.KeyKind_KEY_KIND_ID, idempotency: "a",
		},
		{
			name:   "the first of each counts",
			fields: []*durablev1.FieldOptions{id, idempotency, name, idempotency},
			key:    "a", kind: durablev1.KeyKind_KEY_KIND_ID, idempotency: "b",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &registrar{}
			if err := register(r, service(t, &durablev1.ObjectOptions{}, c.fields...), []durable.Part{durable.Method{Procedure: "/t.Service/Do"}}); err != nil {
				t.Fatal(err)
			}
			m := r.types[0].Methods[0]
			if got := fieldName(m.KeyField); got != c.key || m.KeyKind != c.kind {
				t.Errorf("the key is %q of kind %v, want %q of kind %v", got, m.KeyKind, c.key, c.kind)
			}
			if got := fieldName(m.IdempotencyField); got != c.idempotency {
				t.Errorf("the idempotency key is %q, want %q", got, c.idempotency)
			}
		})
	}
}

func fieldName(field protoreflect.FieldDescriptor) string {
	if field == nil {
		return ""
	}
	return string(field.Name())
}

type plainTx struct{ durable.Tx }

func register(r durable.Registrar, service protoreflect.ServiceDescriptor, parts []durable.Part) error {
	return durable.Register(r, "t", service, func(context.Context, plainTx) (any, error) { return 1, nil }, nil, parts...)
}

// service returns the service t.Service, whose only method, Do, has requests with
// string fields a, b, c and so on with those options.
func service(t *testing.T, object *durablev1.ObjectOptions, fields ...*durablev1.FieldOptions) protoreflect.ServiceDescriptor {
	t.Helper()
	opts := &descriptorpb.ServiceOptions{}
	proto.SetExtension(opts, durablev1.E_Service, &durablev1.ServiceOptions{Object: object})
	msg := &descriptorpb.DescriptorProto{Name: proto.String("Request")}
	for i, field := range fields {
		desc := &descriptorpb.FieldDescriptorProto{
			Name: proto.String(string(rune('a' + i))), Number: proto.Int32(int32(i + 1)),
			Type:  descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
		if field != nil {
			desc.Options = &descriptorpb.FieldOptions{}
			proto.SetExtension(desc.Options, durablev1.E_Field, field)
		}
		msg.Field = append(msg.Field, desc)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("t"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{msg},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Service"), Options: opts,
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name: proto.String("Do"), InputType: proto.String(".t.Request"), OutputType: proto.String(".t.Request"),
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Services().Get(0)
}
