package proof

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
)

// The cost of a call is its time beyond that of its own load. These tests run in virtual time,
// in which computing takes none, so they measure waiting alone.

const (
	ownLoad = 5 * time.Millisecond
	outage  = 10 * time.Second
	rate    = 200 // calls a second, each of a key of its own
)

type costs []time.Duration

func (c costs) quantile(q float64) time.Duration { return c[int(q*float64(len(c)-1))] }

// processOn returns a Cache on a Redis behind a network of its own.
func processOn(t *testing.T, server *miniredis.Miniredis, cfg aside.Config) (aside.Cache, *network) {
	n := &network{seed: 1, alive: &life{died: make(chan struct{}), over: make(chan struct{})}, state: weather{Latency: 1},
		sent: make(map[string]uint64), trace: func(string, ...any) {}}
	client := redis.NewClient(inMemory(server))
	client.AddHook(n)
	cfg.Logger = slog.New(slog.DiscardHandler)
	c, err := aside.NewRedis(client, cfg)
	must(t, err)
	t.Cleanup(func() { c.Close(); client.Close() })
	return c, n
}

// during calls GetOrLoad at the rate for an outage's time.
func during(t *testing.T, c aside.Cache, prefix string) (found costs) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range int(outage/time.Second) * rate {
		wg.Go(func() {
			start := time.Now()
			v, err := aside.GetOrLoad(context.Background(), c, tableSpace.Key(fmt.Sprint(prefix, i)), func(context.Context) (int, error) {
				time.Sleep(ownLoad)
				return i, nil
			})
			if v != i || err != nil {
				t.Errorf("call %d: %d, %v", i, v, err)
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, max(0, time.Since(start)-ownLoad))
		})
		time.Sleep(time.Second / rate)
	}
	wg.Wait()
	slices.Sort(found)
	return found
}

// No call in an outage pays more than one budget, and of a hundred ninety-nine pay
// nothing.
func TestCosts_Reads(t *testing.T) {
	t.Parallel()
	const budget = 250 * time.Millisecond
	t.Logf("%-42s %10s %10s %10s", "", "p50", "p99", "worst")
	for name, w := range map[string]weather{
		"healthy":                       {Latency: 1},
		"refused":                       {Latency: 1, Refused: true},
		"black hole":                    {Latency: 1, Hole: true},
		"half of the commands lost":     {Latency: time.Millisecond, Lost: 0.5},
		"slow (50 ms a command)":        {Latency: 1, Slow: 50 * time.Millisecond},
		"slower than the budget":        {Latency: 1, Slow: 300 * time.Millisecond},
		"black hole, second 10 s of it": {Latency: 1, Hole: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := miniredis.NewMiniRedis()
			server.ClockTTL(true)
			c, n := processOn(t, server, aside.Config{})
			during(t, c, "warm")
			n.set(w)
			if name == "black hole, second 10 s of it" {
				during(t, c, "open")
			}
			cost := during(t, c, "x")
			t.Logf("%-42s %10v %10v %10v", name, cost.quantile(0.5), cost.quantile(0.99), cost.quantile(1))
			limit := budget
			if w.Lost > 0 {
				// Commands that succeed do not count, nor does the wait for another's lease.
				// One that was granted to a late copy of a request lasts 2 s.
				limit += 2 * time.Second
			}
			if cost.quantile(1) > limit && (w.Slow == 0 || w.Slow > budget) {
				t.Errorf("%s: a call paid %v, more than one budget", name, cost.quantile(1))
			}
			if down := w.Refused || w.Hole || w.Slow > budget; down && cost.quantile(0.99) >= time.Millisecond {
				t.Errorf("%s: one call in a hundred paid %v or more", name, cost.quantile(0.99))
			}
			n.set(calm)
			time.Sleep(time.Second)
			close(n.alive.over)
			c.Close()
			server.Close()
		})
	}
}

// rowOfKey finds the value keys in the trace of a command.
var rowOfKey = regexp.MustCompile(` row:(\d+)`)

