package lab_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	durable "github.com/durable-go/durable"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

type joining = durable.BidiStreamingClient[labv1.JoinRequest, labv1.JoinResponse]

func (b *bench) chat(t *testing.T, suffix ...string) labv1durable.ChatLabStub {
	return labv1durable.NewChatLabClient(b.conn).GetByName(b.name(t, suffix...))
}

func join(t *testing.T, stub labv1durable.ChatLabStub) *joining {
	t.Helper()
	stream, err := stub.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream
}

func sendText(t *testing.T, stream *joining, text string) {
	t.Helper()
	if err := stream.Send(&labv1.JoinRequest{Text: text}); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, stream *joining, want *labv1.JoinResponse) {
	t.Helper()
	got, err := stream.Receive()
	if err != nil {
		t.Fatalf("receive %v: %v", want, err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("received (-want +got):\n%s", diff)
	}
}

// WS-17, WS-24, WS-25, LIFE-04: messages go to and fro, the object leaves memory
// in between, and the attachment is kept.
func TestChatHibernates(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		stub := b.chat(t)
		stream := join(t, stub)
		for i := range int64(3) {
			sendText(t, stream, "hello")
			receive(t, stream, &labv1.JoinResponse{Text: "hello", Number: i + 1})
			before := b.lab.Constructed.Load()
			if was, err := b.Server.Server().Evict(t.Context(), labv1durable.ChatLabType, stub.ID()); err != nil || !was {
				t.Fatalf("evict: %v, %v, want true", was, err)
			}
			res, err := stub.Who(t.Context(), &labv1.WhoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.GetPeers()) != 1 || res.GetPeers()[0].GetAttachment().GetReceived() != i+1 {
				t.Fatalf("the connections after an eviction: %v", res)
			}
			if b.lab.Constructed.Load() == before {
				t.Fatal("no constructor ran: the object was not evicted")
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last message: %v, want EOF", err)
		}
	})
}

// A connection from the server opens with what Open sends, and gets what others
// send.
func TestChatWatch(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		stub := b.chat(t)
		stream, err := stub.Watch(ctx, &labv1.WatchRequest{Texts: []string{"one", "two"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stub.Say(ctx, &labv1.SayRequest{Text: "three"}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"one", "two", "three"} {
			res, err := stream.Receive()
			if err != nil || res.GetText() != want {
				t.Fatalf("received %v, %v, want %q", res, err, want)
			}
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
