package aside_test

import (
	"cmp"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

func TestNone_Conformance(t *testing.T) {
	t.Parallel()
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) aside.Cache { return open(t, aside.Config{Type: aside.TypeNone}) }, StoresNothing: true})
}

func TestMemory_Conformance(t *testing.T) {
	t.Parallel()
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) aside.Cache { return open(t, aside.Config{Type: aside.TypeMemory}) }})
}

func TestMiniredis_Conformance(t *testing.T) {
	t.Parallel()
	var server *miniredis.Miniredis
	now := time.Now()
	asidetest.Run(t, asidetest.Harness{
		New: func(t *testing.T) aside.Cache {
			server = miniredis.RunT(t)
			server.SetTime(now)
			return overRedis(t, server.Addr(), aside.Config{})
		},
		Advance: func(_ *testing.T, d time.Duration) {
			now = now.Add(d)
			server.SetTime(now)
			server.FastForward(d)
		},
	})
}

func TestRedis_Conformance(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) aside.Cache {
		r.client(t).FlushAll(t.Context())
		return overRedis(t, r.addr, aside.Config{})
	}})
}

func TestRedis_ConformanceWithKeyPrefix(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) aside.Cache {
		r.client(t).FlushAll(t.Context())
		return overRedis(t, r.addr, aside.Config{KeyPrefix: "app*:"})
	}})
}

// A client that does not obey deadlines goes through other code.
func TestRedis_ConformanceOfADisobedientClient(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) aside.Cache {
		client := redis.NewClient(&redis.Options{Addr: r.addr})
		t.Cleanup(func() { client.Close() })
		client.FlushAll(t.Context())
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
		t.Cleanup(func() { c.Close() })
		return c
	}})
}

// storing runs a test over each backend that stores: what it asks of one it asks
// of all.
func storing(t *testing.T, test func(t *testing.T, newCache func(t *testing.T) aside.Cache)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, func(t *testing.T) aside.Cache { return open(t, aside.Config{Type: aside.TypeMemory}) })
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		server := miniredis.RunT(t)
		test(t, func(t *testing.T) aside.Cache { return overRedis(t, server.Addr(), aside.Config{}) })
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		r := startRedis(t)
		test(t, func(t *testing.T) aside.Cache { return overRedis(t, r.addr, aside.Config{}) })
	})
}

func open(t *testing.T, cfg aside.Config) aside.Cache {
	t.Helper()
	c, err := aside.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// overRedis opens a Cache over the Redis at addr. Its budget is large, so that a
// slow machine is no trouble, unless cfg says what it is: tests of trouble do.
func overRedis(t *testing.T, addr string, cfg aside.Config) aside.Cache {
	t.Helper()
	cfg.Timeout = cmp.Or(cfg.Timeout, 20*time.Second)
	cfg.Redis.Hosts = []string{addr}
	return open(t, cfg)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// redisServer is a redis-server of the test's own.
type redisServer struct {
	t    *testing.T
	addr string
	dir  string
	args []string
	cmd  *exec.Cmd
}

var missingRedis sync.Once

// startRedis starts a redis-server on a free port with a folder of its own. Where
// there is none on the PATH the test is skipped; ASIDE_TEST_REQUIRE_REDIS makes
// that a failure.
func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("ASIDE_TEST_REQUIRE_REDIS") != "" {
			t.Fatal("redis-server is not on the PATH")
		}
		missingRedis.Do(func() { t.Log("redis-server is not on the PATH: tests with the real one are skipped") })
		t.Skip("no redis-server on the PATH")
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	r := &redisServer{t: t, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), dir: t.TempDir()}
	r.args = append([]string{"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", r.dir, "--save", "", "--appendonly", "no", "--logfile", filepath.Join(r.dir, "redis.log")}, args...)
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", r.args...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: r.addr})
	defer c.Close()
	for start := time.Now(); c.Ping(context.Background()).Err() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			r.t.Fatal("redis-server does not answer")
		}
	}
}

func (r *redisServer) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *redisServer) client(t *testing.T) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: r.addr})
	t.Cleanup(func() { c.Close() })
	return c
}

// counter counts the calls of a loader.
type counter struct{ atomic.Int64 }

func (c *counter) load(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		c.Add(1)
		return v, nil
	}
}
