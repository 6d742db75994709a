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

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/logtest"
)

// twoAged runs test in a bubble, with two caches over one Redis, each at a line's end.
func twoAged(t *testing.T, cfg aside.Config, test func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, lines [2]*line)) {
	synctest.Test(t, func(t *testing.T) {
		server, lines := miniredis.NewMiniRedis(), [2]*line{{}, {}}
		server.ClockTTL(true)
		defer server.Close()
		one, end := lines[0].connect(t, server, cfg)
		defer end()
		two, end := lines[1].connect(t, server, cfg)
		defer end()
		test(t, server, one, two, lines)
	})
}

// hangsUntilEnded is a loader that does not end before its context does.
func hangsUntilEnded(began chan<- context.Context) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		began <- ctx
		<-ctx.Done()
		return "", ctx.Err()
	}
}

// A refresh of which nothing can be stored any more ends with the cache, as any other.
func TestRefresh_CloseEndsOneThatWasInvalidated(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(aside.Cache) error{
		"Invalidate": func(c aside.Cache) error { return aside.Invalidate(context.Background(), c, aged.Key("A")) },
		"Clear":      func(c aside.Cache) error { return c.Clear(context.Background()) },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, aside.Config{Type: "memory", LoadTimeout: -1, Keyspaces: []aside.Keyspace{aged}})
			get(t, c, aged, (&numbered{}).load, "v1")
			time.Sleep(time.Minute)
			began := make(chan context.Context, 1)
			get(t, c, aged, hangsUntilEnded(began), "v1")
			ctx := <-began
			if err := write(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
			synctest.Wait()
			if ctx.Err() == nil {
				t.Fatalf("%s, and Close: the refresh goes on", name)
			}
		})
	}
}

// While Redis does not answer, reads load, and when it answers again they get the old value
// and one of them has it refreshed.
func TestRefresh_RedisIsAway(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, c, _ aside.Cache, lines [2]*line) {
		get(t, c, aged, (&numbered{}).load, "v1")
		aside.AwaitFills(c)
		time.Sleep(time.Minute)
		lines[0].hang(true)
		var loads counter
		for range 5 {
			get(t, c, aged, loads.load("from the database"), "from the database")
		}
		if n := asideStats(t, c).Refreshes; loads.Load() != 5 || n != 0 {
			t.Errorf("%d loads and %d refreshes of 5 reads, want 5 and 0", loads.Load(), n)
		}
		lines[0].hang(false)
		time.Sleep(10 * time.Second)
		get(t, c, aged, loads.load("v2"), "v1")
		time.Sleep(time.Second)
		get(t, c, aged, fails(t), "v2")
	})
}

// Redis stops to answer while a refresh runs: nobody notices, and its lease lapses.
func TestRefresh_RedisGoesAwayMeanwhile(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, lines [2]*line) {
		get(t, one, aged, (&numbered{}).load, "v1")
		aside.AwaitFills(one)
		time.Sleep(time.Minute)
		n := &numbered{takes: 3 * time.Second}
		get(t, one, aged, n.load, "v1")
		time.Sleep(time.Second)
		lines[0].hang(true)
		get(t, two, aged, fails(t), "v1") // the lease holds
		time.Sleep(4 * time.Second)
		get(t, two, aged, n.load, "v1")
		time.Sleep(4 * time.Second)
		get(t, two, aged, fails(t), "v2")
	})
}

// A value that is too old and does not decode is a miss.
func TestRefresh_UndecodableValues(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(t *testing.T) aside.Cache) {
		s := aside.Keyspace{Name: "aged", TTL: time.Hour, RefreshAfter: 10 * time.Minute}
		for _, wait := range []time.Duration{0, time.Minute, -1} {
			s.RefreshWait = wait
			c := newCache(t)
			if err := c.Set(t.Context(), s.Key("A").String(), []byte("not JSON"), time.Minute); err != nil {
				t.Fatal(err)
			}
			get(t, c, s, (&numbered{}).load, "v1")
			aside.AwaitFills(c)
			get(t, c, s, fails(t), "v1")
			if n := stats(t, c); n.Refreshes != 0 || n.StaleHits != 0 || n.DecodeErrors != 1 {
				t.Errorf("%+v, want an ordinary miss", n)
			}
		}
	})
}

