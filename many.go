package aside

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cacheaside/aside/internal/loadctx"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/redisstore"
)

// GetOrLoadMany is [GetOrLoad] for many keys. It returns the values of ids: those in the
// cache, and for all others those that one call of load returns. key returns the key of
// an id; it is called once per id, and the keys may be of several keyspaces.
//
//	users, err := aside.GetOrLoadMany(ctx, cache, ids, userKey, r.selectUsers)
//
// GetOrLoad's rules hold for each id: which values a caller may receive, errors of the
// backend, cancellation, ownership. The values of about a hundred ids on a node of Redis
// take one round trip, and so do their leases and their fills. A load of an id that
// another caller has started, in this process or another, is not repeated but waited for.
//
// # The loader
//
// load is called with the ids that have no value, each once, in the order of ids. It is
// called again only for ids that another caller failed to load, or that were invalidated
// meanwhile. If the database limits the ids of one query, load should make several.
//
//   - An id that is missing from load's map has no value. It is missing from the
//     result as well, and remembered as [ErrNotFound] for the keyspace's NotFoundTTL.
//   - Values of other ids in load's map are ignored.
//   - Values that load returns with an error are returned with that error, and not
//     stored. Other callers that wait for one of the ids get the error alone. No id
//     counts as not found then: an error that wraps ErrNotFound is returned as one
//     that does not.
//
// The context of load ends when the callers of all its ids have left, or after
// Config.LoadTimeout. A GetOrLoad that waits for one of the ids waits for the whole load.
//
// # Result
//
// The map is the caller's own. It is nil only if nothing was looked up: the key of an id
// is invalid, a function is nil, c is closed, or ctx was already done. Any other error is
// the loader's, ctx's, or those of several loads joined, and the map has the values that
// were found nevertheless. Ids with the same key are loaded once. A value older than its
// keyspace's RefreshAfter is returned as GetOrLoad returns it, and one more call of load
// replaces all such values in the background.
func GetOrLoadMany[K comparable, T any](ctx context.Context, c Cache, ids []K, key func(K) Key, load func(context.Context, []K) (map[K]T, error)) (map[K]T, error) {
	f, err := frontOf(c)
	if err != nil {
		return nil, err
	}
	if key == nil || load == nil {
		return nil, errors.New("aside: GetOrLoadMany: key or loader is nil; want both")
	}
	m := &many[K, T]{f: f, load: load}
	if err := m.add(ctx, ids, key); err != nil {
		return nil, err
	}
	if f.life.IsClosed() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.values = make(map[K]T, len(m.wanted))
	left := make([]*wanted[K, T], len(m.wanted))
	for i := range m.wanted {
		left[i] = &m.wanted[i]
	}
	defer m.leave()
	// As in join: an id whose flight began before this call goes round again. The last rounds
	// are alone, so the loop ends.
	for round := 0; len(left) > 0; round++ {
		left = m.look(ctx, left, round)
		m.board(ctx, left, round)
		left = m.await(ctx, left)
	}
	m.awaitRefreshes(ctx)
	return m.values, m.err()
}

// many is one call of GetOrLoadMany.
type many[K comparable, T any] struct {
	f      *front
	load   func(context.Context, []K) (map[K]T, error)
	wanted []wanted[K, T]
	values map[K]T

	refreshing []*wanted[K, T] // old values, while the caller waits for their refresh

	ended  error // the error of the caller's context, if it ended before all ids were answered
	errs   []error
	failed map[*loading]bool // loads with an error that is in errs already
}

// wanted is the state of one id in a call.
type wanted[K comparable, T any] struct {
	id    K
	space Keyspace
	read
	hit bool

	fl        *flight // the flight that it waits for
	leads     bool
	wasLoaded bool

	stale T // the old value, while the flight refreshes it
}

