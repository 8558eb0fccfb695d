package server_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	adminv1 "github.com/durable-go/durable/gen/durable/admin/v1"
	labv1 "github.com/durable-go/durable/internal/lab/gen/lab/v1"
	"github.com/durable-go/durable/internal/lab/gen/lab/v1/labv1durable"
)

// TestAdminPage makes the calls of docs/admin.md, of objects that are like those
// of the page.
func TestAdminPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "admin.md"))
	if err != nil {
		t.Fatal(err)
	}
	o := operate(t)
	o.record(t, "a")
	if _, err := labv1durable.NewCounterClient(o.Conn()).GetByName("a").Increment(t.Context(), &labv1.IncrementRequest{Delta: 1}); err != nil {
		t.Fatal(err)
	}
	like := strings.NewReplacer(
		`"type":"counter"`, `"type":"lab.counter"`,
		`"type":"room"`, `"type":"lab.recorder"`, `"alarm":"sweep"`, `"alarm":"note"`, "chat.v1.SweepAlarm", "lab.v1.AppendRequest",
	)
	const service = "durable.admin.v1.AdminService"
	called := map[string]bool{}
	for _, pattern := range []string{
		`(?m)^curl -H 'Content-Type: application/json' -d '([^']*)' http://127\.0\.0\.1:9090/(\S+)$`,
		`(?m)^grpcurl -plaintext -d '([^']*)' 127\.0\.0\.1:9090 (\S+)$`,
	} {
		lines := regexp.MustCompile(pattern).FindAllStringSubmatch(string(page), -1)
		if len(lines) == 0 {
			t.Errorf("the page has no line like %s", pattern)
		}
		for _, line := range lines {
			method, ok := strings.CutPrefix(line[2], service+"/")
			a := o.post(t, method, like.Replace(line[1]))
			if !ok || a.status != http.StatusOK {
				t.Errorf("%s\nstatus %d: %s", line[0], a.status, a.body)
			}
			called[method] = true
		}
	}
	methods := adminv1.File_durable_admin_v1_admin_proto.Services().ByName("AdminService").Methods()
	for i := range methods.Len() {
		if name := string(methods.Get(i).Name()); !called[name] {
			t.Errorf("the page does not call %s", name)
		}
	}
	if !strings.Contains(string(page), "grpcurl -plaintext 127.0.0.1:9090 describe "+service+"\n") {
		t.Error("the page does not describe the service")
	}
}
