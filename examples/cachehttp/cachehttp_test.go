package cachehttp_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/examples/cachehttp"
)

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
