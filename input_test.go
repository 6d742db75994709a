package aside_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	cfg, err := fromEnv(nil)
	if err != nil {
		t.Fatal(err)
	}
	guide := map[string]time.Duration{"chat_messages": 1800e9, "user_chats": 600e9, "generation": 300e9, "cancel": 60e9}
	if diff := cmp.Diff(guide, cfg.TTLs); diff != "" || cfg.Type != "" {
		t.Errorf("defaults: type %q, TTLs (-want +got)\n%s", cfg.Type, diff)
	}
	cfg, err = fromEnv(map[string]string{
		"CACHE_ENABLED": "True", "CACHE_TYPE": "Redis", "CACHE_KEY_PREFIX": "app:", "CACHE_TTL_JITTER": "0.1",
		"CACHE_TTL_CHAT_MESSAGES": "30m", "CACHE_TTL_USER": "5", "CACHE_TTL_CANCEL": "0.5", "CACHE_TIMEOUT": "100ms",
		"CACHE_REFRESH_CHAT_MESSAGES": "27m", "CACHE_REFRESH_USER": "0.5", "CACHE_REFRESH_Row": "0", "CACHE_REFRESH_SESSION": "3600",
		"CACHE_MEMORY_MAX_BYTES": "1000", "CACHE_NEAR_MAX_BYTES": "2000", "CACHE_REFUSE_WRITES": "1", "CACHE_QUEUE_SIZE": "7", "CACHE_MAX_VALUE_BYTES": "9",
		"CACHE_LOAD_TIMEOUT": "60", "CACHE_MAX_LOADS": "8", "CACHE_AUDIT": "0.01", "REDIS_HOST": "a, b:7000 ,::1", "REDIS_PORT": "7001", "REDIS_USERNAME": "u",
		"REDIS_PASSWORD": " p ", "REDIS_TLS": "true", "REDIS_DB": "", "REDIS_WAIT_REPLICAS": "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := aside.Config{
		Type: "redis", KeyPrefix: "app:", Jitter: 0.1, WaitReplicas: 1, Timeout: 100 * time.Millisecond, LoadTimeout: time.Minute, MaxLoads: 8, Audit: 0.01,
		MemoryMaxBytes: 1000, DecodedMaxBytes: 1000, NearMaxBytes: 2000, MaxValueBytes: 9, QueueSize: 7, RefuseWrites: true,
		TTLs:         map[string]time.Duration{"chat_messages": 1800e9, "user_chats": 600e9, "generation": 300e9, "cancel": 5e8, "user": 5e9},
		RefreshAfter: map[string]time.Duration{"chat_messages": 1620e9, "user": 5e8, "row": 0, "session": 3600e9},
		Redis:        aside.Redis{Hosts: []string{"a", "b:7000", "::1"}, Port: 7001, Username: "u", Password: " p ", TLS: true},
	}
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestConfigFromEnv_ReportsEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := fromEnv(map[string]string{
		"CACHE_ENABLED": "maybe", "CACHE_TYPE": "memcached", "CACHE_TTL_CHAT_MESSAGES": "-5", "CACHE_TTL_USER_CHATS": "abc",
		"CACHE_TTL_X": "1000000000000", "REDIS_PORT": "70000", "REDIS_DB": "-1", "CACHE_TTL_JITTER": "NaN", "CACHE_TIMEOUT": "0",
		"REDIS_URL": "redis://user:hunter2@host:notaport/0", "REDIS_HOST": "x:99999", "CACHE_TTL_": "5", "CACHE_KEY_PREFIX": "{",
		"CACHE_MEMORY_MAX_BYTES": "1e9", "CACHE_NEAR_MAX_BYTES": "-1", "CACHE_MAX_LOADS": "-1", "CACHE_AUDIT": "2", "REDIS_PASSWORD": "hunter2",
		"CACHE_REFRESH_CHAT_MESSAGES": "-5", "CACHE_REFRESH_GENERATION": "60", "CACHE_REFRESH_Cancel": "0", "CACHE_REFRESH_TOKEN": "hunter2", "CACHE_REFRESH_LEASE": "5", "CACHE_REFRESH_Y": "1us",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{
		"CACHE_ENABLED", "CACHE_TYPE", "CACHE_TTL_CHAT_MESSAGES", "CACHE_TTL_USER_CHATS", "CACHE_TTL_X", "REDIS_PORT", "REDIS_DB",
		"CACHE_TTL_JITTER", "CACHE_TIMEOUT", "REDIS_URL", "REDIS_HOST", "CACHE_TTL_:", "CACHE_KEY_PREFIX", "CACHE_MEMORY_MAX_BYTES", "CACHE_NEAR_MAX_BYTES", "CACHE_MAX_LOADS", "CACHE_AUDIT",
		"CACHE_REFRESH_CHAT_MESSAGES", "CACHE_REFRESH_GENERATION", "CACHE_REFRESH_Cancel", "CACHE_REFRESH_TOKEN", "CACHE_REFRESH_LEASE", "CACHE_REFRESH_Y",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not reported", name)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the password:\n%v", err)
	}
	if n := strings.Count(err.Error(), "want "); n < 19 {
		t.Errorf("%d of the messages say what is wanted:\n%v", n, err)
	}
}

// Settings that are wrong only together are reported with all others, by the variables' names.
func TestConfigFromEnv_ReportsWhatDoesNotGoTogether(t *testing.T) {
	t.Parallel()
	_, err := fromEnv(map[string]string{"REDIS_HOST": "a,b", "REDIS_DB": "2", "REDIS_URL": "redis://c", "CACHE_TIMEOUT": "x"})
	_, other := fromEnv(map[string]string{"REDIS_CLUSTER": "true", "REDIS_SENTINEL_MASTER": "m"})
	for _, want := range []string{"CACHE_TIMEOUT", "REDIS_DB 2: want 0, as a Cluster has no other database", "several hosts in REDIS_HOST are a Cluster, or with REDIS_SENTINEL_MASTER the Sentinels", "REDIS_URL: it names one server", "REDIS_CLUSTER and REDIS_SENTINEL_MASTER"} {
		if text := fmt.Sprint(err, other); !strings.Contains(text, want) || strings.Contains(text, "Config.") {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
}

func TestOpen_RefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]aside.Config{
		"Type":           {Type: "memcached"},
		"KeyPrefix":      {KeyPrefix: "a}b"},
		"TTLs":           {TTLs: map[string]time.Duration{"user": -5}},
		"Keyspaces":      {Keyspaces: []aside.Keyspace{{Name: "a:b"}}},
		"NotFoundTTL":    {Keyspaces: []aside.Keyspace{{Name: "a", NotFoundTTL: -1}}},
		"Jitter":         {Jitter: 1},
		"Timeout":        {Timeout: -1},
		"MemoryMaxBytes": {MemoryMaxBytes: -1}, "NearMaxBytes": {NearMaxBytes: -1},
		"Port":           {Redis: aside.Redis{Port: 70000}},
		"DB":             {Redis: aside.Redis{DB: 1, Hosts: []string{"a", "b"}}},
		"Hosts":          {Redis: aside.Redis{Hosts: []string{"user:hunter2@host"}}},
		"URL":            {Redis: aside.Redis{URL: "http://hunter2@host"}},
		"SentinelMaster": {Redis: aside.Redis{SentinelMaster: "m", Cluster: true}},
	} {
		c, err := aside.Open(cfg)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hunter2") || c != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	for _, key := range []aside.Key{
		{}, aside.ChatMessages(""), aside.Keyspace{Name: "a:b"}.Key("1"), aside.Keyspace{}.Key("1"), aside.Keyspace{Name: "lease"}.Key("1"),
		aside.Keyspace{Name: "x{y}"}.Key("1"), aside.Keyspace{Name: "ok", TTL: -5}.Key("1"), aside.ChatMessages(strings.Repeat("x", 1<<20)),
	} {
		_, err := aside.GetOrLoad(t.Context(), c, key, fails(t))
		if !errors.Is(err, aside.ErrInvalidKey) {
			t.Errorf("GetOrLoad(%.20q): %v", key, err)
		}
		if err := aside.Invalidate(t.Context(), c, room, key); !errors.Is(err, aside.ErrInvalidKey) {
			t.Errorf("Invalidate(%.20q): %v", key, err)
		}
		if err := aside.Update(t.Context(), c, func(context.Context) error { t.Error("wrote"); return nil }, key); !errors.Is(err, aside.ErrInvalidKey) {
			t.Errorf("Update(%.20q): %v", key, err)
		}
	}
	want := map[string]aside.Key{
		"chat_messages:A": aside.ChatMessages("A"), "user_chats:u": aside.UserChats("u"),
		"generation:A": aside.GenerationKey("A"), "cancel:A": aside.CancelKey("A"), "user:4 2": aside.Keyspace{Name: "user"}.Key("4 2"),
	}
	for text, key := range want {
		if key.String() != text {
			t.Errorf("got %q, want %q", key, text)
		}
	}
}

func TestAnyIDIsKeptApart(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		ids := []string{"a b", "a\nb", "{a}", "}{", "a{}b", "{", "대화방", "\x00", ":", "a:lease", strings.Repeat("k", 10<<10)}
		for range 2 {
			for _, id := range ids {
				v := must(aside.GetOrLoad(t.Context(), c, aside.ChatMessages(id), func(context.Context) (string, error) { return "v" + id, nil }))
				if v != "v"+id {
					t.Errorf("%.20q: got %.20q", id, v)
				}
			}
		}
		if s := asideStats(t, c); s.Hits != int64(len(ids)) {
			t.Errorf("%d hits, want %d", s.Hits, len(ids))
		}
		for _, id := range ids {
			if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, aside.ChatMessages(id)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestBadCalls(t *testing.T) {
	t.Parallel()
	c := must(aside.Open(aside.Config{Type: "memory"}))
	ctx := t.Context()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	write := func(context.Context) error { return nil }
	for name, err := range map[string]error{
		"nil loader":        second(aside.GetOrLoad[string](ctx, c, room, nil)),
		"nil cache":         second(aside.GetOrLoad(ctx, nil, room, fails(t))),
		"cancelled":         second(aside.GetOrLoad(ended, c, room, fails(t))),
		"nil write":         aside.Update(ctx, c, nil, room),
		"no keys":           aside.Update(ctx, c, write),
		"nothing to drop":   aside.Invalidate(ctx, c),
		"cancelled write":   aside.Update(ended, c, func(context.Context) error { t.Error("wrote"); return nil }, room),
		"nil client":        second(aside.NewRedis(nil, aside.Config{})),
		"typed nil client":  second(aside.NewRedis((*redis.Client)(nil), aside.Config{})),
		"reads of replicas": second(aside.NewRedis(redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"x:1"}, ReadOnly: true}), aside.Config{})),
		"nil backend":       second(aside.New(nil, aside.Config{})),
		"nil generations":   second(aside.NewGenerations(nil)),
		"zero ttl":          c.Set(ctx, "s:1", nil, 0),
		"zero lease":        second(backendOf(c).Lease(ctx, "s:1", backend.LeaseRequest{})),
		"zero extension":    second(backendOf(c).Extend(ctx, "t", 0, "s:1")),
		"zero fill":         second(backendOf(c).Fill(ctx, "s:1", "t", backend.Fill{})),
		"zero block":        backendOf(c).Block(ctx, "t", 0, "s:1"),
		"nobody's block":    backendOf(c).Block(ctx, "", time.Second, "s:1"),
		"empty key":         c.Set(ctx, "", nil, time.Second),
		"empty prefix":      c.Clear(ctx, ""),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := aside.Invalidate(ended, c, room); err != nil {
		t.Errorf("Invalidate with an ended context: %v: its work is still to be done", err)
	}
	gs := generations(t, c)
	if _, err := gs.Start(ctx, ""); !errors.Is(err, aside.ErrInvalidKey) {
		t.Errorf("Start of an empty id: %v", err)
	}
	c.Close()
	if err := c.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	_, _, getErr := c.Get(ctx, "s:1")
	for name, err := range map[string]error{
		"GetOrLoad": second(aside.GetOrLoad(ctx, c, room, fails(t))), "Update": aside.Update(ctx, c, write, room),
		"Invalidate": aside.Invalidate(ctx, c, room), "Start": second(gs.Start(ctx, "A")), "Get": getErr,
		"Clear": c.Clear(ctx), "Status": second(c.Status(ctx)),
	} {
		if !errors.Is(err, aside.ErrClosed) {
			t.Errorf("%s on a closed cache: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestLogAndReads(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var seen []string
	c := open(t, aside.Config{
		Type: "memory", Hooks: []hook.Hooks{{Hits: true, Read: func(_ context.Context, r hook.Read) { seen = append(seen, r.Outcome) }}},
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	for range 2 {
		read(t, c, func(context.Context) (string, error) { return "v", nil })
	}
	for _, want := range []string{`msg="[CACHE MISS]" key=chat_messages:A`, `msg="[CACHE HIT]" key=chat_messages:A`} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log has not once %s:\n%s", want, &log)
		}
	}
	if !slices.Equal(seen, []string{"miss", "hit"}) {
		t.Errorf("got the outcomes %v, want miss and hit", seen)
	}
	if s := asideStats(t, c); s.Hits != 1 || s.Misses != 1 || s.Loads != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestClear(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := r.Client()
	client.Set(t.Context(), "theirs", "x", 0)
	own := aside.Keyspace{Name: "own"}
	for _, cfg := range []aside.Config{{Keyspaces: []aside.Keyspace{own}}, {KeyPrefix: "app[1]:"}} {
		c := overRedis(t, r.Addr, cfg)
		for _, key := range []aside.Key{room, aside.UserChats("u"), own.Key("{1}")} {
			must(aside.GetOrLoad(t.Context(), c, key, func(context.Context) (int, error) { return 1, nil }))
		}
		if err := c.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		if keys := client.Keys(t.Context(), "*").Val(); !cmp.Equal(keys, []string{"theirs"}) {
			t.Errorf("after Clear: %q", keys)
		}
	}
}

// A load that began before a Clear cannot put its value behind the scan, at
// whatever moment it tries.
func TestClear_EndsLoadsBeforeItRemovesValues(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	filler := overRedis(t, r.Addr, aside.Config{})
	l := must(backendOf(filler).Lease(t.Context(), "s:1", backend.LeaseRequest{TTL: time.Minute}))
	client := r.Client()
	client.AddHook(afterEach{func() {
		_, _ = backendOf(filler).Fill(t.Context(), "s:1", l.Token, backend.Fill{Value: []byte("old"), TTL: time.Minute})
	}})
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
	t.Cleanup(func() { c.Close() })
	if err := c.Clear(t.Context(), "s:"); err != nil {
		t.Fatal(err)
	}
	if value, ok, _ := filler.Get(t.Context(), "s:1"); ok {
		t.Errorf("after Clear: %q", value)
	}
}

func TestClear_AReaderAfterItDoesNotWaitForAnOldLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory"}))
		defer c.Close()
		go aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) { time.Sleep(time.Minute); return "old", nil })
		synctest.Wait()
		if err := c.Clear(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if got := read(t, c, func(context.Context) (string, error) { return "new", nil }); got != "new" || time.Since(start) > 0 {
			t.Errorf("got %q after %v", got, time.Since(start))
		}
		time.Sleep(2 * time.Minute)
		read(t, c, fails(t))
	})
}

// afterEach is a hook that does something when Redis has scanned all values, and
// before what was found is removed, and after.
type afterEach struct{ do func() }

func (h afterEach) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h afterEach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "scan" && cmd.Args()[3] != "*lease*" {
			h.do()
		}
		return err
	}
}

func (h afterEach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
