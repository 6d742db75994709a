package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
)

// Code of others that is called here, often on a goroutine that no caller could recover
// on: a backend, the hooks and the dialer of a Redis client, a log handler. A panic of
// it must not end the process, and trouble with the backend is not the caller's.

// panicked is the error in place of a panic.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("the backend panicked: %v", p.value) }

// caught is to be deferred. It turns a panic into an error, and replaces an error whose
// methods panic by one whose methods do not.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = &panicked{p, debug.Stack()}
	} else if *err != nil {
		*err = examined(*err)
	}
}

// examined returns err if it can be looked into, as is done in many places.
func examined(err error) (same error) {
	if err == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			same = &panicked{p, debug.Stack()}
		}
	}()
	var reply redis.Error
	errors.As(err, &reply)
	errors.Is(err, errSilent) // none of others' errors is that
	_ = err.Error()
	return err
}

// safely runs code of others.
func safely[T any](ctx context.Context, code func(context.Context) (T, error)) (v T, err error) {
	defer caught(&err)
	return code(ctx)
}

// panicked reports whether err is a panic's. The first one is told of.
func (f *front) panicked(err error) bool {
	var p *panicked
	if !errors.As(err, &p) {
		return false
	}
	f.panicOnce.Do(func() {
		f.log.Warn("cache: the backend panicked, which is taken for a failure (logged once)", "panic", fmt.Sprint(p.value), "stack", string(p.stack))
	})
	return true
}

// foreign is a backend that the library has not made, or that runs code of others. Its
// panics are errors.
type foreign struct{ backend.Backend }

func (b foreign) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	defer caught(&err)
	return b.Backend.Get(ctx, key)
}

func (b foreign) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (err error) {
	defer caught(&err)
	return b.Backend.Set(ctx, key, value, ttl)
}

func (b foreign) Delete(ctx context.Context, keys ...string) (err error) {
	defer caught(&err)
	return b.Backend.Delete(ctx, keys...)
}

func (b foreign) Lease(ctx context.Context, key string, req backend.LeaseRequest) (l backend.Lease, err error) {
	defer caught(&err)
	return b.Backend.Lease(ctx, key, req)
}

func (b foreign) Extend(ctx context.Context, key, token string, ttl time.Duration) (held bool, err error) {
	defer caught(&err)
	return b.Backend.Extend(ctx, key, token, ttl)
}

func (b foreign) Fill(ctx context.Context, key, token string, fill backend.Fill) (stored bool, err error) {
	defer caught(&err)
	return b.Backend.Fill(ctx, key, token, fill)
}

func (b foreign) Release(ctx context.Context, key, token string) (err error) {
	defer caught(&err)
	return b.Backend.Release(ctx, key, token)
}

func (b foreign) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) (err error) {
	defer caught(&err)
	return b.Backend.Block(ctx, token, ttl, keys...)
}

func (b foreign) Unblock(ctx context.Context, token string, keys ...string) (err error) {
	defer caught(&err)
	return b.Backend.Unblock(ctx, token, keys...)
}

func (b foreign) Clear(ctx context.Context, prefixes ...string) (err error) {
	defer caught(&err)
	return b.Backend.Clear(ctx, prefixes...)
}

func (b foreign) Info(ctx context.Context) (info backend.Info, err error) {
	defer caught(&err)
	return b.Backend.Info(ctx)
}

func (b foreign) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	defer caught(&err)
	return b.Backend.TTL(ctx, key)
}

func (b foreign) Close() (err error) {
	defer caught(&err)
	return b.Backend.Close()
}

// quiet is a log handler that panics never: what it can not log is lost.
type quiet struct{ slog.Handler }

func (h quiet) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h quiet) Handle(ctx context.Context, r slog.Record) (err error) {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, r)
}

func (h quiet) WithAttrs(attrs []slog.Attr) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return quiet{h.Handler.WithAttrs(attrs)}
}

func (h quiet) WithGroup(name string) (with slog.Handler) {
	defer func() {
		if recover() != nil {
			with = h
		}
	}()
	return quiet{h.Handler.WithGroup(name)}
}
