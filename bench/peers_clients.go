package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidisaside"
)

// clientPeers returns Redis clients with the few lines around them that a service writes by hand,
// and the cache-aside library that is part of a client.
func clientPeers() []peer {
	const goRedis, rueidis = "github.com/redis/go-redis/v9", "github.com/redis/rueidis"
	return []peer{
		{name: baseline, module: goRedis, how: "`Get`, on a miss load and `Set`; encoding/json", open: openGoRedis},
		{name: "go-redis auto-pipeliner, by hand", module: goRedis, how: "the same on `client.AutoPipeline()`", open: openAutoPipeline},
		{name: "rueidis GET, by hand", module: rueidis, how: "`GET`, on a miss load and `SET`; encoding/json", open: openRueidis},
		{name: "go-redis client-side cache", module: goRedis, how: "`ClientSideCacheConfig` with room for every key; the rest by hand", open: openGoRedisCSC, near: true},
		{name: "rueidis client-side cache", module: rueidis, how: "`DoCache`; the rest by hand", open: openRueidisCache, near: true},
		{name: "rueidisaside", module: rueidis + "/rueidisaside", how: "`Get`; its typed client with encoding/json for histories", open: openRueidisAside, near: true},
	}
}

// byHand is cache-aside as services write it: GET, and load and SET on a miss or if Redis fails.
// Histories are JSON. It has no leases, and no time budget but the timeouts of the client.
type byHand struct {
	s     setup
	get   func(ctx context.Context, key string) (value string, ok bool, err error)
	set   func(ctx context.Context, key, value string) error
	del   func(ctx context.Context, keys ...string) error
	close func()
}

func (h *byHand) Bytes(ctx context.Context, id string) (string, error) {
	key := h.s.key(id)
	if v, ok, err := h.get(ctx, key); ok && err == nil {
		return v, nil
	}
	b, err := h.s.source.Bytes(ctx, id)
	if err != nil {
		return "", err
	}
	v := view(b)
	_ = h.set(ctx, key, v) // a service would log the error and go on
	return v, nil
}

func (h *byHand) Messages(ctx context.Context, id string) ([]Message, error) {
	key := h.s.key(id)
	if v, ok, err := h.get(ctx, key); ok && err == nil {
		var messages []Message
		err := json.Unmarshal(viewOf(v), &messages)
		return messages, err
	}
	messages, err := h.s.source.Messages(ctx, id)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(messages)
	if err != nil {
		return nil, err
	}
	_ = h.set(ctx, key, view(data))
	return messages, nil
}

func (h *byHand) Invalidate(ctx context.Context, id string) error { return h.del(ctx, h.s.key(id)) }

func (h *byHand) InvalidateMany(ctx context.Context, ids []string) error {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = h.s.key(id)
	}
	return h.del(ctx, keys...)
}

func (h *byHand) Close() { h.close() }

func openGoRedis(s setup) (store, error) {
	return onGoRedis(s, &redis.Options{Addr: s.addr}), nil
}

// openGoRedisCSC sets the client up as go-redis's README does, with room for every key.
func openGoRedisCSC(s setup) (store, error) {
	return onGoRedis(s, &redis.Options{
		Addr: s.addr, Protocol: 3,
		ClientSideCacheConfig: &redis.ClientSideCacheConfig{MaxEntries: s.entries},
	}), nil
}

// onGoRedis returns cache-aside by hand over go-redis.
func onGoRedis(s setup, options *redis.Options) *byHand {
	client := redis.NewClient(options)
	return goRedisStore(s, client, func() { _ = client.Close() })
}

func openAutoPipeline(s setup) (store, error) {
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	pipeline, err := client.AutoPipeline()
	if err != nil {
		return nil, err
	}
	return goRedisStore(s, pipeline, func() { _ = client.Close() }), nil
}

func goRedisStore(s setup, c redis.Cmdable, close func()) *byHand {
	return &byHand{
		s: s,
		get: func(ctx context.Context, key string) (string, bool, error) {
			v, err := c.Get(ctx, key).Result()
			if errors.Is(err, redis.Nil) {
				return "", false, nil
			}
			return v, err == nil, err
		},
		set:   func(ctx context.Context, key, value string) error { return c.Set(ctx, key, value, ttl).Err() },
		del:   func(ctx context.Context, keys ...string) error { return c.Del(ctx, keys...).Err() },
		close: close,
	}
}

func openRueidis(s setup) (store, error) {
	return onRueidis(s, func(ctx context.Context, c rueidis.Client, key string) rueidis.RedisResult {
		return c.Do(ctx, c.B().Get().Key(key).Build())
	})
}

func openRueidisCache(s setup) (store, error) {
	return onRueidis(s, func(ctx context.Context, c rueidis.Client, key string) rueidis.RedisResult {
		return c.DoCache(ctx, c.B().Get().Key(key).Cache(), ttl)
	})
}

// onRueidis returns cache-aside by hand over rueidis, with a GET of the caller's choice.
func onRueidis(s setup, get func(context.Context, rueidis.Client, string) rueidis.RedisResult) (store, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.addr}})
	if err != nil {
		return nil, err
	}
	return &byHand{
		s: s,
		get: func(ctx context.Context, key string) (string, bool, error) {
			v, err := get(ctx, c, key).ToString()
			if rueidis.IsRedisNil(err) {
				return "", false, nil
			}
			return v, err == nil, err
		},
		set: func(ctx context.Context, key, value string) error {
			return c.Do(ctx, c.B().Set().Key(key).Value(value).Ex(ttl).Build()).Error()
		},
		del: func(ctx context.Context, keys ...string) error {
			return c.Do(ctx, c.B().Del().Key(keys...).Build()).Error()
		},
		close: c.Close,
	}, nil
}

// rueidisAside is rueidisaside, and for histories the typed client of its README.
type rueidisAside struct {
	s      setup
	client rueidisaside.CacheAsideClient
	typed  rueidisaside.TypedCacheAsideClient[[]Message]
}

func openRueidisAside(s setup) (store, error) {
	client, err := rueidisaside.NewClient(rueidisaside.ClientOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{s.addr}},
	})
	if err != nil {
		return nil, err
	}
	serialize := func(v *[]Message) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	}
	deserialize := func(text string) (*[]Message, error) {
		var v *[]Message
		err := json.Unmarshal([]byte(text), &v)
		return v, err
	}
	return &rueidisAside{s, client, rueidisaside.NewTypedCacheAsideClient(client, serialize, deserialize)}, nil
}

func (r *rueidisAside) Bytes(ctx context.Context, id string) (string, error) {
	return r.client.Get(ctx, ttl, r.s.key(id), func(ctx context.Context, key string) (string, error) {
		b, err := r.s.source.Bytes(ctx, r.s.id(key))
		return view(b), err
	})
}

func (r *rueidisAside) Messages(ctx context.Context, id string) ([]Message, error) {
	v, err := r.typed.Get(ctx, ttl, r.s.key(id), func(ctx context.Context, key string) (*[]Message, error) {
		messages, err := r.s.source.Messages(ctx, r.s.id(key))
		return &messages, err
	})
	if err != nil || v == nil {
		return nil, err
	}
	return *v, nil
}

func (r *rueidisAside) Invalidate(ctx context.Context, id string) error {
	return r.client.Del(ctx, r.s.key(id))
}

func (r *rueidisAside) Close() { r.client.Close() }
