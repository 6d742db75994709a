package main

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// farTrip is what a round trip to a Redis far away takes.
	farTrip = time.Millisecond
	// farHits are the hits before a miss that is not expected: most reads then hit.
	farHits = 3
	// farReads are how many misses are timed in each round.
	farReads = 100
)

// farWaysOf are what is done before a read of id that misses.
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

// farJobs read keys that are not there from a Redis that is far away.
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

// farMisses adds the median of some misses, one at a time.
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
			return fmt.Errorf("a read of a key that is not there was %d loads", n)
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

// tripOf returns the µs of a PING through px: the delay, and the hops on the way.
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
