// Package deadline makes contexts whose deadlines can be relied on. A context may have a
// deadline that has passed while it lives on, when it was detached from the end of
// another and kept its deadline. Such a deadline must be ignored.
//
// [Left], [Within] and [Without] read a context's deadline, add one, and remove it.
// [Shared] lets many commands that start at about one time share a timer. [Every] repeats
// work at an interval, such as extending a lease, and has no goroutine before the first.
package deadline

import (
	"context"
	"time"
)

// Left returns how long ctx lasts from now. ok is false when it has no deadline, or
// one that has passed while it lives on. Whatever asks a context for its deadline asks
// here.
func Left(ctx context.Context) (left time.Duration, ok bool) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	left = time.Until(deadline)
	return left, left > 0 || ctx.Err() != nil
}

// Within returns a context that ends with ctx, and after d at the latest. Its deadline is
// its own, which a client may set on a connection: that of ctx is left out, as
// [context.WithTimeout] relies on a parent that is to end sooner.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if left, ok := Left(ctx); ok {
		d = min(d, left)
	}
	return context.WithTimeout(Without(ctx), d)
}

// Without returns a context that is ctx in all but its deadline, of which it has none.
func Without(ctx context.Context) context.Context { return undated{ctx} }

type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }
