package deadline

import (
	"context"
	"sync/atomic"
	"time"
)

// Shared makes contexts with one timeout. Contexts that are made at about the same time share a
// timer and a channel; one each would cost more than all else that a read does. Its methods
// may be called concurrently.
type Shared struct {
	after time.Duration
	last  atomic.Pointer[limit] // the newest; nil before the first context
}

// limit is a deadline that many contexts share.
type limit struct {
	made, deadline time.Time
	over           chan struct{} // closed at deadline
}

// NewShared returns a Shared that makes contexts with a timeout of d, or up to a 32nd of it
// less.
func NewShared(d time.Duration) *Shared { return &Shared{after: d} }

// Context returns a context with the values of ctx for a command that starts now. It does not
// end with ctx: it is for a client like go-redis, which sets the deadline on a connection and
// does not interrupt a command for its caller anyhow. Nothing has to be released.
func (s *Shared) Context(ctx context.Context, now time.Time) context.Context {
	return &limited{ctx, s.limit(now)}
}

// limit returns the newest limit, or a new one if that is older than a 32nd of the timeout. Two
// callers may both make one, of which the other is used by its maker alone.
func (s *Shared) limit(now time.Time) *limit {
	if l := s.last.Load(); l != nil && now.Sub(l.made) < s.after/32 {
		return l
	}
	l := &limit{made: now, deadline: now.Add(s.after), over: make(chan struct{})}
	time.AfterFunc(s.after, func() { close(l.over) })
	s.last.Store(l)
	return l
}

// limited is a context with the values of one and the end of a limit.
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
