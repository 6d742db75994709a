package aside

import (
	"context"
	"fmt"
	"time"
)

const (
	// deliverInterval is how long the deliverer waits after it failed.
	deliverInterval = 250 * time.Millisecond
	// deliverBatch is how many invalidations it delivers at a time.
	deliverBatch = 128
)

// invalidate detaches the running loads of keys, named in full, deletes the keys
// in the backend, and queues those it could not. The caller's leaving does not
// stop it: its write is done. It returns an error only when the front is closed
// and there is nobody left to deliver what failed.
func (f *front) invalidate(ctx context.Context, b *budget, keys ...string) error {
	if !f.settles() {
		return ErrClosed
	}
	defer f.settling.Done()
	f.flights.detach(keys)
	failed, err := f.eachShard(context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Delete(ctx, keys...)
	})
	return f.settled(keys, failed, err)
}

func (f *front) block(ctx context.Context, b *budget, token string, ttl time.Duration, keys []string) (failed []string, err error) {
	f.flights.detach(keys)
	failed, err = f.eachShard(ctx, keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Block(ctx, token, ttl, keys...)
	})
	f.near.drop(keys...)
	return failed, err
}

// unblock is the end of a write. Its error is as invalidate's.
func (f *front) unblock(ctx context.Context, b *budget, token string, keys []string) error {
	if !f.settles() {
		return ErrClosed
	}
	defer f.settling.Done()
	f.flights.detach(keys)
	failed, err := f.eachShard(context.WithoutCancel(ctx), keys, b, func(ctx context.Context, keys []string) error {
		return f.backend.Unblock(ctx, token, keys...)
	})
	return f.settled(keys, failed, err)
}

// settled counts invalidations, and queues those that failed.
func (f *front) settled(keys, failed []string, err error) error {
	f.near.drop(keys...) // what was asked for before now may be older
	f.count.invalidated.Add(int64(len(keys) - len(failed)))
	if len(failed) == 0 {
		return nil
	}
	f.count.queued.Add(int64(len(failed)))
	if n, _ := f.queue.status(); n == 0 {
		f.log.Warn("cache: invalidations are kept until the backend takes them", "err", err)
	}
	f.queue.add(failed)
	if f.closing.Err() != nil {
		return fmt.Errorf("%w: %d keys could not be invalidated any more", ErrClosed, len(failed))
	}
	f.deliver()
	return nil
}

// deliver starts delivering the queue, unless that is being done.
func (f *front) deliver() {
	if f.queue.size.Load() == 0 || f.closing.Err() != nil || !f.deliverer.CompareAndSwap(false, true) {
		return
	}
	f.later(func() {
		for !f.deliverOnce(f.closing) && f.closing.Err() == nil {
			select {
			case <-time.After(deliverInterval):
			case <-f.closing.Done():
			}
		}
		f.deliverer.Store(false)
		if n, over := f.queue.status(); (n > 0 || over) && f.closing.Err() == nil {
			f.deliver() // came since
		}
	})
}

// deliverOnce delivers what it can, and reports whether nothing is left.
func (f *front) deliverOnce(ctx context.Context) (empty bool) {
	due := f.queue.due(func(key string) bool { return f.nodeOf(key).open.Load() })
	for len(due) > 0 && ctx.Err() == nil {
		batch := due[:min(deliverBatch, len(due))]
		due = due[len(batch):]
		f.deliverBatch(ctx, batch)
	}
	if prefixes, seq := f.queue.toClear(); len(prefixes) > 0 && !f.anyOpen() {
		within, cancel := context.WithTimeout(ctx, clearTimeout)
		if f.backend.Clear(within, prefixes...) == nil {
			f.near.forgetAll()
			f.queue.cleared(seq)
		}
		cancel()
	}
	n, overflowed := f.queue.status()
	if n == 0 && !overflowed && ctx.Err() == nil {
		f.log.Warn("cache: all invalidations that were kept are delivered")
	}
	return n == 0 && !overflowed
}

// anyOpen reports whether a node does not answer.
func (f *front) anyOpen() (open bool) {
	f.nodes.Range(func(_, n any) bool {
		open = n.(*node).open.Load()
		return !open
	})
	return open
}

func (f *front) deliverBatch(ctx context.Context, batch []dueKey) {
	keys := make([]string, len(batch))
	for i, d := range batch {
		keys[i] = d.key
	}
	failed, err := f.eachShard(ctx, keys, f.newBudget(), func(ctx context.Context, keys []string) error {
		return f.backend.Delete(ctx, keys...)
	})
	if len(batch) > 1 && answered(err) { // one that is refused does not hold up the others
		for i := range batch {
			f.deliverBatch(ctx, batch[i:i+1])
		}
		return
	}
	undelivered := make(map[string]bool, len(failed))
	for _, key := range failed {
		undelivered[key] = true
	}
	var done []dueKey
	for _, d := range batch {
		if !undelivered[d.key] {
			done = append(done, d)
		}
	}
	f.near.drop(keys...)
	f.count.invalidated.Add(int64(len(done)))
	f.queue.delivered(done)
}

// lastDelivery is Close's: one try within one budget, with the breaker ignored.
func (f *front) lastDelivery() (left int, overflowed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), f.cfg.Timeout)
	defer cancel()
	due := f.queue.due(func(string) bool { return false })
	for len(due) > 0 {
		batch := due[:min(deliverBatch, len(due))]
		keys := make([]string, len(batch))
		for i, d := range batch {
			keys[i] = d.key
		}
		if f.backend.Delete(ctx, keys...) != nil {
			break
		}
		f.queue.delivered(batch)
		due = due[len(batch):]
	}
	if prefixes, seq := f.queue.toClear(); len(prefixes) > 0 && f.backend.Clear(ctx, prefixes...) == nil {
		f.queue.cleared(seq)
	}
	return f.queue.status()
}
