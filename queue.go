package aside

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// queue holds the invalidations that could not be delivered, and the keys that
// are distrusted for another reason: a write whose block could not be set is
// still running. A key is distrusted while it stands here.
type queue struct {
	limit int
	size  atomic.Int64 // of entries, plus one while overflowed: 0 means all is trusted

	mu       sync.Mutex
	seq      uint64
	entries  map[string]*queued
	pending  int             // entries whose invalidation is due
	overflow map[string]bool // prefixes of the keys that found no room; nil when none
	dropped  uint64          // the sequence number of the last such key
}

// queued is a distrusted key. Its invalidation is due when seq is not 0.
type queued struct {
	seq  uint64 // of the last invalidation that asked for it
	held int    // writes that still run
}

// dueKey is an invalidation to deliver, and which one of the key's it is.
type dueKey struct {
	key string
	seq uint64
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, entries: make(map[string]*queued)}
}

// distrusts reports whether what the backend has for key may be stale.
func (q *queue) distrusts(key string) bool {
	if q.size.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.overflow != nil || q.entries[key] != nil
}

// hold distrusts keys until release, whatever is delivered meanwhile: an
// invalidation that was queued before the write commits lets the old value in
// again. Holding is not bounded by the limit, as it lasts only while writes run.
func (q *queue) hold(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.entry(key).held++
	}
}

func (q *queue) release(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		e := q.entries[key]
		if e.held--; e.held == 0 && e.seq == 0 {
			q.forget(key)
		}
	}
}

// add queues the invalidation of keys.
func (q *queue) add(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.seq++
		if q.entries[key] == nil && len(q.entries) >= q.limit {
			q.overflowed(key)
			continue
		}
		e := q.entry(key)
		if e.seq == 0 {
			q.pending++
		}
		e.seq = q.seq
	}
}

// overflowed gives up on key alone: everything is distrusted until a Clear has
// removed whatever starts like it.
func (q *queue) overflowed(key string) {
	if q.overflow == nil {
		q.overflow = make(map[string]bool)
		q.size.Add(1)
	}
	prefix := key
	if i := strings.IndexByte(key, ':'); i >= 0 {
		prefix = key[:i+1]
	}
	q.overflow[prefix] = true
	q.dropped = q.seq
}

func (q *queue) entry(key string) *queued {
	e := q.entries[key]
	if e == nil {
		e = &queued{}
		q.entries[key] = e
		q.size.Add(1)
	}
	return e
}

func (q *queue) forget(key string) {
	delete(q.entries, key)
	q.size.Add(-1)
}

// due returns the invalidations to deliver, the oldest first.
func (q *queue) due(skip func(key string) bool) []dueKey {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []dueKey
	for key, e := range q.entries {
		if e.seq != 0 && !skip(key) {
			out = append(out, dueKey{key, e.seq})
		}
	}
	slices.SortFunc(out, func(a, b dueKey) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

// delivered takes out the keys whose delivery was acknowledged, unless they were
// asked for again meanwhile.
func (q *queue) delivered(keys []dueKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range keys {
		e := q.entries[d.key]
		if e == nil || e.seq != d.seq {
			continue
		}
		q.pending--
		if e.seq = 0; e.held == 0 {
			q.forget(d.key)
		}
	}
}

// cleared says that a Clear of prefixes that began at sequence number seq went
// through.
func (q *queue) cleared(seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.overflow != nil && q.dropped <= seq {
		q.overflow = nil
		q.size.Add(-1)
	}
}

// toClear returns the prefixes that have to be cleared, and the sequence number
// to hand to cleared.
func (q *queue) toClear() (prefixes []string, seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p := range q.overflow {
		prefixes = append(prefixes, p)
	}
	return prefixes, q.seq
}

func (q *queue) status() (n int, overflowed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending, q.overflow != nil
}
