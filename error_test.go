package durable_test

import (
	"errors"
	"fmt"
	"testing"

	durable "github.com/durable-go/durable"
)

func TestKeep(t *testing.T) {
	boom := errors.New("boom")
	if durable.Keep(nil) != nil {
		t.Error("Keep(nil) is an error")
	}
	kept := durable.Keep(boom)
	for name, err := range map[string]error{"kept": kept, "wrapped": fmt.Errorf("outer: %w", kept)} {
		if inner, ok := durable.Kept(err); !ok || inner.Error() != "boom" {
			t.Errorf("%s: %v, %v", name, inner, ok)
		}
		if !errors.Is(err, boom) {
			t.Errorf("%s: the error inside is lost", name)
		}
	}
	if err, ok := durable.Kept(boom); ok || !errors.Is(err, boom) {
		t.Errorf("not kept: %v, %v", err, ok)
	}
	if _, ok := durable.Kept(nil); ok {
		t.Error("nil is kept")
	}
}

func TestErrorsAreTold(t *testing.T) {
	if !errors.Is(&durable.AbortError{Reason: "x"}, durable.ErrReset) {
		t.Error("an abort is no reset")
	}
	if err := durable.Unimplemented("/a.B/C"); !errors.Is(err, durable.ErrUnimplemented) {
		t.Errorf("%v", err)
	}
	boom := errors.New("boom")
	if !errors.Is(&durable.ConstructorError{Err: boom}, boom) {
		t.Error("the constructor's error is lost")
	}
}
