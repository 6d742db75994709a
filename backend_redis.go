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
// *redis.Client, of one node or of Sentinels, or a *redis.ClusterClient. Closing the
// Cache does not close the client. cfg's Type and Redis are not used.
//
// A client that does not obey the deadline of a context on the wire (go-redis
// does only with ContextTimeoutEnabled) cannot stretch the time budget: its
// commands are then waited for from outside, at the cost of a goroutine each.
// A client is refused when what it reads may be older than an invalidation: one that
// reads from replicas, or has a cache of its own, and one of another type, which may
// have such a client in it. To trace or count commands, hand in the client itself
// with hooks (AddHook).
func NewRedis(client redis.UniversalClient, cfg Config) (Cache, error) {
	cfg.Type = typeRedis
	cfg.Redis = Redis{} // not used, so not complained about
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if client == nil || reflect.ValueOf(client).Kind() == reflect.Pointer && reflect.ValueOf(client).IsNil() {
		return nil, errors.New("aside: NewRedis: the client is nil; hand in a redis.UniversalClient")
	}
	if err := checkClient(client); err != nil {
		return nil, err
	}
	return newFront(newRedisStore(client, cfg, redisstore.Options{}), cfg), nil
}

// checkClient returns why a client cannot be used.
func checkClient(client redis.UniversalClient) error {
	switch c := client.(type) {
	case *redis.Client:
		if o := c.Options(); o.ClientSideCache != nil || o.ClientSideCacheConfig != nil {
			return errors.New("aside: NewRedis: the client answers from a cache of its own, which may not have heard of an invalidation yet: want neither ClientSideCacheConfig nor ClientSideCache, but Config.NearMaxBytes")
		}
	case *redis.ClusterClient:
		if o := c.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return errors.New("aside: NewRedis: the cluster client reads from replicas, which may not have seen an invalidation yet: turn ReadOnly, ReplicaOnly, RouteByLatency and RouteRandomly off")
		}
	case *redis.Ring:
		return errors.New("aside: NewRedis: a redis.Ring moves keys between nodes that fail, so that an invalidation may miss them: hand in a Client, a ClusterClient or a failover client")
	default:
		return fmt.Errorf("aside: NewRedis: what is behind a %T cannot be seen: want the *redis.Client or *redis.ClusterClient itself; to trace it, give it hooks with AddHook", client)
	}
	return nil
}

// newRedisStore makes a backend of a client that checkClient accepts.
func newRedisStore(client redis.UniversalClient, cfg Config, o redisstore.Options) *redisstore.Store {
	o.Probe, o.WaitReplicas, o.Covers = cfg.KeyPrefix+probeKey, cfg.WaitReplicas, coversUnder(cfg.KeyPrefix)
	return redisstore.New(client, o)
}

// useRedis sets up what a front has over Redis alone.
func (f *front) useRedis(b *redisstore.Store) {
	if b.IsCluster() {
		f.shardOf = b.Shard
		f.lookUp = func() { b.Reload(f.life.Context()) }
	} else {
		f.look = func(ctx context.Context) { _ = b.Inspect(ctx) } // a misfit is told by the next command
	}
	f.shares = b.Obeys()
	b.Replaced = f.replaced
	if f.cfg.NearMaxBytes > 0 {
		f.startNear(b)
	}
}

// nearMaxAge bounds how long a value is served from the near cache, whatever Redis
// announces. Tests change it.
var nearMaxAge = 10 * time.Second

// startNear makes a near cache of the keyspaces that the cache owns, but for those
// whose keys are signals, and has Redis announce what changes in them.
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
