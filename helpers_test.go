package aside_test

// The helpers that several test files share.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
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
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

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

var room = aside.ChatMessages("A")

// slowLoad begins a read whose loader has seen the old value and does not return
// it until finish is called, which returns what the read got.
func slowLoad(t *testing.T, c aside.Cache, old string) (finish func() string) {
	t.Helper()
	seen, release, got := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	go func() {
		v, err := aside.GetOrLoad(context.Background(), c, room, func(context.Context) (string, error) {
			close(seen)
			<-release
			return old, nil
		})
		if err != nil {
			t.Error(err)
		}
		got <- v
	}()
	<-seen
	return func() string {
		close(release)
		v := <-got
		aside.AwaitFills(c)
		return v
	}
}

// read reads the room, and returns when what was loaded is stored.
func read(t *testing.T, c aside.Cache, load func(context.Context) (string, error)) string {
	t.Helper()
	v, err := aside.GetOrLoad(t.Context(), c, room, load)
	aside.AwaitFills(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func fails(t *testing.T) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		t.Error("the loader was called for what should be a hit")
		return "", errors.New("loaded")
	}
}

// writes are the ways to invalidate.
var writes = map[string]func(t *testing.T, c aside.Cache){
	"Update": func(t *testing.T, c aside.Cache) {
		if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, room); err != nil {
			t.Error(err)
		}
	},
	"Invalidate": func(t *testing.T, c aside.Cache) {
		if err := aside.Invalidate(t.Context(), c, room); err != nil {
			t.Error(err)
		}
	},
}

// line is the way of a client's commands to a Redis in the same bubble: each takes
// a millisecond there and another back, and hangs when it is told to.
type line struct {
	mu   sync.Mutex
	sent []string
	hung bool
	deaf bool // a subscription brings nothing

	arrives func(command string)      // is called when a command reaches Redis
	dials   func(ctx context.Context) // is called before a connection is made
	wires   []*wire
}

func (l *line) hang(hung bool) { l.mu.Lock(); l.hung = hung; l.mu.Unlock() }

// take returns the commands that were sent since it was called last.
func (l *line) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.sent = nil }()
	return l.sent
}

func (l *line) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *line) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return l.carry(ctx, strings.Trim(fmt.Sprint(cmd.Args()), "[]"), func() error { return next(ctx, cmd) })
	}
}

func (l *line) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return l.carry(ctx, fmt.Sprint("pipeline of ", len(cmds)), func() error { return next(ctx, cmds) })
	}
}

func (l *line) carry(ctx context.Context, text string, run func() error) error {
	l.mu.Lock()
	hung := l.hung
	l.sent = append(l.sent, text)
	l.mu.Unlock()
	if hung {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(time.Millisecond)
	if l.arrives != nil {
		l.arrives(text)
	}
	err := run()
	time.Sleep(time.Millisecond)
	return err
}

// overLine runs test in a bubble, with a Cache over a Redis at the end of a line.
func overLine(t *testing.T, cfg aside.Config, test func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis)) {
	synctest.Test(t, func(t *testing.T) {
		server, l := miniredis.NewMiniRedis(), &line{}
		defer server.Close()
		c, end := l.connect(t, server, cfg)
		defer end()
		test(t, c, l, server)
	})
}

// options are those of a client at the line's other end.
func (l *line) options(server *miniredis.Miniredis) *redis.Options {
	return &redis.Options{
		Dialer:                func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx, server) },
		PoolSize:              2000, // to wait for a connection is not possible in a bubble
		ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true, Protocol: 2,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// connect returns a Cache at the line's other end, and what closes it.
func (l *line) connect(t *testing.T, server *miniredis.Miniredis, cfg aside.Config) (c aside.Cache, end func()) {
	client := redis.NewClient(l.options(server))
	client.AddHook(l)
	c = must(aside.NewRedis(client, cfg))
	var keys []aside.Key
	for i := range 40 {
		keys = append(keys, items.Key(fmt.Sprint("warm up ", i)))
	}
	for range 10 { // connect
		ask(t, c, keys...)
	}
	if err := aside.Invalidate(t.Context(), c, keys...); err != nil {
		t.Fatal(err)
	}
	l.take()
	return c, func() { c.Close(); client.Close() }
}

