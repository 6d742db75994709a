package aside

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// leaseTTL is how long a lease lasts unless extended: how long the others wait for
// a process that died while it loaded.
const leaseTTL = 2 * time.Second

// flight is one trip to the backend and the loader on behalf of all callers who
// ask for a key meanwhile. It runs in a goroutine and a context of its own, so
// that no caller's leaving ends it but the last one's.
type flight struct {
	f     *front
	key   string
	space *Keyspace
	load  func(context.Context) (any, error)
	bad   []byte // a stored value that did not decode

	ctx      context.Context // of the load: ends when the last waiter leaves
	cancel   context.CancelCauseFunc
	ask      context.Context // of what comes before the load: ends when a waiter is in a hurry
	hurry    context.CancelFunc
	degraded bool           // goes without the backend
	asking   sync.WaitGroup // a request for the lease is on its way

	// Guarded by flights.mu.
	waiters  int
	token    string // of the lease that it has
	joined   bool   // a second caller came
	detached bool   // a write came: nobody may join, and nothing is stored

	lost    atomic.Bool   // the lease ended before the load did
	loaded  chan struct{} // closed when the fields below are set
	started uint64        // when the load started, or 0
	value   any           // what the loader returned
	data    []byte        // the encoded value; nil when nobody needs it or it could not be encoded
	err     error
	polled  uint64 // when the question was sent that found the value in the backend, or 0

	done   chan struct{} // closed when the fields below are set as well
	filled uint64        // when the fill was sent that was confirmed, or 0
	failed bool          // a command of the flight failed, and cost its waiters time
}

func (fl *flight) isLoaded() bool {
	select {
	case <-fl.loaded:
		return true
	default:
		return false
	}
}

func (fl *flight) isDetached() bool {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	return fl.detached
}

// accepts reports whether a caller who arrived at that time may take the
// flight's result: only what was read from the database or from the backend
// after it arrived, or what the backend confirmed to be current at a time after
// it arrived, by accepting the fill. Anything else may be older than a write
// that the caller knows of.
func (fl *flight) accepts(arrived uint64, done bool) bool {
	return fl.started > arrived || fl.polled > arrived || done && fl.filled > arrived
}

// run is the flight, in one goroutine: each further one that takes part costs more
// than all else that a flight does.
func (fl *flight) run() {
	if lease, mine := fl.acquire(); mine {
		fl.goOn(lease)
	}
}

// goOn is run once the flight has its lease, or is to go without.
func (fl *flight) goOn(lease Lease) {
	switch lease.State {
	case Present:
		fl.data = lease.Value
		fl.end()
		return
	case Absent:
		fl.err = ErrNotFound
		fl.end()
		return
	}
	fl.polled = 0
	if lease.State != Granted {
		fl.callLoader(fl.handOut)
		return
	}
	stop := fl.keepLease(lease.Token)
	fl.callLoader(func() {
		stop()
		fl.fill(lease.Token)
	})
}

// handOut ends the flight with a result that is not to be stored.
func (fl *flight) handOut() {
	if joined := fl.leaveMap(); joined && fl.err == nil && !fl.space.Share {
		fl.encode(fl.end)
	} else {
		fl.end()
	}
}

// leaveMap keeps further callers from joining, and reports whether some have.
func (fl *flight) leaveMap() (joined bool) {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	fl.f.flights.remove(fl)
	return fl.joined
}

// end hands out the result, unless that is done, and ends the flight.
func (fl *flight) end() {
	fl.leaveMap()
	if !fl.isLoaded() {
		close(fl.loaded)
	}
	close(fl.done)
	fl.cancel(nil)
}

// acquire asks for the lease, and waits while another process loads. Without a
// state in its answer, the flight loads and stores nothing. mine is false when the
// flight has gone on without it.
func (fl *flight) acquire() (lease Lease, mine bool) {
	req := LeaseRequest{TTL: leaseTTL, Bad: fl.bad}
	wait := fl.f.wakes.waiter(fl.key)
	defer wait.over()
	for start := time.Now(); ; {
		req.channel = wait.channel()
		if fl.degraded || fl.isDetached() || fl.f.queue.distrusts(fl.key) {
			return Lease{}, true
		}
		fl.polled = fl.f.flights.seq.Add(1)
		lease, mine, err := fl.askLease(req)
		if !mine {
			return Lease{}, false
		}
		if err != nil {
			fl.failed = true
			return Lease{}, true
		}
		if lease.State != Loading {
			wait.found(lease.State)
			return lease, true
		}
		if req.Waited == "" {
			fl.f.count.waited.Add(1)
		}
		req.Waited, req.overdue = lease.Token, wait.overdue(lease)
		if !wait.pause(fl.ask, time.Since(start)) {
			return Lease{}, true
		}
	}
}

// askLease asks for the lease once. A waiter's hurry, or the leaving of all, does
// not interrupt the command, which may grant a lease that nobody knew of then: the
// flight goes on without it, and what it is granted is given back.
func (fl *flight) askLease(req LeaseRequest) (lease Lease, mine bool, err error) {
	fl.asking.Add(1)
	defer fl.asking.Done()
	stop := context.AfterFunc(fl.ask, func() {
		fl.f.later(fl.asking.Wait) // Close waits for what is given back
		fl.failed = true
		fl.goOn(Lease{})
	})
	ctx := context.WithoutCancel(fl.ctx)
	lease, err = fl.f.lease(ctx, fl.key, fl.f.newBudget(), req)
	if mine = stop(); !mine && lease.State == Granted {
		_ = fl.f.release(ctx, fl.key, fl.f.newBudget(), lease.Token)
	}
	return lease, mine, err
}

