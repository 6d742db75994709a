package aside

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"
)

// NewRedis returns a Cache on a Redis client that the service already has: one
// node, Cluster, Sentinel. Closing the Cache does not close the client. cfg's
// Type and Redis are not used.
//
// A client that does not obey the deadline of a context on the wire (go-redis
// does only with ContextTimeoutEnabled) can not stretch the time budget: its
// commands are then waited for from outside, at the cost of a goroutine each.
// A client that reads from replicas is refused: what it reads may be older than
// an invalidation.
func NewRedis(client redis.UniversalClient, cfg Config) (Cache, error) {
	cfg.Type = TypeRedis
	cfg.Redis = Redis{} // not used, so not complained about
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if client == nil || reflect.ValueOf(client).Kind() == reflect.Pointer && reflect.ValueOf(client).IsNil() {
		return nil, errors.New("aside: NewRedis: the client is nil; hand in a redis.UniversalClient")
	}
	if c, ok := client.(*redis.ClusterClient); ok {
		if o := c.Options(); o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
			return nil, errors.New("aside: NewRedis: the cluster client reads from replicas, which may not have seen an invalidation yet: turn ReadOnly, RouteByLatency and RouteRandomly off")
		}
	}
	if _, ok := client.(*redis.Ring); ok {
		return nil, errors.New("aside: NewRedis: a redis.Ring moves keys between nodes that fail, so that an invalidation may miss them: hand in a Client, a ClusterClient or a failover client")
	}
	b := newRedisBackend(client, cfg.WaitReplicas)
	if cfg.NearMaxBytes > 0 && !b.single && b.cluster == nil {
		return nil, fmt.Errorf("aside: NewRedis: Config.NearMaxBytes needs a *redis.Client or a *redis.ClusterClient, not a %T", client)
	}
	return newFront(b, cfg), nil
}

// redisBackend keeps values and leases in Redis. Its methods are a script each,
// so that value and lease change together; a read is a plain GET.
type redisBackend struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // client, when it is one
	single  bool                 // client is of one node: a script may touch any keys
	obeys   bool                 // client obeys a context's deadline by itself
	owned   bool                 // Close closes client
	wait    int                  // how many replicas must have an invalidation
	states  []string             // see covers
	reached atomic.Bool          // a command has been answered
	closed  atomic.Bool

	pipelines sync.Map // shard name: *pipeline
}

func newRedisBackend(client redis.UniversalClient, waitReplicas int) *redisBackend {
	b := &redisBackend{client: client, wait: waitReplicas}
	b.cluster, _ = client.(*redis.ClusterClient)
	// ClusterClient is not among the obedient: it looks up its nodes and
	// commands with deadlines of its own.
	if c, ok := client.(*redis.Client); ok {
		b.single = true
		b.obeys = c.Options().ContextTimeoutEnabled
	}
	return b
}

