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

// leaseTTL is how long a lease lasts unless extended: how long the others wait for
// a process that died while it loaded.
const leaseTTL = 2 * time.Second

// flight is one trip to the backend and the loader on behalf of all callers who
// ask for a key meanwhile. It runs in a goroutine and a context of its own, so
// that no caller's leaving ends it but the last one's. It ends after
// Config.LoadTimeout at the latest, whether or not its loader does.
type flight struct {
	*loading // own, or that of a batch

	f      *front
	key    string
	space  Keyspace // of the caller who leads it, as are the next three; not a pointer, which would put each caller's on the heap
	typ    valueType
	load   func(context.Context) (any, error)
	leader context.Context
	bad    []byte // a stored value that did not decode

	own      loading
	degraded bool           // goes without the backend
	refresh  *refresh       // nil but for one that loads an old value anew
	fresh    bool           // loads also when there is a value
	asking   sync.WaitGroup // a request for the lease is on its way

	// Guarded by flights.mu.
	token    string        // of the lease that it has
	ttl      time.Duration // the shortest that a caller wants the value to be kept for
	absent   time.Duration // the same of ErrNotFound; 0 is not at all
	encodes  bool          // a caller came who can have the result encoded only
	detached bool          // a write came: nobody may join, and nothing is stored
	hurried  bool          // in a batch: a waiter is in a hurry

	lost   atomic.Bool   // the lease ended before the load did
	loaded chan struct{} // closed when the fields below are set
	outcome
	stored bool // the backend had the value, or the not-found marker
	found  bool // and had it at the first question

	// asOf numbers the last event as of which the result is known to be current: the
	// start of its load, or the question to the backend that found it, and in time the
	// sending of a fill that was accepted. 0 is none.
	asOf  atomic.Uint64
	began atomic.Uint64 // the start of its load; 0 is none

	hookedCtx atomic.Pointer[context.Context] // see hooked

	garbled atomic.Bool // data does not decode to what it was encoded from

	done   chan struct{} // closed when the fields below are set as well
	failed bool          // a command of the flight failed, and cost its waiters time
}

// loading is the part of a flight that those have in common whose keys are loaded together:
// see batch.
type loading struct {
	ctx  loadctx.Context   // ends when the last waiter leaves
	ask  deadline.Detached // of the requests for leases: ends when a waiter is in a hurry, too
	seat *places.Seat      // its place among the loads that may run

	// Guarded by flights.mu.
	waiters  int                // of all its flights
	needed   bool               // a load that may have the last place waits for it: it needs none
	flights  []*flight          // of a batch
	batchAsk *deadline.Detached // its requests for leases that are on their way, or its pause between them
}

// valueType is the type of the values that a caller asks for: typed[T]. Those of one
// type are equal.
type valueType interface {
	// decodes returns the error with which data does not decode, if it does not.
	decodes(space *Keyspace, data []byte) error
	// equal reports whether a and b decode to the same.
	equal(space *Keyspace, a, b []byte) bool
	// encode encodes a value of the type for a keyspace.
	encode(space *Keyspace, value any) ([]byte, error)
}

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
	value    any    // what the loader returned
	data     []byte // the encoded value; nil when nobody needs it or it could not be encoded
	err      error
	panics   any  // what each caller is to panic with, if the loader panicked
	notFound bool // err is ErrNotFound
	expired  bool // the load, or one that it waited for, took longer than it may
	idle     bool // no loader was called, as there was nothing to refresh
	orphaned bool // err is of the context of the caller who brought the loader, and has left
}

func (fl *flight) isLoaded() bool {
	select {
	case <-fl.loaded:
		return true
	default:
		return false
	}
}

// await waits for one of the flight's channels, or for ctx to end.
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

// hurry has a waiter wait no longer for the lease. A batch goes on without those that it has
// no answer for.
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

// isHurried reports whether a waiter of a flight of a batch is in a hurry.
func (fl *flight) isHurried() bool {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	return fl.hurried
}

// accepts reports whether a caller who arrived at that time may take the flight's
// result. One that is not known to be current since then may be older than a write
// that the caller knows of.
func (fl *flight) accepts(arrived uint64) bool { return fl.asOf.Load() > arrived }

