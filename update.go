package aside

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/outbox"
	"github.com/cacheaside/aside/internal/redisstore"
)

// Update runs write, which changes the database, and invalidates keys around it:
// it removes the keys' values and blocks the keys, so that nothing is stored under
// them, runs write, and then removes values and blocks once more. Until then, readers
// of the keys are served from the database. If the process dies in between, the block
// lapses by itself after 10 seconds, and nothing stale is left.
//
// write runs once, in the caller's goroutine, and has committed when it returns. It
// does not run, and the error says why, when ctx has ended before, a key is not
// valid or there is none, or c is closed. What write returns is returned as it is;
// the keys are invalidated all the same, since its outcome may be unknown, and also
// when ctx has ended meanwhile, within Config.Timeout, or when c is closed meanwhile:
// Close waits for it, and says so when it cannot. Its context ends with
// [ErrBlockLost] as its cause when the block cannot be renewed before it lapses.
//
// When the backend does not take the block, write runs nevertheless, unless
// Config.RefuseWrites is set; the keys are then not served from the cache in this
// process until their invalidation was delivered. [Pending] tells whether it was.
func Update(ctx context.Context, c Cache, write func(context.Context) error, keys ...Key) error {
	f, names, err := keysOf(c, keys)
	if err != nil {
		return err
	}
	if write == nil {
		return fmt.Errorf("aside: Update of %.200q: the write is nil", keys[0].text)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	u := update{f: f, keys: names, token: rand.Text(), budget: f.newBudget()}
	if !f.hooks.Writes {
		return u.run(ctx, write)
	}
	start := time.Now()
	err = u.run(ctx, write)
	f.wrote(ctx, hook.Write{Update: true, Keyspace: f.counts.of(keys[0].space.Name).space, Duration: time.Since(start), Err: err}, names)
	return err
}

// Invalidate removes keys from the cache after their values have changed in the
// database. No load that began before is stored. If one of the keys is not valid, that
// is the error, and none is removed. It does its work even when ctx
// has ended, as the database is changed already. When the backend does not
// answer, the invalidation is kept and delivered later, which is no error
// ([Pending] tells), and this process reads the keys from the database until
// then. If the process dies first, other processes stay stale until the value's
// time to live is over: [Update] is safer.
func Invalidate(ctx context.Context, c Cache, keys ...Key) error {
	f, names, err := keysOf(c, keys)
	if err != nil {
		return err
	}
	if !f.hooks.Writes {
		return f.invalidate(ctx, f.newBudget(), names...)
	}
	start := time.Now()
	err = f.invalidate(ctx, f.newBudget(), names...)
	f.wrote(ctx, hook.Write{Keyspace: f.counts.of(keys[0].space.Name).space, Duration: time.Since(start), Err: err}, names)
	return err
}

// wrote tells hooks of a write of keys.
func (f *front) wrote(ctx context.Context, w hook.Write, keys []string) {
	w.Keys = len(keys)
	for _, key := range keys {
		if f.queue.Distrusts(key) {
			w.Pending++
		}
	}
	f.hooks.Write(ctx, w)
}

// Pending reports whether reads of at least one of keys bypass the cache in this
// process, because an invalidation was not delivered yet, or a write is running whose
// block the backend did not take. Keys that are not valid are not pending.
func Pending(c Cache, keys ...Key) bool {
	f, names, err := keysOf(c, keys)
	if err != nil {
		return false
	}
	for _, name := range names {
		if f.queue.Distrusts(name) {
			return true
		}
	}
	return false
}

func keysOf(c Cache, keys []Key) (*front, []string, error) {
	f, err := frontOf(c)
	if err != nil {
		return nil, nil, err
	}
	names, err := texts(keys)
	if err != nil {
		return nil, nil, err
	}
	if f.life.IsClosed() {
		return nil, nil, ErrClosed
	}
	return f, f.names(names), nil
}

const (
	// blockTTL is how long a block lasts unless extended: how long reads of the
	// keys are not cached after a writer died.
	blockTTL = 10 * time.Second
	// blockMargin is how long before its block would lapse a write is told to stop.
	blockMargin = time.Second
)

// update is one call of Update.
type update struct {
	f      *front
	keys   []string
	token  string
	budget *budget
}

func (u *update) run(ctx context.Context, write func(context.Context) error) error {
	if !u.f.life.BeginWrite() {
		return ErrClosed
	}
	defer u.f.life.EndWrite()
	sent := time.Now()
	unblocked, _ := u.f.block(ctx, u.budget, u.token, blockTTL, u.keys)
	u.f.queue.Hold(unblocked)
	// Before the hold ends, what could not be invalidated is in the queue.
	defer u.f.queue.Release(unblocked)
	defer u.f.finalise(ctx, u.budget, u.token, u.keys)
	if len(unblocked) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if u.f.cfg.RefuseWrites {
			return ErrWriteRefused
		}
	}
	blocked := without(u.keys, unblocked)
	if len(blocked) == 0 || u.f.off {
		return write(ctx)
	}
	held, stop := u.keepBlocked(ctx, blocked, sent)
	defer stop()
	return write(held)
}

