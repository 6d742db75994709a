package cachehttp

import (
	"cmp"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/respond"
)

// Times to live of keyspaces that cfg says nothing of: aside.Keyspace.TTL's default, and
// those of aside.ChatMessages and aside.UserChats.
const (
	defaultTTL      = 10 * time.Minute
	chatMessagesTTL = 30 * time.Minute
	userChatsTTL    = 10 * time.Minute
)

// inForce returns the settings that aside.Open uses for cfg, without secrets. A cache that
// was not made by Open, such as one over the service's own Redis client, may have a cfg with
// Redis settings that Open refuses. They are left out then, as they may have a secret in the
// wrong place.
func inForce(cfg aside.Config) aside.Config {
	shown, err := cfg.InForce()
	if err != nil {
		cfg.Redis = aside.Redis{}
		shown, _ = cfg.InForce() // the zero Config, if another setting is refused
	}
	return shown
}

// cacheConfig is the part of the settings that status shows too.
type cacheConfig struct {
	Enabled         bool   `json:"enabled"`
	TTLChatMessages int64  `json:"ttl_chat_messages"` // seconds
	TTLUserChats    int64  `json:"ttl_user_chats"`    // seconds
	RedisHost       string `json:"redis_host"`        // several are separated by commas
	RedisPort       int    `json:"redis_port"`        // 0 if redis_host is a socket's path
	RedisDB         int    `json:"redis_db"`
}

// config is the answer of GET /cache/config. Of a secret it shows only that it is set.
type config struct {
	cacheConfig
	CacheType      string             `json:"cache_type"`
	KeyPrefix      string             `json:"key_prefix"`
	TTLs           map[string]float64 `json:"ttls"`          // seconds, by keyspace
	RefreshAfter   map[string]float64 `json:"refresh_after"` // seconds, by keyspace; 0 is never
	TTLJitter      float64            `json:"ttl_jitter"`
	TimeoutMS      float64            `json:"timeout_ms"`
	LoadTimeoutMS  float64            `json:"load_timeout_ms"` // 0: a load may last forever
	MemoryMaxBytes int64              `json:"memory_max_bytes"`
	NearMaxBytes   int64              `json:"near_max_bytes"`
	MaxValueBytes  int64              `json:"max_value_bytes"`
	RefuseWrites   bool               `json:"refuse_writes"`
	RedisTLS       bool               `json:"redis_tls"`
	RedisCluster   bool               `json:"redis_cluster"`
	SentinelMaster string             `json:"redis_sentinel_master"`
	PasswordSet    bool               `json:"redis_password_set"`
	ClearProtected bool               `json:"clear_needs_token"`
}

// config lists fields one by one, so that a setting that the library adds is not shown
// before someone has seen that it is no secret.
func (h *handler) config(w http.ResponseWriter, _ *http.Request) {
	ttls, refreshAfter := h.lifetimes()
	respond.Success(w, http.StatusOK, config{
		cacheConfig:    h.cacheConfig(),
		CacheType:      h.cfg.Type,
		KeyPrefix:      h.cfg.KeyPrefix,
		TTLs:           ttls,
		RefreshAfter:   refreshAfter,
		TTLJitter:      h.cfg.Jitter,
		TimeoutMS:      milliseconds(h.cfg.Timeout),
		LoadTimeoutMS:  milliseconds(max(0, h.cfg.LoadTimeout)),
		MemoryMaxBytes: h.cfg.MemoryMaxBytes,
		NearMaxBytes:   h.cfg.NearMaxBytes,
		MaxValueBytes:  h.cfg.MaxValueBytes,
		RefuseWrites:   h.cfg.RefuseWrites,
		RedisTLS:       h.cfg.Redis.TLS,
		RedisCluster:   h.cfg.Redis.Cluster,
		SentinelMaster: h.cfg.Redis.SentinelMaster,
		PasswordSet:    h.cfg.Redis.Password != "",
		ClearProtected: h.adminToken != "",
	})
}

// lifetimes returns, in seconds, the TTL and the refresh age of each keyspace that the
// settings name. Config.TTLs and Config.RefreshAfter take precedence over the keyspaces.
func (h *handler) lifetimes() (ttls, refreshAfter map[string]float64) {
	ttls, refreshAfter = make(map[string]float64), make(map[string]float64)
	for _, s := range h.cfg.Keyspaces {
		ttls[s.Name] = cmp.Or(s.TTL, defaultTTL).Seconds()
		refreshAfter[s.Name] = s.RefreshAfter.Seconds()
	}
	for name, ttl := range h.cfg.TTLs {
		ttls[name] = ttl.Seconds()
	}
	for name, after := range h.cfg.RefreshAfter {
		refreshAfter[name] = after.Seconds()
	}
	return ttls, refreshAfter
}

func (h *handler) cacheConfig() cacheConfig {
	redis := h.cfg.Redis
	c := cacheConfig{
		Enabled:         !h.disabled(),
		TTLChatMessages: int64(cmp.Or(h.cfg.TTLs["chat_messages"], chatMessagesTTL).Seconds()),
		TTLUserChats:    int64(cmp.Or(h.cfg.TTLs["user_chats"], userChatsTTL).Seconds()),
		RedisHost:       strings.Join(redis.Hosts, ","),
		RedisPort:       redis.Port,
		RedisDB:         redis.DB,
	}
	if len(redis.Hosts) == 1 && redis.Port != 0 { // host:port, and the port is shown in its own field
		c.RedisHost, _, _ = net.SplitHostPort(redis.Hosts[0])
	}
	return c
}

// backend returns the type of the cache. An empty type, as of an invalid cfg, means redis.
func (h *handler) backend() string { return cmp.Or(h.cfg.Type, "redis") }
