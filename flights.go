package aside

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/internal/loadctx"
	"github.com/cacheaside/aside/internal/places"
	"github.com/cacheaside/aside/internal/recent"
)

// flights coalesces the loads of each key inside the process. Events that decide
// who may take which result are numbered by one sequence: see flight.accepts.
type flights struct {
	seq   atomic.Uint64
	mu    sync.Mutex
	byKey map[string]*flight
	apart apart

	refreshing map[*loading]bool // those that refresh
	tried      recent.Keys       // keys that are not to be refreshed again so soon
}

// request is what a flight has to know of a read.
type request struct {
	key      string // in full
	degraded bool   // goes without the backend from here on
	bad      []byte // a stored value that did not decode
	fresh    bool   // it takes nothing but a load that begins after it came
}

// join returns the key's flight for a caller, and whether the caller leads it:
// it started with the caller's loader. A flight that the caller has alone, without
// the backend, is for one who cannot have another's result.
func (fs *flights) join(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, load func(context.Context) (any, error), alone bool) (fl *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl, leads = fs.board(ctx, f, space, typ, r, nil, alone); leads {
		fl.load = load
		go fl.run()
	}
	return fl, leads
}

// board is join that does not let the flight begin, which is one of l if that is not nil. It
// needs fs.mu.
func (fs *flights) board(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, l *loading, alone bool) (fl *flight, leads bool) {
	ttl := f.ttl.base(space)
	apart := fs.apart.has(r.key)
	within := loadctx.Within(ctx, f)
	alone = alone || apart && !space.Share
	if fl := fs.byKey[r.key]; fl != nil && !alone && !(r.degraded && fl.isLoaded()) {
		fl.waiters++
		fl.ttl, fl.absent = min(fl.ttl, ttl), min(fl.absent, space.NotFoundTTL)
		fl.encodes = fl.encodes || !fl.shares(space, typ)
		if within {
			fl.needed = true
			fl.seat.Promote()
		}
		return fl, false
	}
	fl = fs.begin(ctx, f, space, typ, r, l)
	fl.degraded = r.degraded || apart || alone
	fl.fresh = r.fresh
	if !within && fl.seat == nil { // those that load together have one
		fl.seat = f.places.Take()
	}
	if !alone {
		fs.byKey[r.key] = fl
	}
	return fl, true
}

// begin makes a flight, of its own or of l, for a caller, who waits for it. It needs fs.mu.
func (fs *flights) begin(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, l *loading) *flight {
	fl := &flight{
		loading: l, f: f, key: r.key, space: *space, typ: typ, leader: ctx, bad: r.bad,
		ttl: f.ttl.base(space), absent: space.NotFoundTTL,
		loaded: make(chan struct{}), done: make(chan struct{}),
	}
	if l != nil {
		l.flights = append(l.flights, fl)
	} else {
		fl.loading = &fl.own
		fl.derive(ctx, f)
	}
	fl.waiters++
	return fl
}

// derive gives the contexts of l the values of ctx.
func (l *loading) derive(ctx context.Context, f *front) {
	l.ctx.Begin(ctx, f)
	l.ask.Context = l.ctx.Context
}

// takeSeat has a load that gave up its place ask for one again.
func (fs *flights) takeSeat(f *front, l *loading) (seat *places.Seat, ok bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if l.needed {
		l.seat = nil
	} else if fs.refreshing[l] {
		l.seat, ok = f.places.TryTake()
		return l.seat, ok
	} else if l.seat != nil {
		l.seat = f.places.Take()
	}
	return l.seat, true
}

// leave takes one waiter off. The last one ends the load, and nobody joins a
// load that has been ended.
func (fs *flights) leave(fl *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl.waiters--; fl.waiters > 0 {
		return
	}
	if fl.flights == nil {
		fs.end(fl)
		return
	}
	if fl.batchAsk != nil {
		fl.batchAsk.End()
	}
	for _, fl := range fl.flights {
		fs.end(fl)
	}
}

// end ends the load of a flight that has no waiters, unless its fill is on its way, and the
// next reader waits for it. It needs fs.mu.
func (fs *flights) end(fl *flight) {
	if fl.isLoaded() {
		return
	}
	fs.remove(fl)
	fl.ask.End()
	fl.ctx.End()
}

// awaitFill waits for a fill of key that is on its way: a question to the backend then
// finds the value.
func (fs *flights) awaitFill(ctx context.Context, key string) {
	fs.mu.Lock()
	fl := fs.byKey[key]
	fs.mu.Unlock()
	if fl == nil || !fl.isLoaded() {
		return
	}
	_ = fl.await(ctx, fl.done)
}

// detach keeps callers who come from now on from the results of loads that began
// before, and those loads from being stored.
func (fs *flights) detach(keys []string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		fs.apart.remove(key)
		if fl := fs.byKey[key]; fl != nil {
			fl.detached = true
			delete(fs.byKey, key)
			fl.f.wakes.Wake(key)
		}
	}
}

// detachAll detaches every flight.
func (fs *flights) detachAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for key, fl := range fs.byKey {
		fl.detached = true
		fl.f.wakes.Wake(key)
	}
	clear(fs.byKey)
	fs.apart = apart{}
}

// setApart notes that what is loaded for key cannot be handed on encoded.
func (fs *flights) setApart(key string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.apart.add(key)
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

// apartTime is how long it is remembered of a key that its values cannot be handed on.
const apartTime = 10 * time.Second

// apart has keys whose loaded value could not be encoded, or did not decode again.
// Callers who wait for such a load get nothing from it but the delay, so they load at
// once, each for itself or, with Share, together. The table is of one size: a key may
// take another's place, which then is found out once more.
type apart [256]struct {
	hash  uint64
	until time.Time
}

var apartSeed = maphash.MakeSeed()

func (a *apart) add(key string) {
	h := maphash.String(apartSeed, key)
	e := &a[h%uint64(len(a))]
	e.hash, e.until = h, time.Now().Add(apartTime)
}

func (a *apart) has(key string) bool {
	h := maphash.String(apartSeed, key)
	e := &a[h%uint64(len(a))]
	return e.hash == h && time.Now().Before(e.until)
}

func (a *apart) remove(key string) {
	h := maphash.String(apartSeed, key)
	if e := &a[h%uint64(len(a))]; e.hash == h {
		e.until = time.Time{}
	}
}
