// Package entry is the element that a cache in this process keeps under a key. It has the
// bytes of a value and, once a reader has decoded them, the decoded value, so that the next
// reader need not.
//
// A decoded value belongs to exactly the bytes beside it, so nothing in an entry is ever
// stale by itself. It counts towards the bound of the cache that has the entry, which
// therefore weighs the entry anew when a value is remembered ([Reweigh]). [Memo] is such a
// cache for bytes that come from elsewhere.
package entry

import (
	"math"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/size"
)

// Entry is the bytes of a value and what they were decoded to. It is made with Data alone,
// and not copied. Its methods may be called concurrently.
type Entry struct {
	Data []byte // not modified any more

	// What Data was decoded to lies beside it: where a cache has many entries, each further
	// pointer that a reader follows leads to memory that the processor does not have at hand.
	state atomic.Int32
	value any // a *T, or nil if it is too large to be remembered; set before state is remembered
	bytes int // its weight
}

const (
	encoded    int32 = iota // Data is all there is
	changing                // Remember is at work
	remembered              // it is over
)

// Decoded reports whether the entry's bytes were decoded: whether [Entry.Remember] has
// been called, also with nothing.
func (e *Entry) Decoded() bool { return e.state.Load() != encoded }

// Remember keeps value, a pointer to what Data was decoded to, which weighs so many bytes.
// A nil value notes that it is too large to be kept. Only the first call does anything, and
// Remember reports whether it was that and kept a value. The cache that has the entry is
// then to weigh it anew.
func (e *Entry) Remember(value any, bytes int) bool {
	if !e.state.CompareAndSwap(encoded, changing) {
		return false
	}
	e.value, e.bytes = value, bytes
	e.state.Store(remembered)
	return value != nil
}

// As returns what the entry's bytes were decoded to, if it is remembered and is a T. It is
// kept as a *T, as an interface type has values of others.
func As[T any](e *Entry) (value *T, ok bool) {
	if e.state.Load() == remembered {
		value, ok = e.value.(*T)
	}
	return value, ok
}

// weight is about the memory that e takes.
func (e *Entry) weight() int {
	n := size.Allocated(cap(e.Data))
	if e.state.Load() == remembered {
		n += e.bytes
	}
	return n
}

// overhead is about what otter and its map need beside key and value.
const overhead = 128

// Bytes is about the memory that a cache's entry takes, with its key.
func Bytes(key string, e *Entry) int { return size.Allocated(len(key)) + e.weight() + overhead }

// Weight is Bytes as otter counts them.
func Weight(key string, e *Entry) uint32 { return uint32(min(Bytes(key, e), math.MaxUint32)) }

// Reweigh has a cache weigh a key's element anew, if it still is the one that is meant, and
// reports whether it is: one that was removed or replaced meanwhile does not come back. The
// cache's expiry must leave the element's as it is.
func Reweigh[E any](cache *otter.Cache[string, *E], key string, is func(*E) bool) (has bool) {
	cache.ComputeIfPresent(key, func(e *E) (*E, otter.ComputeOp) {
		if has = is(e); has {
			return e, otter.WriteOp
		}
		return e, otter.CancelOp
	})
	return has
}
