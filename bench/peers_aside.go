package main

import (
	"context"

	"github.com/cacheaside/aside"
)

// asidePeers returns the ways to use this library.
func asidePeers() []peer {
	const module = "github.com/cacheaside/aside"
	return []peer{
		{name: "aside", module: module, how: "`GetOrLoad`; a codec of raw bytes, JSON for histories", open: openAside(onRedis, false)},
		{name: "aside, Share", module: module, how: "the same in a keyspace of shared, read-only values", open: openAside(onRedis, true), shared: true},
		{name: "aside, RefreshAfter", module: module, how: "in a keyspace with `RefreshAfter`", open: refreshing(openAside(onRedis, false)), only: "hits"},
		{name: "aside, Update", module: module, how: "writes go through `Update`", open: openAside(onRedis, false), updates: true, only: "stale"},

		{name: "aside near", module: module, how: "`NearMaxBytes`", open: openAside(nearRedis, false), near: true},
		{name: "aside near, Update", module: module, how: "writes go through `Update`", open: openAside(nearRedis, false), near: true, updates: true, only: "stale"},
		{name: "aside near, Share", module: module, how: "the same in a keyspace of shared, read-only values", open: openAside(nearRedis, true), near: true, shared: true},

		{name: "aside memory", module: module, how: "`Type: TypeMemory`; values are encoded, and each caller gets its own", open: openAside(inMemory, false), memory: true},
		{name: "aside memory, Share", module: module, how: "the same in a keyspace of shared, read-only values", open: openAside(inMemory, true), memory: true},
		{name: "aside memory, Share, RefreshAfter", module: module, how: "the same with `RefreshAfter`", open: refreshing(openAside(inMemory, true)), memory: true, only: "memory"},
	}
}

// refreshing returns open with RefreshAfter set in the keyspaces.
func refreshing(open func(setup) (store, error)) func(setup) (store, error) {
	return func(s setup) (store, error) {
		st, err := open(s)
		if err == nil {
			a := st.(*asideStore)
			a.bytes.RefreshAfter, a.messages.RefreshAfter = s.refreshAge(), s.refreshAge()
		}
		return st, err
	}
}

// onRedis is the Config with nothing but the address, so all else has its default.
func onRedis(s setup) aside.Config {
	return aside.Config{Redis: aside.Redis{Hosts: []string{s.addr}}}
}

// nearRedis lists the keyspace in the Config, without which the near cache would not hold it.
func nearRedis(s setup) aside.Config {
	cfg := onRedis(s)
	cfg.NearMaxBytes = s.maxBytes
	cfg.Keyspaces = []aside.Keyspace{{Name: s.prefix}}
	return cfg
}

func inMemory(s setup) aside.Config {
	return aside.Config{Type: "memory", MemoryMaxBytes: s.maxBytes}
}

// asideStore is this library. Its two keyspaces have one name, and differ in their codecs.
type asideStore struct {
	cache    aside.Cache
	bytes    aside.Keyspace
	messages aside.Keyspace
	source   *source
}

// openAside returns an open for a Config and keyspaces with or without Share.
func openAside(config func(setup) aside.Config, share bool) func(setup) (store, error) {
	return func(s setup) (store, error) {
		cache, err := aside.Open(config(s))
		if err != nil {
			return nil, err
		}
		return &asideStore{
			cache:    cache,
			bytes:    aside.Keyspace{Name: s.prefix, TTL: s.lifetime(), Share: share, Codec: aside.Bytes},
			messages: aside.Keyspace{Name: s.prefix, TTL: s.lifetime(), Share: share},
			source:   s.source,
		}, nil
	}
}

func (a *asideStore) Bytes(ctx context.Context, id string) (string, error) {
	v, err := aside.GetOrLoad(ctx, a.cache, a.bytes.Key(id), func(ctx context.Context) ([]byte, error) {
		return a.source.Bytes(ctx, id)
	})
	return view(v), err
}

func (a *asideStore) Messages(ctx context.Context, id string) ([]Message, error) {
	return aside.GetOrLoad(ctx, a.cache, a.messages.Key(id), func(ctx context.Context) ([]Message, error) {
		return a.source.Messages(ctx, id)
	})
}

func (a *asideStore) Invalidate(ctx context.Context, id string) error {
	return aside.Invalidate(ctx, a.cache, a.bytes.Key(id))
}

func (a *asideStore) InvalidateMany(ctx context.Context, ids []string) error {
	keys := make([]aside.Key, len(ids))
	for i, id := range ids {
		keys[i] = a.bytes.Key(id)
	}
	return aside.Invalidate(ctx, a.cache, keys...)
}

func (a *asideStore) Update(ctx context.Context, id string, write func(context.Context) error) error {
	return aside.Update(ctx, a.cache, write, a.bytes.Key(id))
}

func (a *asideStore) Close() { _ = a.cache.Close() }