// add checks the keys of ids, and makes a wanted of each different id.
func (m *many[K, T]) add(ctx context.Context, ids []K, key func(K) Key) error {
	f := m.f
	m.wanted = make([]wanted[K, T], 0, len(ids))
	seen := make(map[K]struct{}, len(ids))
	arrived := f.flights.seq.Load()
	fresh := loadctx.IsFresh(ctx)
	var start time.Time
	if f.hooks.Reads {
		start = time.Now()
	}
	for _, id := range ids {
		if _, ok := seen[id]; ok {
			continue
		}
		seen[id] = struct{}{}
		k := key(id)
		if err := k.check(); err != nil {
			return fmt.Errorf("aside: GetOrLoadMany: the key of id %.200q: %w", fmt.Sprint(id), err)
		}
		w := wanted[K, T]{id: id, space: k.space}
		w.read = read{request: request{key: f.name(k.text)}, arrived: arrived, mode: modeOf[T](&w.space), together: true, count: f.counts.of(k.space.Name), start: start}
		w.fresh = fresh
		w.space.forKey(w.key)
		if w.refreshes = f.ttl.refreshAfter(&w.space) != 0; w.refreshes {
			if err := f.ttl.checkRefresh(&w.space); err != nil {
				return err
			}
		}
		m.wanted = append(m.wanted, w)
	}
	return nil
}

// look looks all ids up in one round, and returns those that must be loaded. Ids in this
// process's memory cost no command; the others are asked for together.
func (m *many[K, T]) look(ctx context.Context, ids []*wanted[K, T], round int) (left []*wanted[K, T]) {
	f := m.f
	var old, remote []*wanted[K, T]
	var asks []redisstore.Ask
	var before []near.Ticket
	took := func(w *wanted[K, T], value T) {
		switch {
		case w.old && round == 0:
			w.stale = value
			old = append(old, w)
		default:
			m.values[w.id] = value
			m.count(ctx, w, round == 0 || w.hit, nil)
		}
	}
	left = ids[:0:0]
	for _, w := range ids {
		if round > 0 && (w.alone || w.bad != nil) {
			left = append(left, w)
			continue
		}
		w.asks = false
		value, ok := lookup[T](ctx, f, &w.space, &w.read)
		switch {
		case ok:
			took(w, value)
		case w.asks:
			remote = append(remote, w)
			asks = append(asks, redisstore.Ask{Key: w.key, Marked: w.refreshes})
			before = append(before, f.beginNear(&w.space, w.key))
		default:
			left = append(left, w)
		}
	}
	for i, got := range f.askAll(ctx, asks) {
		w := remote[i]
		if got.err == nil {
			f.keepNear(&w.space, w.key, before[i], w.refreshes, &got)
		}
		if value, ok := looked[T](ctx, f, &w.space, &w.read, got, got.err); ok {
			took(w, value)
		} else {
			left = append(left, w)
		}
	}
	m.refresh(ctx, old)
	return left
}

// boardAtOnce is how many ids join their flights under one hold of flights.mu. A larger
// number would keep single reads waiting for that lock.
const boardAtOnce = 128

// board has each id join the flight of its key, or lead a new one. The new ones share one
// load.
func (m *many[K, T]) board(ctx context.Context, ids []*wanted[K, T], round int) {
	if ctx.Err() != nil {
		return
	}
	fs, b := &m.f.flights, m.batch(ctx)
	for some := range slices.Chunk(ids, boardAtOnce) {
		fs.mu.Lock()
		for _, w := range some {
			w.fl, w.leads = fs.board(ctx, m.f, &w.space, typed[T]{}, &w.request, &b.loading, w.alone || round >= maxRounds)
			w.wasLoaded = round == 0 && !w.leads && !w.fresh && w.fl.isLoaded()
			if w.leads {
				b.add(w.fl, w.id)
			}
		}
		fs.mu.Unlock()
	}
	b.start()
}

// refresh starts a refresh of old values. It returns the old value for an id of a
// keyspace without RefreshWait, and leaves the others to awaitRefreshes.
func (m *many[K, T]) refresh(ctx context.Context, ids []*wanted[K, T]) {
	if len(ids) == 0 {
		return
	}
	fs, b := &m.f.flights, m.batch(ctx)
	for some := range slices.Chunk(ids, boardAtOnce) {
		fs.mu.Lock()
		for _, w := range some {
			if w.leased && w.space.RefreshWait == 0 { // another caller refreshes it
				continue
			}
			var fl *flight
			fl, w.leads = fs.boardRefresh(ctx, m.f, &w.space, typed[T]{}, &w.request, &b.loading, b.mayRefresh)
			if w.leads {
				b.add(fl, w.id)
			}
			w.fl = fl.forWaiter(&w.space, typed[T]{})
		}
		fs.mu.Unlock()
	}
	b.start()
	for _, w := range ids {
		if w.fl != nil {
			m.refreshing = append(m.refreshing, w)
			continue
		}
		m.values[w.id] = w.stale
		m.f.hitStale(ctx, &w.space, &w.read)
	}
}

