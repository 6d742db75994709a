package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// client talks to one server.
type client struct {
	t      *testing.T
	url    string
	repo   *Repository
	cache  aside.Cache
	header http.Header
}

// serverOn starts a server with the settings that env has, as main does. Its
// cache's budget is large, so that a slow machine is no trouble; tests of trouble
// set it.
func serverOn(t *testing.T, env map[string]string) *client {
	t.Helper()
	all := map[string]string{"DATABASE_URL": newDatabase(t), "CACHE_TIMEOUT": "20s", "SERVER_NAME": "test"}
	maps.Copy(all, env)
	set, err := readSettings(all)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	metrics := newMetrics()
	set.cache.Logger, set.cache.Hooks = log, hooks(metrics)
	db, err := openDatabase(t.Context(), set.databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := aside.Open(set.cache)
	if err != nil {
		t.Fatal(err)
	}
	metrics.cache.Watch(cache)
	repo := &Repository{db, cache, set.databaseDelay}
	stopping, stop := context.WithCancel(t.Context())
	s, err := newServer(stopping, set, repo, metrics, noTraces, log)
	if err != nil {
		t.Fatal(err)
	}
	if set.model.name == "" && env["RESPONDER_DELAY"] == "" {
		s.responder = slowWords{}
	}
	srv := httptest.NewServer(s.Handler(cacheRoutes(cache, set.cache, set.adminToken)))
	t.Cleanup(func() {
		stop()
		srv.Close()
		cache.Close()
		db.Close()
	})
	return &client{t: t, url: srv.URL, repo: repo, cache: cache}
}

// slowWords replies with numbers until it is stopped, or to "short" with two.
type slowWords struct{}

func (slowWords) Respond(ctx context.Context, history []Message) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for i := 0; ctx.Err() == nil && i < 10_000; i++ {
			if !yield(fmt.Sprint(i, " "), nil) || i == 1 && history[len(history)-1].Content == "short" {
				return
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

type answer struct {
	code   int
	header http.Header
	body   []byte
	data   json.RawMessage
	msg    string
}

func (c *client) do(method, path, body string) answer {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	maps.Copy(req.Header, c.header)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var in struct {
		Status  string
		Message string
		Data    json.RawMessage
	}
	_ = json.Unmarshal(text, &in)
	if want := "success"; res.StatusCode >= 400 {
		want = "error"
		if in.Status != want || in.Message == "" {
			c.t.Errorf("%s %s: %d with body %s", method, path, res.StatusCode, text)
		}
	}
	if seconds, err := strconv.ParseFloat(res.Header.Get("X-Process-Time"), 64); err != nil || seconds < 0 {
		c.t.Errorf("%s %s: X-Process-Time %q", method, path, res.Header.Get("X-Process-Time"))
	}
	return answer{res.StatusCode, res.Header, text, in.Data, in.Message}
}

func (c *client) want(code int, method, path, body string) answer {
	c.t.Helper()
	a := c.do(method, path, body)
	if a.code != code {
		c.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.code, code, a.body)
	}
	return a
}

func (c *client) room() string {
	c.t.Helper()
	var chat Chat
	a := c.want(201, "POST", "/api/v1/chats", `{"user_id":"u","title":"t"}`)
	if err := json.Unmarshal(a.data, &chat); err != nil || chat.ID == "" {
		c.t.Fatalf("%v: %s", err, a.body)
	}
	return chat.ID
}

func (c *client) say(room, content string) {
	c.t.Helper()
	text, _ := json.Marshal(map[string]string{"role": "user", "content": content})
	c.want(201, "POST", "/api/v1/chats/"+room+"/messages", string(text))
}

// history reads a room and checks X-Cache.
func (c *client) history(room, outcome string) []Message {
	c.t.Helper()
	a := c.want(200, "GET", "/api/v1/chats/"+room+"/messages", "")
	if got := a.header.Get("X-Cache"); got != outcome && outcome != "" {
		c.t.Errorf("X-Cache %s, want %s", got, outcome)
	}
	var messages []Message
	if err := json.Unmarshal(a.data, &messages); err != nil || messages == nil {
		c.t.Fatalf("%v: %s", err, a.body)
	}
	return messages
}

func (c *client) status() map[string]any {
	c.t.Helper()
	var data map[string]any
	a := c.want(200, "GET", "/cache/status", "")
	if err := json.Unmarshal(a.data, &data); err != nil {
		c.t.Fatal(err)
	}
	return data
}

// stored runs a test on each backend that stores.
func stored(t *testing.T, test func(*testing.T, *client)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, serverOn(t, map[string]string{"CACHE_TYPE": "memory"}))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		r := startRedis(t)
		test(t, serverOn(t, r.env))
	})
}

