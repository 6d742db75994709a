package entry

import (
	"bytes"

	"github.com/maypok86/otter/v2"
)

// Memo remembers decoded values of bytes that come from a backend outside this process, by
// key, so that bytes that have not changed since the last read need not be decoded again.
//
// It is not a cache of the keys: each reader still asks the backend, and gets the decoded
// value only for equal bytes. So nothing in a Memo is stale, and it needs no invalidation.
type Memo struct {
	entries *otter.Cache[string, *Entry]
}

// NewMemo returns a Memo of at most maxBytes, as [Bytes] estimates them.
func NewMemo(maxBytes int64) *Memo {
	return &Memo{otter.Must(&otter.Options[string, *Entry]{MaximumWeight: uint64(maxBytes), Weigher: Weight})}
}

// Get returns the entry of key if its bytes equal data, or else a new one, which is not in the
// Memo until Keep puts it there.
func (m *Memo) Get(key string, data []byte) *Entry {
	if e, ok := m.entries.GetIfPresent(key); ok && bytes.Equal(e.Data, data) {
		return e
	}
	return &Entry{Data: data}
}

// Keep puts e in the place of key's entry. Call it once e has remembered a value, as its weight
// is taken now.
func (m *Memo) Keep(key string, e *Entry) { m.entries.Set(key, e) }

// ForgetAll removes all entries.
func (m *Memo) ForgetAll() { m.entries.InvalidateAll() }
