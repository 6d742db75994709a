// Package expect guesses which reads will miss, so that they can ask for a lease at once
// and save the question before it. A lease request answers with the value when there is
// one, so a wrong guess costs some time and is never wrong otherwise.
//
// A key that this process has just invalidated will miss at its next read, and so will
// most keys of a keyspace most of whose recent reads have missed.
package expect

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	// keys is how many invalidated keys are remembered. A key may take another's place.
	keys = 4096

	// maxSpaces is how many keyspaces have a rate. The reads of others are expected to hit.
	maxSpaces = 1024

	// all is the rate of a keyspace whose every read misses. It moves by a 64th of the way
	// with each read: 45 misses in a row make the next one expected, 45 hits the opposite.
	all    = 1 << 20
	weight = 64
)

// Misses guesses which reads will miss. Its methods may be called concurrently.
type Misses struct {
	seed        maphash.Seed
	invalidated [keys]atomic.Uint64 // hashes of keys
	spaces      sync.Map            // name: *atomic.Int32, of all
	count       atomic.Int32        // of spaces
}

// New returns a Misses that expects none.
func New() *Misses { return &Misses{seed: maphash.MakeSeed()} }

// Invalidated notes that the next read of each key will miss.
func (m *Misses) Invalidated(keys []string) {
	for _, key := range keys {
		slot, hash := m.slot(key)
		slot.Store(hash)
	}
}

// Expect reports whether a read of key, in the keyspace of that name, will miss. With sure,
// it does only of a key that was invalidated.
func (m *Misses) Expect(space, key string, sure bool) bool {
	if slot, hash := m.slot(key); slot.Load() == hash && slot.CompareAndSwap(hash, 0) {
		return true
	}
	if sure {
		return false
	}
	rate, ok := m.spaces.Load(space)
	return ok && rate.(*atomic.Int32).Load() > all/2
}

// Saw notes whether a read in the keyspace has missed.
func (m *Misses) Saw(space string, missed bool) {
	known, ok := m.spaces.Load(space)
	if !ok {
		if !missed || m.count.Load() >= maxSpaces {
			return
		}
		if known, ok = m.spaces.LoadOrStore(space, new(atomic.Int32)); !ok {
			m.count.Add(1)
		}
	}
	target := int32(0)
	if missed {
		target = all
	}
	rate := known.(*atomic.Int32)
	old := rate.Load()
	if next := old + (target-old)/weight; next != old {
		rate.Store(next) // of two at once, one may be lost
	}
}

// slot returns the place of a key, and its hash, which is never 0.
func (m *Misses) slot(key string) (*atomic.Uint64, uint64) {
	hash := maphash.String(m.seed, key) | 1
	return &m.invalidated[(hash>>1)%keys], hash
}
