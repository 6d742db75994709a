// A flight is one load of one key, on behalf of every caller in this process that waits for
// the key: it asks for the lease, calls the loader and stores the result. Its methods, in
// the order in which they run:
//
//	run      waits for a place, and asks for the lease (acquire)
//	proceed  calls the loader, or ends with the value that the lease request has found
//	finish   hands out the loader's result, and stores it under the lease (store)
//	giveUp   ends a load when its context ends before its loader has returned
//	end      closes done; each flight gets here once, by whichever path
//
// flights.go has the flights that callers may join, batch.go runs many in one goroutine,
// and refresh.go has those that replace a value while it is still served. Callers wait for
// a flight, and take its result, in aside.go.

package aside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/jsonvalue"
	"github.com/cacheaside/aside/internal/loadctx"
	"github.com/cacheaside/aside/internal/places"
)

// leaseTTL is how long a lease lasts unless it is extended. When a process dies while it
// loads, the waiters in other processes wait this long before one of them loads.
const leaseTTL = 2 * time.Second

// flight is one load of one key. It runs in a goroutine and a context of its own, so that a
// caller that leaves does not end it, unless it is the last. It ends after
// Config.LoadTimeout at the latest, whether or not its loader has returned.
//
// The fields from f to fresh are set before the flight can be joined; own apart, they do not
// change. The fields of outcome, stored and found are written before loaded is closed, and
// failed before done is. Callers read them after that.
type flight struct {
	*loading // own, or that of a batch

	f      *front
	key    string    // in full
	space  Keyspace  // the leader's; a copy, since a pointer would put each caller's keyspace on the heap
	typ    valueType // the leader's
	load   func(context.Context) (any, error)
	leader context.Context // of the caller that brought the loader
	bad    []byte          // a stored value that did not decode, or nil

	own      loading
	degraded bool           // bypasses the backend: no lease, and nothing is stored
	refresh  *refresh       // nil, unless the flight replaces or audits a value that is still served
	fresh    bool           // loads even when there is a value
	asking   sync.WaitGroup // counts a lease request on its way

	// Guarded by flights.mu.
	token    string        // of the lease that the flight holds, or ""
	ttl      time.Duration // the shortest TTL among its callers' keyspaces
	absent   time.Duration // the shortest NotFoundTTL among them; 0 stores no marker
	encodes  bool          // a caller has joined that can take only the encoded value
	detached bool          // a write came: no caller may join, and nothing is stored
	hurried  bool          // in a batch: a waiter does not wait for the lease

	lost   atomic.Bool   // the lease ended before the load did
	loaded chan struct{} // closed when the fields below are set
	outcome
	stored bool // the backend had the value, or the not-found marker
	found  bool // it had the value at the first lease request

	// asOf is the number, in flights.seq, of the last event at which the result is known
	// to have been current: the start of the load, or the question to the backend that
	// found the value, and later the sending of a fill that was accepted. 0 means that
	// there is none yet. See accepts.
	asOf  atomic.Uint64
	began atomic.Uint64 // the number of the load's start, or 0

	hookedCtx atomic.Pointer[context.Context] // see hooked

	garbled atomic.Bool // data does not decode to the value that it was encoded from

	done   chan struct{} // closed when failed is set as well
	failed bool          // a backend command of the flight failed, and its waiters have waited for it
}

// loading is the part of a flight that ends a load: its contexts, its place and its waiters.
// The flights of a batch share one, as one call of the loader serves all of them.
type loading struct {
	ctx  loadctx.Context   // of the loader; ends when the last waiter leaves
	ask  deadline.Detached // of the wait for the lease; ends with ctx, or when a waiter hurries
	seat *places.Seat      // the place among the loads that may run; nil needs none

	// Guarded by flights.mu.
	waiters  int                // of all its flights
	needed   bool               // a load that has a place waits for this one, which then needs none
	flights  []*flight          // of a batch; nil for a single flight
	batchAsk *deadline.Detached // of a batch's lease requests on their way, or its pause between them
}

