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

// Update runs write, which changes the database, and invalidates keys around it (promise
// 2). It removes the keys' values and blocks the keys, runs write, and then removes
// values and blocks once more. Meanwhile readers of the keys load from the database, and
// nothing is stored. If the process dies in between, its block lapses after 10 seconds
// and nothing stale is left.
//
// write runs once, in the caller's goroutine, and must have committed when it returns.
// Its error is returned as it is. The keys are invalidated whether or not it succeeds,
// since its outcome may be unknown, and even if ctx has ended or c was closed meanwhile.
// Close waits for a running Update within Config.Timeout, and its error says if it could
// not. The context of write ends with [ErrBlockLost] as its cause if the block cannot be
// renewed before it lapses.
//
// write is not called if ctx is already done or ends before the keys are blocked, keys is
// empty or has an invalid key, or c is closed; Update then returns the reason.
//
// If the backend does not take the block, write runs nevertheless, unless
// Config.RefuseWrites is set. The keys are then distrusted in this process until their
// invalidation is delivered; [Pending] reports that.
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

// Invalidate removes keys from the cache after their values have changed in the database.
// No load that began before is stored. Invalidate does its work even if ctx has ended, as
// the database has changed already. If any key is invalid, it returns an error and
// removes none of them.
//
// If the backend is unavailable, the invalidation is queued, which is not an error
// (promise 6): this process reads the keys from the database until it is delivered, and
// [Pending] reports true. If the process dies before, other processes serve the old value
// until its time to live is over, so prefer [Update].
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

// wrote calls the Write hooks.
func (f *front) wrote(ctx context.Context, w hook.Write, keys []string) {
	w.Keys = len(keys)
	for _, key := range keys {
		if f.queue.Distrusts(key) {
			w.Pending++
		}
	}
	f.hooks.Write(ctx, w)
}

// Pending reports whether this process currently bypasses the cache for at least one of
// keys, because an invalidation is not delivered yet, or a write is running without its
// block. Invalid keys are not pending.
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

// keysOf checks the arguments that Update, Invalidate and Pending share.
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
	// blockTTL is how long a block lasts unless extended, and so how long reads of the keys
	// are not cached after a writer has died.
	blockTTL = 10 * time.Second
	// blockMargin is how long before the lapse of its block a write's context ends.
	blockMargin = time.Second
)

// update is one call of Update.
type update struct {
	f      *front
	keys   []string
	token  string
	budget *budget
}

// run is Update after its arguments were checked.
func (u *update) run(ctx context.Context, write func(context.Context) error) error {
	if !u.f.life.BeginWrite() {
		return ErrClosed
	}
	defer u.f.life.EndWrite()
	// The block's time is counted from before it is sent, so that it never lasts for less
	// than this process believes.
	sent := time.Now()
	unblocked, _ := u.f.block(ctx, u.budget, u.token, blockTTL, u.keys)
	u.f.queue.Hold(unblocked)
	// finalise runs before the hold ends, so that a key is distrusted without a gap: failed
	// invalidations are queued by then.
	defer u.f.queue.Release(unblocked)
	defer u.f.finalise(ctx, u.budget, u.token, u.keys)
	if err := ctx.Err(); err != nil { // it ended during the block, and the write would fail
		return err
	}
	if len(unblocked) > 0 && u.f.cfg.RefuseWrites {
		return ErrWriteRefused
	}
	blocked := without(u.keys, unblocked)
	if len(blocked) == 0 || u.f.off { // there is no block to extend
		return write(ctx)
	}
	held, stop := u.keepBlocked(ctx, blocked, sent)
	defer stop()
	return write(held)
}

// without returns the keys that are not among failed, in time linear in both, since the
// caller of Update chooses how many keys there are.
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

