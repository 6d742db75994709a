// A loadBatch loads the keys of one GetOrLoadMany, or refreshes them: many flights in one
// goroutine, with their lease requests, their loads and their fills together. It follows the
// same steps as a single flight (see flight.go), with a loop around them, as some of its
// keys may be loading in other processes. The second half of the file sends lease requests,
// fills, extensions and releases of many keys to their nodes (callAll). many.go makes the
// batches and waits for their flights.

package aside

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/wake"
)

// loadBatch is the flights for the missing keys of one call of GetOrLoadMany, or for its old
// values to refresh. Members that are granted a lease are loaded by one call of the loader
// and stored before the batch waits for the members that other processes are loading. So no
// lease is held during a wait, and callers that ask for the same keys in different orders
// cannot wait for each other.
type loadBatch struct {
	loading
	f      *front
	leader context.Context // of the caller that brought the loader
	// load calls the loader for the ids at the indices which. valueOf returns the value for
	// one of them, or false if the loader has left it out.
	load      func(ctx context.Context, which []int) (valueOf func(i int) (any, bool), err error)
	members   []*member
	refreshes bool // the batch counts as a refresh: see mayRefresh
}

// member is a flight of a batch. Its fields belong to the batch's goroutine.
type member struct {
	*flight
	place     int          // index of its id among the ids of the call
	lease     string       // the token of its lease, or ""
	wait      *wake.Waiter // nil until another process has been found loading
	waitedFor string       // the token of that process's lease
	overdue   string       // its deadline, if that has passed: see wake.Waiter.Overdue
}

// run carries the batch out. In each round it asks for the leases of the members that are
// left, and loads those that are granted one; when there is none, it pauses until a lease
// that another process holds may have ended. It gives up its place for that.
func (b *loadBatch) run() {
	grow(0)
	stopRenewing := b.keepLeases()
	defer b.over(stopRenewing)
	start := time.Now()
	for left := b.members; len(left) > 0; {
		if !b.seat.Wait(b.ctx.Done()) {
			b.giveUp(left, errAbandoned)
			return
		}
		ask := b.newAsk()
		loads, waits, hears := b.acquire(ask, left)
		if len(loads) > 0 {
			b.proceed(loads)
		} else if len(waits) > 0 && hears {
			b.seat.Leave() // other keys load meanwhile
			waits[0].wait.Pause(ask, time.Since(start), nil)
		}
		ask.End()
		if left = waits; len(left) > 0 {
			b.seat.Leave()
			if _, ok := b.f.flights.takeSeat(b.f, &b.loading); !ok {
				for _, m := range left {
					m.idle = true
				}
				b.giveUp(left, nil)
				return
			}
			left = b.lookInLine(left, start)
		}
	}
}

// lookInLine looks for values that other processes have stored, while the batch is in line
// for a place. It returns the members that have no value yet when the batch's turn comes.
// As in flight.acquire, no lease is asked for meanwhile.
func (b *loadBatch) lookInLine(ms []*member, start time.Time) (left []*member) {
	for turn := b.seat.Turn(); turn != nil && slices.ContainsFunc(ms, (*member).mayLook); turn = b.seat.Turn() {
		if ms = b.look(ms); len(ms) == 0 {
			break
		}
		ask := b.newAsk()
		paused := ms[0].wait.Pause(ask, time.Since(start), turn)
		if ask.End(); !paused {
			break
		}
	}
	return ms
}

// look reads the members' keys, ends those that have a value, and returns the others.
func (b *loadBatch) look(ms []*member) (left []*member) {
	var looking []*member
	var asks []redisstore.Ask
	for _, m := range ms {
		if !m.mayLook() {
			left = append(left, m)
			continue
		}
		looking, asks = append(looking, m), append(asks, redisstore.Ask{Key: m.key})
	}
	asOf := b.f.flights.seq.Add(1)
	for i, got := range b.f.askAll(b.ctx.Context, asks) {
		m := looking[i]
		if got.err != nil || !m.finds(got, asOf) {
			left = append(left, m)
			continue
		}
		m.wait.Answered(true)
		m.data, m.stored = got.value, true
		m.end()
	}
	return left
}

