package aside

import (
	"context"
	"log/slog"
	"time"

	"github.com/cacheaside/aside/internal/loadctx"
)

// hitOld is a hit of a value that is older than its keyspace's RefreshAfter. It has the
// value loaded anew, and waits for that as long as the keyspace says.
func hitOld[T any](ctx context.Context, f *front, space *Keyspace, r *read, start time.Time, load func(context.Context) (T, error), old T) (value T, err error) {
	waits := space.RefreshWait != 0
	if r.leased && !waits {
		f.hitStale(ctx, space, r, start)
		return old, nil
	}
	boxed := func(ctx context.Context) (any, error) { return load(ctx) }
	return refreshed(ctx, f, f.flights.refresh(ctx, f, space, typed[T]{}, &r.request, boxed), space, r, start, old)
}

// refreshed returns what a refresh has made of an old value in the time that a reader waits
// for it. fl is nil when the reader does not.
func refreshed[T any](ctx context.Context, f *front, fl *flight, space *Keyspace, r *read, start time.Time, old T) (value T, err error) {
	if fl == nil {
		f.hitStale(ctx, space, r, start)
		return old, nil
	}
	wait := ctx
	if space.RefreshWait > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, fl.refresh.began.Add(space.RefreshWait))
		defer cancel()
	}
	err = fl.wait(wait, r)
	if ctx.Err() != nil {
		return value, ctx.Err()
	}
	if err == nil && (fl.err == nil || fl.notFound) {
		if fl.accepts(r.arrived) {
			if value, ok, err := take[T](f, fl, space, r, false); ok {
				f.missed(ctx, space, r, start, err)
				return value, err
			}
		}
		if value, ok := lookup[T](ctx, f, space, r); ok && !r.old { // another process's, or one that was being stored
			f.hit(ctx, space, r, start, nil)
			return value, nil
		}
	}
	f.hitStale(ctx, space, r, start)
	return old, nil
}

// hitStale counts, logs and reports a read that returned a value older than RefreshAfter.
func (f *front) hitStale(ctx context.Context, space *Keyspace, r *read, start time.Time) {
	f.count.hits.Add(1)
	f.count.staleHits.Add(1)
	if f.logs.Enabled(ctx, slog.LevelDebug) {
		f.log.DebugContext(ctx, "[CACHE HIT]", "key", r.key, "stale", true)
	}
	if f.cfg.OnRead != nil {
		f.observe(ctx, space, outcomeOld, start, nil)
	}
}

// Fresh returns a context under which reads take only a load that began after they came, and
// have it stored: to show the newest, or to warm up. Others go on getting the value that is
// there meanwhile. It reaches through a repository's methods, and not into loaders: what a
// loader reads from the cache is as under a context without it.
func Fresh(ctx context.Context) context.Context { return loadctx.WithFresh(ctx) }

// KeepFor has what a loader returns kept for d at most, a value as well as ErrNotFound. The
// loader calls it, with the context that it was given. The keyspace's TTL and NotFoundTTL stay
// the most that it may be, and RefreshAfter shrinks with it. 0 or less returns the result and
// stores nothing; a value that is there, which is being refreshed, is removed then. With keys
// it says so of these, and not of others: for [GetOrLoadMany]. The last call for a key counts.
// On any other context it does nothing.
func KeepFor(ctx context.Context, d time.Duration, keys ...Key) {
	l := loadctx.Of(ctx)
	if l == nil {
		return
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.text
	}
	l.Keep(d, names...)
}