// shares reports whether a caller may be handed the very value that the flight's
// loader returned: of the same type, and modified neither by this caller nor by the
// one who leads.
func (fl *flight) shares(space *Keyspace, typ valueType) bool {
	return fl.space.Share && space.Share && fl.typ == typ
}

// run is the flight, in one goroutine: each further one that takes part costs more
// than all else that a flight does.
func (fl *flight) run() {
	grow(0)
	if fl.seat != nil && !fl.seat.Wait(fl.ctx.Done()) { // or no channel is to be made
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

// abandon ends a flight that nobody waits for any more, before its load.
func (fl *flight) abandon() {
	fl.err = errAbandoned
	fl.end()
}

// grow has the goroutine's stack grow to a flight's needs while it is empty. By itself it
// would grow in steps, deep in the calls of a load: to copy it there is a third of a miss in
// memory.
//
//go:noinline
func grow(i int) byte {
	var room [14 << 10]byte
	return room[i]
}

// proceed loads, once the flight has its lease or is to go without. Whichever comes
// first ends the load: its loader, or the end of its context (see giveUp), after
// which nothing of the loader is heard any more, and its goroutine touches nothing
// that others see. A loader or a Codec that ends the goroutine with runtime.Goexit
// leaves the rest to the deferred function.
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
	fl.asOf.Store(0)
	if fl.refresh != nil && lease.State != backend.Granted {
		fl.idle = true
		fl.end()
		return
	}
	token := ""
	if lease.State == backend.Granted {
		token = lease.Token
	}
	if fl.ctx.Err() != nil { // no loader is called for nobody
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
	if out.err == nil && (token != "" || fl.leaveMap()) {
		fl.encode(&out)
	}
	out.orphaned = out.orphaned && fl.leader.Err() != nil
}

// giveUp ends a load whose context has ended before its loader did: every caller has
// left, or it has taken longer than it may. The next caller must not wait for it.
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

// late is the end of a loader whose flight has ended before. A panic is told of, as
// nobody is there to be harmed by it.
func (fl *flight) late(o *outcome) {
	if o.panics != nil {
		fl.f.warnOnce(&fl.space, fl.key, "cache: a loader panicked after its callers had left (logged once per keyspace)", o.err)
	}
}

// finish hands out the loader's result, stores it if it is to be stored, and
// ends the flight.
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
	settles := fl.f.life.Settle() // Close waits for the fill, as callers do not
	close(fl.loaded)
	if !settles {
		fl.giveBack(token)
		return
	}
	defer fl.f.life.Settled()
	fl.store(token)
}

// leaveMap keeps further callers from joining, and reports whether one of those who
// have needs the encoded value.
func (fl *flight) leaveMap() (encodes bool) {
	fl.f.flights.mu.Lock()
	defer fl.f.flights.mu.Unlock()
	fl.f.flights.remove(fl)
	if fl.loading == &fl.own {
		delete(fl.f.flights.refreshing, fl.loading)
	}
	return fl.encodes
}

// end hands out the result, unless that is done, and ends the flight.
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

// acquire asks for the lease, and waits while another process loads. Without a
// state in its answer, the flight loads and stores nothing. overtaken says that the
// flight has gone on without it.
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
			fl.f.near.Drop(fl.key) // which takes it for old
		}
		if lease.State != backend.Loading {
			fl.found = lease.State == backend.Present && req.WaitedFor == ""
			wait.Answered(lease.State == backend.Present || lease.State == backend.Absent)
			return lease, false
		}
		if fl.refresh != nil && (!fl.refresh.waits || lease.Token == "") {
			return backend.Lease{}, false
		}
		if req.WaitedFor == "" {
			fl.count().waited.Add(1)
		}
		req.WaitedFor, req.Overdue = lease.Token, wait.Overdue(lease.Deadline)
		fl.seat.Leave() // others load meanwhile
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

// mayLook reports whether the flight, while it is in line for its place, takes a value that
// the process which it waited for has stored.
func (fl *flight) mayLook() bool {
	return fl.refresh == nil && !fl.fresh && !fl.isDetached() && !fl.f.queue.Distrusts(fl.key)
}

// finds reports whether a look as of that event has found a value.
func (fl *flight) finds(got found, asOf uint64) bool {
	if !got.ok || bytes.Equal(got.value, fl.bad) {
		return false
	}
	fl.asOf.Store(asOf)
	return true
}

