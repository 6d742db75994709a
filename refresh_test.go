package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/logtest"
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
			c := overRedis(t, server.Addr, aside.Config{Timeout: 10 * time.Second}) // a fill that times out is not refused
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

// A read under Fresh takes only a load that began after it, which is stored; others go on
// getting the current value meanwhile.
func TestFresh(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "fresh", TTL: time.Hour, RefreshAfter: 30 * time.Minute}
		n := &numbered{}
		get(t, c, s, n.load, "v1")
		aside.AwaitFills(c)
		seen, release := make(chan struct{}), make(chan struct{})
		got := make(chan string)
		go func() {
			v, err := aside.GetOrLoad(aside.Fresh(t.Context()), c, s.Key("A"), func(ctx context.Context) (string, error) {
				close(seen)
				<-release
				n.Add(1)
				// It is stripped from the loader's context.
				get(t, c, s, fails(t), "v1")
				other, err := aside.GetOrLoad(ctx, c, s.Key("B"), func(context.Context) (string, error) { return "b", nil })
				if again, _ := aside.GetOrLoad(ctx, c, s.Key("B"), func(context.Context) (string, error) { return "c", nil }); again != other {
					t.Error("a read within the load loaded anew")
				}
				return "v2", err
			})
			if err != nil {
				t.Error(err)
			}
			got <- v
		}()
		<-seen
		get(t, c, s, fails(t), "v1")
		// One that comes now does not take what began before.
		late := make(chan string)
		go func() {
			v, err := aside.GetOrLoad(aside.Fresh(t.Context()), c, s.Key("A"), func(context.Context) (string, error) { return "v3", nil })
			if err != nil {
				t.Error(err)
			}
			late <- v
		}()
		time.Sleep(20 * time.Millisecond)
		close(release)
		if first, second := <-got, <-late; first != "v2" || second != "v3" {
			t.Errorf("got %q and %q, want v2 and v3", first, second)
		}
		aside.AwaitFills(c)
		get(t, c, s, fails(t), "v3")
	})
}

// Under Fresh a remembered absence is asked for again, and one that is found removes the
// value.
func TestFresh_NotFound(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		none := func(context.Context) (string, error) { return "", aside.ErrNotFound }
		for _, kept := range []time.Duration{0, time.Hour} {
			s := aside.Keyspace{Name: fmt.Sprint("fresh", kept.Seconds()), TTL: time.Hour, NotFoundTTL: kept}
			there := func(context.Context) (string, error) { return "there", nil }
			ctx := aside.Fresh(t.Context())
			for range 2 {
				if _, err := aside.GetOrLoad(ctx, c, s.Key("A"), none); !errors.Is(err, aside.ErrNotFound) {
					t.Fatal(err)
				}
				aside.AwaitFills(c)
				if _, _, ok, err := aside.Peek[string](t.Context(), c, s.Key("A")); ok || kept > 0 != errors.Is(err, aside.ErrNotFound) {
					t.Errorf("NotFoundTTL %v: got %v, %v", kept, ok, err)
				}
				if v, err := aside.GetOrLoad(ctx, c, s.Key("A"), there); v != "there" || err != nil {
					t.Fatal(v, err)
				}
				aside.AwaitFills(c)
				get(t, c, s, fails(t), "there")
			}
		}
	})
}

// A write that comes during a fresh load keeps it from being stored, as any load.
func TestFresh_Invalidated(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "fresh", TTL: time.Hour}
		get(t, c, s, (&numbered{}).load, "v1")
		aside.AwaitFills(c)
		v, err := aside.GetOrLoad(aside.Fresh(t.Context()), c, s.Key("A"), func(ctx context.Context) (string, error) {
			return "old", aside.Invalidate(ctx, c, s.Key("A"))
		})
		if v != "old" || err != nil {
			t.Fatal(v, err)
		}
		aside.AwaitFills(c)
		if v, _, ok, err := aside.Peek[string](t.Context(), c, s.Key("A")); ok || err != nil {
			t.Errorf("got %q, %v, want nothing stored", v, err)
		}
	})
}

