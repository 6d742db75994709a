package aside

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Status describes a Cache.
type Status struct {
	Backend    string // "redis", "memory", "none", or the Name that a backend of one's own gives
	Version    string // the server's, where there is one
	UsedMemory string // of the server or the cache, like 1.21M
	Keys       int64  // in the database: all keys, not only the cache's

	// The rest is of this process.

	Breaker    string // "closed" while the backend is used, "open" while a node of it is left alone, or not asked to store
	Queued     int    // invalidations waiting to be delivered
	Overflowed bool   // the queue was full: nothing cached is trusted until a Clear went through
	Stats      Stats

	// Keyspaces are the Stats of each keyspace, by name, for the first 256 that were used.
	// Those of all others together have the name "".
	Keyspaces map[string]Stats
}

// Stats are counts since the Cache was made, of this process alone.
type Stats struct {
	Hits               int64 // reads of values that the cache had, or was storing, when they came
	NearHits           int64 // looks that the near cache answered: nearly all are hits
	StaleHits          int64 // hits of values older than their keyspace's RefreshAfter
	Misses             int64 // the other reads, but for those while the cache is switched off
	Loads              int64 // calls of loaders
	LoadErrors         int64 // loads that ended with an error other than ErrNotFound, or a panic
	Refreshes          int64 // of these, to replace a value that is older than RefreshAfter
	RefreshErrors      int64 // refreshes that ended with an error other than ErrNotFound, or a panic
	RefreshesSkipped   int64 // refreshes that were not begun, as too many were running or loads had all places
	Audited            int64 // values of hits that were loaded once more and compared: see Config.Audit
	AuditDifferences   int64 // of these, values that were another one than the hit's
	AuditsUndecided    int64 // audits that compared nothing: a write came between, or the load failed
	Coalesced          int64 // reads that took the result of a load begun for another caller
	Waited             int64 // waits for a load in another process
	Degraded           int64 // reads that went without the backend because of trouble with it or an undelivered invalidation
	StaleFills         int64 // loaded values that were not stored because a write came between
	DecodeErrors       int64 // stored values that did not decode
	EncodeErrors       int64 // loaded values that could not be encoded, were too large, or took too long to send, and were not stored
	Invalidated        int64 // keys whose invalidation was applied
	InvalidationQueued int64 // keys whose invalidation had to be queued
}

// counts are counters by keyspace.
type counts struct {
	known atomic.Pointer[map[string]*counters] // copied when a keyspace is added
	mu    sync.Mutex                           // held to add one
	rest  counters
}

// maxCounted is how many keyspaces are counted by themselves.
const maxCounted = 256

// of returns the counters of a keyspace. Those of all keyspaces after the first, which have
// the name "" in metrics, are the same. Names that no keyspace can have are of other programs'
// keys, and no labels for metrics.
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

// stats returns the counts of all keyspaces together, and of each.
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

// counters are those of a keyspace, or with the name "" of all that are not counted by
// themselves.
type counters struct {
	space                                                       string
	hits, nearHits, staleHits                                   striped
	audited, auditDifferences, auditsUndecided                  atomic.Int64
	refreshes, refreshErrors, refreshesSkipped                  atomic.Int64
	misses, loads, loadErrors, coalesced, waited, degraded      atomic.Int64
	staleFills, decodeErrors, encodeErrors, invalidated, queued atomic.Int64
}

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

// striped counts what many processors count at once: one word for all of them would
// be passed from one to the next, at several times the cost of a hit in memory.
type striped [16]struct {
	atomic.Int64
	_ [120]byte // no two in the lines that a processor fetches together
}

// Add takes a stripe by where the goroutine's stack is: that differs from goroutine
// to goroutine, and costs nothing to know.
func (s *striped) Add(n int64) {
	var here byte
	i := uint64(uintptr(unsafe.Pointer(&here))) >> 11 * 0x9e3779b97f4a7c15 >> 60
	s[i].Int64.Add(n)
}

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
