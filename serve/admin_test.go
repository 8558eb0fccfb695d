package serve_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/durable-go/durable/durableconnect"
	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	"github.com/durable-go/durable/gen/durable/admin/v1/adminv1connect"
	durablev1 "github.com/durable-go/durable/gen/durable/v1"
	"github.com/durable-go/durable/internal/lab"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

var adminAddress = regexp.MustCompile(`The admin service is on (https?://[0-9.:]+)\n`)

// adminURL returns where the admin service is, once the server has said so.
func (p *process) adminURL(t *testing.T) string {
	t.Helper()
	for {
		if m := adminAddress.FindStringSubmatch(p.stdout.String()); m != nil {
			return m[1]
		}
		select {
		case <-p.stdout.wrote:
		case <-p.done:
			t.Fatalf("the server does not run: %v\n%s", p.err, p.stderr.String())
		}
	}
}

func adminClient(url string, opts ...connecthttp.Option) adminv1connect.AdminServiceClient {
	return adminv1connect.NewAdminServiceClient(connect.NewClient(connecthttp.NewTransport(h2c(), url, opts...)))
}

func TestAdmin(t *testing.T) { // SEC-01
	t.Parallel()
	p := run(t, lab.Register, "--data", t.TempDir(), "--admin-listen", "localhost:0").running(t)
	url := p.adminURL(t)
	conn := durableconnect.New(h2c(), p.url)
	if _, err := appendText(t.Context(), conn, "x", 0); err != nil {
		t.Fatal(err)
	}
	for _, opts := range [][]connecthttp.Option{nil, {connecthttp.WithGRPC()}} {
		res, err := adminClient(url, opts...).ListObjects(t.Context(), &adminv1.ListObjectsRequest{Type: "lab.recorder"})
		if err != nil || len(res.GetObjects()) != 1 || res.GetObjects()[0].GetName() != "a" {
			t.Errorf("%v, %v", res, err)
		}
	}
	_, err := adminClient(p.url).ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{})
	if connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("on the public port: %v", err)
	}
	if _, err := appendText(t.Context(), durableconnect.New(h2c(), url), "x", 0); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("an object on the admin port: %v", err)
	}
	t.Run("only for requests to this machine", func(t *testing.T) {
		for host, want := range map[string]int{
			"": 200, "localhost": 200, "LOCALHOST:80": 200, "127.0.0.9:80": 200, "[::1]:80": 200, "::1": 200,
			"evil.example": 403, "evil.example:80": 403, "10.0.0.1:80": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example:80": 403,
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/durable.admin.v1.AdminService/ListObjectTypes", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Host = host
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("host %q: status %d: %s", host, res.StatusCode, body)
			}
		}
	})
	t.Run("a call under way at the end", func(t *testing.T) {
		slow := make(chan error, 1)
		go func() {
			_, err := appendText(context.Background(), conn, "slow", 300*time.Millisecond)
			slow <- err
		}()
		for { // until the slow call holds the turn
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := labv1durable.NewRecorderClient(conn).GetByName("a").ReadAll(ctx, &labv1.ReadAllRequest{})
			cancel()
			if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
				break
			}
		}
		client, looked := adminClient(url), make(chan error, 1)
		began := make(chan struct{})
		go func() {
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
				WroteRequest: func(httptrace.WroteRequestInfo) { close(began) },
			})
			_, err := client.DescribeObject(ctx, &adminv1.DescribeObjectRequest{
				Type: "lab.recorder", Key: &adminv1.DescribeObjectRequest_Name{Name: "a"},
			})
			looked <- err
		}()
		<-began
		if err := p.end(); err != nil {
			t.Errorf("run: %v\n%s", err, p.stderr.String())
		}
		if err := <-slow; err != nil {
			t.Errorf("the call of the object: %v", err)
		}
		// It came before or after the drain began; its connection was not cut.
		if err := <-looked; err != nil && durableconnect.ErrorInfo(err).GetReason() != durablev1.ErrorReason_ERROR_REASON_DRAINING {
			t.Errorf("the call of the admin service: %v", err)
		}
		// On the same connection, if that is still there.
		if _, err := client.ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{}); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("a call afterwards: %v", err)
		}
	})
}

func TestAdminToken(t *testing.T) { // SEC-01
	t.Parallel()
	const token = "correct-horse-battery"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, lab.Register, "--data", t.TempDir(), "--admin-listen", "127.0.0.1:0", "--admin-token-file", file).running(t)
	url := p.adminURL(t)
	client := adminClient(url)
	if _, err := client.ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{}); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without the token: %v", err)
	}
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Authorization", "Bearer "+token)
	if _, err := client.ListObjectTypes(ctx, &adminv1.ListObjectTypesRequest{}); err != nil {
		t.Errorf("with it: %v", err)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	for name, out := range map[string]string{"output": p.stdout.String(), "log": p.stderr.String()} {
		if strings.Contains(out, token) {
			t.Errorf("the %s tells the token:\n%s", name, out)
		}
	}
	if want := `curl -H "Authorization: Bearer $(cat '` + file + `')" -H`; !strings.Contains(p.stdout.String(), want) {
		t.Errorf("no %s in\n%s", want, p.stdout.String())
	}
}

// TestAdminListensNowhereByDefault: the output names one address, and the service
// is not on it.
func TestAdminListensNowhereByDefault(t *testing.T) { // SEC-01
	t.Parallel()
	p := run(t, lab.Register, "--data", t.TempDir()).running(t)
	if _, err := adminClient(p.url).ListObjectTypes(t.Context(), &adminv1.ListObjectTypesRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("%v", err)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.stdout.String(), "admin") {
		t.Errorf("output:\n%s", p.stdout.String())
	}
}
