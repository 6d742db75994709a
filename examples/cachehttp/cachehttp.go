// Package cachehttp serves what an operator wants of a cache over HTTP: its
// status, a way to clear it, a test of its speed, and the settings in force.
package cachehttp

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/respond"
)

// Options are the handler's own settings.
type Options struct {
	// AdminToken, when not empty, is what clearing the cache asks for:
	// Authorization: Bearer <token>.
	AdminToken string
}

// Handler serves, for the cache that was made with cfg, whose settings it shows,
//
//	GET  /cache/status
//	POST /cache/clear
//	GET  /cache/test
//	GET  /cache/config
//
// and the same under /api/v1/cache/. Clearing drops what is cached, and leaves the
// state of generations; it is refused to browsers on pages of other origins. No
// answer has a secret in it.
func Handler(cache aside.Cache, cfg aside.Config, opts Options) http.Handler {
	h := &handler{cache: cache, cfg: cfg, opts: opts}
	var err error
	if h.cfg, err = cfg.InForce(); err != nil { // the cache was not made with this Redis, or Open had refused it
		cfg.Redis = aside.Redis{}
		h.cfg, _ = cfg.InForce()
	}
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		respond.Error(w, http.StatusForbidden, "requests from pages of another origin are refused")
	}))
	mux := http.NewServeMux()
	for _, prefix := range []string{"/cache/", "/api/v1/cache/"} {
		mux.Handle(prefix+"status", respond.Methods{http.MethodGet: h.status})
		mux.Handle(prefix+"clear", respond.Methods{http.MethodPost: sameOrigin.Handler(http.HandlerFunc(h.clear)).ServeHTTP})
		mux.Handle(prefix+"test", respond.Methods{http.MethodGet: h.test})
		mux.Handle(prefix+"config", respond.Methods{http.MethodGet: h.config})
	}
	mux.HandleFunc("/", respond.NotFound)
	return mux
}

type handler struct {
	cache aside.Cache
	cfg   aside.Config // in force
	opts  Options
}

// cacheConfig is the guide's cache_config.
type cacheConfig struct {
	Enabled         bool   `json:"enabled"`
	TTLChatMessages int64  `json:"ttl_chat_messages"`
	TTLUserChats    int64  `json:"ttl_user_chats"`
	RedisHost       string `json:"redis_host"`
	RedisPort       int    `json:"redis_port"`
	RedisDB         int    `json:"redis_db"`
}

// status is the guide's, then what this library has to add.
type status struct {
	Enabled      bool         `json:"enabled"`
	Message      string       `json:"message,omitempty"`
	RedisVersion *string      `json:"redis_version,omitempty"`
	UsedMemory   *string      `json:"used_memory,omitempty"`
	TotalKeys    *int64       `json:"total_keys,omitempty"`
	CacheConfig  *cacheConfig `json:"cache_config,omitempty"`

	Backend             string `json:"backend"`
	Breaker             string `json:"breaker"`
	QueuedInvalidations int    `json:"queued_invalidations"`
	QueueOverflowed     bool   `json:"queue_overflowed"`
	Stats               stats  `json:"stats"`
}

type stats struct {
	Hits               int64 `json:"hits"`
	NearHits           int64 `json:"near_hits"`
	StaleHits          int64 `json:"stale_hits"`
	Misses             int64 `json:"misses"`
	Loads              int64 `json:"loads"`
	LoadErrors         int64 `json:"load_errors"`
	Refreshes          int64 `json:"refreshes"`
	RefreshErrors      int64 `json:"refresh_errors"`
	RefreshesSkipped   int64 `json:"refreshes_skipped"`
	Audited            int64 `json:"audited"`
	AuditDifferences   int64 `json:"audit_differences"`
	AuditsUndecided    int64 `json:"audits_undecided"`
	Coalesced          int64 `json:"coalesced"`
	Waited             int64 `json:"waited"`
	Degraded           int64 `json:"degraded"`
	StaleFills         int64 `json:"stale_fills"`
	DecodeErrors       int64 `json:"decode_errors"`
	EncodeErrors       int64 `json:"encode_errors"`
	Invalidated        int64 `json:"invalidated"`
	InvalidationQueued int64 `json:"invalidation_queued"`
}

func (h *handler) status(w http.ResponseWriter, r *http.Request) {
	s, err := h.cache.Status(r.Context())
	out := status{
		Enabled: err == nil && !h.off(), Backend: h.backend(), Breaker: s.Breaker,
		QueuedInvalidations: s.Queued, QueueOverflowed: s.Overflowed, Stats: stats(s.Stats),
	}
	switch {
	case h.off():
		out.Message = "Cache is disabled"
	case err != nil:
		out.Message = h.unavailable()
	default:
		config := h.cacheConfig()
		out.RedisVersion, out.UsedMemory, out.TotalKeys, out.CacheConfig = &s.Version, &s.UsedMemory, &s.Keys, &config
	}
	respond.Success(w, http.StatusOK, out)
}

