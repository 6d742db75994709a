package main

import (
	"embed"
	"io/fs"
	"net/http"
)

// The page is served as it stands in the directory page. It has no build step and takes
// nothing from other hosts, which the Content-Security-Policy enforces.

//go:embed page
var pageFiles embed.FS

var pageServer = func() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // cannot happen: the directory is embedded
	}
	return http.StripPrefix("/page/", http.FileServerFS(files))
}()

// page serves the page and its files. A browser may not reuse a file without asking for it
// again, so that a new version of the server is never used with an old script.
func page(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	if r.URL.Path == "/" {
		http.ServeFileFS(w, r, pageFiles, "page/index.html")
		return
	}
	pageServer.ServeHTTP(w, r)
}