// valueType is the type of the values that a caller asks for. It lets a flight, which is not
// generic, encode and decode values of its callers' types. Two valueTypes are equal when
// their types are.
type valueType interface {
	// decodes returns the error of decoding data, or nil.
	decodes(space *Keyspace, data []byte) error
	// equal reports whether a and b decode to equal values.
	equal(space *Keyspace, a, b []byte) bool
	// encode encodes a value of the type for a keyspace.
	encode(space *Keyspace, value any) ([]byte, error)
}

// typed is the valueType of T.
type typed[T any] struct{}

func (typed[T]) decodes(space *Keyspace, data []byte) error {
	_, err := decode[T](space, data)
	return err
}

func (typed[T]) equal(space *Keyspace, a, b []byte) bool {
	one, err := decode[T](space, a)
	other, otherErr := decode[T](space, b)
	return err == nil && otherErr == nil && reflect.DeepEqual(one, other)
}

func (typed[T]) encode(space *Keyspace, value any) ([]byte, error) {
	codec := codecOf(space)
	if codec == JSON && reflect.TypeFor[T]().Kind() == reflect.Interface {
		return jsonvalue.EncodeHeld(value)
	}
	return codec.Encode(value)
}

// outcome is how a load ended.
type outcome struct {
	value    any    // the loader's own value, of the leader's type
	data     []byte // the encoded value; nil when it is not needed or could not be encoded
	err      error
	panics   any  // the value to panic with in each caller, if the loader panicked
	notFound bool // err wraps ErrNotFound
	expired  bool // the load, or one that it waited for, exceeded Config.LoadTimeout
	idle     bool // no loader was called, as there was nothing to refresh
	orphaned bool // err is that of a context, perhaps the leader's, and the leader has left
}

// isLoaded reports whether the outcome is there. The fill may still be on its way.
func (fl *flight) isLoaded() bool {
	select {
	case <-fl.loaded:
		return true
	default:
		return false
	}
}

