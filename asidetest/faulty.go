package asidetest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// Memory returns a new backend that keeps everything in memory, as Config.Type "memory"
// does.
func Memory() backend.Backend {
	c, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err) // the Config is a constant
	}
	return c.(backend.Backend)
}

// Faulty wraps a Backend and injects faults. Put [Memory] in it and pass it to
// [aside.New] to test a service while its cache is in trouble. Its methods may be called
// concurrently.
type Faulty struct {
	backend.Backend
	fault atomic.Pointer[Fault]
	calls atomic.Int64
}

// Fault is called before each call of the Backend, with the name of its method. It may
// delay the call, fail it by an error, or let it pass by returning nil.
type Fault func(ctx context.Context, method string) error

// Hang is a Fault that blocks until the caller gives up, as a hung server does.
func Hang(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// SetFault sends every later call except Close through fault. nil ends the trouble.
func (c *Faulty) SetFault(fault Fault) {
	if fault == nil {
		c.fault.Store(nil)
		return
	}
	c.fault.Store(&fault)
}

// Calls returns the number of calls so far, failed ones included, but not Close.
func (c *Faulty) Calls() int64 { return c.calls.Load() }

// ask counts a call and asks the fault, if there is one.
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
	return c.Backend.Get(ctx, key)
}

func (c *Faulty) GetMarked(ctx context.Context, key string) ([]byte, backend.Mark, bool, error) {
	if err := c.ask(ctx, "GetMarked"); err != nil {
		return nil, 0, false, err
	}
	return c.Backend.GetMarked(ctx, key)
}

func (c *Faulty) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := c.ask(ctx, "Set"); err != nil {
		return err
	}
	return c.Backend.Set(ctx, key, value, ttl)
}

func (c *Faulty) Delete(ctx context.Context, keys ...string) error {
	if err := c.ask(ctx, "Delete"); err != nil {
		return err
	}
	return c.Backend.Delete(ctx, keys...)
}

func (c *Faulty) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	if err := c.ask(ctx, "Lease"); err != nil {
		return backend.Lease{}, err
	}
	return c.Backend.Lease(ctx, key, req)
}

func (c *Faulty) Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (bool, error) {
	if err := c.ask(ctx, "Extend"); err != nil {
		return false, err
	}
	return c.Backend.Extend(ctx, token, ttl, keys...)
}

func (c *Faulty) Fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	if err := c.ask(ctx, "Fill"); err != nil {
		return false, err
	}
	return c.Backend.Fill(ctx, key, token, fill)
}

func (c *Faulty) Release(ctx context.Context, key, token string) error {
	if err := c.ask(ctx, "Release"); err != nil {
		return err
	}
	return c.Backend.Release(ctx, key, token)
}

func (c *Faulty) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	if err := c.ask(ctx, "Block"); err != nil {
		return err
	}
	return c.Backend.Block(ctx, token, ttl, keys...)
}

func (c *Faulty) Unblock(ctx context.Context, token string, keys ...string) error {
	if err := c.ask(ctx, "Unblock"); err != nil {
		return err
	}
	return c.Backend.Unblock(ctx, token, keys...)
}

func (c *Faulty) Clear(ctx context.Context, prefixes ...string) error {
	if err := c.ask(ctx, "Clear"); err != nil {
		return err
	}
	return c.Backend.Clear(ctx, prefixes...)
}

func (c *Faulty) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	if err := c.ask(ctx, "TTL"); err != nil {
		return 0, false, err
	}
	return c.Backend.TTL(ctx, key)
}

func (c *Faulty) Info(ctx context.Context) (backend.Info, error) {
	if err := c.ask(ctx, "Info"); err != nil {
		return backend.Info{}, err
	}
	return c.Backend.Info(ctx)
}
