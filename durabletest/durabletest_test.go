package durabletest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"github.com/google/go-cmp/cmp"

	durable "github.com/durable-go/durable"
	"github.com/durable-go/durable/durableconnect"
	"github.com/durable-go/durable/durabletest"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// conns are the ways to call a server.
func conns(s *durabletest.Server) map[string]durable.Conn {
	return map[string]durable.Conn{
		"in process": s.Conn(),
		"Connect":    durableconnect.New(s.HTTPClient(), s.URL()),
		"gRPC":       durableconnect.New(s.HTTPClient(), s.URL(), connecthttp.WithGRPC()),
	}
}

func increment(ctx context.Context, conn durable.Conn, name string, delta int64) (int64, error) {
	res, err := labv1durable.NewCounterClient(conn).GetByName(name).Increment(ctx, &labv1.IncrementRequest{Delta: delta})
	return res.GetValue(), err
}

// TestBubble also finds goroutines that are left when the server was closed: a
// bubble does not end with them.
func TestBubble(t *testing.T) {
	t.Parallel()
	l := &lab.Lab{Options: []durable.ObjectOption{durable.WithLimits(durable.Limits{HandlerTimeout: 2 * time.Hour, MaxQueueWait: time.Minute})}}
	for _, way := range []string{"in process", "Connect", "gRPC"} {
		t.Run("an hour passes at once, "+way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, l.Register)
				r := labv1durable.NewRecorderClient(conns(s)[way]).GetByName("a")
				started := time.Now()
				if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "x", SleepMs: time.Hour.Milliseconds()}); err != nil {
					t.Fatal(err)
				}
				if passed := time.Since(started); passed < time.Hour || passed > time.Hour+time.Minute {
					t.Errorf("%v passed, want an hour", passed)
				}
			})
		})
		t.Run("overload by the age of the queue, "+way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := durabletest.New(t, l.Register)
				r := labv1durable.NewRecorderClient(conns(s)[way]).GetByName("a")
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "slow", SleepMs: time.Hour.Milliseconds()}); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
				started := time.Now()
				_, err := r.Append(t.Context(), &labv1.AppendRequest{Text: "late"})
				if info := durableconnect.ErrorInfo(err); info.GetReason() != durablev1.ErrorReason_ERROR_REASON_OVERLOADED {
					t.Errorf("error %v", err)
				}
				if passed := time.Since(started); passed < time.Minute || passed > 2*time.Minute {
					t.Errorf("%v passed, want a minute", passed)
				}
				wg.Wait()
			})
		})
	}
	t.Run("restart and crash", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := durabletest.New(t, l.Register)
			for i, again := range []func(){func() {}, s.Restart, s.Crash, s.Restart} {
				again()
				for way, conn := range conns(s) {
					if value, err := increment(t.Context(), conn, way, 1); err != nil || value != int64(i+1) {
						t.Errorf("%s, %d: value %d, error %v", way, i, value, err)
					}
				}
			}
		})
	})
	t.Run("a crash does not wait for handlers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := durabletest.New(t, l.Register)
			errs := make(chan error)
			for way, conn := range conns(s) {
				go func() {
					_, err := labv1durable.NewRecorderClient(conn).GetByName(way).Append(context.Background(),
						&labv1.AppendRequest{Text: "x", SleepMs: time.Hour.Milliseconds()})
					errs <- err
				}()
			}
			synctest.Wait()
			started := time.Now()
			s.Crash()
			if passed := time.Since(started); passed > time.Minute {
				t.Errorf("the crash took %v", passed)
			}
			for range conns(s) {
				if err := <-errs; err == nil {
					t.Error("a call that the crash cut off was acknowledged")
				}
			}
			for way, conn := range conns(s) {
				res, err := labv1durable.NewRecorderClient(conn).GetByName(way).ReadAll(t.Context(), &labv1.ReadAllRequest{})
				if err != nil || len(res.GetTexts()) > 0 {
					t.Errorf("%s: %v, error %v", way, res.GetTexts(), err)
				}
			}
		})
	})
	t.Run("a stream at a restart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := durabletest.New(t, l.Register)
			var streams []*durable.ServerStreamingClient[labv1.TailResponse]
			for way, conn := range conns(s) {
				stream, err := labv1durable.NewRecorderClient(conn).GetByName(way).Tail(t.Context(), &labv1.TailRequest{Texts: []string{"a"}, Hang: true})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := stream.Receive(); err != nil {
					t.Fatal(err)
				}
				streams = append(streams, stream)
			}
			s.Restart()
			for _, stream := range streams {
				if _, err := stream.Receive(); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("the stream ended with %v", err)
				}
				_ = stream.Close()
			}
		})
	})
}

