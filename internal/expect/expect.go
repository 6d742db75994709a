// Package expect guesses which reads will miss, so that they can ask for a lease at once,
// without a GET before it. A miss then takes one round trip less. A lease request returns
// the value if there is one, so a wrong guess costs some time and does no other harm.
//
// Two kinds of reads are expected to miss: the next read of a key that this process has just
// invalidated, and reads in a keyspace in which most recent reads have missed. Both are
// remembered in constant space: forgetting, and mistaking one key for another, are allowed.
package expect

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	// keys is how many invalidated keys are remembered, each in a slot chosen by its hash. A
	// key takes the place of another with the same slot.
	keys = 4096

	// maxSpaces is how many keyspaces have a rate. Reads in any further one are expected to hit.
	maxSpaces = 1024

	// all is the rate of a keyspace in which every read misses. With each read the rate moves
	// by a 64th of its distance to all or to 0. So 45 misses in a row make the next one
	// expected, and 45 hits the opposite.
	all    = 1 << 20
	weight = 64
)

// Misses guesses which reads will miss. Its methods may be called concurrently.
type Misses struct {
	seed        maphash.Seed
	invalidated [keys]atomic.Uint64 // the hash of the key in each slot, or 0
	spaces      sync.Map            // by name, a rate: *atomic.Int32, from 0 to all
	count       atomic.Int32        // the length of spaces
}

// New returns a Misses that expects no read to miss.
func New() *Misses { return &Misses{seed: maphash.MakeSeed()} }

// Invalidated notes that keys were invalidated, so that the next read of each will miss.
func (m *Misses) Invalidated(keys []string) {
	for _, key := range keys {
		slot, hash := m.slot(key)
		slot.Store(hash)
	}
}

// Expect reports whether a read of key, in the keyspace space, will probably miss. It forgets
// that key was invalidated, as the read fills it. With sure it goes by invalidations alone.
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

// Saw notes whether a read in a keyspace has missed. A keyspace has no rate before its first
// miss.
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
		rate.Store(next) // a concurrent change may be lost, which a rate can bear
	}
}

// slot returns the slot of a key, and its hash, which is never 0.
func (m *Misses) slot(key string) (*atomic.Uint64, uint64) {
	hash := maphash.String(m.seed, key) | 1
	return &m.invalidated[(hash>>1)%keys], hash
}
