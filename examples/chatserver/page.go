package main

import (
	"embed"
	"io/fs"
	"net/http"
)

// The page is what is in page: no build step, and nothing from elsewhere.

//go:embed page
var pageFiles embed.FS

var pageServer = func() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // what is embedded is there
	}
	return http.StripPrefix("/page/", http.FileServerFS(files))
}()

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
