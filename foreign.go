package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/foreign"
)

// panicked reports whether err is a panic's. The first one is told of.
func (f *front) panicked(err error) bool {
	var p *foreign.Panic
	if !errors.As(err, &p) {
		return false
	}
	f.panicOnce.Do(func() {
		f.log.Warn("cache: the backend panicked, which is taken for a failure (logged once)", "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	})
	return true
}

// guarded is a backend that the library has not made, or that runs code of others. Its
// panics are errors.
type guarded struct{ backend.Backend }

func (b guarded) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	defer foreign.Catch(&err)
	return b.Backend.Get(ctx, key)
}

func (b guarded) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Set(ctx, key, value, ttl)
}

func (b guarded) Delete(ctx context.Context, keys ...string) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Delete(ctx, keys...)
}

func (b guarded) Lease(ctx context.Context, key string, req backend.LeaseRequest) (l backend.Lease, err error) {
	defer foreign.Catch(&err)
	return b.Backend.Lease(ctx, key, req)
}

func (b guarded) Extend(ctx context.Context, key, token string, ttl time.Duration) (held bool, err error) {
	defer foreign.Catch(&err)
	return b.Backend.Extend(ctx, key, token, ttl)
}

func (b guarded) Fill(ctx context.Context, key, token string, fill backend.Fill) (stored bool, err error) {
	defer foreign.Catch(&err)
	return b.Backend.Fill(ctx, key, token, fill)
}

func (b guarded) Release(ctx context.Context, key, token string) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Release(ctx, key, token)
}

func (b guarded) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Block(ctx, token, ttl, keys...)
}

func (b guarded) Unblock(ctx context.Context, token string, keys ...string) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Unblock(ctx, token, keys...)
}

func (b guarded) Clear(ctx context.Context, prefixes ...string) (err error) {
	defer foreign.Catch(&err)
	return b.Backend.Clear(ctx, prefixes...)
}

func (b guarded) Info(ctx context.Context) (info backend.Info, err error) {
	defer foreign.Catch(&err)
	return b.Backend.Info(ctx)
}

func (b guarded) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	defer foreign.Catch(&err)
	return b.Backend.TTL(ctx, key)
}

func (b guarded) Close() (err error) {
	defer foreign.Catch(&err)
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
