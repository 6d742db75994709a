// Package aside is a cache-aside library. It looks for a value in the cache, loads it
// from the database on a miss, stores it for the next reader, and invalidates it on a
// write.
//
// [Open] returns a [Cache] on Redis, in memory, or switched off. [GetOrLoad] wraps a
// repository's loaders, and [Update] its writes:
//
//	func (r *Repository) Messages(ctx context.Context, chatID string) ([]Message, error) {
//		return aside.GetOrLoad(ctx, r.cache, aside.ChatMessages(chatID), func(ctx context.Context) ([]Message, error) {
//			return r.selectMessages(ctx, chatID)
//		})
//	}
//
//	func (r *Repository) AddMessage(ctx context.Context, m Message) error {
//		return aside.Update(ctx, r.cache, func(ctx context.Context) error {
//			return r.insertMessage(ctx, m)
//		}, aside.ChatMessages(m.ChatID))
//	}
//
// [GetOrLoadMany] reads a list, [Invalidate] is for writes that cannot be wrapped, and
// [Generations] keeps the state of AI replies, which any process can cancel.
//
// # Promises
//
// Comments and names of tests refer to these by number: promise 1, P1, TestP1.
//
//  1. No stale fill. After an Update or Invalidate was applied, no GetOrLoad that
//     starts in any process returns a value that was loaded before it.
//  2. A process that dies between the database write and the invalidation leaves
//     nothing stale, if the write was an Update and the backend took its block.
//  3. A cold key is loaded once, by one caller in one process, for all callers in all
//     processes.
//  4. Callers are independent. Each leaves when its own context ends, which fails no
//     other caller's load.
//  5. An unavailable backend is not the caller's error. It costs a call at most its
//     time budget, and nothing once the breaker is open.
//  6. An invalidation that cannot be delivered is queued and delivered later. Until
//     then this process does not read the key from the cache.
//  7. A stored value is the encoded value and nothing else, so that programs in other
//     languages share it.
//  8. No wrong value is returned silently. Bytes that do not decode are loaded again,
//     and an empty value is a hit.
//  9. A returned value is the caller's own, unless its keyspace has Share set.
//
// # Terms
//
//   - A keyspace is a group of keys, `name:id`, for values of one kind: see
//     [Keyspace].
//   - A hit is a read of a value that the cache has, or is storing, when the read
//     begins. A miss is any other read, and is not an error.
//   - A loader is the function that reads the database. A load is one call of it, for
//     every caller that waits for the result.
//   - A lease is the right to load a key and store the result. The backend grants one
//     at a time for a key. An invalidation ends the lease, so a load that began
//     earlier cannot store.
//   - To invalidate a key is to remove its value and end its lease.
//   - A block keeps leases on a key from being granted while an Update writes.
//   - A generation is the state of one AI reply while it is generated.
//   - A near cache holds copies, in this process, of values that were read from
//     Redis: see Config.NearMaxBytes.
//   - The backend is unavailable while it refuses, fails, or does not answer in time.
//   - The time budget is the most that one call may spend on backend commands that
//     fail: Config.Timeout, for all commands of the call together.
//   - A deadline is the time at which a context ends. A reader leaves at the deadline
//     of its context, whether or not its time budget is used up.
//   - The breaker of a backend's node opens after three failures in a row, or when
//     several commands wait for a node that answers nothing. While it is open, no
//     call sends a command to that node. The breaker's own probe closes it. A second
//     breaker does the same for storing alone, on a node that answers and refuses to
//     store.
//   - A distrusted key is one for which the stored value may be older than the
//     database, because its invalidation is not delivered, or the backend did not
//     take its block. This process neither reads it from the cache nor stores it.
//
// # Other languages
//
// Other programs read a value with GET, store one with SETEX, and invalidate the key
// `name:id` with DEL name:id {name:id}:lease. A plain DEL of the value alone does not end
// a load that is running.
package aside

import (
	"context"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/loadctx"
)