func TestHistoryIsMissThenHit(t *testing.T) {
	t.Parallel()
	stored(t, func(t *testing.T, c *client) {
		a, b := c.room(), c.room()
		c.history(a, "MISS") // an empty room is cached, too
		c.history(a, "HIT")
		c.history(b, "MISS")
		c.say(a, "안녕")
		got := c.history(a, "MISS")
		if len(got) != 1 || got[0].Content != "안녕" || got[0].Role != "user" || got[0].ChatID != a {
			t.Errorf("got %+v", got)
		}
		c.history(a, "HIT")
		c.history(b, "HIT")
		c.say(a, "second")
		if got := c.history(a, "MISS"); len(got) != 2 || got[1].Content != "second" {
			t.Errorf("got %+v", got)
		}
	})
}

// A message that another program adds to the database, without a word to the cache, is
// seen after CACHE_REFRESH_CHAT_MESSAGES, and no read waits for it.
func TestHistoryIsStaleThenRefreshed(t *testing.T) {
	t.Parallel()
	stale := func(t *testing.T, env map[string]string) {
		env["CACHE_REFRESH_CHAT_MESSAGES"] = "50ms"
		c := serverOn(t, env)
		room := c.room()
		c.history(room, "MISS")
		if _, err := c.repo.db.ExecContext(t.Context(), `INSERT INTO messages (chat_id, role, content, created_at) VALUES ($1, 'user', 'from elsewhere', $2)`, room, now().Format(stamp)); err != nil {
			t.Fatal(err)
		}
		read := func() (outcome string, seen bool) {
			a := c.want(200, "GET", "/api/v1/chats/"+room+"/messages", "")
			return a.header.Get("X-Cache"), bytes.Contains(a.body, []byte("from elsewhere"))
		}
		redistest.Eventually(t, "the history is stale", func() bool {
			outcome, seen := read()
			if seen || outcome != "HIT" && outcome != "STALE" {
				t.Fatalf("X-Cache %s, and the new message is there: %v; no read had it refreshed", outcome, seen)
			}
			return outcome == "STALE"
		})
		redistest.Eventually(t, "the new message is there", func() bool {
			outcome, seen := read()
			if outcome != "HIT" && outcome != "STALE" {
				t.Fatalf("X-Cache %s, want a hit", outcome)
			}
			return seen
		})
		s := c.status()["stats"].(map[string]any)
		if s["refreshes"].(float64) < 1 || s["stale_hits"].(float64) < 1 || s["misses"] != 1.0 {
			t.Errorf("the status has %v", s)
		}
	}
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		stale(t, map[string]string{"CACHE_TYPE": "memory"})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		stale(t, startRedis(t).env)
	})
}

