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

// GetOrLoadMany is [GetOrLoad] of many keys: it returns the values of ids, those that the
// cache has, and those that one call of load returns for all the rest. key names the key of
// an id. It is called once for each; keys may be of several keyspaces.
//
//	users, err := aside.GetOrLoadMany(ctx, cache, ids, userKey, r.selectUsers)
//
// All that GetOrLoad says holds for each id by itself: who may have which value, errors of
// the backend, cancellation, ownership. Its hits take one round trip to a node of Redis for
// some hundred ids, and so do its leases, and its stores. What another caller loads already,
// of GetOrLoad or GetOrLoadMany, in this process or another, is not loaded again but waited
// for.
//
// # The loader
//
// load is called with the ids that nobody has a value for, each once, in the order of ids. It
// is called again only for ids that others were loading, and have failed to, or whose value
// was invalidated meanwhile. Where the database bounds how many ids a query may have, load
// makes several.
//
//   - An id that it leaves out of its map has no value: it is missing in the result, too, and
//     is remembered as [ErrNotFound] for the keyspace's NotFoundTTL.
//   - What it returns for ids that it was not asked for is ignored.
//   - What it returns beside an error is returned beside that error, and not stored. Those that
//     wait for one of its ids get the error alone. No id is taken for not found then: an error
//     that wraps ErrNotFound is returned as one that does not.
//
// Its context ends when the callers of all of its ids have left, or after
// Config.LoadTimeout. A caller of GetOrLoad that waits for one of its ids waits for all of
// its load.
//
// # Result
//
// The map is the caller's own. It is nil only when nothing was looked for, as the error says:
// the key of an id is not valid, a function is nil, c is closed, or ctx has ended before. Any
// other error is the loader's, or ctx's, or those of several loads joined, and the map has what
// was there beside. Ids that have one key are loaded once. Values older than their keyspace's
// RefreshAfter are returned as GetOrLoad returns them, and one more call of load replaces all
// of them in the background.
func GetOrLoadMany[K comparable, T any](ctx context.Context, c Cache, ids []K, key func(K) Key, load func(context.Context, []K) (map[K]T, error)) (map[K]T, error) {
	f, err := frontOf(c)
	if err != nil {
		return nil, err
	}
	if key == nil || load == nil {
		return nil, errors.New("aside: GetOrLoadMany: a function for the keys and a loader are needed, and one is nil")
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

	refreshing []*wanted[K, T] // that wait for their refreshes

	ended  error // of the caller's context, when it left with ids unanswered
	errs   []error
	failed map[*loading]bool // whose error is among errs
}

// wanted is an id of a call, and how far it has come.
type wanted[K comparable, T any] struct {
	id    K
	space Keyspace
	read
	hit bool

	fl        *flight // that it waits for
	leads     bool
	wasLoaded bool

	stale T // the old value, while the flight refreshes it
}

// add takes the ids, each once.
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

// look looks all ids up, and returns those that are to be loaded.
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

// boardAtOnce is how many ids find their flights under one hold of flights.mu, for which
// other reads wait.
const boardAtOnce = 128

// board finds the flights of ids, and leads those that there are none of.
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

// refresh returns old values to those that do not wait for new ones, and has them loaded
// anew.
func (m *many[K, T]) refresh(ctx context.Context, ids []*wanted[K, T]) {
	if len(ids) == 0 {
		return
	}
	fs, b := &m.f.flights, m.batch(ctx)
	for some := range slices.Chunk(ids, boardAtOnce) {
		fs.mu.Lock()
		for _, w := range some {
			if w.leased && w.space.RefreshWait == 0 {
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

// awaitRefreshes waits for the refreshes that are waited for.
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

// hasEnded reports whether the caller's context has ended, which is the call's error then.
func (m *many[K, T]) hasEnded(ctx context.Context) bool {
	m.ended = ctx.Err()
	return m.ended != nil
}

// await waits for the flights of ids, and returns those that are to go round again.
func (m *many[K, T]) await(ctx context.Context, ids []*wanted[K, T]) (again []*wanted[K, T]) {
	for _, w := range ids {
		fl := w.fl
		if fl == nil && m.hasEnded(ctx) {
			m.f.missed(ctx, &w.space, &w.read, m.ended)
			continue
		}
		w.fl = nil // landed leaves it
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

// leave leaves the flights that are still waited for: one before them has panicked.
func (m *many[K, T]) leave() {
	for i := range m.wanted {
		if fl := m.wanted[i].fl; fl != nil {
			m.f.flights.leave(fl)
		}
	}
}

func (m *many[K, T]) count(ctx context.Context, w *wanted[K, T], hit bool, err error) {
	if hit {
		m.f.hit(ctx, &w.space, &w.read, err)
	} else {
		m.f.missed(ctx, &w.space, &w.read, err)
	}
}

// fail notes the error of a flight, once for all that were loaded together.
func (m *many[K, T]) fail(fl *flight, err error) {
	if m.failed == nil {
		m.failed = make(map[*loading]bool)
	}
	if !m.failed[fl.loading] {
		m.failed[fl.loading] = true
		m.errs = append(m.errs, err)
	}
}

func (m *many[K, T]) err() error {
	if m.ended != nil {
		m.errs = append(m.errs, m.ended)
	}
	if len(m.errs) == 1 {
		return m.errs[0]
	}
	return errors.Join(m.errs...)
}

// batchOf is a batch of flights for ids.
type batchOf[K comparable] struct {
	loadBatch
	ids []K
}

func (m *many[K, T]) batch(ctx context.Context) *batchOf[K] {
	b := &batchOf[K]{}
	b.f, b.leader = m.f, ctx
	b.derive(ctx, m.f)
	load := m.load // and not m, which has the values
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

func (b *batchOf[K]) add(fl *flight, id K) {
	b.members = append(b.members, &member{flight: fl, place: len(b.ids)})
	b.ids = append(b.ids, id)
}

func (b *batchOf[K]) start() {
	if len(b.members) > 0 {
		go b.run()
	}
}
