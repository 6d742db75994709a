package aside

import (
	"bytes"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/clone"
	"github.com/cacheaside/aside/internal/size"
)

// stored is a value as a cache has it. It remembers what the bytes were decoded to
// where that is of use: see remembers. Its decoded value counts towards the cache's
// bound like its bytes.
type stored struct {
	data    []byte
	decoded atomic.Pointer[decoded]
}

// decoded is what a value's bytes were decoded to, and what it weighs. It has neither
// when it is too large to be remembered.
type decoded struct {
	value any // a *T
	bytes int
}

// bytes is what s weighs.
func (s *stored) bytes() int {
	n := size.Allocated(cap(s.data))
	if d := s.decoded.Load(); d != nil {
		n += d.bytes
	}
	return n
}

// reweigh has a cache weigh an entry anew, and reports whether the cache still has it:
// one that was removed or replaced meanwhile does not come back. The cache's expiry
// must leave the entry's as it is.
func reweigh[E any](cache *otter.Cache[string, *E], key string, isIt func(*E) bool) (has bool) {
	cache.ComputeIfPresent(key, func(e *E) (*E, otter.ComputeOp) {
		if has = isIt(e); has {
			return e, otter.WriteOp
		}
		return e, otter.CancelOp
	})
	return has
}

// readFound returns what was found says to the keyspace's codec.
func readFound[T any](f *front, space *Keyspace, key string, got *found) (T, error) {
	if got.kept != nil {
		return readStored[T](f, space, key, got.kept)
	}
	if space.Codec == Bytes && (got.own || space.Share) {
		if value, ok := adopt[T](got.value); ok {
			return value, nil
		}
	}
	return decode[T](space, got.value)
}

// remembers reports whether what values of the keyspace are decoded to as a T can
// serve the next reader too: because nobody modifies it, or as it can be copied.
func remembers[T any](space *Keyspace) bool {
	if space.Codec == Bytes {
		return false // they are what is stored
	}
	if space.Share || codecOf(space) != JSON {
		return space.Share
	}
	_, ok := clone.Of[T]()
	return ok
}

// readStored returns what s says: with Share, the same to all who ask.
func readStored[T any](f *front, space *Keyspace, key string, s *stored) (T, error) {
	if space.Share { // first, as it is the quickest
		if space.Codec == Bytes {
			if value, ok := adopt[T](s.data); ok {
				return value, nil
			}
		} else if value, ok := decodedAs[T](s); ok {
			return *value, nil
		}
	}
	if !remembers[T](space) {
		return decode[T](space, s.data)
	}
	if value, ok := decodedAs[T](s); ok {
		return handOver(space, *value), nil
	}
	value, err := decode[T](space, s.data)
	if err != nil {
		return value, err
	}
	if remember(f, space, key, s, &value) {
		return handOver(space, value), nil
	}
	if first, ok := decodedAs[T](s); ok {
		return handOver(space, *first), nil
	}
	return value, nil // it is too large, or this keyspace's values are read as several types
}

// remember keeps value as what s was decoded to, and has the cache of s know what that
// weighs. It reports false when something is remembered already, or the value is too
// large: a cache that has no room for it keeps the bytes alone.
func remember[T any](f *front, space *Keyspace, key string, s *stored, value *T) bool {
	if s.decoded.Load() != nil {
		return false
	}
	d := new(decoded)
	if room := f.roomFor(space) - entryBytes(key, s); room > 0 {
		if n := size.Of(value, s.data, codecOf(space) == JSON, room); n <= room {
			d.value, d.bytes = value, n
		}
	}
	if !s.decoded.CompareAndSwap(nil, d) || d.value == nil {
		return false
	}
	f.weigh(key, s)
	return true
}

// decodedAs returns what s was decoded to, if that was a T. It is kept as a *T: an
// interface type has values of others.
func decodedAs[T any](s *stored) (value *T, ok bool) {
	if v := s.decoded.Load(); v != nil {
		value, ok = v.value.(*T)
	}
	return value, ok
}

// handOver returns what a caller may have of a value that others are given, too.
func handOver[T any](space *Keyspace, value T) T {
	if space.Share {
		return value
	}
	plan, _ := clone.Of[T]()
	return clone.Value(plan, value)
}

// memo keeps values that came from another process's memory, by key, so that bytes
// that have not changed need not be decoded again. It is no cache of the keys: it
// says what bytes mean, so nothing in it is stale.
type memo struct {
	values *otter.Cache[string, *stored]
}

func newMemo(maxBytes int64) *memo {
	return &memo{otter.Must(&otter.Options[string, *stored]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(key string, s *stored) uint32 { return weight(entryBytes(key, s)) },
	})}
}

// of returns data with what it was decoded to before, if anything.
func (m *memo) of(key string, data []byte) *stored {
	if s, ok := m.values.GetIfPresent(key); ok && bytes.Equal(s.data, data) {
		return s
	}
	return &stored{data: data}
}

// keep keeps s, which is decoded by now.
func (m *memo) keep(key string, s *stored) { m.values.Set(key, s) }

func (m *memo) forget() { m.values.InvalidateAll() }
