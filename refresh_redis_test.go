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
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

// Reads of an old value send nothing but their question while a lease stands beside it, and
// else a script a second at most.
func TestRefresh_OldHitsAskForALeaseSeldom(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, lines [2]*line) {
		get(t, one, aged, (&numbered{}).load, "v1")
		aside.AwaitFills(one)
		time.Sleep(time.Minute)
		n := &numbered{takes: 10 * time.Second}
		n.fails.Store(true)
		get(t, one, aged, n.load, "v1")
		time.Sleep(100 * time.Millisecond)
		scripts := func() (n int) {
			lines[1].take()
			for range 500 {
				get(t, two, aged, fails(t), "v1")
				time.Sleep(time.Millisecond)
			}
			for _, command := range lines[1].take() {
				if strings.HasPrefix(command, "eval") {
					n++
				}
			}
			return n
		}
		if n := scripts(); n != 0 {
			t.Errorf("%d scripts for 500 reads while another process has the lease, want none", n)
		}
		time.Sleep(8500 * time.Millisecond)
		if n := scripts(); n == 0 || n > 3 { // they take 1.5s, and the first of them does not know the script
			t.Errorf("%d scripts for 500 reads after a refresh has failed, want one a second", n)
		}
	})
}

// RefreshWait is for another process's refresh, too, from when this one learns of it.
func TestRefresh_WaitsForAnotherProcess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ wait, takes, least, most time.Duration }{
		{time.Second, 500 * time.Millisecond, 400 * time.Millisecond, 900 * time.Millisecond},
		{time.Second, 10 * time.Second, time.Second, 1100 * time.Millisecond},
		{-1, 10 * time.Second, 9 * time.Second, 11 * time.Second},
	} {
		twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, _ [2]*line) {
			s := aged
			n := &numbered{}
			get(t, one, s, n.load, "v1")
			aside.AwaitFills(one)
			time.Sleep(time.Minute)
			n.takes = c.takes
			get(t, one, s, n.load, "v1")
			time.Sleep(50 * time.Millisecond)
			s.RefreshWait = c.wait
			want := "v2"
			if c.wait > 0 && c.takes > c.wait {
				want = "v1"
			}
			start := time.Now()
			get(t, two, s, fails(t), want)
			if took := time.Since(start); took < c.least || took > c.most {
				t.Errorf("RefreshWait %v: a read waited %v for a load of %v, want %v to %v", c.wait, took, c.takes, c.least, c.most)
			}
			if want == "v1" {
				start = time.Now()
				get(t, two, s, fails(t), want)
				if took := time.Since(start); took > 100*time.Millisecond {
					t.Errorf("the next read waited %v, want none", took)
				}
			}
			if s := stats(t, two); s.Refreshes != 0 {
				t.Errorf("%d refreshes in the other process, want none", s.Refreshes)
			}
			time.Sleep(11 * time.Second)
		})
	}
}

// Values that are stored together are neither refreshed together nor adopted anew when their
// mark is over.
func TestRefresh_Jitter(t *testing.T) {
	t.Parallel()
	cfg := aside.Config{Jitter: 0.5}
	jittered := func(t *testing.T, c aside.Cache) {
		const n = 50
		s := aside.Keyspace{Name: "aged", TTL: 20 * time.Minute, RefreshAfter: 9 * time.Minute} // a minute before the first ends
		var loads atomic.Int64
		all := func() {
			for i := range n {
				must(aside.GetOrLoad(t.Context(), c, s.Key(fmt.Sprint(i)), func(context.Context) (string, error) { loads.Add(1); return "v", nil }))
				aside.AwaitFills(c)
				time.Sleep(10 * time.Millisecond)
			}
		}
		all()
		time.Sleep(4*time.Minute + 29*time.Second)
		if all(); loads.Load() != n {
			t.Errorf("%d loads before half of RefreshAfter, want %d", loads.Load(), n)
		}
		time.Sleep(135 * time.Second)
		all()
		if half := loads.Load() - n; half < n/10 || half > n-n/10 {
			t.Errorf("%d of %d were refreshed after three quarters of RefreshAfter, want about half", half, n)
		}
		time.Sleep(150 * time.Second)
		all()
		if got := loads.Load(); got < 2*n {
			t.Errorf("%d loads after RefreshAfter, want each value twice at least", got)
		}
		before := stats(t, c).Misses
		for range 60 {
			time.Sleep(20 * time.Second)
			all()
		}
		if s := stats(t, c); s.Misses != before {
			t.Errorf("%d misses, want none of values that are read every 20s", s.Misses-before)
		}
	}
	synctest.Test(t, func(t *testing.T) { cfg := cfg; cfg.Type = "memory"; jittered(t, open(t, cfg)) })
	twoAged(t, cfg, func(t *testing.T, _ *miniredis.Miniredis, c, _ aside.Cache, _ [2]*line) { jittered(t, c) })
}

