package aside_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
)

// commandsOf returns the names of what was sent, in order.
func commandsOf(sent []string) string {
	var names []string
	for _, text := range sent {
		name, _, _ := strings.Cut(strings.TrimLeft(text, "["), " ")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// A key that was just invalidated, and one of a keyspace whose reads miss, is not asked for
// before its lease is.
func TestExpectedMisses_AskForTheLeaseAtOnce(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, _ *miniredis.Miniredis) {
		get := func(key aside.Key, want string) {
			t.Helper()
			l.take()
			v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "loaded", nil })
			aside.AwaitFills(c)
			if sent := commandsOf(l.take()); v != "loaded" || err != nil || sent != want {
				t.Errorf("%s: got %q, %v with %q, want %q", key, v, err, sent, want)
			}
		}
		const miss, expected, hit = "get evalsha evalsha", "evalsha evalsha", "get"
		must(aside.GetOrLoad(t.Context(), c, items.Key("warm"), func(context.Context) (string, error) { return "loaded", nil }))
		aside.AwaitFills(c)
		get(items.Key("a"), miss)
		get(items.Key("a"), hit)
		for range 3 {
			if err := aside.Invalidate(t.Context(), c, items.Key("a")); err != nil {
				t.Fatal(err)
			}
			get(items.Key("a"), expected)
			get(items.Key("a"), hit)
		}
		if err := aside.Update(t.Context(), c, func(context.Context) error { return nil }, items.Key("a")); err != nil {
			t.Fatal(err)
		}
		get(items.Key("a"), expected)
		cold := aside.Keyspace{Name: "cold"}
		for i := range 100 {
			must(aside.GetOrLoad(t.Context(), c, cold.Key(fmt.Sprint(i)), func(context.Context) (string, error) { return "loaded", nil }))
			aside.AwaitFills(c)
		}
		get(cold.Key("x"), expected)
		get(items.Key("b"), miss) // the other keyspace is as it was
		before := asideStats(t, c)
		get(cold.Key("x"), "evalsha") // which answers with the value
		if after := asideStats(t, c); after.Hits != before.Hits+1 || after.Misses != before.Misses || after.Loads != before.Loads {
			t.Errorf("a value that the lease request found: %+v, before %+v, want a hit", after, before)
		}
		for range 300 {
			must(aside.GetOrLoad(t.Context(), c, cold.Key("x"), func(context.Context) (string, error) { return "", nil }))
		}
		get(cold.Key("x"), hit)
		get(cold.Key("y"), miss)
	})
}

// A caller that may take a load's result has it when the load ends, and does not wait for the
// fill. A reader right afterwards waits for the fill, and hits; Close waits for it, too.
func TestFills_AreNotWaitedFor(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		load := func(v string) func(context.Context) (string, error) {
			return func(context.Context) (string, error) { return v, nil }
		}
		must(aside.GetOrLoad(t.Context(), c, items.Key("warm"), load("v")))
		aside.AwaitFills(c)
		start := time.Now()
		must(aside.GetOrLoad(t.Context(), c, items.Key("a"), load("v")))
		took := time.Since(start)
		if server.Exists("item:a") {
			t.Fatal("it is stored when the caller has it: this shows nothing")
		}
		before := asideStats(t, c)
		if v, err := aside.GetOrLoad(t.Context(), c, items.Key("a"), load("again")); v != "v" || err != nil {
			t.Errorf("the read right afterwards got %q, %v, want what was loaded", v, err)
		}
		if after := asideStats(t, c); after.Hits != before.Hits+1 || after.Misses != before.Misses || after.Loads != before.Loads {
			t.Errorf("the read right afterwards: %+v, before %+v, want a hit", after, before)
		}
		if !server.Exists("item:a") {
			t.Error("it is not stored")
		}
		start = time.Now()
		must(aside.GetOrLoad(t.Context(), c, items.Key("b"), load("v")))
		if d := time.Since(start); d != took {
			t.Errorf("two misses took %v and %v", took, d)
		}
		if v, ok, err := c.Get(t.Context(), "item:b"); string(v) != `"v"` || !ok || err != nil {
			t.Errorf("Get right afterwards: %q, %v, %v", v, ok, err)
		}
		must(aside.GetOrLoad(t.Context(), c, items.Key("c"), load("v")))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if !server.Exists("item:c") {
			t.Error("Close did not wait for a fill")
		}
		if lease, _ := server.Get("{item:c}:lease"); lease != "" {
			t.Errorf("Close left the lease %q", lease)
		}
	})
}

