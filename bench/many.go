package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
	"github.com/redis/go-redis/v9"
	"github.com/viccon/sturdyc"

	"github.com/cacheaside/aside"
)

// A list has listIDs ids, of which listMissing have no value in the cache.
const listIDs, listMissing = 100, 10

// lister is a way to read the values of many ids. Its open returns a function that reads a list
// and returns the number of values.
type lister struct {
	name   string
	memory bool // it keeps values in the process only
	open   func(s setup) (list func(ctx context.Context, ids []string) (int, error), close func(), err error)
}

const (
	listBaseline       = "go-redis by hand: MGET, one query, a pipeline of SET"
	memoryListBaseline = "otter BulkGet"
)

// listers returns the ways to read a list, with a loop of single reads for comparison.
func listers() []lister {
	return []lister{
		{name: "aside GetOrLoadMany", open: listAside(onRedis, true)},
		{name: "aside GetOrLoad in a loop", open: listAside(onRedis, false)},
		{name: listBaseline, open: listByHand},
		{name: "aside memory GetOrLoadMany", memory: true, open: listAside(inMemory, true)},
		{name: memoryListBaseline, memory: true, open: listOtter},
		{name: "sturdyc GetOrFetchBatch", memory: true, open: listSturdyc},
	}
}

// Values loads the values of ids in one query.
func (s *source) Values(ids []string) map[string][]byte {
	s.loads.Add(1)
	out := make(map[string][]byte, len(ids))
	for _, id := range ids {
		out[id] = s.kind.bytes
	}
	return out
}

// listAside reads a list with GetOrLoadMany, or id by id if not together.
func listAside(config func(setup) aside.Config, together bool) func(setup) (func(context.Context, []string) (int, error), func(), error) {
	return func(s setup) (func(context.Context, []string) (int, error), func(), error) {
		st, err := openAside(config, false)(s)
		if err != nil {
			return nil, nil, err
		}
		a := st.(*asideStore)
		load := func(_ context.Context, ids []string) (map[string][]byte, error) { return s.source.Values(ids), nil }
		key := func(id string) aside.Key { return a.bytes.Key(id) }
		list := func(ctx context.Context, ids []string) (int, error) {
			values, err := aside.GetOrLoadMany(ctx, a.cache, ids, key, load)
			return len(values), err
		}
		if !together {
			list = func(ctx context.Context, ids []string) (n int, err error) {
				for _, id := range ids {
					if _, err := a.Bytes(ctx, id); err != nil {
						return n, err
					}
					n++
				}
				return n, nil
			}
		}
		return list, a.Close, nil
	}
}

// listByHand reads a list as services do without a library: one MGET, one query for the missing
// ids, and one pipeline of SET.
func listByHand(s setup) (func(context.Context, []string) (int, error), func(), error) {
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	return func(ctx context.Context, ids []string) (int, error) {
		keys := make([]string, len(ids))
		for i, id := range ids {
			keys[i] = s.key(id)
		}
		found, err := client.MGet(ctx, keys...).Result()
		if err != nil {
			return 0, err
		}
		values := make(map[string]string, len(ids))
		var missing []string
		for i, v := range found {
			if text, ok := v.(string); ok {
				values[ids[i]] = text
			} else {
				missing = append(missing, ids[i])
			}
		}
		if len(missing) == 0 {
			return len(values), nil
		}
		_, err = client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for id, v := range s.source.Values(missing) {
				values[id] = view(v)
				p.Set(ctx, s.key(id), v, ttl)
			}
			return nil
		})
		return len(values), err
	}, func() { _ = client.Close() }, nil
}

func listOtter(s setup) (func(context.Context, []string) (int, error), func(), error) {
	c, err := otterOf(space[[]byte]{setup: s, weight: func(key string, v []byte) int { return len(key) + len(v) + entryOverhead }}, nil)
	if err != nil {
		return nil, nil, err
	}
	loader := otter.BulkLoaderFunc[string, []byte](func(_ context.Context, keys []string) (map[string][]byte, error) {
		return s.source.Values(keys), nil
	})
	return func(ctx context.Context, ids []string) (int, error) {
		keys := make([]string, len(ids))
		for i, id := range ids {
			keys[i] = s.key(id)
		}
		values, err := c.BulkGet(ctx, keys, loader)
		return len(values), err
	}, func() { c.StopAllGoroutines() }, nil
}

