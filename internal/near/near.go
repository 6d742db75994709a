// Package near keeps values of a store in this process and serves them without asking the
// store, which announces its changes: client-side caching.
//
// A value is kept only if nothing was announced of its key since before the store was asked
// for it: every change that the store makes after it has read the value is announced after.
// So a reader calls [Cache.Begin] before it asks, and [Cache.Keep] with the answer. While
// some changes may go unannounced, nothing is kept or served ([Cache.Coherent]). Changes
// that this process makes are to be dropped before they return to their caller.
package near

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/entry"
)

// Cache is a near cache. Its methods may be called concurrently. A nil Cache keeps nothing:
// what changes or forgets values may be called on it.
type Cache struct {
	values *otter.Cache[string, *value]

	// epoch numbers the times since when all that was kept is good; 0 while changes may go
	// unannounced.
	epoch atomic.Uint64
	mu    sync.Mutex // held while epoch changes
	last  uint64     // the last epoch

	seed    maphash.Seed
	stripes [256]stripe
}

// stripe counts the changes of the keys that share it.
type stripe struct {
	mu      sync.Mutex
	changes uint64
}

type value struct {
	entry.Entry
	epoch uint64
	old   bool
}

// Ticket is what a Cache knew before a value was asked for.
type Ticket struct{ epoch, changes uint64 }

// New returns a Cache of at most maxBytes, to which [Cache.Coherent] must be said before it
// keeps anything. It serves no value for longer than maxAge, whatever the store announces:
// the store need not announce the end of a value's time to live.
func New(maxBytes int64, maxAge time.Duration) *Cache {
	return &Cache{
		seed: maphash.MakeSeed(),
		values: otter.Must(&otter.Options[string, *value]{
			MaximumWeight: uint64(maxBytes),
			Weigher:       func(key string, v *value) uint32 { return entry.Weight(key, &v.Entry) },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *value]) time.Duration {
				if e.Value.Decoded() {
					return e.ExpiresAfter() // it is there, and weighed anew
				}
				return maxAge
			}),
		}),
	}
}

func (c *Cache) stripe(key string) *stripe {
	return &c.stripes[maphash.String(c.seed, key)%uint64(len(c.stripes))]
}

// Get returns the value that is kept for key, and whether it was old when it was kept.
func (c *Cache) Get(key string) (e *entry.Entry, old, ok bool) {
	if v, ok := c.values.GetIfPresent(key); ok && v.epoch == c.epoch.Load() {
		return &v.Entry, v.old, true
	}
	return nil, false, false
}

// Begin is to be called before the store is asked for a value that is to be kept.
func (c *Cache) Begin(key string) Ticket {
	s := c.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return Ticket{epoch: c.epoch.Load(), changes: s.changes}
}

// Keep keeps what the store answered, if it is still good, and returns it either way.
func (c *Cache) Keep(key string, t Ticket, data []byte, old bool) *entry.Entry {
	v := &value{Entry: entry.Entry{Data: data}, epoch: t.epoch, old: old}
	s := c.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.epoch != 0 && t.epoch == c.epoch.Load() && t.changes == s.changes {
		c.values.Set(key, v)
	}
	return &v.Entry
}

// Reweigh weighs the key's value anew, if that is still e, and reports whether it is.
func (c *Cache) Reweigh(key string, e *entry.Entry) bool {
	return c != nil && entry.Reweigh(c.values, key, func(v *value) bool { return &v.Entry == e })
}

// Drop forgets keys that have changed, and answers for them that are on their way.
func (c *Cache) Drop(keys ...string) {
	if c == nil {
		return
	}
	for _, key := range keys {
		s := c.stripe(key)
		s.mu.Lock()
		s.changes++
		c.values.Invalidate(key)
		s.mu.Unlock()
	}
}

// Coherent forgets everything, and answers that are on their way. It says whether all
// changes are announced from now on: until then nothing is kept.
func (c *Cache) Coherent(all bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch.Load() == 0 && !all {
		return
	}
	c.epoch.Store(0)
	c.values.InvalidateAll()
	if all {
		c.last++
		c.epoch.Store(c.last)
	}
}

// ForgetAll forgets everything, and answers that are on their way: every key may have
// changed.
func (c *Cache) ForgetAll() {
	if c != nil && c.epoch.Load() != 0 {
		c.Coherent(true)
	}
}

// Close forgets everything, keeps nothing more, and ends the Cache's goroutines.
func (c *Cache) Close() {
	c.Coherent(false)
	c.values.StopAllGoroutines()
}