// Values are handed out as those of any other load: the loader's own with Share, else a copy
// for each.
func TestRefresh_WhoseValuesAre(t *testing.T) {
	t.Parallel()
	for _, share := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, aside.Config{Type: "memory"})
			s := aged
			s.Share, s.RefreshWait = share, -1
			made := []string{"new"}
			read := func(load func(context.Context) ([]string, error)) []string {
				t.Helper()
				return must(aside.GetOrLoad(t.Context(), c, s.Key("A"), load))
			}
			old := read(func(context.Context) ([]string, error) { return []string{"old"}, nil })
			time.Sleep(time.Minute)
			var got [3][]string
			var group sync.WaitGroup
			for i := range got {
				group.Go(func() {
					got[i] = read(func(context.Context) ([]string, error) { time.Sleep(time.Second); return made, nil })
				})
			}
			group.Wait()
			for i, g := range got {
				if len(g) != 1 || g[0] != "new" {
					t.Fatalf("Share %v: got %v, want what was loaded", share, g)
				}
				if same := &g[0] == &made[0]; same != share {
					t.Errorf("Share %v: reader %d has the loader's own value: %v", share, i, same)
				}
				if !share {
					g[0] = "modified"
				}
			}
			if old[0] != "old" || read(nothing)[0] != "new" {
				t.Errorf("Share %v: a reader's value is another's", share)
			}
		})
	}
}

func nothing(context.Context) ([]string, error) { return nil, errors.New("loaded") }

// No more than 64 refreshes run at a time. One more is skipped, and made by a later read.
func TestRefresh_SoManyAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := open(t, aside.Config{Type: "memory", LoadTimeout: time.Minute})
		read := func(i int, load func(context.Context) (string, error)) {
			t.Helper()
			if v, err := aside.GetOrLoad(t.Context(), c, aged.Key(fmt.Sprint(i)), load); err != nil || v != "old" && v != "new" {
				t.Errorf("got %q, %v", v, err)
			}
		}
		var running, most atomic.Int64
		slow := func(ctx context.Context) (string, error) {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			time.Sleep(10 * time.Second)
			return "new", nil
		}
		for i := range 100 {
			read(i, func(context.Context) (string, error) { return "old", nil })
		}
		time.Sleep(time.Minute)
		for i := range 100 {
			read(i, slow)
			synctest.Wait()
		}
		if s := stats(t, c); most.Load() != 64 || s.RefreshesSkipped != 36 || s.Refreshes != 64 {
			t.Errorf("%d at a time, %d skipped of 100, %d made, want 64, 36, 64", most.Load(), s.RefreshesSkipped, s.Refreshes)
		}
		time.Sleep(11 * time.Second)
		for i := range 100 {
			read(i, slow)
		}
		synctest.Wait()
		if n := running.Load(); n != 36 {
			t.Errorf("%d run, want the 36 that were skipped", n)
		}
		time.Sleep(11 * time.Second)
		// Those that hang and those that are invalidated leave their places, too.
		time.Sleep(time.Minute)
		began := make(chan context.Context, 100)
		for i := range 64 {
			read(i, hangsUntilEnded(began))
		}
		synctest.Wait()
		for i := range 32 {
			if err := aside.Invalidate(t.Context(), c, aged.Key(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		for i := 32; i < 96; i++ {
			read(i, slow)
		}
		synctest.Wait()
		if n := running.Load(); n != 64 {
			t.Errorf("%d run after all others have ended, want 64", n)
		}
		time.Sleep(11 * time.Second)
	})
}

