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
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
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
	if err := run(ctx, ".env", os.Stderr); err != nil {
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
	name          string        // what pages call this server
	databaseDelay time.Duration // by which the database is slower than it is
	model         modelSettings
	cache         aside.Config
}

// modelSettings are of a server with OpenAI's interface.
type modelSettings struct {
	baseURL, apiKey, name string // name is empty when there is none
	timeout               time.Duration
}

// readSettings reports everything that is wrong, not only the first.
func readSettings(env map[string]string) (settings, error) {
	var errs []error
	s := settings{
		databaseURL: cmp.Or(env["DATABASE_URL"], "chat.db"),
		adminToken:  env["CACHE_ADMIN_TOKEN"],
		logLevel:    slog.LevelDebug, // so that [CACHE HIT] and [CACHE MISS] are seen
	}
	port := cmp.Or(env["PORT"], "8000")
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		errs = append(errs, fmt.Errorf("PORT=%q: a port from 0 to 65535 is accepted", port))
	}
	s.addr = net.JoinHostPort(cmp.Or(env["HOST"], "127.0.0.1"), port)
	if text := env["LOG_LEVEL"]; text != "" && s.logLevel.UnmarshalText([]byte(text)) != nil {
		errs = append(errs, fmt.Errorf("LOG_LEVEL=%q: debug, info, warn or error is accepted", text))
	}
	duration := func(name string, fallback, least time.Duration) time.Duration {
		text := env[name]
		if text == "" {
			return fallback
		}
		if _, err := strconv.Atoi(text); err == nil {
			text += "s" // as the cache's settings are
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < least {
			errs = append(errs, fmt.Errorf("%s=%q: seconds, or a duration like 60ms, from %v are accepted", name, env[name], least))
		}
		return d
	}
	s.responderWait = duration("RESPONDER_DELAY", 60*time.Millisecond, 0)
	s.databaseDelay = duration("DATABASE_DELAY", 0, 0)
	s.model = modelSettings{env["OPENAI_BASE_URL"], env["OPENAI_API_KEY"], env["OPENAI_MODEL"], duration("OPENAI_TIMEOUT", time.Minute, time.Millisecond)}
	if s.model.name == "" && s.model.baseURL != "" { // a key alone is many people's, and not for this
		errs = append(errs, errors.New("OPENAI_BASE_URL needs OPENAI_MODEL, the name that the server there has for its model"))
	}
	if u, err := url.Parse(s.model.baseURL); err != nil || s.model.baseURL != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		errs = append(errs, errors.New("OPENAI_BASE_URL: an address like http://localhost:11434/v1 is accepted"))
	}
	s.name = cmp.Or(env["SERVER_NAME"], s.addr)
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

// run serves until ctx ends. It writes its log to logTo.
func run(ctx context.Context, envFile string, logTo io.Writer) error {
	env, err := environment(envFile)
	if err != nil {
		return err
	}
	set, err := readSettings(env)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: set.logLevel}))
	quiet := logging.VoidLogger{} // the cache says once when Redis is away; the client would at each dial
	redis.SetLogger(&quiet)
	metrics := newMetrics()
	set.cache.Logger = log
	set.cache.Observer = observer{metrics}

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
	metrics.watch(cache)
	log.Info("chatserver begins", "cache", cmp.Or(set.cache.Type, aside.TypeRedis), "enabled", !set.cache.Disabled, "database", databaseName(set.databaseURL))
	if _, err := cache.Status(ctx); err != nil {
		log.Warn("the cache does not answer: the chat goes on from the database", "err", err)
	}
	server, err := newServer(ctx, set, &Repository{db, cache, set.databaseDelay}, metrics, log)
	if err != nil {
		return err
	}
	return serve(ctx, set.addr, server.Handler(cacheRoutes(cache, set.cache, set.adminToken)), log)
}

// newServer makes the server that replies until ctx ends.
func newServer(ctx context.Context, set settings, repo *Repository, metrics *metrics, log *slog.Logger) (*Server, error) {
	generations, err := aside.NewGenerations(repo.cache)
	if err != nil {
		return nil, err
	}
	var responder Responder = wordResponder{set.responderWait}
	if m := set.model; m.name != "" {
		responder = newModel(m.baseURL, m.apiKey, m.name, m.timeout)
	}
	backend := cmp.Or(set.cache.Type, aside.TypeRedis)
	if set.cache.Disabled {
		backend = aside.TypeNone
	}
	return &Server{
		about:       about{Server: set.name, Model: set.model.name, Database: databaseName(set.databaseURL)},
		cacheOn:     backend != aside.TypeNone,
		backend:     backend,
		repo:        repo,
		generations: generations,
		responder:   responder,
		metrics:     metrics,
		log:         log,
		stopping:    ctx,
	}, nil
}

// finishTimeout is how long requests may take to finish once the server stops: a reply
// is saved until then.
const finishTimeout = saveTimeout + 5*time.Second

// writeTimeout is how long an answer may take. Streams have a deadline for each piece.
const writeTimeout = 2 * time.Minute

// serve serves until ctx ends, then lets requests finish, and closes the connections of
// those that do not.
func serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second, // bodies have their own: see readBodies
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
	finish, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	if err := srv.Shutdown(finish); err != nil {
		log.Warn("requests that did not finish are closed", "err", err)
		return srv.Close()
	}
	return nil
}
