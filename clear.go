package aside

import (
	"context"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// scanCount is how many keys Redis looks at for one SCAN: few enough not to be
// noticed by others.
const scanCount = 1000

// pipelined is how many commands Clear sends at a time: SCAN may return more keys
// than it was asked for.
const pipelined = 128

// states are the prefixes of keys that say what is going on. They are not cached, so
// a Clear of what is cached leaves them.
var states = []string{generation.Name + ":", cancelSignal.Name + ":"}

func isState(space string) bool { return slices.Contains(states, space+":") }

// covers reports whether a Clear of prefixes removes key. A prefix that is shorter
// than one of states does not name that keyspace, and covers none of its keys.
func covers(prefixes, states []string, key string) bool {
	least := 0
	for _, s := range states {
		if strings.HasPrefix(key, s) {
			least = len(s)
		}
	}
	return slices.ContainsFunc(prefixes, func(p string) bool { return len(p) >= least && strings.HasPrefix(key, p) })
}

func (b *redisBackend) Clear(ctx context.Context, prefixes ...string) error {
	if err := b.inspect(ctx); err != nil { // a node of a Cluster would clear its own keys, and say so
		return err
	}
	_, err := within(ctx, b, func(ctx context.Context) (any, error) {
		return nil, b.eachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			return clearNode(ctx, node, prefixes, b.states)
		})
	})
	return err
}

// clearNode ends the leases before it removes values: a load that was running
// can then not put its value behind the scan.
func clearNode(ctx context.Context, node redis.UniversalClient, prefixes, states []string) error {
	owned := func(lease string) (key string, ok bool) {
		key, ok = leasedKey(lease)
		return key, ok && covers(prefixes, states, key)
	}
	err := scan(ctx, node, "*lease*", func(batch []string) error {
		_, err := node.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, lease := range batch {
				if key, ok := owned(lease); ok {
					p.Eval(ctx, endLeaseSource, []string{lease}, key)
				}
			}
			return nil
		})
		return err
	})
	for _, prefix := range prefixes {
		if err != nil {
			return err
		}
		err = scan(ctx, node, globEscape(prefix)+"*", func(batch []string) error {
			// One command per key: a node of a Cluster has many slots.
			each := func(remove func(p redis.Pipeliner, key string)) error {
				_, err := node.Pipelined(ctx, func(p redis.Pipeliner) error {
					for _, key := range batch {
						if _, isLease := leasedKey(key); !isLease && covers(prefixes, states, key) {
							remove(p, key)
						}
					}
					return nil
				})
				return err
			}
			err := each(func(p redis.Pipeliner, key string) { p.Eval(ctx, clearSource, []string{key, leaseKey(key)}) })
			if isForbidden(err) {
				return each(func(p redis.Pipeliner, key string) { p.Unlink(ctx, key) })
			}
			return err
		})
	}
	return err
}

func scan(ctx context.Context, node redis.UniversalClient, pattern string, do func(batch []string) error) error {
	for cursor := uint64(0); ; {
		batch, next, err := node.Scan(ctx, cursor, pattern, scanCount).Result()
		if err != nil {
			return err
		}
		for some := range slices.Chunk(batch, pipelined) {
			if err := do(some); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

var globEscape = strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `\`, `\\`).Replace