// without returns the keys that are not among failed, in time that grows with the
// number of both, which the caller of Update chooses.
func without(keys, failed []string) []string {
	if len(failed) == 0 {
		return keys
	}
	out := make(map[string]bool, len(failed))
	for _, key := range failed {
		out[key] = true
	}
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return out[key] })
}

// keepBlocked extends the blocks until stop is called, and returns a context that
// ends before they would lapse. sent is when the blocks were asked for: they last
// at least from then.
func (u *update) keepBlocked(ctx context.Context, keys []string, sent time.Time) (held context.Context, stop func()) {
	held, lose := context.WithCancelCause(ctx)
	lapse := time.AfterFunc(time.Until(sent)+blockTTL-blockMargin, func() { lose(ErrBlockLost) })
	done := deadline.Every(blockTTL/3, func(asking context.Context) (again bool) {
		sent := time.Now()
		alive, err := u.f.extendAll(asking, u.f.newBudget(), u.token, blockTTL, keys)
		if err == nil && !alive {
			lose(ErrBlockLost)
			return false
		}
		if err == nil {
			lapse.Reset(time.Until(sent) + blockTTL - blockMargin)
		}
		return true
	})
	return held, func() {
		done()
		lapse.Stop()
		lose(nil)
	}
}

// extendAll extends the blocks or leases of token on keys, and reports whether none of
// them has ended.
func (f *front) extendAll(ctx context.Context, b *budget, token string, ttl time.Duration, keys []string) (held bool, err error) {
	if f.life.IsClosed() {
		return false, ErrClosed
	}
	var ended atomic.Bool
	_, err = f.eachShard(ctx, keys, b, func(ctx context.Context, keys []string) error {
		held, err := f.backend.Extend(ctx, token, ttl, keys...)
		if err == nil && !held {
			ended.Store(true)
		}
		return err
	})
	return err == nil && !ended.Load(), err
}

const (
	// deliverInterval is how long the deliverer waits after it failed.
	deliverInterval = 250 * time.Millisecond
	// deliverBatch is how many invalidations it delivers at a time.
	deliverBatch = 128
	// wholeClear is what an owed Clear may take at first on a backend that cannot go
	// on where it was; each time that it was too little it doubles.
	wholeClear = time.Minute
	// closeTimeout is how long Close goes on delivering to a backend that answers.
	closeTimeout = 5 * time.Second
)

// invalidate detaches the running loads of keys, named in full, deletes the keys
// in the backend, and queues those it could not. The caller's leaving does not
// stop it: its write is done. It returns an error only when the front is closed
// and there is nobody left to deliver what failed. keys are those of Keys.
func (f *front) invalidate(ctx context.Context, b *budget, keys ...string) error {
	return f.invalidateIn(ctx, b, f.keyspaceOf, keys)
}

