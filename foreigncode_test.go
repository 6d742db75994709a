package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

// Tests of other people's code, which may panic on a goroutine that no caller could
// recover on.

// use does with a cache all that there is to do, in trouble and after it.
func use(t *testing.T, c aside.Cache) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 120 {
		wg.Go(func() {
			if v := must(aside.GetOrLoad(t.Context(), c, items.Key(fmt.Sprint(i%60)), func(context.Context) (string, error) {
				time.Sleep(time.Second) // the lease is extended
				return "v", nil
			})); v != "v" {
				t.Errorf("got %q, want v", v)
			}
		})
	}
	wg.Wait()
	for name, write := range writes {
		write(t, c)
		if v := read(t, c, func(context.Context) (string, error) { return name, nil }); v != name {
			t.Errorf("after %s: %q", name, v)
		}
	}
	g := must(aside.NewGenerations(c))
	if gen, err := g.Start(t.Context(), "A"); err == nil {
		time.Sleep(time.Second)
		_ = g.Cancel(t.Context(), "A")
		gen.Finish()
	}
	_ = c.Set(t.Context(), "item:9", []byte("1"), time.Minute)
	_ = c.Clear(t.Context())
	_, _, _ = ttlOf(t.Context(), c, room)
	_, _ = c.Status(t.Context())
	time.Sleep(5 * time.Second)
}

func TestP5_ABackendThatPanicsHarmsNobody(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"", "Get", "Set", "Delete", "Lease", "Extend", "Fill", "Release", "Block", "Unblock", "Clear", "Info"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &asidetest.Faulty{Backend: asidetest.Memory()}
				var told strings.Builder
				c := must(aside.New(backend, aside.Config{Logger: slog.New(slog.NewTextHandler(&told, nil))}))
				backend.SetFault(func(_ context.Context, m string) error {
					if method == "" || m == method {
						panic("a backend")
					}
					return nil
				})
				use(t, c)
				backend.SetFault(nil)
				time.Sleep(time.Minute)
				writes["Invalidate"](t, c)
				read(t, c, func(context.Context) (string, error) { return "v", nil })
				if v := read(t, c, fails(t)); v != "v" {
					t.Errorf("after it: %q, want v", v)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if n := strings.Count(told.String(), "backend panic, taken"); n > 1 || n == 0 && method != "Clear" && method != "Info" {
					t.Errorf("told of %d times, want once", n)
				}
				if strings.Contains(told.String(), "breaker opened") {
					t.Errorf("taken for a backend that does not answer: %s", told.String())
				}
			})
		})
	}
}

// A backend that ends the goroutine that it is called on, as FailNow does in a mock,
// keeps no caller waiting.
func TestP5_ABackendThatEndsItsGoroutineHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Lease", "Fill", "Release", "Extend"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &asidetest.Faulty{Backend: asidetest.Memory()}
				c := must(aside.New(store, aside.Config{}))
				defer c.Close()
				store.SetFault(func(_ context.Context, m string) error {
					if m == method {
						runtime.Goexit()
					}
					return nil
				})
				failed := errors.New("failed")
				for i := range 3 {
					key := items.Key(fmt.Sprint(i))
					v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) {
						time.Sleep(time.Second) // the lease is renewed
						return "v", nil
					})
					if v != "v" || err != nil {
						t.Errorf("got %q, %v, want v", v, err)
					}
					if _, err := aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) { return "", failed }); err != failed {
						t.Errorf("got %v, want the loader's error", err)
					}
				}
			})
		})
	}
}

// A backend that ends the goroutine that delivers the queue stops no later delivery.
func TestP6_ABackendThatEndsTheDelivererStopsNoDelivery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &asidetest.Faulty{Backend: asidetest.Memory()}
		c := must(aside.New(store, aside.Config{}))
		defer c.Close()
		var asked atomic.Int32
		store.SetFault(func(_ context.Context, m string) error {
			if m != "Delete" {
				return nil
			}
			if !aside.Pending(c, room) {
				return errDown // so that it is queued
			}
			if asked.Add(1) <= 3 {
				runtime.Goexit()
			}
			return nil
		})
		if err := aside.Invalidate(t.Context(), c, room); err != nil || !aside.Pending(c, room) {
			t.Fatalf("got %v, pending %v, want it queued", err, aside.Pending(c, room))
		}
		time.Sleep(2 * time.Second)
		if n := asked.Load(); n != 4 || aside.Pending(c, room) {
			t.Errorf("asked %d times, pending %v; want it delivered at the fourth, a quarter of a second apart", n, aside.Pending(c, room))
		}
	})
}

// An error of the backend whose methods panic is a failure as any other.
func TestP5_ABackendsErrorWhoseMethodsPanic(t *testing.T) {
	t.Parallel()
	for _, failure := range []error{(*broken)(nil), brokenAs{}} {
		synctest.Test(t, func(t *testing.T) {
			backend := &asidetest.Faulty{Backend: asidetest.Memory()}
			c := must(aside.New(backend, aside.Config{}))
			defer c.Close()
			backend.SetFault(func(context.Context, string) error { return failure })
			use(t, c)
			backend.SetFault(nil)
			time.Sleep(time.Minute)
		})
	}
}

// redisHook is a hook of a Redis client that panics now and then, or answers with an error
// that does.
type redisHook struct{ on atomic.Pointer[func()] }

