package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// farTrip is the time of a round trip to a Redis that is far away.
	farTrip = time.Millisecond
	// farHits is the number of hits before each miss that should not be expected. Most recent
	// reads are then hits.
	farHits = 3
	// farReads is the number of misses that are timed in each round.
	farReads = 100
)

// farWaysOf returns the ways to come to a miss. The op of each runs before a read that misses,
// and is not timed. aside has two, as it sends less for a miss that it expects.
func farWaysOf(p peer) []way {
	afterHits := way{p.name, func(ctx context.Context, st store, _ string) error {
		for range farHits {
			if _, err := st.Bytes(ctx, "hit"); err != nil {
				return err
			}
		}
		return nil
	}}
	if p.name != "aside" {
		return []way{afterHits}
	}
	afterHits.name = "aside, not expected"
	return []way{
		{"aside, expected", func(ctx context.Context, st store, id string) error { return st.Invalidate(ctx, id) }},
		afterHits,
	}
}

// farJobs returns jobs that read missing keys through a proxy that delays.
func (b *bench) farJobs() []job {
	var jobs []job
	for _, p := range peersOf("misses", peer.throughRedis) {
		for _, w := range farWaysOf(p) {
			jobs = append(jobs, job{
				name: "misses/far/" + w.name,
				run:  func(ctx context.Context, b *bench) error { return b.farMisses(ctx, p, w) },
			})
		}
	}
	return jobs
}

// farMisses reads missing keys one at a time and adds the median.
func (b *bench) farMisses(ctx context.Context, p peer, w way) error {
	px, err := startProxy(b.scratch.addr, farTrip/2)
	if err != nil {
		return err
	}
	defer px.close()
	src := &source{kind: b.kinds()[0]}
	st, err := p.open(setup{addr: px.addr, prefix: "far", source: src, entries: 10_000, maxBytes: 64 << 20})
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	var took []float64
	const first = 5 // connect, and send scripts
	for i := range first + b.scale(farReads, farReads/50) {
		id := idOf(int64(i))
		if err := w.op(ctx, st, id); err != nil {
			return err
		}
		src.loads.Store(0)
		began := time.Now()
		if err := src.kind.read(ctx, st, id); err != nil {
			return err
		}
		if i >= first {
			took = append(took, micros(time.Since(began)))
		}
		if n := src.loads.Load(); n != 1 {
			return fmt.Errorf("the read of a missing key made %d loads, want 1", n)
		}
	}
	trip, err := tripOf(ctx, px)
	if err != nil {
		return err
	}
	wait, _ := median(took)
	b.results.add("misses/far", w.name, "wait", wait)
	b.results.add("misses/far", w.name, "trips", wait/trip)
	return nil
}

// tripOf returns the median of a PING through px in µs: the delay, and the proxy's own time.
func tripOf(ctx context.Context, px *proxy) (float64, error) {
	c := redis.NewClient(&redis.Options{Addr: px.addr})
	defer c.Close()
	var took []float64
	for range 50 {
		began := time.Now()
		if err := c.Ping(ctx).Err(); err != nil {
			return 0, err
		}
		took = append(took, micros(time.Since(began)))
	}
	trip, _ := median(took)
	return trip, nil
}
