// Package respond writes the JSON answers of the examples' handlers.
package respond

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Success answers with {"status":"success","data":data}.
func Success(w http.ResponseWriter, code int, data any) {
	write(w, code, struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}{"success", data})
}

// Encoded answers as Success does, with data that is JSON already.
func Encoded(w http.ResponseWriter, code int, data []byte) {
	send(w, code, []byte(`{"status":"success","data":`), data, []byte("}\n"))
}

// Error answers with {"status":"error","message":message}.
func Error(w http.ResponseWriter, code int, message string) {
	write(w, code, struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}{"error", message})
}

func write(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"status":"error","message":"the answer cannot be encoded"}`)
	}
	send(w, code, append(text, '\n'))
}

func send(w http.ResponseWriter, code int, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	for _, p := range parts {
		_, _ = w.Write(p) // who does not read it has left
	}
}

// Methods serves one path: the handler of the request's method, or 405 with
// Allow. HEAD without a handler of its own is served by GET's; a GET that streams needs
// one, since its handler would go on for a client that waits for the headers alone.
type Methods map[string]http.HandlerFunc

func (m Methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = m[http.MethodGet]
	}
	if h != nil {
		h(w, r)
		return
	}
	allowed := slices.Collect(maps.Keys(m))
	if m[http.MethodGet] != nil && m[http.MethodHead] == nil {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	w.Header().Set("Allow", allow)
	Error(w, http.StatusMethodNotAllowed, r.Method+" is not allowed here; use "+allow)
}

// NotFound answers paths that nothing serves.
func NotFound(w http.ResponseWriter, r *http.Request) {
	Error(w, http.StatusNotFound, "there is nothing at "+r.URL.Path)
}