func listSturdyc(s setup) (func(context.Context, []string) (int, error), func(), error) {
	c := sturdyc.New[[]byte](s.entries, 10, ttl, 10, sturdyc.WithNoContinuousEvictions())
	load := func(_ context.Context, ids []string) (map[string][]byte, error) { return s.source.Values(ids), nil }
	return func(ctx context.Context, ids []string) (int, error) {
		values, err := c.GetOrFetchBatch(ctx, ids, s.key, load)
		return len(values), err
	}, func() {}, nil
}

// listJobs returns jobs that read lists of ids.
func (b *bench) listJobs() []job {
	var jobs []job
	for _, l := range listers() {
		jobs = append(jobs, job{name: "lists/" + l.name, run: func(ctx context.Context, b *bench) error { return b.lists(ctx, l) }})
	}
	return jobs
}

// lists counts the round trips of a list through a proxy, unless l has no Redis, and then
// measures lists without the proxy.
func (b *bench) lists(ctx context.Context, l lister) error {
	k := b.kinds()[0]
	s := setup{addr: b.scratch.addr, prefix: "list", source: &source{kind: k}, entries: 1_000_000, maxBytes: 512 << 20}
	defer func() { _ = b.scratch.flush(ctx) }()
	px, err := startProxy(b.scratch.addr, 0)
	if err != nil {
		return err
	}
	defer px.close()
	if !l.memory {
		direct := s.addr
		s.addr = px.addr
		list, done, err := l.open(s)
		if err != nil {
			return err
		}
		var next atomic.Int64
		const times = 20
		var trips int64
		for i := range 2 * times {
			if i == times { // connections and scripts are there by now
				trips = px.trips.Load()
			}
			if err = readList(ctx, list, &next); err != nil {
				done()
				return err
			}
		}
		done()
		b.results.add("lists", l.name, "trips", float64(px.trips.Load()-trips)/times)
		if err := b.scratch.flush(ctx); err != nil {
			return err
		}
		s.addr = direct
	}
	list, done, err := l.open(s)
	if err != nil {
		return err
	}
	defer done()
	var next atomic.Int64
	for _, goroutines := range []int{1, 16} {
		s.source.loads.Store(0)
		first := next.Load()
		found, err := measure(ctx, b.each, goroutines, b.scratch, func(*rand.Rand) error { return readList(ctx, list, &next) })
		if err != nil {
			return err
		}
		b.results.addSample(listTable(l), l.name, strconv.Itoa(goroutines), found)
		b.results.add(listTable(l), l.name, "loads", float64(s.source.loads.Load())/(float64(next.Load()-first)/listMissing))
	}
	return nil
}

func listTable(l lister) string {
	if l.memory {
		return "lists/memory"
	}
	return "lists"
}

// readList reads one list: ids that all lists have, and listMissing new ones from next on.
func readList(ctx context.Context, list func(context.Context, []string) (int, error), next *atomic.Int64) error {
	ids := make([]string, 0, listIDs)
	for i := range listIDs - listMissing {
		ids = append(ids, idOf(int64(i+1)))
	}
	n := next.Add(listMissing)
	for i := range listMissing {
		ids = append(ids, idOf(1000+n+int64(i)))
	}
	got, err := list(ctx, ids)
	if err == nil && got != listIDs {
		err = fmt.Errorf("got %d values for %d ids", got, listIDs)
	}
	return err
}

func listSection() section {
	var redisRows, memoryRows []string
	for _, l := range listers() {
		if l.memory {
			memoryRows = append(memoryRows, l.name)
		} else {
			redisRows = append(redisRows, l.name)
		}
	}
	columns := []column{
		{key: "1", heading: "µs, 1 goroutine", format: significant, ratio: true, best: -1},
		{key: "16", heading: "µs, 16", format: significant, ratio: true, best: -1},
		{key: "1 cpu", heading: "CPU µs, 1", format: significant, ratio: true, best: -1},
		{key: "1 allocs", heading: "allocations", format: significant, best: -1},
		{key: "loads", heading: "calls of the loader", format: count},
	}
	redisColumns := append(columns[:4:4], column{key: "1 redis", heading: "Redis's CPU µs, 1", format: significant, best: -1},
		column{key: "trips", heading: "round trips", format: count}, columns[4])
	return section{
		title: "Lists",
		intro: fmt.Sprintf("Each read is of %d ids with values of 100 bytes, of which %d are missing; the loader takes no time. The stores by hand are not guarded, and two readers of one missing id load it twice.", listIDs, listMissing),
		tables: []table{
			{id: "lists", title: "µs a list, from Redis", rows: redisRows, base: listBaseline, baseID: "lists", columns: redisColumns},
			{id: "lists/memory", title: "µs a list, in memory", rows: memoryRows, base: memoryListBaseline, baseID: "lists/memory", columns: columns},
		},
	}
}
