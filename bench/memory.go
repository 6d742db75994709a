package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync/atomic"
)

// memoryLoads are the columns of hits in memory. There is none with 128 goroutines, as those
// beyond the cores would only wait for each other.
var memoryLoads = []load{{1, false}, {16, false}, {1, true}, {16, true}}

const (
	zipfKeys = 100_000 // that are read by a Zipf distribution
	heapKeys = 200_000 // with which the memory of an entry is measured
)

// memoryJobs returns jobs for caches in the process. They measure hits, misses, the share of
// hits among Zipf-distributed reads, and the memory of an entry.
func (b *bench) memoryJobs() []job {
	var jobs []job
	inMemory := func(p peer) bool { return p.memory }
	for _, p := range peersOf("memory", inMemory) {
		for _, k := range b.kinds() {
			if k.name == "10KB" {
				continue // handed out without a copy, as 100 bytes are
			}
			s := setup{prefix: "memory", entries: 4 * k.keys, maxBytes: 512 << 20}
			jobs = append(jobs, job{
				name: "memory/" + k.name + "/" + p.name,
				run: func(ctx context.Context, b *bench) error {
					return b.hits(ctx, p, k, s, memoryLoads, nil)
				},
			})
		}
		if loading[p.name] {
			for _, n := range b.memorySizes() {
				at := strconv.Itoa(n) + "/" + p.name
				jobs = append(jobs,
					job{name: "memory/hits/" + at, once: true, run: func(ctx context.Context, b *bench) error { return b.memoryHits(ctx, p, n) }},
					job{name: "memory/misses/" + at, once: true, run: func(ctx context.Context, b *bench) error { return b.memoryMisses(ctx, p, n) }})
			}
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

// boundedByBytes has the peers with a bound by weight. The others, which bound the number of
// entries, would need another room to compare shares of hits.
var boundedByBytes = map[string]bool{
	"aside memory": true, memoryBaseline: true, loadingBaseline: true, "theine": true, "ristretto": true,
}

// loading has the peers that load missing values themselves. The others are read and filled by
// code around them, which would be measured too.
var loading = map[string]bool{
	"aside memory": true, "aside memory, Share": true, loadingBaseline: true, "theine": true, "sturdyc": true,
}

// memorySizes returns the numbers of entries of the caches of several sizes.
func (b *bench) memorySizes() []int {
	return []int{b.scale(1_000, 100), b.scale(100_000, 200), b.scale(1_000_000, 300)}
}

// sizeGoroutines are the numbers of goroutines that read a cache of each size.
var sizeGoroutines = []int{1, 16}

func sizeColumn(entries, goroutines int) string {
	return fmt.Sprintf("%d entries, %d", entries, goroutines)
}

// measureSize adds samples of find, which measures a cache of n entries. Filling a large one
// takes so long that a single visit measures all rounds.
func (b *bench) measureSize(table string, p peer, n int, find func(goroutines int) (sample, error)) error {
	for range b.rounds {
		for _, goroutines := range sizeGoroutines {
			found, err := find(goroutines)
			if err != nil {
				return err
			}
			b.results.addSample(table, p.name, sizeColumn(n, goroutines), found)
		}
	}
	return nil
}

// memoryHits reads n keys at random from a cache that has all of them.
func (b *bench) memoryHits(ctx context.Context, p peer, n int) error {
	src, keys := &source{kind: b.kinds()[0]}, ids(n)
	st, err := p.open(setup{prefix: "memory", source: src, entries: 4 * n, maxBytes: 4000 * int64(n)})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := warm(ctx, st, src.kind, src, keys); err != nil {
		return err
	}
	return b.measureSize("memory/hits", p, n, func(goroutines int) (sample, error) {
		return b.measureHits(ctx, load{goroutines, true}, src, nil, func(r *rand.Rand) error {
			return src.kind.read(ctx, st, keys[r.IntN(n)])
		})
	})
}

// memoryMisses reads missing keys through a cache that n entries fill, so that each read evicts
// an entry.
func (b *bench) memoryMisses(ctx context.Context, p peer, n int) error {
	src := &source{kind: b.kinds()[0]}
	entry := len("memory:") + len(idOf(0)) + src.kind.size + entryOverhead
	st, err := p.open(setup{prefix: "memory", source: src, entries: n, maxBytes: int64(n * entry)})
	if err != nil {
		return err
	}
	defer st.Close()
	var next atomic.Int64
	read := func(*rand.Rand) error { return src.kind.read(ctx, st, idOf(next.Add(1))) }
	if err := each(8, n, func(int) error { return read(nil) }); err != nil {
		return err
	}
	err = b.measureSize("memory/misses", p, n, func(goroutines int) (sample, error) {
		return measure(ctx, b.each, goroutines, nil, read)
	})
	if err != nil {
		return err
	}
	if reads, loads := next.Load(), src.loads.Load(); reads != loads {
		return fmt.Errorf("%d reads of missing keys made %d loads, want as many", reads, loads)
	}
	return nil
}

// zipf reads keys by a Zipf distribution through a cache with room for a tenth of all bytes, and
// reports the share of hits. All peers get the same reads and sizes.
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
	r.Shuffle(keys, func(i, j int) { names[i], names[j] = names[j], names[i] }) // so that popular keys have all sizes
	// The first fifth of the reads fills the cache and does not count.
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

// zipfSize returns the size of a key's value, from 64 bytes to 2 KB.
func zipfSize(i int) int { return 64 << (uint32(i) * 2654435761 % 6) }

// heap fills a cache with values of 100 bytes and reports the memory of an entry.
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

// heapInUse returns the bytes in use after two collections: the first may run finalizers that
// make more garbage.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
