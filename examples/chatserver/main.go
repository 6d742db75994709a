// Chatserver is a chat backend whose conversations are cached with aside.
//
//	CACHE_TYPE=memory go run ./examples/chatserver
//
// Its settings come from the environment and from a .env file in the working
// directory; the environment takes precedence.
//
// The files that show aside are repository.go, which reads through the cache and writes
// with Update, history.go, whose codec checks values that other programs store, generate.go
// and cancel.go, for replies that any of several servers can cancel, and watch.go, which
// shows the state of the cache. The rest is a server.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/internal/dotenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, ".env", os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "chatserver:", err)
		os.Exit(1)
	}
}

// settings are all settings of the program, of which cache has those of aside.
type settings struct {
	addr          string
	databaseURL   string
	adminToken    string
	logLevel      slog.Level
	responderWait time.Duration
	name          string        // shown on pages, to tell servers apart
	tracesTo      string        // the address of a collector of spans; empty for none
	databaseDelay time.Duration // added to loads and writes, to show the effect of a distant database
	model         modelSettings
	cache         aside.Config
}

// modelSettings describe a server with OpenAI's interface.
type modelSettings struct {
	baseURL, apiKey, name string // an empty name selects the built-in responder
	timeout               time.Duration
}

// reference matches another variable as .env files and Kubernetes write it. A token that is
// an unexpanded reference is easy to guess.
var reference = regexp.MustCompile(`^\$(\{[^}]*\}|\([^)]*\))$`)

// readSettings reads the settings from variables. It returns one error for all invalid
// variables, so that an operator need not restart for each. The error names variables and
// shows no value that may be a secret.
func readSettings(env map[string]string) (settings, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	get := func(name, fallback string) string { return cmp.Or(strings.TrimSpace(env[name]), fallback) }
	s := settings{
		databaseURL: get("DATABASE_URL", "chat.db"),
		adminToken:  get("CACHE_ADMIN_TOKEN", ""),
		logLevel:    slog.LevelDebug, // so that [CACHE HIT] and [CACHE MISS] are seen
	}
	// Each of these protects something or selects the database. An empty one is a mistake,
	// such as a secret that was not found, and must not silently remove the protection or
	// select another database.
	cache, cacheErr := aside.ConfigFromEnv(environ(env))
	for _, name := range []string{"CACHE_ADMIN_TOKEN", "CACHE_REFUSE_WRITES", "REDIS_TLS", "DATABASE_URL"} {
		if _, set := env[name]; set && get(name, "") == "" && (name != "REDIS_TLS" || backendOf(cache) == "redis") {
			bad("%s is set and empty: want a value, or no %s at all", name, name)
		}
	}
	if strings.ContainsFunc(s.adminToken, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.ContainsFunc(env["CACHE_ADMIN_TOKEN"], unicode.IsControl) {
		bad("CACHE_ADMIN_TOKEN: want printable characters only, without a line's end")
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(strings.ToUpper(name), "CACHE_ADMIN") && name != "CACHE_ADMIN_TOKEN" {
			bad("%s is not read, and protects nothing: CACHE_ADMIN_TOKEN was probably meant", name)
		}
	}
	if reference.MatchString(s.adminToken) {
		bad("CACHE_ADMIN_TOKEN is a reference to another variable that was not expanded: want the token itself")
	}
	if _, err := parseDatabase(s.databaseURL); err != nil {
		errs = append(errs, err)
	}
	port, err := strconv.ParseUint(get("PORT", "8000"), 10, 16)
	if err != nil {
		bad("PORT%s: want a port from 0 to 65535", shown(get("PORT", "")))
	}
	host := get("HOST", "127.0.0.1")
	if strings.HasPrefix(host, "[") {
		host = strings.TrimSuffix(host[1:], "]")
	}
	s.addr = net.JoinHostPort(host, strconv.FormatUint(port, 10))
	if text := get("LOG_LEVEL", ""); text != "" && s.logLevel.UnmarshalText([]byte(text)) != nil {
		bad("LOG_LEVEL%s: want debug, info, warn or error", shown(text))
	}
	duration := func(name string, fallback, least time.Duration) time.Duration {
		text := get(name, "")
		if text == "" {
			return fallback
		}
		d, err := time.ParseDuration(text)
		if _, number := strconv.ParseFloat(text, 64); number == nil {
			d, err = time.ParseDuration(text + "s") // a number means seconds, as in the cache's settings
		}
		if err != nil || d < least {
			bad("%s%s: want seconds, or a duration like 60ms, from %v", name, shown(text), least)
		}
		return d
	}
	s.responderWait = duration("RESPONDER_DELAY", 60*time.Millisecond, 0)
	s.databaseDelay = duration("DATABASE_DELAY", 0, 0)
	s.model = modelSettings{get("OPENAI_BASE_URL", ""), get("OPENAI_API_KEY", ""), get("OPENAI_MODEL", ""), duration("OPENAI_TIMEOUT", time.Minute, time.Millisecond)}
	if s.model.name == "" && s.model.baseURL != "" { // OPENAI_API_KEY alone is often set for other programs
		bad("OPENAI_BASE_URL needs OPENAI_MODEL, the name that the server there has for its model")
	}
	if u, err := url.Parse(s.model.baseURL); err != nil || s.model.baseURL != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		bad("OPENAI_BASE_URL: want an address like http://localhost:11434/v1")
	}
	s.tracesTo = get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	if u, err := url.Parse(s.tracesTo); err != nil || s.tracesTo != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "") {
		errs = append(errs, errEndpoint) // the exporter would not send a user and parameters
	}
	s.name = get("SERVER_NAME", s.addr)
	s.cache = cache
	return s, errors.Join(append(errs, cacheErr)...)
}

