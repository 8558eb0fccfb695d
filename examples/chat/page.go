package main

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"
)

// dist is what `npm run build` in the folder web makes.
//
//go:embed all:web/dist
var dist embed.FS

// page serves the web page. The names of its parts, but for that of the page
// itself, change with what they hold.
func page() http.Handler {
	root, err := fs.Sub(dist, "web/dist")
	if err != nil {
		panic(err) // the path is not valid
	}
	files := http.FileServerFS(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			header.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			header.Set("Cache-Control", "no-cache")
		}
		files.ServeHTTP(w, r)
	})
}
