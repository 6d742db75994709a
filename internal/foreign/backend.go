package foreign

import (
	"context"
	"time"

	"github.com/cacheaside/aside/backend"
)

// Backend wraps a backend by another author, or one that runs another author's code, such as
// the hooks of a Redis client. A panic in a method becomes its error, a *[Panic]. The methods
// are written out, as embedding alone would guard none of them, and a new method of
// [backend.Backend] should get one here.
type Backend struct{ backend.Backend }

func (b Backend) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	defer Catch(&err)
	return b.Backend.Get(ctx, key)
}

func (b Backend) GetMarked(ctx context.Context, key string) (value []byte, mark backend.Mark, ok bool, err error) {
	defer Catch(&err)
	return b.Backend.GetMarked(ctx, key)
}

func (b Backend) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (err error) {
	defer Catch(&err)
	return b.Backend.Set(ctx, key, value, ttl)
}

func (b Backend) Delete(ctx context.Context, keys ...string) (err error) {
	defer Catch(&err)
	return b.Backend.Delete(ctx, keys...)
}

func (b Backend) Lease(ctx context.Context, key string, req backend.LeaseRequest) (l backend.Lease, err error) {
	defer Catch(&err)
	return b.Backend.Lease(ctx, key, req)
}

func (b Backend) Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (held bool, err error) {
	defer Catch(&err)
	return b.Backend.Extend(ctx, token, ttl, keys...)
}

func (b Backend) Fill(ctx context.Context, key, token string, fill backend.Fill) (stored bool, err error) {
	defer Catch(&err)
	return b.Backend.Fill(ctx, key, token, fill)
}

func (b Backend) Release(ctx context.Context, key, token string) (err error) {
	defer Catch(&err)
	return b.Backend.Release(ctx, key, token)
}

func (b Backend) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) (err error) {
	defer Catch(&err)
	return b.Backend.Block(ctx, token, ttl, keys...)
}

func (b Backend) Unblock(ctx context.Context, token string, keys ...string) (err error) {
	defer Catch(&err)
	return b.Backend.Unblock(ctx, token, keys...)
}

func (b Backend) Clear(ctx context.Context, prefixes ...string) (err error) {
	defer Catch(&err)
	return b.Backend.Clear(ctx, prefixes...)
}

func (b Backend) Info(ctx context.Context) (info backend.Info, err error) {
	defer Catch(&err)
	return b.Backend.Info(ctx)
}

func (b Backend) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	defer Catch(&err)
	return b.Backend.TTL(ctx, key)
}

func (b Backend) Close() (err error) {
	defer Catch(&err)
	return b.Backend.Close()
}
