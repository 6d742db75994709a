package asidetest

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside"
)

// Faulty is a Cache that does what the Cache in it does until it is told to fail.
// Put a memory Cache in it, from [aside.Open], and hand it to [aside.New], to see
// a service through its cache's trouble. Its methods may be called concurrently.
type Faulty struct {
	aside.Cache
	fault atomic.Pointer[Fault]
	calls atomic.Int64
}

// Fault is asked before each call, named by its method, and may delay it, fail
// it with an error, or let it pass.
type Fault func(ctx context.Context, method string) error

// Hang is a Fault that answers nothing until the caller gives up.
func Hang(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// SetFault makes every call but Status and Close ask fault from now on; nil ends
// it.
func (c *Faulty) SetFault(fault Fault) {
	if fault == nil {
		c.fault.Store(nil)
		return
	}
	c.fault.Store(&fault)
}

// Calls returns how many calls have been made, failed ones included, Status and
// Close not.
func (c *Faulty) Calls() int64 { return c.calls.Load() }

func (c *Faulty) ask(ctx context.Context, method string) error {
	c.calls.Add(1)
	if fault := c.fault.Load(); fault != nil {
		return (*fault)(ctx, method)
	}
	return nil
}

func (c *Faulty) Get(ctx context.Context, key string) ([]byte, bool, error) {
	if err := c.ask(ctx, "Get"); err != nil {
		return nil, false, err
	}
	return c.Cache.Get(ctx, key)
}

func (c *Faulty) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := c.ask(ctx, "Set"); err != nil {
		return err
	}
	return c.Cache.Set(ctx, key, value, ttl)
}

func (c *Faulty) Delete(ctx context.Context, keys ...string) error {
	if err := c.ask(ctx, "Delete"); err != nil {
		return err
	}
	return c.Cache.Delete(ctx, keys...)
}

func (c *Faulty) Lease(ctx context.Context, key string, req aside.LeaseRequest) (aside.Lease, error) {
	if err := c.ask(ctx, "Lease"); err != nil {
		return aside.Lease{}, err
	}
	return c.Cache.Lease(ctx, key, req)
}

func (c *Faulty) Extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	if err := c.ask(ctx, "Extend"); err != nil {
		return false, err
	}
	return c.Cache.Extend(ctx, key, token, ttl)
}

func (c *Faulty) Fill(ctx context.Context, key, token string, fill aside.Fill) (bool, error) {
	if err := c.ask(ctx, "Fill"); err != nil {
		return false, err
	}
	return c.Cache.Fill(ctx, key, token, fill)
}

func (c *Faulty) Release(ctx context.Context, key, token string) error {
	if err := c.ask(ctx, "Release"); err != nil {
		return err
	}
	return c.Cache.Release(ctx, key, token)
}

func (c *Faulty) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	if err := c.ask(ctx, "Block"); err != nil {
		return err
	}
	return c.Cache.Block(ctx, token, ttl, keys...)
}

func (c *Faulty) Unblock(ctx context.Context, token string, keys ...string) error {
	if err := c.ask(ctx, "Unblock"); err != nil {
		return err
	}
	return c.Cache.Unblock(ctx, token, keys...)
}

func (c *Faulty) Clear(ctx context.Context, prefixes ...string) error {
	if err := c.ask(ctx, "Clear"); err != nil {
		return err
	}
	return c.Cache.Clear(ctx, prefixes...)
}

// TTL is what [aside.TTL] asks for, and supported where the backend supports it.
func (c *Faulty) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	b, ok := c.Cache.(interface {
		TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error)
	})
	if !ok {
		return 0, false, errors.ErrUnsupported
	}
	if err := c.ask(ctx, "TTL"); err != nil {
		return 0, false, err
	}
	return b.TTL(ctx, key)
}
