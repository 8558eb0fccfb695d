package server_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
	"github.com/durable-go/durable/server"
	"github.com/durable-go/durable/storage/memkv"
)

func TestRegister(t *testing.T) {
	t.Parallel()
	engine := memkv.New(memkv.Options{})
	s, err := server.New(t.Context(), engine)
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Register(s); err != nil {
		t.Fatal(err)
	}
	if err := lab.Register(s); err == nil || !strings.Contains(err.Error(), "registered already") {
		t.Errorf("twice: %v", err)
	}
	if s.Handler() == nil {
		t.Error("no handler")
	}
	if err := lab.Register(s); err == nil || !strings.Contains(err.Error(), "in use already") {
		t.Errorf("after Handler: %v", err)
	}
	for o, err := range s.Objects(t.Context(), "lab.nothing") {
		if o != (server.Object{}) || !errors.Is(err, durable.ErrMethodUnknown) {
			t.Errorf("objects of an unknown type: %v, %v", o, err)
		}
	}
	if _, err := s.Evict(t.Context(), "lab.nothing", durable.ID{}); !errors.Is(err, durable.ErrMethodUnknown) {
		t.Errorf("evict an unknown type: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestObjectsAreListedInOrder(t *testing.T) {
	t.Parallel()
	s, err := server.New(t.Context(), memkv.New(memkv.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Register(s); err != nil {
		t.Fatal(err)
	}
	client := labv1durable.NewRecorderClient(s.Conn())
	var want []durable.ID
	unnamed := client.NewUniqueID()
	want = append(want, unnamed) // objects without a name come first
	for _, name := range []string{"Z", "a", "b", "é"} {
		want = append(want, client.IDFromName(name))
	}
	for _, i := range []int{3, 1, 0, 4, 2} {
		stub := client.Get(want[i])
		if i > 0 {
			stub = client.GetByName([]string{"Z", "a", "b", "é"}[i-1])
		}
		if _, err := stub.Append(t.Context(), &labv1.AppendRequest{Text: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	var got []durable.ID
	var names []string
	for o, err := range s.Objects(t.Context(), "lab.recorder") {
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(o.Created); age < 0 || age > time.Hour {
			t.Errorf("%q was made %v ago", o.Name, age)
		}
		got, names = append(got, o.ID), append(names, o.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"", "Z", "a", "b", "é"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for range s.Objects(t.Context(), "lab.recorder") {
		break // an iteration can be left
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for o, err := range s.Objects(gone, "lab.recorder") {
		if o != (server.Object{}) || !errors.Is(err, context.Canceled) {
			t.Errorf("when the caller left: %v, %v", o, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestServerWideKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opt  server.Option
		want string
	}{
		"no header":            {server.WithKeyHeader(""), "not the name of an HTTP header"},
		"a header of two":      {server.WithKeyHeader("X Tenant"), "not the name of an HTTP header"},
		"a header of ours":     {server.WithKeyHeader("durable-tenant"), "a meaning of its own"},
		"Host":                 {server.WithKeyHeader("Host"), "a meaning of its own"},
		"an empty name":        {server.WithDefaultName(""), "the default name"},
		"a name that is wrong": {server.WithDefaultName("a\x00"), "NUL"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := server.New(t.Context(), memkv.New(memkv.Options{}), c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	wide := []server.Option{server.WithKeyHeader("X-Tenant"), server.WithDefaultName("main")}
	plain := durabletest.New(t, lab.Register, wide...)
	own := &lab.Lab{Options: []durable.ObjectOption{durable.WithKeyHeader("X-Room"), durable.WithDefaultName("lobby")}}
	overridden := durabletest.New(t, own.Register, wide...)
	for name, c := range map[string]struct {
		s      *durabletest.Server
		header http.Header
		want   string
	}{
		"header of the server":                 {plain, http.Header{"X-Tenant": {"t"}}, "t"},
		"default of the server":                {plain, nil, "main"},
		"both kinds of headers, of the server": {overridden, http.Header{"X-Tenant": {"t"}}, "t"},
		"both kinds of headers, of the type":   {overridden, http.Header{"X-Room": {"r"}}, "r"},
		"the default of the type comes first":  {overridden, nil, "lobby"},
	} {
		t.Run(name, func(t *testing.T) {
			if a := post(t, c.s, whoami, `{}`, c.header); a.field(t, "name") != c.want {
				t.Errorf("status %d, want %q: %s", a.status, c.want, a.body)
			}
		})
	}
}

// TestTakeover: a second server ends the first, which says so.
func TestTakeover(t *testing.T) {
	t.Parallel()
	engine := memkv.New(memkv.Options{})
	start := func() *server.Server {
		s, err := server.New(t.Context(), engine)
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.Register(s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := start()
	counter := labv1durable.NewCounterClient(first.Conn()).GetByName("a")
	if _, err := counter.Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
		t.Fatal(err)
	}
	if first.Err() != nil {
		t.Errorf("before: %v", first.Err())
	}
	second := start()
	<-first.Done()
	if first.Err() == nil {
		t.Error("the first server does not say why it is over")
	}
	if _, err := counter.Get(t.Context(), &labv1.GetRequest{}); err == nil {
		t.Error("the first server answered from memory")
	}
	res, err := labv1durable.NewCounterClient(second.Conn()).GetByName("a").Increment(t.Context(), &labv1.IncrementRequest{Delta: 1})
	if err != nil || res.GetValue() != 2 {
		t.Errorf("value %d, error %v", res.GetValue(), err)
	}
}