var items = aside.Keyspace{Name: "item"}

// ask reads the items in turn, a microsecond apart, and returns what each read got,
// once all have: a read whose loader is called gets "loaded".
func ask(t *testing.T, c aside.Cache, items ...aside.Key) []string {
	got := make([]string, len(items))
	var wg sync.WaitGroup
	for i, key := range items {
		wg.Go(func() {
			v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "loaded", nil })
			if got[i] = v; err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Microsecond)
	}
	wg.Wait()
	aside.AwaitFills(c)
	return got
}

// wire is a connection of a line. One that subscribes brings nothing while its
// line hangs or is deaf.
type wire struct {
	net.Conn
	l          *line
	subscribes atomic.Bool
}

func (l *line) dial(ctx context.Context, server *miniredis.Miniredis) (net.Conn, error) {
	l.mu.Lock()
	dials := l.dials
	l.mu.Unlock()
	if dials != nil {
		dials(ctx)
	}
	conn, err := server.Dial()
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: redistest.Buffered(conn), l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wires = append(l.wires, w)
	return w, nil
}

func (l *line) setDials(dials func(context.Context)) { l.mu.Lock(); l.dials = dials; l.mu.Unlock() }

func (w *wire) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("subscribe")) {
		w.subscribes.Store(true)
	}
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		n, err := w.Conn.Read(p)
		w.l.mu.Lock()
		lost := w.subscribes.Load() && (w.l.hung || w.l.deaf)
		w.l.mu.Unlock()
		if err != nil || !lost {
			return n, err
		}
	}
}

// cut breaks the line's subscription.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wires {
		if w.subscribes.Load() {
			w.Close()
		}
	}
}

func (l *line) setDeaf(deaf bool) { l.mu.Lock(); l.deaf = deaf; l.mu.Unlock() }

var errDown = errors.New("connection refused")

func refuse(context.Context, string) error { return errDown }

// faulty returns a Cache over a memory backend that can be told to fail.
func faulty(t *testing.T, cfg aside.Config) (aside.Cache, *asidetest.Faulty) {
	t.Helper()
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	c := must(aside.New(store, cfg))
	t.Cleanup(func() { c.Close() })
	return c, store
}

func asideStats(t *testing.T, c aside.Cache) aside.Stats {
	s, err := c.Status(context.Background())
	if err != nil {
		t.Log(err)
	}
	return s.Stats
}

func explode(context.Context) (string, error) { panic("boom") }

func generations(t *testing.T, c aside.Cache) *aside.Generations {
	t.Helper()
	gs, err := aside.NewGenerations(c)
	if err != nil {
		t.Fatal(err)
	}
	return gs
}

func start(t *testing.T, gs *aside.Generations, room string) *aside.Generation {
	t.Helper()
	g, err := gs.Start(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func wantCause(t *testing.T, g *aside.Generation, want error, within time.Duration) {
	t.Helper()
	select {
	case <-g.Context().Done():
		if cause := context.Cause(g.Context()); cause != want {
			t.Errorf("the generation ended with %v, want %v", cause, want)
		}
	case <-time.After(within):
		t.Errorf("the generation has not ended within %v", within)
	}
}

// hog takes connections of a client for itself, as soon as they are free, until it is
// told to give them back.
func hog(t *testing.T, client *redis.Client, n int) (stop func()) {
	var held []*redis.Conn
	for range n {
		conn := client.Conn()
		for err := conn.Ping(t.Context()).Err(); err != nil; err = conn.Ping(t.Context()).Err() {
			if !errors.Is(err, redis.ErrPoolExhausted) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		held = append(held, conn)
	}
	return func() {
		for _, conn := range held {
			conn.Close()
		}
	}
}

func containsAny(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// ttlOf is how long the cache still has the key's value, whatever that is.
func ttlOf(ctx context.Context, c aside.Cache, key aside.Key) (ttl time.Duration, ok bool, err error) {
	_, ttl, ok, err = aside.Peek[any](ctx, c, key)
	return ttl, ok, err
}
