package deadline

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Detached is a context with the values of another and an end of its own: when End is
// called, or after the time that Limit sets. One object, with a channel only if somebody
// asks for it, takes the place of the dozen that [context.WithoutCancel], WithCancel,
// WithTimeout and AfterFunc make. It is made by Detach, not copied, and may be used concurrently.
type Detached struct {
	context.Context // has the values

	mu       sync.Mutex
	done     chan struct{} // nil until somebody asks
	err      error         // once it has ended
	deadline time.Time
	timer    *time.Timer
	after    []*afterFunc
}

type afterFunc struct {
	d *Detached
	f func()
}

// Detach gives a new Detached the values of ctx.
func (d *Detached) Detach(ctx context.Context) { d.Context = context.WithoutCancel(ctx) }

// Limit ends the context after so long, unless it has a limit or has ended.
func (d *Detached) Limit(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil || d.timer != nil {
		return
	}
	d.deadline = time.Now().Add(after)
	d.timer = time.AfterFunc(after, func() { d.end(context.DeadlineExceeded) })
}

// End ends the context, whose error is [context.Canceled] then, unless it has ended.
func (d *Detached) End() { d.end(context.Canceled) }

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

// AfterFunc is that of [context.AfterFunc], which calls it.
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

func (a *afterFunc) stop() bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	i := slices.Index(a.d.after, a)
	if i >= 0 {
		a.d.after = slices.Delete(a.d.after, i, i+1)
	}
	return i >= 0
}

// Deadline is when the time is over that Limit has set.
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

// Err says how the context has ended, if it has.
func (d *Detached) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
