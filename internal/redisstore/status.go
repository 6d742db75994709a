package redisstore

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
)

// Info sums up the keys and the memory of all masters. Fields that the user may not ask for
// are left out.
func (b *Store) Info(ctx context.Context) (backend.Info, error) {
	if err := b.Inspect(ctx); err != nil {
		return backend.Info{Name: "redis"}, err
	}
	return beside(ctx, b, func(ctx context.Context) (backend.Info, error) {
		s := backend.Info{Name: "redis"}
		var used int64
		err := b.eachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			// A refusal shows that the server is up, and leaves the field out.
			keys, err := node.DBSize(ctx).Result()
			if err = b.told(err); err != nil && !Answered(err) {
				return err
			}
			s.Keys += keys
			for _, section := range []string{"server", "memory"} {
				text, err := node.Info(ctx, section).Result()
				if err = b.told(err); err != nil && !Answered(err) {
					return err
				}
				s.Version = cmp.Or(s.Version, infoField(text, "redis_version"))
				n, _ := strconv.ParseInt(infoField(text, "used_memory"), 10, 64)
				used += n
			}
			return nil
		})
		s.UsedBytes = used
		return s, err
	})
}

// TTL is one PTTL.
func (b *Store) TTL(ctx context.Context, key string) (time.Duration, bool, error) {
	ttl, err := inTurn(ctx, b, key, func(ctx context.Context) (time.Duration, error) {
		return b.client.PTTL(ctx, key).Result()
	})
	return max(0, ttl), err == nil && ttl != -2, err // -2: no key; -1: no end
}

// Size returns how many bytes the value of key has, 0 if there is none.
func (b *Store) Size(ctx context.Context, key string) (int64, error) {
	return inTurn(ctx, b, key, func(ctx context.Context) (int64, error) {
		return b.client.StrLen(ctx, key).Result()
	})
}

// infoField returns a field of INFO's answer, or "".
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
