// Package outbox keeps the invalidations that could not be delivered. A key in it is
// distrusted: the value that the store has for it may be older than the database, so reads
// bypass the store, and loaded values are not stored.
//
// An Outbox sends nothing. Its user adds the keys that failed ([Outbox.Add]), asks which
// to send ([Outbox.Due]), and reports those that were acknowledged ([Outbox.Delivered]).
// Sequence numbers ensure that an acknowledgement removes no newer invalidation of the same
// key. A key may also be held without an invalidation, while a write runs that the store
// does not know of ([Outbox.Hold]).
//
// The number of invalidations is bounded. A key that finds no room overflows into a prefix,
// its [Scope], and every key is then distrusted until everything with the prefix has been
// cleared ([Outbox.ToClear], [Outbox.Cleared]). An invalidation is thus never lost while the
// process lives; too many of them cost the use of the cache instead.
package outbox

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Outbox has the distrusted keys: those with an undelivered invalidation, and those held by
// a running write that could not block them. Its methods may be called
// concurrently, and do not wait.
type Outbox struct {
	limit int
	size  atomic.Int64 // len(entries), plus 1 while overflowed; 0 means that every key is trusted

	// mu guards the fields below, and changes of size.
	mu       sync.Mutex
	seq      uint64             // the number of the last invalidation that was added
	entries  map[string]*queued // by key
	pending  int                // entries with an undelivered invalidation
	overflow map[string]uint64  // the number of the last overflow into each scope; nil when there is none
}

// Scope returns the prefix that a Clear must remove to make good a lost invalidation of key.
// It names a part of the keys that the cache owns, or is "" when key belongs to no such part.
type Scope func(key string) (prefix string)

// queued is a distrusted key. It is forgotten when both fields are 0.
type queued struct {
	seq  uint64 // the number of the last undelivered invalidation, or 0
	held int    // running writes that hold the key
}

// Due is an invalidation to deliver.
type Due struct {
	Key string
	seq uint64 // tells it from a later one of the same key
}

// New returns an empty Outbox that keeps at most limit invalidations.
func New(limit int) *Outbox {
	return &Outbox{limit: limit, entries: make(map[string]*queued)}
}

// IsEmpty reports whether no key is distrusted.
func (q *Outbox) IsEmpty() bool { return q.size.Load() == 0 }

// Distrusts reports whether the store's value for key may be stale. Each read asks, and
// nearly always of an empty Outbox, so that case takes no lock and is small enough for the
// compiler to inline.
func (q *Outbox) Distrusts(key string) bool {
	return q.size.Load() != 0 && q.has(key)
}

// has is Distrusts of an Outbox that is not empty.
func (q *Outbox) has(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.overflow != nil || q.entries[key] != nil
}

// Hold distrusts keys until Release, even if their invalidations are delivered meanwhile: a
// delivery before the write commits would let readers store the old value again. Held keys
// do not count towards the limit, as they are bounded by the writes that run.
func (q *Outbox) Hold(keys []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.entry(key).held++
	}
}

// Release ends one Hold of keys. An invalidation of them that is undelivered stays.
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

// Add queues the invalidation of keys. Past the limit a new key overflows into its Scope. A
// key without one, which no Clear of the cache's keys would remove, is kept up to twice the
// limit. Past that it is refused: nothing distrusts it, and the caller must report it.
func (q *Outbox) Add(keys []string, of Scope) (refused int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		q.seq++
		e := q.entries[key]
		isNew := e == nil || e.seq == 0 // an entry that is only held takes no room yet
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

// overflowed stops tracking keys one by one: every key is distrusted until a Clear of prefix
// has succeeded. The caller must hold mu.
func (q *Outbox) overflowed(prefix string) {
	if q.overflow == nil {
		q.overflow = make(map[string]uint64)
		q.size.Add(1)
	}
	q.overflow[prefix] = q.seq
}

// entry returns the key's entry, and makes it if there is none. The caller must hold mu.
func (q *Outbox) entry(key string) *queued {
	e := q.entries[key]
	if e == nil {
		e = &queued{}
		q.entries[key] = e
		q.size.Add(1)
	}
	return e
}

// forget removes the key's entry. The caller must hold mu.
func (q *Outbox) forget(key string) {
	delete(q.entries, key)
	q.size.Add(-1)
}

// Due returns the undelivered invalidations but for those of keys to skip, the oldest first.
// They stay queued until Delivered.
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

// Delivered removes invalidations that the store has acknowledged. If the key was invalidated
// again meanwhile, its entry stays, as the delivery may be older than that write.
func (q *Outbox) Delivered(keys []Due) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range keys {
		e := q.entries[d.Key]
		if e == nil || e.seq != d.seq {
			continue
		}
		q.pending--
		if e.seq = 0; e.held == 0 { // a held key stays distrusted
			q.forget(d.Key)
		}
	}
}

// Cleared notes that a Clear of prefixes has succeeded, which began at sequence number seq.
// It makes good the keys that overflowed into these scopes before, and none since.
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

// ToClear returns the prefixes that must be cleared, sorted, and the sequence number to hand
// to Cleared. It must be called before the Clear begins.
func (q *Outbox) ToClear() (prefixes []string, seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Sorted(maps.Keys(q.overflow)), q.seq
}

// Status returns how many invalidations are undelivered, and whether keys have overflowed.
func (q *Outbox) Status() (n int, overflowed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending, q.overflow != nil
}