// slowGets is a client whose answers to GET are late.
type slowGets struct{ on atomic.Bool }

func (*slowGets) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*slowGets) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *slowGets) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if h.on.Load() && cmd.Name() == "get" {
			time.Sleep(50 * time.Millisecond)
		}
		return err
	}
}

// A value whose fill ends after the look that missed it, and before the lease is asked for,
// is a hit.
func TestFills_AreHitsForWhoLooksBeforeTheyEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, l, slow := miniredis.NewMiniRedis(), &line{}, &slowGets{}
		defer server.Close()
		client := redis.NewClient(l.options(server))
		defer client.Close()
		client.AddHook(slow)
		client.AddHook(l)
		c := must(aside.NewRedis(client, aside.Config{}))
		defer c.Close()
		load := func(context.Context) (string, error) { return "v", nil }
		read(t, c, load)
		slow.on.Store(true)
		l.arrives = func(command string) {
			if words := strings.Fields(command); words[0] == "evalsha" && words[2] == "2" { // a fill
				time.Sleep(5 * time.Millisecond)
			}
		}
		key := items.Key("a")
		before := asideStats(t, c)
		must(aside.GetOrLoad(t.Context(), c, key, load))
		if v, err := aside.GetOrLoad(t.Context(), c, key, fails(t)); v != "v" || err != nil {
			t.Errorf("got %q, %v", v, err)
		}
		if after := asideStats(t, c); after.Hits != before.Hits+1 || after.Misses != before.Misses+1 {
			t.Errorf("got %d hits and %d misses, before %d and %d, want one of each more", after.Hits, after.Misses, before.Hits, before.Misses)
		}
	})
}

// A load's result that its waiters cannot take is not joined again while its lease is being
// given back: they load together.
func TestFills_AResultThatIsNotTakenIsNotJoinedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, store := faulty(t, aside.Config{})
		defer c.Close()
		store.SetFault(func(_ context.Context, method string) error {
			if method == "Lease" || method == "Release" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		first, leave := context.WithCancel(t.Context())
		var loads counter
		load := func(context.Context) (string, error) {
			if loads.Add(1) == 1 {
				<-first.Done()
				return "", first.Err()
			}
			return "v", nil
		}
		go aside.GetOrLoad(first, c, room, load)
		time.Sleep(50 * time.Millisecond) // it asks for the lease
		var others sync.WaitGroup
		for range 100 {
			others.Go(func() {
				if got := read(t, c, load); got != "v" {
					t.Errorf("got %q", got)
				}
			})
		}
		time.Sleep(time.Second)
		leave()
		others.Wait()
		if n := loads.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
	})
}

// A value that another process stores after a read has looked, and before it asks for the
// lease, is a hit: the read gets it and loads nothing.
func TestHits_StoredBetweenLookAndLease(t *testing.T) {
	t.Parallel()
	b := &beforeLease{Backend: backendOf(open(t, aside.Config{Type: "memory"}))}
	c := must(aside.New(b, aside.Config{}))
	defer c.Close()
	b.sets(t, items.Key("A"), `"stored"`)
	v, err := aside.GetOrLoad(t.Context(), c, items.Key("A"), fails(t))
	if s := stats(t, c); v != "stored" || err != nil || b.once.Load() != nil || s.Hits != 1 || s.Misses != 0 {
		t.Errorf("got %q, %v, with %d hits and %d misses; want the stored value and one hit", v, err, s.Hits, s.Misses)
	}
}
