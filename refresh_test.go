package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// aged is a keyspace whose values are loaded again after a minute. The tests' time is
// virtual.
var aged = aside.Keyspace{Name: "aged", TTL: 10 * time.Minute, RefreshAfter: time.Minute}

// numbered is a loader that returns v1, v2 and so on.
type numbered struct {
	atomic.Int64
	fails atomic.Bool
	takes time.Duration
}

func (n *numbered) load(ctx context.Context) (string, error) {
	v := n.Add(1)
	select {
	case <-time.After(n.takes):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if n.fails.Load() {
		return "", errDown
	}
	return fmt.Sprint("v", v), nil
}

// get reads a key of the keyspace, and checks what it gets.
func get(t *testing.T, c aside.Cache, s aside.Keyspace, load func(context.Context) (string, error), want string) {
	t.Helper()
	if got, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), load); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func stats(t *testing.T, c aside.Cache) aside.Stats {
	t.Helper()
	return must(c.Status(t.Context())).Stats
}

// In memory, with virtual time: the background, the wait, the failures.
func TestRefresh_ValuesAreLoadedAgainInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		n := &numbered{takes: time.Second}
		get(t, c, aged, n.load, "v1")
		time.Sleep(time.Minute - time.Millisecond)
		get(t, c, aged, n.load, "v1")
		if n.Load() != 1 {
			t.Fatalf("%d loads of a fresh value, want 1", n.Load())
		}
		time.Sleep(2 * time.Millisecond)
		for range 100 { // nobody waits, and one load begins
			start := time.Now()
			get(t, c, aged, n.load, "v1")
			if took := time.Since(start); took != 0 {
				t.Fatalf("a read of an old value waited %v", took)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		get(t, c, aged, n.load, "v2")
		if s := stats(t, c); n.Load() != 2 || s.Refreshes != 1 || s.StaleHits != 100 || s.Misses != 1 || s.Hits != 102 {
			t.Errorf("%d loads, %+v, want 2 loads, 1 refresh, 100 stale hits, 1 miss, 102 hits", n.Load(), s)
		}
	})
}

// A refresh outlives the read that began it, has its values, and ends at LoadTimeout, and
// with the cache.
func TestRefresh_OutlivesItsReader(t *testing.T) {
	t.Parallel()
	type name struct{}
	for end, want := range map[string]error{"reader": nil, "timeout": context.DeadlineExceeded, "close": context.Canceled} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := open(t, aside.Config{Type: "memory", LoadTimeout: time.Minute})
				get(t, c, aged, (&numbered{}).load, "v1")
				time.Sleep(time.Minute)
				ctx, leave := context.WithCancel(context.WithValue(t.Context(), name{}, "mine"))
				var ended error
				value, running := any(nil), make(chan struct{})
				if _, err := aside.GetOrLoad(ctx, c, aged.Key("A"), func(ctx context.Context) (string, error) {
					defer close(running)
					value = ctx.Value(name{})
					takes := time.Hour
					if want == nil {
						takes = time.Second
					}
					select {
					case <-ctx.Done():
						ended = ctx.Err()
					case <-time.After(takes):
					}
					return "new", ended
				}); err != nil {
					t.Fatal(err)
				}
				leave()
				synctest.Wait()
				if end == "close" {
					c.Close()
				}
				<-running
				synctest.Wait()
				if value != "mine" || !errors.Is(ended, want) || ended == nil && want != nil {
					t.Errorf("the refresh had the value %v, and ended with %v, want mine, %v", value, ended, want)
				}
				if want == nil {
					get(t, c, aged, fails(t), "new")
				}
			})
		})
	}
}

// A refresh that fails leaves the value and its end, is told of once, and is not made again
// before a time that doubles up to a minute.
func TestRefresh_Fails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		n := &numbered{}
		get(t, c, aged, n.load, "v1")
		stored := time.Now()
		time.Sleep(time.Minute)
		n.fails.Store(true)
		last, gaps := time.Time{}, []time.Duration(nil)
		for time.Since(stored) < aged.TTL-time.Millisecond {
			before := n.Load()
			get(t, c, aged, n.load, "v1")
			synctest.Wait()
			if n.Load() != before {
				if !last.IsZero() {
					gaps = append(gaps, time.Since(last).Round(100*time.Millisecond))
				}
				last = time.Now()
			}
			time.Sleep(100 * time.Millisecond)
		}
		want := []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute}
		for i, w := range want {
			if i >= len(gaps) || gaps[i] < w || gaps[i] > w+2*time.Second {
				t.Errorf("got refreshes after %v, want after %v, each up to 2s later", gaps, want)
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
		if _, err := aside.GetOrLoad(t.Context(), c, aged.Key("A"), n.load); !errors.Is(err, errDown) {
			t.Errorf("got %v after the value's end, want the loader's error", err)
		}
		if s := stats(t, c); s.RefreshErrors != s.Refreshes || s.RefreshErrors < 7 {
			t.Errorf("%+v, want as many errors as refreshes", s)
		}
	})
}