// invalidateIn is invalidate of keys that overflow into their scopes.
func (f *front) invalidateIn(ctx context.Context, b *budget, of outbox.Scope, keys []string) error {
	if !f.life.Settle() {
		return ErrClosed
	}
	defer f.life.Settled()
	f.detach(keys)
	failed, err := f.eachShard(context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Delete(ctx, keys...)
	})
	return f.settled(keys, failed, err, of)
}

// detach keeps loads of keys that began before now from the callers that come after it.
func (f *front) detach(keys []string) {
	f.flights.detach(keys)
	f.misses.Invalidated(keys)
}

func (f *front) block(ctx context.Context, b *budget, token string, ttl time.Duration, keys []string) (failed []string, err error) {
	f.detach(keys)
	failed, err = f.eachShard(ctx, keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Block(ctx, token, ttl, keys...)
	})
	f.near.Drop(keys...)
	return failed, err
}

// finalise is the end of a write, which has run whatever becomes of this: it has no
// error. When Close waits for the write no more, it has said so, and this does nothing.
func (f *front) finalise(ctx context.Context, b *budget, token string, keys []string) {
	if f.life.SettleWrite() {
		_ = f.unblockNow(ctx, b, f.keyspaceOf, token, keys) // Close is not over before it
	}
}

// unblock is the end of a block. Its error is as invalidate's. keys overflow into their
// scopes.
func (f *front) unblock(ctx context.Context, b *budget, of outbox.Scope, token string, keys []string) error {
	if !f.life.Settle() {
		return ErrClosed
	}
	return f.unblockNow(ctx, b, of, token, keys)
}

// unblockNow is unblock for a caller that has noted that it settles.
func (f *front) unblockNow(ctx context.Context, b *budget, of outbox.Scope, token string, keys []string) error {
	defer f.life.Settled()
	f.detach(keys)
	failed, err := f.eachShard(context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Unblock(ctx, token, keys...)
	})
	return f.settled(keys, failed, err, of)
}

// settled counts invalidations, and queues those that failed. It returns an error for
// those that nobody is going to deliver.
func (f *front) settled(keys, failed []string, err error, of outbox.Scope) error {
	f.near.Drop(keys...) // what was asked for before now may be older
	for _, key := range without(keys, failed) {
		f.countOf(key).invalidated.Add(1)
	}
	if len(failed) == 0 {
		return nil
	}
	if n, _ := f.queue.Status(); n == 0 {
		f.log.Warn("cache: invalidations are kept until the backend takes them", "err", err)
	}
	refused := f.queue.Add(failed, of)
	f.hooks.Queue(f.isQueued, err)
	for _, key := range failed[:len(failed)-refused] {
		f.countOf(key).queued.Add(1)
	}
	if f.life.IsOver() {
		return fmt.Errorf("%w: %d keys could not be invalidated any more", ErrClosed, len(failed))
	}
	f.deliver()
	if refused > 0 {
		return fmt.Errorf("%w: %d of %d keys are not invalidated: the queue is full, and they are of no keyspace that could be cleared in their place", ErrUnavailable, refused, len(keys))
	}
	return nil
}

// isQueued reports whether invalidations wait.
func (f *front) isQueued() bool {
	n, overflowed := f.queue.Status()
	return n > 0 || overflowed
}

// deliver starts delivering the queue, unless that is being done.
func (f *front) deliver() {
	if f.queue.IsEmpty() || f.life.IsOver() || !f.deliverer.CompareAndSwap(false, true) {
		return
	}
	f.life.Go(func() {
		defer f.deliverer.Store(false) // also when code of the backend ends this goroutine
		for !f.deliverOnce(f.life.Context()) && !f.life.IsOver() {
			select {
			case <-time.After(deliverInterval):
			case <-f.life.Context().Done():
			}
		}
		f.deliverer.Store(false)
		if n, over := f.queue.Status(); (n > 0 || over) && !f.life.IsOver() {
			f.deliver() // came since
		}
	})
}

