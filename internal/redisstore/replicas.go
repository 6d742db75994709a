package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// apply runs a script that invalidates, and waits for the replicas that must have
// it.
func (b *Store) apply(ctx context.Context, script *redis.Script, keys []string, args ...any) error {
	if b.WaitReplicas == 0 {
		res, err := b.run(ctx, script, keys, args...)
		b.tellReplaced(res)
		return err
	}
	// Its text, not its digest: to learn that Redis does not know the script would
	// cost a WAIT for nothing.
	var sent *redis.Cmd
	err := b.andWait(ctx, keys[0], func(p redis.Pipeliner) { sent = script.Eval(ctx, p, keys, args...) })
	if err == nil { // or the client may not be through with it
		b.tellReplaced(sent.Val())
	}
	return err
}

// andWait sends a command and then WAIT on the same connection, as WAIT is about
// what was written on its own.
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
		if err != nil { // that of the first command that failed
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

// waitFor leaves a quarter of the time for WAIT's answer to arrive.
func waitFor(ctx context.Context, node *redis.Client) time.Duration {
	d := time.Second
	if deadline, ok := ctx.Deadline(); ok {
		d = time.Until(deadline)
	}
	if t := node.Options().ReadTimeout; t > 0 {
		d = min(d, t)
	}
	return max(time.Millisecond, d*3/4) // 0 ms is for ever
}

// notReplicated is an answer of Redis that an invalidation is not safe yet.
type notReplicated struct{ got, want int }

func (e notReplicated) Error() string {
	return fmt.Sprintf("%d replicas have the invalidation, %d must", e.got, e.want)
}

func (notReplicated) RedisError() {}
