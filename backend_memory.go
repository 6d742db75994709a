package aside

import (
	"bytes"
	"context"
	"hash/maphash"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/entry"
)

// memoryBackend keeps values in an otter cache of limited size. Reads go to it directly.
// Every change of a key holds the lock of the key's stripe, so that value and lease
// change together. Leases are in maps of their own, since they must never be evicted: a
// lost lease or block would let a stale value be stored.
type memoryBackend struct {
	values  *otter.Cache[string, *memoryEntry]
	covers  func(prefixes []string, key string) bool // see coversUnder
	seed    maphash.Seed
	stripes [64]memoryStripe
	started time.Time
	closed  atomic.Bool
	sweeps  atomic.Bool   // a sweep is scheduled
	tokens  atomic.Uint64 // leases granted so far; the number is the token
}

// memoryStripe is the lock of a part of the keys, with their leases. Stripes keep writers
// of different keys from waiting for each other.
type memoryStripe struct {
	mu     sync.Mutex
	leases map[string]*memoryLease
}

// memoryEntry is a value or a not-found marker. Once stored it is not modified, except
// for the decoded value and the mark that are added to it.
type memoryEntry struct {
	entry.Entry
	notFound   bool
	ttl        time.Duration
	freshUntil atomic.Int64 // the mark's end by memoryBackend.now, or 0; a refresh may mark a stored entry
}

// memoryLease is the state of a key beside its value: a reader's lease, the token of a
// lease that was released without a value, and writers' blocks with their ends.
type memoryLease struct {
	token    string
	until    time.Time
	claim    bool
	failed   string
	failedAt time.Time
	blocks   map[string]time.Time

	refreshes bool      // the lease is for a refresh: any change of the value ends it
	failures  int       // refreshes in a row that failed
	coolUntil time.Time // no further refresh is granted before
	countFor  time.Time // the time at which failures is forgotten
}

// newMemoryBackend returns an empty backend of at most maxBytes, estimated as
// Config.MemoryMaxBytes says.
func newMemoryBackend(maxBytes int64) *memoryBackend {
	m := &memoryBackend{seed: maphash.MakeSeed(), started: time.Now()}
	for i := range m.stripes {
		m.stripes[i].leases = make(map[string]*memoryLease)
	}
	m.values = otter.Must(&otter.Options[string, *memoryEntry]{
		MaximumWeight: uint64(maxBytes),
		Weigher:       func(key string, e *memoryEntry) uint32 { return entry.Weight(key, &e.Entry) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, *memoryEntry]) time.Duration {
			if e.Value.Decoded() {
				return e.ExpiresAfter() // reweigh stores the entry again, which must not prolong it
			}
			return e.Value.ttl
		}),
	})
	return m
}

// lock locks the stripe of key, and returns it with the live lease of key, or nil.
func (m *memoryBackend) lock(key string) (*memoryStripe, *memoryLease) {
	s := &m.stripes[maphash.String(m.seed, key)%uint64(len(m.stripes))]
	s.mu.Lock()
	l := s.leases[key]
	if l != nil {
		l.expire(time.Now())
	}
	return s, l
}

// unlock unlocks the stripe, and forgets the lease of key if it holds nothing.
func (s *memoryStripe) unlock(key string) {
	if l := s.leases[key]; l != nil && l.empty() {
		delete(s.leases, key)
	}
	s.mu.Unlock()
}

// lease returns the lease of key, or a new one. The caller must hold the lock of s.
func (m *memoryBackend) lease(s *memoryStripe, key string) *memoryLease {
	l := s.leases[key]
	if l == nil {
		l = &memoryLease{}
		s.leases[key] = l
		m.sweepLater()
	}
	return l
}

// sweepLater schedules a sweep, for the time at which the mark of a lease that fails now
// is over.
func (m *memoryBackend) sweepLater() {
	if !m.sweeps.Load() && !m.closed.Load() && m.sweeps.CompareAndSwap(false, true) {
		time.AfterFunc(backend.FailedFor, m.sweep)
	}
}

