package aside

import (
	"context"
	"sync"
	"sync/atomic"
)

// flights coalesces the loads of each key inside the process. Events that decide
// who may take which result are numbered by one sequence: see flight.accepts.
type flights struct {
	seq   atomic.Uint64
	mu    sync.Mutex
	byKey map[string]*flight
}

// join returns the key's flight for a caller, and whether the caller leads it:
// it started with the caller's loader.
func (fs *flights) join(ctx context.Context, f *front, space *Keyspace, r *read, load func(context.Context) (any, error)) (fl *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl := fs.byKey[r.key]; fl != nil && !(r.degraded && fl.isLoaded()) {
		fl.waiters++
		fl.joined = true
		return fl, false
	}
	own := *space // so that a hit does not put the caller's on the heap
	fl = &flight{
		f: f, key: r.key, space: &own, load: load, bad: r.bad, waiters: 1,
		degraded: r.degraded,
		loaded:   make(chan struct{}), done: make(chan struct{}),
	}
	fl.ctx, fl.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	fl.ask, fl.hurry = context.WithCancel(fl.ctx)
	fs.byKey[r.key] = fl
	go fl.run()
	return fl, true
}

// leave takes one waiter off. The last one ends the load, and nobody joins a
// load that has been ended.
func (fs *flights) leave(fl *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fs.remove(fl)
		fl.cancel(errAbandoned)
	}
}

// detach keeps callers who come from now on from the results of loads that began
// before, and those loads from being stored.
func (fs *flights) detach(keys []string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		if fl := fs.byKey[key]; fl != nil {
			fl.detached = true
			delete(fs.byKey, key)
			fl.f.wakes.wake(key)
		}
	}
}

// detachAll detaches every flight.
func (fs *flights) detachAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for key, fl := range fs.byKey {
		fl.detached = true
		fl.f.wakes.wake(key)
	}
	clear(fs.byKey)
}

// leases returns the tokens of the leases that flights have, by key.
func (fs *flights) leases() map[string]string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	held := make(map[string]string)
	for key, fl := range fs.byKey {
		if fl.token != "" {
			held[key] = fl.token
		}
	}
	return held
}

// remove needs fs.mu.
func (fs *flights) remove(fl *flight) {
	if fs.byKey[fl.key] == fl {
		delete(fs.byKey, fl.key)
	}
}