var errEndpoint = errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want a collector's address like http://localhost:4318, without user and parameters")

// shown returns "=" and a wrong value, for an error, if the value is an integer or an IP
// address. Any other value may be a secret, or an address with one, under a wrong name.
func shown(text string) string {
	_, number := strconv.Atoi(text)
	if number != nil && net.ParseIP(text) == nil || len(text) > 39 {
		return ""
	}
	return "=" + text
}

// variables returns the variables of environ, which has os.Environ's form, by name.
func variables(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, variable := range environ {
		if name, value, ok := strings.Cut(variable, "="); ok {
			env[name] = value
		}
	}
	return env
}

// environ returns variables in the form of os.Environ.
func environ(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for name, value := range env {
		out = append(out, name+"="+value)
	}
	return out
}

// environment returns the process's variables, and those of a .env file that the process
// does not have. The file need not exist. Warnings are about the file.
func environment(file string, process map[string]string) (env map[string]string, warnings []string, err error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading settings: %w", err)
	}
	env, warnings, err = dotenv.Parse(text, process)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	maps.Copy(env, process)
	return env, warnings, nil
}

// run is the program. It serves until ctx ends, and returns when requests have finished and
// the cache and the database are closed. It writes its log to logTo.
func run(ctx context.Context, envFile string, logTo io.Writer) error {
	env, warnings, err := environment(envFile, variables(os.Environ()))
	if err != nil {
		return err
	}
	set, err := readSettings(env)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: set.logLevel}))
	backend := backendOf(set.cache)
	begins := []any{"cache", backend, "database", databaseName(set.databaseURL)}
	if backend == "redis" {
		begins = append(begins, "redis", redisName(set.cache))
	}
	log.Info("chatserver begins", begins...)
	for _, warning := range warnings {
		log.Warn(warning, "file", envFile)
	}
	quiet := logging.VoidLogger{} // the cache logs once that Redis is unavailable; the client would at each dial
	redis.SetLogger(&quiet)
	metrics := newMetrics()
	set.cache.Logger = log
	traces, err := openTraces(ctx, set.tracesTo, set.name, log)
	if err != nil {
		return err
	}
	defer traces.stop()
	spans, err := traces.cacheHooks()
	if err != nil {
		return err
	}
	set.cache.Hooks = append(hooks(metrics), spans)

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
	metrics.cache.Watch(cache)
	// Open does not wait for Redis, and a server that starts during an outage serves.
	if _, err := cache.Status(ctx); err != nil {
		log.Warn("cache unavailable: reads go to the database", "err", err)
	}
	server, err := newServer(ctx, set, &Repository{db, cache, set.databaseDelay}, metrics, traces, log)
	if err != nil {
		return err
	}
	return serve(ctx, set.addr, server.Handler(cacheRoutes(cache, set.cache, set.adminToken)), log)
}

// backendOf returns the type of the cache's backend.
func backendOf(c aside.Config) string {
	return cmp.Or(c.Type, "redis")
}

// redisName names the Redis in use, for the log, as host:port/database, without secrets.
func redisName(c aside.Config) string {
	c, err := c.InForce()
	if err != nil {
		return "of invalid settings"
	}
	r, name := c.Redis, strings.Join(c.Redis.Hosts, ",")
	switch {
	case r.SentinelMaster != "":
		return fmt.Sprintf("master %s of sentinels %s/%d", r.SentinelMaster, name, r.DB)
	case r.Cluster:
		return "cluster " + name
	}
	return fmt.Sprintf("%s/%d", name, r.DB)
}

// newServer makes a server whose replies and streams end when ctx does.
func newServer(ctx context.Context, set settings, repo *Repository, metrics *metrics, traces *traces, log *slog.Logger) (*Server, error) {
	generations, err := aside.NewGenerations(repo.cache)
	if err != nil {
		return nil, err
	}
	var responder Responder = wordResponder{set.responderWait}
	if m := set.model; m.name != "" {
		responder = newModel(m.baseURL, m.apiKey, m.name, m.timeout)
	}
	backend := backendOf(set.cache)
	return &Server{
		about:       about{Server: set.name, Model: set.model.name, Database: databaseName(set.databaseURL)},
		cacheOn:     backend != "none",
		backend:     backend,
		repo:        repo,
		generations: generations,
		responder:   responder,
		metrics:     metrics,
		traces:      traces,
		log:         log,
		stopping:    ctx,
	}, nil
}