// mayRefresh reports whether the batch may refresh values, and takes its place the first
// time: all of its refreshes share one, as they share a call of the loader. The caller must
// hold flights.mu.
func (b *loadBatch) mayRefresh() bool {
	if !b.refreshes {
		if b.seat, b.refreshes = b.f.flights.mayRefresh(b.f); b.refreshes {
			b.f.flights.startRefresh(&b.loading)
		}
	}
	return b.refreshes
}

// newAsk returns a context for one round of lease requests, or one pause. It ends with the
// batch, or when a waiter of one of its flights hurries.
func (b *loadBatch) newAsk() *deadline.Detached {
	ask := &deadline.Detached{Context: b.ctx.Context}
	b.f.flights.mu.Lock()
	defer b.f.flights.mu.Unlock()
	if b.batchAsk = ask; b.ctx.Err() != nil {
		ask.End()
	}
	return ask
}

// over ends the batch, and those of its flights that have not ended because foreign code of
// the backend has ended the batch's goroutine.
func (b *loadBatch) over(stopRenewing func()) {
	stopRenewing()
	for _, m := range b.members {
		if m.wait != nil {
			m.wait.Done()
		}
		select {
		case <-m.done:
			continue
		default:
		}
		if !m.isLoaded() {
			m.err = errGoexit
		}
		m.end()
	}
	b.seat.Leave()
	b.f.flights.mu.Lock()
	delete(b.f.flights.refreshing, &b.loading)
	b.f.flights.mu.Unlock()
	b.ctx.End()
}

// acquire asks once for the lease of each member, and ends the members that get a value or a
// not-found marker in answer. It returns the members that load, with or without a lease,
// and those that another process is loading. hears is false when one of the latter is new:
// its request did not yet name a channel, so the end of that lease would not be announced,
// and the batch asks again at once in place of a pause.
func (b *loadBatch) acquire(ask *deadline.Detached, ms []*member) (loads, waits []*member, hears bool) {
	f := b.f
	asOf := f.flights.seq.Add(1)
	asked := make([]*member, 0, len(ms))
	calls := make([]*redisstore.Call, 0, len(ms))
	skips := b.ctx.Err() != nil
	for _, m := range ms {
		// As in flight.acquire: these load without a lease, and store nothing.
		hurried := m.isHurried()
		if skips || hurried || m.degraded || m.isDetached() || f.queue.Distrusts(m.key) {
			m.failed = m.failed || hurried
			loads = append(loads, m)
			continue
		}
		m.asOf.Store(asOf)
		asked = append(asked, m)
		calls = append(calls, &redisstore.Call{Key: m.key, Lease: m.request()})
	}
	leases := make([]backend.Lease, len(asked))
	f.callAll(ask, calls, func(i int, r redisstore.Reply) {
		m := asked[i]
		if r.Err != nil {
			m.failed = true
			return
		}
		leases[i] = r.Lease
		if r.Lease.State == backend.Granted {
			m.lease = r.Lease.Token
			f.flights.mu.Lock()
			m.token = m.lease // from now on keepLeases extends it
			f.flights.mu.Unlock()
		}
	})
	hears = true
	for i, m := range asked {
		switch lease := leases[i]; lease.State {
		case backend.Present, backend.Absent:
			m.found = lease.State == backend.Present && m.waitedFor == ""
			if m.wait != nil {
				m.wait.Answered(true)
			}
			m.stored = true
			if m.data = lease.Value; lease.State == backend.Absent {
				m.err, m.notFound = ErrNotFound, true
			}
			m.end()
		case backend.Loading:
			if m.refresh != nil && (!m.refresh.waits || lease.Token == "") {
				loads = append(loads, m) // without a lease, a refresh ends in proceed
				continue
			}
			if m.waitedFor == "" {
				m.count().waited.Add(1)
			}
			// The members that wait share one wake-up, as the batch has one goroutine.
			if m.wait == nil {
				if m.wait, hears = f.wakes.Waiter(m.key), false; len(waits) > 0 {
					m.wait = waits[0].wait.And(m.key)
				}
			}
			m.waitedFor, m.overdue = lease.Token, m.wait.Overdue(lease.Deadline)
			waits = append(waits, m)
		default: // granted, or no lease is to be had: Writing, Unleased, Marked, Gone, an error
			loads = append(loads, m)
		}
	}
	return loads, waits, hears
}

