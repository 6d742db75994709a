package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/cacheaside/aside/examples/respond"
)

const (
	// maxBody is the largest request body that is read, in bytes.
	maxBody = 1 << 20
	// bodyTimeout is how long a client may take to send a body.
	bodyTimeout = 10 * time.Second
	// stopTimeout is how long it may take when the server stops.
	stopTimeout = time.Second
)

// readBodies reads each request's body before its handler begins, so that no handler
// waits for a client, with a room claimed or at all. The deadline is the body's alone:
// that of http.Server.ReadTimeout would end streams. It stays where the body was not
// read to its end, as the server then looks for the rest.
func (s *Server) readBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		conn := http.NewResponseController(w)
		_ = conn.SetReadDeadline(time.Now().Add(bodyTimeout))
		hurried := make(chan struct{})
		stop := context.AfterFunc(s.stopping, func() {
			_ = conn.SetReadDeadline(time.Now().Add(stopTimeout))
			close(hurried)
		})
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if !stop() {
			<-hurried // so that its deadline does not come later
		}
		var tooLarge *http.MaxBytesError
		switch {
		case err == nil:
			_ = conn.SetReadDeadline(time.Time{})
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(w, r)
			return
		case errors.As(err, &tooLarge):
			respond.Error(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxBody))
			return
		}
		w.Header().Set("Connection", "close")
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && s.stopping.Err() != nil:
			respond.Error(w, http.StatusServiceUnavailable, "the server stops, and the body was not complete")
		case errors.Is(err, os.ErrDeadlineExceeded):
			respond.Error(w, http.StatusRequestTimeout, fmt.Sprintf("the body was not complete within %v", bodyTimeout))
		default:
			respond.Error(w, http.StatusBadRequest, "the body is not complete, or not what its header says")
		}
	})
}
