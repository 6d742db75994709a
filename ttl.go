package aside

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
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
	byName    map[string]time.Duration
	refreshes map[string]time.Duration // the ages from which values are loaded again, by keyspace
	jitter    float64
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

// refreshAfter is the age from which values of the keyspace are loaded again: the
// configuration's, or else its own. 0 is never.
func (p *ttlPolicy) refreshAfter(s *Keyspace) time.Duration {
	if len(p.refreshes) > 0 {
		if d, ok := p.refreshes[s.Name]; ok {
			return d
		}
	}
	return s.RefreshAfter
}

// checkRefresh returns an error when no value of the keyspace becomes old enough to be
// loaded again.
func (p *ttlPolicy) checkRefresh(s *Keyspace) error {
	after, ttl := p.refreshAfter(s), p.base(s)
	if least := p.least(ttl); after > least {
		return fmt.Errorf("%w: keyspace %q: RefreshAfter %v%s: at most %v is accepted, as values are kept for %v%s less a jitter of %v", ErrInvalidKey, s.Name,
			after, from(p.refreshes, s.Name, "RefreshAfter", "CACHE_REFRESH_"), least, ttl, from(p.byName, s.Name, "TTLs", "CACHE_TTL_"), p.jitter)
	}
	return nil
}

// from says where a setting of a keyspace comes from, if it is not the keyspace itself.
func from(settings map[string]time.Duration, space, field, prefix string) string {
	if _, ok := settings[space]; !ok {
		return ""
	}
	return fmt.Sprintf(" (Config.%s, %s%s)", field, prefix, strings.ToUpper(space))
}

// least is the least that jittered makes of d.
func (p *ttlPolicy) least(d time.Duration) time.Duration {
	return d - time.Duration(p.jitter*float64(d))
}

// freshFor is how long a value of the keyspace that is kept for ttl is fresh, or 0 where none
// is marked so: the keyspace's RefreshAfter, or its share of a shorter ttl.
func (p *ttlPolicy) freshFor(s *Keyspace, ttl time.Duration) time.Duration {
	after, base := p.refreshAfter(s), p.base(s)
	if after == 0 {
		return 0
	}
	if ttl < base {
		after = time.Duration(float64(after) * float64(ttl) / float64(base))
	}
	return p.jittered(max(after, minTTL))
}

// unmarked says which values of the keyspace are fresh that have no mark. A value of its own
// that was marked is none of them once the mark has ended.
func (p *ttlPolicy) unmarked(s *Keyspace) *backend.Refresh {
	ttl := p.base(s)
	return &backend.Refresh{Over: ttl - p.least(p.refreshAfter(s)), Within: ttl}
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
