package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// missJobs returns jobs that read missing keys. A read finds that out, loads and stores; the
// loader takes no time, so the cost of the library remains.
func (b *bench) missJobs() []job {
	var jobs []job
	for _, p := range peersOf("misses", func(p peer) bool { return !p.memory && !p.shared }) {
		for _, k := range b.kinds() {
			if k.name == "10KB" {
				continue
			}
			jobs = append(jobs, job{
				name: "misses/" + k.name + "/" + p.name,
				run:  func(ctx context.Context, b *bench) error { return b.misses(ctx, p, k) },
			})
		}
		jobs = append(jobs, job{
			name: "misses/trips/" + p.name,
			once: true,
			run:  func(ctx context.Context, b *bench) error { return b.missTrips(ctx, p) },
		})
	}
	return append(jobs, b.farJobs()...)
}

// misses reads a new key each time. A read that makes no load, or two, is an error: it would be
// a hit, or a repetition after a timeout.
func (b *bench) misses(ctx context.Context, p peer, k kind) error {
	s := setup{addr: b.scratch.addr, prefix: "miss", source: &source{kind: k}, entries: 100_000, maxBytes: 512 << 20}
	st, err := p.open(s)
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	var next atomic.Int64
	for _, goroutines := range []int{1, 16, 128} {
		s.source.loads.Store(0)
		first := next.Load()
		found, err := measure(ctx, b.each, goroutines, b.scratch, func(*rand.Rand) error {
			return k.read(ctx, st, idOf(next.Add(1)))
		})
		if err != nil {
			return err
		}
		if reads, loads := next.Load()-first, s.source.loads.Load(); reads != loads {
			return fmt.Errorf("%d reads of missing keys made %d loads, want as many", reads, loads)
		}
		b.results.addSample("misses/"+k.name, p.name, strconv.Itoa(goroutines), found)
	}
	return nil
}

// missTrips counts the commands and round trips of a miss, with one read at a time.
func (b *bench) missTrips(ctx context.Context, p peer) error {
	k := b.kinds()[0]
	next := int64(0)
	return b.count(ctx, p, k, "misses/"+k.name, p.name, "", func(st store) error {
		next++
		return k.read(ctx, st, idOf(next))
	})
}

// count opens p behind a proxy and adds the mean number of commands and round trips of op to a
// row of a table, in columns that begin with prefix.
func (b *bench) count(ctx context.Context, p peer, k kind, table, row, prefix string, op func(store) error) error {
	px, err := startProxy(b.scratch.addr, 0)
	if err != nil {
		return err
	}
	defer px.close()
	st, err := p.open(setup{addr: px.addr, prefix: "count", source: &source{kind: k}, entries: 10_000, maxBytes: 64 << 20})
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	const times = 50
	for range 5 { // connect, and send scripts
		if err := op(st); err != nil {
			return err
		}
	}
	settled := 20 * time.Millisecond // for commands from the background
	time.Sleep(settled)
	commands, trips := px.commands.Load(), px.trips.Load()
	for range times {
		if err := op(st); err != nil {
			return err
		}
	}
	time.Sleep(settled)
	b.results.add(table, row, prefix+"commands", float64(px.commands.Load()-commands)/times)
	b.results.add(table, row, prefix+"trips", float64(px.trips.Load()-trips)/times)
	return nil
}