// A refresh that finds that there is nothing removes the value.
func TestRefresh_FindsNothing(t *testing.T) {
	t.Parallel()
	for _, kept := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, aside.Config{Type: "memory"})
			s := aged
			s.NotFoundTTL = kept
			get(t, c, s, (&numbered{}).load, "v1")
			time.Sleep(time.Minute)
			none := func(context.Context) (string, error) { return "", fmt.Errorf("no row: %w", aside.ErrNotFound) }
			get(t, c, s, none, "v1")
			synctest.Wait()
			if _, ok, _ := c.Get(t.Context(), s.Key("A").String()); ok {
				t.Error("the value is still there")
			}
			n := &numbered{}
			_, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), n.load)
			defer func() { // and one who waits is told so
				s.RefreshWait = -1
				if err := c.Set(t.Context(), s.Key("A").String(), []byte(`"v2"`), time.Minute); err != nil {
					t.Error(err)
				}
				time.Sleep(2 * time.Second)
				if v, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), none); !errors.Is(err, aside.ErrNotFound) {
					t.Errorf("who waits got %q, %v, want ErrNotFound", v, err)
				}
			}()
			if remembered := n.Load() == 0; remembered != (kept > 0) || remembered != errors.Is(err, aside.ErrNotFound) {
				t.Errorf("NotFoundTTL %v: got %v after %d loads", kept, err, n.Load())
			}
		})
	}
}

// RefreshWait counts from the start of the refresh: a loader that hangs makes one wait, and
// not each read.
func TestRefresh_Wait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		s := aged
		s.RefreshWait = time.Second
		n := &numbered{takes: 500 * time.Millisecond}
		get(t, c, s, n.load, "v1")
		timed := func(load func(context.Context) (string, error), want string, least time.Duration) {
			t.Helper()
			start := time.Now()
			get(t, c, s, load, want)
			if took := time.Since(start); took != least {
				t.Errorf("a read waited %v, want %v", took, least)
			}
		}
		time.Sleep(time.Minute)
		timed(n.load, "v2", 500*time.Millisecond) // in time
		time.Sleep(time.Minute)
		n.takes = time.Minute
		timed(n.load, "v2", time.Second) // too late
		time.Sleep(100 * time.Millisecond)
		timed(n.load, "v2", 0)
		time.Sleep(time.Minute)
		timed(fails(t), "v3", 0)
		time.Sleep(time.Minute)
		n.takes = 500 * time.Millisecond
		n.fails.Store(true)
		timed(n.load, "v3", 500*time.Millisecond) // the load failed
		s.RefreshWait = -1
		time.Sleep(5 * time.Second)
		n.fails.Store(false)
		n.takes = 30 * time.Second
		timed(n.load, "v5", 30*time.Second)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		time.Sleep(time.Minute)
		if _, err := aside.GetOrLoad(ctx, c, s.Key("A"), n.load); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v of a reader that left, want its context's error", err)
		}
	})
}

// An invalidation ends the old value at once, and a refresh that began before it is not
// stored.
func TestRefresh_Invalidated(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c, other := newCache(t), newCache(t)
		switch {
		case strings.HasSuffix(t.Name(), "miniredis"):
			return // its time stands still
		case strings.HasSuffix(t.Name(), "memory"):
			other = c
		}
		s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: time.Millisecond}
		get(t, c, s, (&numbered{}).load, "v1")
		aside.AwaitFills(c)
		time.Sleep(5 * time.Millisecond)
		seen, release := make(chan struct{}), make(chan struct{})
		get(t, c, s, func(context.Context) (string, error) { close(seen); <-release; return "old", nil }, "v1")
		<-seen
		if err := aside.Invalidate(t.Context(), other, s.Key("A")); err != nil {
			t.Fatal(err)
		}
		fresh := func(context.Context) (string, error) { return "new", nil }
		get(t, other, s, fresh, "new")
		aside.AwaitFills(other)
		close(release)
		aside.AwaitFills(c)
		redistest.Eventually(t, "the old load is refused", func() bool { return stats(t, c).StaleFills == 1 })
		get(t, c, s, fresh, "new")
	})
}