// sweep forgets the leases of keys that no caller asks for any more; unlock forgets all
// others. It makes new maps, as a map in Go does not shrink. Another sweep follows while
// leases are left.
func (m *memoryBackend) sweep() {
	m.sweeps.Store(false)
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		now := time.Now()
		live := make(map[string]*memoryLease)
		for key, l := range s.leases {
			if l.expire(now); !l.empty() {
				live[key] = l
			}
		}
		if s.leases = live; len(live) > 0 {
			m.sweepLater()
		}
		s.mu.Unlock()
	}
}

// empty reports whether the lease holds nothing.
func (l *memoryLease) empty() bool {
	return l.token == "" && l.failed == "" && len(l.blocks) == 0 && l.failures == 0
}

// expire removes from the lease everything that has ended by now.
func (l *memoryLease) expire(now time.Time) {
	if !now.Before(l.until) {
		if l.refreshes {
			l.failures = 0 // only a failure of the next refresh counts as one in a row
		}
		l.token, l.claim, l.refreshes = "", false, false
	}
	if l.failures > 0 && l.token == "" && !now.Before(l.countFor) {
		l.failures = 0
	}
	if now.Sub(l.failedAt) >= backend.FailedFor {
		l.failed = ""
	}
	for token, until := range l.blocks {
		if !now.Before(until) {
			delete(l.blocks, token)
		}
	}
}

func (m *memoryBackend) Get(_ context.Context, key string) ([]byte, bool, error) {
	if e, ok := m.entry(key); ok {
		return e.Data, true, nil
	}
	return nil, false, nil
}

// entry returns the value of key with its decoded value. It takes no lock: a hit must not
// wait for writers.
func (m *memoryBackend) entry(key string) (*memoryEntry, bool) {
	e, ok := m.values.GetIfPresent(key)
	return e, ok && !e.notFound
}

// GetMarked takes the lock only for a value that is not fresh, to see whether there is a
// lease on it.
func (m *memoryBackend) GetMarked(_ context.Context, key string) ([]byte, backend.Mark, bool, error) {
	e, ok := m.values.GetIfPresent(key)
	if !ok {
		return nil, 0, false, nil
	}
	if e.notFound {
		return nil, backend.NotFound, false, nil
	}
	mark := backend.Fresh
	if !m.isFresh(e) {
		mark = backend.Unmarked
		s, l := m.lock(key)
		if l != nil && l.token != "" {
			mark = backend.Leased
		}
		s.unlock(key)
	}
	return e.Data, mark, true, nil
}

// now is the time since the backend was made, which no change of the system clock
// affects.
func (m *memoryBackend) now() int64 { return int64(time.Since(m.started)) }

// isFresh reports whether an entry's mark has not ended.
func (m *memoryBackend) isFresh(e *memoryEntry) bool { return m.now() < e.freshUntil.Load() }

// reweigh updates the weight of key's entry after it was decoded, if that entry is still
// s.
func (m *memoryBackend) reweigh(key string, s *entry.Entry) bool {
	return entry.Reweigh(m.values, key, func(e *memoryEntry) bool { return &e.Entry == s })
}

func (m *memoryBackend) Set(_ context.Context, key string, value []byte, ttl time.Duration) error {
	s, l := m.lock(key)
	defer s.unlock(key)
	l.endLoad()
	m.values.Set(key, &memoryEntry{Entry: entry.Entry{Data: value}, ttl: ttl})
	return nil
}

// endLoad ends a reader's lease or a claim, with the memory of failures. Blocks stay.
func (l *memoryLease) endLoad() {
	if l != nil {
		l.token, l.claim, l.failed, l.refreshes, l.failures = "", false, "", false, 0
	}
}

func (m *memoryBackend) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		s, l := m.lock(key)
		m.drop(key, l)
		s.unlock(key)
	}
	return nil
}

// drop removes the value of key and ends its reader's lease. The caller must hold the
// lock.
func (m *memoryBackend) drop(key string, l *memoryLease) {
	m.values.Invalidate(key)
	l.endLoad()
}

