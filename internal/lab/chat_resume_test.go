package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

type following = durable.BidiStreamingClient[labv1.FollowRequest, labv1.FollowResponse]

// follow opens or resumes a connection. lose cuts it off.
func follow(t *testing.T, stub labv1durable.ChatLabStub, token string, received int) (stream *following, lose func()) {
	t.Helper()
	ctx, lose := context.WithCancel(t.Context())
	stream, err := stub.Follow(ctx, durable.WithHeader(durable.ResumeHeader, fmt.Sprintf("%s:%d", token, received)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream, lose
}

func followed(t *testing.T, stream *following, want ...string) {
	t.Helper()
	for _, text := range want {
		res, err := stream.Receive()
		if err != nil || res.GetText() != text {
			t.Fatalf("received %q, %v, want %q", res.GetText(), err, text)
		}
	}
}

// echo returns when the connection is open.
func echo(t *testing.T, stream *following, text string) {
	t.Helper()
	if err := stream.Send(&labv1.FollowRequest{Text: text}); err != nil {
		t.Fatal(err)
	}
	followed(t, stream, text)
}

func say(t *testing.T, stub labv1durable.ChatLabStub, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := stub.Say(t.Context(), &labv1.SayRequest{Text: text}); err != nil {
			t.Fatal(err)
		}
	}
}

const token = "0123456789abcdef"

// A client that lost its connection gets what it missed, once, also when the
// object left memory.
func TestChatResume(t *testing.T) {
	threeWays(t, func(t *testing.T, b *bench) {
		stub := b.chat(t)
		stream, lose := follow(t, stub, token, 0)
		echo(t, stream, "1")
		say(t, stub, "2")
		followed(t, stream, "2")
		lose()
		say(t, stub, "3", "4")
		if _, err := b.Server.Server().Evict(t.Context(), labv1durable.ChatLabType, stub.ID()); err != nil {
			t.Fatal(err)
		}
		say(t, stub, "5")
		stream, _ = follow(t, stub, token, 2)
		followed(t, stream, "3", "4", "5")
		say(t, stub, "6")
		followed(t, stream, "6")
		// Another takes over while the first still seems to be there.
		other, _ := follow(t, stub, token, 4)
		followed(t, other, "5", "6")
		if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeAborted {
			t.Fatalf("the one before ended with %v, want aborted", err)
		}
		say(t, stub, "7", "8", "9", "10", "11", "12", "13", "14", "15")
		followed(t, other, "7", "8", "9", "10", "11", "12", "13", "14", "15")
		// Eight messages are kept: the oldest is 8.
		late, _ := follow(t, stub, token, 6)
		if _, err := late.Receive(); connect.CodeOf(err) != connect.CodeOutOfRange {
			t.Fatalf("too late: %v, want out of range", err)
		}
	})
}

// What was sent, or was acknowledged as sent, is there after a crash and after a
// restart, and the connection with its attachment and tags.
func TestChatResumeRestart(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]func(*durabletest.Server){
		"crash": (*durabletest.Server).Crash, "restart": (*durabletest.Server).Restart,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lab.Lab{}
			s := durabletest.New(t, l.Register)
			stub := labv1durable.NewChatLabClient(durableconnect.New(s.HTTPClient(), s.URL())).GetByName("a")
			stream, _ := follow(t, stub, token, 0)
			echo(t, stream, "1")
			say(t, stub, "2")
			followed(t, stream, "2")
			restart(s)
			if _, err := stream.Receive(); err == nil {
				t.Fatal("the connection outlived the server")
			}
			say(t, stub, "3")
			stream, _ = follow(t, stub, token, 1)
			followed(t, stream, "2", "3")
			restart(s)
			stream, _ = follow(t, stub, token, 3)
			echo(t, stream, "4")
			if closed := l.Chat.Closed(); len(closed) != 0 {
				t.Fatalf("the handler was told of an end: %v", closed)
			}
			ahead, _ := follow(t, stub, token, 99)
			if _, err := ahead.Receive(); connect.CodeOf(err) != connect.CodeOutOfRange {
				t.Fatalf("a client that claims more than was sent: %v, want out of range", err)
			}
		})
	}
}

// A client that does not come back within the window of 60 s is told to the
// handler, also after a restart, and can resume no more.
func TestChatResumeWindow(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", again), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lab.Lab{}
				s := durabletest.New(t, l.Register)
				stub := labv1durable.NewChatLabClient(s.Conn()).GetByName("a")
				stream, lose := follow(t, stub, token, 0)
				echo(t, stream, "1")
				time.Sleep(200 * time.Second) // the timer is set again and again
				lose()
				time.Sleep(59 * time.Second)
				if closed := l.Chat.Closed(); len(closed) != 0 {
					t.Fatalf("closed within the window: %v", closed)
				}
				back, lose := follow(t, stub, token, 0)
				followed(t, back, "1")
				lose()
				synctest.Wait()
				if again {
					s.Crash()
				}
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				closed := l.Chat.Closed()
				var cause *durable.CloseError
				if len(closed) != 1 || !errors.As(closed[0], &cause) || cause.Code != durable.CloseAbnormal || cause.Clean {
					t.Fatalf("the handler was told %v, want code 1006 once", closed)
				}
				late, _ := follow(t, stub, token, 1)
				if _, err := late.Receive(); connect.CodeOf(err) != connect.CodeOutOfRange {
					t.Fatalf("too late: %v, want out of range", err)
				}
				if n := s.Server().Active(); n > 1 {
					t.Fatalf("%d objects in memory", n)
				}
			})
		})
	}
}
