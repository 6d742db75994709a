// The counters of a Cache. Each keyspace has counters of its own, to which reads and writes
// add; Status sums them up. A hit must not pay for being counted, so it finds its counters
// without a lock, and those that it adds to are spread over several words (striped).

package aside

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Status describes a Cache and its backend.
type Status struct {
	Backend    string // "redis", "memory", "none", or the Name that a custom backend returns
	Version    string // of the server, where there is one
	UsedMemory string // of the server or the memory backend, such as 1.21M
	Keys       int64  // in the server's database: all keys, not only the cache's

	// The other fields are about this process.

	Breaker    string // "open" while the breaker of at least one node is open, for all commands or for those that store; else "closed"
	Queued     int    // invalidations that wait to be delivered
	Overflowed bool   // the queue was full: every key is distrusted until a Clear has succeeded
	Stats      Stats

	// Keyspaces has the Stats of each keyspace, by name, for the first 256 that were used.
	// The Stats of all others together have the name "".
	Keyspaces map[string]Stats
}

// Stats are counts since the Cache was made, in this process alone. A read is one call of
// GetOrLoad, or one id of a call of GetOrLoadMany.
type Stats struct {
	Hits               int64 // reads of values that the cache had, or was storing, when they came
	NearHits           int64 // lookups that the near cache answered; nearly all are hits
	StaleHits          int64 // hits of values older than their keyspace's RefreshAfter
	Misses             int64 // reads that were not hits; none are counted while the cache is switched off
	Loads              int64 // calls of loaders
	LoadErrors         int64 // loads that ended with an error other than ErrNotFound, or a panic
	Refreshes          int64 // loads to replace a value older than RefreshAfter; Loads includes them
	RefreshErrors      int64 // refreshes that ended with an error other than ErrNotFound, or a panic
	RefreshesSkipped   int64 // refreshes not begun, as too many were running or loads had all places
	Audited            int64 // hits with a value that was loaded once more and compared: see Config.Audit
	AuditDifferences   int64 // audits that loaded another value than the hit's; Audited includes them
	AuditsUndecided    int64 // audits that compared nothing: a write came between, or the load failed
	Coalesced          int64 // reads that took the result of a load begun for another caller
	Waited             int64 // waits for a load in another process
	Degraded           int64 // reads that bypassed the backend because it failed or the key was distrusted
	StaleFills         int64 // loaded values that were not stored because a write came between
	DecodeErrors       int64 // stored values that did not decode
	EncodeErrors       int64 // loaded values not stored, as they did not encode, were too large or took too long to send
	Invalidated        int64 // keys that were invalidated in the backend
	InvalidationQueued int64 // keys that could not be, so that their invalidation was queued
}

// counts has the counters of each keyspace. Reading known takes no lock, as every hit does
// it; the map is therefore copied to add a keyspace, and never modified.
type counts struct {
	known atomic.Pointer[map[string]*counters] // nil before the first keyspace
	mu    sync.Mutex                           // held while known is replaced
	rest  counters                             // of the keyspaces past maxCounted, and of keys without one
}

// maxCounted is how many keyspaces have counters of their own. A metric has a label value
// for each.
const maxCounted = 256

// of returns the counters of a keyspace, which are made at its first use. All after the
// first 256 share the counters of rest, and so does a name that no keyspace can have, which
// is taken from another program's key.
func (c *counts) of(space string) *counters {
	known := c.known.Load()
	if known != nil {
		if of, ok := (*known)[space]; ok {
			return of
		}
	}
	if known != nil && len(*known) >= maxCounted || !isName(space) {
		return &c.rest
	}
	return c.add(space)
}

// add adds a keyspace, unless it is there by now or there are maxCounted.
func (c *counts) add(space string) *counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := make(map[string]*counters)
	if old := c.known.Load(); old != nil {
		if of, ok := (*old)[space]; ok {
			return of
		}
		if len(*old) >= maxCounted {
			return &c.rest
		}
		maps.Copy(known, *old)
	}
	of := &counters{space: strings.Clone(space)}
	known[of.space] = of
	c.known.Store(&known)
	return of
}