// A loader that panics, ends its goroutine or returns what cannot be stored, while it
// refreshes: no reader is harmed, and the old value stays.
func TestRefresh_BadLoaders(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(context.Context) (any, error){
		"panics":             func(context.Context) (any, error) { panic("boom") },
		"is not encoded":     func(context.Context) (any, error) { return make(chan int), nil },
		"is too large":       func(context.Context) (any, error) { return strings.Repeat("x", 2000), nil },
		"its own reader's":   func(context.Context) (any, error) { return nil, context.Canceled },
		"a load's time-out":  func(context.Context) (any, error) { return nil, context.DeadlineExceeded },
		"an error of theirs": func(context.Context) (any, error) { return nil, errDown },
	} {
		for _, wait := range []time.Duration{0, 50 * time.Millisecond, -1} {
			synctest.Test(t, func(t *testing.T) {
				var log logtest.Buffer
				c := open(t, aside.Config{Type: "memory", MaxValueBytes: 1000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				s := aged
				s.RefreshWait = wait
				read := func(load func(context.Context) (any, error)) any {
					t.Helper()
					v, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), load)
					if err != nil {
						t.Errorf("%s, RefreshWait %v: got %v", name, wait, err)
					}
					return v
				}
				read(func(context.Context) (any, error) { return "v1", nil })
				time.Sleep(time.Minute)
				for range 3 {
					v := read(bad)
					if _, isText := v.(string); v != "v1" && (!isText || name != "is too large") {
						t.Errorf("%s, RefreshWait %v: got %v, want the old value", name, wait, v)
					}
					synctest.Wait()
				}
				if log.String() == "" {
					t.Errorf("%s, RefreshWait %v: nothing was logged", name, wait)
				}
				time.Sleep(15 * time.Second) // also until it is not remembered any more that it could not be encoded
				read(func(context.Context) (any, error) { return "v2", nil })
				synctest.Wait()
				if v := read(func(context.Context) (any, error) { return nil, errDown }); v != "v2" {
					t.Errorf("%s, RefreshWait %v: got %v after a good load, want v2", name, wait, v)
				}
			})
		}
	}
}

// The value ends while a refresh runs, here or in another process: readers share its load.
func TestRefresh_TheValueEndsMeanwhile(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, -1} {
		twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, _ [2]*line) {
			s := aged
			s.RefreshWait = wait
			n := &numbered{}
			get(t, one, s, n.load, "v1")
			aside.AwaitFills(one)
			time.Sleep(s.TTL - time.Second)
			n.takes = 5 * time.Second
			var group sync.WaitGroup
			old := "v1"
			if wait < 0 {
				old = "v2"
			}
			group.Go(func() { get(t, one, s, n.load, old) })
			time.Sleep(2 * time.Second)
			if server.Exists(s.Key("A").String()) {
				t.Fatal("the value is still there")
			}
			for range 10 {
				group.Go(func() { get(t, one, s, fails(t), "v2") })
				group.Go(func() { get(t, two, s, fails(t), "v2") })
			}
			group.Wait()
			if n.Load() != 2 {
				t.Errorf("%d loads, want 2", n.Load())
			}
		})
	}
}

// The value ends while a refresh runs that fails: those who wait for it load.
func TestRefresh_TheValueEndsAndTheRefreshFails(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, _ [2]*line) {
		get(t, one, aged, (&numbered{}).load, "v1")
		aside.AwaitFills(one)
		time.Sleep(aged.TTL - time.Second)
		n := &numbered{takes: 3 * time.Second}
		n.fails.Store(true)
		get(t, one, aged, n.load, "v1")
		time.Sleep(2 * time.Second)
		var group sync.WaitGroup
		for _, c := range []aside.Cache{one, two} {
			for range 5 {
				group.Go(func() { // those here share the failure, as of any load that they joined
					v, err := aside.GetOrLoad(t.Context(), c, aged.Key("A"), func(context.Context) (string, error) { time.Sleep(time.Second); return "new", nil })
					if v != "new" || err != nil {
						t.Errorf("got %q, %v", v, err)
					}
				})
			}
		}
		group.Wait()
	})
}

// A loader that hangs keeps its lease until LoadTimeout, and then others refresh.
func TestRefresh_ALoaderThatHangs(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{LoadTimeout: 20 * time.Second}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, _ [2]*line) {
		get(t, one, aged, (&numbered{}).load, "v1")
		aside.AwaitFills(one)
		time.Sleep(time.Minute)
		stop := make(chan struct{})
		defer close(stop)
		get(t, one, aged, func(context.Context) (string, error) { <-stop; return "late", nil }, "v1")
		for range 19 {
			time.Sleep(time.Second)
			get(t, two, aged, fails(t), "v1")
		}
		time.Sleep(2 * time.Second)
		get(t, two, aged, fails(t), "v1") // it has failed just now
		time.Sleep(3 * time.Second)
		get(t, two, aged, func(context.Context) (string, error) { return "v2", nil }, "v1")
		time.Sleep(time.Second)
		get(t, one, aged, fails(t), "v2")
		if s := stats(t, one); s.RefreshErrors != 1 {
			t.Errorf("%d refreshes failed, want 1", s.RefreshErrors)
		}
	})
}