func (h *redisHook) run() {
	if f := h.on.Load(); f != nil {
		(*f)()
	}
}

func (h *redisHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.run()
		return next(ctx, network, addr)
	}
}

func (h *redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { h.run(); return next(ctx, cmd) }
}

func (h *redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { h.run(); return next(ctx, cmds) }
}

func TestP5_AHookThatPanicsHarmsNobody(t *testing.T) {
	t.Parallel()
	for _, obeys := range []bool{true, false} {
		for _, near := range []int64{0, 1 << 20} {
			t.Run(fmt.Sprint(obeys, near), func(t *testing.T) {
				t.Parallel()
				server := miniredis.RunT(t)
				client := redis.NewClient(&redis.Options{
					Addr: server.Addr(), ContextTimeoutEnabled: obeys, ConnMaxLifetime: 50 * time.Millisecond,
					PoolSize: 200, // go-redis keeps the place of a connection whose dial hook panicked
					// go-redis holds a lock while hooks see its handshake for these, and keeps it when one panics.
					MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
				})
				defer client.Close()
				h := new(redisHook)
				client.AddHook(h)
				c := must(aside.NewRedis(client, aside.Config{NearMaxBytes: near, Timeout: 5 * time.Second}))
				var calls atomic.Int64
				panics := func() {
					if calls.Add(1)%3 != 0 {
						panic("a hook")
					}
				}
				h.on.Store(&panics)
				use(t, c)
				h.on.Store(nil)
				time.Sleep(time.Second)
				writes["Invalidate"](t, c)
				read(t, c, func(context.Context) (string, error) { return "v", nil })
				if calls.Load() < 10 {
					t.Errorf("the hook was called %d times: this shows nothing", calls.Load())
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// An OnConnect or a dialer that panics.
func TestP5_ADialerThatPanicsHarmsNobody(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	for name, o := range map[string]*redis.Options{
		"dialer":    {Dialer: func(context.Context, string, string) (net.Conn, error) { panic("a dialer") }},
		"OnConnect": {OnConnect: func(context.Context, *redis.Conn) error { panic("OnConnect") }},
	} {
		o.Addr, o.ContextTimeoutEnabled = server.Addr(), true
		client := redis.NewClient(o)
		defer client.Close()
		c := must(aside.NewRedis(client, aside.Config{NearMaxBytes: 1 << 20}))
		start := time.Now()
		if v := read(t, c, func(context.Context) (string, error) { return "v", nil }); v != "v" {
			t.Errorf("%s: got %q, want v", name, v)
		}
		t.Log(name, time.Since(start))
		_ = c.Close()
	}
}

// handler is a log handler that panics, or whose parts do.
type handler struct{ in string }

func (h handler) Enabled(context.Context, slog.Level) bool {
	if h.in == "Enabled" {
		panic("a handler")
	}
	return true
}

func (h handler) Handle(context.Context, slog.Record) error { panic("a handler") }

func (h handler) WithAttrs([]slog.Attr) slog.Handler {
	if h.in == "WithAttrs" {
		panic("a handler")
	}
	return h
}

func (h handler) WithGroup(string) slog.Handler { return h }

func TestP5_ALogHandlerThatPanicsHarmsNobody(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"Handle", "Enabled", "WithAttrs"} {
		synctest.Test(t, func(t *testing.T) {
			backend := &asidetest.Faulty{Backend: asidetest.Memory()}
			c := must(aside.New(backend, aside.Config{Logger: slog.New(handler{in})}))
			backend.SetFault(func(context.Context, string) error { return errDown })
			use(t, c)
			backend.SetFault(nil)
			time.Sleep(time.Minute) // the breaker closes, and says so; what was queued is delivered
			unstorable := items.Key("chan")
			if _, err := aside.GetOrLoad(t.Context(), c, unstorable, func(context.Context) (chan int, error) { return nil, nil }); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// net/http knows http.ErrAbortHandler by its identity, and logs any other panic.
func TestP4_AnAbortedHandlerReachesNetHTTP(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	load := func(failure any) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { panic(failure) }
	}
	recovered := func(failure any) (p any) {
		defer func() { p = recover() }()
		aside.GetOrLoad(t.Context(), c, room, load(failure))
		return nil
	}
	if p := recovered(http.ErrAbortHandler); p != http.ErrAbortHandler {
		t.Errorf("recovered %v, want http.ErrAbortHandler itself", p)
	}
	for _, other := range []error{errors.New("other"), fmt.Errorf("wrapped: %w", http.ErrAbortHandler)} {
		p, ok := recovered(other).(*aside.PanicError)
		if !ok || p.Value != other || !errors.Is(p, other) || len(p.Stack) == 0 {
			t.Errorf("recovered %v, want a PanicError of %v with a stack", p, other)
		}
	}
	var told strings.Builder
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		// through another GetOrLoad as well
		aside.GetOrLoad(r.Context(), c, items.Key("1"), func(ctx context.Context) (string, error) {
			return aside.GetOrLoad(ctx, c, items.Key("2"), load(http.ErrAbortHandler))
		})
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(&told, nil), slog.LevelError)
	server.Start()
	if _, err := http.Get(server.URL); err == nil {
		t.Error("the request was answered")
	}
	server.Close()
	if told.Len() > 0 {
		t.Errorf("net/http has logged %q", told.String())
	}
}
