package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// Over a healthy Redis a client of few connections serves what is there, stores what is
// not, and invalidates, whatever it does when it has no connection to give: no breaker
// opens, and no key that is there is loaded.
func TestP5_AClientOfFewConnections(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, pool := range []struct{ size, active int }{{0, 1}, {0, 2}, {0, 3}, {0, 10}, {1, 0}, {2, 0}, {1, 1}, {3, 2}} {
		for _, obeys := range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v,%v", pool, obeys), func(t *testing.T) {
				t.Parallel()
				client := redis.NewClient(&redis.Options{Addr: r.Addr, PoolSize: pool.size, MaxActiveConns: pool.active, ContextTimeoutEnabled: obeys})
				defer client.Close()
				var log logtest.Buffer
				c := must(aside.NewRedis(client, aside.Config{
					Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil)), KeyPrefix: t.Name() + ":",
				}))
				defer c.Close()
				var loads counter
				keys := itemKeys("pool", 50)
				var group sync.WaitGroup
				for g := range 16 {
					group.Go(func() {
						for i := range 100 {
							key := keys[(i+g)%len(keys)]
							if v, err := aside.GetOrLoad(t.Context(), c, key, loads.load("v")); v != "v" || err != nil {
								t.Errorf("%q, %v", v, err)
							}
						}
					})
				}
				group.Wait()
				if n := loads.Load(); n != int64(len(keys)) {
					t.Errorf("%d loads of %d keys", n, len(keys))
				}
				for range 16 {
					group.Go(func() {
						for _, key := range keys[:10] {
							err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, key)
							if err != nil || aside.Pending(c, key) {
								t.Errorf("an Update: %v, pending %v", err, aside.Pending(c, key))
							}
						}
					})
				}
				group.Wait()
				if s, err := c.Status(t.Context()); err != nil || s.Stats.InvalidationQueued != 0 || s.Stats.Degraded != 0 {
					t.Errorf("%+v, %v", s, err)
				}
				if err := c.Clear(t.Context()); err != nil {
					t.Error(err)
				}
				if log.String() != "" {
					t.Error(log.String())
				}
			})
		}
	}
}

// While others have all connections of the client, calls load, and neither breaker
// opens: Redis has not been asked. Invalidations are not lost.
func TestP5_OthersHaveAllConnections(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, obeys := range []bool{false, true} {
		client := redis.NewClient(&redis.Options{Addr: r.Addr, MaxActiveConns: 3, ContextTimeoutEnabled: obeys})
		defer client.Close()
		var log logtest.Buffer
		c := must(aside.NewRedis(client, aside.Config{Timeout: 2 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil)), KeyPrefix: fmt.Sprint(obeys, ":")}))
		defer c.Close()
		release := hog(t, client, 3)
		var group sync.WaitGroup
		for i := range 16 {
			if i == 8 {
				time.Sleep(time.Second) // the others come when those before have waited for long
			}
			group.Go(func() {
				v, err := aside.GetOrLoad(t.Context(), c, items.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "v", nil })
				if v != "v" || err != nil {
					t.Errorf("%q, %v", v, err)
				}
			})
		}
		group.Wait()
		if err := c.Set(t.Context(), "s:1", []byte("1"), time.Minute); !errors.Is(err, aside.ErrUnavailable) {
			t.Errorf("Set without a connection: %v", err)
		}
		if err := aside.Invalidate(t.Context(), c, room); err != nil || !aside.Pending(c, room) {
			t.Errorf("Invalidate without a connection: %v, pending %v", err, aside.Pending(c, room))
		}
		if text := log.String(); containsAny(text, "does not answer", "does not store") {
			t.Errorf("obeys %v: %s", obeys, text)
		}
		release()
		redistest.Eventually(t, "the invalidation is delivered", func() bool { return !aside.Pending(c, room) })
		redistest.Eventually(t, "hits come back", func() bool {
			before := asideStats(t, c).Hits
			read(t, c, func(context.Context) (string, error) { return "v", nil })
			return asideStats(t, c).Hits > before
		})
	}
}

// A reader that finds no connection, as others have all of them, gets the value when one is
// free.
func TestP5_AConnectionThatIsFreeLater(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, obeys := range []bool{false, true} {
		client := redis.NewClient(&redis.Options{Addr: r.Addr, MaxActiveConns: 3, ContextTimeoutEnabled: obeys})
		defer client.Close()
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
		defer c.Close()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		release := hog(t, client, 3)
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() { read(t, c, fails(t)) })
		}
		group.Go(func() {
			if err := c.Set(t.Context(), "s:1", []byte("1"), time.Minute); err != nil {
				t.Errorf("Set: %v", err)
			}
		})
		time.Sleep(50 * time.Millisecond)
		release()
		group.Wait()
		if s := asideStats(t, c); s.Degraded != 0 || s.InvalidationQueued != 0 {
			t.Errorf("obeys %v: %+v", obeys, s)
		}
	}
}

