package aside_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

func itemKeys(name string, n int) (keys []aside.Key) {
	for i := range n {
		keys = append(keys, items.Key(fmt.Sprint(name, i)))
	}
	return keys
}

func TestMissesAtOnceShareRoundTrips(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		keys := itemKeys("cold", 300)
		start := time.Now()
		ask(t, c, keys...)
		if d := time.Since(start); d > 20*time.Millisecond {
			t.Errorf("misses of three round trips of 2ms took %v", d)
		}
		sent := l.take()
		if len(sent) > 100 {
			t.Errorf("300 misses were sent as %d commands: %q", len(sent), sent)
		}
		for _, text := range sent {
			var n int
			if _, err := fmt.Sscanf(text, "pipeline of %d", &n); err == nil && n > 64 {
				t.Errorf("%d scripts went together", n)
			}
		}
		for _, key := range keys {
			if got, _ := server.Get(key.String()); got != `"loaded"` {
				t.Errorf("%s is stored as %q", key, got)
			}
		}
	})
}

// Large values are stored few at a time.
func TestLargeValuesAreStoredFewAtATime(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		large := func(context.Context) (string, error) {
			time.Sleep(20 * time.Millisecond)
			return strings.Repeat("x", 100_000), nil
		}
		var wg sync.WaitGroup
		for _, key := range itemKeys("large", 100) {
			wg.Go(func() { must(aside.GetOrLoad(t.Context(), c, key, large)) })
		}
		time.Sleep(15 * time.Millisecond)
		l.take()
		wg.Wait()
		for _, text := range l.take() {
			if strings.HasPrefix(text, "pipeline") && text != "pipeline of 1" && text != "pipeline of 2" {
				t.Errorf("of values of 100 kB, a %s", text)
			}
		}
	})
}

// However many leases are asked for when Redis hangs, each call pays one budget at
// most.
func TestP5_AHungPipelineCostsOneBudget(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		time.AfterFunc(3*time.Millisecond, func() { l.hang(true) }) // the reads are over
		start := time.Now()
		ask(t, c, itemKeys("cold", 500)...)
		if d := time.Since(start); d > 255*time.Millisecond {
			t.Errorf("the last call took %v", d)
		}
		l.hang(false)
		time.Sleep(time.Second)
		warm := itemKeys("warm", 1)
		ask(t, c, warm...)
		if got, _ := server.Get(warm[0].String()); got != `"loaded"` {
			t.Errorf("when Redis is back, %q is stored", got)
		}
	})
}

// A Redis that is too slow for what it is asked is not asked for leases that nobody
// waits for any more.
func TestLeasesThatNobodyWaitsForAreNotAskedFor(t *testing.T) {
	t.Parallel()
	overLine(t, aside.Config{}, func(t *testing.T, c aside.Cache, l *line, server *miniredis.Miniredis) {
		l.arrives = func(text string) {
			if strings.HasPrefix(text, "pipeline") || strings.HasPrefix(text, "eval") {
				time.Sleep(200 * time.Millisecond)
			}
		}
		ask(t, c, itemKeys("cold", 4000)...)
		time.Sleep(time.Second)
		n := 0
		for _, text := range l.take() {
			if strings.HasPrefix(text, "pipeline") {
				n++
			}
		}
		if n > 40 { // of 62; there are 16 lanes
			t.Errorf("%d times leases were asked for", n)
		}
	})
}

// missTogether has keys miss at once, and returns how many were not stored.
func missTogether(t *testing.T, c aside.Cache, client *redis.Client, keys []aside.Key) (missing int) {
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			v, err := aside.GetOrLoad(t.Context(), c, key, func(context.Context) (string, error) { return "loaded", nil })
			if v != "loaded" || err != nil {
				t.Errorf("%s is %q, %v", key, v, err)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if client.Get(t.Context(), key.String()).Val() != `"loaded"` {
			missing++
		}
	}
	return missing
}

// A Redis that has forgotten the scripts, as after a restart, is told them, and
// each of those that went together is carried out.
func TestScriptsThatRedisForgot(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{server.Addr()}}})
	for round := range 50 {
		forget := make(chan struct{})
		go func() { defer close(forget); client.ScriptFlush(t.Context()) }()
		if n := missTogether(t, c, client, itemKeys(fmt.Sprint(round, "-"), 40)); n > 0 {
			t.Fatalf("%d of 40 values were not stored", n)
		}
		<-forget
	}
}

// Where a Redis user has no right to one of the leases, the others are not harmed.
func TestScriptsOfAUserWithFewRights(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	admin := r.Client()
	admin.Do(t.Context(), "ACL", "SETUSER", "some", "on", ">pw", "+@all", "~item:*", "~{item:ok*")
	c := open(t, aside.Config{Timeout: 20 * time.Second, Redis: aside.Redis{Hosts: []string{r.Addr}, Username: "some", Password: "pw"}})
	for round := range 20 {
		keys := itemKeys(fmt.Sprint("ok", round, "-"), 40)
		keys[20] = items.Key("forbidden")
		if n := missTogether(t, c, admin, keys); n != 1 {
			t.Errorf("%d of 40 values were not stored", n)
		}
	}
}
