// Loads of values that are still served: refreshes, which replace a value older than its
// keyspace's RefreshAfter, and audits, which compare a hit's value with the database. Both
// are flights (see flight.go) that no caller has to wait for, take a place only if one is
// free, and load only under a lease. They differ in their ends:
//
//   - A refresh replaces the value that it has seen and no other (backend.LeaseRequest.Refresh).
//     If it fails, the old value stays until its TTL ends, and the backend grants no other
//     lease for a refresh of the key for a while.
//   - An audit's result is stored as a refresh's is, which shows that no write came between:
//     only then is a difference counted.
//
// GetOrLoadMany's refreshes run in a loadBatch (batch.go).

package aside

import (
	"bytes"
	"context"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/places"
)

// maxRefreshes is how many refreshes and audits run in a process at a time. Further ones are
// skipped, not queued, as the old value is still good.
const maxRefreshes = 64

// refreshEvery is how often a process tries to refresh a key at most. Most further tries
// would find that another process is refreshing it, or has just failed to.
const refreshEvery = time.Second

// refresh is the part of a flight that refreshes or audits a value. Its readers have the old
// value, so the flight itself counts as a waiter, and goes on when they leave.
type refresh struct {
	began time.Time
	waits bool // waits for another process's refresh, as its readers wait (Keyspace.RefreshWait)

	audits  bool   // an audit: the value need not be old, and is compared with served
	served  []byte // the bytes of the hit's value
	differs bool   // the loaded value differs from it
}

// refresh starts a flight that replaces the value of a key, unless the key has a flight, was
// tried a moment ago, or too many refreshes are running, and reports whether it did. It
// returns the key's flight to a caller that waits for a refresh, as its keyspace says, and
// nil to any other. A caller that gets a flight must call leave for it.
func (fs *flights) refresh(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, load func(context.Context) (any, error)) (fl *flight, begins bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var seat *places.Seat
	fl, begins = fs.boardRefresh(ctx, f, space, typ, r, nil, func() (ok bool) { seat, ok = fs.mayRefresh(f); return ok })
	if begins {
		fl.load, fl.seat = load, seat
		fs.startRefresh(fl.loading)
		go fl.run()
	}
	return fl.forWaiter(space, typ), begins
}

// boardRefresh returns the key's flight, or makes one, and reports whether the caller must
// start it. If l is not nil, a new flight becomes one of l's. may takes a place for it, and
// says whether there is one. Without a flight, boardRefresh returns nil. The caller must hold
// fs.mu.
func (fs *flights) boardRefresh(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, l *loading, may func() bool) (fl *flight, begins bool) {
	if fl := fs.byKey[r.key]; fl != nil {
		return fl, false
	}
	if fs.tried.Has(r.key) || fs.apart.has(r.key) {
		return nil, false
	}
	if !may() {
		f.counts.of(space.Name).refreshesSkipped.Add(1)
		return nil, false
	}
	fs.tried.Add(r.key, min(refreshEvery, f.ttl.refreshAfter(space)))
	fl = fs.begin(ctx, f, space, typ, r, l) // its first waiter is the refresh itself, which never leaves
	fl.refresh = &refresh{began: time.Now(), waits: space.RefreshWait != 0}
	fs.byKey[r.key] = fl
	return fl, true
}

// mayRefresh takes a place for a refresh, if one is free. The caller must hold fs.mu.
func (fs *flights) mayRefresh(f *front) (*places.Seat, bool) {
	if len(fs.refreshing) >= maxRefreshes {
		return nil, false
	}
	return f.places.TryTake()
}

// startRefresh notes that l is a refresh, until its flight ends. The caller must hold fs.mu.
func (fs *flights) startRefresh(l *loading) {
	if fs.refreshing == nil {
		fs.refreshing = make(map[*loading]bool)
	}
	fs.refreshing[l] = true
}

