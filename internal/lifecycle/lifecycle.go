// Package lifecycle counts the work that runs on behalf of a cache, so that closing the cache
// waits for all of it, and no work begins that closing would not wait for. A WaitGroup alone
// cannot do that, as it must not grow from zero while another goroutine waits for it.
//
// There are three kinds of work: goroutines ([Lifecycle.Go]), invalidations and fills on
// their way to the backend ([Lifecycle.Settle]), and writes of callers
// ([Lifecycle.BeginWrite]). A write runs a caller's function and may last for any time; the
// invalidation after it must still be sent.
//
// Closing takes three calls in this order. [Lifecycle.Close] lets no call begin any more,
// [Lifecycle.AwaitWrites] waits for the writes for a limited time, and [Lifecycle.End]
// waits for the invalidations and fills, ends the Context, and waits for the goroutines.
package lifecycle

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Lifecycle is open, then closed (after Close), then over (after End). Its methods may be
// called concurrently.
type Lifecycle struct {
	closed  atomic.Bool     // written with mu held, read without it
	ctx     context.Context // ended by End
	end     context.CancelFunc
	mu      sync.Mutex     // guards all below, and adding to running
	running sync.WaitGroup // goroutines of Go
	settles int            // invalidations and fills on their way
	settled chan struct{}  // made by End, closed when settles is 0
	writing int            // writes that run
	written chan struct{}  // made by AwaitWrites, closed when writing is 0
	shut    bool           // AwaitWrites has returned, so SettleWrite fails
}

// New returns a Lifecycle that is open.
func New() *Lifecycle {
	l := &Lifecycle{}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// Context returns a context that ends when the Lifecycle is over.
func (l *Lifecycle) Context() context.Context { return l.ctx }

// IsOver reports whether the Context has ended, after which Go starts nothing.
func (l *Lifecycle) IsOver() bool { return l.ctx.Err() != nil }

// IsClosed reports whether Close has been called.
func (l *Lifecycle) IsClosed() bool { return l.closed.Load() }

// Go runs work in a goroutine, which should return when the Context ends: End waits for it. If
// the Lifecycle is over, Go does not run work and returns false.
func (l *Lifecycle) Go(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.IsOver() {
		return false
	}
	l.running.Go(work)
	return true
}

// Settle notes that an invalidation or a fill is on its way until Settled is called. It returns
// false, and notes nothing, if the Lifecycle is closed.
func (l *Lifecycle) Settle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.settles++
	return true
}

// SettleWrite is Settle for the invalidation of a write that began before Close. It returns
// false only after AwaitWrites has returned.
func (l *Lifecycle) SettleWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return false
	}
	l.settles++
	return true
}

// Settled ends an invalidation or a fill. Call it once for each call of Settle or SettleWrite
// that returned true.
func (l *Lifecycle) Settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settles--; l.settles == 0 && l.settled != nil {
		close(l.settled)
		l.settled = nil
	}
}

// Settling returns how many invalidations and fills are on their way.
func (l *Lifecycle) Settling() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settles
}

// BeginWrite notes that a write runs until EndWrite is called. It returns false, and notes
// nothing, if the Lifecycle is closed.
func (l *Lifecycle) BeginWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.writing++
	return true
}

// EndWrite ends a write. Call it once for each call of BeginWrite that returned true.
func (l *Lifecycle) EndWrite() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing--; l.writing == 0 && l.written != nil {
		close(l.written)
		l.written = nil
	}
}

// Close lets no invalidation, fill or write begin any more, and reports whether it is the first
// call. Goroutines may still begin, as the work that remains may need them. It does not block.
func (l *Lifecycle) Close() (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed.Swap(true)
}

// AwaitWrites waits for the writes that run, for d at most, and returns how many still run.
// The invalidations of those cannot begin any more. Call it once, after Close.
func (l *Lifecycle) AwaitWrites(d time.Duration) (left int) {
	l.mu.Lock()
	var written chan struct{}
	if l.writing > 0 {
		written = make(chan struct{})
		l.written = written
	}
	l.mu.Unlock()
	if written != nil && d > 0 {
		select {
		case <-written:
		case <-time.After(d):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut, l.written = true, nil
	return l.writing
}

// End waits for the invalidations and fills on their way, ends the Context, and waits for the
// goroutines of Go, in this order: those may be needed by these. It has no time limit, so
// the work must have its own. Call it once, after AwaitWrites.
func (l *Lifecycle) End() {
	l.mu.Lock()
	if l.settles > 0 {
		settled := make(chan struct{})
		l.settled = settled
		l.mu.Unlock()
		<-settled
		l.mu.Lock()
	}
	l.end()
	l.mu.Unlock()
	l.running.Wait()
}
