// Package deadline makes contexts and reads their deadlines, for callers that cannot rely on
// the contexts they are given and for a hot path that cannot afford those of package context.
//
// A context may have a deadline that has passed while it lives on: a wrapper detached it from
// the end of another and kept its Deadline method. A client that sets such a deadline on a
// connection fails at once. [Left] ignores it, and [Within] and [Without] add a deadline and
// remove one with the same care. No other code should call Deadline on a caller's context.
//
// [Detached] is a context with the values of another and an end of its own, in one object.
// [Shared] lets many commands that start at about one time share a timer. [Every] repeats
// work at an interval, such as extending a lease.
package deadline

import (
	"context"
	"time"
)

// Left returns how long ctx lasts from now, which is negative if it is over. ok is false if
// ctx has no deadline, or one that has passed while it lives on.
func Left(ctx context.Context) (left time.Duration, ok bool) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	left = time.Until(deadline)
	return left, left > 0 || ctx.Err() != nil
}

// Within returns a context that ends with ctx, and after d at the latest. Its deadline is true,
// so that a client may set it on a connection. context.WithTimeout alone would not do: it
// adopts a parent's deadline that is sooner, also one that passed while the parent lives on.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if left, ok := Left(ctx); ok {
		d = min(d, left)
	}
	return context.WithTimeout(Without(ctx), d)
}

// Without returns a context that is ctx, and ends with it, but has no deadline.
func Without(ctx context.Context) context.Context { return undated{ctx} }

// undated is a context that hides the deadline of another.
type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }
