package aside

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/redisstore"
)

// NewRedis returns a Cache on a Redis client that the service already has: a
// *redis.Client, of one node or of Sentinels, or a *redis.ClusterClient. Close does not
// close the client. NewRedis ignores cfg's Type and Redis.
//
// A client should obey the deadlines of contexts on the wire (go-redis's option
// ContextTimeoutEnabled). For one that does not, calls keep to the time budget by waiting
// for each command in another goroutine.
//
// NewRedis refuses a client with reads that may be older than an invalidation: one that
// reads from replicas or has a cache of its own, and one of another type, which may wrap
// such a client. To trace or count commands, pass the client itself, with hooks
// (AddHook).
func NewRedis(client redis.UniversalClient, cfg Config) (Cache, error) {
	cfg.Type = typeRedis
	cfg.Redis = Redis{} // not used, so an invalid one must not be an error
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if client == nil || reflect.ValueOf(client).Kind() == reflect.Pointer && reflect.ValueOf(client).IsNil() {
		return nil, errors.New("aside: NewRedis: client is nil; want a *redis.Client or *redis.ClusterClient")
	}
	if err := checkClient(client); err != nil {
		return nil, err
	}
	return newFront(newRedisStore(client, cfg, redisstore.Options{}), cfg), nil
}

// checkClient returns an error if reads of a client may miss an invalidation.
func checkClient(client redis.UniversalClient) error {
	switch c := client.(type) {
	case *redis.Client:
		if o := c.Options(); o.ClientSideCache != nil || o.ClientSideCacheConfig != nil {
			return errors.New("aside: NewRedis: client has a cache of its own, which may miss an invalidation; want Config.NearMaxBytes in place of ClientSideCacheConfig and ClientSideCache")
		}
	case *redis.ClusterClient:
		if o := c.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return errors.New("aside: NewRedis: cluster client reads from replicas, which may miss an invalidation; want ReadOnly, ReplicaOnly, RouteByLatency and RouteRandomly off")
		}
	case *redis.Ring:
		return errors.New("aside: NewRedis: redis.Ring moves keys when nodes fail, so an invalidation may miss them; want a Client, a ClusterClient or a failover client")
	default:
		return fmt.Errorf("aside: NewRedis: client of type %T may hide another; want the *redis.Client or *redis.ClusterClient itself (AddHook traces it)", client)
	}
	return nil
}

// newRedisStore returns a store on a client that checkClient accepts.
func newRedisStore(client redis.UniversalClient, cfg Config, o redisstore.Options) *redisstore.Store {
	o.Probe, o.WaitReplicas, o.Covers = cfg.KeyPrefix+probeKey, cfg.WaitReplicas, coversUnder(cfg.KeyPrefix)
	return redisstore.New(client, o)
}

// useRedis sets up the parts of a front that only Redis has: shards, inspection of the
// server, the near cache.
func (f *front) useRedis(b *redisstore.Store) {
	if b.IsCluster() {
		f.shardOf = b.Shard
		f.lookUp = func() { b.Reload(f.life.Context()) }
	} else {
		f.look = func(ctx context.Context) { _ = b.Inspect(ctx) } // the next command reports a misfit
	}
	f.shares = b.Obeys()
	b.Replaced = f.replaced
	if f.cfg.NearMaxBytes > 0 {
		f.startNear(b)
	}
}

// nearMaxAge is the longest time that a copy is served from the near cache, whether or
// not Redis announces a change. It limits the damage of an announcement that is lost.
// Tests change it.
var nearMaxAge = 10 * time.Second

// startNear starts a near cache of the keyspaces that the cache owns, except those of
// states, and has Redis announce the changes to them. Signals must be read from Redis
// each time: a cancel that arrives late is a fault that users see.
func (f *front) startNear(b *redisstore.Store) {
	var prefixes []string
	f.nearSpaces = make(map[string]bool)
	for _, s := range f.spaces() {
		if !isState(s) {
			f.nearSpaces[s] = true
			prefixes = append(prefixes, f.name(s+":"))
		}
	}
	f.near = near.New(f.cfg.NearMaxBytes, nearMaxAge)
	f.life.Go(func() {
		b.Track(f.life.Context(), prefixes, f.near, f.log, func(lost bool, err error) {
			if lost && f.life.IsClosed() { // the cache has no more use for it
				return
			}
			f.hooks.State(hook.State{Trouble: hook.Near, Begins: lost, Err: err})
		})
		f.near.Close()
	})
}
