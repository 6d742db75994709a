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
	Data    []byte // not modified any more
	decoded atomic.Pointer[decoded]
}

// decoded is what a value's bytes were decoded to, and what it weighs. It has neither when
// the value is too large to be remembered.
type decoded struct {
	value any // a *T
	bytes int
}

// Decoded reports whether the entry's bytes were decoded: whether [Entry.Remember] has
// been called, also with nothing.
func (e *Entry) Decoded() bool { return e.decoded.Load() != nil }

// Remember keeps value, a pointer to what Data was decoded to, which weighs so many bytes.
// A nil value notes that it is too large to be kept. Only the first call does anything, and
// Remember reports whether it was that and kept a value. The cache that has the entry is
// then to weigh it anew.
func (e *Entry) Remember(value any, bytes int) bool {
	return e.decoded.CompareAndSwap(nil, &decoded{value, bytes}) && value != nil
}

// As returns what the entry's bytes were decoded to, if it is remembered and is a T. It is
// kept as a *T, as an interface type has values of others.
func As[T any](e *Entry) (value *T, ok bool) {
	if d := e.decoded.Load(); d != nil {
		value, ok = d.value.(*T)
	}
	return value, ok
}

// bytes is what e weighs.
func (e *Entry) bytes() int {
	n := size.Allocated(cap(e.Data))
	if d := e.decoded.Load(); d != nil {
		n += d.bytes
	}
	return n
}

// overhead is about what otter and its map need beside key and value.
const overhead = 128

// Bytes is about the memory that a cache's entry takes, with its key.
func Bytes(key string, e *Entry) int { return size.Allocated(len(key)) + e.bytes() + overhead }

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