// forWaiter returns fl with the reader as a waiter, if fl is a refresh and the reader's
// keyspace has readers wait for refreshes. Otherwise it returns nil. The caller must hold
// flights.mu.
func (fl *flight) forWaiter(space *Keyspace, typ valueType) *flight {
	if fl == nil || fl.refresh == nil || space.RefreshWait == 0 {
		return nil
	}
	fl.waiters++
	fl.encodes = fl.encodes || !fl.shares(space, typ)
	return fl
}

// endRefreshes ends all refreshes, for Close. Their loaders' contexts end; Close does not
// wait for the loaders.
func (fs *flights) endRefreshes() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for l := range fs.refreshing { // has detached flights, too
		if l.batchAsk != nil {
			l.batchAsk.End()
		}
		l.ask.End()
		l.ctx.End()
	}
}

// refreshFailed counts and logs a refresh that failed, as no caller gets its error.
func (fl *flight) refreshFailed(err error) {
	if fl.refresh == nil || fl.f.life.IsClosed() {
		return
	}
	if fl.refresh.audits {
		return
	}
	fl.count().refreshErrors.Add(1)
	fl.f.warnOnce(&fl.space, fl.key, "aside: refreshes failed, old values kept until they expire (logged once per keyspace)", err)
}

// audit starts a flight that loads the value of a key once more and compares it with the
// bytes that a hit has served, unless the key has a flight or no place is free.
func (fs *flights) audit(ctx context.Context, f *front, space *Keyspace, typ valueType, r *request, served []byte, load func(context.Context) (any, error)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.off || fs.byKey[r.key] != nil || fs.apart.has(r.key) {
		return
	}
	seat, ok := fs.mayRefresh(f)
	if !ok {
		return
	}
	fl := fs.begin(ctx, f, space, typ, r, nil)
	fl.load, fl.seat, fl.encodes = load, seat, true
	fl.refresh = &refresh{began: time.Now(), audits: true, served: served}
	fs.byKey[r.key] = fl
	fs.startRefresh(fl.loading)
	go fl.run()
}

// mayAudit reports whether an audit has its lease and, under it, the key still has the
// hit's value. Otherwise a write or a refresh came between, and the audit is undecided.
func (fl *flight) mayAudit(lease backend.Lease) bool {
	if lease.State == backend.Granted {
		got, err := fl.get()
		if err == nil && got.ok && bytes.Equal(got.value, fl.refresh.served) {
			return true
		}
	}
	fl.count().auditsUndecided.Add(1)
	return false
}

// auditGrace is how long an audit that has found a difference waits before it stores its
// result. The load may have read a change that a writer has committed and is about to
// invalidate the key for; that invalidation ends the lease, and the audit is undecided.
const auditGrace = time.Second

// auditLogs is the shortest time between two logged differences.
const auditLogs = 10 * time.Second

// compare compares the loaded value with the hit's, and waits for auditGrace if they differ.
// Encoded values may differ and decode to equal ones, as the order of a map's keys may.
func (fl *flight) compare() {
	r := fl.refresh
	r.differs = !bytes.Equal(fl.data, r.served) && (fl.data == nil || !fl.typ.equal(&fl.space, fl.data, r.served))
	if r.differs && (fl.err == nil || fl.notFound) {
		fl.leaveMap() // later callers must not wait for it
		select {
		case <-time.After(auditGrace):
		case <-fl.f.life.Context().Done():
		}
	}
}

// audited counts an audit, if the flight is one. A stored result shows that no write came
// between the hit and the load, so that a difference is real.
func (fl *flight) audited(stored bool) {
	f, r := fl.f, fl.refresh
	switch {
	case r == nil || !r.audits:
		return
	case !stored:
		fl.count().auditsUndecided.Add(1)
		return
	}
	if r.differs {
		fl.count().auditDifferences.Add(1) // before the audits, of which it is one: see Stats
	}
	fl.count().audited.Add(1)
	if !r.differs {
		return
	}
	now := time.Now().UnixNano()
	if last := f.auditLogged.Load(); now-last >= int64(auditLogs) && f.auditLogged.CompareAndSwap(last, now) {
		f.log.Warn("aside: another value in the database than a hit returned, and no invalidation between (Config.Audit; logged at most every 10 seconds)", "key", fl.key, "served", r.began)
	}
}
