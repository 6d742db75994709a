package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
)

// memoryLoads are how memory is read: more goroutines than cores only wait for
// each other.
var memoryLoads = []load{{1, false}, {16, false}, {1, true}, {16, true}}

const (
	zipfKeys = 100_000
	heapKeys = 200_000
)

// memoryJobs measure caches in the process: hits, how many of Zipf-distributed
// reads are hits, and what an entry takes.
func (b *bench) memoryJobs() []job {
	var jobs []job
	inMemory := func(p peer) bool { return p.memory }
	for _, p := range peersOf("memory", inMemory) {
		for _, k := range b.kinds() {
			if k.name == "10KB" {
				continue // handed out as it is, like 100 bytes
			}
			s := setup{prefix: "memory", entries: 4 * k.keys, maxBytes: 512 << 20}
			jobs = append(jobs, job{
				name: "memory/" + k.name + "/" + p.name,
				run: func(ctx context.Context, b *bench) error {
					return b.hits(ctx, p, k, s, memoryLoads, nil)
				},
			})
		}
		jobs = append(jobs, job{
			name: "memory/heap/" + p.name,
			once: true,
			run:  func(ctx context.Context, b *bench) error { return b.heap(ctx, p) },
		})
		if boundedByBytes[p.name] {
			jobs = append(jobs, job{
				name: "memory/zipf/" + p.name,
				once: true,
				run:  func(ctx context.Context, b *bench) error { return b.zipf(ctx, p) },
			})
		}
	}
	return jobs
}

// boundedByBytes are those whose bound is a weight, not a number of entries.
var boundedByBytes = map[string]bool{
	"aside memory": true, memoryBaseline: true, "otter Get with a loader": true, "theine": true, "ristretto": true,
}

// zipf reads keys by a Zipf distribution through a cache with room for a tenth of
// all bytes, and reports the share of hits. Keys and their sizes are the same for
// all.
func (b *bench) zipf(ctx context.Context, p peer) error {
	keys, reads := b.scale(zipfKeys, zipfKeys/50), b.scale(1_000_000, 20_000)
	total := 0
	for i := range keys {
		total += zipfSize(i) + len("zipf:") + len(idOf(0)) + entryOverhead
	}
	src := &source{load: func(_ context.Context, id string) ([]byte, error) {
		i, err := strconv.Atoi(id[len("room-"):])
		return make([]byte, zipfSize(i)), err
	}}
	st, err := p.open(setup{prefix: "zipf", source: src, entries: keys / 10, maxBytes: int64(total / 10)})
	if err != nil {
		return err
	}
	defer st.Close()
	r := rand.New(rand.NewPCG(1, 2))
	dist := rand.NewZipf(r, 1.01, 1, uint64(keys-1))
	names := ids(keys)
	r.Shuffle(keys, func(i, j int) { names[i], names[j] = names[j], names[i] }) // the popular are of all sizes
	// The first fifth fills the cache and is not counted.
	for i := range reads {
		if i == reads/5 {
			src.loads.Store(0)
		}
		if _, err := st.Bytes(ctx, names[dist.Uint64()]); err != nil {
			return err
		}
	}
	counted := reads - reads/5
	b.results.add("zipf", p.name, "hits", 100*(1-float64(src.loads.Load())/float64(counted)))
	return nil
}

// zipfSize is the size of a key's value: 64 bytes to 2 KB.
func zipfSize(i int) int { return 64 << (uint32(i) * 2654435761 % 6) }

// heap fills a cache with values of 100 bytes and reports what an entry takes.
func (b *bench) heap(ctx context.Context, p peer) error {
	n := b.scale(heapKeys, heapKeys/100)
	keys := ids(n)
	src := &source{kind: b.kinds()[0]}
	before := heapInUse()
	st, err := p.open(setup{prefix: "heap", source: src, entries: 2 * n, maxBytes: int64(n) * 1000})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := warm(ctx, st, src.kind, src, keys); err != nil {
		return err
	}
	used := heapInUse() - before
	src.loads.Store(0)
	if err := each(1, n, func(i int) error { return src.kind.read(ctx, st, keys[i]) }); err != nil {
		return err
	}
	if missing := src.loads.Load(); missing > int64(n/100) {
		return fmt.Errorf("%w: %d of %d entries", errMissed, missing, n)
	}
	b.results.add("heap", p.name, "bytes", float64(used)/float64(n))
	runtime.KeepAlive(keys)
	return nil
}

// heapInUse is what is allocated once garbage is collected, finalizers included.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