// request returns the member's next lease request.
func (m *member) request() *backend.LeaseRequest {
	req := &backend.LeaseRequest{TTL: m.f.leaseTTL(), Undecodable: m.bad, WaitedFor: m.waitedFor, Overdue: m.overdue}
	if m.refresh != nil {
		req.Refresh = m.f.ttl.unmarked(&m.space)
	}
	if m.fresh {
		req.Refresh = &backend.Refresh{Always: true}
	}
	if m.wait != nil {
		req.WakeOn = m.wait.Channel()
	}
	return req
}

// proceed loads the members, as flight.proceed does one flight, and ends them. The loader
// runs in a goroutine of its own: the batch gives up on it when its context ends, and can
// then still load or await its other members.
func (b *loadBatch) proceed(ms []*member) {
	f, loads := b.f, ms[:0:0]
	for _, m := range ms {
		m.asOf.Store(0) // the answer has found no value: the result begins with the load
		if m.idle = m.refresh != nil && m.lease == ""; m.idle {
			m.end()
			continue
		}
		loads = append(loads, m)
	}
	if ms = loads; len(ms) == 0 {
		return
	}
	if b.ctx.Err() != nil {
		b.giveUp(ms, errAbandoned)
		return
	}
	b.ctx.Forget() // KeepFor of an earlier call is not about these keys
	ctx := &deadline.Detached{Context: &b.ctx}
	defer ctx.End()
	defer b.ctx.AfterFunc(ctx.End)()
	if t := f.cfg.LoadTimeout; t > 0 {
		ctx.Limit(t)
	}
	ms[0].count().loads.Add(1)
	if b.refreshes {
		ms[0].count().refreshes.Add(1)
	}
	asOf := f.flights.seq.Add(1)
	for _, m := range ms {
		m.asOf.Store(asOf)
		m.began.Store(asOf)
	}
	results := make(chan []outcome)
	go b.call(ctx, ms, results)
	select {
	case outs := <-results:
		b.finish(ms, outs)
	case <-ctx.Done():
		ms[0].count().loadErrors.Add(1)
		err := errAbandoned
		if ctx.Err() == context.DeadlineExceeded {
			err = &loadTimeout{ms[0].key, f.cfg.LoadTimeout}
			for _, m := range ms {
				m.expired = true
			}
		}
		ms[0].refreshFailed(err)
		b.giveUp(ms, err)
	}
}

// call calls the loader for the members, encodes the results, and sends an outcome for each.
// Once ctx has ended nothing receives them, and the outcomes are dropped.
func (b *loadBatch) call(ctx *deadline.Detached, ms []*member, results chan<- []outcome) {
	grow(0)
	var all outcome
	outs := make([]outcome, len(ms))
	// Deferred, since the loader, a hook or a Codec may exit the goroutine.
	shared := false // outs are filled; until then, all is the outcome of every member
	defer func() {
		for i := range outs {
			if !shared {
				outs[i] = all
			}
		}
		select {
		case results <- outs:
		case <-ctx.Done():
			ms[0].late(&all)
		}
	}()
	which := make([]int, len(ms))
	for i, m := range ms {
		which[i] = m.place
	}
	defer func() { b.share(ms, &all, outs, &shared) }() // also when a hook ends this goroutine
	b.callLoader(ctx, ms, &all, func(ctx context.Context) (any, error) { return b.load(ctx, which) })
}

// share makes outs of what the loader returned, encoded, unless it returned nothing. It sets
// shared as soon as each member has its value: a codec may end the goroutine.
func (b *loadBatch) share(ms []*member, all *outcome, outs []outcome, shared *bool) {
	valueOf, returned := all.value.(func(int) (any, bool))
	all.value = nil
	if all.notFound { // the error does not say which of the keys has no value
		all.err, all.notFound = &notOfOne{all.err}, false
	}
	all.orphaned = all.orphaned && b.leader.Err() != nil
	if all.panics != nil || !returned {
		return
	}
	// A key that the loader has left out of its result has no value. Values beside an error
	// are kept for the leader, who gets both.
	for i, m := range ms {
		o := &outs[i]
		*o = *all
		v, ok := valueOf(m.place)
		switch {
		case ok:
			o.value = v
		case all.err == nil:
			o.err, o.notFound = ErrNotFound, true
		}
	}
	*shared = true
	for i, m := range ms {
		if o := &outs[i]; o.err == nil && (m.lease != "" || m.leaveMap()) {
			m.encode(o)
		}
	}
}