// Invalidations are queued while Redis is unavailable and delivered when it answers again, the
// oldest first, and none is lost. Meanwhile no caller gets a value of their keys from the cache.
func TestCosts_Invalidations(t *testing.T) {
	t.Parallel()
	for name, queueSize := range map[string]int{"all have room": 0, "the queue's bound is reached": 1000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const keys = 10_000
				server := miniredis.NewMiniRedis()
				server.ClockTTL(true)
				space := aside.Keyspace{Name: "row", TTL: time.Hour}
				c, n := processOn(t, server, aside.Config{QueueSize: queueSize, Keyspaces: []aside.Keyspace{space}})
				var mu sync.Mutex
				var delivered []int
				n.trace = func(_ string, args ...any) {
					text := fmt.Sprint(args...)
					if !strings.HasPrefix(text, "[eval delete ") && !strings.HasPrefix(text, "[evalsha delete ") || args[1] != nil {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					for _, m := range rowOfKey.FindAllStringSubmatch(text, -1) {
						row, _ := strconv.Atoi(m[1])
						delivered = append(delivered, row)
					}
				}
				for i := range keys {
					server.Set(space.Key(fmt.Sprint(i)).String(), "0") // the old value
				}
				n.set(weather{Latency: 1, Hole: true})
				var worst time.Duration
				for i := range keys {
					start := time.Now()
					must(t, aside.Invalidate(context.Background(), c, space.Key(fmt.Sprint(i))))
					worst = max(worst, time.Since(start))
				}
				if worst > 250*time.Millisecond {
					t.Errorf("an invalidation took %v, more than one budget", worst)
				}
				s, _ := c.Status(context.Background())
				if want := min(keys, max(queueSize, 0)); queueSize > 0 && (s.Queued != want || !s.Overflowed) || queueSize == 0 && s.Queued != keys {
					t.Errorf("%d are queued, overflowed: %v", s.Queued, s.Overflowed)
				}
				t.Logf("worst %v, %d queued, overflowed: %v", worst, s.Queued, s.Overflowed)
				for i := 0; i < keys; i += 97 {
					readsNew(t, c, space.Key(fmt.Sprint(i)))
				}
				n.set(calm)
				back := time.Now()
				var reads, trusting int
				var wg sync.WaitGroup
				for s, _ = c.Status(context.Background()); s.Queued > 0 || s.Overflowed; s, _ = c.Status(context.Background()) {
					for range 20 {
						key := space.Key(fmt.Sprint(reads * 97 % keys))
						wg.Go(func() { readsNew(t, c, key) })
						if reads++; s.Breaker == "closed" {
							trusting++ // Redis, were it not for the queue
						}
					}
					if time.Sleep(time.Millisecond); time.Since(back) > time.Minute {
						t.Fatalf("a minute after Redis is back %d are queued, overflowed: %v", s.Queued, s.Overflowed)
					}
				}
				t.Logf("delivered %v after Redis was back; %d reads meanwhile, %d of them with the breaker closed", time.Since(back), reads, trusting)
				if trusting == 0 {
					t.Error("nothing was read between Redis's return and the end of the delivery")
				}
				wg.Wait()
				if !slices.IsSorted(delivered) || len(delivered) == 0 {
					t.Error("they were not delivered in the order of their writes")
				}
				for _, key := range server.Keys() { // those read meanwhile may be there again
					if v, err := server.Get(key); v != "1" || err != nil {
						t.Errorf("%s is left: %q, %v", key, v, err)
					}
				}
				close(n.alive.over)
				c.Close()
				server.Close()
			})
		})
	}
}

// readsNew reads a key whose row is 1.
func readsNew(t *testing.T, c aside.Cache, key aside.Key) {
	v, err := aside.GetOrLoad(context.Background(), c, key, func(context.Context) (int, error) { return 1, nil })
	if v != 1 || err != nil {
		t.Errorf("%v is %d, %v", key, v, err)
	}
}