// GetOrLoad returns the value of key from the cache. On a miss it returns the value that
// load reads from the database, which is then stored for the next reader.
//
// Of all callers that ask for a cold key at once, in all processes that share the
// backend, one calls its loader, and the others take the result (promise 3). A caller
// that starts after an [Update] or [Invalidate] of the key never receives a value that
// was loaded before it (promise 1); a near cache weakens this for writes by other
// processes, see Config.NearMaxBytes. If the backend fails, GetOrLoad loads from the
// database; it never returns an error of the backend. A stored value that does not decode
// is loaded again and replaced.
//
// # The loader
//
// load runs in a goroutine of its own, with a context that has the values of ctx. That
// context ends when every caller that waits for the load has left, or after
// Config.LoadTimeout. The load is then over, whether or not load has returned: its
// callers get an error that wraps [context.DeadlineExceeded], the next caller starts a
// new load, and a late result is dropped.
//
//   - load must use its own context, not its caller's. In a keyspace with
//     RefreshAfter it may run after its caller has returned.
//   - load must read the primary database, not a replica, and only committed rows. A
//     value that it reads inside an uncommitted transaction is stored even if that is
//     rolled back.
//   - load must not call GetOrLoad for the same key, or for a key with a loader that
//     asks for this one: each would wait for the other until Config.LoadTimeout.
//
// GetOrLoad returns as soon as load has, and does not wait until the value is stored. A
// later call in the same process does, and so does Close.
//
// # Errors
//
// An error of load is returned as it is. An error that wraps [ErrNotFound] means that the
// key has no value, even if it comes from another GetOrLoad inside load; return another
// error where only a part is missing. When load panics, GetOrLoad panics in each caller,
// with a [*PanicError], or with http.ErrAbortHandler itself if that was the panic.
//
// # Cancellation
//
// GetOrLoad returns ctx's error as soon as ctx ends, or at most Config.Timeout later when
// a Redis command is on its way for this caller alone. Other callers go on waiting.
//
// # Ownership
//
// The value is the caller's own, unless the keyspace has Share set. The caller whose
// loader ran gets the loader's value; every other caller gets a value that its own
// keyspace's Codec decodes from the encoded bytes. A value that the Codec refuses is not
// stored, and without Share each caller loads its own.
//
// Use one Keyspace for a key. Where callers of one load have several, each value is
// decoded for its caller's keyspace, and is kept for the shortest TTL and NotFoundTTL
// among them.
func GetOrLoad[T any](ctx context.Context, c Cache, key Key, load func(context.Context) (T, error)) (T, error) {
	var zero T
	f, ok := c.(*front)
	if !ok {
		var err error
		if f, err = frontOf(c); err != nil {
			return zero, err
		}
	}
	if err := key.check(); err != nil {
		return zero, err
	}
	if load == nil {
		return zero, fmt.Errorf("aside: GetOrLoad of %.200q: the loader is nil", key.text)
	}
	if f.life.IsClosed() {
		return zero, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	space := &key.space // stays on the stack: see read
	name := f.name(key.text)
	if space.Codec != nil {
		space.forKey(name)
	}
	r := read{request: request{key: name}, arrived: f.flights.seq.Load(), mode: modeOf[T](space), count: f.counts.of(space.Name)}
	if f.hooks.Hits {
		r.start = time.Now()
	}
	if r.refreshes = f.ttl.refreshAfter(space) != 0; r.refreshes {
		if err := f.ttl.checkRefresh(space); err != nil {
			return zero, err
		}
	}
	r.fresh = loadctx.IsFresh(ctx)
	r.audited = f.cfg.Audit > 0 && mathrand.Float64() < f.cfg.Audit
	if value, ok := lookup[T](ctx, f, space, &r); ok {
		if r.old {
			return hitOld[T](ctx, f, space, &r, load, value)
		}
		if r.audited {
			f.flights.audit(ctx, f, space, typed[T]{}, &r.request, r.served, func(ctx context.Context) (any, error) { return load(ctx) })
		}
		f.hit(ctx, space, &r, nil)
		return value, nil
	}
	value, hit, err := join(ctx, f, space, &r, load)
	if hit {
		f.hit(ctx, space, &r, err)
	} else {
		f.missed(ctx, space, &r, err)
	}
	return value, err
}

// read is the state of one call of GetOrLoad. The keyspace is passed beside read and not
// inside it: a pointer field would make the key escape to the heap, and a copy would cost
// a tenth of a hit in memory.
type read struct {
	request
	arrived     uint64 // the last event of flights.seq when the read began: see flight.accepts
	shortOfTime bool   // the caller's deadline is so short that a healthy backend may miss it
	alone       bool   // another caller's load is of no use to it, as values cannot be shared
	together    bool   // a read of GetOrLoadMany, which asks the backend for many keys at once
	asks        bool   // together, and the backend is to be asked
	looked      bool   // the choice between a GET and a lease request was made
	skipped     bool   // a miss was expected, so the GET was left out and the lease request comes first
	refreshes   bool   // the keyspace has RefreshAfter
	old         bool   // the value found is older than RefreshAfter
	leased      bool   // the value is old, and another caller has the lease
	began       bool   // it waits for a refresh that it began
	audited     bool   // a hit is loaded once more, to compare: see Config.Audit
	served      []byte // the bytes of an audited hit
	count       *counters
	start       time.Time       // when it began, if a hook wants the duration
	load        context.Context // the context, as hooks made it, of the load that answered it
	mode        mode            // how its value is handed out
}

// maxRounds is how often a caller joins flights before it loads by itself. Two rounds are
// enough unless results cannot be shared: callers read one key as values of different
// types, or their loaders end with their callers' contexts. Without the bound such
// callers would wait for each other's loads one after another.
const maxRounds = 4

// join gets the value of a key that missed, or was not looked for, from a flight. hit
// reports that the value was there, or being stored, before anything was loaded or waited
// for: its fill may have ended between the first look and the request for a lease.
func join[T any](ctx context.Context, f *front, space *Keyspace, r *read, load func(context.Context) (T, error)) (value T, hit bool, err error) {
	r.begin(f)
	boxed := func(ctx context.Context) (any, error) { return load(ctx) }
	for round := 0; ; round++ {
		if round > 0 && !r.alone && r.bad == nil {
			if value, ok := lookup[T](ctx, f, space, r); ok {
				return value, hit, nil
			}
		}
		if err := ctx.Err(); err != nil {
			return value, false, err
		}
		fl, leads := f.flights.join(ctx, f, space, typed[T]{}, &r.request, boxed, r.alone || round >= maxRounds)
		var again bool
		if value, hit, again, err = landed[T](ctx, f, fl, space, r, leads, round == 0 && !leads && !r.fresh && fl.isLoaded()); !again {
			return value, hit, err
		}
	}
}

// landed waits for a flight and takes its result. again reports that the result is of no
// use to this caller, which must join another flight; hit then says whether the next look
// counts as a hit. wasLoaded says that the value was being stored when the caller came.
func landed[T any](ctx context.Context, f *front, fl *flight, space *Keyspace, r *read, leads, wasLoaded bool) (value T, hit, again bool, err error) {
	if err := fl.wait(ctx, r); err != nil {
		return value, false, false, err
	}
	if fl.expired { // also for a late caller: a loader that waits for its own key must not start over for ever
		r.load = fl.hooked()
		return value, false, false, fl.err
	}
	if r.skipped && leads {
		f.misses.Saw(space.Name, !fl.found)
	}
	hit = wasLoaded && fl.err == nil || fl.found && !r.fresh
	if !fl.accepts(r.arrived) || r.fresh && fl.began.Load() <= r.arrived {
		if !r.degraded && fl.failed {
			r.degrade() // the wait has used up the time budget
		}
		return value, hit, true, nil
	}
	if value, ok, err := take[T](ctx, f, fl, space, r, leads); ok {
		return value, hit, false, err
	}
	if err := fl.await(ctx, fl.done); err != nil { // otherwise it would be joined again
		return value, false, false, err
	}
	return value, false, true, nil
}

// lookup is the hit path: it sends one command to the backend, or none. It reports false
// without asking when the cache is off, the read goes without the backend, or the key is
// distrusted.
func lookup[T any](ctx context.Context, f *front, space *Keyspace, r *read) (value T, ok bool) {
	if f.off || r.degraded || r.fresh {
		return value, false
	}
	if f.queue.Distrusts(r.key) {
		r.degrade()
		return value, false
	}
	e, old, ok := f.lookupLocal(space, r)
	r.old, r.leased = old, false
	if !ok {
		if f.memory != nil {
			return value, false
		}
		return lookupRemote[T](ctx, f, space, r)
	}
	if r.audited {
		r.served = e.Data
	}
	value, err := valueOf[T](f, space, r, e.Data, false, e)
	if err != nil {
		r.undecodable(f, space, e.Data, err)
		return value, false
	}
	return value, true
}

// lookupRemote looks in the backend, unless a miss is expected: the lease request then
// returns the value if there is one, and the GET would be a round trip for nothing.
func lookupRemote[T any](ctx context.Context, f *front, space *Keyspace, r *read) (value T, ok bool) {
	if r.together {
		r.asks = true
		return value, false
	}
	r.begin(f)
	if r.skipped = !r.looked && !f.places.Full() && f.misses.Expect(space.Name, r.key, r.refreshes); r.skipped {
		r.looked = true
		return value, false
	}
	r.looked = true
	got, err := f.lookupBackend(ctx, space, r.key, r.refreshes)
	return looked[T](ctx, f, space, r, got, err)
}

// looked turns the backend's answer into a value, and records it for the next guess of a
// miss.
func looked[T any](ctx context.Context, f *front, space *Keyspace, r *read, got found, err error) (value T, ok bool) {
	if err != nil {
		if r.shortOfTime = f.shortOfTime(ctx); ctx.Err() == nil {
			r.degrade()
		}
		return value, false
	}
	if !r.together { // a batch predicts little about the next single read, and never skips its GET
		f.misses.Saw(space.Name, !got.ok)
	}
	if !got.ok {
		return value, false
	}
	r.old, r.leased = r.refreshes && got.mark != backend.Fresh, got.mark == backend.Leased
	if r.audited {
		r.served, got.own = got.value, false
	}
	value, err = valueOf[T](f, space, r, got.value, got.own, got.entry)
	if err != nil {
		r.undecodable(f, space, got.value, err)
		return value, false
	}
	return value, true
}

// degrade makes the rest of the read go without the backend.
func (r *read) degrade() {
	r.degraded = true
	r.count.degraded.Add(1)
}

// undecodable records stored bytes that did not decode. The lease request that follows
// removes them from the backend, if they are still there.
func (r *read) undecodable(f *front, space *Keyspace, data []byte, err error) {
	r.bad = data
	f.near.Drop(r.key)
	r.count.decodeErrors.Add(1)
	f.warnOnce(space, r.key, "aside: stored value does not decode; loading it again (logged once per keyspace)", err)
}

// wait waits for the flight's result, or for ctx to end. A caller that came too late to
// take the result of the load waits for the end of the fill as well, and then finds the
// value stored.
//
// A degraded caller waits neither for the lease request before the load nor for the fill
// after it, as its time budget is spent. If its own short deadline may be the cause, the
// flight is not hurried, so that the other callers keep their lease.
func (fl *flight) wait(ctx context.Context, r *read) error {
	defer fl.f.flights.leave(fl)
	if r.degraded && !r.shortOfTime {
		fl.hurry()
	}
	if err := fl.await(ctx, fl.loaded); err != nil || r.degraded || !fl.f.local && fl.accepts(r.arrived) {
		return err
	}
	return fl.await(ctx, fl.done)
}

// take reads the flight's result for a caller that flight.accepts, by that caller's own
// keyspace. ok is false when this caller cannot use it: the value did not decode or was
// never encoded, or the load ended because another caller left.
func take[T any](ctx context.Context, f *front, fl *flight, space *Keyspace, r *read, leads bool) (value T, ok bool, err error) {
	if fl.orphaned && !leads || fl.idle {
		return value, false, nil
	}
	if value, ok, err = resultOf[T](f, fl, space, r, leads); ok {
		r.load = fl.hooked()
		if !leads && !r.began {
			r.count.coalesced.Add(1)
		}
	}
	if ok && fl.panics != nil {
		f.missed(ctx, space, r, fl.err)
		panic(fl.panics)
	}
	return value, ok, err
}

// resultOf returns the flight's error or value. The leader, and callers that share its
// value, get the loader's own; every other caller gets one that is decoded for it.
func resultOf[T any](f *front, fl *flight, space *Keyspace, r *read, leads bool) (value T, ok bool, err error) {
	if fl.err != nil {
		return value, true, fl.err
	}
	typ := typed[T]{}
	if !fl.stored && (leads || fl.shares(space, typ)) {
		value, _ = fl.value.(T) // fails only for a nil interface value, which is the zero T
		return value, true, nil
	}
	if fl.data == nil || fl.garbled.Load() {
		r.alone = !space.Share // with Share, callers without a result go on together
		return value, false, nil
	}
	if value, err = valueOf[T](f, space, r, fl.data, false, nil); err == nil {
		return value, true, nil
	}
	r.undecodable(f, space, fl.data, err)
	if !fl.stored && fl.typ == typ && sameCodec(codecOf(&fl.space), codecOf(space)) {
		fl.garbled.Store(true)
		f.flights.setApart(r.key)
		r.alone = !space.Share
	}
	return value, false, nil
}

// hitOld handles a hit of a value older than its keyspace's RefreshAfter. It starts a
// refresh, unless another caller has the lease, and waits for it as long as RefreshWait
// says.
func hitOld[T any](ctx context.Context, f *front, space *Keyspace, r *read, load func(context.Context) (T, error), old T) (value T, err error) {
	r.begin(f)
	waits := space.RefreshWait != 0
	if r.leased && !waits {
		f.hitStale(ctx, space, r)
		return old, nil
	}
	boxed := func(ctx context.Context) (any, error) { return load(ctx) }
	fl, leads := f.flights.refresh(ctx, f, space, typed[T]{}, &r.request, boxed)
	return refreshed(ctx, f, fl, leads, space, r, old)
}

// refreshed returns the refresh's result if it comes within RefreshWait, and otherwise
// the old value. fl is nil when the reader does not wait, and leads reports whether the
// reader began the refresh.
func refreshed[T any](ctx context.Context, f *front, fl *flight, leads bool, space *Keyspace, r *read, old T) (value T, err error) {
	r.began = leads
	if fl == nil {
		f.hitStale(ctx, space, r)
		return old, nil
	}
	wait := ctx
	if space.RefreshWait > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, fl.refresh.began.Add(space.RefreshWait))
		defer cancel()
	}
	err = fl.wait(wait, r)
	if err := ctx.Err(); err != nil {
		f.missed(ctx, space, r, err)
		return value, err
	}
	if err == nil && (fl.err == nil || fl.notFound) {
		if fl.accepts(r.arrived) {
			if value, ok, err := take[T](ctx, f, fl, space, r, false); ok {
				f.missed(ctx, space, r, err)
				return value, err
			}
		}
		if value, ok := lookup[T](ctx, f, space, r); ok && !r.old { // stored by another process, or being stored by this one
			f.hit(ctx, space, r, nil)
			return value, nil
		}
	}
	f.hitStale(ctx, space, r)
	return old, nil
}

