package aside_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/redistest"
)

// detached is a context that has the deadline of another and does not end, as some
// programs make them for work that is to outlive a request.
type detached struct {
	context.Context
	deadline time.Time
}

func (d detached) Deadline() (time.Time, bool) { return d.deadline, true }
func (detached) Done() <-chan struct{}         { return nil }
func (detached) Err() error                    { return nil }

// detachedBy returns a context that lives on after its deadline, which is d from now.
func detachedBy(t *testing.T, d time.Duration) context.Context {
	return detached{t.Context(), time.Now().Add(d)}
}

var passed = map[string]time.Duration{"long ago": -time.Hour, "just now": -time.Nanosecond, "now": 0, "ever": -1 << 62}

// A caller whose context has a deadline that has passed, and lives, is served as one
// without a deadline is, and nobody's breaker opens: on each way to Redis.
func TestP5_APastDeadlineOfALiveContextIsNone(t *testing.T) {
	t.Parallel()
	calls := map[string]func(ctx context.Context, c aside.Cache, i int) error{
		"Get": func(ctx context.Context, c aside.Cache, _ int) error {
			value, ok, err := c.Get(ctx, room.String())
			if string(value) != `"stored"` || !ok {
				return fmt.Errorf("%q, %v, %v", value, ok, err)
			}
			return err
		},
		"Set": func(ctx context.Context, c aside.Cache, i int) error {
			return c.Set(ctx, fmt.Sprint("s:", i), []byte("1"), time.Minute)
		},
		"Lease": func(ctx context.Context, c aside.Cache, i int) error {
			_, err := backendOf(c).Lease(ctx, fmt.Sprint("s:", i), backend.LeaseRequest{TTL: time.Second})
			return err
		},
		"Block": func(ctx context.Context, c aside.Cache, i int) error {
			return backendOf(c).Block(ctx, "w", time.Second, "s:1")
		},
		"Clear":  func(ctx context.Context, c aside.Cache, i int) error { return c.Clear(ctx, "none:") },
		"Status": func(ctx context.Context, c aside.Cache, i int) error { _, err := c.Status(ctx); return err },
		"TTL": func(ctx context.Context, c aside.Cache, i int) error {
			_, _, err := ttlOf(ctx, c, room)
			return err
		},
		"Update": func(ctx context.Context, c aside.Cache, i int) error {
			key := items.Key(fmt.Sprint(i))
			err := aside.Update(ctx, c, func(context.Context) error { return nil }, key)
			if aside.Pending(c, key) {
				return fmt.Errorf("pending, %v", err)
			}
			return err
		},
		"Running": func(ctx context.Context, c aside.Cache, i int) error {
			_, err := must(aside.NewGenerations(c)).Running(ctx, "A")
			return err
		},
		"a hit": func(ctx context.Context, c aside.Cache, i int) error {
			value, err := aside.GetOrLoad(ctx, c, room, func(context.Context) (string, error) { return "loaded", nil })
			if value != "stored" {
				return fmt.Errorf("%q, %v", value, err)
			}
			return err
		},
		"a miss": func(ctx context.Context, c aside.Cache, i int) error {
			key := items.Key(fmt.Sprint("missed ", i))
			value, err := aside.GetOrLoad(ctx, c, key, func(ctx context.Context) (string, error) {
				if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < time.Second {
					return "", fmt.Errorf("the loader's deadline is %v", deadline)
				}
				return "loaded", ctx.Err()
			})
			if value != "loaded" || err != nil {
				return fmt.Errorf("%q, %v", value, err)
			}
			if _, ok, err := c.Get(context.Background(), key.String()); !ok {
				return fmt.Errorf("not stored: %v", err)
			}
			return nil
		},
	}
	for when, d := range passed {
		var log logtest.Buffer
		overLine(t, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
			if err := server.Set(room.String(), `"stored"`); err != nil {
				t.Fatal(err)
			}
			for name, call := range calls {
				var together sync.WaitGroup
				for i := range 40 { // more than there are lanes
					together.Go(func() {
						if err := call(detachedBy(t, d), c, i); err != nil {
							t.Errorf("%s, with a deadline of %s: %v", name, when, err)
						}
					})
				}
				together.Wait()
			}
			if log.String() != "" {
				t.Error(log.String())
			}
		})
	}
}

// A deadline that has nearly passed leaves Redis no time to answer, and says nothing of
// it, whether or not the context ends by it: alone, or together.
func TestP5_TooLittleTimeSaysNothingOfRedis(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	overLine(t, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) { // a command takes 2 ms
		for name, ctx := range map[string]func(d time.Duration) (context.Context, context.CancelFunc){
			"detached": func(d time.Duration) (context.Context, context.CancelFunc) { return detachedBy(t, d), func() {} },
			"of a call": func(d time.Duration) (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), d)
			},
		} {
			for _, d := range []time.Duration{time.Microsecond, time.Millisecond, 3900 * time.Microsecond} {
				for _, pause := range []time.Duration{5 * time.Millisecond, 100 * time.Microsecond} {
					var calls sync.WaitGroup
					for i := range 150 {
						calls.Go(func() {
							ctx, cancel := ctx(d)
							defer cancel()
							if i%50 == 0 {
								_, _ = aside.GetOrLoad(ctx, c, items.Key(fmt.Sprint(name, d, i)), func(context.Context) (string, error) { return "loaded", nil })
							}
							_ = c.Set(ctx, room.String(), []byte("1"), time.Minute)
						})
						time.Sleep(pause)
					}
					calls.Wait()
				}
				if log.String() != "" {
					t.Fatalf("calls with %v, %s: %s", d, name, log.String())
				}
			}
		}
	})
}

// A Redis that hangs costs a caller with such a context what it costs any other: one
// budget, and then nothing.
func TestP5_APastDeadlineEndsNoLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{})
		defer c.Close()
		backend.SetFault(asidetest.Hang)
		for i := range 10 {
			start := time.Now()
			ctx := detachedBy(t, -time.Hour)
			v, err := aside.GetOrLoad(ctx, c, items.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "v", nil })
			took := time.Since(start)
			if v != "v" || err != nil || i < 3 && took > 250*time.Millisecond || i >= 3 && took > 0 {
				t.Errorf("call %d: %q, %v after %v", i, v, err, took)
			}
		}
		backend.SetFault(nil)
		time.Sleep(time.Second)
	})
}

// The same over a real server, with a client that hands the deadline of its context to
// the connection, and with one that does not.
func TestP5_PastDeadlinesOverRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	for _, obeys := range []bool{true, false} {
		client := redis.NewClient(&redis.Options{Addr: r.Addr, ContextTimeoutEnabled: obeys})
		defer client.Close()
		c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
		defer c.Close()
		var loads counter
		for range 20 {
			v, err := aside.GetOrLoad(detachedBy(t, -time.Second), c, items.Key(fmt.Sprint(obeys)), loads.load("v"))
			if v != "v" || err != nil {
				t.Errorf("%q, %v", v, err)
			}
		}
		if s, err := c.Status(detachedBy(t, -time.Second)); loads.Load() != 1 || s.Breaker != "closed" || err != nil {
			t.Errorf("%d loads, the breaker is %s, %v", loads.Load(), s.Breaker, err)
		}
	}
}
