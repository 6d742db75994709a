package aside

import (
	"context"
	"time"
)

// timeLeft returns how long ctx lasts from now. ok is false when it has no deadline, or
// one that has passed while it lives on: a context that was detached from the end of
// another may have kept its deadline, which says nothing then. Whatever asks a context
// for its deadline asks here.
func timeLeft(ctx context.Context) (left time.Duration, ok bool) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	left = time.Until(deadline)
	return left, left > 0 || ctx.Err() != nil
}

// timed returns a context that ends with ctx, and after d at the latest. Its deadline is
// its own, which a client may set on a connection: that of ctx is left out, as
// [context.WithTimeout] relies on a parent that is to end sooner.
func timed(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if left, ok := timeLeft(ctx); ok {
		d = min(d, left)
	}
	return context.WithTimeout(undated{ctx}, d)
}

// undated is a context without the deadline of the one in it.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// limit is a time that many commands share as their last: a timer for each would
// cost more than all else that a read does here.
type limit struct {
	made, deadline time.Time
	over           chan struct{} // closed at deadline
}

// sharedLimit returns a limit that a command which starts now may have: it is
// nearly a budget away.
func (f *front) sharedLimit(now time.Time) *limit {
	if l := f.limit.Load(); l != nil && now.Sub(l.made) < f.cfg.Timeout/32 {
		return l
	}
	l := &limit{made: now, deadline: now.Add(f.cfg.Timeout), over: make(chan struct{})}
	time.AfterFunc(f.cfg.Timeout, func() { close(l.over) })
	f.limit.Store(l)
	return l
}

// limited is a context that has the values of the caller's, and ends at a limit. It
// is for a client that would not interrupt a command for its caller anyhow.
type limited struct {
	context.Context
	limit *limit
}

func (l *limited) Deadline() (time.Time, bool) { return l.limit.deadline, true }
func (l *limited) Done() <-chan struct{}       { return l.limit.over }

func (l *limited) Err() error {
	select {
	case <-l.limit.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}
