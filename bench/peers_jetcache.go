package main

import (
	"context"
	"encoding/json"
	"strconv"
	"sync/atomic"

	"github.com/mgtv-tech/jetcache-go"
	"github.com/mgtv-tech/jetcache-go/local"
	"github.com/mgtv-tech/jetcache-go/logger"
	"github.com/mgtv-tech/jetcache-go/remote"
	"github.com/redis/go-redis/v9"
)

// jetcachePeers returns jetcache-go with Redis alone, and with a level in the process.
func jetcachePeers() []peer {
	// The codec is the default, msgpack. The version of sonic, another codec, that
	// jetcache-go requires does not build on Go 1.26, so go.mod requires a newer one.
	const module = "github.com/mgtv-tech/jetcache-go"
	return []peer{
		{name: "jetcache-go, remote", module: module, how: "`Once`; its own codec, compressed msgpack", open: openJetcache(false)},
		{name: "jetcache-go, both", module: module, how: "with `NewTinyLFU`, room for every key, a minute, and local caches kept in step by Pub/Sub", open: openJetcache(true), near: true},
	}
}

// jetcache is jetcache-go.
type jetcache struct {
	s     setup
	redis *redis.Client
	cache cache.Cache
	sub   *redis.PubSub // the other caches' events; nil without a level in the process
}

// jetcaches counts the caches. Its numbers are source ids, by which a cache knows its own events.
var jetcaches atomic.Int64

func openJetcache(both bool) func(setup) (store, error) {
	return func(s setup) (store, error) {
		logger.SetLevel(logger.LevelError)
		j := &jetcache{s: s, redis: redis.NewClient(&redis.Options{Addr: s.addr})}
		options := []cache.Option{
			cache.WithName("bench"),
			cache.WithRemote(remote.NewGoRedisV9Adapter(j.redis)),
			cache.WithStatsDisabled(true), // they would be printed
		}
		if both {
			source := strconv.FormatInt(jetcaches.Add(1), 10)
			options = append(options,
				// The size is meant as entries, but the ristretto below adds 56 to
				// the cost of each: a size of 10,000 has room for 175.
				cache.WithLocal(local.NewTinyLFU(57*s.entries, localTTL)),
				cache.WithSourceId(source),
				cache.WithSyncLocal(true),
				cache.WithEventHandler(j.publish))
			j.cache = cache.New(options...)
			j.follow(source)
			return j, nil
		}
		j.cache = cache.New(options...)
		return j, nil
	}
}

// channel is the Pub/Sub channel on which caches publish their changes, as in the example of
// its README that keeps local caches in step.
const channel = "jetcache-sync"

// publish sends an event of this cache to the others.
func (j *jetcache) publish(event *cache.Event) {
	if text, err := json.Marshal(event); err == nil {
		j.redis.Publish(context.Background(), channel, string(text))
	}
}

// follow removes the keys of other caches' events from the level in the process.
func (j *jetcache) follow(source string) {
	j.sub = j.redis.Subscribe(context.Background(), channel)
	_, _ = j.sub.Receive(context.Background()) // the confirmation
	messages := j.sub.Channel()
	go func() {
		for m := range messages {
			var event cache.Event
			if json.Unmarshal([]byte(m.Payload), &event) != nil || event.SourceID == source {
				continue
			}
			for _, key := range event.Keys {
				j.cache.DeleteFromLocalCache(key)
			}
		}
	}()
}

func (j *jetcache) Bytes(ctx context.Context, id string) (string, error) {
	var v []byte
	err := j.cache.Once(ctx, j.s.key(id), cache.Value(&v), cache.TTL(ttl),
		cache.Do(func(ctx context.Context) (any, error) { return j.s.source.Bytes(ctx, id) }))
	return view(v), err
}

func (j *jetcache) Messages(ctx context.Context, id string) ([]Message, error) {
	var v []Message
	err := j.cache.Once(ctx, j.s.key(id), cache.Value(&v), cache.TTL(ttl),
		cache.Do(func(ctx context.Context) (any, error) { return j.s.source.Messages(ctx, id) }))
	return v, err
}

func (j *jetcache) Invalidate(ctx context.Context, id string) error {
	return j.cache.Delete(ctx, j.s.key(id))
}

func (j *jetcache) Close() {
	j.cache.Close()
	if j.sub != nil {
		_ = j.sub.Close()
	}
	_ = j.redis.Close()
}