func TestManyServers(t *testing.T) {
	t.Parallel()
	const servers = 100
	var wg sync.WaitGroup
	for i := range int64(servers) {
		s := durabletest.New(t, lab.Register)
		wg.Go(func() {
			for way, conn := range conns(s) {
				for n := range int64(3) {
					if value, err := increment(t.Context(), conn, way, i+1); err != nil || value != (n+1)*(i+1) {
						t.Errorf("server %d, %s: value %d, error %v", i, way, value, err)
					}
				}
			}
			if ids := s.ListIDs("lab.counter"); len(ids) != 3 {
				t.Errorf("server %d has %d objects", i, len(ids))
			}
		})
	}
	wg.Wait()
}

func TestCrashLosesOnlyWhatWasNotDurable(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	for way, conn := range conns(s) {
		t.Run(way, func(t *testing.T) {
			acknowledged := int64(0)
			for crash := range 5 {
				var mu sync.Mutex
				sent := acknowledged
				var wg sync.WaitGroup
				ready := make(chan struct{}, 1000)
				for range 4 {
					wg.Go(func() {
						for range 100 {
							mu.Lock()
							sent++
							mu.Unlock()
							if _, err := increment(context.Background(), conn, way, 1); err != nil {
								return
							}
							mu.Lock()
							acknowledged++
							mu.Unlock()
							ready <- struct{}{}
						}
					})
				}
				for range 20 {
					<-ready
				}
				s.Crash()
				wg.Wait()
				value, err := increment(t.Context(), conn, way, 0)
				if err != nil {
					t.Fatal(err)
				}
				if value < acknowledged || value > sent {
					t.Errorf("crash %d: the counter is %d, %d were acknowledged and %d sent", crash, value, acknowledged, sent)
				}
				acknowledged = value
			}
		})
	}
}

func TestSyncMakesUnconfirmedWritesDurable(t *testing.T) { // GATE-27
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	o := labv1durable.NewKVLabClient(s.Conn()).GetByName("a")
	put := func(key string, unconfirmed bool) *labv1.Step {
		return &labv1.Step{Do: &labv1.Step_Put{Put: &labv1.Pair{Key: []byte(key)}}, Unconfirmed: unconfirmed}
	}
	for _, steps := range [][]*labv1.Step{{put("a", false)}, {put("b", true)}, {{Do: &labv1.Step_Sync{}}}} {
		if _, err := o.Run(t.Context(), &labv1.RunRequest{Steps: steps}); err != nil {
			t.Fatal(err)
		}
	}
	s.Crash()
	res, err := o.Read(t.Context(), &labv1.ReadRequest{Steps: []*labv1.Step{{Do: &labv1.Step_List{List: &labv1.List{}}}}})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, p := range res.GetResults()[0].GetPairs() {
		keys = append(keys, string(p.GetKey()))
	}
	if diff := cmp.Diff([]string{"a", "b"}, keys); diff != "" {
		t.Errorf("keys after sync and crash (-want +got):\n%s", diff)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	s := durabletest.New(t, lab.Register)
	for range 2 {
		res, err := s.HTTPClient().Post(s.URL()+"/lab.v1.CounterService/Increment", "application/json", strings.NewReader(`{"name":"a","delta":"1"}`))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
			t.Errorf("status %d over HTTP %d: %s, error %v", res.StatusCode, res.ProtoMajor, body, err)
		}
		s.Restart()
	}
	if value, err := increment(t.Context(), s.Conn(), "a", 0); err != nil || value != 2 {
		t.Errorf("value %d, error %v", value, err)
	}
}

// A failing is a test that fails without ending the real one.
type failing struct {
	*testing.T
	said []string
}

func (f *failing) Helper() {}
func (f *failing) Errorf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(f)
}

func TestRegisterFails(t *testing.T) {
	t.Parallel()
	f := &failing{T: t}
	defer func() {
		if recover() != f {
			t.Error("New went on")
		}
		if len(f.said) != 1 || !strings.Contains(f.said[0], "no such thing") {
			t.Errorf("it said %q", f.said)
		}
	}()
	durabletest.New(f, func(durable.Registrar) error { return connect.NewError(connect.CodeInternal, "no such thing") })
}
