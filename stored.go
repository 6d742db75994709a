package aside

import (
	"bytes"
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// stored is a value as a cache has it. It remembers what the bytes were decoded to
// where that is of use: see remembers.
type stored struct {
	data    []byte
	decoded atomic.Pointer[any] // of a *T
}

// readFound returns what was found says to the keyspace's codec.
func readFound[T any](space *Keyspace, got *found) (T, error) {
	if got.kept != nil {
		return readStored[T](space, got.kept)
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
	return space.Share || codecOf(space) == JSON && copyableOf[T]().ok
}

// readStored returns what s says: with Share, the same to all who ask.
func readStored[T any](space *Keyspace, s *stored) (T, error) {
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
	if v := any(&value); !s.decoded.CompareAndSwap(nil, &v) {
		if first, ok := decodedAs[T](s); ok {
			return handOver(space, *first), nil
		}
		return value, nil // this keyspace's values are read as several types
	}
	return handOver(space, value), nil
}

// decodedAs returns what s was decoded to, if that was a T. It is kept as a *T: an
// interface type has values of others.
func decodedAs[T any](s *stored) (value *T, ok bool) {
	if v := s.decoded.Load(); v != nil {
		value, ok = (*v).(*T)
	}
	return value, ok
}

// handOver returns what a caller may have of a value that others are given, too.
func handOver[T any](space *Keyspace, value T) T {
	if space.Share {
		return value
	}
	return copyOf(copyableOf[T](), value)
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
		// The decoded value's size is not known; it is of the order of its bytes.
		Weigher: func(key string, s *stored) uint32 {
			return weight(len(key) + 2*len(s.data))
		},
	})}
}

// of returns data with what it was decoded to before, if anything.
func (m *memo) of(key string, data []byte) *stored {
	if s, ok := m.values.GetIfPresent(key); ok && bytes.Equal(s.data, data) {
		return s
	}
	s := &stored{data: data}
	m.values.Set(key, s)
	return s
}
