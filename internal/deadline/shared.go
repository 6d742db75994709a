package deadline

import (
	"context"
	"sync/atomic"
	"time"
)

// Shared makes contexts that end after one time, many of which share a timer: one for
// each would cost more than all else that a read does. Its methods may be called
// concurrently.
type Shared struct {
	after time.Duration
	last  atomic.Pointer[limit]
}

// limit is a time that many contexts have as their last.
type limit struct {
	made, deadline time.Time
	over           chan struct{} // closed at deadline
}

// NewShared returns a Shared whose contexts end after d, or up to a 32nd of it sooner.
func NewShared(d time.Duration) *Shared { return &Shared{after: d} }

// Context returns a context for a command that starts now. It has the values of ctx, and
// does not end with it: it is for a client that would not interrupt a command for its
// caller anyhow.
func (s *Shared) Context(ctx context.Context, now time.Time) context.Context {
	return &limited{ctx, s.limit(now)}
}

func (s *Shared) limit(now time.Time) *limit {
	if l := s.last.Load(); l != nil && now.Sub(l.made) < s.after/32 {
		return l
	}
	l := &limit{made: now, deadline: now.Add(s.after), over: make(chan struct{})}
	time.AfterFunc(s.after, func() { close(l.over) })
	s.last.Store(l)
	return l
}

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
