package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// manyKeys returns the numbers of keys to invalidate in one call.
func (b *bench) manyKeys() []int { return []int{b.scale(10_000, 300), b.scale(200_000, 600)} }

func manyColumn(keys int) string { return strconv.Itoa(keys) + " keys" }

// largeWriteJobs returns jobs that invalidate very many keys in one call. Libraries without
// such a call have no row.
func (b *bench) largeWriteJobs() []job {
	var jobs []job
	for _, p := range peersOf("writes", peer.throughRedis) {
		jobs = append(jobs, job{name: "writes/large/" + p.name, run: func(ctx context.Context, b *bench) error {
			return b.largeWrites(ctx, p)
		}})
	}
	return jobs
}

// largeWrites times the invalidation, and the GETs of another client meanwhile: Redis runs one
// command at a time, so a command over all keys would stop everyone.
func (b *bench) largeWrites(ctx context.Context, p peer) error {
	s := setup{addr: b.scratch.addr, prefix: "large", source: &source{kind: b.kinds()[0]}, entries: 10_000, maxBytes: 64 << 20}
	st, err := p.open(s)
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	many, ok := st.(manyInvalidator)
	if !ok {
		return nil
	}
	other := redis.NewClient(&redis.Options{Addr: b.scratch.addr, ReadTimeout: time.Minute})
	defer other.Close()
	for _, n := range b.manyKeys() {
		keys := ids(n)
		if err := fillByCopies(ctx, other, p, s, keys); err != nil {
			return err
		}
		took, slowest, err := slowestGet(ctx, other, func() error { return many.InvalidateMany(ctx, keys) })
		if err != nil {
			return err
		}
		// Some libraries leave a mark for a few seconds in place of the value.
		if left := other.PTTL(ctx, s.key(keys[n-1])).Val(); left > ttl/2 {
			return fmt.Errorf("after an invalidation of %d keys the last still has a value, for %v", n, left)
		}
		b.results.add("writes/many", p.name, manyColumn(n), millis(took))
		b.results.add("writes/many", p.name, manyColumn(n)+" worst", millis(slowest))
	}
	return nil
}

// fillByCopies stores the first of keys through p and has Redis copy it to the others. The
// result is the same as if p had stored each, and is there sooner.
func fillByCopies(ctx context.Context, c *redis.Client, p peer, s setup, keys []string) error {
	if err := fill(ctx, p, s.source.kind, s, keys[:1]); err != nil {
		return err
	}
	for some := range slices.Chunk(keys[1:], 10_000) {
		copies, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for _, id := range some {
				pipe.Copy(ctx, s.key(keys[0]), s.key(id), 0, true)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		if copies[0].(*redis.IntCmd).Val() != 1 {
			return fmt.Errorf("%s is not in Redis after a read through %s", s.key(keys[0]), p.name)
		}
	}
	return nil
}

// slowestGet runs do, and returns the time that it took and the time of the slowest GET that c
// sent meanwhile, one after the other.
func slowestGet(ctx context.Context, c *redis.Client, do func() error) (took, slowest time.Duration, err error) {
	get := func() (time.Duration, error) {
		began := time.Now()
		err := c.Get(ctx, "nothing").Err()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		return time.Since(began), err
	}
	if _, err := get(); err != nil { // connects
		return 0, 0, err
	}
	var over atomic.Bool
	watched := make(chan error, 1)
	go func() {
		for !over.Load() {
			d, err := get()
			if err != nil {
				watched <- err
				return
			}
			slowest = max(slowest, d)
		}
		watched <- nil
	}()
	began := time.Now()
	err = do()
	took = time.Since(began)
	over.Store(true)
	err = errors.Join(err, <-watched) // slowest is final then
	return took, slowest, err
}
