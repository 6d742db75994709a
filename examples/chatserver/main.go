// Chatserver is a chat backend whose conversations are cached with aside.
//
//	CACHE_TYPE=memory go run ./examples/chatserver
//
// Its settings come from the environment and from a .env file in the working
// directory; the environment takes precedence.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/joho/godotenv"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/cacheaside/aside"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, ".env"); err != nil {
		fmt.Fprintln(os.Stderr, "chatserver:", err)
		os.Exit(1)
	}
}

// settings are the server's own; the cache's are in cache.
type settings struct {
	addr          string
	databaseURL   string
	adminToken    string
	logLevel      slog.Level
	responderWait time.Duration
	cache         aside.Config
}

// readSettings reports everything that is wrong, not only the first.
func readSettings(env map[string]string) (settings, error) {
	var errs []error
	s := settings{
		databaseURL:   cmp.Or(env["DATABASE_URL"], "chat.db"),
		adminToken:    env["CACHE_ADMIN_TOKEN"],
		logLevel:      slog.LevelDebug, // so that [CACHE HIT] and [CACHE MISS] are seen
		responderWait: 60 * time.Millisecond,
	}
	port := cmp.Or(env["PORT"], "8000")
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		errs = append(errs, fmt.Errorf("PORT=%q: a port from 0 to 65535 is accepted", port))
	}
	s.addr = net.JoinHostPort(cmp.Or(env["HOST"], "127.0.0.1"), port)
	if text := env["LOG_LEVEL"]; text != "" && s.logLevel.UnmarshalText([]byte(text)) != nil {
		errs = append(errs, fmt.Errorf("LOG_LEVEL=%q: debug, info, warn or error is accepted", text))
	}
	if text := env["RESPONDER_DELAY"]; text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			errs = append(errs, fmt.Errorf("RESPONDER_DELAY=%q: a duration like 60ms is accepted", text))
		}
		s.responderWait = d
	}
	var err error
	s.cache, err = aside.ConfigFromEnv(env)
	return s, errors.Join(append(errs, err)...)
}

// environment is the process's, over what a .env file says.
func environment(file string) (map[string]string, error) {
	env, err := godotenv.Read(file)
	if errors.Is(err, fs.ErrNotExist) {
		env, err = map[string]string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: lines of NAME=value are accepted", file) // the text may hold a password
	}
	for name, value := range aside.Environ() {
		env[name] = value
	}
	return env, nil
}

func run(ctx context.Context, envFile string) error {
	env, err := environment(envFile)
	if err != nil {
		return err
	}
	set, err := readSettings(env)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: set.logLevel}))
	quiet := logging.VoidLogger{} // the cache says once when Redis is away; the client would at each dial
	redis.SetLogger(&quiet)
	set.cache.Logger = log
	set.cache.Observer = outcomes{}

	db, err := openDatabase(ctx, set.databaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	cache, err := aside.Open(set.cache)
	if err != nil {
		return err
	}
	defer func() {
		if err := cache.Close(); err != nil {
			log.Warn("closing the cache", "err", err)
		}
	}()
	generations, err := aside.NewGenerations(cache)
	if err != nil {
		return err
	}
	server := &Server{
		repo:        &Repository{db, cache},
		generations: generations,
		responder:   wordResponder{set.responderWait},
		log:         log,
		stopping:    ctx,
	}
	return serve(ctx, set.addr, server.Handler(cacheRoutes(cache, set.cache, set.adminToken)), log)
}

// serve serves until ctx ends, then lets requests finish.
func serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
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
	finish, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return srv.Shutdown(finish)
}
