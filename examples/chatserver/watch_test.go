package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// watch yields the events of a page that shows the room, until stop.
func (c *client) watch(room string) (events iter.Seq2[string, string], stop func()) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.t.Context(), 30*time.Second)
	_, events = c.events(ctx, "GET", "/api/v1/events?chat_id="+room)
	return events, stop
}

func TestWatch(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory", "DATABASE_DELAY": "10ms"})
	room := c.room()
	c.say(room, "hello")
	c.history(room, "MISS")
	events, stop := c.watch(room)
	defer stop()
	seen := make(map[string]bool)
	var reads []chatRead
	var state cacheState
	for name, data := range events {
		seen[name] = true
		switch name {
		case "about":
			if want := `{"server":"test","model":"","database":"` + databaseName(newDatabase(t)) + `"}`; data != want {
				t.Errorf("about %s, want %s", data, want)
			}
		case "read":
			var r chatRead
			if err := json.Unmarshal([]byte(data), &r); err != nil {
				t.Fatal(err)
			}
			reads = append(reads, r)
		case "cache":
			if err := json.Unmarshal([]byte(data), &state); err != nil {
				t.Fatal(err)
			}
			if len(reads) == 1 { // the second state has what this read did
				c.history(room, "HIT")
			}
		}
		if len(reads) == 2 && state.Hits == 1 {
			break
		}
	}
	if !seen["about"] || len(reads) != 2 {
		t.Fatalf("saw %v, %+v", seen, reads)
	}
	if r := reads[0]; r.Outcome != "MISS" || r.ChatID != room || r.DatabaseMS < 10 || r.TotalMS < r.DatabaseMS {
		t.Errorf("the first read was %+v", r)
	}
	if r := reads[1]; r.Outcome != "HIT" || r.DatabaseMS != 0 {
		t.Errorf("the second read was %+v", r)
	}
	chat := state.Chat
	if !state.Enabled || !state.Available || state.Backend != "memory" || chat == nil || chat.Newest == 0 || chat.Generating || len(chat.Keys) != 1 {
		t.Fatalf("the state is %+v, %+v", state, chat)
	}
	if k := chat.Keys[0]; k.Key != "chat_messages:"+room || k.TTLMS < 29*60e3 || k.TTLMS > 30*60e3 {
		t.Errorf("the key is %+v", k)
	}
}

// A page that watches a room is not told the ids of others, as an id is enough to read a
// room.
func TestWatch_NamesNoOtherRoom(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	watched, other := c.room(), c.room()
	c.history(watched, "MISS")
	c.history(other, "MISS")
	events, stop := c.watch(watched)
	defer stop()
	var ids []string
	for name, data := range events {
		if strings.Contains(data, other) {
			t.Errorf("%s %s", name, data)
		}
		var r chatRead
		if name == "read" && json.Unmarshal([]byte(data), &r) == nil {
			ids = append(ids, r.ChatID)
		}
		if name == "cache" {
			break
		}
	}
	if strings.Join(ids, ",") != watched+"," {
		t.Errorf("reads of %q", ids)
	}
}

func TestWatch_CacheAway(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	c := serverOn(t, redis.env)
	off := serverOn(t, map[string]string{"CACHE_ENABLED": "false"})
	redis.Kill()
	for c, want := range map[*client]cacheState{c: {Enabled: true, Backend: "redis"}, off: {Backend: "none"}} {
		room := c.room()
		c.say(room, "hello")
		events, stop := c.watch(room)
		for name, data := range events {
			if name != "cache" {
				continue
			}
			var got cacheState
			if err := json.Unmarshal([]byte(data), &got); err != nil {
				t.Fatal(err)
			}
			if got.Enabled != want.Enabled || got.Available || got.Backend != want.Backend || got.Chat.Newest == 0 {
				t.Errorf("got %+v, %+v, want %+v", got, got.Chat, want)
			}
			break
		}
		stop()
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "memory"})
	room := c.room()
	c.history(room, "MISS")
	c.history(room, "HIT")
	for i := range 3 {
		c.want(405, fmt.Sprint("INVENTED", i), "/api/v1/chats", "")
	}
	res, err := http.Get(c.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&text); err != nil || res.StatusCode != 200 || res.Header.Get("X-Process-Time") == "" {
		t.Fatalf("%d, %v", res.StatusCode, err)
	}
	for _, line := range []string{
		`aside_up\{cache="chat"\} 1`, `aside_breaker_open\{cache="chat"\} 0`, `aside_queued_invalidations\{cache="chat"\} 0`,
		`aside_reads_total\{cache="chat",keyspace="chat_messages",outcome="hit"\} 1`,
		`aside_reads_total\{cache="chat",keyspace="chat_messages",outcome="miss"\} 1`,
		`aside_load_duration_seconds_count\{cache="chat",keyspace="chat_messages",reason="miss",result="ok"\} 1`,
		`http_request_duration_seconds_count\{code="405",method="other",route="/api/v1/chats"\} 3`,
		`http_request_duration_seconds_count\{code="200",method="GET",route="/api/v1/chats/\{chat_id\}/messages"\} 2`,
	} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(text.String()) {
			t.Errorf("there is no %s in\n%s", line, text.String())
		}
	}
}

// Without settings the log says which reads were hits.
func TestLog(t *testing.T) {
	t.Parallel()
	s := startChatserver(t, map[string]string{"CACHE_TYPE": "memory"})
	c := &client{t: t, url: s.url}
	room := c.room()
	c.history(room, "MISS")
	c.history(room, "HIT")
	s.stop()
	for _, want := range []string{
		`level=DEBUG msg="[CACHE MISS]" key=chat_messages:` + room, `level=DEBUG msg="[CACHE HIT]" key=chat_messages:` + room,
		`level=INFO msg=request method=GET path=/api/v1/chats/` + room + `/messages code=200 ms=`,
	} {
		if text := s.log.String(); !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	c := serverOn(t, map[string]string{"CACHE_TYPE": "none"})
	for path, kind := range map[string]string{"/": "text/html", "/page/chat.js": "text/javascript", "/page/style.css": "text/css", "/page/icon.svg": "image/svg+xml"} {
		res, err := http.Get(c.url + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), kind) || !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %d %v", path, res.StatusCode, res.Header)
		}
	}
	// Each text is there in both languages, and each id that the page's script uses is there.
	texts, err := pageFiles.ReadFile("page/texts.js")
	if err != nil {
		t.Fatal(err)
	}
	en, ko, _ := strings.Cut(string(texts), "\n  ko: {")
	names := regexp.MustCompile(`(?m)^ +(\w+):`)
	for _, m := range names.FindAllStringSubmatch(en[strings.Index(en, "en: {"):], -1) {
		if m[1] != "en" && !regexp.MustCompile(`(?m)^ +`+m[1]+`:`).MatchString(ko) {
			t.Errorf("%s is not there in Korean", m[1])
		}
	}
	html, _ := pageFiles.ReadFile("page/index.html")
	script, _ := pageFiles.ReadFile("page/chat.js")
	for _, m := range regexp.MustCompile(`\$\("([a-z-]+)"\)`).FindAllSubmatch(script, -1) {
		if !strings.Contains(string(html), `id="`+string(m[1])+`"`) {
			t.Errorf("the page has nothing with the id %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`data-(?:text|label|placeholder)="(\w+)"`).FindAllSubmatch(html, -1) {
		if !strings.Contains(en, "    "+string(m[1])+":") {
			t.Errorf("there is no text %s", m[1])
		}
	}
}
