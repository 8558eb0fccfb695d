package cart

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	cartv1 "github.com/durable-go/durable/internal/lab/gen/cart/v1"
	"github.com/durable-go/durable/internal/lab/gen/cart/v1/cartv1durable"
)

// The code of docs/testing.md stands in these tests, with the same lines.

func start(t *testing.T) (*durabletest.Server, cartv1durable.CartStub) {
	t.Helper()
	s := durabletest.New(t, Register)
	return s, cartv1durable.NewCartClient(s.Conn()).GetByName("ann")
}

func add(t *testing.T, cart cartv1durable.CartStub, item string) int64 {
	t.Helper()
	res, err := cart.Add(t.Context(), &cartv1.AddRequest{Item: item, Count: 1})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetCount()
}

func count(t *testing.T, cart cartv1durable.CartStub, item string) int64 {
	t.Helper()
	res, err := cart.Count(t.Context(), &cartv1.CountRequest{Item: item})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetCount()
}

func TestAdd(t *testing.T) {
	t.Parallel()
	s, cart := start(t)
	add(t, cart, "pen")
	if n := add(t, cart, "pen"); n != 2 {
		t.Errorf("%d pens, want 2", n)
	}
	if ids := s.ListIDs(cartv1durable.CartType); len(ids) != 1 {
		t.Errorf("%d carts", len(ids))
	}
}

func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	conn := durableconnect.New(s.HTTPClient(), s.URL())
	_, err := cartv1durable.NewCartClient(conn).GetByName("ann").Add(t.Context(), &cartv1.AddRequest{Item: "pen", Count: 11})
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Error(err)
	}
}

func TestExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, cart := start(t)
		add(t, cart, "pen")
		time.Sleep(59 * time.Minute)
		if n := count(t, cart, "pen"); n != 1 {
			t.Errorf("%d pens before the time, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		if n := count(t, cart, "pen"); n != 0 {
			t.Errorf("%d pens after the time, want none", n)
		}
	})
}

func TestExpireNow(t *testing.T) {
	t.Parallel()
	s, cart := start(t)
	add(t, cart, "pen")
	ran, err := s.RunAlarm(cart.Ref, cartv1durable.CartExpireAlarmName)
	if !ran || err != nil {
		t.Errorf("it ran: %t, error %v", ran, err)
	}
	if n := count(t, cart, "pen"); n != 0 {
		t.Errorf("%d pens", n)
	}
}

func TestInside(t *testing.T) {
	t.Parallel()
	s, stub := start(t)
	err := durabletest.RunIn(s, stub.Ref, func(ctx context.Context, c *cart, tx durable.Tx) error {
		c.limit = 100
		return tx.KV().Put(ctx, "pen", []byte("99"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := add(t, stub, "pen"); n != 100 {
		t.Errorf("%d pens, want 100", n)
	}
	err = durabletest.RunIn(s, stub.Ref, func(_ context.Context, _ *cart, tx durable.Tx) error {
		due, ok, err := cartv1durable.CartTx{Tx: tx}.Alarms().Expire().Get()
		if !ok || due.Before(tx.Now()) {
			t.Errorf("it expires: %t, at %v", ok, due)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRefusedInside(t *testing.T) {
	t.Parallel()
	s, stub := start(t)
	no := errors.New("no")
	err := durabletest.RunIn(s, stub.Ref, func(ctx context.Context, _ *cart, tx durable.Tx) error {
		return errors.Join(tx.KV().Put(ctx, "pen", []byte("1")), no)
	})
	if !errors.Is(err, no) || count(t, stub, "pen") != 0 {
		t.Error(err)
	}
}

func TestForgetsNothingStored(t *testing.T) {
	t.Parallel()
	s, cart := start(t)
	for i, again := range []func(){func() { s.Evict(cart.Ref) }, func() { s.EvictAll() }, s.Restart, s.Crash} {
		if n := add(t, cart, "pen"); n != int64(i+1) {
			t.Errorf("%d pens, want %d", n, i+1)
		}
		again()
	}
	s.Reset()
	if n := add(t, cart, "pen"); n != 1 {
		t.Errorf("%d pens after a reset, want 1", n)
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, cart := start(t)
		add(t, cart, "pen")
		time.Sleep(9 * time.Second)
		if n := s.Server().Active(); n != 1 {
			t.Errorf("%d objects in memory after 9 s, want 1", n)
		}
		time.Sleep(2 * time.Second)
		if n := s.Server().Active(); n != 0 {
			t.Errorf("%d objects in memory after 11 s, want none", n)
		}
	})
}

func TestCrash(t *testing.T) {
	t.Parallel()
	for point, want := range map[durabletest.CrashPoint]int64{
		durabletest.BeforeSync:  0,
		durabletest.AfterSync:   1,
		durabletest.BeforeReply: 1,
	} {
		t.Run(point.String(), func(t *testing.T) {
			s, cart := start(t)
			s.CrashAt(point)
			_, err := cart.Add(t.Context(), &cartv1.AddRequest{Item: "pen", Count: 1})
			if connect.CodeOf(err) != connect.CodeUnavailable {
				t.Errorf("error %v", err)
			}
			if n := count(t, cart, "pen"); n != want {
				t.Errorf("%d pens after the crash, want %d", n, want)
			}
		})
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	conn := durableconnect.New(s.HTTPClient(), s.URL())
	cart := cartv1durable.NewCartClient(conn).GetByName("ann")
	s.CrashAt(durabletest.BeforeReply)
	var header http.Header
	res, err := cart.Add(t.Context(), &cartv1.AddRequest{Item: "pen", Count: 1},
		durable.IdempotencyKey(), durable.WithResponseHeader(&header))
	if err != nil || res.GetCount() != 1 {
		t.Errorf("%d pens, error %v", res.GetCount(), err)
	}
	if header.Get("Durable-Replayed") != "true" {
		t.Error("the call was not repeated")
	}
	if n := count(t, cart, "pen"); n != 1 {
		t.Errorf("%d pens, want 1", n)
	}
}

// TestPage holds the code of docs/testing.md to the files of this package and to
// the schema.
func TestPage(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	for language, names := range map[string][]string{"go": {"cart.go", "cart_test.go"}, "proto": {"../proto/cart/v1/cart.proto"}} {
		for _, name := range names {
			sources[language] += unindented(read(t, name))
		}
	}
	blocks := regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(read(t, "../../../docs/testing.md"), -1)
	if len(blocks) < 8 {
		t.Fatalf("the page has %d blocks of code: has its form changed?", len(blocks))
	}
	for _, block := range blocks {
		for part := range strings.SplitSeq(block[2], "\n\n") {
			if !strings.Contains(sources[block[1]], unindented(part)) {
				t.Errorf("no file has these lines of the page:\n%s", part)
			}
		}
	}
}

// TestReadme holds the cart of the README to the files of this package.
func TestReadme(t *testing.T) {
	t.Parallel()
	source := unindented(read(t, "cart.go"))
	lines := 0
	for _, block := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(read(t, "../../../README.md"), -1) {
		if !strings.Contains(block[1], "(c *cart)") {
			continue
		}
		for line := range strings.SplitSeq(block[1], "\n") {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "//") {
				continue
			}
			lines++
			if !strings.Contains(source, "\n"+line+"\n") {
				t.Errorf("cart.go has no line %q", line)
			}
		}
	}
	if lines == 0 {
		t.Error("the README has no cart: has its form changed?")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unindented returns lines without their indentation, and without empty ones.
func unindented(text string) string {
	return "\n" + regexp.MustCompile(`\n\s*`).ReplaceAllString(strings.TrimSpace(text), "\n") + "\n"
}
