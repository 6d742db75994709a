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

	// leastCancelTTL is the least time to live of a cancel signal. A process then looks for
	// it at least twice, even if the backend is unavailable for a time budget in between.
	leastCancelTTL = 500 * time.Millisecond
	// leastGenerationTTL is the least time to live of a generation's key. The key is
	// extended after a third of it, and then every retryClaim, so it survives 3 s in which
	// the backend is unavailable.
	leastGenerationTTL = 5 * time.Second
)

// ttlPolicy decides how long values are kept, and how long they are fresh. Settings of
// the Config take precedence over those of the keyspace, so that an operator can change
// them without a new build.
type ttlPolicy struct {
	byName    map[string]time.Duration
	refreshes map[string]time.Duration // the ages from which values are loaded again, by keyspace
	jitter    float64
}

// base returns the keyspace's time to live, before jitter.
func (p ttlPolicy) base(s *Keyspace) time.Duration {
	if d := p.byName[s.Name]; d != 0 {
		return d
	}
	if s.TTL != 0 {
		return s.TTL
	}
	return defaultTTL
}

// jittered returns d less a random share of up to jitter, so that values stored together
// do not all expire together.
func (p ttlPolicy) jittered(d time.Duration) time.Duration {
	if p.jitter == 0 {
		return d
	}
	return max(minTTL, d-time.Duration(rand.Float64()*p.jitter*float64(d)))
}

// refreshAfter returns the age from which values of the keyspace are loaded again, or 0
// for never.
func (p *ttlPolicy) refreshAfter(s *Keyspace) time.Duration {
	if len(p.refreshes) > 0 {
		if d, ok := p.refreshes[s.Name]; ok {
			return d
		}
	}
	return s.RefreshAfter
}

// checkRefresh returns an error if some value of the keyspace expires before it is old
// enough to be refreshed.
func (p *ttlPolicy) checkRefresh(s *Keyspace) error {
	after, ttl := p.refreshAfter(s), p.base(s)
	if least := p.least(ttl); after > least {
		return fmt.Errorf("%w: keyspace %q: RefreshAfter %v%s: want at most %v, as values are kept for %v%s less a jitter of %v", ErrInvalidKey, s.Name,
			after, from(p.refreshes, s.Name, "RefreshAfter", "CACHE_REFRESH_"), least, ttl, from(p.byName, s.Name, "TTLs", "CACHE_TTL_"), p.jitter)
	}
	return nil
}

// from names the setting that a duration comes from, unless it is the keyspace itself.
func from(settings map[string]time.Duration, space, field, prefix string) string {
	if _, ok := settings[space]; !ok {
		return ""
	}
	return fmt.Sprintf(" (Config.%s, %s%s)", field, prefix, strings.ToUpper(space))
}

// least returns the smallest result of jittered(d).
func (p *ttlPolicy) least(d time.Duration) time.Duration {
	return d - time.Duration(p.jitter*float64(d))
}

// freshFor returns how long a value that is kept for ttl is marked as fresh, or 0 for no
// mark. That is the keyspace's RefreshAfter, reduced in proportion where KeepFor has
// shortened ttl, and jittered, so that refreshes of values stored together are spread.
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

// unmarked tells the backend which values without a mark are fresh, by their remaining
// time. A value that this library marked is never one of them after its mark has ended,
// however much the jitter took off.
func (p *ttlPolicy) unmarked(s *Keyspace) *backend.Refresh {
	ttl := p.base(s)
	return &backend.Refresh{Over: ttl - p.least(p.refreshAfter(s)), Within: ttl}
}

// leastTTL returns the least time to live with which the feature that uses the keyspace
// works.
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
		return fmt.Errorf("time to live %v: want from %v to %v (one year)", d, minTTL, maxTTL)
	}
	return nil
}
