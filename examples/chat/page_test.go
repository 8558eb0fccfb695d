package main

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/durable-go/durable/durabletest"
	"github.com/durable-go/durable/server"
)

// TestPage gets the page, and everything it needs, from the server of the rooms.
func TestPage(t *testing.T) {
	s := durabletest.New(t, register, server.WithFallback(page()))
	get := func(path string) (*http.Response, string) {
		t.Helper()
		res, err := s.HTTPClient().Get(s.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(body)
	}
	res, html := get("/")
	if res.StatusCode != http.StatusOK || res.Header.Get("Cache-Control") != "no-cache" || !strings.HasPrefix(res.Header.Get("Content-Security-Policy"), "default-src 'self'") {
		t.Errorf("the page: %s, %v", res.Status, res.Header)
	}
	parts := regexp.MustCompile(`(?:src|href)="\.?(/[^"]+)"`).FindAllStringSubmatch(html, -1)
	if len(parts) < 3 {
		t.Errorf("the page names %q, want a script, a style and an icon", parts)
	}
	for _, part := range parts {
		if res, _ := get(part[1]); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", part[1], res.Status)
		} else if cache := res.Header.Get("Cache-Control"); strings.HasPrefix(part[1], "/assets/") != strings.Contains(cache, "immutable") {
			t.Errorf("%s: Cache-Control: %s", part[1], cache)
		}
	}
	if res, _ := get("/nothing"); res.StatusCode != http.StatusNotFound {
		t.Errorf("/nothing: %s, want 404", res.Status)
	}
}
