package cachehttp_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/cachehttp"
)

const token = "of a secret store"

// Each row is a request to a handler that requires the token.
func TestHandler(t *testing.T) {
	t.Parallel()
	bearer := map[string]string{"Authorization": "Bearer " + token}
	unavailable := aside.Config{Redis: aside.Redis{Hosts: []string{"127.0.0.1:1"}}} // the port has no listener
	memory, none := aside.Config{Type: "memory"}, aside.Config{Type: "none"}
	for _, test := range []struct {
		cfg          aside.Config
		method, path string
		header       map[string]string
		code         int
		want         string // part of the body
	}{
		{memory, "GET", "/cache/status", nil, 200, `"enabled":true,"redis_version":"",`},
		{none, "GET", "/cache/status", nil, 200, `"enabled":false,"message":"Cache is disabled","backend":"none"`},
		{unavailable, "GET", "/cache/status", nil, 200, `"enabled":false,"message":"Redis not available","backend":"redis"`},
		{memory, "GET", "/api/v1/cache/test", nil, 200, `"value_matches":true,"backend":"memory"`},
		{none, "GET", "/cache/test", nil, 200, `"message":"Cache is disabled"`},
		{unavailable, "GET", "/cache/test", nil, 503, "Redis not available"},
		{unavailable, "GET", "/cache/config", nil, 200, `"clear_needs_token":true`},

		{memory, "POST", "/cache/clear", bearer, 200, "Cache cleared"},
		{memory, "POST", "/api/v1/cache/clear", map[string]string{"Authorization": "bearer " + token}, 200, "Cache cleared"},
		{none, "POST", "/cache/clear", bearer, 200, `"enabled":false,"message":"Cache is disabled: nothing was cleared"`},
		{unavailable, "POST", "/cache/clear", bearer, 503, "Redis not available"},
		{memory, "POST", "/cache/clear", nil, 401, "needs Authorization"},
		{memory, "POST", "/cache/clear", map[string]string{"Authorization": "Bearer another"}, 401, "needs Authorization"},
		{memory, "POST", "/cache/clear", map[string]string{"Authorization": "Basic " + token}, 401, "needs Authorization"},
		{memory, "POST", "/cache/clear", map[string]string{"Authorization": "Bearer " + token, "Sec-Fetch-Site": "cross-site"}, 403, "another origin"},

		{memory, "GET", "/cache/clear", bearer, 405, "use POST"},
		{memory, "POST", "/cache/status", nil, 405, "use GET, HEAD"},
		{memory, "GET", "/cache/nothing", nil, 404, "/cache/nothing"},
	} {
		test.cfg.Logger = slog.New(slog.DiscardHandler)
		c, err := aside.Open(test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(test.method, test.path, nil)
		for name, value := range test.header {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		cachehttp.Handler(c, test.cfg, cachehttp.Options{AdminToken: token}).ServeHTTP(w, r)
		if body := w.Body.String(); w.Code != test.code || !strings.Contains(body, test.want) || strings.Contains(body, token) || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s of %q with %v: %d %s; want %d with %s", test.method, test.path, test.cfg.Type, test.header, w.Code, body, test.code, test.want)
		}
		if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s %s: %d with WWW-Authenticate %q", test.method, test.path, w.Code, w.Header().Get("WWW-Authenticate"))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Config shows a setting that is set, and otherwise its default.
func TestConfig(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]aside.Config{
		`{"near":0,"memory":67108864,"value":16777216,"load":300000,"port":6379,"ttl":0,"refresh":null}`: {},
		`{"near":1,"memory":2,"value":3,"load":4,"port":26379,"ttl":600,"refresh":0}`: {
			NearMaxBytes: 1, MemoryMaxBytes: 2, MaxValueBytes: 3, LoadTimeout: 4 * time.Millisecond,
			Redis: aside.Redis{SentinelMaster: "m"}, Keyspaces: []aside.Keyspace{{Name: "user"}},
		},
		`{"near":0,"memory":67108864,"value":16777216,"load":0,"port":7000,"ttl":60,"refresh":30}`: {
			LoadTimeout: -1, Redis: aside.Redis{Hosts: []string{"h:7000"}},
			Keyspaces: []aside.Keyspace{{Name: "user", TTL: time.Hour, RefreshAfter: 20 * time.Minute}}, TTLs: map[string]time.Duration{"user": time.Minute},
			RefreshAfter: map[string]time.Duration{"user": 30 * time.Second},
		},
	} {
		c, err := aside.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w := httptest.NewRecorder()
		cachehttp.Handler(c, cfg, cachehttp.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/cache/config", nil))
		var answer struct {
			Data struct {
				Near   int64               `json:"near_max_bytes"`
				Memory int64               `json:"memory_max_bytes"`
				Value  int64               `json:"max_value_bytes"`
				Load   float64             `json:"load_timeout_ms"`
				Port   int                 `json:"redis_port"`
				TTLs   map[string]float64  `json:"ttls"`
				After  map[string]*float64 `json:"refresh_after"`
			} `json:"data"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		d := answer.Data
		got, err := json.Marshal(struct {
			Near   int64    `json:"near"`
			Memory int64    `json:"memory"`
			Value  int64    `json:"value"`
			Load   float64  `json:"load"`
			Port   int      `json:"port"`
			TTL    float64  `json:"ttl"`
			After  *float64 `json:"refresh"`
		}{d.Near, d.Memory, d.Value, d.Load, d.Port, d.TTLs["user"], d.After["user"]})
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
}

// Config shows the Redis that the client uses, also where a URL names it, and no secret.
func TestConfig_ShowsTheRedisInForce(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"redis://u:hunter2@h/2":            `"redis_host":"h","redis_port":6379,"redis_db":2`,
		"REDISS://h:6380?password=hunter2": `"redis_host":"h","redis_port":6380,"redis_db":0`,
		"redis://[::1]:7000?db=3":          `"redis_host":"::1","redis_port":7000,"redis_db":3`,
		"unix:///run/redis.sock?db=1":      `"redis_host":"/run/redis.sock","redis_port":0,"redis_db":1`,
	} {
		cfg := aside.Config{Redis: aside.Redis{URL: url, Port: 9}}
		c, err := aside.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w := httptest.NewRecorder()
		cachehttp.Handler(c, cfg, cachehttp.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/cache/config", nil))
		body := w.Body.String()
		if !strings.Contains(body, want) || strings.Contains(body, "hunter2") || strings.Contains(body, `"redis_tls":true`) != strings.HasPrefix(url, "REDISS") ||
			strings.Contains(body, `"redis_password_set":true`) != strings.Contains(url, "hunter2") {
			t.Errorf("%s: %s", url, body)
		}
	}
	c, err := aside.Open(aside.Config{Type: "none"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := httptest.NewRecorder()
	cachehttp.Handler(c, aside.Config{Redis: aside.Redis{Hosts: []string{"h:6380,password=hunter2"}}}, cachehttp.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/cache/config", nil))
	if strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("a secret is shown: %s", w.Body)
	}
}