// within runs a command, and returns when ctx ends even if the client does not.
// The command's results are then its goroutine's alone.
func within[T any](ctx context.Context, b *redisBackend, command func(context.Context) (T, error)) (T, error) {
	var zero T
	if b.closed.Load() {
		return zero, ErrClosed
	}
	if b.obeys {
		v, err := command(ctx)
		b.reaches(err)
		return v, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := command(ctx)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		b.reaches(r.err)
		return r.v, r.err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// reaches notes that a command which ended with err was answered, if it was.
func (b *redisBackend) reaches(err error) {
	if !b.reached.Load() && (err == nil || isReply(err)) {
		b.reached.Store(true)
	}
}

// isReply reports whether err is an answer of Redis, which shows that it lives.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

func (b *redisBackend) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (any, error) {
	return within(ctx, b, func(ctx context.Context) (any, error) {
		return script.Run(ctx, b.client, keys, args...).Result()
	})
}

func (b *redisBackend) runOn(ctx context.Context, script *redis.Script, key string, args ...any) (any, error) {
	return b.run(ctx, script, []string{key, leaseKey(key)}, args...)
}

func (b *redisBackend) Get(ctx context.Context, key string) ([]byte, bool, error) {
	if b.obeys && !b.closed.Load() { // what within does, and no closure
		value, err := b.client.Get(ctx, key).Bytes()
		b.reaches(err)
		return got(value, err)
	}
	value, err := within(ctx, b, func(ctx context.Context) ([]byte, error) {
		return b.client.Get(ctx, key).Bytes()
	})
	return got(value, err)
}

func got(value []byte, err error) ([]byte, bool, error) {
	switch {
	case err == nil:
		return value, true, nil
	case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"):
		return nil, false, nil // Lease removes what is of another type
	default:
		return nil, false, err
	}
}

// getMany is one MGET, or where the keys are of several slots, or the user may not
// read all of them, a pipeline of GETs.
func (b *redisBackend) getMany(ctx context.Context, keys []string) ([]found, error) {
	if !b.single {
		return b.getEach(ctx, keys)
	}
	values, err := within(ctx, b, func(ctx context.Context) ([]any, error) {
		return b.client.MGet(ctx, keys...).Result()
	})
	if isReply(err) {
		return b.getEach(ctx, keys)
	}
	out := make([]found, len(values))
	for i, v := range values {
		if text, ok := v.(string); ok {
			out[i] = found{value: unsafe.Slice(unsafe.StringData(text), len(text)), ok: true} // not copied, as it is not modified
		}
	}
	return out, err
}

func (b *redisBackend) getEach(ctx context.Context, keys []string) ([]found, error) {
	out := make([]found, len(keys))
	cmds, err := within(ctx, b, func(ctx context.Context) ([]redis.Cmder, error) {
		cmds, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, key := range keys {
				p.Get(ctx, key)
			}
			return nil
		})
		if isReply(err) {
			err = nil // of one of them
		}
		return cmds, err
	})
	if err != nil {
		return nil, err
	}
	failed := 0
	for i, cmd := range cmds {
		value, ok, err := got(cmd.(*redis.StringCmd).Bytes())
		if out[i] = (found{value: value, ok: ok, err: err}); err != nil {
			failed++
		}
	}
	if failed == len(keys) {
		return nil, out[0].err
	}
	return out, nil
}

func (b *redisBackend) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	_, err := b.runOn(ctx, setScript, key, ttl.Milliseconds(), value)
	return err
}

func (b *redisBackend) Delete(ctx context.Context, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, pairs []string) error {
		err := b.apply(ctx, deleteScript, pairs)
		return b.orPlain(ctx, err, pairs, "")
	})
}

// orPlain invalidates where Redis does not allow scripts, with single commands:
// the lease ends before the value goes, so that no fill comes between.
func (b *redisBackend) orPlain(ctx context.Context, err error, pairs []string, block string) error {
	if !isForbidden(err) {
		return err
	}
	send := func(p redis.Pipeliner) {
		for i := 0; i < len(pairs); i += 2 {
			p.HDel(ctx, pairs[i+1], append(leaseFields, "w:"+block)...)
			p.Del(ctx, pairs[i])
		}
	}
	if b.wait > 0 {
		return b.andWait(ctx, pairs[0], send)
	}
	_, err = within(ctx, b, func(ctx context.Context) (any, error) {
		return b.client.Pipelined(ctx, func(p redis.Pipeliner) error { send(p); return nil })
	})
	return err
}

// isForbidden reports whether err is the answer of a Redis that does not allow scripts.
func isForbidden(err error) bool {
	return redis.HasErrorPrefix(err, "NOPERM") || isUnknownCommand(err)
}

func isUnknownCommand(err error) bool {
	return isReply(err) && strings.Contains(err.Error(), "unknown command")
}

func (b *redisBackend) Lease(ctx context.Context, key string, req LeaseRequest) (Lease, error) {
	nonce := rand.Text()
	args := []any{req.TTL.Milliseconds(), nonce, req.Waited,
		flag(req.Bad != nil), req.Bad, flag(req.Claim != nil), req.Claim, req.Owner, req.channel}
	var res any
	var err error
	if req.Claim == nil {
		res, err = b.runInLine(ctx, leaseScript, len(req.Bad), key, args...)
	} else { // it is seldom, and the release of who gives up on it must not overtake it
		res, err = b.runOn(ctx, leaseScript, key, args...)
	}
	if err != nil {
		return Lease{}, err
	}
	return leaseFrom(res, nonce)
}

