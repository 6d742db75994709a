package aside_test

import (
	"cmp"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestNone_Conformance(t *testing.T) {
	t.Parallel()
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend { return backendOf(open(t, aside.Config{Type: "none"})) }, StoresNothing: true})
}

func TestMemory_Conformance(t *testing.T) {
	t.Parallel()
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend { return backendOf(open(t, aside.Config{Type: "memory"})) }})
}

func TestMiniredis_Conformance(t *testing.T) {
	t.Parallel()
	var server *miniredis.Miniredis
	now := time.Now()
	asidetest.Run(t, asidetest.Harness{
		New: func(t *testing.T) backend.Backend {
			server = miniredis.RunT(t)
			server.SetTime(now)
			return backendOf(overRedis(t, server.Addr(), aside.Config{}))
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
	r := redistest.Start(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend {
		r.Client().FlushAll(t.Context())
		return backendOf(overRedis(t, r.Addr, aside.Config{}))
	}})
}

func TestRedis_ConformanceWithKeyPrefix(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend {
		r.Client().FlushAll(t.Context())
		return backendOf(overRedis(t, r.Addr, aside.Config{KeyPrefix: "app*:"}))
	}})
}

// A client that does not obey deadlines goes through other code.
func TestRedis_ConformanceOfADisobedientClient(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	asidetest.Run(t, asidetest.Harness{New: func(t *testing.T) backend.Backend {
		client := redis.NewClient(&redis.Options{Addr: r.Addr})
		t.Cleanup(func() { client.Close() })
		client.FlushAll(t.Context())
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
		t.Cleanup(func() { c.Close() })
		return backendOf(c)
	}})
}

// storing runs a test over each backend that stores: what it asks of one it asks
// of all.
func storing(t *testing.T, test func(t *testing.T, newCache func(t *testing.T) aside.Cache)) {
	storingWith(t, aside.Config{}, test)
}

// storingWith is storing with caches of a Config.
func storingWith(t *testing.T, cfg aside.Config, test func(t *testing.T, newCache func(t *testing.T) aside.Cache)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, func(t *testing.T) aside.Cache {
			cfg := cfg
			cfg.Type = "memory"
			return open(t, cfg)
		})
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		server := miniredis.RunT(t)
		test(t, func(t *testing.T) aside.Cache { return overRedis(t, server.Addr(), cfg) })
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		r := redistest.Start(t)
		test(t, func(t *testing.T) aside.Cache { return overRedis(t, r.Addr, cfg) })
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

// backendOf returns a Cache that Open, NewRedis or New made as the backend that it is
// too: what another process would do with its keys.
func backendOf(c aside.Cache) backend.Backend { return c.(backend.Backend) }

// fromEnv is ConfigFromEnv of variables by their names.
func fromEnv(env map[string]string) (aside.Config, error) {
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	return aside.ConfigFromEnv(environ)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// counter counts the calls of a loader.
type counter struct{ atomic.Int64 }

func (c *counter) load(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		c.Add(1)
		return v, nil
	}
}