// awaitRefreshes waits for refreshes as long as RefreshWait says. It comes after all
// loads have ended; the refreshes run meanwhile.
func (m *many[K, T]) awaitRefreshes(ctx context.Context) {
	for _, w := range m.refreshing {
		fl := w.fl
		w.fl = nil
		value, err := refreshed(ctx, m.f, fl, w.leads, &w.space, &w.read, w.stale)
		if err == nil {
			m.values[w.id] = value
		} else if m.hasEnded(ctx) {
			continue
		} else if !fl.notFound {
			m.fail(fl, err)
		}
	}
}

// hasEnded reports whether the caller's context has ended, and notes its error as the
// call's.
func (m *many[K, T]) hasEnded(ctx context.Context) bool {
	m.ended = ctx.Err()
	return m.ended != nil
}

// await waits for the flights of ids, and returns the ids that need another round.
func (m *many[K, T]) await(ctx context.Context, ids []*wanted[K, T]) (again []*wanted[K, T]) {
	for _, w := range ids {
		fl := w.fl
		if fl == nil && m.hasEnded(ctx) {
			m.f.missed(ctx, &w.space, &w.read, m.ended)
			continue
		}
		w.fl = nil // landed leaves the flight
		value, hit, once, err := landed[T](ctx, m.f, fl, &w.space, &w.read, w.leads, w.wasLoaded)
		if w.hit = hit; once {
			again = append(again, w)
			continue
		}
		m.count(ctx, w, hit, err)
		switch {
		case err == nil:
			m.values[w.id] = value
		case m.hasEnded(ctx) || fl.notFound:
		default:
			m.fail(fl, err)
			if beside, ok := fl.value.(T); ok && w.leads {
				m.values[w.id] = beside
			}
		}
	}
	return again
}

// leave leaves flights that are still waited for, after a panic of another one.
func (m *many[K, T]) leave() {
	for i := range m.wanted {
		if fl := m.wanted[i].fl; fl != nil {
			m.f.flights.leave(fl)
		}
	}
}

// count counts, logs and reports one id as GetOrLoad does its key.
func (m *many[K, T]) count(ctx context.Context, w *wanted[K, T], hit bool, err error) {
	if hit {
		m.f.hit(ctx, &w.space, &w.read, err)
	} else {
		m.f.missed(ctx, &w.space, &w.read, err)
	}
}

// fail notes the error of a load, once for all ids that were loaded together.
func (m *many[K, T]) fail(fl *flight, err error) {
	if m.failed == nil {
		m.failed = make(map[*loading]bool)
	}
	if !m.failed[fl.loading] {
		m.failed[fl.loading] = true
		m.errs = append(m.errs, err)
	}
}

// err returns the noted errors as one.
func (m *many[K, T]) err() error {
	if m.ended != nil {
		m.errs = append(m.errs, m.ended)
	}
	if len(m.errs) == 1 {
		return m.errs[0]
	}
	return errors.Join(m.errs...)
}

// batchOf is a loadBatch that knows which id each of its flights is for.
type batchOf[K comparable] struct {
	loadBatch
	ids []K
}

// batch returns an empty batch that calls the caller's loader.
func (m *many[K, T]) batch(ctx context.Context) *batchOf[K] {
	b := &batchOf[K]{}
	b.f, b.leader = m.f, ctx
	b.derive(ctx, m.f)
	load := m.load // capturing m would keep the values of the call in memory for as long as the load runs
	b.load = func(ctx context.Context, which []int) (func(int) (any, bool), error) {
		ids := make([]K, len(which))
		for i, place := range which {
			ids[i] = b.ids[place]
		}
		values, err := load(ctx, ids)
		return func(place int) (any, bool) {
			v, ok := values[b.ids[place]]
			return v, ok
		}, err
	}
	return b
}

// add makes fl, for id, a member of the batch.
func (b *batchOf[K]) add(fl *flight, id K) {
	b.members = append(b.members, &member{flight: fl, place: len(b.ids)})
	b.ids = append(b.ids, id)
}

// start runs the batch in a goroutine, unless no id leads a flight.
func (b *batchOf[K]) start() {
	if len(b.members) > 0 {
		go b.run()
	}
}