// stats returns the counts of all keyspaces together, and of each. The counters are read one
// after the other while they change, so sums may be off by the reads on their way.
func (c *counts) stats() (all Stats, each map[string]Stats) {
	each = make(map[string]Stats)
	if rest := c.rest.stats(); rest != (Stats{}) {
		each[""] = rest
	}
	if known := c.known.Load(); known != nil {
		for space, of := range *known {
			each[space] = of.stats()
		}
	}
	for _, s := range each {
		all.add(s)
	}
	return all, each
}

// counters are the counters of one keyspace, or with the name "" of those that share rest.
// Those that every hit adds to are striped.
type counters struct {
	space                                                       string
	hits, nearHits, staleHits                                   striped
	audited, auditDifferences, auditsUndecided                  atomic.Int64
	refreshes, refreshErrors, refreshesSkipped                  atomic.Int64
	misses, loads, loadErrors, coalesced, waited, degraded      atomic.Int64
	staleFills, decodeErrors, encodeErrors, invalidated, queued atomic.Int64
}

// stats returns the counts. A new counter goes into counters, Stats, here and into add.
func (c *counters) stats() Stats {
	return Stats{
		Hits:               c.hits.Load(),
		NearHits:           c.nearHits.Load(),
		StaleHits:          c.staleHits.Load(),
		Misses:             c.misses.Load(),
		Loads:              c.loads.Load(),
		LoadErrors:         c.loadErrors.Load(),
		Refreshes:          c.refreshes.Load(),
		RefreshErrors:      c.refreshErrors.Load(),
		RefreshesSkipped:   c.refreshesSkipped.Load(),
		Audited:            c.audited.Load(),
		AuditDifferences:   c.auditDifferences.Load(),
		AuditsUndecided:    c.auditsUndecided.Load(),
		Coalesced:          c.coalesced.Load(),
		Waited:             c.waited.Load(),
		Degraded:           c.degraded.Load(),
		StaleFills:         c.staleFills.Load(),
		DecodeErrors:       c.decodeErrors.Load(),
		EncodeErrors:       c.encodeErrors.Load(),
		Invalidated:        c.invalidated.Load(),
		InvalidationQueued: c.queued.Load(),
	}
}

// add adds the counts of o to s.
func (s *Stats) add(o Stats) {
	s.Hits += o.Hits
	s.NearHits += o.NearHits
	s.StaleHits += o.StaleHits
	s.Misses += o.Misses
	s.Loads += o.Loads
	s.LoadErrors += o.LoadErrors
	s.Refreshes += o.Refreshes
	s.RefreshErrors += o.RefreshErrors
	s.RefreshesSkipped += o.RefreshesSkipped
	s.Audited += o.Audited
	s.AuditDifferences += o.AuditDifferences
	s.AuditsUndecided += o.AuditsUndecided
	s.Coalesced += o.Coalesced
	s.Waited += o.Waited
	s.Degraded += o.Degraded
	s.StaleFills += o.StaleFills
	s.DecodeErrors += o.DecodeErrors
	s.EncodeErrors += o.EncodeErrors
	s.Invalidated += o.Invalidated
	s.InvalidationQueued += o.InvalidationQueued
}

// striped is a counter that many processors add to at once. A single word would be passed
// from one processor's cache to the next, at several times the cost of a hit in memory.
type striped [16]struct {
	atomic.Int64
	_ [120]byte // keeps two stripes out of the cache lines that a processor fetches together
}

// Add adds n to one stripe, chosen by the address of the goroutine's stack: it differs from
// goroutine to goroutine, and costs nothing to know.
func (s *striped) Add(n int64) {
	var here byte
	i := uint64(uintptr(unsafe.Pointer(&here))) >> 11 * 0x9e3779b97f4a7c15 >> 60
	s[i].Int64.Add(n)
}

// Load returns the sum of the stripes.
func (s *striped) Load() (n int64) {
	for i := range s {
		n += s[i].Int64.Load()
	}
	return n
}

// humanBytes writes n as Redis's used_memory_human does: 1.21M.
func humanBytes(n int64) string {
	units := "BKMGT"
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.2f%c", f, units[i])
}
