package deadline

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Detached is a context with the values of another and an end of its own: when End is
// called, or after the time that Limit sets. It is one object, with a channel only if Done is
// called, in place of the dozen that [context.WithoutCancel], WithCancel, WithTimeout and
// AfterFunc make; a load needs one each time.
//
// A Detached is made by Detach and must not be copied. Its methods may be called concurrently,
// once Detach has returned.
type Detached struct {
	context.Context // has the values; it never ends

	mu       sync.Mutex
	done     chan struct{} // nil until Done is called
	err      error         // nil until it has ended
	deadline time.Time     // zero until Limit is called
	timer    *time.Timer   // nil until Limit is called
	after    []*afterFunc  // to run when it ends
}

// afterFunc is a function that AfterFunc was called with. It has an address by which it is
// found again, as functions cannot be compared.
type afterFunc struct {
	d *Detached
	f func()
}

// Detach gives a new Detached the values of ctx.
func (d *Detached) Detach(ctx context.Context) { d.Context = context.WithoutCancel(ctx) }

// Limit ends the context after a time, with [context.DeadlineExceeded]. It does nothing if the
// context has a limit already or has ended.
func (d *Detached) Limit(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil || d.timer != nil {
		return
	}
	d.deadline = time.Now().Add(after)
	d.timer = time.AfterFunc(after, func() { d.end(context.DeadlineExceeded) })
}

// End ends the context, with [context.Canceled], unless it has ended. Call it in any case, as it
// stops the timer of Limit.
func (d *Detached) End() { d.end(context.Canceled) }

// end ends the context with err, unless it has ended.
func (d *Detached) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return
	}
	d.err = err
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.done != nil {
		close(d.done)
	}
	for _, a := range d.after {
		go a.f()
	}
	d.after = nil
}

// AfterFunc runs f in a goroutine of its own when the context ends. [context.AfterFunc] calls it
// if it is there, as the functions of package context do that derive a context from this one;
// they would each start a goroutine that waits for Done otherwise.
func (d *Detached) AfterFunc(f func()) (stop func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		go f()
		return func() bool { return false }
	}
	a := &afterFunc{d, f}
	d.after = append(d.after, a)
	return a.stop
}

// stop keeps the function from running, and reports whether it did.
func (a *afterFunc) stop() bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	i := slices.Index(a.d.after, a)
	if i >= 0 {
		a.d.after = slices.Delete(a.d.after, i, i+1)
	}
	return i >= 0
}

// Deadline returns the time at which Limit ends the context, if it was called.
func (d *Detached) Deadline() (at time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.deadline, !d.deadline.IsZero()
}

// Done returns a channel that is closed when the context ends.
func (d *Detached) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
		if d.err != nil {
			close(d.done)
		}
	}
	return d.done
}

// Err returns nil until the context has ended, and then the reason.
func (d *Detached) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