// leaseFrom reads what the script has answered to a request with the nonce.
func leaseFrom(res any, nonce string) (Lease, error) {
	answer, ok := res.([]any)
	if !ok || len(answer) != 2 {
		return Lease{}, fmt.Errorf("aside: Redis answered a lease request with %T", res)
	}
	state, _ := answer[0].(string)
	text, _ := answer[1].(string)
	switch state {
	case "granted":
		return Lease{State: Granted, Token: text}, nil
	case "loading":
		if strings.HasPrefix(text, nonce+".") {
			// The client sent the request again, as its connection broke, after Redis
			// had granted it: nobody else can have this lease, or end it.
			return Lease{State: Granted, Token: text}, nil
		}
		return Lease{State: Loading, Token: text}, nil
	case "writing":
		return Lease{State: Writing}, nil
	case "unleased":
		return Lease{State: Unleased}, nil
	case "absent":
		return Lease{State: Absent}, nil
	case "present":
		return Lease{State: Present, Value: []byte(text)}, nil
	}
	return Lease{}, fmt.Errorf("aside: Redis answered a lease request with %.40q", state)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func (b *redisBackend) Extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	res, err := b.runOn(ctx, extendScript, key, token, ttl.Milliseconds())
	return res == int64(1), err
}

func (b *redisBackend) Fill(ctx context.Context, key, token string, fill Fill) (bool, error) {
	res, err := b.runInLine(ctx, fillScript, len(fill.Value), key, token, fill.TTL.Milliseconds(), flag(fill.NotFound), fill.Value)
	return res == int64(1), err
}

func (b *redisBackend) Release(ctx context.Context, key, token string) error {
	_, err := b.runOn(ctx, releaseScript, key, token, failedMark.Milliseconds())
	return err
}

func (b *redisBackend) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, pairs []string) error {
		return b.apply(ctx, blockScript, pairs, token, ttl.Milliseconds())
	})
}

func (b *redisBackend) Unblock(ctx context.Context, token string, keys ...string) error {
	return b.eachSlot(ctx, keys, func(ctx context.Context, pairs []string) error {
		err := b.apply(ctx, unblockScript, pairs, token)
		return b.orPlain(ctx, err, pairs, token)
	})
}

// eachSlot calls do with keys and their lease keys, together where one script
// may touch them together: all at once on one node, slot by slot on Cluster.
func (b *redisBackend) eachSlot(ctx context.Context, keys []string, do func(context.Context, []string) error) error {
	groups := make(map[int][]string)
	for _, key := range keys {
		slot := 0
		if !b.single {
			slot = slotOf(key)
		}
		groups[slot] = append(groups[slot], key, leaseKey(key))
	}
	errs := make(chan error, len(groups))
	for _, pairs := range groups {
		if len(groups) == 1 {
			return do(ctx, pairs)
		}
		go func() { errs <- do(ctx, pairs) }()
	}
	var all []error
	for range groups {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// shard names the node that key lives on, so that one node's trouble is not
// another's. Before the Cluster has answered once, all keys are of one shard.
func (b *redisBackend) shard(key string) string {
	if b.cluster == nil || !b.reached.Load() {
		return ""
	}
	node, err := b.cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// masterOf returns a client of the node that key lives on.
func (b *redisBackend) masterOf(ctx context.Context, key string) (redis.UniversalClient, error) {
	if b.cluster == nil {
		return b.client, nil
	}
	return b.cluster.MasterForKey(ctx, key)
}

// eachMaster calls do with a client of every master, one call at a time.
func (b *redisBackend) eachMaster(ctx context.Context, do func(context.Context, redis.UniversalClient) error) error {
	if b.cluster == nil {
		return do(ctx, b.client)
	}
	var mu sync.Mutex
	return b.cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return do(ctx, node)
	})
}

func (b *redisBackend) Close() error {
	if !b.closed.CompareAndSwap(false, true) || !b.owned {
		return nil
	}
	return b.client.Close()
}
