package serve

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/durable-go/durable/server"
)

// An adminPort is the port of the admin service, or none where its port is nil.
type adminPort struct {
	*port
	options []server.AdminOption
	token   bool // calls must show one
}

// listenAdmin opens the port of the admin service, where the flags ask for one.
// Without a token it opens none that other machines reach.
func listenAdmin(c config, log *slog.Logger) (*adminPort, error) {
	if c.admin == "" {
		return &adminPort{}, nil
	}
	a := &adminPort{}
	if c.adminTokenFile != "" {
		text, err := os.ReadFile(c.adminTokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the admin token: %w", err)
		}
		a.token = true
		a.options = []server.AdminOption{server.RequireToken(strings.TrimSpace(string(text)))}
	}
	address, err := net.ResolveTCPAddr("tcp", c.admin)
	if err != nil {
		return nil, fmt.Errorf("--admin-listen %s: %w", c.admin, err)
	}
	if !a.token && !address.IP.IsLoopback() {
		return nil, fmt.Errorf("--admin-listen %s: others than this machine can reach the address, so it needs --admin-token-file; or use 127.0.0.1:%d", c.admin, address.Port)
	}
	if a.port, err = listen(c, "--admin-listen", address.String(), log); err != nil {
		return nil, err
	}
	return a, nil
}

// handle makes the port serve the admin service of s.
func (a *adminPort) handle(s *server.Server) error {
	if a.port == nil {
		return nil
	}
	h, err := s.AdminHandler(a.options...)
	if err != nil {
		return fmt.Errorf("--admin-token-file: %w", err)
	}
	if !a.token {
		h = onlyLocal(h)
	}
	a.web.Handler = h
	return nil
}

// onlyLocal refuses requests for a host other than this machine. A web page that
// gave its own name the address 127.0.0.1 would make a browser send them.
func onlyLocal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if !strings.EqualFold(host, "localhost") && (err != nil || !ip.IsLoopback()) {
			http.Error(w, "the admin service is for requests to localhost or an address of the loopback, unless it has a token", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