// keepBlocked extends the blocks until stop is called, and returns a context that ends
// before they would lapse. sent is the time before the blocks were requested, from which
// they last at least.
func (u *update) keepBlocked(ctx context.Context, keys []string, sent time.Time) (held context.Context, stop func()) {
	held, lose := context.WithCancelCause(ctx)
	lapse := time.AfterFunc(time.Until(sent)+blockTTL-blockMargin, func() { lose(ErrBlockLost) })
	done := deadline.Every(blockTTL/3, func(asking context.Context) (again bool) {
		sent := time.Now()
		alive, err := u.f.extendAll(asking, u.f.newBudget(), u.token, blockTTL, keys)
		// Only the backend's word ends the write at once. An error may be a lost answer, so
		// the blocks are extended again until lapse fires.
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

// extendAll extends the blocks or leases of token on keys, and reports whether all of
// them still stand.
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
	// deliverInterval is how long the deliverer waits after a failure.
	deliverInterval = 250 * time.Millisecond
	// deliverBatch is how many invalidations it delivers at a time.
	deliverBatch = 128
	// wholeClear is the first time limit of an owed Clear on a backend that cannot resume
	// one. It doubles each time it was too short.
	wholeClear = time.Minute
	// closeTimeout is how long Close keeps delivering while the backend answers.
	closeTimeout = 5 * time.Second
)

// invalidate detaches the running loads of keys, given with their prefix, deletes the
// keys in the backend, and queues those that failed. It goes on when ctx ends, as the
// caller's write is done. It returns an error only if the front is closed, so that the
// failed ones are never delivered. Each key must come from a [Key], so that its keyspace
// can stand for it in a full queue.
func (f *front) invalidate(ctx context.Context, b *budget, keys ...string) error {
	return f.invalidateIn(ctx, b, f.keyspaceOf, keys)
}

// invalidateIn is invalidate for keys of any origin. If the queue is full, of gives the
// prefix that is to be cleared in a key's place.
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

// detach keeps loads that began before now from the callers that come after it (promise
// 1). It must come before the backend command: a reader that starts while that is on its
// way must not join an old load.
func (f *front) detach(keys []string) {
	f.flights.detach(keys)
	f.misses.Invalidated(keys)
}

// block removes the values of keys and blocks the keys. It returns the keys that were not
// blocked.
func (f *front) block(ctx context.Context, b *budget, token string, ttl time.Duration, keys []string) (failed []string, err error) {
	f.detach(keys)
	failed, err = f.eachShard(ctx, keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Block(ctx, token, ttl, keys...)
	})
	f.near.Drop(keys...)
	return failed, err
}

// finalise ends a write's block. It has no error, as the write has run in any case. If
// Close no longer waits for the write, Close has reported it, and finalise does nothing.
func (f *front) finalise(ctx context.Context, b *budget, token string, keys []string) {
	if f.life.SettleWrite() {
		_ = f.unblockNow(ctx, b, f.keyspaceOf, token, keys) // Close waits for it
	}
}

// unblock removes the block of token and the values of keys. Its error and of are those
// of invalidateIn.
func (f *front) unblock(ctx context.Context, b *budget, of outbox.Scope, token string, keys []string) error {
	if !f.life.Settle() {
		return ErrClosed
	}
	return f.unblockNow(ctx, b, of, token, keys)
}

// unblockNow is unblock for a caller that has called Settle.
func (f *front) unblockNow(ctx context.Context, b *budget, of outbox.Scope, token string, keys []string) error {
	defer f.life.Settled()
	f.detach(keys)
	failed, err := f.eachShard(context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Unblock(ctx, token, keys...)
	})
	return f.settled(keys, failed, err, of)
}

// settled counts the invalidations that succeeded and queues those that failed. It
// returns an error if some of them will never be delivered.
func (f *front) settled(keys, failed []string, err error, of outbox.Scope) error {
	f.near.Drop(keys...) // a copy requested before now may be older
	for _, key := range without(keys, failed) {
		f.countOf(key).invalidated.Add(1)
	}
	if len(failed) == 0 {
		return nil
	}
	if n, _ := f.queue.Status(); n == 0 { // once, when the trouble begins
		f.log.Warn("aside: invalidations fail, and are queued until delivered", "err", err)
	}
	refused := f.queue.Add(failed, of)
	f.hooks.Queue(f.isQueued, err)
	for _, key := range failed[:len(failed)-refused] {
		f.countOf(key).queued.Add(1)
	}
	if f.life.IsOver() { // the deliverer has ended
		return fmt.Errorf("%w: %d keys could not be invalidated before Close", ErrClosed, len(failed))
	}
	f.deliver()
	if refused > 0 {
		return fmt.Errorf("%w: %d of %d keys not invalidated: the queue is full, and they belong to no keyspace that could be cleared instead", ErrUnavailable, refused, len(keys))
	}
	return nil
}

