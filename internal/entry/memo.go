package entry

import (
	"bytes"

	"github.com/maypok86/otter/v2"
)

// Memo remembers, by key, what the bytes of values from another process's memory were
// decoded to, so that bytes that have not changed need not be decoded again. It is no cache
// of the keys: it says what bytes mean, so nothing in it is stale.
type Memo struct {
	entries *otter.Cache[string, *Entry]
}

// NewMemo returns a Memo of at most so many bytes.
func NewMemo(maxBytes int64) *Memo {
	return &Memo{otter.Must(&otter.Options[string, *Entry]{MaximumWeight: uint64(maxBytes), Weigher: Weight})}
}

// Get returns data as an entry: with what it was decoded to if it is what the Memo has for
// the key, or else a new one, which the Memo does not have.
func (m *Memo) Get(key string, data []byte) *Entry {
	if e, ok := m.entries.GetIfPresent(key); ok && bytes.Equal(e.Data, data) {
		return e
	}
	return &Entry{Data: data}
}

// Keep keeps an entry that is decoded by now, in place of the key's last one.
func (m *Memo) Keep(key string, e *Entry) { m.entries.Set(key, e) }

// ForgetAll removes all entries.
func (m *Memo) ForgetAll() { m.entries.InvalidateAll() }
