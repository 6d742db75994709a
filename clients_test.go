package aside_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// instrumented is how some wrap a client.
type instrumented struct{ redis.UniversalClient }

type traced struct{ *redis.Client }

// A client that NewRedis cannot see through, or that may answer from elsewhere than
// the master, is refused with an error that says which client is wanted.
func TestNewRedis_RefusesClientsThatMayAnswerFromElsewhere(t *testing.T) {
	t.Parallel()
	plain := redis.NewClient(&redis.Options{Addr: "x:1"})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"x:1"}})
	sentinels := []string{"x:1"}
	for name, c := range map[string]struct {
		client redis.UniversalClient
		want   []string
	}{
		"a cache of its own":             {redis.NewClient(&redis.Options{Addr: "x:1", ClientSideCacheConfig: &redis.ClientSideCacheConfig{}}), []string{"ClientSideCacheConfig", "NearMaxBytes"}},
		"a cache that it was given":      {redis.NewClient(&redis.Options{Addr: "x:1", ClientSideCache: redis.NewLocalCache(redis.CacheConfig{})}), []string{"ClientSideCache", "NearMaxBytes"}},
		"universal, with a cache":        {redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{"x:1"}, ClientSideCacheConfig: &redis.ClientSideCacheConfig{}}), []string{"ClientSideCacheConfig"}},
		"a wrapped Client":               {instrumented{plain}, []string{"instrumented", "AddHook"}},
		"a wrapped ClusterClient":        {instrumented{cluster}, []string{"instrumented", "AddHook"}},
		"a pointer to one":               {&instrumented{cluster}, []string{"instrumented", "AddHook"}},
		"an embedded *Client":            {traced{plain}, []string{"traced", "AddHook"}},
		"a Ring":                         {redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "x:1"}}), []string{"Ring"}},
		"a wrapped Ring":                 {instrumented{redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "x:1"}})}, []string{"instrumented"}},
		"a Cluster's replicas":           {redis.NewClusterClient(&redis.ClusterOptions{Addrs: sentinels, ReadOnly: true}), []string{"replicas"}},
		"a Cluster's nearest":            {redis.NewClusterClient(&redis.ClusterOptions{Addrs: sentinels, RouteByLatency: true}), []string{"replicas"}},
		"replicas of Sentinels, random":  {redis.NewFailoverClusterClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: sentinels, RouteRandomly: true}), []string{"replicas"}},
		"replicas of Sentinels, nearest": {redis.NewFailoverClusterClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: sentinels, RouteByLatency: true}), []string{"replicas"}},
	} {
		cache, err := aside.NewRedis(c.client, aside.Config{})
		if err == nil {
			t.Errorf("%s: no error", name)
			cache.Close()
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error does not say %q: %v", name, want, err)
			}
		}
		_ = c.client.Close()
	}
	for name, client := range map[string]redis.UniversalClient{
		"Client": redis.NewClient(&redis.Options{Addr: "x:1"}), "ClusterClient": redis.NewClusterClient(&redis.ClusterOptions{Addrs: sentinels}),
		"failover": redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: sentinels}),
	} {
		c, err := aside.NewRedis(client, aside.Config{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
		client.Close()
	}
}

// address is one that leads to a server, and later to another. Connections stay where
// they led when they were made, as do those to a name or a virtual address that moves.
type address struct {
	net.Listener
	to atomic.Pointer[string]
}

func newAddress(t *testing.T, to string) *address {
	a := &address{Listener: must(net.Listen("tcp", "127.0.0.1:0"))}
	a.move(to)
	var all sync.WaitGroup
	t.Cleanup(func() { a.Close(); all.Wait() })
	ended := t.Context().Done()
	all.Go(func() {
		for {
			in, err := a.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", *a.to.Load())
			if err != nil {
				in.Close()
				continue
			}
			end := sync.OnceFunc(func() { in.Close(); out.Close() })
			all.Go(func() { defer end(); _, _ = io.Copy(in, out) })
			all.Go(func() { defer end(); _, _ = io.Copy(out, in) })
			all.Go(func() { <-ended; end() })
		}
	})
	return a
}

func (a *address) move(to string) { a.to.Store(&to) }
func (a *address) String() string { return a.Addr().String() }

// handedIn makes Caches over the Redis at an address in each way that there is.
var handedIn = map[string]func(t *testing.T, addr string, cfg aside.Config) aside.Cache{
	"Open": overRedis,
	"NewRedis": func(t *testing.T, addr string, cfg aside.Config) aside.Cache {
		client := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { client.Close() })
		c := must(aside.NewRedis(client, cfg))
		t.Cleanup(func() { c.Close() })
		return c
	},
}

