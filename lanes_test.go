package aside_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
)

// A process that has just started, and does not know how far its Redis is, stores what
// is asked for at once.
func TestMuchIsAskedForAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, l := miniredis.NewMiniRedis(), &line{}
		defer server.Close()
		client := redis.NewClient(l.options(server))
		client.AddHook(l)
		c := must(aside.NewRedis(client, aside.Config{}))
		defer func() { c.Close(); client.Close() }()
		l.arrives = func(string) { time.Sleep(58 * time.Millisecond) }
		keys := itemKeys("cold", 1500)
		ask(t, c, keys...)
		for _, key := range keys {
			if !server.Exists(key.String()) {
				t.Fatalf("%s was not stored", key)
			}
		}
	})
}

// A caller in line leaves on time. A lease that it is granted after that is given back.
func TestLeasesThatNobodyHasAreGivenBack(t *testing.T) {
	carried(t, aside.Config{}, func(t *testing.T, c aside.Cache, by *carrier) {
		var quick atomic.Bool
		slow := func(text string) error {
			if strings.Contains(text, "eval") && !quick.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		by.one = func(_ context.Context, text string) error { return slow(text) }
		by.many = func(_ context.Context, text string, _ int) error { return slow(text) }
		time.Sleep(time.Second) // until what warmed up is stored, and the lanes are free
		keys := itemKeys("first", 40)
		var callers sync.WaitGroup
		var left atomic.Int32
		for _, key := range keys {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // half of it is for the lease
				defer cancel()
				start := time.Now()
				lease, err := backendOf(c).Lease(ctx, key.String(), backend.LeaseRequest{TTL: time.Minute})
				if err == nil {
					err = backendOf(c).Release(t.Context(), key.String(), lease.Token)
				} else if left.Add(1); time.Since(start) == 150*time.Millisecond {
					err = nil
				}
				if err != nil {
					t.Errorf("%s after %v: %v", key, time.Since(start), err)
				}
			})
		}
		callers.Wait()
		if left.Load() == 0 {
			t.Error("all were on time: nothing was tested")
		}
		time.Sleep(time.Second)
		quick.Store(true)
		start := time.Now()
		ask(t, c, keys...)
		if d := time.Since(start); d > 100*time.Millisecond {
			t.Errorf("the next readers waited for %v", d)
		}
	})
}

// A cache that closes gives its leases back: other processes need not wait for loads
// that are not stored any more.
func TestClose_GivesLeasesBack(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]time.Duration{"the lease is asked for": 0, "the loader runs": 50 * time.Millisecond} {
		overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if during == 0 {
				l.arrives = func(text string) {
					if strings.HasPrefix(text, "eval") {
						time.Sleep(40 * time.Millisecond)
					}
				}
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = aside.GetOrLoad(ctx, c, items.Key("x"), func(context.Context) (string, error) { time.Sleep(during); return "loaded", nil })
			}()
			time.Sleep(20 * time.Millisecond)
			if during == 0 {
				cancel()
				<-done
				time.Sleep(time.Millisecond)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := server.Get("{item:x}:lease"); strings.HasPrefix(left, "load ") {
				t.Errorf("while %s: the lease %q is left", name, left)
			}
			<-done
		})
	}
}

// One command that takes long is no silence to those who have only just come.
func TestP5_OneSlowCommandIsNoSilence(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	overLine(t, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		time.Sleep(time.Second)
		l.arrives = func(text string) {
			if strings.Contains(text, "large") {
				time.Sleep(120 * time.Millisecond)
			}
		}
		keys := itemKeys("warm", 10)
		for _, key := range keys {
			if err := server.Set(key.String(), `"stored"`); err != nil {
				t.Error(err)
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Set(t.Context(), "item:large", []byte("1"), time.Minute) }()
		time.Sleep(100 * time.Millisecond)
		for i, v := range ask(t, c, keys...) {
			if v != "stored" {
				t.Errorf("reader %d: %s", i, v)
			}
		}
		<-done
		if log.String() != "" {
			t.Error(log.String())
		}
	})
}
