package proof

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

// These tests hold a near cache to its part of promise P1 on a Cluster and behind a
// Sentinel, also after a failover: a value that another process has changed is soon not served
// any more.

func near(t *testing.T, env map[string]string) (c, other aside.Cache) {
	t.Helper()
	cfg := configOf(t, env)
	other = open(t, cfg)
	cfg.NearMaxBytes = 1 << 20
	return open(t, cfg), other
}

func value(t *testing.T, c aside.Cache, id string, loads int) int {
	t.Helper()
	v, err := aside.GetOrLoad(t.Context(), c, aside.ChatMessages(id), func(context.Context) (int, error) { return loads, nil })
	must(t, err)
	return v
}

// keeps waits until the id's hits are near.
func keeps(t *testing.T, c aside.Cache, id string, version int) {
	t.Helper()
	redistest.Eventually(t, "the hits of "+id+" are near", func() bool {
		before, err := c.Status(t.Context())
		for range 5 {
			value(t, c, id, version)
		}
		after, err2 := c.Status(t.Context())
		return err == nil && err2 == nil && after.Stats.NearHits >= before.Stats.NearHits+5
	})
}

func becomes(t *testing.T, c aside.Cache, id string, want int) {
	t.Helper()
	redistest.Eventually(t, fmt.Sprintf("%s is %d", id, want), func() bool { return value(t, c, id, want) == want })
}

func TestNear_Cluster(t *testing.T) {
	t.Parallel()
	servers := redistest.StartCluster(t)
	c, other := near(t, clusterEnv(servers))
	client := redistest.ClusterClient(t, servers)
	for i := range 30 { // on all masters
		keeps(t, c, strconv.Itoa(i), 1)
	}
	for i := range 30 {
		must(t, aside.Invalidate(t.Context(), other, aside.ChatMessages(strconv.Itoa(i))))
		becomes(t, c, strconv.Itoa(i), 2)
	}
	killMasterOf(t, servers, client, aside.ChatMessages("1").String())
	for i := range 30 {
		redistest.Eventually(t, "the Cluster takes writes again", func() bool {
			return aside.Update(t.Context(), other, func(context.Context) error { return nil }, aside.ChatMessages(strconv.Itoa(i))) == nil &&
				!aside.Pending(other, aside.ChatMessages(strconv.Itoa(i)))
		})
		becomes(t, c, strconv.Itoa(i), 3)
	}
	keeps(t, c, "1", 3)
}

func TestNear_Sentinel(t *testing.T) {
	t.Parallel()
	sentinel, master := redistest.StartSentinel(t, 2)
	c, other := near(t, map[string]string{"REDIS_HOST": sentinel.Addr, "REDIS_SENTINEL_MASTER": "main"})
	keeps(t, c, "1", 1)
	must(t, aside.Invalidate(t.Context(), other, aside.ChatMessages("1")))
	becomes(t, c, "1", 2)
	keeps(t, c, "1", 2)
	master.Kill()
	redistest.Eventually(t, "another master takes writes", func() bool {
		return aside.Update(t.Context(), other, func(context.Context) error { return nil }, aside.ChatMessages("1")) == nil &&
			!aside.Pending(other, aside.ChatMessages("1"))
	})
	becomes(t, c, "1", 3)
	keeps(t, c, "1", 3)
}

// The time from a write by another process until its invalidation message arrives is the part
// of promise P1 that a near cache gives up. The promised bound is for connections that hang:
// two seconds, and no value is served for more than ten.
func TestNear_HowOldAReadMayBe(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	c, other := near(t, map[string]string{"REDIS_HOST": r.Addr})
	keeps(t, c, "1", 0)
	var mu sync.Mutex
	settled := []time.Time{time.Now()} // when the update to each version returned; the last one is the database's
	newest := 0                        // committed
	load := func(context.Context) (int, error) { mu.Lock(); defer mu.Unlock(); return newest, nil }
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if err := aside.Update(context.Background(), other, func(context.Context) error {
				mu.Lock()
				defer mu.Unlock()
				newest++
				return nil
			}, aside.ChatMessages("1")); err != nil {
				t.Error(err)
			}
			mu.Lock()
			settled = append(settled, time.Now())
			mu.Unlock()
		}
	})
	reads, old, oldest := 0, 0, time.Duration(0)
	for start := time.Now(); time.Since(start) < 3*time.Second; reads++ {
		mu.Lock()
		known := len(settled)
		mu.Unlock()
		began := time.Now()
		got, err := aside.GetOrLoad(t.Context(), c, aside.ChatMessages("1"), load)
		must(t, err)
		if got+1 < known {
			mu.Lock()
			age := began.Sub(settled[got+1])
			mu.Unlock()
			old, oldest = old+1, max(oldest, age)
			if age > 12*time.Second {
				t.Fatalf("read %d, %v after it had changed", got, age)
			}
		}
	}
	close(stop)
	writer.Wait()
	s, err := c.Status(t.Context())
	must(t, err)
	if s.Stats.NearHits < 1000 {
		t.Errorf("%d near hits: it shows nothing", s.Stats.NearHits)
	}
	t.Logf("%d writes, %d reads, %d near; %d got a value from before a change that had returned, at most %v before", len(settled)-1, reads, s.Stats.NearHits, old, oldest)
}
