// Package entry is the element that the caches of this process keep under a key: the memory
// backend, the near cache and [Memo]. An [Entry] has the bytes of a value and, once a reader
// has decoded them, the decoded value, so that later readers need not decode.
//
// A decoded value belongs to exactly the bytes beside it, so it is never staler than they are,
// and there is nothing to invalidate. It counts towards the bound of its cache, which must
// weigh the entry again once a value is remembered ([Reweigh]).
package entry

import (
	"math"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/size"
)

// Entry has the bytes of a value and, once [Entry.Remember] was called, the decoded value. Make
// one with Data alone, and do not copy it. Its methods may be called concurrently.
type Entry struct {
	Data []byte // must not be modified

	// The decoded value lies in the entry, not behind a pointer of its own: in a cache with
	// many entries each further pointer leads to memory outside the processor's caches.
	state atomic.Int32
	value any // a *T, or nil if it is too large to be remembered; written before state is remembered
	bytes int // the weight of value
}

// The states of an Entry, in their order.
const (
	encoded    int32 = iota // there are only the bytes
	changing                // Remember writes value and bytes
	remembered              // value and bytes may be read
)

// Decoded reports whether [Entry.Remember] was called, also with nil. If so, another call would
// do nothing.
func (e *Entry) Decoded() bool { return e.state.Load() != encoded }

// Remember keeps value, a *T that Data was decoded to, with its weight. A nil value notes that
// the decoded value is too large to be kept, so that no reader measures it again.
//
// Only the first call has an effect. Remember reports whether it kept a value; the caller must
// then have the cache weigh the entry again.
func (e *Entry) Remember(value any, bytes int) bool {
	if !e.state.CompareAndSwap(encoded, changing) {
		return false
	}
	e.value, e.bytes = value, bytes
	e.state.Store(remembered)
	return value != nil
}

// As returns the decoded value, if one is remembered and is a T. It returns a pointer because
// the value is kept as a *T: if T is an interface type, a value kept as an any would have its
// dynamic type, and could not be told from one that was decoded as that type.
func As[T any](e *Entry) (value *T, ok bool) {
	if e.state.Load() == remembered {
		value, ok = e.value.(*T)
	}
	return value, ok
}

// weight returns the estimated size of e in bytes.
func (e *Entry) weight() int {
	n := size.Allocated(cap(e.Data))
	if e.state.Load() == remembered {
		n += e.bytes
	}
	return n
}

// overhead is an estimate of the bytes that otter and its map take for an entry, beside the key
// and the value.
const overhead = 128

// Bytes returns the estimated size of e in a cache, with its key.
func Bytes(key string, e *Entry) int { return size.Allocated(len(key)) + e.weight() + overhead }

// Weight is Bytes in the form of otter's Weigher.
func Weight(key string, e *Entry) uint32 { return uint32(min(Bytes(key, e), math.MaxUint32)) }

// Reweigh has cache weigh the element of key again, if is reports true for it, and reports
// whether it did. An element that was removed or replaced meanwhile does not come back.
//
// To otter this is a write of the same element, so the cache's expiry calculator must keep the
// expiry of an element that is written again.
func Reweigh[E any](cache *otter.Cache[string, *E], key string, is func(*E) bool) (has bool) {
	cache.ComputeIfPresent(key, func(e *E) (*E, otter.ComputeOp) {
		if has = is(e); has {
			return e, otter.WriteOp
		}
		return e, otter.CancelOp
	})
	return has
}
