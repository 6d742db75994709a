package aside

import (
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

// value is base less a random share of up to jitter, so that values stored
// together do not all expire together.
func (p ttlPolicy) value(s *Keyspace) time.Duration {
	return p.jittered(p.base(s))
}

func (p ttlPolicy) jittered(d time.Duration) time.Duration {
	if p.jitter == 0 {
		return d
	}
	return max(minTTL, d-time.Duration(rand.Float64()*p.jitter*float64(d)))
}

func isTTL(d time.Duration) bool { return d >= minTTL && d <= maxTTL }

func checkTTL(d time.Duration) error {
	if !isTTL(d) {
		return fmt.Errorf("time to live %v: from %v to %v (one year) is accepted", d, minTTL, maxTTL)
	}
	return nil
}
