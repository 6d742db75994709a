// Package lifecycle knows the work that runs on behalf of a cache, so that closing the
// cache waits for it, and no work begins that closing would not wait for.
//
// There are three kinds of work: goroutines ([Lifecycle.Go]), invalidations and fills on
// their way ([Lifecycle.Settle]), and writes of a caller ([Lifecycle.BeginWrite]). Closing is three
// calls in this order. [Lifecycle.Close] lets no call begin any more,
// [Lifecycle.AwaitWrites] waits for the writes for a limited time, and [Lifecycle.End]
// waits for what is on its way, ends the Context, and waits for the goroutines.
package lifecycle

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Lifecycle goes from open over closed to over. Its methods may be called concurrently.
type Lifecycle struct {
	closed  atomic.Bool
	ctx     context.Context
	end     context.CancelFunc
	mu      sync.Mutex     // held while something is added to running, or begins or ends to settle or to write
	running sync.WaitGroup // goroutines that closing waits for
	settles int            // invalidations and fills on their way, which closing waits for
	settled chan struct{}  // closed when none is, once closing waits for that
	writing int            // writes that run
	written chan struct{}  // closed when none does, once closing waits for that
	shut    bool           // and no write settles any more
}

// New returns a Lifecycle that is open.
func New() *Lifecycle {
	l := &Lifecycle{}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// Context returns a context that ends when the Lifecycle is over.
func (l *Lifecycle) Context() context.Context { return l.ctx }

// IsOver reports whether nothing of its own runs any more.
func (l *Lifecycle) IsOver() bool { return l.ctx.Err() != nil }

// IsClosed reports whether Close has been called.
func (l *Lifecycle) IsClosed() bool { return l.closed.Load() }

// Go runs work in a goroutine that nobody waits for but End. Once the Lifecycle is over
// it does nothing, and reports false.
func (l *Lifecycle) Go(work func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.IsOver() {
		return false
	}
	l.running.Go(work)
	return true
}

// Settle notes that an invalidation, or a fill, is on its way, until Settled, unless the
// Lifecycle is closed.
func (l *Lifecycle) Settle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.settles++
	return true
}

// SettleWrite is Settle for a write that began before Close: there is time as long as
// closing waits for it.
func (l *Lifecycle) SettleWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return false
	}
	l.settles++
	return true
}

// Settled ends what Settle or SettleWrite noted.
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

// BeginWrite notes that a write is running, until EndWrite, unless the Lifecycle is
// closed.
func (l *Lifecycle) BeginWrite() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return false
	}
	l.writing++
	return true
}

// EndWrite ends a write that BeginWrite noted.
func (l *Lifecycle) EndWrite() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing--; l.writing == 0 && l.written != nil {
		close(l.written)
		l.written = nil
	}
}

// Close lets nothing more begin, and reports whether it is the first call.
func (l *Lifecycle) Close() (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed.Swap(true)
}

// AwaitWrites waits for the writes that run, for d at most, and returns how many of them
// settle nothing any more. It comes after Close.
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

// End waits for the invalidations and fills on their way, ends the Context, and waits for
// the goroutines that Go began. It comes after AwaitWrites.
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
