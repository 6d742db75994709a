// Package near keeps values of a store in this process and serves them without asking the
// store, which announces its changes: client-side caching.
//
// A value is kept only if no change of its key was announced since before the store was
// asked for it. That is enough, as the store announces every change that it makes after it
// has read the value. So a reader calls [Cache.Begin] before it asks, and [Cache.Keep] with
// the answer. While changes may go unannounced, nothing is kept or served
// ([Cache.Coherent]). This process must call [Cache.Drop] for each of its own changes before
// the write returns to its caller, since the announcement may come later.
package near

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/internal/entry"
)

// Cache is a near cache. Its methods may be called concurrently. Drop, Coherent, ForgetAll
// and Reweigh may be called on a nil Cache, and do nothing.
//
// There are two ways to forget values. Drop forgets single keys by counting a change in their
// stripe. Everything at once is forgotten by a new epoch, which makes all older values and
// tickets invalid in one step; removing them from values only frees their memory. A stripe's
// mu and the Cache's mu are never held together.
type Cache struct {
	values *otter.Cache[string, *value]

	// epoch is the number of the current period in which all changes have been announced, or
	// 0 while changes may go unannounced. A value is good if it was asked for in this epoch.
	epoch atomic.Uint64
	mu    sync.Mutex // held while epoch changes; guards last
	last  uint64     // the number of the last epoch

	seed    maphash.Seed
	stripes [256]stripe
}

// stripe counts the changes of the keys that share it. A change of one keeps answers for the
// others from being kept as well, which costs a read of the store.
type stripe struct {
	mu      sync.Mutex // held while a value of the keys is kept or dropped, too
	changes uint64
}

// value is a value of the store that is kept.
type value struct {
	entry.Entry
	epoch uint64 // in which it was asked for
	old   bool   // see Keep
}

// Ticket is the state of a Cache before the store was asked for a value.
type Ticket struct{ epoch, changes uint64 }

// New returns a Cache of at most maxBytes. It keeps nothing before [Cache.Coherent] is called
// with true. It serves no value for longer than maxAge, as the store need not announce that
// a value has expired.
func New(maxBytes int64, maxAge time.Duration) *Cache {
	return &Cache{
		seed: maphash.MakeSeed(),
		values: otter.Must(&otter.Options[string, *value]{
			MaximumWeight: uint64(maxBytes),
			Weigher:       func(key string, v *value) uint32 { return entry.Weight(key, &v.Entry) },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *value]) time.Duration {
				if e.Value.Decoded() {
					return e.ExpiresAfter() // Reweigh writes a value that is there: leave its end
				}
				return maxAge
			}),
		}),
	}
}

// stripe returns the stripe of key.
func (c *Cache) stripe(key string) *stripe {
	return &c.stripes[maphash.String(c.seed, key)%uint64(len(c.stripes))]
}

// Get returns the value that is kept for key, and whether Keep was told that it is old.
func (c *Cache) Get(key string) (e *entry.Entry, old, ok bool) {
	if v, ok := c.values.GetIfPresent(key); ok && v.epoch == c.epoch.Load() {
		return &v.Entry, v.old, true
	}
	return nil, false, false
}

// Begin returns a Ticket for Keep. It must be called before the store is asked for the value.
func (c *Cache) Begin(key string) Ticket {
	s := c.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return Ticket{epoch: c.epoch.Load(), changes: s.changes}
}

// Keep keeps data, the store's answer for key, unless a change was announced since t was
// taken. It returns an entry for data in either case. old says that the value's readers are
// to refresh it.
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

// Reweigh weighs the key's value anew after it was decoded, if the value is still e, and
// reports whether it is.
func (c *Cache) Reweigh(key string, e *entry.Entry) bool {
	return c != nil && entry.Reweigh(c.values, key, func(v *value) bool { return &v.Entry == e })
}

// Drop forgets the values of keys that have changed. Answers for them that are on their way
// are not kept.
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

// Coherent forgets everything. Answers that are on their way are not kept. all says whether
// all changes are announced from now on; if it is false, nothing is kept or served until a
// call with true.
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

// ForgetAll forgets everything, as every key may have changed. Answers that are on their way
// are not kept. It does not change whether changes are announced.
func (c *Cache) ForgetAll() {
	if c != nil && c.epoch.Load() != 0 {
		c.Coherent(true)
	}
}

// Close forgets everything and ends the Cache's goroutines. The Cache keeps nothing after it.
func (c *Cache) Close() {
	c.Coherent(false)
	c.values.StopAllGoroutines()
}
