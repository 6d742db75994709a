package aside

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	defaultTTL = 10 * time.Minute
	minTTL     = time.Millisecond
	maxTTL     = 365 * 24 * time.Hour
)

// ttlPolicy decides how long a key's value is kept.
type ttlPolicy struct {
	byName map[string]time.Duration
	jitter float64
}

// base is the keyspace's time to live: the configuration's, or else its own.
func (p ttlPolicy) base(s *Keyspace) time.Duration {
	if d := p.byName[s.Name]; d != 0 {
		return d
	}
	if s.TTL != 0 {
		return s.TTL
	}
	return defaultTTL
}

// jittered is d less a random share of up to jitter, so that values stored together
// do not all expire together.
func (p ttlPolicy) jittered(d time.Duration) time.Duration {
	if p.jitter == 0 {
		return d
	}
	return max(minTTL, d-time.Duration(rand.Float64()*p.jitter*float64(d)))
}

// leastTTL is the least time to live that a keyspace may be given: one with which the
// feature works that uses it.
func leastTTL(space string) time.Duration {
	switch space {
	case cancelSignal.Name:
		return leastCancelTTL
	case generation.Name:
		return leastGenerationTTL
	}
	return minTTL
}

func isTTL(d time.Duration) bool { return d >= minTTL && d <= maxTTL }

func checkTTL(d time.Duration) error {
	if !isTTL(d) {
		return fmt.Errorf("time to live %v: from %v to %v (one year) is accepted", d, minTTL, maxTTL)
	}
	return nil
}

// TTL returns how long key's value will still be kept: for a page that shows it, or a
// test. ok is false when there is no value. ttl is 0 when the value has no end,
// which only another program can have stored. It is the backend's answer, within
// Config.Timeout: what a near cache has may be gone before.
func TTL(ctx context.Context, c Cache, key Key) (ttl time.Duration, ok bool, err error) {
	f, err := frontOf(c)
	if err == nil {
		err = key.check()
	}
	if err != nil {
		return 0, false, err
	}
	return f.TTL(ctx, key.text)
}

func (f *front) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	key = f.name(key)
	ttl, err = do(ctx, f, key, f.newBudget(), false, func(ctx context.Context) (ttl time.Duration, err error) {
		ttl, ok, err = f.backend.TTL(ctx, key)
		return ttl, err
	})
	return ttl, ok && err == nil, err
}