func TestOff(t *testing.T) {
	t.Parallel()
	for _, env := range []map[string]string{{"CACHE_ENABLED": "false"}, {"CACHE_TYPE": "none"}} {
		c := serverOn(t, env)
		room := c.room()
		c.history(room, "OFF")
		c.say(room, "x")
		if got := c.history(room, "OFF"); len(got) != 1 {
			t.Errorf("got %+v", got)
		}
		if s := c.status(); s["enabled"] != false || s["message"] == nil {
			t.Errorf("status %v", s)
		}
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	messages := "/api/v1/chats/" + room + "/messages"
	large := `{"role":"user","content":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, row := range []struct {
		code               int
		method, path, body string
	}{
		{400, "POST", "/api/v1/chats", `{"title":"no user"}`},
		{400, "POST", "/api/v1/chats", `{"user_id":`},
		{400, "POST", "/api/v1/chats", ``},
		{400, "POST", "/api/v1/chats", `{"user_id":"u"} more`},
		{400, "POST", "/api/v1/chats", `[]`},
		{400, "GET", "/api/v1/chats", ``},
		{400, "POST", "/api/v1/chats", `{"user_id":"u\u0000"}`},
		{400, "GET", "/api/v1/chats?user_id=%00", ``},
		{400, "GET", "/api/v1/chats/%ff/messages", ``},
		{400, "POST", messages, `{"role":"user","content":"\u0000"}`},
		{405, "PUT", "/api/v1/chats", ``},
		{404, "GET", "/api/v1/chats/unknown/messages", ``},
		{404, "POST", "/api/v1/chats/unknown/messages", `{"role":"user","content":"x"}`},
		{400, "POST", messages, `{"role":"user","content":"  "}`},
		{400, "POST", messages, `{"role":"robot","content":"x"}`},
		{400, "POST", messages, `{"role":1}`},
		{413, "POST", messages, large},
		{404, "POST", "/api/v1/chats/unknown/generate", ``},
		{404, "POST", "/api/v1/chats/" + room + "/cancel", ``},
		{404, "DELETE", "/api/v1/chats/unknown", ``},
		{404, "GET", "/api/v1/nothing", ``},
		{405, "GET", "/cache/clear", ``},
		{405, "POST", "/api/v1/cache/status", ``},
		{404, "GET", "/cache/nothing", ``},
	} {
		a := c.want(row.code, row.method, row.path, row.body)
		if row.code == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", row.method, row.path)
		}
	}
	var chats []Chat
	a := c.want(200, "GET", "/api/v1/chats?user_id=u", "")
	if err := json.Unmarshal(a.data, &chats); err != nil || len(chats) != 1 || chats[0].ID != room || a.header.Get("X-Cache") != "" {
		t.Errorf("%v: %s", err, a.body)
	}
	c.want(200, "GET", "/healthz", "")
	c.want(204, "DELETE", "/api/v1/chats/"+room, "")
	c.want(404, "GET", messages, "")
	c.header = http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
	c.want(403, "POST", "/cache/clear", "")
	c.want(403, "POST", "/api/v1/chats", `{"user_id":"u"}`)
}

func TestCacheEndpoints(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	env := maps.Clone(r.env)
	env["CACHE_ADMIN_TOKEN"], env["REDIS_PASSWORD"], env["REDIS_USERNAME"] = "s3cret", "hunter2", "app"
	if err := r.client.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">hunter2", "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	c := serverOn(t, env)
	c.history(c.room(), "MISS")
	for _, prefix := range []string{"/cache", "/api/v1/cache"} {
		var s struct {
			Enabled      bool
			RedisVersion string `json:"redis_version"`
			UsedMemory   string `json:"used_memory"`
			TotalKeys    int    `json:"total_keys"`
			CacheConfig  struct {
				Enabled         bool
				TTLChatMessages int    `json:"ttl_chat_messages"`
				TTLUserChats    int    `json:"ttl_user_chats"`
				RedisHost       string `json:"redis_host"`
				RedisPort       int    `json:"redis_port"`
				RedisDB         *int   `json:"redis_db"`
			} `json:"cache_config"`
			Stats   struct{ Misses, Loads int }
			Breaker string
		}
		a := c.want(200, "GET", prefix+"/status", "")
		if err := json.Unmarshal(a.data, &s); err != nil || !s.Enabled || s.RedisVersion == "" || s.UsedMemory == "" || s.TotalKeys != 1 ||
			!s.CacheConfig.Enabled || s.CacheConfig.TTLChatMessages != 1800 || s.CacheConfig.TTLUserChats != 600 || s.CacheConfig.RedisDB == nil ||
			s.CacheConfig.RedisHost != "127.0.0.1" || fmt.Sprint(s.CacheConfig.RedisPort) != env["REDIS_PORT"] || s.Stats.Loads != 1 || s.Breaker != "closed" {
			t.Errorf("%v: %s", err, a.body)
		}
		var test struct {
			Set     *float64 `json:"set_time_ms"`
			Get     *float64 `json:"get_time_ms"`
			Matches bool     `json:"value_matches"`
		}
		a = c.want(200, "GET", prefix+"/test", "")
		if err := json.Unmarshal(a.data, &test); err != nil || test.Set == nil || test.Get == nil || !test.Matches {
			t.Errorf("%v: %s", err, a.body)
		}
		a = c.want(200, "GET", prefix+"/config", "")
		if bytes.Contains(a.body, []byte("hunter2")) || bytes.Contains(a.body, []byte("s3cret")) || !bytes.Contains(a.body, []byte(`"redis_password_set":true`)) {
			t.Errorf("config: %s", a.body)
		}
	}
	c.want(401, "POST", "/cache/clear", "")
	c.header = http.Header{"Authorization": {"Bearer wrong"}}
	c.want(401, "POST", "/cache/clear", "")
	c.header = http.Header{"Authorization": {"Bearer s3cret"}}
	c.want(200, "POST", "/cache/clear", "")
	if n := r.client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys after clear", n)
	}
}

func TestRedisCliAndOthersShareTheKeys(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	c := serverOn(t, r.env)
	room := c.room()
	c.say(room, "hi")
	want := c.history(room, "MISS")
	c.history(room, "HIT") // it is stored by then
	key := "chat_messages:" + room
	var inRedis []Message
	if err := json.Unmarshal([]byte(r.client.Get(t.Context(), key).Val()), &inRedis); err != nil || len(inRedis) != 1 || inRedis[0] != want[0] {
		t.Errorf("%v: %+v, want %+v", err, inRedis, want)
	}
	theirs := `[{"message_id": 5, "chat_id": "` + room + `", "role": "user", "content": "파이썬", "created_at": "2026-01-02T03:04:05+00:00"}]`
	r.client.Do(t.Context(), "SETEX", key, 60, theirs)
	if got := c.history(room, "HIT"); len(got) != 1 || got[0].Content != "파이썬" {
		t.Errorf("got %+v", got)
	}
	r.client.Del(t.Context(), key)
	c.history(room, "MISS")
	c.history(room, "HIT")
	for _, spoil := range []func(){
		func() { r.client.Set(t.Context(), key, "not json", 0) },
		func() { r.client.Set(t.Context(), key, "[{\"content\": \"\xbe\xc8\xb3\xe7\"}]", 0) }, // cp949
		func() { r.client.Set(t.Context(), key, "[{\"content\": \"\xed\xa0\xbd\"}]", 0) },     // half an emoji
		func() { r.client.Del(t.Context(), key); r.client.HSet(t.Context(), key, "a", "b") },
	} {
		spoil()
		if got := c.history(room, "MISS"); len(got) != 1 || got[0] != want[0] {
			t.Errorf("got %+v", got)
		}
		c.history(room, "HIT")
	}
}

func TestSharedWithPython(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	python := os.Getenv("ASIDE_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if exec.Command(python, "-c", "import redis").Run() != nil {
		if os.Getenv("ASIDE_TEST_REQUIRE_PYTHON") != "" {
			t.Fatal(python, "has no redis-py")
		}
		t.Skip("no python3 with redis-py")
	}
	c := serverOn(t, r.env)
	room := c.room()
	c.say(room, "from Go")
	c.history(room, "MISS")
	c.history(room, "HIT")
	script := `
import json, sys, redis
r = redis.Redis(port=int(sys.argv[1])); key = "chat_messages:" + sys.argv[2]
history = json.loads(r.get(key))
assert history[0]["content"] == "from Go", history
history.append(dict(history[0], message_id=99, content="from Python 한글"))
r.setex(key, 1800, json.dumps(history, ensure_ascii=False))
`
	if out, err := exec.Command(python, "-c", script, r.env["REDIS_PORT"], room).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := c.history(room, "HIT"); len(got) != 2 || got[1].Content != "from Python 한글" {
		t.Errorf("got %+v", got)
	}
}

func TestRedisKilledAndBack(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	r.env["CACHE_TIMEOUT"] = "250ms"
	c := serverOn(t, r.env)
	room := c.room()
	c.say(room, "before")
	c.history(room, "MISS")
	c.history(room, "HIT")
	// What is written while it is away is kept by a Redis that comes back with its
	// data: the stale history in it must not be served.
	r.client.Save(t.Context())
	r.Kill()
	c.say(room, "during")
	for range 5 {
		if got := c.history(room, "MISS"); len(got) != 2 {
			t.Errorf("while Redis is unavailable: %+v", got)
		}
	}
	c.want(200, "GET", "/healthz", "")
	if s := c.status(); s["enabled"] != false || s["message"] != "Redis not available" {
		t.Errorf("status %v", s)
	}
	c.want(503, "POST", "/cache/clear", "")
	c.want(503, "GET", "/cache/test", "")
	r.Start()
	redistest.Eventually(t, "hits come back", func() bool {
		a := c.want(200, "GET", "/api/v1/chats/"+room+"/messages", "")
		if !bytes.Contains(a.body, []byte("during")) {
			t.Fatalf("stale after Redis is back: %s", a.body)
		}
		return a.header.Get("X-Cache") == "HIT"
	})
	if s := c.status(); s["enabled"] != true {
		t.Errorf("status %v", s)
	}
}

// The bounds are wide, for slow machines: they tell the budget of 250 ms from the
// 5 s that the client library would wait. The test does not measure the cost itself.
func TestRedisFrozen(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	r.env["CACHE_TIMEOUT"] = "250ms"
	c := serverOn(t, r.env)
	room := c.room()
	c.history(room, "MISS")
	r.Pause()
	var slow []time.Duration // one may be while this machine stands still
	for range 10 {
		start := time.Now()
		c.history(room, "MISS")
		c.say(room, "x")
		if took := time.Since(start); took > 3*time.Second {
			slow = append(slow, took)
		}
	}
	if len(slow) > 1 {
		t.Errorf("rounds took %v", slow)
	}
	if s := c.status(); s["breaker"] != "open" || s["enabled"] != false {
		t.Errorf("status %v", s)
	}
	r.Resume()
	redistest.Eventually(t, "hits come back", func() bool {
		a := c.want(200, "GET", "/api/v1/chats/"+room+"/messages", "")
		if n := bytes.Count(a.body, []byte(`"x"`)); n != 10 {
			t.Fatalf("%d messages of 10", n)
		}
		return a.header.Get("X-Cache") == "HIT"
	})
}

func loads(t *testing.T, clients ...*client) (n int64) {
	for _, c := range clients {
		s, err := c.cache.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += s.Stats.Loads
	}
	return n
}

func TestFiveHundredAtOnceReadTheDatabaseOnce(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, clients ...*client) {
		room := clients[0].room()
		clients[0].say(room, "x")
		before := loads(t, clients...)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 500 {
			wg.Go(func() {
				<-start
				if m, err := clients[i%len(clients)].repo.Conversation(t.Context(), room); err != nil || len(m.Messages) != 1 {
					t.Errorf("%v, %v", m, err)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := loads(t, clients...) - before; n != 1 {
			t.Errorf("%d database reads, want 1", n)
		}
		clients[0].history(room, "HIT")
	}
	stored(t, func(t *testing.T, c *client) { check(t, c) })
	t.Run("two servers", func(t *testing.T) {
		t.Parallel()
		r := startRedis(t)
		one := maps.Clone(r.env)
		one["DATABASE_URL"] = newDatabase(t)
		check(t, serverOn(t, one), serverOn(t, one))
	})
}

// stream starts a generation, and returns its events as they come.
func (c *client) stream(ctx context.Context, room string) (code int, events iter.Seq2[string, string]) {
	c.t.Helper()
	return c.events(ctx, "POST", "/api/v1/chats/"+room+"/generate")
}

// events yields the server-sent events of an answer, by name and data.
func (c *client) events(ctx context.Context, method, path string) (code int, events iter.Seq2[string, string]) {
	c.t.Helper()
	req, _ := http.NewRequestWithContext(ctx, method, c.url+path, nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	return res.StatusCode, func(yield func(string, string) bool) {
		name := ""
		for lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = v
			} else if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok && !yield(name, v) {
				return
			}
		}
	}
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	stored(t, func(t *testing.T, c *client) {
		room := c.room()
		c.say(room, "short")
		var names []string
		_, events := c.stream(t.Context(), room)
		for name := range events {
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != "token token done" {
			t.Errorf("events %s", got)
		}
		if got := c.history(room, "MISS"); len(got) != 2 || got[1].Role != "assistant" || got[1].Content != "0 1" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestCancelThroughAnotherServer(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	env := maps.Clone(r.env)
	env["DATABASE_URL"] = newDatabase(t)
	one, two := serverOn(t, env), serverOn(t, env)
	room := one.room()
	one.say(room, "long")
	_, events := one.stream(t.Context(), room)
	last := ""
	for name := range events {
		if last == "" {
			for _, c := range []*client{one, two} {
				if code, _ := c.stream(t.Context(), room); code != 409 {
					t.Errorf("a second generation: %d, want 409", code)
				}
			}
			two.want(200, "POST", "/api/v1/chats/"+room+"/cancel", "")
		}
		last = name
	}
	if last != "cancelled" {
		t.Errorf("the last event is %s", last)
	}
	got := two.history(room, "")
	if len(got) != 2 || got[1].Role != "assistant" || !strings.HasPrefix(got[1].Content, "0") {
		t.Errorf("the partial reply is not saved: %+v", got)
	}
	redistest.Eventually(t, "the generation's keys are gone", func() bool {
		return r.client.Exists(t.Context(), "generation:"+room, "cancel:"+room).Val() == 0
	})
	two.want(404, "POST", "/api/v1/chats/"+room+"/cancel", "")
	two.want(204, "DELETE", "/api/v1/chats/"+room, "")
	if keys := r.client.Keys(t.Context(), "*"+room+"*").Val(); len(keys) != 0 {
		t.Errorf("after the room was deleted: %q", keys)
	}
	one.want(404, "GET", "/api/v1/chats/"+room+"/messages", "")
}

func TestAClientThatLeavesEndsItsGeneration(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	c.say(room, "long")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	_, events := c.stream(ctx, room)
	for range events {
		leave()
		break
	}
	redistest.Eventually(t, "what was generated is saved", func() bool { return len(c.history(room, "")) == 2 })
	redistest.Eventually(t, "the generation is over", func() bool {
		return c.do("POST", "/api/v1/chats/"+room+"/cancel", "").code == 404
	})
}

// A client that does not read its stream is given up, its reply is saved, and the room is
// free again.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	env := modelEnv(modelServer(t, func(w http.ResponseWriter, r *http.Request, _ string) {
		for r.Context().Err() == nil {
			piece(w, strings.Repeat("much ", 10_000)) // until all buffers are full
		}
	}))
	env["OPENAI_TIMEOUT"] = "1m"
	c := serverOn(t, env)
	room := c.room()
	c.say(room, "more")
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "POST /api/v1/chats/%s/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", room)
	redistest.Eventually(t, "what was generated is saved", func() bool { return len(c.history(room, "")) == 2 })
	redistest.Eventually(t, "the room is free", func() bool {
		return c.do("POST", "/api/v1/chats/"+room+"/cancel", "").code == 404
	})
}

func TestARoomIsDeletedDuringAReply(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	c.say(room, "long")
	_, events := c.stream(t.Context(), room)
	last := ""
	for name := range events {
		if last == "" {
			c.want(204, "DELETE", "/api/v1/chats/"+room, "")
		}
		last = name
	}
	if last != "cancelled" {
		t.Errorf("the reply ended with %q", last)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(file, []byte("CACHE_TYPE=memory\nASIDE_TEST_ONLY_IN_FILE='x y'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env, _, err := environment(file, variables(os.Environ()))
	if err != nil || env["ASIDE_TEST_ONLY_IN_FILE"] != "x y" || env["PATH"] != os.Getenv("PATH") {
		t.Errorf("%v", err)
	}
	if _, _, err := environment(filepath.Join(t.TempDir(), "absent"), nil); err != nil {
		t.Error(err)
	}
	wrong := map[string]string{
		"PORT": "70000", "CACHE_TYPE": "x", "LOG_LEVEL": "loud", "RESPONDER_DELAY": "-1s", "DATABASE_DELAY": "a while",
		"OPENAI_BASE_URL": "localhost", "OPENAI_TIMEOUT": "0s",
	}
	_, err = readSettings(wrong)
	for _, name := range append(slices.Collect(maps.Keys(wrong)), "OPENAI_MODEL") {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not reported: %v", name, err)
		}
	}
	if s, err := readSettings(nil); err != nil || s.addr != "127.0.0.1:8000" || s.databaseURL != "chat.db" {
		t.Errorf("defaults %+v, %v", s, err)
	}
	for _, url := range []string{"postgres://u:hunter2@127.0.0.1:1/db", "postgres://u:hunter2@h:port/db", "mysql://u:hunter2@h/db", "host=h password=hunter2", "sqlite:chat.db", "sqlite://"} {
		if _, err := openDatabase(t.Context(), url); err == nil || !strings.Contains(err.Error(), "DATABASE_URL") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if err := serve(ctx, "127.0.0.1:0", http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("serve: %v", err)
	}
}

// redisServer is a Redis of the test's own, and the settings of a server that
// uses it.
type redisServer struct {
	*redistest.Server
	env    map[string]string
	client *redis.Client
}

func startRedis(t *testing.T) redisServer {
	t.Helper()
	s := redistest.Start(t)
	host, port, _ := net.SplitHostPort(s.Addr)
	return redisServer{s, map[string]string{"REDIS_HOST": host, "REDIS_PORT": port}, s.Client()}
}
