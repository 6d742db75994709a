// This file has the methods that make front a Cache (Status, Clear, Close; see cache.go) and
// a backend.Backend, so that one front can be put behind another, as asidetest.Faulty is.
// GetOrLoad and Update do not go through them: they call the methods in front.go, after they
// have checked their arguments once. The methods here check each argument, add the key
// prefix, and answer for a distrusted key without the backend.

package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/redisstore"
)

// Get misses while key is distrusted. It waits for a fill of key by this process.
func (f *front) Get(ctx context.Context, key string) ([]byte, bool, error) {
	if key = f.name(key); f.queue.Distrusts(key) {
		return nil, false, nil
	}
	f.flights.awaitFill(ctx, key)
	got, err := f.get(ctx, key, f.newBudget())
	return got.value, got.ok, err
}

// GetMarked is Get with the value's mark.
func (f *front) GetMarked(ctx context.Context, key string) ([]byte, backend.Mark, bool, error) {
	if key = f.name(key); f.queue.Distrusts(key) {
		return nil, 0, false, nil
	}
	f.flights.awaitFill(ctx, key)
	got, err := f.ask(ctx, redisstore.Ask{Key: key, Marked: true}, f.newBudget())
	return got.value, got.mark, got.ok, err
}

// Set is not guarded by a lease: see backend.Backend.
func (f *front) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := checkTTL(ttl); err != nil {
		return fmt.Errorf("aside: Set of %.200q: %w", key, err)
	}
	key = f.name(key)
	if err := f.checkSize(key, value); err != nil {
		return err
	}
	_, err := do(ctx, f, key, f.newBudget(), true, func(ctx context.Context) (any, error) {
		return nil, f.backend.Set(ctx, key, value, ttl)
	})
	f.near.Drop(key)
	return err
}

// Delete is Invalidate: an invalidation that cannot be delivered is queued, which is no
// error. When the queue has grown to twice Config.QueueSize, a key that no Clear would
// remove (it belongs to no known keyspace, and there is no KeyPrefix) gets ErrUnavailable.
func (f *front) Delete(ctx context.Context, keys ...string) error {
	if f.life.IsClosed() {
		return ErrClosed
	}
	if len(keys) == 0 {
		return nil
	}
	return f.invalidateIn(ctx, f.newBudget(), f.scopeOf, f.names(keys))
}

// Lease answers Writing while key is distrusted: load, and store nothing.
func (f *front) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	if err := checkTTL(req.TTL); err != nil {
		return backend.Lease{}, fmt.Errorf("aside: Lease of %.200q: %w", key, err)
	}
	if key = f.name(key); f.queue.Distrusts(key) {
		return backend.Lease{State: backend.Writing}, nil
	}
	return f.lease(ctx, key, f.newBudget(), req)
}

func (f *front) Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (bool, error) {
	if len(keys) == 0 {
		return true, nil
	}
	if err := checkTTL(ttl); err != nil {
		return false, fmt.Errorf("aside: Extend of %.200q: %w", keys[0], err)
	}
	return f.extendAll(ctx, f.newBudget(), token, ttl, f.names(keys))
}

// Fill stores nothing while key is distrusted.
func (f *front) Fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	if err := checkTTL(fill.TTL); err != nil && !(fill.NotFound && fill.TTL == 0) {
		return false, fmt.Errorf("aside: Fill of %.200q: %w", key, err)
	}
	if key = f.name(key); f.queue.Distrusts(key) {
		return false, nil
	}
	if err := f.checkSize(key, fill.Value); err != nil {
		return false, err
	}
	if err := f.usable(key); err != nil {
		return false, err
	}
	return f.fill(ctx, key, token, fill)
}

func (f *front) Release(ctx context.Context, key, token string) error {
	key = f.name(key)
	if err := f.usable(key); err != nil {
		return err
	}
	return f.release(ctx, key, f.newBudget(), token)
}

