// flights coalesces loads: callers in this process that miss the same key share one flight.
// This file decides which flight a caller joins (join, board), when a flight ends because
// its callers have left (leave), and which flights a write cuts off (detach).
//
// All of it is guarded by flights.mu, which is also the lock for the fields of flight and
// loading that say so. It is held for a few instructions, and never while a backend, a
// loader or a hook runs. The locks that are taken while it is held take no others: those of
// places, wake, recent, the counters and a load's contexts.

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

// flights has the flights that callers may join. Numbers of seq order the events that decide
// which caller may take which result: see flight.accepts.
type flights struct {
	seq atomic.Uint64

	// mu guards the fields below.
	mu    sync.Mutex
	byKey map[string]*flight // by key in full; a detached flight is not in it
	apart apart

	refreshing map[*loading]bool // loads that refresh or audit values
	tried      recent.Keys       // keys that were tried to be refreshed a moment ago
}

// request is the part of a read that its flight needs.
type request struct {
	key      string // in full
	degraded bool   // the read bypasses the backend from now on
	bad      []byte // a stored value that did not decode, or nil
	fresh    bool   // the read takes only a load that begins after it came
}

// join returns the key's flight for a caller, which must call leave for it, and reports
// whether the caller leads it: the flight has been started with the caller's loader. With
// alone, the flight is the caller's own, bypasses the backend, and cannot be joined. That is
// for a caller that cannot use another's result.
func (fs *flights) join(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, load func(context.Context) (any, error), alone bool) (fl *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fl, leads = fs.board(ctx, f, space, typ, r, nil, alone); leads {
		fl.load = load
		go fl.run()
	}
	return fl, leads
}

// board is join without the start of the flight. If l is not nil, a new flight becomes one
// of l's. The caller must hold fs.mu.
//
// A caller that bypasses the backend does not join a flight that is sending its fill: it would
// wait for the backend.
func (fs *flights) board(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, l *loading, alone bool) (fl *flight, leads bool) {
	ttl := f.ttl.base(space)
	apart := fs.apart.has(r.key)
	// A loader that reads another key holds a place while it waits for that load, which must
	// therefore not stand in line for a place: all places could be held by such loads.
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
	if !within && fl.seat == nil { // the flights of a batch share a seat
		fl.seat = f.places.Take()
	}
	if !alone {
		fs.byKey[r.key] = fl
	}
	return fl, true
}

// begin makes a flight with one waiter, by itself or as one of l's. It does not put it into
// byKey. The caller must hold fs.mu.
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

// derive gives the contexts of l the values of ctx, and nothing of its end.
func (l *loading) derive(ctx context.Context, f *front) {
	l.ctx.Begin(ctx, f)
	l.ask.Context = l.ctx.Context
}

// takeSeat gives a load that left its place a new place, or a turn in line for one. A
// refresh does not stand in line, as its value is still served: ok is false when no place is
// free for it. A load that became needed meanwhile goes on without a place.
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

// leave takes one waiter off. The last one ends the load, and takes the flight out of the
// map under the same lock, so that no caller joins a load that has been ended.
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

// end ends the load of a flight that has no waiters. A flight that is sending its fill stays,
// as the next reader waits for that. The caller must hold fs.mu.
func (fs *flights) end(fl *flight) {
	if fl.isLoaded() {
		return
	}
	fs.remove(fl)
	fl.ask.End()
	fl.ctx.End()
}

// awaitFill waits until a fill of key that is on its way has ended, so that the backend then
// has the value, or until ctx ends.
func (fs *flights) awaitFill(ctx context.Context, key string) {
	fs.mu.Lock()
	fl := fs.byKey[key]
	fs.mu.Unlock()
	if fl == nil || !fl.isLoaded() {
		return
	}
	_ = fl.await(ctx, fl.done)
}

// detach cuts the running flights of keys off, as a write does: no later caller joins them,
// and they store nothing. Their callers came before the write, and may still take the result.
// The flights are woken in case they wait for another process's load.
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

// setApart notes that values loaded for key cannot be handed on encoded.
func (fs *flights) setApart(key string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.apart.add(key)
}

// leases returns the tokens of the leases that joinable flights hold, by key, for Close to
// release.
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

// remove takes fl out of the map, unless another flight has its key by now. The caller must
// hold fs.mu.
func (fs *flights) remove(fl *flight) {
	if fs.byKey[fl.key] == fl {
		delete(fs.byKey, fl.key)
	}
}

// apartTime is how long a key stays apart.
const apartTime = 10 * time.Second

// apart remembers keys with a loaded value that could not be encoded, or did not decode. A
// caller that waits for such a load gets nothing from it but the delay, so it loads at once,
// by itself or, with Share, together with others. The table has a fixed size, as values may
// fail under any number of keys. A key may take the slot of another, and the next load of
// that one then fails to encode once more.
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
