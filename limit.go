package aside

import (
	"context"
	"time"
)

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