func logged() (*slog.Logger, *logtest.Buffer) {
	log := new(logtest.Buffer)
	return slog.New(slog.NewTextHandler(log, nil)), log
}

// A master that has become a replica, whose address leads to the new master by now, is
// left: also by connections that only read.
func TestP1_ADemotedMasterIsLeft(t *testing.T) {
	t.Parallel()
	for _, near := range []int64{0, 1 << 20} {
		for name, open := range handedIn {
			t.Run(fmt.Sprint(name, " near ", near), func(t *testing.T) {
				t.Parallel()
				old, promoted := redistest.Start(t), redistest.Start(t)
				a := newAddress(t, old.Addr)
				logger, log := logged()
				c := open(t, a.String(), aside.Config{Logger: logger, NearMaxBytes: near})
				var wg sync.WaitGroup
				for range 20 { // several connections
					wg.Go(func() { read(t, c, func(context.Context) (string, error) { return "old", nil }) })
				}
				wg.Wait()
				read(t, c, fails(t))
				if err := old.Client().ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil { // a master that it cannot reach
					t.Fatal(err)
				}
				a.move(promoted.Addr)
				other := overRedis(t, promoted.Addr, aside.Config{})
				writes["Update"](t, other)
				redistest.Eventually(t, "the new value is read", func() bool {
					return read(t, c, func(context.Context) (string, error) { return "new", nil }) == "new"
				})
				redistest.Eventually(t, "the new master is used", func() bool {
					before := asideStats(t, c).Hits
					read(t, c, func(context.Context) (string, error) { return "new", nil })
					return asideStats(t, c).Hits > before
				})
				for range 200 { // none of the old connections is left
					if got := read(t, c, func(context.Context) (string, error) { return "new", nil }); got != "new" {
						t.Fatalf("read %q after the new master was", got)
					}
				}
				if text := log.String(); strings.Count(text, "replica") != 1 {
					t.Errorf("the log does not say once that it is a replica:\n%s", text)
				}
				if near > 0 { // it hears the new master, not the old one
					redistest.Eventually(t, "the near cache is used again", func() bool {
						before := asideStats(t, c).NearHits
						read(t, c, func(context.Context) (string, error) { return "new", nil })
						return asideStats(t, c).NearHits > before
					})
					writes["Invalidate"](t, other)
					redistest.Eventually(t, "the change is heard", func() bool {
						return read(t, c, func(context.Context) (string, error) { return "newer", nil }) == "newer"
					})
				}
			})
		}
	}
}

