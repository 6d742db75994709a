package aside_test

import (
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