// deliverOnce delivers what it can, and reports whether nothing is left.
func (f *front) deliverOnce(ctx context.Context) (empty bool) {
	for again := true; again; {
		due := f.queue.Due(func(key string) bool { return f.nodeOf(key).IsOpen() })
		for len(due) > 0 && ctx.Err() == nil {
			batch := due[:min(deliverBatch, len(due))]
			due = due[len(batch):]
			f.deliverBatch(ctx, batch)
		}
		// A long Clear does not hold up what is queued meanwhile.
		again = !f.anyOpen() && f.clearOwed(ctx, time.Now().Add(deliverInterval))
	}
	n, overflowed := f.queue.Status()
	if n == 0 && !overflowed && ctx.Err() == nil {
		f.log.Warn("cache: all invalidations that were kept are delivered")
	}
	f.hooks.Queue(f.isQueued, nil)
	return n == 0 && !overflowed
}

// clearOwed goes on with the Clear that an overflow owes, from where the last call
// stopped, until it is over, fails, or has gone on until the time given. again says
// that there is more to do, and that nothing has failed. One goroutine at a time may
// call it.
func (f *front) clearOwed(ctx context.Context, until time.Time) (again bool) {
	prefixes, seq := f.queue.ToClear()
	if len(prefixes) == 0 {
		f.owed = nil // another Clear was quicker
		return false
	}
	if f.owed == nil {
		f.owed = &owedClear{redisstore.NewSweep(prefixes, f.cfg.Timeout), prefixes, seq, wholeClear}
	}
	for time.Now().Before(until) {
		step, cancel := context.WithTimeout(ctx, f.owed.whole)
		done, err := f.sweepStep(step, f.owed.Sweep, f.owed.prefixes)
		late := step.Err() != nil
		cancel()
		if err != nil {
			if late { // a backend that begins anew each time gets more of it
				f.owed.whole *= 2
			}
			return false
		}
		if done {
			f.near.ForgetAll()
			f.queue.Cleared(f.owed.prefixes, f.owed.seq)
			f.owed = nil
			return true
		}
	}
	return true
}

// anyOpen reports whether a node does not answer.
func (f *front) anyOpen() (open bool) {
	f.nodes.Range(func(_, n any) bool {
		open = n.(*node).IsOpen()
		return !open
	})
	return open
}

func (f *front) deliverBatch(ctx context.Context, batch []outbox.Due) {
	keys := make([]string, len(batch))
	for i, d := range batch {
		keys[i] = d.Key
	}
	failed, err := f.eachShard(ctx, keys, f.newBudget(), func(ctx context.Context, keys []string) error {
		return f.backend.Delete(ctx, keys...)
	})
	if len(batch) > 1 && redisstore.Answered(err) { // one that is refused does not hold up the others
		for i := range batch {
			f.deliverBatch(ctx, batch[i:i+1])
		}
		return
	}
	undelivered := make(map[string]bool, len(failed))
	for _, key := range failed {
		undelivered[key] = true
	}
	var done []outbox.Due
	for _, d := range batch {
		if !undelivered[d.Key] {
			done = append(done, d)
			f.countOf(d.Key).invalidated.Add(1)
		}
	}
	f.near.Drop(keys...)
	f.queue.Delivered(done)
}

// lastDelivery is Close's: one try, with the breaker ignored. It goes on, up to
// closeTimeout, while the backend answers each of its commands within a budget.
func (f *front) lastDelivery() (left int, overflowed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), max(closeTimeout, f.cfg.Timeout))
	defer cancel()
	if f.lastBatches(ctx) {
		until, _ := ctx.Deadline()
		for f.clearOwed(ctx, until) && ctx.Err() == nil {
		}
	}
	f.hooks.Queue(f.isQueued, nil)
	return f.queue.Status()
}

// lastBatches reports whether the backend answered all of them.
func (f *front) lastBatches(ctx context.Context) (answers bool) {
	for batch := range slices.Chunk(f.queue.Due(func(string) bool { return false }), deliverBatch) {
		keys := make([]string, len(batch))
		for i, d := range batch {
			keys[i] = d.Key
		}
		within, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
		err := f.backend.Delete(within, keys...)
		cancel()
		if err == nil {
			f.queue.Delivered(batch)
		} else if !redisstore.Answered(err) {
			return false
		}
	}
	return true
}