// The breaker opens for a server that is no single master, and the user is told which setting
// is wrong.
func TestServersOfTheWrongKind(t *testing.T) {
	t.Parallel()
	for kind, k := range map[string]struct {
		server func(t *testing.T) string
		says   map[string]string // what the error says, by how the cache was made
	}{
		"a replica": {
			func(t *testing.T) string {
				host, port, _ := net.SplitHostPort(redistest.Start(t).Addr)
				return redistest.Start(t, "--replicaof", host, port).Addr
			},
			map[string]string{"Open": "replica", "NewRedis": "replica"},
		},
		"a replica of which nobody may INFO": {
			func(t *testing.T) string {
				host, port, _ := net.SplitHostPort(redistest.Start(t).Addr)
				r := redistest.Start(t, "--replicaof", host, port)
				if err := r.Client().Do(t.Context(), "ACL", "SETUSER", "default", "-info", "-role").Err(); err != nil {
					t.Fatal(err)
				}
				return r.Addr
			},
			map[string]string{"Open": "replica", "NewRedis": "replica"},
		},
		"a Sentinel": {
			func(t *testing.T) string { s, _ := redistest.StartSentinel(t, 0); return s.Addr },
			map[string]string{"Open": "REDIS_SENTINEL_MASTER", "NewRedis": "NewFailoverClient"},
		},
		"a node of a Cluster": {
			func(t *testing.T) string {
				r := redistest.Start(t, "--cluster-enabled", "yes")
				if err := r.Client().Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
					t.Fatal(err)
				}
				redistest.Eventually(t, "the Cluster serves", func() bool { return r.Client().Get(t.Context(), "x").Err() == redis.Nil })
				return r.Addr
			},
			map[string]string{"Open": "REDIS_CLUSTER", "NewRedis": "NewClusterClient"},
		},
		"a version that is too old": {
			func(t *testing.T) string {
				m := miniredis.RunT(t)
				m.Server().SetPreHook(func(c *server.Peer, command string, _ ...string) bool {
					if command == "INFO" {
						c.WriteBulk("# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n# Replication\r\nrole:master\r\n")
					}
					return command == "INFO"
				})
				return m.Addr()
			},
			map[string]string{"Open": "Redis 5.0.14: want Redis 6.0 or later, or Valkey", "NewRedis": "Redis 5.0.14: want Redis 6.0 or later, or Valkey"},
		},
	} {
		for name, open := range handedIn {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				logger, log := logged()
				c := open(t, k.server(t), aside.Config{Logger: logger, Timeout: 5 * time.Second})
				says := k.says[name]
				if _, err := c.Status(t.Context()); !errors.Is(err, aside.ErrUnavailable) || !strings.Contains(err.Error(), says) {
					t.Errorf("Status: %v; want an error that says %q", err, says)
				}
				redistest.Eventually(t, "it is left alone", func() bool {
					if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
						t.Errorf("read %q", got)
					}
					s, _ := c.Status(t.Context())
					return s.Breaker == "open"
				})
				if _, _, err := c.Get(t.Context(), "chat_messages:A"); !errors.Is(err, aside.ErrUnavailable) {
					t.Errorf("Get: %v", err)
				}
				if err := c.Clear(t.Context()); err == nil {
					t.Error("Clear says that it went well")
				}
				time.Sleep(2 * 250 * time.Millisecond) // two probes of the breaker do not close it
				if text := log.String(); strings.Count(text, says) != 1 || strings.Contains(text, "answers again") {
					t.Errorf("the log does not say %q once:\n%s", says, text)
				}
			})
		}
	}
}

// A client of a Cluster at a server that is none.
func TestAClusterClientAtASingleNode(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{r.Addr}})
	defer client.Close()
	logger, log := logged()
	for name, c := range map[string]aside.Cache{
		"REDIS_CLUSTER":   overRedis(t, r.Addr, aside.Config{Logger: logger, Redis: aside.Redis{Cluster: true}}),
		"redis.NewClient": must(aside.NewRedis(client, aside.Config{Logger: logger, Timeout: 20 * time.Second})),
	} {
		defer c.Close()
		for range 3 {
			read(t, c, func(context.Context) (string, error) { return "v", nil })
		}
		if s, err := c.Status(t.Context()); s.Breaker != "open" || !errors.Is(err, aside.ErrUnavailable) || !strings.Contains(err.Error(), name) {
			t.Errorf("breaker %s, Status: %v; want an error that says %q", s.Breaker, err, name)
		}
		if strings.Count(log.String(), name) != 1 {
			t.Errorf("the log does not say %q once:\n%s", name, log)
		}
	}
}

// A master's name that no Sentinel knows is an outage, and not a cache without keys.
func TestP5_AMasterThatNoSentinelKnows(t *testing.T) {
	t.Parallel()
	sentinel, _ := redistest.StartSentinel(t, 0)
	logger, log := logged()
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mian", SentinelAddrs: []string{sentinel.Addr}, MaxRetries: -1})
	defer client.Close()
	for name, c := range map[string]aside.Cache{
		`"mian"`: overRedis(t, sentinel.Addr, aside.Config{Logger: logger, Redis: aside.Redis{SentinelMaster: "mian"}}),
		"name":   must(aside.NewRedis(client, aside.Config{Logger: logger, Timeout: 20 * time.Second})),
	} {
		defer c.Close()
		if _, _, err := c.Get(t.Context(), "chat_messages:A"); !errors.Is(err, aside.ErrUnavailable) {
			t.Errorf("%s: Get: %v", name, err)
		}
		if err := generations(t, c).Cancel(t.Context(), "A"); !errors.Is(err, aside.ErrUnavailable) {
			t.Errorf("%s: Cancel: %v", name, err)
		}
		for range 3 {
			if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
				t.Errorf("%s: read %q", name, got)
			}
		}
		s, err := c.Status(t.Context())
		if s.Breaker != "open" || !errors.Is(err, aside.ErrUnavailable) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: breaker %s, Status: %v", name, s.Breaker, err)
		}
		writes["Update"](t, c)
		if !aside.Pending(c, room) {
			t.Errorf("%s: an invalidation that went nowhere is taken for applied", name)
		}
	}
	if text := log.String(); !strings.Contains(text, "mian") || strings.Count(text, "does not answer") != 2 {
		t.Errorf("not warned once for each:\n%s", text)
	}
}