// await waits for one of the flight's channels, loaded or done, or for ctx to end. A result
// that is there is taken even if ctx has ended.
func (fl *flight) await(ctx context.Context, end <-chan struct{}) error {
	select {
	case <-end:
		return nil
	default:
	}
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (fl *flight) isDetached() bool {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	return fl.detached
}

// hurry ends the wait for the lease: the flight loads without one, and stores nothing. A
// batch does so for those of its members that have a hurried waiter.
func (fl *flight) hurry() {
	if fl.loading == &fl.own {
		fl.ask.End()
		return
	}
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	if fl.degraded || fl.hurried {
		return
	}
	fl.hurried = true
	if fl.batchAsk != nil {
		fl.batchAsk.End()
	}
}

// isHurried reports whether hurry was called for this flight of a batch.
func (fl *flight) isHurried() bool {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	return fl.hurried
}

// accepts reports whether a caller that arrived at event number arrived may take the
// flight's result. A result that is not known to have been current after that may be older
// than a write that the caller has already seen, so the caller must look again. This rule
// keeps promise 1 among callers that share a load. It does not depend on the backend, so it
// also holds while Redis is unavailable.
func (fl *flight) accepts(arrived uint64) bool { return fl.asOf.Load() > arrived }

// shares reports whether a caller may be handed the loader's own value, and not a copy that
// is decoded for it: the types are the same, and both keyspaces have Share set, so that
// neither the caller nor the leader modifies the value.
func (fl *flight) shares(space *Keyspace, typ valueType) bool {
	return fl.space.Share && space.Share && fl.typ == typ
}

// run carries the flight out. Lease request, loader and fill run one after the other in
// this one goroutine: each further goroutine would cost more than all else that a flight
// does. Only when a caller must not wait for one of them (see askLease and giveUp) does
// the flight go on elsewhere.
func (fl *flight) run() {
	grow(0)
	if fl.seat != nil && !fl.seat.Wait(fl.ctx.Done()) { // without a seat, Done need not make a channel
		fl.abandon()
		return
	}
	lease, overtaken := fl.acquire()
	if overtaken {
		return
	}
	if fl.refresh != nil && fl.refresh.audits && !fl.mayAudit(lease) {
		fl.giveBack(lease.Token)
		lease = backend.Lease{}
	}
	fl.proceed(lease)
}

// abandon ends a flight before its load, when its last waiter has left.
func (fl *flight) abandon() {
	fl.err = errAbandoned
	fl.end()
}

// grow makes the goroutine's stack as large as a flight needs while it is still empty. The
// runtime would grow it in steps, deep in the calls of a load, and copying it there is a
// third of the cost of a miss in memory.
//
//go:noinline
func grow(i int) byte {
	var room [14 << 10]byte
	return room[i]
}

// proceed takes the answer to the lease request. It ends the flight with a value that the
// request has found, or calls the loader. Without a granted lease the result is handed out
// and not stored, and a refresh does not load at all.
//
// Either the loader's return or the end of its context ends the load, whichever comes first
// (first decides it). After giveUp, the loader's goroutine must not touch the flight: its
// callers may already have read the fields. A loader or a Codec that ends the goroutine with
// runtime.Goexit leaves the rest to the deferred function.
func (fl *flight) proceed(lease backend.Lease) {
	switch lease.State {
	case backend.Present:
		fl.data, fl.stored = lease.Value, true
		fl.end()
		return
	case backend.Absent:
		fl.err, fl.notFound, fl.stored = ErrNotFound, true, true
		fl.end()
		return
	}
	fl.asOf.Store(0) // no value was found: the result begins with the load
	if fl.refresh != nil && lease.State != backend.Granted {
		fl.idle = true
		fl.end()
		return
	}
	token := ""
	if lease.State == backend.Granted {
		token = lease.Token
	}
	if fl.ctx.Err() != nil { // the last waiter has left: do not call the loader
		fl.abandon()
		fl.giveBack(token)
		return
	}
	if t := fl.f.cfg.LoadTimeout; t > 0 {
		fl.ctx.Limit(t)
	}
	fl.count().loads.Add(1)
	if fl.refresh != nil && !fl.refresh.audits {
		fl.count().refreshes.Add(1)
	}
	// A loaded value is current as of the start of the load, before the loader has read
	// anything.
	fl.began.Store(fl.f.flights.seq.Add(1))
	fl.asOf.Store(fl.began.Load())
	stopRenewing := fl.keepLease(token)
	first := fl.ctx.AfterFunc(func() {
		stopRenewing()
		fl.giveUp(fl.ctx.Err(), token)
	})
	var out outcome
	defer func() {
		if !first() {
			fl.late(&out)
			return
		}
		stopRenewing()
		fl.finish(&out, token)
	}()
	fl.callLoader(&out)
	// A value that is neither stored nor wanted by a caller of another type or of a
	// keyspace without Share is not encoded.
	if out.err == nil && (token != "" || fl.leaveMap()) {
		fl.encode(&out)
	}
	out.orphaned = out.orphaned && fl.leader.Err() != nil
}

// giveUp ends a load when its context ends before its loader has returned: every caller has
// left, or Config.LoadTimeout is over. The loader may go on for as long as it likes; the
// lease is released, so that the next caller loads at once.
func (fl *flight) giveUp(cause error, token string) {
	fl.count().loadErrors.Add(1)
	if fl.expired = cause == context.DeadlineExceeded; fl.expired {
		fl.err = &loadTimeout{fl.key, fl.f.cfg.LoadTimeout}
	} else {
		fl.err = errAbandoned
	}
	fl.refreshFailed(fl.err)
	fl.audited(false)
	fl.end()
	fl.giveBack(token)
}

// late takes the outcome of a loader that has returned after the end of its flight, and drops
// it. A panic is only logged, as there is no caller left to panic in.
func (fl *flight) late(o *outcome) {
	if o.panics != nil {
		fl.f.warnOnce(&fl.space, fl.key, "aside: loader panic after all callers left (logged once per keyspace)", o.err)
	}
}

// finish hands out the loader's result, stores it under the lease of token, if that is not
// "", and ends the flight. Callers that may take the result go on when loaded is closed,
// before the fill is sent. The flight stays joinable until the fill has ended, so that a
// reader that comes in between waits for it and then finds the value.
func (fl *flight) finish(o *outcome, token string) {
	fl.seat.Leave()
	if o.err != nil && !o.notFound {
		fl.count().loadErrors.Add(1)
		fl.refreshFailed(o.err)
	}
	fl.outcome = *o
	defer fl.end() // also when code of the backend ends this goroutine
	if token == "" {
		return
	}
	if fl.refresh != nil && fl.refresh.audits {
		fl.compare()
	}
	settles := fl.f.life.Settle() // Close waits for the fill; callers do not
	close(fl.loaded)
	if !settles {
		fl.giveBack(token)
		return
	}
	defer fl.f.life.Settled()
	fl.store(token)
}

// leaveMap keeps further callers from joining, and reports whether one of the callers needs
// the encoded value: after it, the answer can no longer change.
func (fl *flight) leaveMap() (encodes bool) {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	fl.f.flights.remove(fl)
	if fl.loading == &fl.own {
		delete(fl.f.flights.refreshing, fl.loading)
	}
	return fl.encodes
}

// end closes loaded, unless it is closed, and done. A single flight also gives its place
// back and ends its contexts; those of a batch belong to the batch (see loadBatch.over).
func (fl *flight) end() {
	fl.leaveMap()
	if !fl.isLoaded() {
		close(fl.loaded)
	}
	close(fl.done)
	if fl.loading == &fl.own {
		fl.seat.Leave()
		fl.ask.End()
		fl.ctx.End()
	}
}

// acquire asks for the lease, and asks again after a pause for as long as another process
// holds it. A lease without a State means that the flight is to load and store nothing: a
// command failed, a write came, or a waiter hurries. overtaken says that the flight has gone
// on in another goroutine (see askLease), and the caller must return without touching it.
//
// While it waits for the other process, the flight gives up its place. It may only look for
// a value, by a plain read, until it has a place again: a lease request could be granted,
// and the lease would then be held while the flight stands in line.
func (fl *flight) acquire() (lease backend.Lease, overtaken bool) {
	req := backend.LeaseRequest{TTL: fl.f.leaseTTL(), Undecodable: fl.bad}
	if fl.refresh != nil {
		req.Refresh = fl.f.ttl.unmarked(&fl.space)
	}
	if fl.fresh || fl.refresh != nil && fl.refresh.audits {
		req.Refresh = &backend.Refresh{Always: true}
	}
	wait := fl.f.wakes.Waiter(fl.key)
	defer wait.Done()
	for start := time.Now(); ; {
		req.WakeOn = wait.Channel()
		if fl.degraded || fl.isDetached() || fl.f.queue.Distrusts(fl.key) {
			return backend.Lease{}, false
		}
		// A value in the answer is current as of the sending of the request, not as of the
		// answer, which may have been on its way while a write came.
		fl.asOf.Store(fl.f.flights.seq.Add(1))
		lease, overtaken, err := fl.askLease(req)
		if overtaken {
			return backend.Lease{}, true
		}
		if err != nil {
			fl.failed = true
			return backend.Lease{}, false
		}
		if lease.State == backend.Marked {
			fl.f.near.Drop(fl.key) // its copy still counts as old
		}
		if lease.State != backend.Loading {
			fl.found = lease.State == backend.Present && req.WaitedFor == ""
			wait.Answered(lease.State == backend.Present || lease.State == backend.Absent)
			return lease, false
		}
		if fl.refresh != nil && (!fl.refresh.waits || lease.Token == "") {
			return backend.Lease{}, false // another process refreshes the value, or has just failed to
		}
		if req.WaitedFor == "" {
			fl.count().waited.Add(1)
		}
		// The next request names the lease that was waited for. If that fails, and another
		// waiter holds the lease by then, the answer is Unleased: waiters for failing loads
		// then load at once, and not one after the other.
		req.WaitedFor, req.Overdue = lease.Token, wait.Overdue(lease.Deadline)
		fl.seat.Leave() // other keys load meanwhile
		paused := wait.Pause(&fl.ask, time.Since(start), nil)
		seat, ok := fl.f.flights.takeSeat(fl.f, fl.loading)
		for turn := seat.Turn(); paused && turn != nil && fl.mayLook(); turn = seat.Turn() {
			asOf := fl.f.flights.seq.Add(1)
			got, err := fl.get()
			if err == nil && fl.finds(got, asOf) {
				wait.Answered(true)
				return backend.Lease{State: backend.Present, Value: got.value}, false
			}
			paused = wait.Pause(&fl.ask, time.Since(start), turn)
		}
		if !ok || !seat.Wait(fl.ctx.Done()) || !paused {
			return backend.Lease{}, false
		}
	}
}

// mayLook reports whether a value that another process has stored is of use to the flight
// while it is in line for a place. It is not to one that must load anyway, nor after a write.
func (fl *flight) mayLook() bool {
	return fl.refresh == nil && !fl.fresh && !fl.isDetached() && !fl.f.queue.Distrusts(fl.key)
}

// finds reports whether a read that was sent after event asOf has found a value other than
// the one that did not decode. If so, that event is the result's.
func (fl *flight) finds(got found, asOf uint64) bool {
	if !got.ok || bytes.Equal(got.value, fl.bad) {
		return false
	}
	fl.asOf.Store(asOf)
	return true
}

// leaseTTL is how long a lease lasts unless it is extended. A lease on a backend in this
// process is not renewed: its holder gives it back, and cannot die without the backend.
func (f *front) leaseTTL() time.Duration {
	if f.local {
		return maxTTL
	}
	return leaseTTL
}

// askLease sends one lease request. A waiter's hurry, or the leaving of the last, does not
// interrupt the command: Redis might carry it out nevertheless, and every other process
// would wait for a lease that no process can release. Instead the flight goes on in another
// goroutine (overtaken), and this one waits for the answer and releases a granted lease.
func (fl *flight) askLease(req backend.LeaseRequest) (lease backend.Lease, overtaken bool, err error) {
	if fl.f.local {
		lease, err = fl.f.lease(&fl.ctx, fl.key, nil, req)
		return lease, false, err
	}
	fl.asking.Add(1)
	defer fl.asking.Done()
	stop := fl.ask.AfterFunc(func() {
		fl.f.life.Go(fl.asking.Wait) // Close waits until the lease is released
		fl.failed = true
		fl.proceed(backend.Lease{})
	})
	answered := false
	defer func() {
		if !answered && stop() { // foreign code of the backend has ended this goroutine
			fl.failed = true
			go fl.proceed(backend.Lease{})
		}
	}()
	ctx := fl.ctx.Context
	lease, err = fl.f.lease(ctx, fl.key, fl.f.newBudget(), req)
	answered = true
	if overtaken = !stop(); overtaken && lease.State == backend.Granted {
		fl.giveBack(lease.Token)
	}
	return lease, overtaken, err
}

// get asks the backend for the value. When foreign code of the backend ends this goroutine,
// the flight goes on in another, without the backend.
func (fl *flight) get() (found, error) {
	returned := false
	defer func() {
		if !returned {
			fl.failed = true
			go fl.proceed(backend.Lease{})
		}
	}()
	got, err := fl.f.get(fl.ctx.Context, fl.key, fl.f.newBudget())
	returned = true
	return got, err
}

// giveBack releases a lease under which nothing is stored, if token is not "". A release
// that fails is not repeated: the lease lapses after leaseTTL.
func (fl *flight) giveBack(token string) {
	if token != "" {
		_ = fl.f.release(fl.ctx.Context, fl.key, fl.f.newBudget(), token)
	}
}

// keepLease extends the lease of token, if that is not "", every third of leaseTTL until
// stop is called. A lease that has ended is not taken again: a write may have ended it, so
// the value that is loaded under it is not stored. A failed extension is tried again.
func (fl *flight) keepLease(token string) (stop func()) {
	if token == "" {
		return func() {}
	}
	fl.f.flights.mu.Lock()
	fl.token = token
	fl.f.flights.mu.Unlock()
	if fl.f.local {
		return func() {}
	}
	return deadline.Every(leaseTTL/3, func(ctx context.Context) (again bool) {
		held, err := fl.f.extend(ctx, fl.key, token, leaseTTL)
		if err == nil && !held {
			fl.lost.Store(true)
			return false
		}
		return true
	})
}

// callLoader calls the loader with the context that hooks make for it, and tells them of
// the end even when the loader exits the goroutine.
func (fl *flight) callLoader(out *outcome) {
	if !fl.f.hooks.Loads {
		out.call(&fl.ctx, fl.load)
		return
	}
	out.err = errGoexit // until the loader returns: a hook may exit the goroutine
	ctx, ended := fl.f.hooks.Load(&fl.ctx, hook.Load{Keyspace: fl.count().space, Reason: fl.reason(), Keys: 1})
	fl.hookedCtx.Store(&ctx)
	defer func() { ended(out.err) }()
	out.call(ctx, fl.load)
}

// hooked returns the context that hooks made for the load, or nil.
func (fl *flight) hooked() context.Context {
	if ctx := fl.hookedCtx.Load(); ctx != nil {
		return *ctx
	}
	return nil
}

// reason is why the flight loads, for hooks.
func (fl *flight) reason() string {
	switch {
	case fl.refresh != nil && fl.refresh.audits:
		return hook.ForAudit
	case fl.refresh != nil:
		return hook.ForRefresh
	case fl.fresh:
		return hook.ForFresh
	}
	return hook.ForMiss
}

// count returns the counters of the flight's keyspace.
func (fl *flight) count() *counters { return fl.f.counts.of(fl.space.Name) }

// call runs the loader, and takes its value, its error or its panic.
func (o *outcome) call(ctx context.Context, load func(context.Context) (any, error)) {
	defer func() {
		if p := recover(); p != nil {
			o.err = &PanicError{Value: p, Stack: debug.Stack()}
			if o.panics = o.err; isAbortHandler(p) {
				o.panics = p
			}
		}
	}()
	o.err = errGoexit
	if o.value, o.err = load(ctx); o.err != nil {
		o.judge()
	}
}

// judge classifies the loader's error, once for all callers. The methods of an error are
// foreign code: if one panics, the error counts as an ordinary one.
func (o *outcome) judge() {
	defer func() { _ = recover() }()
	o.notFound = errors.Is(o.err, ErrNotFound)
	o.expired = errors.As(o.err, new(*loadTimeout))
	o.orphaned = !o.notFound && (errors.Is(o.err, context.Canceled) || errors.Is(o.err, context.DeadlineExceeded))
}

// encode sets the outcome's data, or leaves it nil, logs why, and sets the key apart. Where
// the stored value did not decode, the new one is decoded as a check: it would otherwise be
// stored, refused and loaded again by each reader.
func (fl *flight) encode(o *outcome) {
	err := errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("aside: the codec panicked with a %T\n\n%s", p, debug.Stack())
		}
		if err == nil && fl.bad != nil {
			err = fl.typ.decodes(&fl.space, o.data)
		}
		if err != nil {
			o.data = nil
			fl.f.notStored(&fl.space, fl.key, err)
			fl.f.flights.setApart(fl.key)
		} else if o.data == nil {
			o.data = []byte{}
		}
	}()
	o.data, err = fl.typ.encode(&fl.space, o.value)
}