func (h *handler) clear(w http.ResponseWriter, r *http.Request) {
	if !h.allowed(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="cache"`)
		respond.Error(w, http.StatusUnauthorized, "clearing the cache needs Authorization: Bearer with the CACHE_ADMIN_TOKEN")
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

func (h *handler) allowed(r *http.Request) bool {
	if h.opts.AdminToken == "" {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare([]byte(token), []byte(h.opts.AdminToken)) == 1
}

// test stores a value of its own for a few seconds, reads it, and removes it.
func (h *handler) test(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if h.off() {
		respond.Success(w, http.StatusOK, struct {
			Enabled bool   `json:"enabled"`
			Message string `json:"message"`
		}{false, "Cache is disabled"})
		return
	}
	key, value := "cache_test:"+rand.Text(), []byte(`{"test":"`+rand.Text()+`"}`)
	start := time.Now()
	err := h.cache.Set(ctx, key, value, 10*time.Second)
	set := time.Since(start)
	var got []byte
	var found bool
	start = time.Now()
	if err == nil {
		got, found, err = h.cache.Get(ctx, key)
	}
	get := time.Since(start)
	if err != nil {
		respond.Error(w, http.StatusServiceUnavailable, h.unavailable())
		return
	}
	_ = h.cache.Delete(ctx, key) // it expires, too
	respond.Success(w, http.StatusOK, struct {
		Enabled      bool    `json:"enabled"`
		SetTimeMS    float64 `json:"set_time_ms"`
		GetTimeMS    float64 `json:"get_time_ms"`
		ValueMatches bool    `json:"value_matches"`
		Backend      string  `json:"backend"`
	}{true, ms(set), ms(get), found && bytes.Equal(got, value), h.backend()})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (h *handler) config(w http.ResponseWriter, _ *http.Request) {
	ttls, refreshAfter := make(map[string]float64), make(map[string]float64) // 0: never
	for _, s := range h.cfg.Keyspaces {
		ttls[s.Name] = cmp.Or(s.TTL, 10*time.Minute).Seconds()
		refreshAfter[s.Name] = s.RefreshAfter.Seconds()
	}
	for name, ttl := range h.cfg.TTLs {
		ttls[name] = ttl.Seconds()
	}
	for name, after := range h.cfg.RefreshAfter {
		refreshAfter[name] = after.Seconds()
	}
	respond.Success(w, http.StatusOK, struct {
		cacheConfig
		CacheType      string             `json:"cache_type"`
		KeyPrefix      string             `json:"key_prefix"`
		TTLs           map[string]float64 `json:"ttls"`
		RefreshAfter   map[string]float64 `json:"refresh_after"`
		TTLJitter      float64            `json:"ttl_jitter"`
		TimeoutMS      float64            `json:"timeout_ms"`
		LoadTimeoutMS  float64            `json:"load_timeout_ms"`
		MemoryMaxBytes int64              `json:"memory_max_bytes"`
		NearMaxBytes   int64              `json:"near_max_bytes"`
		MaxValueBytes  int64              `json:"max_value_bytes"`
		RefuseWrites   bool               `json:"refuse_writes"`
		RedisTLS       bool               `json:"redis_tls"`
		RedisCluster   bool               `json:"redis_cluster"`
		SentinelMaster string             `json:"redis_sentinel_master"`
		PasswordSet    bool               `json:"redis_password_set"`
		ClearProtected bool               `json:"clear_needs_token"`
	}{
		h.cacheConfig(), h.cfg.Type, h.cfg.KeyPrefix, ttls, refreshAfter, h.cfg.Jitter,
		ms(h.cfg.Timeout), ms(max(0, h.cfg.LoadTimeout)),
		h.cfg.MemoryMaxBytes, h.cfg.NearMaxBytes, h.cfg.MaxValueBytes, h.cfg.RefuseWrites,
		h.cfg.Redis.TLS, h.cfg.Redis.Cluster, h.cfg.Redis.SentinelMaster, h.cfg.Redis.Password != "", h.opts.AdminToken != "",
	})
}

func (h *handler) off() bool { return h.cfg.Type == "none" }

func (h *handler) backend() string {
	if h.off() {
		return "none"
	}
	return cmp.Or(h.cfg.Type, "redis")
}

func (h *handler) unavailable() string {
	if h.backend() == "redis" {
		return "Redis not available"
	}
	return "Cache not available"
}

func (h *handler) cacheConfig() cacheConfig {
	c := cacheConfig{
		Enabled:         !h.off(),
		TTLChatMessages: int64(cmp.Or(h.cfg.TTLs["chat_messages"], 30*time.Minute).Seconds()),
		TTLUserChats:    int64(cmp.Or(h.cfg.TTLs["user_chats"], 10*time.Minute).Seconds()),
		RedisHost:       strings.Join(h.cfg.Redis.Hosts, ","),
		RedisPort:       h.cfg.Redis.Port,
		RedisDB:         h.cfg.Redis.DB,
	}
	if len(h.cfg.Redis.Hosts) == 1 && c.RedisPort != 0 { // 0: it is a socket's path
		c.RedisHost, _, _ = net.SplitHostPort(c.RedisHost)
	}
	return c
}