// Lease answers by the first rule that applies: see [backend.Backend].
func (m *memoryBackend) Lease(_ context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	s, l := m.lock(key)
	defer s.unlock(key)
	if req.Refresh != nil {
		return m.leaseToRefresh(s, l, key, req), nil
	}
	e, ok := m.values.GetIfPresent(key)
	isValue, removed := ok && !e.notFound, false
	// Bytes that do not decode are removed only if they are still there: another caller may
	// have stored good ones since.
	if isValue && req.Undecodable != nil && bytes.Equal(e.Data, req.Undecodable) {
		m.values.Invalidate(key)
		ok, isValue, removed = false, false, true
	}
	switch {
	case isValue && req.Claim != nil && l != nil && l.claim && l.token == req.Owner:
		return backend.Lease{State: backend.Granted, Token: l.token}, nil
	case isValue:
		return backend.Lease{State: backend.Present, Value: e.Data}, nil
	case req.Claim != nil && req.Undecodable != nil && !removed:
		return backend.Lease{State: backend.Absent}, nil
	case req.Claim != nil:
		m.values.Set(key, &memoryEntry{Entry: entry.Entry{Data: req.Claim}, ttl: req.TTL})
		l.endLoad()
		l = m.lease(s, key)
		l.token, l.until, l.claim = req.Owner, time.Now().Add(req.TTL), true
		return backend.Lease{State: backend.Granted, Token: l.token}, nil
	case ok:
		return backend.Lease{State: backend.Absent}, nil
	case l != nil && len(l.blocks) > 0:
		return backend.Lease{State: backend.Writing}, nil
	// A waiter for a load that has failed does not wait for the next one: see WaitedFor.
	case l != nil && l.token != "" && req.WaitedFor != "" && l.failed == req.WaitedFor:
		return backend.Lease{State: backend.Unleased}, nil
	case l != nil && l.token != "":
		return backend.Lease{State: backend.Loading, Token: l.token}, nil
	}
	return m.grant(s, key, req.TTL, false), nil
}

// grant grants a lease. The caller must hold the lock of s.
func (m *memoryBackend) grant(s *memoryStripe, key string, ttl time.Duration, refreshes bool) backend.Lease {
	l := m.lease(s, key)
	l.token, l.until, l.claim, l.refreshes = strconv.FormatUint(m.tokens.Add(1), 36), time.Now().Add(ttl), false, refreshes
	return backend.Lease{State: backend.Granted, Token: l.token}
}

// leaseToRefresh answers a request with a Refresh. The caller must hold the lock of s.
func (m *memoryBackend) leaseToRefresh(s *memoryStripe, l *memoryLease, key string, req backend.LeaseRequest) backend.Lease {
	e, ok := m.values.GetEntryQuietly(key)
	now := time.Now()
	ok = ok && !e.Value.notFound
	always := req.Refresh.Always
	switch {
	case !ok && !always:
		return backend.Lease{State: backend.Gone}
	case l != nil && l.token != "":
		return backend.Lease{State: backend.Loading, Token: l.token}
	case !always && m.isFresh(e.Value):
		return backend.Lease{State: backend.Marked}
	case l != nil && len(l.blocks) > 0:
		return backend.Lease{State: backend.Writing}
	case !always && l != nil && l.failures > 0 && now.Before(l.coolUntil):
		return backend.Lease{State: backend.Loading}
	}
	if always { // a caller that needs a load now is not held up by earlier failures
		if l != nil {
			l.failures = 0
		}
	} else if left := e.ExpiresAfter(); left > req.Refresh.Over && left <= req.Refresh.Within && e.Value.freshUntil.Load() == 0 {
		// The value has no mark, but its remaining time shows that it is young: it is marked
		// now, so that it is not loaded again before it is old.
		e.Value.freshUntil.Store(m.now() + int64(left-req.Refresh.Over))
		return backend.Lease{State: backend.Marked}
	}
	return m.grant(s, key, req.TTL, ok)
}

func (m *memoryBackend) Extend(_ context.Context, token string, ttl time.Duration, keys ...string) (bool, error) {
	held := true
	for _, key := range keys {
		held = m.extend(key, token, ttl) && held
	}
	return held, nil
}

// extend extends the lease, claim or block of token on one key. A claim's value lasts as
// long as the claim.
func (m *memoryBackend) extend(key, token string, ttl time.Duration) (held bool) {
	s, l := m.lock(key)
	defer s.unlock(key)
	if l == nil {
		return false
	}
	until := time.Now().Add(ttl)
	if _, ok := l.blocks[token]; ok { // lock has removed blocks that have lapsed
		l.blocks[token] = until
		return true
	}
	if l.token != token || token == "" {
		return false
	}
	if l.claim {
		e, ok := m.values.GetIfPresent(key)
		if !ok {
			return false
		}
		m.values.Set(key, &memoryEntry{Entry: entry.Entry{Data: e.Data}, ttl: ttl})
	}
	l.until = until
	return true
}

