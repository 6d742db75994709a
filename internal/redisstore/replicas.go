package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// apply runs a script that invalidates. With WaitReplicas it also waits until that many
// replicas have acknowledged it, and returns an error if they have not in time: the
// invalidation has been applied by the master then, and the caller must repeat it.
func (b *Store) apply(ctx context.Context, script *redis.Script, keys []string, args ...any) error {
	if b.WaitReplicas == 0 {
		res, err := b.run(ctx, script, keys, args...)
		b.tellReplaced(res)
		return err
	}
	// EVAL, not EVALSHA: a reply that Redis does not know the digest would come after a
	// WAIT for nothing.
	var sent *redis.Cmd
	err := b.andWait(ctx, keys[0], func(p redis.Pipeliner) { sent = script.Eval(ctx, p, keys, args...) })
	if err == nil { // after an error, the client may still be writing to sent
		b.tellReplaced(sent.Val())
	}
	return err
}

// andWait sends a command and then WAIT on the same connection: WAIT is about the writes of
// its own connection. They go to the key's node itself, as a ClusterClient might send the two
// on different connections.
func (b *Store) andWait(ctx context.Context, key string, send func(redis.Pipeliner)) error {
	_, err := inTurn(ctx, b, key, func(ctx context.Context) (any, error) {
		node, err := b.masterOf(ctx, key)
		if err != nil {
			return nil, err
		}
		var acked *redis.Cmd
		_, err = node.Pipelined(ctx, func(p redis.Pipeliner) error {
			send(p)
			acked = p.Do(ctx, "WAIT", b.WaitReplicas, waitFor(ctx, node).Milliseconds())
			return nil
		})
		if err != nil { // of the first command that failed
			if b.cluster != nil && (redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK")) {
				b.cluster.ReloadState(ctx) // for the next try
			}
			return nil, err
		}
		if got, err := acked.Int(); err != nil || got < b.WaitReplicas {
			return nil, notReplicated{got, b.WaitReplicas}
		}
		return nil, nil
	})
	return err
}

// waitFor returns how long WAIT may take, which leaves a quarter of the time for its answer
// to arrive.
func waitFor(ctx context.Context, node *redis.Client) time.Duration {
	d := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		d = time.Until(deadline)
	}
	if t := node.Options().ReadTimeout; t > 0 {
		d = min(d, t)
	}
	return max(time.Millisecond, d*3/4) // WAIT takes 0 ms for no limit
}

// notReplicated is the error of an invalidation that too few replicas have acknowledged. It
// counts as a reply of Redis: the master has answered.
type notReplicated struct{ got, want int }

func (e notReplicated) Error() string {
	return fmt.Sprintf("invalidation acknowledged by %d replicas, want %d", e.got, e.want)
}

// RedisError makes a notReplicated a redis.Error.
func (notReplicated) RedisError() {}
