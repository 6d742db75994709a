// Package loadctx has the context of a load ([Context]), with which a loader is called. By it
// the cache knows a call that a loader makes to the same cache ([Within]), and a loader says
// how long its result may be kept ([Context.Keep]).
//
// It also marks the context of a caller who accepts only a load that begins after the call
// ([WithFresh]). Both are here because they meet: a load does not inherit the mark.
package loadctx

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/internal/deadline"
)

// Context is the context of a load. It has the values of the context of the caller that began
// the load, and an end of its own, as other callers may wait for the load when that caller has
// left. It does not have the caller's mark of [WithFresh], which concerns that one read: reads
// that the loader makes are ordinary.
//
// A Context is made by Begin and must not be copied. Its methods may be called concurrently.
type Context struct {
	deadline.Detached
	owner any // the cache that loads

	mu   sync.Mutex
	all  *time.Duration           // the limit for all keys; nil until Keep sets one
	each map[string]time.Duration // the limits for single keys, which win over all
}

type (
	loadKey  struct{} // its value is the *Context
	freshKey struct{}
)

// Begin gives a new Context the values of ctx, and an owner, which is the cache that loads. It
// must be compared with itself by ==, as [Within] does.
func (c *Context) Begin(ctx context.Context, owner any) {
	c.Detach(ctx)
	c.owner = owner
}

// Value returns the Context itself for the key of this package, hides the mark of [WithFresh],
// and otherwise returns the value that the caller's context has.
func (c *Context) Value(key any) any {
	switch key {
	case loadKey{}:
		return c
	case freshKey{}:
		return nil
	}
	return c.Detached.Value(key)
}

// Of returns the Context of the innermost load that ctx belongs to, or nil if there is none.
func Of(ctx context.Context) *Context {
	c, _ := ctx.Value(loadKey{}).(*Context)
	return c
}

// Within reports whether ctx belongs to a load of owner, directly or through loads of other
// caches: a loader may read a second cache, whose loader reads the first.
func Within(ctx context.Context, owner any) bool {
	for c := Of(ctx); c != nil; c = Of(c.Context) {
		if c.owner == owner {
			return true
		}
	}
	return false
}

// Keep limits the time for which the results for keys are kept to d. Without keys it limits
// that of all results, and forgets earlier limits. The last call for a key counts.
func (c *Context) Keep(d time.Duration, keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(keys) == 0 {
		c.all, c.each = &d, nil
	}
	for _, key := range keys {
		if c.each == nil {
			c.each = make(map[string]time.Duration)
		}
		c.each[key] = d
	}
}

// Kept returns the limit that Keep has set for key. ok is false if there is none.
func (c *Context) Kept(key string) (d time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.each[key]; ok {
		return d, true
	}
	if c.all != nil {
		return *c.all, true
	}
	return 0, false
}

// Forget removes all limits, before the loader is called once more.
func (c *Context) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.each = nil, nil
}

// freshAsked is set by the first call of WithFresh. Until then IsFresh need not search a
// context, which takes time in each read of a service that never asks for a fresh one.
var freshAsked atomic.Bool

// WithFresh returns a copy of ctx with a mark: reads with it accept only loads that begin after
// the read.
func WithFresh(ctx context.Context) context.Context {
	freshAsked.Store(true)
	return context.WithValue(ctx, freshKey{}, true)
}

// IsFresh reports whether ctx has the mark of WithFresh. The context of a load that a marked
// read began does not have it.
func IsFresh(ctx context.Context) bool {
	return freshAsked.Load() && ctx.Value(freshKey{}) != nil
}
