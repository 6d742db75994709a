package aside

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/internal/deadline"
)

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