// Sentinels that ask for a password have one of their own.
func TestP5_SentinelsThatAskForAPassword(t *testing.T) {
	t.Parallel()
	sentinel, _ := redistest.StartSentinel(t, 0)
	if err := sentinel.Client().Do(t.Context(), "ACL", "SETUSER", "default", ">right").Err(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel.Addr}, SentinelPassword: "wrong"})
	defer client.Close()
	at := func(password string) aside.Cache {
		return overRedis(t, sentinel.Addr, aside.Config{Redis: aside.Redis{SentinelMaster: "main", SentinelPassword: password}})
	}
	for want, c := range map[string]aside.Cache{
		"NOAUTH Authentication required.: the Sentinels want Config.Redis.SentinelPassword (REDIS_SENTINEL_PASSWORD)":                           at(""),
		"WRONGPASS invalid username-password pair or user is disabled.: the Sentinels want Config.Redis.SentinelPassword":                       at("wrong"),
		"WRONGPASS invalid username-password pair or user is disabled.: the Sentinels want SentinelPassword, perhaps with SentinelUsername, in": must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second})),
	} {
		defer c.Close()
		if _, err := c.Status(t.Context()); !errors.Is(err, aside.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	if _, err := at("right").Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// An error of connecting is not the answer to the command, whatever it is.
func TestP5_AnErrorOfConnectingIsNoAnswer(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	for name, o := range map[string]*redis.Options{
		"nil, in OnConnect": {OnConnect: func(ctx context.Context, c *redis.Conn) error { return c.Get(ctx, "nothing").Err() }},
		"nil, wrapped, in OnConnect": {OnConnect: func(ctx context.Context, c *redis.Conn) error {
			return fmt.Errorf("failed to initialize connection options: %w", redis.Nil)
		}},
		"nil, of a dialer that looks up": {Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, fmt.Errorf("all sentinels: %w", errors.Join(redis.Nil))
		}},
	} {
		o.Addr, o.MaxRetries, o.DialerRetries = server.Addr(), -1, 1
		client := redis.NewClient(o)
		logger, log := logged()
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second, Logger: logger}))
		if _, ok, err := c.Get(t.Context(), "chat_messages:A"); ok || !errors.Is(err, aside.ErrUnavailable) {
			t.Errorf("%s: Get: %v", name, err)
		}
		for range 5 {
			read(t, c, func(context.Context) (string, error) { return "v", nil })
		}
		if s, err := c.Status(t.Context()); s.Breaker != "open" || !errors.Is(err, aside.ErrUnavailable) {
			t.Errorf("%s: breaker %s, Status: %v", name, s.Breaker, err)
		}
		if strings.Count(log.String(), "does not answer") != 1 {
			t.Errorf("%s: not warned once:\n%s", name, log)
		}
		c.Close()
		client.Close()
	}
}

// wrapping is a hook that says more of each error, as some do.
type wrapping struct{}

func (wrapping) DialHook(next redis.DialHook) redis.DialHook { return next }
func (wrapping) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := next(ctx, cmd); err != nil {
			return fmt.Errorf("redis: %s: %w", cmd.Name(), err)
		}
		return nil
	}
}

func (wrapping) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if err := cmd.Err(); err != nil {
				cmd.SetErr(fmt.Errorf("redis: %s: %w", cmd.Name(), err))
			}
		}
		return err
	}
}

// An answer is one also where a hook wraps it.
func TestAHookThatWrapsAnswers(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := r.Client()
	client.AddHook(wrapping{})
	logger, log := logged()
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second, Logger: logger}))
	defer c.Close()
	if _, ok, err := c.Get(t.Context(), "chat_messages:A"); ok || err != nil {
		t.Errorf("Get of no key: %v, %v", ok, err)
	}
	for range 5 {
		read(t, c, func(context.Context) (string, error) { return "v", nil })
	}
	if s := asideStats(t, c); s.Loads != 1 {
		t.Errorf("%d loads", s.Loads)
	}
	r.Client().LPush(t.Context(), "chat_messages:B", "of another type")
	if _, ok, err := c.Get(t.Context(), "chat_messages:B"); ok || err != nil {
		t.Errorf("Get of a list: %v, %v", ok, err)
	}
	if text := log.String(); text != "" {
		t.Error(text)
	}
}
