// Package aside is a cache-aside library: it looks in the cache, loads from the
// database on a miss, stores what was loaded, and invalidates on a write.
//
// [Open] makes a [Cache] in Redis, in memory, or none. [GetOrLoad] wraps a
// repository's loaders and [Update] its writes:
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
// A load that began before a write is never stored after it, and never handed to
// a reader who came after it. A cold key is loaded once, however many ask, in
// however many processes. A backend that does not answer costs a call at most
// Config.Timeout, then nothing: reads go to the database, and invalidations are
// kept until they can be delivered.
//
// What is stored is the encoded value and nothing else, so that programs in other
// languages share it: they fill with SETEX, and invalidate `name:id` with
// DEL name:id {name:id}:lease.
//
// [Generations] keeps the state of AI replies that are being generated: started
// once, cancelled from any process.
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

// GetOrLoad returns the value of key from the cache or, on a miss, the value that load
// reads from the database and that is then stored for the next reader.
//
// Of all callers who ask for a cold key at once, in all processes that share the
// backend, one calls its loader and the others take the result. A value that was
// loaded before an [Update] or [Invalidate] of the key is never returned to a
// caller who came after it (a near cache weakens this for writes by other processes; see
// Config.NearMaxBytes). If the backend fails, GetOrLoad loads; it never returns an error
// of the backend. A stored value that does not decode is replaced.
//
// # The loader
//
// load runs in another goroutine, with a context that has the values of ctx, but
// ends only when every caller waiting for it has left, or after
// Config.LoadTimeout. The load is over then, whether or not load has returned: its
// callers get an error that is a [context.DeadlineExceeded], the next caller loads
// anew, and a late result is dropped. load should use its own context, not its
// caller's; in a keyspace with RefreshAfter, it may run after its caller has returned. It
// reads the primary database, not a replica, and only committed rows: a value that it
// reads inside an uncommitted transaction is stored even if that is
// rolled back. It must not ask for the same key again, or for one whose loader asks for
// this one: each would wait for the other until Config.LoadTimeout.
//
// GetOrLoad returns when load has, and does not wait until the value is stored; a later
// call in the same process does, and Close.
//
// # Errors
//
// An error of load is returned as it is. An error that wraps [ErrNotFound] says that
// this key has no value, also when it comes from another GetOrLoad inside load: return
// an error of your own in its place where only a part is missing. When load panics,
// GetOrLoad panics in each caller with a [*PanicError], or with http.ErrAbortHandler
// itself where the panic is that.
//
// # Cancellation
//
// GetOrLoad returns ctx's error as soon as ctx ends, or at most Config.Timeout later
// when a Redis command is on its way for this caller alone; others go on waiting.
//
// # Ownership
//
// The value is the caller's own, unless the keyspace has Share set. The caller whose
// loader ran gets the loader's value, every other caller a value that its own keyspace's
// Codec decodes from the encoded bytes. A value that the Codec refuses is not stored, and without Share each
// caller loads its own. Use one Keyspace for a key: where callers of one load have
// several, each value is handed out by its caller's, and kept for the shortest TTL and
// NotFoundTTL among them.
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
	space := &key.space // on the stack: see read
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

// read is one call of GetOrLoad. The keyspace is handed on beside it: in it, a pointer
// would be one more that may outlive the call, which puts the key on the heap, and a
// copy would be a tenth of a hit in memory.
type read struct {
	request
	arrived     uint64 // see flight.accepts
	shortOfTime bool   // its deadline is so short that a healthy backend may miss it
	alone       bool   // no load of another's is of use to it
	together    bool   // the backend is asked for it with others
	asks        bool   // and is to be asked
	looked      bool   // it has been decided how to look first
	skipped     bool   // a miss was expected: the lease request is the first question
	refreshes   bool   // the keyspace has values loaded again
	old         bool   // the value that was found is to be loaded again
	leased      bool   // and somebody has a lease on it
	began       bool   // the refresh of that value, which it waits for
	audited     bool   // a value that is found is loaded once more, to compare
	served      []byte // the value that was found, if it is audited
	count       *counters
	start       time.Time       // when it began, if hooks are told of it
	load        context.Context // of the load whose result it took, as hooks made it
	mode        mode            // how its value is handed out
}

// maxRounds is how often a caller joins flights before it loads by itself. Two
// are enough but where results cannot be shared: callers who ask for one key as
// values of different types, or whose loaders end with their callers' contexts.
const maxRounds = 4

// join gets the value of a key that missed, or was not looked for, from a flight. hit says
// that the value was there, or being stored, before anything was loaded or waited for: its
// fill may have ended between the first look and the request for a lease.
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

// landed waits for a flight, and takes its result. again says that it was of no use to this
// caller, and hit whether the value of the next look counts as a hit. wasLoaded says that the value was
// being stored when the caller came.
func landed[T any](ctx context.Context, f *front, fl *flight, space *Keyspace, r *read, leads, wasLoaded bool) (value T, hit, again bool, err error) {
	if err := fl.wait(ctx, r); err != nil {
		return value, false, false, err
	}
	if fl.expired { // also to a caller who came late: a loader that waits for its own key must not begin anew for ever
		r.load = fl.hooked()
		return value, false, false, fl.err
	}
	if r.skipped && leads {
		f.misses.Saw(space.Name, !fl.found)
	}
	hit = wasLoaded && fl.err == nil || fl.found && !r.fresh
	if !fl.accepts(r.arrived) || r.fresh && fl.began.Load() <= r.arrived {
		if !r.degraded && fl.failed {
			r.degrade() // the wait has cost a budget already
		}
		return value, hit, true, nil
	}
	if value, ok, err := take[T](ctx, f, fl, space, r, leads); ok {
		return value, hit, false, err
	}
	if err := fl.await(ctx, fl.done); err != nil { // or it would be joined again
		return value, false, false, err
	}
	return value, false, true, nil
}

