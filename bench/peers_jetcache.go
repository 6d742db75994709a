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

func jetcachePeers() []peer {
	// Its msgpack codec is the default and the one that is used; go.mod asks for
	// a newer sonic than jetcache-go does, whose own does not build on Go 1.26.
	const module = "github.com/mgtv-tech/jetcache-go"
	return []peer{
		{name: "jetcache-go, remote", module: module, how: "`Once`; its own codec, compressed msgpack", open: openJetcache(false)},
		{name: "jetcache-go, both", module: module, how: "with `NewTinyLFU`, room for every key, a minute, and local caches kept in step by Pub/Sub", open: openJetcache(true), near: true},
	}
}

type jetcache struct {
	s     setup
	redis *redis.Client
	cache cache.Cache
	sub   *redis.PubSub
}

// jetcaches makes the source ids that tell one cache's events from another's.
var jetcaches atomic.Int64

func openJetcache(both bool) func(setup) (store, error) {
	return func(s setup) (store, error) {
		logger.SetLevel(logger.LevelError)
		j := &jetcache{s: s, redis: redis.NewClient(&redis.Options{Addr: s.addr})}
		options := []cache.Option{
			cache.WithName("bench"),
			cache.WithRemote(remote.NewGoRedisV9Adapter(j.redis)),
			cache.WithStatsDisabled(true), // it would print them
		}
		if both {
			source := strconv.FormatInt(jetcaches.Add(1), 10)
			options = append(options,
				// Its size is in entries, but ristretto beneath counts 56 for each
				// in addition: size 10,000 has room for 175.
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

// channel is where caches tell each other what they changed, as the README's
// example of local caches kept in step does.
const channel = "jetcache-sync"

func (j *jetcache) publish(event *cache.Event) {
	if text, err := json.Marshal(event); err == nil {
		j.redis.Publish(context.Background(), channel, string(text))
	}
}

func (j *jetcache) follow(source string) {
	j.sub = j.redis.Subscribe(context.Background(), channel)
	_, _ = j.sub.Receive(context.Background()) // it is subscribed
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