// leaseTTL is how long a lease lasts unless extended. One in this process needs no
// renewal: its holder gives it back, and cannot die alone.
func (f *front) leaseTTL() time.Duration {
	if f.local {
		return maxTTL
	}
	return leaseTTL
}

// askLease asks for the lease once. A waiter's hurry, or the leaving of all, does
// not interrupt the command, which may grant a lease that nobody knew of then: the
// flight goes on without it, and what it is granted is given back.
func (fl *flight) askLease(req backend.LeaseRequest) (lease backend.Lease, overtaken bool, err error) {
	if fl.f.local {
		lease, err = fl.f.lease(&fl.ctx, fl.key, nil, req)
		return lease, false, err
	}
	fl.asking.Add(1)
	defer fl.asking.Done()
	stop := fl.ask.AfterFunc(func() {
		fl.f.life.Go(fl.asking.Wait) // Close waits for what is given back
		fl.failed = true
		fl.proceed(backend.Lease{})
	})
	answered := false
	defer func() {
		if !answered && stop() { // code of the backend has ended this goroutine, and nothing else
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

// get asks the backend for the value. When code of the backend ends this goroutine, the
// flight goes on in another, without the backend.
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

// giveBack releases a lease under which nothing is to be stored.
func (fl *flight) giveBack(token string) {
	if token != "" {
		_ = fl.f.release(fl.ctx.Context, fl.key, fl.f.newBudget(), token)
	}
}

// keepLease extends the lease, if there is one, until stop is called. A lease that
// has ended is not brought back: what is loaded under it is not stored.
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

// callLoader calls the loader, with the context that hooks make for it.
func (fl *flight) callLoader(out *outcome) {
	if !fl.f.hooks.Loads {
		out.call(&fl.ctx, fl.load)
		return
	}
	out.err = errGoexit // a hook may exit
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

// count are the counters of its keyspace.
func (fl *flight) count() *counters { return fl.f.counts.of(fl.space.Name) }

// call runs the loader, and keeps what it returns, or what it panics with.
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

// judge says what the loader's error is, once: the methods of an error are its
// author's, and may panic. The error is none of those that are looked for then.
func (o *outcome) judge() {
	defer func() { _ = recover() }()
	o.notFound = errors.Is(o.err, ErrNotFound)
	o.expired = errors.As(o.err, new(*loadTimeout))
	o.orphaned = !o.notFound && (errors.Is(o.err, context.Canceled) || errors.Is(o.err, context.DeadlineExceeded))
}

// encode sets the outcome's data, or leaves it nil and says why.
func (fl *flight) encode(o *outcome) {
	err := errGoexit
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("aside: the codec panicked with a %T\n\n%s", p, debug.Stack())
		}
		if err == nil && fl.bad != nil { // the last one did not decode
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

// store fills under the lease, or gives it back.
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
		// It ends by itself, too. Who waited for this has paid for it.
		fl.failed = f.release(ctx, fl.key, f.newBudget(), token) != nil
		return
	}
	var err error
	stored, err = f.fill(ctx, fl.key, token, fill)
	if fl.filled(fill, sent, stored, err); err != nil {
		f.life.Go(func() { _ = f.release(ctx, fl.key, f.newBudget(), token) })
	}
}

// filled takes the answer to a fill.
func (fl *flight) filled(fill backend.Fill, sent uint64, stored bool, err error) {
	switch {
	case err != nil:
		fl.f.fillFailed(&fl.space, fl.key, len(fill.Value), err)
		fl.failed = true
	case stored:
		if fl.refresh != nil || fl.fresh {
			fl.f.near.Drop(fl.key) // it has the last one
		}
		if !fill.NotFound || fl.notFound { // or the value was not to be kept
			fl.asOf.Store(sent)
		}
	default:
		fl.count().staleFills.Add(1)
	}
}

// toStore returns what is to be stored, if anything, for as long as every caller who
// has come so far would keep it, and when the fill is sent.
func (fl *flight) toStore() (fill backend.Fill, sent uint64, ok bool) {
	if fill, sent, ok = fl.storable(); ok && (fl.isDetached() || fl.f.queue.Distrusts(fl.key)) {
		fl.count().staleFills.Add(1)
		ok = false
	}
	return fill, sent, ok
}

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
		return backend.Fill{NotFound: true}, sent, true // the value that is there is to go
	}
	return backend.Fill{}, sent, false
}