// store sends the fill under the lease of token, or releases the lease. After an error it is
// unknown whether the value was stored, so the lease is released in the background.
func (fl *flight) store(token string) {
	f, ctx := fl.f, fl.ctx.Context
	stored := false
	defer func() { fl.audited(stored) }()
	if fl.lost.Load() {
		fl.count().staleFills.Add(1)
		return
	}
	fill, sent, ok := fl.toStore()
	if !ok {
		// A lease that is not released lapses. The waiters have paid for a failed command.
		fl.failed = f.release(ctx, fl.key, f.newBudget(), token) != nil
		return
	}
	var err error
	stored, err = f.fill(ctx, fl.key, token, fill)
	if fl.filled(fill, sent, stored, err); err != nil {
		f.life.Go(func() { _ = f.release(ctx, fl.key, f.newBudget(), token) })
	}
}

// filled takes the answer to a fill that was sent at event number sent. An accepted fill
// shows that no write had come by then, so callers that arrived before it was sent may take
// the result. A refused one is counted, and the result remains that of the load's start.
func (fl *flight) filled(fill backend.Fill, sent uint64, stored bool, err error) {
	switch {
	case err != nil:
		fl.f.fillFailed(&fl.space, fl.key, len(fill.Value), err)
		fl.failed = true
	case stored:
		if fl.refresh != nil || fl.fresh {
			fl.f.near.Drop(fl.key) // its copy is the value that was replaced
		}
		if !fill.NotFound || fl.notFound { // otherwise the fill has only removed a value
			fl.asOf.Store(sent)
		}
	default:
		fl.count().staleFills.Add(1)
	}
}

