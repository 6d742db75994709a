// Package loadctx is the context that a loader is called with, and the place where a loader
// says for how long its result is to be kept. It also marks the context of a caller who wants
// nothing but a load that begins after the call.
package loadctx

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/internal/deadline"
)

// Context is the context of a load. It has the values of its caller's context, but for the
// mark of [WithFresh], which is of the caller's read alone. It is made by Begin, not copied,
// and may be used concurrently.
type Context struct {
	deadline.Detached
	owner any

	mu   sync.Mutex
	all  *time.Duration // nil until the loader says for how long
	each map[string]time.Duration
}

type (
	loadKey  struct{} // its value is the *Context
	freshKey struct{}
)

// Begin gives a new Context the values of ctx, and an owner: the cache whose load it is.
func (c *Context) Begin(ctx context.Context, owner any) {
	c.Detach(ctx)
	c.owner = owner
}

// Value is that of [context.Context].
func (c *Context) Value(key any) any {
	switch key {
	case loadKey{}:
		return c
	case freshKey{}:
		return nil
	}
	return c.Detached.Value(key)
}

// Of returns the innermost load that ctx is of, or nil.
func Of(ctx context.Context) *Context {
	c, _ := ctx.Value(loadKey{}).(*Context)
	return c
}

// Within reports whether ctx is of a load of owner's, perhaps within one of another's.
func Within(ctx context.Context, owner any) bool {
	for c := Of(ctx); c != nil; c = Of(c.Context) {
		if c.owner == owner {
			return true
		}
	}
	return false
}

// Keep has the results of keys kept for d at most, or all results when there are no keys. The
// last call for a key counts.
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

// Kept returns what Keep has been told of key. ok is false if that is nothing.
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

// Forget forgets all that Keep has been told: the loader is to be called again.
func (c *Context) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.each = nil, nil
}

// freshAsked says that WithFresh was called: before that, IsFresh looks into no context.
var freshAsked atomic.Bool

// WithFresh returns a context whose reads take only loads that begin after them.
func WithFresh(ctx context.Context) context.Context {
	freshAsked.Store(true)
	return context.WithValue(ctx, freshKey{}, true)
}

// IsFresh reports whether ctx is of WithFresh, and not of a load in between.
func IsFresh(ctx context.Context) bool {
	return freshAsked.Load() && ctx.Value(freshKey{}) != nil
}
