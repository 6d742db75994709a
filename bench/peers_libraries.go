package main

import (
	"context"
	"encoding/json"

	"github.com/dtm-labs/rockscache"
	gocache "github.com/eko/gocache/lib/v4/cache"
	"github.com/eko/gocache/lib/v4/marshaler"
	gostore "github.com/eko/gocache/lib/v4/store"
	redisstore "github.com/eko/gocache/store/redis/v4"
	rediscache "github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"
)

// libraryPeers returns the cache-aside libraries over go-redis.
func libraryPeers() []peer {
	const rocks, rediscache, gocache = "github.com/dtm-labs/rockscache", "github.com/go-redis/cache/v9", "github.com/eko/gocache/lib/v4"
	return append([]peer{
		{name: "rockscache", module: rocks, how: "`Fetch2`, default options; encoding/json for histories", open: openRocks(false)},
		{name: "rockscache, strong", module: rocks, how: "with `StrongConsistency`", open: openRocks(true), only: "stale"},
		{name: "go-redis/cache", module: rediscache, how: "`Once`; its own codec, compressed msgpack", open: openRedisCache(false)},
		{name: "go-redis/cache, local", module: rediscache, how: "with `NewTinyLFU`, room for every key, a minute", open: openRedisCache(true), near: true},
		{name: "gocache", module: gocache, how: "`NewLoadable` over its Redis store, which stores in the background; its marshaler, msgpack, for histories", open: openGocache},
	}, jetcachePeers()...)
}

// rocks is rockscache. Its values are strings and it has no codec, so histories are JSON.
type rocks struct {
	s      setup
	redis  *redis.Client
	client *rockscache.Client
}

func openRocks(strong bool) func(setup) (store, error) {
	return func(s setup) (store, error) {
		c := redis.NewClient(&redis.Options{Addr: s.addr})
		options := rockscache.NewDefaultOptions()
		options.StrongConsistency = strong
		return &rocks{s, c, rockscache.NewClient(c, options)}, nil
	}
}

func (r *rocks) Bytes(ctx context.Context, id string) (string, error) {
	return r.client.Fetch2(ctx, r.s.key(id), ttl, func() (string, error) {
		b, err := r.s.source.Bytes(ctx, id)
		return view(b), err
	})
}

func (r *rocks) Messages(ctx context.Context, id string) ([]Message, error) {
	text, err := r.client.Fetch2(ctx, r.s.key(id), ttl, func() (string, error) {
		messages, err := r.s.source.Messages(ctx, id)
		if err != nil {
			return "", err
		}
		data, err := json.Marshal(messages)
		return view(data), err
	})
	if err != nil {
		return nil, err
	}
	var messages []Message
	err = json.Unmarshal([]byte(text), &messages)
	return messages, err
}

func (r *rocks) Invalidate(ctx context.Context, id string) error {
	return r.client.TagAsDeleted2(ctx, r.s.key(id))
}

func (r *rocks) InvalidateMany(ctx context.Context, ids []string) error {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = r.s.key(id)
	}
	return r.client.TagAsDeletedBatch2(ctx, keys)
}

func (r *rocks) Close() { _ = r.redis.Close() }

// redisCache is go-redis/cache, with its default codec (msgpack, compressed with
// s2) for histories.
type redisCache struct {
	s      setup
	redis  *redis.Client
	client *rediscache.Cache
}

func openRedisCache(local bool) func(setup) (store, error) {
	return func(s setup) (store, error) {
		c := redis.NewClient(&redis.Options{Addr: s.addr})
		options := &rediscache.Options{Redis: c}
		if local {
			options.LocalCache = rediscache.NewTinyLFU(s.entries, localTTL)
		}
		return &redisCache{s, c, rediscache.New(options)}, nil
	}
}

func (r *redisCache) Bytes(ctx context.Context, id string) (string, error) {
	var v []byte
	err := r.client.Once(&rediscache.Item{
		Ctx: ctx, Key: r.s.key(id), Value: &v, TTL: ttl,
		Do: func(*rediscache.Item) (any, error) { return r.s.source.Bytes(ctx, id) },
	})
	return view(v), err
}

func (r *redisCache) Messages(ctx context.Context, id string) ([]Message, error) {
	var v []Message
	err := r.client.Once(&rediscache.Item{
		Ctx: ctx, Key: r.s.key(id), Value: &v, TTL: ttl,
		Do: func(*rediscache.Item) (any, error) { return r.s.source.Messages(ctx, id) },
	})
	return v, err
}

func (r *redisCache) Invalidate(ctx context.Context, id string) error {
	return r.client.Delete(ctx, r.s.key(id))
}

func (r *redisCache) Close() { _ = r.redis.Close() }

// gocacheStore is gocache's loadable cache over its Redis store, and for histories its marshaler
// (msgpack) around that. The loadable cache stores loaded values in the background.
type gocacheStore struct {
	s        setup
	redis    *redis.Client
	texts    *gocache.LoadableCache[string]
	loadable *gocache.LoadableCache[any]
	typed    *marshaler.Marshaler
}

func openGocache(s setup) (store, error) {
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	redisStore := redisstore.NewRedis(c, gostore.WithExpiration(ttl))
	texts := gocache.NewLoadable(func(ctx context.Context, key any) (string, []gostore.Option, error) {
		b, err := s.source.Bytes(ctx, s.id(key.(string)))
		return view(b), nil, err
	}, gocache.New[string](redisStore))
	loadable := gocache.NewLoadable(func(ctx context.Context, key any) (any, []gostore.Option, error) {
		messages, err := s.source.Messages(ctx, s.id(key.(string)))
		if err != nil {
			return nil, nil, err
		}
		data, err := msgpack.Marshal(messages)
		return data, nil, err
	}, gocache.New[any](redisStore))
	return &gocacheStore{s, c, texts, loadable, marshaler.New(loadable)}, nil
}

func (g *gocacheStore) Bytes(ctx context.Context, id string) (string, error) {
	return g.texts.Get(ctx, g.s.key(id))
}

func (g *gocacheStore) Messages(ctx context.Context, id string) ([]Message, error) {
	var messages []Message
	_, err := g.typed.Get(ctx, g.s.key(id), &messages)
	return messages, err
}

func (g *gocacheStore) Invalidate(ctx context.Context, id string) error {
	return g.texts.Delete(ctx, g.s.key(id))
}

func (g *gocacheStore) Close() {
	_ = g.texts.Close()
	_ = g.loadable.Close()
	_ = g.redis.Close()
}
