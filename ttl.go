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

	// leastCancelTTL is the least time to live of a cancel signal: a process looks for
	// it at least twice, also when the backend is silent for a budget in between.
	leastCancelTTL = 500 * time.Millisecond
	// leastGenerationTTL is that of a generation's key, which is written after a third
	// of it, and then each retryClaim: it outlives the backend's silence for 3 s.
	leastGenerationTTL = 5 * time.Second
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