// callLoader is flight.callLoader for the members: hooks see one load of many keys.
func (b *loadBatch) callLoader(ctx context.Context, ms []*member, out *outcome, load func(context.Context) (any, error)) {
	if !b.f.hooks.Loads {
		out.call(ctx, load)
		return
	}
	out.err = errGoexit
	ctx, ended := b.f.hooks.Load(ctx, hook.Load{Keyspace: ms[0].count().space, Reason: ms[0].reason(), Keys: len(ms)})
	for _, m := range ms {
		m.hookedCtx.Store(&ctx)
	}
	defer func() {
		err := out.err
		if out.notFound { // see notOfOne
			err = &notOfOne{err}
		}
		ended(err)
	}()
	out.call(ctx, load)
}

// finish hands out the loader's results, stores those of members with a lease, and ends the
// members.
func (b *loadBatch) finish(ms []*member, outs []outcome) {
	if err := outs[0].err; err != nil && !outs[0].notFound {
		ms[0].count().loadErrors.Add(1)
		ms[0].refreshFailed(err)
	}
	b.seat.Leave()
	settles := b.f.life.Settle()
	if settles {
		defer b.f.life.Settled()
	}
	var leased []*member
	for i, m := range ms {
		m.outcome = outs[i]
		if m.lease == "" {
			m.end()
			continue
		}
		close(m.loaded)
		leased = append(leased, m)
	}
	if !settles {
		b.giveUp(leased, nil)
		return
	}
	b.store(leased)
}

// store sends the members' fills, or releases their leases, and ends each member when its
// reply is there. Where it is unknown whether a value was stored, the lease is released in
// the background, as flight.store does.
func (b *loadBatch) store(ms []*member) {
	f := b.f
	calls := make([]*redisstore.Call, 0, len(ms))
	sent := make([]uint64, 0, len(ms))
	kept := ms[:0:0]
	for _, m := range ms {
		if m.lost.Load() {
			m.count().staleFills.Add(1)
			m.end()
			continue
		}
		fill, at, ok := m.toStore()
		kept, sent = append(kept, m), append(sent, at)
		calls = append(calls, &redisstore.Call{Key: m.key, Token: m.lease, Fill: fill, Release: !ok})
	}
	var mu sync.Mutex
	var unsure []*member
	f.callAll(b.ctx.Context, calls, func(i int, r redisstore.Reply) {
		m := kept[i]
		if calls[i].Release {
			m.failed = r.Err != nil
		} else if m.filled(calls[i].Fill, sent[i], r.Stored, r.Err); r.Err != nil {
			mu.Lock()
			unsure = append(unsure, m)
			mu.Unlock()
		}
		m.end()
	})
	if len(unsure) > 0 {
		f.life.Go(func() { b.giveBack(unsure) })
	}
}

// giveUp ends the members, with err if it is not nil, and releases their leases.
func (b *loadBatch) giveUp(ms []*member, err error) {
	for _, m := range ms {
		if err != nil {
			m.err = err
		}
		m.end()
	}
	b.giveBack(ms)
}

// giveBack releases the leases of the members that have one.
func (b *loadBatch) giveBack(ms []*member) {
	var calls []*redisstore.Call
	for _, m := range ms {
		if m.lease != "" {
			calls = append(calls, &redisstore.Call{Key: m.key, Token: m.lease, Release: true})
		}
	}
	b.f.callAll(b.ctx.Context, calls, func(int, redisstore.Reply) {})
}

// keepLeases extends the leases of all members that load until stop is called, as
// flight.keepLease does one.
func (b *loadBatch) keepLeases() (stop func()) {
	if b.f.local {
		return func() {}
	}
	return deadline.Every(leaseTTL/3, func(ctx context.Context) (again bool) {
		var held []*member
		var calls []*redisstore.Call
		b.f.flights.mu.Lock()
		for _, m := range b.members {
			if m.token != "" && !m.isLoaded() && !m.lost.Load() {
				held = append(held, m)
				calls = append(calls, &redisstore.Call{Key: m.key, Token: m.token, Extend: leaseTTL})
			}
		}
		b.f.flights.mu.Unlock()
		b.f.callAll(ctx, calls, func(i int, r redisstore.Reply) {
			if r.Err == nil && !r.Stored {
				held[i].lost.Store(true)
			}
		})
		return true
	})
}