// begin notes the start of a read for hooks. A hit in this process's memory never gets
// here: looking at the clock would be a large part of its cost.
func (r *read) begin(f *front) {
	if f.hooks.Reads && r.start.IsZero() {
		r.start = time.Now()
	}
}

// hit counts, logs and reports a read of a value that was stored, or being stored, when
// it began.
func (f *front) hit(ctx context.Context, space *Keyspace, r *read, err error) {
	r.count.hits.Add(1)
	if f.logs.Enabled(ctx, slog.LevelDebug) {
		f.log.DebugContext(ctx, "[CACHE HIT]", "key", r.key)
	}
	if f.hooks.Hits {
		f.report(ctx, space, r, hook.Hit, err)
	}
}

// missed counts, logs and reports a read that was not a hit.
func (f *front) missed(ctx context.Context, space *Keyspace, r *read, err error) {
	outcome := hook.Off
	if !f.off {
		outcome = hook.Miss
		r.count.misses.Add(1)
		if f.logs.Enabled(ctx, slog.LevelDebug) {
			f.log.DebugContext(ctx, "[CACHE MISS]", "key", r.key)
		}
	}
	f.report(ctx, space, r, outcome, err)
}

// hitStale counts, logs and reports a read that returned a value older than RefreshAfter.
func (f *front) hitStale(ctx context.Context, space *Keyspace, r *read) {
	r.count.staleHits.Add(1) // before the hits, of which it is one: see Stats
	r.count.hits.Add(1)
	if f.logs.Enabled(ctx, slog.LevelDebug) {
		f.log.DebugContext(ctx, "[CACHE HIT]", "key", r.key, "stale", true)
	}
	f.report(ctx, space, r, hook.Stale, nil)
}