// A loader says for how long its result is kept, within what the keyspace gives.
func TestKeepFor(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "kept", TTL: time.Hour, NotFoundTTL: time.Minute, RefreshAfter: 30 * time.Minute}
		for i, k := range []struct {
			keep func(ctx context.Context, own aside.Key)
			err  error
			want time.Duration // 0 is nothing stored
		}{
			{func(context.Context, aside.Key) {}, nil, time.Hour},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, time.Minute) }, nil, time.Minute},
			{func(ctx context.Context, own aside.Key) { aside.KeepFor(ctx, time.Minute, own) }, nil, time.Minute},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, time.Minute, room) }, nil, time.Hour},
			{func(ctx context.Context, own aside.Key) { aside.KeepFor(ctx, 0); aside.KeepFor(ctx, time.Minute, own) }, nil, time.Minute},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, 24*time.Hour) }, nil, time.Hour},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, time.Minute); aside.KeepFor(ctx, 0) }, nil, 0},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, -time.Second) }, nil, 0},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(context.WithoutCancel(ctx), time.Minute) }, nil, time.Minute},
			{func(context.Context, aside.Key) { aside.KeepFor(context.Background(), time.Minute) }, nil, time.Hour},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, time.Hour) }, aside.ErrNotFound, time.Minute},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, time.Second) }, aside.ErrNotFound, time.Second},
			{func(ctx context.Context, _ aside.Key) { aside.KeepFor(ctx, 0) }, aside.ErrNotFound, 0},
		} {
			key := s.Key(fmt.Sprint(i))
			v, err := aside.GetOrLoad(t.Context(), c, key, func(ctx context.Context) (string, error) { k.keep(ctx, key); return "v", k.err })
			if k.err == nil && v != "v" || !errors.Is(err, k.err) {
				t.Errorf("%d: got %q, %v", i, v, err)
			}
			aside.AwaitFills(c)
			_, left, ok, err := aside.Peek[string](t.Context(), c, key)
			if k.err != nil {
				if errors.Is(err, aside.ErrNotFound) != (k.want > 0) {
					t.Errorf("%d: got %v of an absence that is to be kept for %v", i, err, k.want)
				}
			} else if ok != (k.want > 0) || ok && (left > k.want || left < k.want-30*time.Second) {
				t.Errorf("%d: got %v, %v, %v, want %v", i, left, ok, err, k.want)
			}
		}
		// A nested load has a KeepFor of its own.
		inner := s.Key("inner")
		_, err := aside.GetOrLoad(t.Context(), c, s.Key("outer"), func(ctx context.Context) (string, error) {
			return aside.GetOrLoad(ctx, c, inner, func(ctx context.Context) (string, error) { aside.KeepFor(ctx, time.Minute); return "v", nil })
		})
		aside.AwaitFills(c)
		_, outside, _, _ := aside.Peek[string](t.Context(), c, s.Key("outer"))
		_, inside, _, _ := aside.Peek[string](t.Context(), c, inner)
		if err != nil || outside < 59*time.Minute || inside > time.Minute {
			t.Errorf("got %v, %v left of the outer, %v of the inner one", err, outside, inside)
		}
	})
}

// A value that is not to be kept any more takes the old one with it, when it is refreshed.
func TestKeepFor_Refresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory"})
		get(t, c, aged, (&numbered{}).load, "v1")
		time.Sleep(time.Minute)
		get(t, c, aged, func(ctx context.Context) (string, error) { aside.KeepFor(ctx, 0); return "v2", nil }, "v1")
		synctest.Wait()
		get(t, c, aged, func(ctx context.Context) (string, error) { aside.KeepFor(ctx, 2*time.Minute); return "v3", nil }, "v3")
		time.Sleep(12 * time.Second) // its share of RefreshAfter
		get(t, c, aged, func(context.Context) (string, error) { return "v4", nil }, "v3")
		synctest.Wait()
		get(t, c, aged, fails(t), "v4")
	})
}

// No more loads run at a time than MaxLoads says; those that wait leave with their callers,
// and loads within loads need no place.
func TestMaxLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory", MaxLoads: 2})
		s := aside.Keyspace{Name: "s"}
		var running, most atomic.Int64
		load := func(ctx context.Context) (string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return "v", nil
		}
		start := time.Now()
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() {
				if _, err := aside.GetOrLoad(t.Context(), c, s.Key(fmt.Sprint(i)), load); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, leave := context.WithTimeout(t.Context(), time.Second/2)
		defer leave()
		if _, err := aside.GetOrLoad(ctx, c, s.Key("leaves"), fails(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v in line, want the end of its context", err)
		}
		group.Wait()
		if took := time.Since(start); most.Load() != 2 || took != 5*time.Second {
			t.Errorf("%d loads at a time, in %v, want 2, in 5s", most.Load(), took)
		}
	})
}

