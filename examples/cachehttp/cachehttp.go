// Package cachehttp serves a cache's operator endpoints over HTTP: status, clear, test and
// config. Mount its Handler in a service, or copy the package and make it your own.
package cachehttp

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/respond"
)

// Options are the settings of a Handler. The zero value is ready to use.
type Options struct {
	// AdminToken, when it is not empty, is required to clear the cache, as
	// Authorization: Bearer <token>. Defaults to none: every client that reaches the
	// handler may clear.
	AdminToken string
}

// Handler serves the operator endpoints of cache, and JSON errors for any other path and
// method:
//
//	GET  /cache/status  the cache's state and counters; 200 also while the cache is unavailable
//	POST /cache/clear   removes the cached values, as cache.Clear does; 503 when that fails;
//	                    says so where the cache is off, as other processes' values stay
//	GET  /cache/test    times a Set and a Get of a key of its own; 503 when they fail
//	GET  /cache/config  the settings in force
//
// Each is served under /api/v1/cache/ as well. cfg must be the Config that the cache was
// made with, as a Cache does not tell its settings.
//
// No response contains a secret: not AdminToken, and nothing of cfg that Config.InForce
// hides. But status, test and config require no token, so mount the handler where only
// operators reach it, or behind the service's own authentication. Clear is refused to
// pages of other origins, which a browser inside the network may have open.
//
// A request ends when its context does. No request has a body that is read. The handler is
// safe for concurrent use.
func Handler(cache aside.Cache, cfg aside.Config, opts Options) http.Handler {
	h := &handler{cache: cache, cfg: inForce(cfg), adminToken: opts.AdminToken}
	mux := http.NewServeMux()
	for _, prefix := range []string{"/cache/", "/api/v1/cache/"} {
		mux.Handle(prefix+"status", respond.Methods{http.MethodGet: h.status})
		mux.Handle(prefix+"clear", respond.Methods{http.MethodPost: h.clear})
		mux.Handle(prefix+"test", respond.Methods{http.MethodGet: h.test})
		mux.Handle(prefix+"config", respond.Methods{http.MethodGet: h.config})
	}
	mux.HandleFunc("/", respond.NotFound)
	return respond.SameOrigin(mux)
}

type handler struct {
	cache      aside.Cache
	cfg        aside.Config // in force, without secrets
	adminToken string
}

// clear does not show why a Clear failed, as the error may name a host.
func (h *handler) clear(w http.ResponseWriter, r *http.Request) {
	if !h.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="cache"`)
		respond.Error(w, http.StatusUnauthorized, "clearing the cache needs Authorization: Bearer with the admin token")
		return
	}
	if h.disabled() { // the keys that other processes have stored in Redis stay
		h.answerDisabled(w, disabledMessage+": nothing was cleared")
		return
	}
	if err := h.cache.Clear(r.Context()); err != nil {
		respond.Error(w, http.StatusServiceUnavailable, h.unavailable())
		return
	}
	respond.Success(w, http.StatusOK, struct {
		Message string `json:"message"`
	}{"Cache cleared"})
}

// authorized compares in constant time, so that the time of a refusal does not tell how
// much of a guess is right. It does tell the token's length, which is no secret.
func (h *handler) authorized(r *http.Request) bool {
	if h.adminToken == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare([]byte(token), []byte(h.adminToken)) == 1
}

// speed is the answer of test.
type speed struct {
	Enabled      bool    `json:"enabled"`
	SetTimeMS    float64 `json:"set_time_ms"`
	GetTimeMS    float64 `json:"get_time_ms"`
	ValueMatches bool    `json:"value_matches"`
	Backend      string  `json:"backend"`
}

func (h *handler) test(w http.ResponseWriter, r *http.Request) {
	if h.disabled() {
		h.answerDisabled(w, disabledMessage)
		return
	}
	result, err := h.measure(r.Context())
	if err != nil {
		respond.Error(w, http.StatusServiceUnavailable, h.unavailable())
		return
	}
	respond.Success(w, http.StatusOK, result)
}

// measure times one Set and one Get. The key is random, so that tests at the same time do
// not read each other's values.
func (h *handler) measure(ctx context.Context) (speed, error) {
	key, value := "cache_test:"+rand.Text(), []byte(`{"test":"`+rand.Text()+`"}`)
	start := time.Now()
	if err := h.cache.Set(ctx, key, value, 10*time.Second); err != nil {
		return speed{}, err
	}
	set := time.Since(start)
	start = time.Now()
	got, found, err := h.cache.Get(ctx, key)
	if err != nil {
		return speed{}, err
	}
	get := time.Since(start)
	_ = h.cache.Delete(ctx, key) // if it fails, the key expires
	return speed{
		Enabled:      true,
		SetTimeMS:    milliseconds(set),
		GetTimeMS:    milliseconds(get),
		ValueMatches: found && bytes.Equal(got, value),
		Backend:      h.backend(),
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const disabledMessage = "Cache is disabled"

// disabled reports whether the cache is switched off: it then answers no read, and is not
// unavailable either.
func (h *handler) disabled() bool { return h.backend() == "none" }

// answerDisabled answers a request that needs a cache which is switched off.
func (h *handler) answerDisabled(w http.ResponseWriter, message string) {
	respond.Success(w, http.StatusOK, struct {
		Enabled bool   `json:"enabled"`
		Message string `json:"message"`
	}{false, message})
}

// unavailable returns the message of an answer for which the cache was needed.
func (h *handler) unavailable() string {
	if h.backend() == "redis" {
		return "Redis not available"
	}
	return "Cache not available"
}