// lookup is the hit path: one question to the backend, or none.
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

// looked takes the backend's answer to a look.
func looked[T any](ctx context.Context, f *front, space *Keyspace, r *read, got found, err error) (value T, ok bool) {
	if err != nil {
		if r.shortOfTime = f.shortOfTime(ctx); ctx.Err() == nil {
			r.degrade()
		}
		return value, false
	}
	if !r.together { // a batch says little of the next read, and has nothing to save
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

func (r *read) degrade() {
	r.degraded = true
	r.count.degraded.Add(1)
}

func (r *read) undecodable(f *front, space *Keyspace, data []byte, err error) {
	r.bad = data
	f.near.Drop(r.key)
	r.count.decodeErrors.Add(1)
	f.warnOnce(space, r.key, "cache: stored values do not decode and are loaded again (logged once per keyspace)", err)
}

// wait waits for the flight's result, or for ctx to end. A caller who came too late to
// take the result of the load waits for the end of the fill as well, and finds the value
// stored. One who has met trouble with the backend waits for neither what comes before the
// load nor what comes after it, unless the trouble may be its own hurry: others then keep
// their lease.
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

// take reads the flight's result for a caller who may have it, as its own keyspace
// says. ok is false when this caller cannot: the value did not decode, or was never
// encoded; or the load ended as another caller left.
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

func resultOf[T any](f *front, fl *flight, space *Keyspace, r *read, leads bool) (value T, ok bool, err error) {
	if fl.err != nil {
		return value, true, fl.err
	}
	typ := typed[T]{}
	if !fl.stored && (leads || fl.shares(space, typ)) {
		value, _ = fl.value.(T) // of that type, or a nil interface value
		return value, true, nil
	}
	if fl.data == nil || fl.garbled.Load() {
		r.alone = !space.Share // with it, those who have none go together
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

// hitOld is a hit of a value that is older than its keyspace's RefreshAfter. It has the
// value loaded anew, and waits for that as long as the keyspace says.
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

// refreshed returns the result of a refresh of an old value in the time that a reader waits
// for it. fl is nil when the reader does not, and leads says that the reader began it.
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
		if value, ok := lookup[T](ctx, f, space, r); ok && !r.old { // another process's, or one that was being stored
			f.hit(ctx, space, r, nil)
			return value, nil
		}
	}
	f.hitStale(ctx, space, r)
	return old, nil
}

// begin notes when a read began that is not answered from this process's memory, for hooks.
func (r *read) begin(f *front) {
	if f.hooks.Reads && r.start.IsZero() {
		r.start = time.Now()
	}
}

// hit counts, logs and reports a read of a value that was stored, or being stored, as it came.
func (f *front) hit(ctx context.Context, space *Keyspace, r *read, err error) {
	r.count.hits.Add(1)
	if f.logs.Enabled(ctx, slog.LevelDebug) {
		f.log.DebugContext(ctx, "[CACHE HIT]", "key", r.key)
	}
	if f.hooks.Hits {
		f.report(ctx, space, r, hook.Hit, err)
	}
}

// missed counts, logs and reports a read that was no hit.
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

func (f *front) report(ctx context.Context, space *Keyspace, r *read, outcome string, err error) {
	if f.hooks.Reads {
		f.hooks.Read(ctx, hook.Read{Keyspace: r.count.space, Outcome: outcome, Err: err, Duration: time.Since(r.start), Load: r.load})
	}
}

// Peek returns the value that the cache has under key, and for how long still, without loading it or
// waiting for a load: for a page that shows it, or a test. ok is false when there is no value
// that may be served; err is [ErrNotFound] when it is remembered that there is none. left is 0
// when the value has no end, which only another program can have stored. The answer is the
// backend's, within Config.Timeout: a near cache's copy may be gone before. A value that
// does not decode is an error, and stays.
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

// Fresh returns a context under which reads take only a load that began after they came, and
// have it stored: to show the newest, or to warm up. Others go on getting the value that is
// there meanwhile. It reaches through a repository's methods, and not into loaders: a
// loader's own reads are as under a context without it.
func Fresh(ctx context.Context) context.Context { return loadctx.WithFresh(ctx) }

// KeepFor has a loader's result kept for d at most, a value as well as ErrNotFound. The
// loader calls it, with the context that it was given. The keyspace's TTL and NotFoundTTL stay
// the most that it may be, and RefreshAfter shrinks with it. 0 or less returns the result and
// stores nothing; a value that is there, which is being refreshed, is removed then. With keys
// it says so of these, and not of others: for [GetOrLoadMany]. An empty list of keys is none:
// it says so of all. The last call for a key counts.
// On any other context it does nothing.
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