// Of many processes one refreshes.
func TestRefresh_OneProcess(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: 50 * time.Millisecond}
	var caches []aside.Cache
	for range 4 {
		caches = append(caches, overRedis(t, r.Addr, aside.Config{}))
	}
	release := make(chan struct{})
	var loads atomic.Int64
	load := func(context.Context) (string, error) { loads.Add(1); <-release; return "new", nil }
	get(t, caches[0], s, (&numbered{}).load, "v1")
	aside.AwaitFills(caches[0])
	time.Sleep(60 * time.Millisecond)
	var group sync.WaitGroup
	for _, c := range caches {
		for range 20 {
			group.Go(func() { get(t, c, s, load, "v1") })
		}
	}
	group.Wait()
	redistest.Eventually(t, "one has begun", func() bool { return loads.Load() > 0 })
	close(release)
	redistest.Eventually(t, "the new value is there", func() bool {
		v, _, _ := caches[1].Get(t.Context(), s.Key("A").String())
		return string(v) == `"new"`
	})
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads in 4 processes, want 1", n)
	}
}

// A value that another program stored is judged by its remaining time, and marked when it is
// young: no one loads it.
func TestRefresh_ForeignValues(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: 30 * time.Minute}
		key := s.Key("A").String()
		for _, f := range []struct {
			left  time.Duration
			loads int64
		}{{time.Hour, 0}, {31 * time.Minute, 0}, {29 * time.Minute, 1}, {2 * time.Hour, 1}} {
			if err := c.Set(t.Context(), key, []byte(`"theirs"`), f.left); err != nil {
				t.Fatal(err)
			}
			c := newCacheLike(t, c, newCache)
			n := &numbered{}
			get(t, c, s, n.load, "theirs")
			redistest.Eventually(t, "it is marked", func() bool {
				aside.AwaitFills(c)
				_, mark, _, err := backendOf(c).GetMarked(t.Context(), key)
				return err == nil && mark == 1
			})
			if n.Load() != f.loads {
				t.Errorf("%v left: %d loads, want %d", f.left, n.Load(), f.loads)
			}
		}
	})
}

// newCacheLike returns another cache over the backend of c, which has not asked for a refresh
// before; in memory there is none.
func newCacheLike(t *testing.T, c aside.Cache, newCache func(t *testing.T) aside.Cache) aside.Cache {
	if must(c.Status(t.Context())).Backend == "memory" {
		fresh := newCache(t)
		key := aged.Key("A").String()
		v, _, _ := c.Get(t.Context(), key)
		left, _, _ := backendOf(c).TTL(t.Context(), key)
		if err := fresh.Set(t.Context(), key, v, left); err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	return newCache(t)
}

// A store-through of another program while a refresh runs is not overwritten by what is
// older, nor undone after its DEL.
func TestRefresh_ReplacesOnlyWhatItSaw(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := redistest.Start(t)
	r := server.Client()
	s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: time.Millisecond}
	key := s.Key("A").String()
	for name, write := range map[string]func(*redis.Client) error{
		"SETEX": func(r *redis.Client) error { return r.Set(ctx, key, `"v2"`, 59*time.Minute).Err() },
		"SETEX for as long": func(r *redis.Client) error {
			time.Sleep(10 * time.Millisecond)
			return r.Set(ctx, key, `"v2"`, time.Hour).Err()
		},
		"SET of another length":  func(r *redis.Client) error { return r.Set(ctx, key, `"v2, which is longer"`, 0).Err() },
		"DEL of the value alone": func(r *redis.Client) error { return r.Del(ctx, key).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			c := overRedis(t, server.Addr, aside.Config{})
			if err := aside.Invalidate(ctx, c, s.Key("A")); err != nil {
				t.Fatal(err)
			}
			get(t, c, s, (&numbered{}).load, "v1")
			aside.AwaitFills(c)
			time.Sleep(5 * time.Millisecond)
			seen, release := make(chan struct{}), make(chan struct{})
			get(t, c, s, func(context.Context) (string, error) { close(seen); <-release; return "v1", nil }, "v1")
			<-seen
			if err := write(r); err != nil {
				t.Fatal(err)
			}
			want := r.Get(ctx, key).Val()
			close(release)
			redistest.Eventually(t, "the refresh is over", func() bool { return stats(t, c).StaleFills == 1 })
			if got := r.Get(ctx, key).Val(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}
