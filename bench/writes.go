package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
)

// writeWaysOf returns the calls that p has to invalidate id after a write.
func writeWaysOf(p peer) []way {
	ways := []way{{p.name, func(ctx context.Context, st store, id string) error { return st.Invalidate(ctx, id) }}}
	if p.name == "aside" {
		ways[0].name = "aside, Invalidate"
		ways = append(ways, way{"aside, Update", func(ctx context.Context, st store, id string) error {
			return st.(updater).Update(ctx, id, func(context.Context) error { return nil })
		}})
	}
	return ways
}

// manyIDs is the number of ids that writeMany invalidates in one call.
const manyIDs = 10

// writeJobs returns jobs that invalidate keys; the write itself takes no time.
func (b *bench) writeJobs() []job {
	var jobs []job
	for _, p := range peersOf("writes", func(p peer) bool { return !p.memory && !p.shared }) {
		for _, w := range writeWaysOf(p) {
			jobs = append(jobs,
				job{name: "writes/time/" + w.name, run: func(ctx context.Context, b *bench) error { return b.writes(ctx, p, w) }},
				job{name: "writes/trips/" + w.name, once: true, run: func(ctx context.Context, b *bench) error {
					next := int64(0)
					return b.count(ctx, p, b.kinds()[0], "writes", w.name, "", func(st store) error {
						next++
						return w.op(ctx, st, idOf(next))
					})
				}})
		}
		jobs = append(jobs, job{name: "writes/many/" + p.name, once: true, run: func(ctx context.Context, b *bench) error {
			return b.writeMany(ctx, p)
		}})
	}
	return append(jobs, b.largeWriteJobs()...)
}

// writes invalidates keys, most of which have no value.
func (b *bench) writes(ctx context.Context, p peer, w way) error {
	st, err := p.open(setup{addr: b.scratch.addr, prefix: "write", source: &source{kind: b.kinds()[0]}, entries: 10_000, maxBytes: 64 << 20})
	if err != nil {
		return err
	}
	defer func() { st.Close(); _ = b.scratch.flush(ctx) }()
	var next atomic.Int64
	for _, goroutines := range []int{1, 16} {
		found, err := measure(ctx, b.each, goroutines, b.scratch, func(*rand.Rand) error {
			return w.op(ctx, st, idOf(next.Add(1)))
		})
		if err != nil {
			return err
		}
		b.results.addSample("writes", w.name, strconv.Itoa(goroutines), found)
	}
	return nil
}

// writeMany counts the round trips of an invalidation of several ids. They share a slot of a
// Cluster, so one command for all is possible; a library without a call for several makes one
// for each.
func (b *bench) writeMany(ctx context.Context, p peer) error {
	next := 0
	return b.count(ctx, p, b.kinds()[0], "writes", writeWaysOf(p)[0].name, "many ", func(st store) error {
		many, ok := st.(manyInvalidator)
		var batch []string
		for range manyIDs {
			next++
			id := fmt.Sprintf("{t}%d", next)
			if batch = append(batch, id); !ok {
				if err := st.Invalidate(ctx, id); err != nil {
					return err
				}
			}
		}
		if ok {
			return many.InvalidateMany(ctx, batch)
		}
		return nil
	})
}