// A value that this library has marked is refreshed by the first read after its mark, also
// where jitter has shortened the mark more than the value's own time: it is not taken for
// another program's, which has no mark.
func TestRefresh_JitteredMarkThatHasEnded(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{Jitter: 0.5}, func(t *testing.T, server *miniredis.Miniredis, c, _ aside.Cache, _ [2]*line) {
		s := aside.Keyspace{Name: "aged", TTL: 20 * time.Minute, RefreshAfter: 9 * time.Minute}
		for i := range 20 {
			key, n := s.Key(fmt.Sprint(i)), &numbered{}
			read := func() { must(aside.GetOrLoad(t.Context(), c, key, n.load)) }
			read()
			aside.AwaitFills(c)
			mark := server.TTL("{" + key.String() + "}:lease")
			if mark <= 0 {
				t.Fatalf("%v: the mark ends in %v", key, mark)
			}
			time.Sleep(mark + time.Millisecond)
			read()
			time.Sleep(100 * time.Millisecond)
			if got := n.Load(); got != 2 {
				t.Errorf("%v: %d loads after a mark of %v, want 2", key, got, mark)
			}
		}
	})
}

// Another program stores a newer value while a refresh runs: a reader who has seen that, and
// waits for the refresh, does not get the older one.
func TestRefresh_WaitsAndKeepsToWhatItSaw(t *testing.T) {
	t.Parallel()
	twoAged(t, aside.Config{}, func(t *testing.T, server *miniredis.Miniredis, c, _ aside.Cache, _ [2]*line) {
		s := aged
		s.RefreshWait = -1
		n := &numbered{}
		get(t, c, s, n.load, "v1")
		aside.AwaitFills(c)
		time.Sleep(2 * time.Minute)
		n.takes = time.Second
		var group sync.WaitGroup
		group.Go(func() { get(t, c, s, n.load, "v2") })
		time.Sleep(500 * time.Millisecond)
		_ = server.Set(s.Key("A").String(), `"v3"`)
		server.SetTTL(s.Key("A").String(), time.Minute)
		get(t, c, s, fails(t), "v3")
		group.Wait()
		aside.AwaitFills(c)
		if got, _ := server.Get(s.Key("A").String()); got != `"v3"` {
			t.Errorf("stored is %s, want what the other program has stored", got)
		}
	})
}

// A near cache asks whether a value that it keeps is to be refreshed no more than once a
// second, and hears of what another process has refreshed.
func TestRefresh_NearCache(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := aside.Keyspace{Name: "chat_messages", TTL: time.Hour, RefreshAfter: time.Minute}
	c, other := nearCache(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})
	key := s.Key("A").String()
	redistest.Eventually(t, "a hundred near hits of an old value", func() bool {
		if err := backendOf(other).Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if err := other.Set(t.Context(), key, []byte(`"old"`), 30*time.Minute); err != nil {
			t.Fatal(err)
		}
		// It is held by somebody who dies or takes long.
		l := must(backendOf(other).Lease(t.Context(), key, backend.LeaseRequest{TTL: time.Hour, Refresh: &backend.Refresh{Over: 59 * time.Minute, Within: time.Hour}}))
		if l.State != backend.Granted {
			t.Fatal(l)
		}
		get(t, c, s, fails(t), "old")
		before, old, start := asideStats(t, c).NearHits, asideStats(t, c).StaleHits, time.Now()
		scripts := evals(t, r)
		for range 100 {
			get(t, c, s, fails(t), "old")
		}
		if asideStats(t, c).NearHits != before+100 {
			return false // the news of the Set came in between
		}
		if n := asideStats(t, c).StaleHits - old; n != 100 {
			t.Errorf("%d of 100 near hits were of an old value, want all", n)
		}
		if n, most := evals(t, r)-scripts, 1+int64(time.Since(start)/time.Second)+1; n > most {
			t.Errorf("%d scripts for 100 near hits in %v, want %d at most", n, time.Since(start), most)
		}
		if !must(backendOf(other).Fill(t.Context(), key, l.Token, backend.Fill{Value: []byte(`"new"`), TTL: time.Hour, FreshFor: time.Hour})) {
			t.Error("the fill was refused")
		}
		return true
	})
	redistest.Eventually(t, "the other process's value is seen", func() bool {
		v, err := aside.GetOrLoad(t.Context(), c, s.Key("A"), fails(t))
		return v == "new" && err == nil
	})
}

