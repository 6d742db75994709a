package aside

import (
	"bytes"

	"github.com/maypok86/otter/v2"
)

// sharedValues keeps the decoded values of keyspaces that have Share set beside
// the bytes they were decoded from, and serves them for the same bytes only. It
// is no cache of the keys: it says what bytes mean, so nothing in it is stale.
type sharedValues struct {
	values *otter.Cache[string, sharedValue]
}

type sharedValue struct {
	data  []byte
	value any
}

func newSharedValues(maxBytes int64) *sharedValues {
	return &sharedValues{otter.Must(&otter.Options[string, sharedValue]{
		MaximumWeight: uint64(maxBytes),
		// The decoded value's size is not known; it is of the order of its bytes.
		Weigher: func(key string, v sharedValue) uint32 {
			return uint32(len(key) + 2*len(v.data) + memoryEntryOverhead)
		},
	})}
}

// decodeShared decodes data, or finds the value that it was decoded to before
// when the keyspace allows it.
func decodeShared[T any](f *front, space *Keyspace, key string, data []byte) (T, error) {
	if !space.Share {
		return decode[T](space, data)
	}
	if v, ok := f.shared.values.GetIfPresent(key); ok && bytes.Equal(v.data, data) {
		if value, ok := v.value.(T); ok {
			return value, nil
		}
	}
	value, err := decode[T](space, data)
	if err == nil {
		f.shared.values.Set(key, sharedValue{data, value})
	}
	return value, err
}
