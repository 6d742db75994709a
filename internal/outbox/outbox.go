// Package outbox keeps the invalidations that could not be delivered. A key that stands
// in it is distrusted, as the value that the store has for it may be older than the
// database.
//
// An Outbox sends nothing. Its user adds the keys that failed ([Outbox.Add]), asks which
// to send ([Outbox.Due]), and reports those that were acknowledged ([Outbox.Delivered]).
// Sequence numbers see to it that an acknowledgement removes no newer invalidation of the
// same key. A key may also be held without an invalidation, while a write runs that the
// store does not know of ([Outbox.Hold]).
//
// The number of entries is bounded. A key that finds no room overflows into a prefix, its
// [Scope], and every key is then distrusted until all that has the prefix is cleared
// ([Outbox.ToClear], [Outbox.Cleared]).
package outbox

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Outbox holds the invalidations that could not be delivered, and the keys that
// are distrusted for another reason: a write whose block could not be set is
// still running. A key is distrusted while it stands here.
type Outbox struct {
	limit int
	size  atomic.Int64 // of entries, plus one while overflowed: 0 means all is trusted

	mu       sync.Mutex
	seq      uint64
	entries  map[string]*queued
	pending  int               // entries whose invalidation is due
	overflow map[string]uint64 // scopes of the keys that found no room, each with the number of the last; nil when none
}

// Scope returns the prefix of the keys that a Clear makes good an invalidation of key
// with: of a part of what the cache owns, or "" when key is of no such part.
type Scope func(key string) (prefix string)

// queued is a distrusted key. Its invalidation is due when seq is not 0.
type queued struct {
	seq  uint64 // of the last invalidation that asked for it
	held int    // writes that still run
}

// Due is an invalidation to deliver, and which one of the key's it is.
type Due struct {
	Key string
	seq uint64
}

// New returns an Outbox that keeps limit invalidations.
func New(limit int) *Outbox {
	return &Outbox{limit: limit, entries: make(map[string]*queued)}
}

// IsEmpty reports whether no key is distrusted.
func (q *Outbox) IsEmpty() bool { return q.size.Load() == 0 }

// Distrusts reports whether what the backend has for key may be stale.
func (q *Outbox) Distrusts(key string) bool {
	return q.size.Load() != 0 && q.has(key) // most often it is, so it is to be inlined
}

func (q *Outbox) has(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.overflow != nil || q.entries[key] != nil
}

// Hold distrusts keys until release, whatever is delivered meanwhile: an
// invalidation that was queued before the write commits lets the old value in
// again. Holding is not bounded by the limit, as it lasts only while writes run.
func (q *Outbox) Hold(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.entry(key).held++
	}
}

// Release ends a Hold of keys.
func (q *Outbox) Release(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		e := q.entries[key]
		if e.held--; e.held == 0 && e.seq == 0 {
			q.forget(key)
		}
	}
}

// Add queues the invalidation of keys. Past the limit a key overflows into its Scope.
// A key without one, that no Clear of what the cache owns would remove, is kept all
// the same, up to twice the limit, and then refused.
func (q *Outbox) Add(keys []string, of Scope) (refused int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.seq++
		e := q.entries[key]
		isNew := e == nil || e.seq == 0 // one that is held alone has no room yet
		if isNew && q.pending >= q.limit {
			if prefix := of(key); prefix != "" {
				q.overflowed(prefix)
				continue
			}
			if q.pending >= 2*q.limit {
				refused++
				continue
			}
		}
		if isNew {
			q.pending++
		}
		q.entry(key).seq = q.seq
	}
	return refused
}

// overflowed gives up on a key alone: everything is distrusted until a Clear has
// removed all that has its prefix.
func (q *Outbox) overflowed(prefix string) {
	if q.overflow == nil {
		q.overflow = make(map[string]uint64)
		q.size.Add(1)
	}
	q.overflow[prefix] = q.seq
}

func (q *Outbox) entry(key string) *queued {
	e := q.entries[key]
	if e == nil {
		e = &queued{}
		q.entries[key] = e
		q.size.Add(1)
	}
	return e
}

func (q *Outbox) forget(key string) {
	delete(q.entries, key)
	q.size.Add(-1)
}

// Due returns the invalidations to deliver, the oldest first.
func (q *Outbox) Due(skip func(key string) bool) []Due {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []Due
	for key, e := range q.entries {
		if e.seq != 0 && !skip(key) {
			out = append(out, Due{key, e.seq})
		}
	}
	slices.SortFunc(out, func(a, b Due) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

// Delivered takes out the keys whose delivery was acknowledged, unless they were
// asked for again meanwhile.
func (q *Outbox) Delivered(keys []Due) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range keys {
		e := q.entries[d.Key]
		if e == nil || e.seq != d.seq {
			continue
		}
		q.pending--
		if e.seq = 0; e.held == 0 {
			q.forget(d.Key)
		}
	}
}

// Cleared says that a Clear of prefixes that began at sequence number seq went
// through. It makes good the keys that were dropped before, not those since.
func (q *Outbox) Cleared(prefixes []string, seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.overflow == nil {
		return
	}
	for _, p := range prefixes {
		if q.overflow[p] <= seq {
			delete(q.overflow, p)
		}
	}
	if len(q.overflow) == 0 {
		q.overflow = nil
		q.size.Add(-1)
	}
}

// ToClear returns the prefixes that have to be cleared, and the sequence number
// to hand to cleared.
func (q *Outbox) ToClear() (prefixes []string, seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Sorted(maps.Keys(q.overflow)), q.seq
}

// Status returns how many invalidations wait, and whether some found no room.
func (q *Outbox) Status() (n int, overflowed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending, q.overflow != nil
}
