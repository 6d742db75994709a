package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
)

// errMissed is returned if reads that should hit made loads.
var errMissed = errors.New("hits were expected, but values were loaded")

// load is a way to read: the number of goroutines, and one key or many.
type load struct {
	goroutines int
	many       bool
}

// loads are the columns of hits from Redis and in near caches.
var loads = []load{{1, false}, {16, false}, {128, false}, {1, true}, {16, true}, {128, true}}

func (l load) column() string {
	if l.many {
		return fmt.Sprintf("%d, many keys", l.goroutines)
	}
	return fmt.Sprintf("%d, one key", l.goroutines)
}

// hitJobs returns jobs that read existing values from Redis and from near caches. Both are
// visited in the same rounds, so that their figures can be compared.
func (b *bench) hitJobs() []job {
	var jobs []job
	for i, p := range peersOf("hits", func(p peer) bool { return !p.memory }) {
		for _, k := range b.kinds() {
			s := setup{prefix: fmt.Sprintf("h%02d%.3s", i, k.name), entries: 4 * k.keys, maxBytes: 512 << 20}
			jobs = append(jobs, job{
				name: hitTable(p, k) + "/" + p.name,
				run: func(ctx context.Context, b *bench) error {
					s.addr = b.kept.addr
					return b.hits(ctx, p, k, s, loads, b.kept)
				},
			})
		}
	}
	return jobs
}

// hitTable returns the table for a peer's hits.
func hitTable(p peer, k kind) string {
	switch {
	case p.memory:
		return "memory/" + k.name
	case p.near:
		return "near/" + k.name
	}
	return "hits/" + k.name
}

// hits opens p and measures reads of values that it has stored. Values in Redis are stored in
// the first round only; a cache in the process is filled at each visit.
func (b *bench) hits(ctx context.Context, p peer, k kind, s setup, loads []load, redis *server) error {
	s.source = &source{kind: k}
	keys := ids(k.keys)
	if !p.memory && !b.filled[s.prefix] {
		if err := fill(ctx, p, k, s, keys); err != nil {
			return err
		}
		b.filled[s.prefix] = true
	}
	st, err := p.open(s)
	if err != nil {
		return err
	}
	defer st.Close()
	if p.memory || p.near {
		if err := warm(ctx, st, k, s.source, keys); err != nil {
			return err
		}
	}
	for _, id := range []string{keys[0], keys[len(keys)/2], keys[len(keys)-1]} {
		if err := k.check(ctx, st, id); err != nil {
			return err
		}
	}
	for _, l := range loads {
		op := func(*rand.Rand) error { return k.read(ctx, st, keys[0]) }
		if l.many {
			op = func(r *rand.Rand) error { return k.read(ctx, st, keys[r.IntN(len(keys))]) }
		}
		found, err := b.measureHits(ctx, l, s.source, redis, op)
		if err != nil {
			return fmt.Errorf("%s: %w", l.column(), err)
		}
		b.results.addSample(hitTable(p, k), p.name, l.column(), found)
	}
	return nil
}

// measureHits measures op, and measures again, three times at most, if there were loads: on a
// machine that is busy for some hundred milliseconds Redis seems unavailable, and libraries
// load.
func (b *bench) measureHits(ctx context.Context, l load, src *source, redis *server, op func(*rand.Rand) error) (sample, error) {
	for again := 3; ; again-- {
		src.loads.Store(0)
		found, err := measure(ctx, b.each, l.goroutines, redis, op)
		n := src.loads.Load()
		if err != nil || n == 0 {
			return found, err
		}
		if again == 0 {
			return found, fmt.Errorf("%w: %d", errMissed, n)
		}
	}
}

// addSample adds the figures of a sample, the time to column and the others to columns that
// begin with it.
func (r *results) addSample(table, row, column string, s sample) {
	r.add(table, row, column, s.wall)
	r.add(table, row, column+" cpu", s.cpu)
	r.add(table, row, column+" redis", s.redis)
	r.add(table, row, column+" allocs", s.allocs)
	r.add(table, row, column+" bytes", s.bytes)
}

// fill stores every key through p. It closes p, as some libraries store in the background and
// have done so only then.
func fill(ctx context.Context, p peer, k kind, s setup, keys []string) error {
	st, err := p.open(s)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := each(32, len(keys), func(i int) error { return k.read(ctx, st, keys[i]) }); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	return nil
}

// warm reads every key until a cache in the process has them all, 20 times at most. Some caches
// drop values while they are busy.
func warm(ctx context.Context, st store, k kind, src *source, keys []string) error {
	for range 20 {
		src.loads.Store(0)
		if err := each(8, len(keys), func(i int) error { return k.read(ctx, st, keys[i]) }); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		if src.loads.Load() == 0 {
			break
		}
	}
	// Once more, for caches that keep only values that they found in Redis.
	return each(8, len(keys), func(i int) error { return k.read(ctx, st, keys[i]) })
}

// each calls do with the numbers from 0 to n-1 in goroutines. A goroutine ends at its first
// error; each returns the errors of all.
func each(goroutines, n int, do func(i int) error) error {
	var next atomic.Int64
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					mu.Lock()
					first = errors.Join(first, fmt.Errorf("key %s: %w", strconv.Itoa(i), err))
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}
