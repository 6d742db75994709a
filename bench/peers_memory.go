package main

import (
	"context"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"
	gocache "github.com/patrickmn/go-cache"
	"github.com/viccon/sturdyc"
)

// memoryPeers returns caches in the process. They keep Go values and give the same one to all
// callers, as "aside memory, Share" does.
func memoryPeers() []peer {
	const otter, theine, ristretto = "github.com/maypok86/otter/v2", "github.com/Yiling-J/theine-go", "github.com/dgraph-io/ristretto/v2"
	return []peer{
		{name: memoryBaseline, module: otter, how: "`GetIfPresent`, on a miss load and `Set`; bounded by weight", open: openMemory(newOtter[[]byte], newOtter[[]Message]), memory: true},
		{name: loadingBaseline, module: otter, how: "`Get`; bounded by weight", open: openMemory(newOtterLoading[[]byte], newOtterLoading[[]Message]), memory: true},
		{name: "theine", module: theine, how: "a loading cache; bounded by weight", open: openMemory(newTheine[[]byte], newTheine[[]Message]), memory: true},
		{name: "ristretto", module: ristretto, how: "`Get`, on a miss load and `SetWithTTL`; bounded by weight", open: openMemory(newRistretto[[]byte], newRistretto[[]Message]), memory: true},
		{name: "sturdyc", module: "github.com/viccon/sturdyc", how: "`GetOrFetch`; 10 shards, `WithNoContinuousEvictions`", open: openMemory(newSturdyc[[]byte], newSturdyc[[]Message]), memory: true},
		{name: earlySturdyc, module: "github.com/viccon/sturdyc", how: "with `WithEarlyRefreshes`, and the retry delay of its README, 10 ms", open: openMemory(newEarlySturdyc[[]byte], newEarlySturdyc[[]Message]), memory: true, only: "expiry"},
		{name: refreshingOtter, module: otter, how: "with the `RefreshCalculator` of that name", open: openMemory(newRefreshingOtter[[]byte], newRefreshingOtter[[]Message]), memory: true, only: "expiry"},
		{name: "golang-lru expirable", module: "github.com/hashicorp/golang-lru/v2", how: "`Get`, on a miss load and `Add`", open: openMemory(newLRU[[]byte], newLRU[[]Message]), memory: true},
		{name: "go-cache", module: "github.com/patrickmn/go-cache", how: "`Get`, on a miss load and `Set`; not bounded", open: openMemory(newGoCache[[]byte], newGoCache[[]Message]), memory: true},
	}
}

// memory is a cache of one type of values that loads missing ones.
type memory[V any] struct {
	get   func(ctx context.Context, key string) (V, error)
	drop  func(key string)
	close func()
}

// space is the configuration of a cache of one type of values.
type space[V any] struct {
	setup  // has the bounds
	load   func(ctx context.Context, key string) (V, error)
	weight func(key string, v V) int // of an entry, in bytes
}

// entryOverhead is added to key and value in the weight of an entry. It is aside's own figure,
// so that a bound has the same meaning for all.
const entryOverhead = 128

// memoryStore is a library for caches in the process, with a cache for each type of values.
type memoryStore struct {
	s        setup
	bytes    memory[[]byte]
	messages memory[[]Message]
}

// openMemory returns an open for a library, given how it makes its two caches.
func openMemory(bytes func(space[[]byte]) (memory[[]byte], error), messages func(space[[]Message]) (memory[[]Message], error)) func(setup) (store, error) {
	return func(s setup) (_ store, err error) {
		m := &memoryStore{s: s}
		m.bytes, err = bytes(space[[]byte]{
			setup:  s,
			load:   func(ctx context.Context, key string) ([]byte, error) { return s.source.Bytes(ctx, s.id(key)) },
			weight: func(key string, v []byte) int { return len(key) + len(v) + entryOverhead },
		})
		if err != nil {
			return nil, err
		}
		m.messages, err = messages(space[[]Message]{
			setup:  s,
			load:   func(ctx context.Context, key string) ([]Message, error) { return s.source.Messages(ctx, s.id(key)) },
			weight: func(key string, v []Message) int { return len(key) + len(historyJSON) + entryOverhead },
		})
		return m, err
	}
}

func (m *memoryStore) Bytes(ctx context.Context, id string) (string, error) {
	v, err := m.bytes.get(ctx, m.s.key(id))
	return view(v), err
}

func (m *memoryStore) Messages(ctx context.Context, id string) ([]Message, error) {
	return m.messages.get(ctx, m.s.key(id))
}

func (m *memoryStore) Invalidate(_ context.Context, id string) error {
	m.bytes.drop(m.s.key(id))
	m.messages.drop(m.s.key(id))
	return nil
}

func (m *memoryStore) Close() {
	m.bytes.close()
	m.messages.close()
}