// Reads and writes of one key, in one process and two, with values that are refreshed all
// the time.
func TestRefresh_Race(t *testing.T) {
	t.Parallel()
	cfg := aside.Config{RefreshAfter: map[string]time.Duration{"chat_messages": time.Millisecond}}
	storingWith(t, cfg, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		race(t, []aside.Cache{newCache(t)}, time.Second, false)
	})
	t.Run("two processes", func(t *testing.T) {
		t.Parallel()
		r := redistest.Start(t)
		for range 5 { // a slow machine has a value invalidated before it is old
			_ = r.Client().FlushDB(t.Context()) // the versions begin anew
			one, two := overRedis(t, r.Addr, cfg), overRedis(t, r.Addr, cfg)
			if race(t, []aside.Cache{one, two}, time.Second, false); stats(t, one).Refreshes+stats(t, two).Refreshes >= 5 {
				return
			}
		}
		t.Log("hardly a value was refreshed: the race has shown little")
	})
}

// A user who may not read lease keys is served what is there, and nothing is refreshed.
func TestRefresh_AUserWhoMayNotReadLeaseKeys(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	r.SetUser("some", "on", ">pw", "+@all", "resetkeys", "~aged:*", "~cancel:*", "&*")
	admin.Set(t.Context(), aged.Key("A").String(), `"old"`, time.Second)
	admin.Persist(t.Context(), aged.Key("A").String())
	for _, wait := range []time.Duration{0, -1} {
		s := aged
		s.RefreshWait = wait
		c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "some", Password: "pw"}})
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() { get(t, c, s, fails(t), "old") })
		}
		group.Wait()
		if n := stats(t, c); n.Refreshes != 0 || n.Degraded != 0 || n.Hits != 50 {
			t.Errorf("%+v, want 50 hits and no trouble", n)
		}
	}
}

// A user who may not run scripts is served what is there, too.
func TestRefresh_AUserWhoMayNotRunScripts(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	r.SetUser("some", "on", ">pw", "+@all", "-eval", "-evalsha", "~*", "&*")
	admin.Set(t.Context(), aged.Key("A").String(), `"old"`, 0)
	for _, wait := range []time.Duration{0, time.Second, -1} {
		s := aged
		s.RefreshWait = wait
		c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "some", Password: "pw"}})
		for range 50 {
			get(t, c, s, fails(t), "old")
		}
		if n := stats(t, c); n.Refreshes != 0 || n.StaleHits != 50 {
			t.Errorf("%+v, want 50 hits of an old value", n)
		}
	}
}

// A client that sends a request again, as the answer was lost, gets the lease that the first
// one was granted.
func TestRefresh_ALeaseWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	client.AddHook(sendTwice{})
	c := must(aside.NewRedis(client, aside.Config{Timeout: 20 * time.Second}))
	t.Cleanup(func() { c.Close() })
	_ = server.Set(aged.Key("A").String(), `"old"`)
	s := aged
	s.RefreshWait = -1
	get(t, c, s, func(context.Context) (string, error) { return "new", nil }, "new")
	aside.AwaitFills(c)
	if got, _ := server.Get(s.Key("A").String()); got != `"new"` {
		t.Errorf("stored is %s, want the new value", got)
	}
}

// evals is how many scripts the server has carried out.
func evals(t *testing.T, r *redistest.Server) (n int64) {
	for line := range strings.Lines(r.Client().Info(t.Context(), "commandstats").Val()) {
		for _, name := range []string{"cmdstat_eval:calls=", "cmdstat_evalsha:calls="} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				var calls int64
				fmt.Sscan(strings.Split(rest, ",")[0], &calls)
				n += calls
			}
		}
	}
	return n
}
