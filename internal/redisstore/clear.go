// Clear, in steps of one command each: a Sweep has the progress, SweepStep does the next
// step, and Clear does all of them.

package redisstore

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/internal/deadline"
)

// scanCount is how many keys Redis looks at for one SCAN at most, few enough not to delay
// other clients noticeably.
const scanCount = 1000

// pipelined is how many commands Clear sends at a time at most: SCAN may return more keys
// than it was asked for.
const pipelined = 128

// clearStep is how long a step of Store.Clear may take.
const clearStep = 250 * time.Millisecond

// firstSize is how many keys a node's first step is about. The size doubles while steps are
// quick.
const firstSize = 16

// Sweep is a Clear and its progress. A Clear has no bound, so no deadline fits it as a whole:
// it is done in steps of one command each, and each step has its own time limit. A step that
// fails leaves the progress, so that the next attempt resumes there. A Sweep must not be used
// concurrently.
//
// On each master the leases are ended first, and then the values are removed, so that a
// running load cannot store its value behind the scan. A value and its lease are on the same
// master, so the masters need not wait for each other. The order also holds when an earlier
// attempt has ended the leases. A Clear makes good the invalidations from before it began. A
// load that began before one of them has a lease from before the Clear, which was ended with
// the others and which no renewal revives. A lease granted since belongs to a load that began
// after the write, in any process, so the value that it stores is fresh.
//
// A cursor is a place in one server's table. It stays valid while that server lives, on any
// connection, and however the table grows or shrinks. On another server (after a failover or
// a restart) it means nothing, and removed values and leases may be back, so that master is
// swept from the beginning.
type Sweep struct {
	prefixes []string              // sorted, without duplicates
	stepTime time.Duration         // how long a step may take
	masters  map[string]*nodeSweep // by address
	listed   bool                  // masters are current: no step has failed since they were listed
}

// nodeSweep is the progress on one master.
type nodeSweep struct {
	client *redis.Client
	server string   // its run ID, or "" when the user may not INFO
	phase  int      // 0 for leases, then i+1 for the values of prefixes[i]
	cursor uint64   // for the next SCAN
	found  []string // keys of the last SCAN that are still to be handled
	size   int      // of the next step, in keys
}

// NewSweep returns a Clear of prefixes, each step of which may take stepTime.
func NewSweep(prefixes []string, stepTime time.Duration) *Sweep {
	prefixes = slices.Compact(slices.Sorted(slices.Values(prefixes)))
	return &Sweep{prefixes: prefixes, stepTime: stepTime, masters: make(map[string]*nodeSweep)}
}

// Clear does all steps of a Sweep. It ends at the first that fails, and another Clear begins
// anew.
func (b *Store) Clear(ctx context.Context, prefixes ...string) error {
	s := NewSweep(prefixes, clearStep)
	for {
		if done, err := b.SweepStep(ctx, s); done || err != nil {
			return err
		}
	}
}

// SweepStep does the next step of s, and reports whether it was the last. After an error, the
// next call does the same step again. The masters are listed at the beginning, after a
// failure, and once more when all of them are swept: the Clear is over when they are still
// the same servers.
func (b *Store) SweepStep(ctx context.Context, s *Sweep) (done bool, err error) {
	ctx, cancel := deadline.Within(ctx, s.stepTime)
	defer cancel()
	n := s.next()
	if n == nil || !s.listed {
		if err := b.Inspect(ctx); err != nil { // a node of a Cluster would clear only its own keys
			return false, err
		}
		masters, err := beside(ctx, b, b.listMasters)
		if s.listed = err == nil; err != nil {
			return false, err
		}
		s.follow(masters)
		return s.next() == nil, nil
	}
	start := time.Now()
	err = n.step(ctx, b, s.prefixes)
	s.listed = err == nil
	switch took := time.Since(start); {
	case err != nil:
		n.size = max(1, n.size/firstSize)
	case took < s.stepTime/2: // twice the keys still fit into the time
		n.size = min(2*n.size, scanCount)
	}
	return false, err
}

// next returns a master that is not swept yet, or nil.
func (s *Sweep) next() *nodeSweep {
	for n := range maps.Values(s.masters) {
		if n.phase <= len(s.prefixes) {
			return n
		}
	}
	return nil
}