// isQueued reports whether invalidations are waiting.
func (f *front) isQueued() bool {
	n, overflowed := f.queue.Status()
	return n > 0 || overflowed
}

// deliver starts delivering the queue, unless a goroutine does so already.
func (f *front) deliver() {
	if f.queue.IsEmpty() || f.life.IsOver() || !f.deliverer.CompareAndSwap(false, true) {
		return
	}
	f.life.Go(func() {
		empty := false
		defer func() {
			if !empty { // code of the backend has ended this goroutine
				f.pause(deliverInterval)
			}
			f.deliverer.Store(false)
			if f.isQueued() { // a key that a running write holds back does not count
				f.deliver() // queued after the last look
			}
		}()
		for !f.deliverOnce(f.life.Context()) && !f.life.IsOver() {
			f.pause(deliverInterval)
		}
		empty = true
	})
}

// pause waits for d, or until the front closes.
func (f *front) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.life.Context().Done():
	}
}

// deliverOnce delivers all it can, and reports whether the queue is empty.
func (f *front) deliverOnce(ctx context.Context) (empty bool) {
	for again := true; again; {
		// Keys of a node with an open breaker are skipped: they would use up the time of the
		// others.
		due := f.queue.Due(func(key string) bool { return f.nodeOf(key).IsOpen() })
		for len(due) > 0 && ctx.Err() == nil {
			batch := due[:min(deliverBatch, len(due))]
			due = due[len(batch):]
			f.deliverBatch(ctx, batch)
		}
		// The Clear goes on in slices, so that a long one does not hold up new invalidations.
		again = !f.anyOpen() && f.clearOwed(ctx, time.Now().Add(deliverInterval))
	}
	n, overflowed := f.queue.Status()
	if n == 0 && !overflowed && ctx.Err() == nil {
		f.log.Info("aside: queued invalidations delivered")
	}
	f.hooks.Queue(f.isQueued, nil)
	return n == 0 && !overflowed
}

// clearOwed continues the Clear that an overflow owes, from the point that the last call
// reached, until it is done, fails, or the time until has passed. again reports that
// there is more to do and nothing has failed. It must not be called concurrently.
func (f *front) clearOwed(ctx context.Context, until time.Time) (again bool) {
	prefixes, seq := f.queue.ToClear()
	if len(prefixes) == 0 {
		f.owed = nil // a Clear by the service has paid it
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
			if late { // a backend that cannot resume needs more time
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

// anyOpen reports whether any node's breaker is open.
func (f *front) anyOpen() (open bool) {
	f.nodes.Range(func(_, n any) bool {
		open = n.(*node).IsOpen()
		return !open
	})
	return open
}

// deliverBatch deletes the keys of a batch. If the backend answers with an error, it
// tries each key by itself, so that one refused key does not hold up the others.
func (f *front) deliverBatch(ctx context.Context, batch []outbox.Due) {
	keys := make([]string, len(batch))
	for i, d := range batch {
		keys[i] = d.Key
	}
	failed, err := f.eachShard(ctx, keys, f.newBudget(), func(ctx context.Context, keys []string) error {
		return f.backend.Delete(ctx, keys...)
	})
	if len(batch) > 1 && redisstore.Answered(err) {
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

// lastDelivery is the delivery of Close: one try, whether or not a breaker is open. It
// goes on, up to closeTimeout, while the backend answers each command within a time
// budget.
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

// lastBatches sends the queue once, and reports whether the backend answered every batch.
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