// Fill stores only if the lease still has this token. Every invalidation ends the lease
// under the same lock, so a load that began before one cannot store after it (promise 1).
// It needs no further check for a refresh: any change of the value has ended that lease
// as well.
func (m *memoryBackend) Fill(_ context.Context, key, token string, fill backend.Fill) (bool, error) {
	s, l := m.lock(key)
	defer s.unlock(key)
	if l == nil || l.token != token || token == "" || l.claim {
		return false, nil
	}
	l.endLoad()
	if fill.NotFound && fill.TTL == 0 {
		m.values.Invalidate(key)
		return true, nil
	}
	e := &memoryEntry{Entry: entry.Entry{Data: fill.Value}, notFound: fill.NotFound, ttl: fill.TTL}
	if fill.FreshFor > 0 {
		e.freshUntil.Store(m.now() + int64(fill.FreshFor))
	}
	m.values.Set(key, e)
	return true, nil
}

// Release of a lease leaves its token as the failed one, for WaitedFor. For a refresh it
// starts the cool-down, which doubles with each failure in a row; countFor is twice as
// far away, so that only a failure soon after the cool-down counts as one in a row.
func (m *memoryBackend) Release(_ context.Context, key, token string) error {
	s, l := m.lock(key)
	defer s.unlock(key)
	if l == nil || l.token != token || token == "" {
		return nil
	}
	if l.claim {
		m.values.Invalidate(key)
		l.endLoad()
		return nil
	}
	now := time.Now()
	if l.refreshes {
		cool := min(backend.FailedFor<<min(l.failures, 10), backend.MaxCooldown)
		l.failures++
		l.coolUntil, l.countFor = now.Add(cool), now.Add(2*cool)
	}
	l.token, l.failed, l.failedAt, l.refreshes = "", token, now, false
	return nil
}

// Block deletes first and then blocks, under one lock, so that no load can store in
// between.
func (m *memoryBackend) Block(_ context.Context, token string, ttl time.Duration, keys ...string) error {
	for _, key := range keys {
		s, l := m.lock(key)
		m.drop(key, l)
		l = m.lease(s, key)
		if l.blocks == nil {
			l.blocks = make(map[string]time.Time)
		}
		l.blocks[token] = time.Now().Add(ttl)
		s.unlock(key)
	}
	return nil
}

// Unblock deletes again, as the block may have lapsed and a reader may have stored the
// old value.
func (m *memoryBackend) Unblock(_ context.Context, token string, keys ...string) error {
	for _, key := range keys {
		s, l := m.lock(key)
		m.drop(key, l)
		if l != nil {
			delete(l.blocks, token)
		}
		s.unlock(key)
	}
	return nil
}

func (m *memoryBackend) Clear(_ context.Context, prefixes ...string) error {
	// Leases first: a load that is running must not store behind the scan of the values.
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		for key, l := range s.leases {
			if l.expire(time.Now()); !l.claim && m.covers(prefixes, key) {
				l.endLoad()
			}
		}
		s.mu.Unlock()
	}
	for key := range m.values.Keys() {
		if !m.covers(prefixes, key) {
			continue
		}
		s, l := m.lock(key)
		if l == nil || !l.claim {
			m.drop(key, l)
		}
		s.unlock(key)
	}
	return nil
}

func (m *memoryBackend) TTL(_ context.Context, key string) (time.Duration, bool, error) {
	e, ok := m.values.GetEntryQuietly(key)
	if !ok || e.Value.notFound {
		return 0, false, nil
	}
	return e.ExpiresAfter(), true, nil
}

// Info first makes the cache remove expired entries, so that they are not counted.
func (m *memoryBackend) Info(context.Context) (backend.Info, error) {
	m.values.CleanUp()
	return backend.Info{
		Name:      typeMemory,
		Keys:      int64(m.values.EstimatedSize()),
		UsedBytes: int64(m.values.WeightedSize()),
	}, nil
}

func (m *memoryBackend) Close() error {
	if m.closed.CompareAndSwap(false, true) {
		m.values.InvalidateAll()
		m.values.StopAllGoroutines()
	}
	return nil
}
