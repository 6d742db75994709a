// Package respond writes the JSON answers of the examples' handlers:
//
//	{"status":"success","data":…}
//	{"status":"error","message":"…"}
//
// Errors are JSON on every path, so that a client needs one decoder: Methods, NotFound and
// SameOrigin replace answers of net/http that are plain text.
//
// Each function that takes a ResponseWriter writes the whole answer, with its header. The
// caller may set other header fields before, and must write nothing after.
package respond

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Success answers with data, encoded as encoding/json does. If data cannot be encoded, the
// answer is an Error with status 500 in place of code.
func Success(w http.ResponseWriter, code int, data any) {
	write(w, code, struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}{"success", data})
}

// Encoded answers as Success does, with data that is JSON already. It does not check data,
// which must be one valid JSON value, and does not keep it.
func Encoded(w http.ResponseWriter, code int, data []byte) {
	send(w, code, []byte(`{"status":"success","data":`), data, []byte("}\n"))
}

// Error answers with a message for the client. Log an internal error instead of passing its
// text here: it may name hosts or repeat secrets.
func Error(w http.ResponseWriter, code int, message string) {
	write(w, code, struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}{"error", message})
}

// write encodes the body before it sends the header, so that a failure still has a status.
func write(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"status":"error","message":"the answer cannot be encoded"}`)
	}
	send(w, code, append(text, '\n'))
}

// send writes the parts one after the other, which spares a copy of a large value.
func send(w http.ResponseWriter, code int, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(size)) // without it, net/http sends a large answer in chunks
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	for _, p := range parts {
		_, _ = w.Write(p) // an error means that the client has left, and there is no other way to tell it
	}
}

// Methods serves one path. It maps methods to handlers, and answers any other method with
// 405 and Allow. Patterns with a method, such as "GET /path", make http.ServeMux do the
// same in plain text.
//
// HEAD without a handler of its own is served by GET's. A GET that streams needs a handler
// for HEAD, since net/http drops the body of a HEAD answer without ending the handler.
//
// A Methods must not be modified once it serves. It is safe for concurrent use if its
// handlers are.
type Methods map[string]http.HandlerFunc

// ServeHTTP implements http.Handler.
func (m Methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := m[r.Method]
	if h == nil && r.Method == http.MethodHead {
		h = m[http.MethodGet]
	}
	if h == nil {
		allow := m.allow()
		w.Header().Set("Allow", allow)
		Error(w, http.StatusMethodNotAllowed, r.Method+" is not allowed here; use "+allow)
		return
	}
	h(w, r)
}

// allow lists the methods that m serves, for the header of that name.
func (m Methods) allow() string {
	methods := slices.Collect(maps.Keys(m))
	if m[http.MethodGet] != nil && m[http.MethodHead] == nil {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

// NotFound answers with 404. Register it for "/", where it gets the requests that no other
// pattern matches.
func NotFound(w http.ResponseWriter, r *http.Request) {
	Error(w, http.StatusNotFound, "there is nothing at "+r.URL.Path)
}

// SameOrigin returns a handler that answers 403 to a browser's unsafe requests (all but
// GET, HEAD and OPTIONS) from a page of another origin, and passes all others to next.
// Programs that are not browsers send neither Sec-Fetch-Site nor Origin, and are not refused:
// see http.CrossOriginProtection.
func SameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		Error(w, http.StatusForbidden, "requests from pages of another origin are refused")
	}))
	return p.Handler(next)
}
