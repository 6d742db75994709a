package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// finishTimeout is how long requests may take to finish once the server stops. It leaves
// time to save a reply.
const finishTimeout = saveTimeout + 5*time.Second

// writeTimeout bounds the writing of an answer. Streams have a deadline for each piece
// instead: see events.
const writeTimeout = 2 * time.Minute

// serve serves until ctx ends. Then it waits for requests, up to finishTimeout, and closes
// the connections of those that have not finished.
func serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		host, port, _ := net.SplitHostPort(addr)
		var dns *net.DNSError
		var op *net.OpError
		if errors.As(err, &dns) {
			err = errors.New(dns.Err)
		} else if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Errorf("HOST%s and PORT=%s: want a name or address of this machine, and a port that is free: %w", shown(host), port, err)
	}
	return serveOn(ctx, listener, handler, log)
}

func serveOn(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	silent := silentConns{open: make(map[net.Conn]bool)}
	srv := &http.Server{
		ConnState:         silent.note,
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second, // bodies have a deadline of their own: see readBodies
		WriteTimeout:      writeTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	log.Info("chatserver listens", "url", "http://"+listener.Addr().String())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	log.Info("chatserver stops")
	silent.close()
	finish, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	if err := srv.Shutdown(finish); err != nil {
		log.Warn("unfinished requests closed", "err", err)
		return srv.Close()
	}
	return nil
}

// silentConns are the connections on which nothing has arrived yet. Browsers open them ahead
// of requests. Shutdown waits up to 5 seconds for them, so they are closed before.
type silentConns struct {
	mu       sync.Mutex
	open     map[net.Conn]bool
	stopping bool
}

// note is an http.Server's ConnState.
func (s *silentConns) note(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.open, conn)
	case s.stopping:
		conn.Close()
	default:
		s.open[conn] = true
	}
}

// close closes the silent connections, and from then on each new one.
func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for conn := range s.open {
		conn.Close()
	}
}