// report calls the Read hooks.
func (f *front) report(ctx context.Context, space *Keyspace, r *read, outcome string, err error) {
	if f.hooks.Reads {
		f.hooks.Read(ctx, hook.Read{Keyspace: r.count.space, Outcome: outcome, Err: err, Duration: time.Since(r.start), Load: r.load})
	}
}

// Peek returns the value that the cache has under key, and how long it will still be
// kept. It neither loads nor waits for a load, so it suits a status page or a test.
//
// ok is false when there is no value that may be served; err is then [ErrNotFound] if it
// is remembered that there is none. left is 0 for a value without an end, which only
// another program can have stored. The answer is the backend's, within Config.Timeout, so
// a near copy may be dropped sooner. A value that does not decode is an error, and stays
// stored.
func Peek[T any](ctx context.Context, c Cache, key Key) (value T, left time.Duration, ok bool, err error) {
	f, err := frontOf(c)
	if err == nil {
		err = key.check()
	}
	if err != nil {
		return value, 0, false, err
	}
	data, mark, ok, err := f.GetMarked(ctx, key.text)
	if err != nil || !ok {
		if err == nil && mark == backend.NotFound {
			err = ErrNotFound
		}
		return value, 0, false, err
	}
	key.space.forKey(f.name(key.text))
	if value, err = decode[T](&key.space, data); err != nil {
		return value, 0, false, fmt.Errorf("aside: the stored value of %.200q does not decode: %w", key.text, err)
	}
	left, ok, err = f.TTL(ctx, key.text)
	return value, left, ok, err
}

// Fresh returns a context for reads that take only the result of a load that began after
// them. The result is stored. Use it to show the newest value.
// Other readers go on getting the stored value meanwhile.
//
// It takes effect through a repository's methods, but not inside loaders: reads that a
// loader makes are as under a context without it.
func Fresh(ctx context.Context) context.Context { return loadctx.WithFresh(ctx) }

// KeepFor limits how long the result of a load is kept, whether a value or ErrNotFound.
// The loader calls it with the context that it was given; with any other context KeepFor
// does nothing. The last call for a key counts.
//
// The keyspace's TTL and NotFoundTTL stay upper bounds, and RefreshAfter shrinks in
// proportion. If d is 0 or less, the result is returned but not stored, and a value that
// was being refreshed is removed.
//
// With keys, the limit applies to those keys alone, which is for loaders of
// [GetOrLoadMany]. Without, it applies to every key of the load.
func KeepFor(ctx context.Context, d time.Duration, keys ...Key) {
	l := loadctx.Of(ctx)
	if l == nil {
		return
	}
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.text
	}
	l.Keep(d, names...)
}
