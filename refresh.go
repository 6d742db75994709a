package aside

import (
	"bytes"
	"context"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/places"
)

// maxRefreshes is how many refreshes run in a process at a time. One more is skipped, as the
// value is still good.
const maxRefreshes = 64

// refreshEvery is how often a process asks, at most, whether a value is to be refreshed that
// is older than its keyspace's RefreshAfter: mostly somebody is at it already, or has failed.
const refreshEvery = time.Second

// refresh is the part of a flight that loads a value anew. Its readers have the old one, so
// it needs no waiter to go on, and does not load without a lease.
type refresh struct {
	began time.Time
	waits bool // for another process's refresh, as readers do

	audits  bool   // the value need not be old: it is compared with served
	served  []byte // the bytes of the hit's value
	differs bool   // the loaded value is another one
}

// refresh has the value of a key loaded anew, unless the key has a flight, was tried a
// moment ago, or too many values are being refreshed. It returns the flight to a caller who
// waits for it, and else nil.
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

// boardRefresh returns the key's flight, and one that is to begin, which is one of l if that
// is not nil, if it has none. It needs fs.mu.
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
	fl = fs.begin(ctx, f, space, typ, r, l) // whose caller is the refresh, and never leaves
	fl.refresh = &refresh{began: time.Now(), waits: space.RefreshWait != 0}
	fs.byKey[r.key] = fl
	return fl, true
}

// mayRefresh takes a place for a refresh, if there is one. It needs fs.mu.
func (fs *flights) mayRefresh(f *front) (*places.Seat, bool) {
	if len(fs.refreshing) >= maxRefreshes {
		return nil, false
	}
	return f.places.TryTake()
}

// startRefresh needs fs.mu.
func (fs *flights) startRefresh(l *loading) {
	if fs.refreshing == nil {
		fs.refreshing = make(map[*loading]bool)
	}
	fs.refreshing[l] = true
}

// forWaiter returns the flight to a reader who waits for a refresh, if it is one that its
// keyspace has readers wait for, and else nil. It needs flights.mu.
func (fl *flight) forWaiter(space *Keyspace, typ valueType) *flight {
	if fl == nil || fl.refresh == nil || space.RefreshWait == 0 {
		return nil
	}
	fl.waiters++
	fl.encodes = fl.encodes || !fl.shares(space, typ)
	return fl
}

// endRefreshes ends the refreshes: nobody waits for one whose loader does not end.
func (fs *flights) endRefreshes() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for l := range fs.refreshing { // also those that were detached
		if l.batchAsk != nil {
			l.batchAsk.End()
		}
		l.ask.End()
		l.ctx.End()
	}
}

// refreshFailed tells of a refresh that failed: no caller does.
func (fl *flight) refreshFailed(err error) {
	if fl.refresh == nil || fl.f.life.IsClosed() {
		return
	}
	if fl.refresh.audits {
		return
	}
	fl.count().refreshErrors.Add(1)
	fl.f.warnOnce(&fl.space, fl.key, "cache: loads that were to refresh values failed, and the old values stay until their time to live is over (logged once per keyspace)", err)
}

// audit has the value of a key loaded once more, and compared with a hit's, unless
// the key has a flight or a load may not begin at once.
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

// mayAudit reports whether the key still has the value that is to be compared, under a lease.
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

// auditGrace is how long an audit waits for the invalidation by a writer whose change it may
// have been the first to read.
const auditGrace = time.Second

// auditLogs is how often a difference is logged, at most.
const auditLogs = 10 * time.Second

// compare compares the loaded value with the hit's.
func (fl *flight) compare() {
	r := fl.refresh
	r.differs = !bytes.Equal(fl.data, r.served) && (fl.data == nil || !fl.typ.equal(&fl.space, fl.data, r.served))
	if r.differs && (fl.err == nil || fl.notFound) {
		fl.leaveMap() // callers who come now do not wait for it
		select {
		case <-time.After(auditGrace):
		case <-fl.f.life.Context().Done():
		}
	}
}

// audited counts an audit. When its result was stored, no write came between.
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
		f.log.Warn("cache: the database has another value than a hit has returned, and no invalidation came between (Config.Audit; logged every 10 seconds at most)", "key", fl.key, "served", r.began)
	}
}
