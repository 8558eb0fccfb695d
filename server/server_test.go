package server_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
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
	if _, err := s.Objects(t.Context(), "lab.nothing"); !errors.Is(err, durable.ErrMethodUnknown) {
		t.Errorf("objects of an unknown type: %v", err)
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
	got, err := s.Objects(t.Context(), "lab.recorder")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
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