func TestMaxLoads_Nested(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory", MaxLoads: 1, LoadTimeout: time.Minute})
		s := aside.Keyspace{Name: "s"}
		start := time.Now()
		slow := func(v string) func(context.Context) (string, error) {
			return func(context.Context) (string, error) { time.Sleep(time.Second); return v, nil }
		}
		var group sync.WaitGroup
		read := func(key string, load func(context.Context) (string, error)) {
			group.Go(func() {
				if _, err := aside.GetOrLoad(t.Context(), c, s.Key(key), load); err != nil {
					t.Error(key, err)
				}
			})
			synctest.Wait()
		}
		begun := make(chan struct{})
		read("A", func(ctx context.Context) (string, error) { // which has the place
			<-begun
			return aside.GetOrLoad(ctx, c, s.Key("B"), fails(t))
		})
		read("B", func(ctx context.Context) (string, error) { // which waits for it, until A joins
			return aside.GetOrLoad(ctx, c, s.Key("C"), slow("c"))
		})
		read("D", slow("d"))
		close(begun)
		group.Wait()
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %v, want 2s", took)
		}
	})
}

// A refresh takes a place only where one is free.
func TestMaxLoads_Refresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory", MaxLoads: 1})
		get(t, c, aged, (&numbered{}).load, "v1")
		time.Sleep(time.Minute)
		go aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) { time.Sleep(time.Minute); return "v", nil })
		synctest.Wait()
		get(t, c, aged, fails(t), "v1")
		synctest.Wait()
		if s := stats(t, c); s.RefreshesSkipped != 1 || s.Refreshes != 0 {
			t.Errorf("%+v, want one refresh skipped", s)
		}
		time.Sleep(2 * time.Minute)
		get(t, c, aged, func(context.Context) (string, error) { return "v2", nil }, "v1")
		synctest.Wait()
		get(t, c, aged, fails(t), "v2")
	})
}

// A load that waits for another process's leaves its place to others, and needs none when one
// that has the last place waits for it.
func TestMaxLoads_OtherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := open(t, aside.Config{Type: "memory"})
		cfg := aside.Config{MaxLoads: 1, LoadTimeout: time.Hour}
		one, two := must(aside.New(backendOf(memory), cfg)), must(aside.New(backendOf(memory), cfg))
		defer one.Close()
		s := aside.Keyspace{Name: "s"}
		other, release := make(chan struct{}), make(chan struct{})
		go aside.GetOrLoad(t.Context(), two, s.Key("A"), func(context.Context) (string, error) {
			close(other)
			<-release
			return "", errDown
		})
		<-other
		var group sync.WaitGroup
		group.Go(func() {
			v, err := aside.GetOrLoad(t.Context(), one, s.Key("A"), func(context.Context) (string, error) { return "mine", nil })
			if v != "mine" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
		})
		synctest.Wait()
		v, err := aside.GetOrLoad(t.Context(), one, s.Key("B"), func(ctx context.Context) (string, error) {
			group.Go(func() { time.Sleep(time.Second); close(release) })
			return aside.GetOrLoad(ctx, one, s.Key("A"), fails(t))
		})
		if v != "mine" || err != nil {
			t.Errorf("got %q, %v", v, err)
		}
		group.Wait()
	})
}

// An audit finds the value that a writer has changed behind the cache's back, tells of it,
// and heals it; writes that go through the cache are no difference.
func TestAudit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := &logtest.Buffer{}
		c := open(t, aside.Config{Type: "memory", Audit: 1, Logger: slog.New(slog.NewTextHandler(logs, nil))})
		s := aside.Keyspace{Name: "audited"}
		var row atomic.Value
		row.Store("v1")
		load := func(context.Context) (string, error) { return row.Load().(string), nil }
		want := func(audited, different, undecided int64) {
			t.Helper()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := stats(t, c); got.Audited != audited || got.AuditDifferences != different || got.AuditsUndecided != undecided {
				t.Errorf("%d audited, %d different, %d undecided, want %d, %d, %d", got.Audited, got.AuditDifferences, got.AuditsUndecided, audited, different, undecided)
			}
		}
		get(t, c, s, load, "v1")
		want(0, 0, 0)
		get(t, c, s, load, "v1")
		want(1, 0, 0)
		row.Store("v2") // and nothing is said
		get(t, c, s, load, "v1")
		want(2, 1, 0)
		get(t, c, s, load, "v2")
		want(3, 1, 0)
		row.Store("v3") // as a writer does, who is about to invalidate
		get(t, c, s, load, "v2")
		synctest.Wait()
		if err := aside.Invalidate(t.Context(), c, s.Key("A")); err != nil {
			t.Fatal(err)
		}
		want(3, 1, 1)
		get(t, c, s, load, "v3")
		get(t, c, s, func(context.Context) (string, error) { return "", errDown }, "v3")
		want(3, 1, 2)
		get(t, c, s, func(context.Context) (string, error) { return "", aside.ErrNotFound }, "v3")
		want(4, 2, 2)
		if n := strings.Count(logs.String(), "another value"); n != 1 || strings.Contains(logs.String(), "v1") || strings.Contains(logs.String(), "v2") {
			t.Errorf("logged %d times within 10s, want once, without values:\n%s", n, logs.String())
		}
	})
}