// A Redis that hangs keeps a small pool's connections: a command that waits for one waits for
// Redis, and its breaker opens all the same.
func TestP5_ASmallPoolOfARedisThatHangs(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, obeys := range []bool{false, true} {
		client := redis.NewClient(&redis.Options{Addr: r.Addr, MaxActiveConns: 1, ContextTimeoutEnabled: obeys})
		defer client.Close()
		var log logtest.Buffer
		c := must(aside.NewRedis(client, aside.Config{Timeout: 250 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))}))
		defer c.Close()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		r.Pause()
		for i := range 8 {
			must(aside.GetOrLoad(t.Context(), c, items.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "v", nil }))
		}
		r.Resume()
		if text := log.String(); !containsAny(text, "does not answer") {
			t.Errorf("obeys %v: the log says %q", obeys, text)
		}
	}
}

// limiter is one that refuses while it is told to.
type limiter struct{ refuses atomic.Bool }

func (l *limiter) Allow() error {
	if l.refuses.Load() {
		return errors.New("too many requests")
	}
	return nil
}
func (*limiter) ReportResult(error) {}

func TestP5_ALimiterOfTheClientsOwn(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, obeys := range []bool{false, true} {
		l := &limiter{}
		client := redis.NewClient(&redis.Options{Addr: r.Addr, Limiter: l, ContextTimeoutEnabled: obeys})
		defer client.Close()
		var log logtest.Buffer
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil)), KeyPrefix: fmt.Sprint(obeys, ":")}))
		defer c.Close()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		l.refuses.Store(true)
		for range 20 {
			read(t, c, func(context.Context) (string, error) { return "v", nil })
			if err := c.Set(t.Context(), "s:1", []byte("1"), time.Minute); !errors.Is(err, aside.ErrUnavailable) {
				t.Errorf("Set: %v", err)
			}
		}
		l.refuses.Store(false)
		before := asideStats(t, c).Hits
		read(t, c, fails(t))
		if asideStats(t, c).Hits != before+1 || log.String() != "" {
			t.Errorf("the value is not served; the log says %q", log.String())
		}
	}
}

// slowLimiter takes its time to refuse, so that calls wait in line behind it.
type slowLimiter struct{ limiter }

func (l *slowLimiter) Allow() error {
	if l.refuses.Load() {
		time.Sleep(time.Millisecond)
	}
	return l.limiter.Allow()
}

// A pipeline that the client's own limiter refuses says as little of Redis.
func TestP5_ALimiterThatRefusesPipelines(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	l := &slowLimiter{}
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), Limiter: l, ContextTimeoutEnabled: true})
	defer client.Close()
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
	defer c.Close()
	read(t, c, func(context.Context) (string, error) { return "v", nil })
	l.refuses.Store(true)
	for round := range 20 {
		var all sync.WaitGroup
		for i := range 400 {
			all.Go(func() {
				_, err := backendOf(c).Lease(t.Context(), fmt.Sprint("item:", round, "-", i), backend.LeaseRequest{TTL: time.Second})
				if !errors.Is(err, aside.ErrUnavailable) {
					t.Errorf("a lease that was refused: %v", err)
				}
			})
		}
		all.Wait()
	}
	l.refuses.Store(false)
	before := asideStats(t, c).Hits
	if read(t, c, fails(t)); asideStats(t, c).Hits != before+1 {
		t.Error("the breaker is open: a value that is there is no hit")
	}
	if s := must(c.Status(t.Context())); s.Breaker != "closed" {
		t.Errorf("the breaker is %s, want closed", s.Breaker)
	}
}

// A client that was closed under the cache never answers again: the breaker opens, calls
// load, and Close says what could not be invalidated.
func TestP5_AClientClosedUnderTheCache(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := redis.NewClient(&redis.Options{Addr: r.Addr})
	var log logtest.Buffer
	c := must(aside.NewRedis(client, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}))
	read(t, c, func(context.Context) (string, error) { return "v", nil })
	client.Close()
	for range 5 {
		read(t, c, func(context.Context) (string, error) { return "w", nil })
	}
	writes["Invalidate"](t, c)
	if err := c.Close(); err == nil || !containsAny(log.String(), "redis: client is closed") {
		t.Errorf("Close returned %v, and the log is %s", err, log.String())
	}
}