// notOfOne is the error of a loader of several keys that has returned ErrNotFound. It hides
// ErrNotFound: that does not say which of the keys has no value, and a caller must not
// take any of them for not found.
type notOfOne struct{ err error }

func (e *notOfOne) Error() string        { return e.err.Error() }
func (e *notOfOne) Is(target error) bool { return target != ErrNotFound && errors.Is(e.err, target) }
func (e *notOfOne) As(target any) bool   { return errors.As(e.err, target) }

// callAll carries calls out, those of one node together, and calls got once for each. Calls
// of got may come from several goroutines, never two for one node at once. When ctx ends,
// the calls that are left get an error, and a lease that is granted later is released. A node
// that does not answer costs one time budget, not one for each call: the rest fails unsent.
func (f *front) callAll(ctx context.Context, calls []*redisstore.Call, got func(i int, r redisstore.Reply)) {
	if f.local {
		for i, c := range calls {
			got(i, f.carry(ctx, c))
		}
		return
	}
	f.eachNode(len(calls), func(i int) string { return calls[i].Key }, func(n *node, which []int) {
		var inLine []*redisstore.Call
		var places, alone []int // indices in calls: of inLine, and of the calls that go alone
		for _, i := range which {
			if n.redis == nil || calls[i].Alone() {
				alone = append(alone, i)
			} else {
				inLine, places = append(inLine, calls[i]), append(places, i)
			}
		}
		answers := true
		done := n.calls.All(ctx, inLine, func() bool { return !n.IsOpen() && !n.store.IsOpen() }, func(k int, r redisstore.Reply, _ bool, err error) bool {
			if err == nil {
				err = r.Err
			}
			if r.Elsewhere { // a Cluster's node redirects it
				alone = append(alone, places[k])
				return true
			}
			r.Err = err
			answers = answers && (err == nil || redisstore.Answered(err))
			got(places[k], r)
			return answers
		})
		for _, i := range places[done:] {
			got(i, redisstore.Reply{Err: ErrUnavailable})
		}
		if !answers || done < len(places) { // otherwise they would cost another time budget
			for _, i := range alone {
				got(i, redisstore.Reply{Err: ErrUnavailable})
			}
			return
		}
		f.callAlone(ctx, calls, alone, got)
	})
}

// callAlone carries out calls that cannot share a round trip, a few at a time. It returns
// when ctx ends: calls without a reply by then get ErrUnavailable. Their commands go on, and
// a lease that one of them is granted is released.
func (f *front) callAlone(ctx context.Context, calls []*redisstore.Call, which []int, got func(i int, r redisstore.Reply)) {
	if len(which) == 0 {
		return
	}
	var mu sync.Mutex
	answered, left := make([]bool, len(which)), false
	done := make(chan struct{})
	work := func() {
		defer close(done)
		few(len(which), func(k int) {
			c := calls[which[k]]
			r := f.carry(context.WithoutCancel(ctx), c) // an interrupted command might still be granted a lease
			mu.Lock()
			late := left
			if !late {
				answered[k] = true
				got(which[k], r)
			}
			mu.Unlock()
			if late && r.Lease.State == backend.Granted {
				_ = f.release(context.WithoutCancel(ctx), c.Key, f.newBudget(), r.Lease.Token)
			}
		})
	}
	if !f.life.Go(work) {
		work()
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	left = true
	for k, i := range which {
		if !answered[k] {
			got(i, redisstore.Reply{Err: ErrUnavailable})
		}
	}
}

// carry carries a single call out. It may share a round trip with calls of other callers.
func (f *front) carry(ctx context.Context, c *redisstore.Call) (r redisstore.Reply) {
	switch {
	case c.Lease != nil:
		r.Lease, r.Err = f.lease(ctx, c.Key, f.newBudget(), *c.Lease)
	case c.Extend != 0:
		r.Stored, r.Err = f.extend(ctx, c.Key, c.Token, c.Extend)
	case c.Release:
		r.Err = f.release(ctx, c.Key, f.newBudget(), c.Token)
	default:
		r.Stored, r.Err = f.fill(ctx, c.Key, c.Token, c.Fill)
	}
	return r
}
