package durable_test

import (
	"strings"
	"testing"
	"time"

	durable "github.com/durable-go/durable"
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