// toStore returns the fill to send and the event number of its sending. ok is false when
// nothing is to be stored: the outcome does not call for it, or a write came meanwhile.
func (fl *flight) toStore() (fill backend.Fill, sent uint64, ok bool) {
	if fill, sent, ok = fl.storable(); ok && (fl.isDetached() || fl.f.queue.Distrusts(fl.key)) {
		fl.count().staleFills.Add(1)
		ok = false
	}
	return fill, sent, ok
}

// storable is toStore without regard to writes. The value is kept for the shortest TTL among
// the callers so far, and no longer than the loader has asked for with KeepFor.
func (fl *flight) storable() (fill backend.Fill, sent uint64, ok bool) {
	if fl.data != nil {
		if err := fl.f.checkSize(fl.key, fl.data); err != nil {
			fl.f.notStored(&fl.space, fl.key, err)
			return backend.Fill{}, 0, false
		}
		if fl.f.unstored.Has(fl.key) {
			fl.f.notStored(&fl.space, fl.key, errTooLong)
			return backend.Fill{}, 0, false
		}
	}
	// The lock orders this among the callers that join: the TTL is the shortest of those that
	// have joined when the fill is numbered.
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	sent = fl.f.flights.seq.Add(1)
	keep, ok := fl.ctx.Kept(strings.TrimPrefix(fl.key, fl.f.cfg.KeyPrefix))
	if !ok {
		keep = maxTTL
	}
	switch ttl := fl.f.ttl; {
	case fl.data != nil && keep > 0:
		keep = min(fl.ttl, max(keep, minTTL))
		return backend.Fill{Value: fl.data, TTL: ttl.jittered(keep), FreshFor: ttl.freshFor(&fl.space, keep)}, sent, true
	case fl.notFound && fl.absent > 0 && keep > 0:
		return backend.Fill{NotFound: true, TTL: ttl.jittered(min(fl.absent, max(keep, minTTL)))}, sent, true
	case (fl.notFound || fl.data != nil) && (fl.refresh != nil || fl.fresh):
		return backend.Fill{NotFound: true}, sent, true // not to be kept: remove the value that is there
	}
	return backend.Fill{}, sent, false
}