// Block returns an error if one of keys could not be blocked. The others are.
func (f *front) Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	if err := checkTTL(ttl); err != nil {
		return fmt.Errorf("aside: Block of %.200q: %w", keys[0], err)
	}
	if token == "" {
		return fmt.Errorf("aside: Block of %.200q: want a token that is not empty", keys[0])
	}
	if f.life.IsClosed() {
		return ErrClosed
	}
	_, err := f.block(ctx, f.newBudget(), token, ttl, f.names(keys))
	return err
}

// Unblock queues an invalidation that it cannot deliver, as Delete does. The block that it
// could not remove lapses.
func (f *front) Unblock(ctx context.Context, token string, keys ...string) error {
	if f.life.IsClosed() {
		return ErrClosed
	}
	if len(keys) == 0 {
		return nil
	}
	return f.unblock(ctx, f.newBudget(), f.scopeOf, token, f.names(keys))
}

// Clear without prefixes removes everything that the Cache owns. It scans, which may take
// long, so no time budget bounds it as a whole: it goes on while ctx lasts and each of its
// steps is answered within one budget. After an error, some of the values may be gone.
func (f *front) Clear(ctx context.Context, prefixes ...string) error {
	if slices.Contains(prefixes, "") {
		return fmt.Errorf("%w: Clear of an empty prefix: want none to clear all that the cache owns", ErrInvalidKey)
	}
	if len(prefixes) > 0 {
		prefixes = f.names(prefixes)
	} else {
		prefixes = f.owned()
	}
	return f.clear(ctx, prefixes)
}

// owned returns the prefixes of everything that the Cache owns: the key prefix or, without
// one, the keyspaces that it knows of. The states of generations are left out there.
func (f *front) owned() []string {
	if f.cfg.KeyPrefix != "" {
		return []string{f.cfg.KeyPrefix}
	}
	var out []string
	for _, name := range f.spaces() {
		if !isState(name) {
			out = append(out, name+":")
		}
	}
	return out
}

// keyspaceOf returns the scope (see outbox.Scope) of a key in full that was made from a Key:
// its keyspace. The keyspace's name ends at the first colon, as a name has none.
func (f *front) keyspaceOf(key string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	return f.name(name + ":")
}

// scopeOf returns the scope of any other key in full, which may be any text: a keyspace that
// the cache knows of, else everything under KeyPrefix, or "" for none.
func (f *front) scopeOf(key string) string {
	for _, s := range f.spaces() {
		if space := f.name(s + ":"); strings.HasPrefix(key, space) {
			return space
		}
	}
	return f.cfg.KeyPrefix
}

// clear removes the keys with prefixes, which are in full, and those that an overflow of the
// queue owes. A Clear that succeeds makes good every overflow from before it began.
func (f *front) clear(ctx context.Context, prefixes []string) error {
	overflow, seq := f.queue.ToClear()
	// One read finds out within the budget whether the backend is unavailable.
	if _, err := f.get(ctx, f.name(probeKey), f.newBudget()); err != nil && !redisstore.Answered(err) {
		return err
	}
	prefixes = append(slices.Clone(overflow), prefixes...)
	s := redisstore.NewSweep(prefixes, f.cfg.Timeout)
	for done := false; !done; {
		var err error
		if done, err = f.sweepStep(ctx, s, prefixes); err != nil {
			if ctx.Err() == nil && !errors.Is(err, ErrClosed) {
				err = fmt.Errorf("%w: Clear: %w", ErrUnavailable, err)
			}
			return err
		}
	}
	f.flights.detachAll() // later callers must not wait for loads from before the Clear
	f.near.ForgetAll()
	f.queue.Cleared(overflow, seq)
	return nil
}

// sweeper is a backend that can do a Clear in steps, each with a time limit of its own, and
// resume it after a failed step.
type sweeper interface {
	SweepStep(ctx context.Context, s *redisstore.Sweep) (done bool, err error)
}