// A value that is stored after the hit, and before its audit begins, is none that the hit
// served: the audit is undecided.
func TestAudit_AWriteBeforeItBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &beforeLease{Backend: backendOf(open(t, aside.Config{Type: "memory"}))}
		c := must(aside.New(b, aside.Config{Audit: 1}))
		defer c.Close()
		s := aside.Keyspace{Name: "audited"}
		get(t, c, s, func(context.Context) (string, error) { return "v1", nil }, "v1")
		b.sets(t, s.Key("A"), `"v2"`)
		get(t, c, s, func(context.Context) (string, error) { return "v2", nil }, "v1")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := stats(t, c); b.once.Load() != nil || got.Audited != 0 || got.AuditDifferences != 0 || got.AuditsUndecided != 1 {
			t.Errorf("%d audited, %d different, %d undecided, want the last only", got.Audited, got.AuditDifferences, got.AuditsUndecided)
		}
	})
}

// beforeLease calls once before the next lease is asked for.
type beforeLease struct {
	backend.Backend
	once atomic.Pointer[func()]
}

func (b *beforeLease) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	if once := b.once.Swap(nil); once != nil {
		(*once)()
	}
	return b.Backend.Lease(ctx, key, req)
}

// sets has once store a value as another process does.
func (b *beforeLease) sets(t *testing.T, key aside.Key, value string) {
	once := func() {
		if err := b.Set(t.Context(), key.String(), []byte(value), time.Minute); err != nil {
			t.Error(err)
		}
	}
	b.once.Store(&once)
}

// Equal values with different encodings are no difference.
func TestAudit_EqualValues(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := must(aside.New(backendOf(newCache(t)), aside.Config{Audit: 1}))
		s := aside.Keyspace{Name: "audited", RefreshAfter: 5 * time.Minute, RefreshWait: -1}
		key := s.Key("A")
		if err := c.Set(t.Context(), key.String(), []byte(`{"b": 1,  "a": 2}`), 9*time.Minute); err != nil {
			t.Fatal(err)
		}
		load := func(context.Context) (map[string]int, error) { return map[string]int{"a": 2, "b": 1}, nil }
		for range 2 {
			if v, err := aside.GetOrLoad(t.Context(), c, key, load); len(v) != 2 || err != nil {
				t.Fatal(v, err)
			}
			aside.AwaitFills(c)
		}
		redistest.Eventually(t, "it is audited", func() bool { return stats(t, c).Audited > 0 })
		if s := stats(t, c); s.AuditDifferences != 0 {
			t.Errorf("%+v, want no difference", s)
		}
	})
}

// While a fresh value is audited, or loaded for a read under Fresh, it is fresh for others.
func TestAudit_ValuesStayFresh(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		c := newCache(t)
		s := aside.Keyspace{Name: "audited", TTL: time.Hour, RefreshAfter: 30 * time.Minute, RefreshWait: -1}
		get(t, c, s, (&numbered{}).load, "v1")
		aside.AwaitFills(c)
		seen, release := make(chan struct{}), make(chan struct{})
		done := make(chan error)
		go func() {
			_, err := aside.GetOrLoad(aside.Fresh(t.Context()), c, s.Key("A"), func(context.Context) (string, error) {
				close(seen)
				<-release
				return "", errDown
			})
			done <- err
		}()
		<-seen
		get(t, c, s, fails(t), "v1") // which would wait, were it old
		close(release)
		if err := <-done; !errors.Is(err, errDown) {
			t.Errorf("got %v, want the loader's error", err)
		}
		aside.AwaitFills(c)
		get(t, c, s, fails(t), "v1")
		if s := stats(t, c); s.StaleHits != 0 {
			t.Errorf("%+v, want no stale hit", s)
		}
	})
}