// keepLease extends the lease until stop is called. A lease that has ended is
// not brought back: what is loaded under it is not stored. When every caller has
// left, the lease is given back at once, whether or not the loader obeys its
// context: the next caller must not wait for a load that was called off.
func (fl *flight) keepLease(token string) (stop func()) {
	fl.f.flights.mu.Lock()
	fl.token = token
	fl.f.flights.mu.Unlock()
	begun, longest := time.Now(), fl.f.cfg.LoadTimeout // a load that does not obey it loses its lease
	extended := repeat(leaseTTL/3, func(ctx context.Context) (again bool) {
		if longest > 0 && time.Since(begun) > longest+leaseTTL {
			fl.lost.Store(true)
			return false
		}
		held, err := fl.f.extend(ctx, fl.key, token, leaseTTL)
		if err == nil && !held {
			fl.lost.Store(true)
			return false
		}
		return true
	})
	abandoned := context.AfterFunc(fl.ctx, func() {
		extended()
		fl.lost.Store(true)
		_ = fl.f.release(context.WithoutCancel(fl.ctx), fl.key, fl.f.newBudget(), token)
	})
	return func() {
		extended()
		if !abandoned() {
			fl.lost.Store(true) // it is being given back
		}
	}
}

// callLoader runs the loader, keeps what it returns, or what it panics with, and
// then goes on.
func (fl *flight) callLoader(then func()) {
	ctx, cancel := fl.ctx, context.CancelFunc(func() {})
	if t := fl.f.cfg.LoadTimeout; t > 0 {
		ctx, cancel = context.WithTimeout(ctx, t)
	}
	fl.f.count.loads.Add(1)
	fl.started = fl.f.flights.seq.Add(1)
	fl.protect(func() { fl.value, fl.err = fl.load(ctx) }, func() {
		cancel()
		if fl.err != nil && !errors.Is(fl.err, ErrNotFound) {
			fl.f.count.loadErrors.Add(1)
		}
		then()
	})
}

// protect runs a user's code, and then goes on, whatever becomes of it: a panic is
// kept as a *PanicError; with runtime.Goexit the code ends this goroutine, which
// goes on in what it has deferred.
func (fl *flight) protect(code, then func()) {
	defer then()
	defer func() {
		if p := recover(); p != nil {
			fl.err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	fl.err = errGoexit
	code()
}

// encode sets data, or leaves it nil and says why, and then goes on.
func (fl *flight) encode(then func()) {
	fl.protect(func() { fl.data, fl.err = codecOf(fl.space).Encode(fl.value) }, func() {
		if fl.err != nil {
			fl.f.notStored(fl.space, fl.key, fl.err)
			fl.data, fl.err = nil, nil
		} else if fl.data == nil {
			fl.data = []byte{}
		}
		then()
	})
}

// fill stores the load's result, if it is to be stored, and ends the flight.
func (fl *flight) fill(token string) {
	ttl := fl.f.ttl
	end := func(fill Fill, ok bool) {
		close(fl.loaded)
		fl.store(token, fill, ok)
		fl.end()
	}
	switch {
	case fl.err == nil:
		fl.encode(func() {
			if fl.data == nil {
				end(Fill{}, false)
			} else if err := fl.f.checkSize(fl.key, fl.data); err != nil {
				fl.f.notStored(fl.space, fl.key, err)
				end(Fill{}, false)
			} else if fl.f.unstored.has(fl.key) {
				fl.f.notStored(fl.space, fl.key, errTooLong)
				end(Fill{}, false)
			} else {
				end(Fill{Value: fl.data, TTL: ttl.value(fl.space)}, true)
			}
		})
	case errors.Is(fl.err, ErrNotFound) && fl.space.NotFoundTTL > 0:
		end(Fill{NotFound: true, TTL: ttl.jittered(fl.space.NotFoundTTL)}, true)
	default:
		end(Fill{}, false)
	}
}

// store fills under the lease, or gives it back.
func (fl *flight) store(token string, fill Fill, ok bool) {
	f, ctx := fl.f, context.WithoutCancel(fl.ctx)
	if fl.lost.Load() {
		f.count.staleFills.Add(1)
		return
	}
	if ok && (fl.isDetached() || f.queue.distrusts(fl.key)) {
		f.count.staleFills.Add(1)
		ok = false
	}
	if !ok {
		// It ends by itself, too. Who waited for this has paid for it.
		fl.failed = f.release(ctx, fl.key, f.newBudget(), token) != nil
		return
	}
	sent := f.flights.seq.Add(1)
	stored, err := f.fill(ctx, fl.key, token, fill)
	if err != nil {
		f.fillFailed(fl.space, fl.key, len(fill.Value), err)
	}
	switch {
	case err != nil:
		fl.failed = true
		f.later(func() { _ = f.release(ctx, fl.key, f.newBudget(), token) })
	case stored:
		fl.filled = sent
	default:
		f.count.staleFills.Add(1)
	}
}