// sweepStep does the next step of a Clear of prefixes. A backend that has no steps does all
// of it in one.
func (f *front) sweepStep(ctx context.Context, s *redisstore.Sweep, prefixes []string) (done bool, err error) {
	defer foreign.Catch(&err)
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if b, ok := f.own.(sweeper); ok {
		return b.SweepStep(ctx, s)
	}
	return true, f.backend.Clear(ctx, prefixes...)
}

// Status asks the backend even while the breaker is open. When the backend does not answer,
// Status returns an error together with the fields that are of this process.
func (f *front) Status(ctx context.Context) (Status, error) {
	if f.life.IsClosed() {
		return Status{}, ErrClosed
	}
	var info backend.Info
	err := ctx.Err() // of an ended context the backend is not asked, nor waited for
	if err == nil {
		limited, cancel := deadline.Within(ctx, f.cfg.Timeout)
		defer cancel()
		info, err = f.backend.Info(limited)
	}
	s := Status{Backend: info.Name, Version: info.Version, Keys: info.Keys}
	if info.UsedBytes > 0 {
		s.UsedMemory = humanBytes(info.UsedBytes)
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.Breaker = "closed"
	f.nodes.Range(func(_, n any) bool {
		if n := n.(*node); n.IsOpen() || n.store.IsOpen() {
			s.Breaker = "open"
		}
		return true
	})
	s.Queued, s.Overflowed = f.queue.Status()
	s.Stats, s.Keyspaces = f.counts.stats()
	return s, err
}

// Info asks the backend, even while the breaker is open, and without a time budget.
func (f *front) Info(ctx context.Context) (backend.Info, error) {
	if f.life.IsClosed() {
		return backend.Info{}, ErrClosed
	}
	return f.backend.Info(ctx)
}

// Close ends the Cache: it waits up to one time budget for the writes of Update that run,
// waits for the invalidations and fills on their way, ends refreshes, releases the leases of
// running loads, and tries once more to deliver the queue. The error counts the invalidations
// that are left. Loaders are not waited for. A second Close does nothing.
func (f *front) Close() error {
	if !f.life.Close() {
		return nil
	}
	patience := f.cfg.Timeout
	if f.local {
		patience = 0
	}
	var late error
	if n := f.life.AwaitWrites(patience); n > 0 && !f.local { // a local backend has no other readers
		late = fmt.Errorf("aside: closed while %d writes of Update were running: a commit after their block has lapsed is not invalidated in other processes (%w)", n, ErrUnavailable)
	}
	// Invalidations that are on their way are delivered or queued before the last
	// delivery. Later ones get ErrClosed.
	f.life.End()
	// One budget for all: an unavailable Redis must not cost Close one for each lease.
	b := f.newBudget()
	leases := f.flights.leases()
	f.flights.endRefreshes()
	for key, token := range leases { // their loads may go on for long, and store nothing
		_ = f.release(context.Background(), key, b, token)
	}
	left, overflowed := f.lastDelivery()
	f.memo.ForgetAll()
	err := errors.Join(late, f.backend.Close())
	if overflowed {
		err = errors.Join(err, fmt.Errorf("aside: closed with %d invalidations undelivered, and more than the queue held: other processes may serve stale values until they expire (%w)", left, ErrUnavailable))
	} else if left > 0 {
		err = errors.Join(err, fmt.Errorf("aside: closed with %d invalidations undelivered: other processes may serve stale values for these keys until they expire (%w)", left, ErrUnavailable))
	}
	return err
}

// TTL answers even while key is distrusted.
func (f *front) TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error) {
	key = f.name(key)
	f.flights.awaitFill(ctx, key)
	ttl, err = do(ctx, f, key, f.newBudget(), false, func(ctx context.Context) (ttl time.Duration, err error) {
		ttl, ok, err = f.backend.TTL(ctx, key)
		return ttl, err
	})
	return ttl, ok && err == nil, err
}
