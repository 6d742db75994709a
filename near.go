package aside

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// nearMaxAge bounds how long a value is served from the near cache, whatever Redis
// says of it, or does not say: it need not say that a value's time to live is over.
// Tests change it.
var nearMaxAge = 10 * time.Second

// near keeps values that were read from Redis in this process, and serves them
// without asking. Redis says which have changed ([tracking] listens); what this
// process has changed itself is dropped before the change returns to its caller.
//
// A value is kept only if nothing was said of its key since before it was asked
// for: every change that Redis makes after it has read the value is said after.
// While some node's changes are not heard, nothing is kept or served.
type near struct {
	values *otter.Cache[string, *nearValue]
	covers func(space string) bool // Redis says what changes in this keyspace

	// live numbers the times since when all that was kept is good; 0 while changes
	// are not heard.
	live atomic.Uint64
	mu   sync.Mutex // held while live changes
	last uint64

	seed    maphash.Seed
	stripes [256]nearStripe
}

// nearStripe counts the changes of the keys that share it.
type nearStripe struct {
	mu      sync.Mutex
	changes uint64
}

type nearValue struct {
	stored
	live uint64
}

// ticket is what a near cache knew before a value was asked for.
type ticket struct{ live, changes uint64 }

func newNear(maxBytes int64, covers func(space string) bool) *near {
	maxAge := nearMaxAge
	return &near{
		covers: covers,
		seed:   maphash.MakeSeed(),
		values: otter.Must(&otter.Options[string, *nearValue]{
			MaximumWeight: uint64(maxBytes),
			Weigher:       func(key string, v *nearValue) uint32 { return weight(entryBytes(key, &v.stored)) },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *nearValue]) time.Duration {
				if e.Value.decoded.Load() != nil {
					return e.ExpiresAfter() // it is there, and weighed anew
				}
				return maxAge
			}),
		}),
	}
}

func (n *near) stripe(key string) *nearStripe {
	return &n.stripes[maphash.String(n.seed, key)%uint64(len(n.stripes))]
}

// look returns the value that is kept for key.
func (n *near) look(key string) (*stored, bool) {
	if v, ok := n.values.GetIfPresent(key); ok && v.live == n.live.Load() {
		return &v.stored, true
	}
	return nil, false
}

// weigh weighs the key's value anew, if that is still s.
func (n *near) weigh(key string, s *stored) bool {
	return n != nil && reweigh(n.values, key, func(v *nearValue) bool { return &v.stored == s })
}

// ask is to be called before a value is asked for that may be kept.
func (n *near) ask(key string) ticket {
	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return ticket{live: n.live.Load(), changes: s.changes}
}

// keep keeps what Redis answered, if it is still good, and returns it.
func (n *near) keep(key string, t ticket, data []byte) *stored {
	v := &nearValue{stored: stored{data: data}, live: t.live}
	s := n.stripe(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.live != 0 && t.live == n.live.Load() && t.changes == s.changes {
		n.values.Set(key, v)
	}
	return &v.stored
}

// drop forgets keys, and what is on its way for them.
func (n *near) drop(keys ...string) {
	if n == nil {
		return
	}
	for _, key := range keys {
		s := n.stripe(key)
		s.mu.Lock()
		s.changes++
		n.values.Invalidate(key)
		s.mu.Unlock()
	}
}

// dropAll forgets everything, and what is on its way. heard says whether changes
// are heard from now on.
func (n *near) dropAll(heard bool) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.live.Load() == 0 && !heard {
		return
	}
	n.live.Store(0)
	n.values.InvalidateAll()
	if heard {
		n.last++
		n.live.Store(n.last)
	}
}

// forgetAll is dropAll that changes nothing of what is heard.
func (n *near) forgetAll() {
	if n != nil && n.live.Load() != 0 {
		n.dropAll(true)
	}
}

func (n *near) close() {
	n.dropAll(false)
	n.values.StopAllGoroutines()
}