// follow replaces the masters by a new list, and keeps the progress on those that are the
// same servers as before.
func (s *Sweep) follow(masters map[string]*nodeSweep) {
	for addr, n := range masters {
		if old := s.masters[addr]; old != nil && old.server == n.server {
			old.client = n.client
			masters[addr] = old
		}
	}
	s.masters = masters
}

// listMasters returns the masters by address, each with its run ID.
func (b *Store) listMasters(ctx context.Context) (map[string]*nodeSweep, error) {
	masters := make(map[string]*nodeSweep)
	err := b.eachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		info, err := node.Info(ctx, "server").Result()
		if err = b.told(err); err != nil && !Answered(err) {
			return err
		}
		addr := ""
		if b.cluster != nil {
			addr = node.Options().Addr
		}
		masters[addr] = &nodeSweep{client: node, server: infoField(info, "run_id"), size: firstSize}
		return nil
	})
	return masters, err
}

// step sends one command or pipeline: the next SCAN, or the removal of some of the keys that
// the last SCAN has found. Where Redis allows no scripts, keys are removed by single commands,
// and claims do not stay.
func (n *nodeSweep) step(ctx context.Context, b *Store, prefixes []string) error {
	if len(n.found) == 0 {
		return n.scan(ctx, b, prefixes)
	}
	batch := n.found[:min(len(n.found), n.size, pipelined)]
	client, phase := n.client, n.phase
	send := func(add func(p redis.Pipeliner)) error {
		_, err := beside(ctx, b, func(ctx context.Context) ([]redis.Cmder, error) {
			return client.Pipelined(ctx, func(p redis.Pipeliner) error { add(p); return nil })
		})
		return err
	}
	var err error
	if phase == 0 {
		err = send(func(p redis.Pipeliner) {
			eachLease(batch, prefixes, b.Covers, func(lease, key string) { p.Eval(ctx, endLeaseSource, []string{lease}, key) })
		})
		if isForbidden(err) {
			err = send(func(p redis.Pipeliner) {
				eachLease(batch, prefixes, b.Covers, func(lease, _ string) { p.Del(ctx, lease) })
			})
		}
	} else {
		var pairs []string
		eachValue(batch, prefixes, b.Covers, func(key string) { pairs = append(pairs, key, LeaseKey(key)) })
		together := max(len(pairs), 2)
		if b.cluster != nil {
			together = 2 // a script must not name keys of several slots
		}
		err = send(func(p redis.Pipeliner) {
			for some := range slices.Chunk(pairs, together) {
				p.Eval(ctx, clearSource, some)
			}
		})
		if isForbidden(err) {
			err = send(func(p redis.Pipeliner) {
				eachValue(batch, prefixes, b.Covers, func(key string) { p.Unlink(ctx, key) })
			})
		}
	}
	if err == nil {
		n.found = n.found[len(batch):]
		n.advance()
	}
	return err
}

// scan sends the next SCAN of the phase.
func (n *nodeSweep) scan(ctx context.Context, b *Store, prefixes []string) error {
	type page struct {
		keys []string
		next uint64
	}
	pattern := "*lease*"
	if n.phase > 0 {
		pattern = globEscape(prefixes[n.phase-1]) + "*"
	}
	client, cursor, count := n.client, n.cursor, int64(n.size)
	got, err := beside(ctx, b, func(ctx context.Context) (page, error) {
		keys, next, err := client.Scan(ctx, cursor, pattern, count).Result()
		return page{keys, next}, err
	})
	if err == nil {
		n.found, n.cursor = got.keys, got.next
		n.advance()
	}
	return err
}

// advance begins the next phase when the keys of the last page have been handled.
func (n *nodeSweep) advance() {
	if n.cursor == 0 && len(n.found) == 0 {
		n.phase++
	}
}

// eachLease calls end with each lease key in batch, and its key, that a Clear of prefixes
// covers.
func eachLease(batch, prefixes []string, covers func([]string, string) bool, end func(lease, key string)) {
	for _, lease := range batch {
		if key, ok := LeasedKey(lease); ok && covers(prefixes, key) {
			end(lease, key)
		}
	}
}

// eachValue calls remove with each key in batch that is no lease key and that a Clear of
// prefixes covers.
func eachValue(batch, prefixes []string, covers func([]string, string) bool, remove func(key string)) {
	for _, key := range batch {
		if _, isLease := LeasedKey(key); !isLease && covers(prefixes, key) {
			remove(key)
		}
	}
}

// globEscape escapes the characters that a pattern of SCAN interprets.
var globEscape = strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `\`, `\\`).Replace