// getOrSet returns a get for a cache without a loader: the code that services write around it.
func getOrSet[V any](s space[V], get func(string) (V, bool), set func(string, V)) func(context.Context, string) (V, error) {
	return func(ctx context.Context, key string) (V, error) {
		if v, ok := get(key); ok {
			return v, nil
		}
		v, err := s.load(ctx, key)
		if err == nil {
			set(key, v)
		}
		return v, err
	}
}

func otterOf[V any](s space[V], refresh otter.RefreshCalculator[string, V]) (*otter.Cache[string, V], error) {
	return otter.New(&otter.Options[string, V]{
		MaximumWeight:    uint64(s.maxBytes),
		Weigher:          func(key string, v V) uint32 { return uint32(s.weight(key, v)) },
		ExpiryCalculator: otter.ExpiryWriting[string, V](s.lifetime()),

		RefreshCalculator: refresh,
	})
}

func newOtter[V any](s space[V]) (memory[V], error) {
	c, err := otterOf(s, nil)
	if err != nil {
		return memory[V]{}, err
	}
	return memory[V]{
		get:   getOrSet(s, c.GetIfPresent, func(key string, v V) { c.Set(key, v) }),
		drop:  func(key string) { c.Invalidate(key) },
		close: func() { c.StopAllGoroutines() },
	}, nil
}

func newOtterLoading[V any](s space[V]) (memory[V], error) { return loadingOtter(s, nil) }

func newRefreshingOtter[V any](s space[V]) (memory[V], error) {
	return loadingOtter(s, otter.RefreshWriting[string, V](s.refreshAge()))
}

func loadingOtter[V any](s space[V], refresh otter.RefreshCalculator[string, V]) (memory[V], error) {
	c, err := otterOf(s, refresh)
	if err != nil {
		return memory[V]{}, err
	}
	loader := otter.LoaderFunc[string, V](s.load)
	return memory[V]{
		get:   func(ctx context.Context, key string) (V, error) { return c.Get(ctx, key, loader) },
		drop:  func(key string) { c.Invalidate(key) },
		close: func() { c.StopAllGoroutines() },
	}, nil
}

func newTheine[V any](s space[V]) (memory[V], error) {
	c, err := theine.NewBuilder[string, V](s.maxBytes).Loading(func(ctx context.Context, key string) (theine.Loaded[V], error) {
		v, err := s.load(ctx, key)
		return theine.Loaded[V]{Value: v, Cost: int64(s.weight(key, v)), TTL: ttl}, err
	}).Build()
	if err != nil {
		return memory[V]{}, err
	}
	return memory[V]{get: c.Get, drop: c.Delete, close: c.Close}, nil
}

func newRistretto[V any](s space[V]) (memory[V], error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, V]{
		NumCounters: int64(10 * s.entries), MaxCost: s.maxBytes, BufferItems: 64,
		IgnoreInternalCost: true, // it is in the weight
	})
	if err != nil {
		return memory[V]{}, err
	}
	set := func(key string, v V) { c.SetWithTTL(key, v, int64(s.weight(key, v)), ttl) }
	return memory[V]{get: getOrSet(s, c.Get, set), drop: c.Del, close: c.Close}, nil
}

func newSturdyc[V any](s space[V]) (memory[V], error) { return sturdycOf(s) }

// newEarlySturdyc refreshes in the background until a value expires. Only then does a read wait
// for the load.
func newEarlySturdyc[V any](s space[V]) (memory[V], error) {
	return sturdycOf(s, sturdyc.WithEarlyRefreshes(s.refreshAge(), s.refreshAge(), s.lifetime(), 10*time.Millisecond))
}

func sturdycOf[V any](s space[V], options ...sturdyc.Option) (memory[V], error) {
	// Without the option a goroutine removes expired values. It never ends, and would keep
	// the cache in memory; few values, if any, expire here.
	c := sturdyc.New[V](s.entries, 10, s.lifetime(), 10, append(options, sturdyc.WithNoContinuousEvictions())...)
	get := func(ctx context.Context, key string) (V, error) {
		return c.GetOrFetch(ctx, key, func(ctx context.Context) (V, error) { return s.load(ctx, key) })
	}
	return memory[V]{get: get, drop: c.Delete, close: func() {}}, nil
}

func newLRU[V any](s space[V]) (memory[V], error) {
	c := expirable.NewLRU[string, V](s.entries, nil, ttl)
	set := func(key string, v V) { c.Add(key, v) }
	return memory[V]{get: getOrSet(s, c.Get, set), drop: func(key string) { c.Remove(key) }, close: c.Purge}, nil
}

func newGoCache[V any](s space[V]) (memory[V], error) {
	c := gocache.New(ttl, 10*time.Minute)
	get := func(key string) (v V, ok bool) {
		x, ok := c.Get(key)
		if ok {
			v = x.(V)
		}
		return v, ok
	}
	set := func(key string, v V) { c.Set(key, v, gocache.DefaultExpiration) }
	return memory[V]{get: getOrSet(s, get, set), drop: c.Delete, close: c.Flush}, nil
}
