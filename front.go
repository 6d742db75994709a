package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/breaker"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/outbox"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/wake"
)

// front is the Cache that Open, NewRedis and New return: what all backends have
// in common, before a backend. It adds the key prefix, gives each call its time
// budget, leaves a backend that does not answer alone, keeps the invalidations
// that could not be delivered, and counts.
type front struct {
	backend backend.Backend // a foreign one but for those of this process
	own     backend.Backend // backend, as it was handed in
	cfg     Config
	ttl     ttlPolicy
	log     *slog.Logger
	logs    slog.Handler // the Logger's, for each hit to ask
	off     bool         // the backend stores nothing
	local   bool         // the backend is in this process: it can neither fail nor be slow

	flights flights
	wakes   *wake.Hub
	queue   *outbox.Outbox
	count   counters
	memory  *memoryBackend // backend, when it is one
	memo    *entry.Memo
	near    *near.Cache // nil when there is none
	warned  warnings

	nearSpaces map[string]bool // names of the keyspaces whose changes Redis announces to near

	unstored tooLong      // values that take too long to store
	filling  atomic.Int32 // fills of large values on their way

	panicOnce sync.Once // tells of a backend that panicked

	nodes     sync.Map                // shard name: *node
	single    atomic.Pointer[node]    // the one there is, if there can be no other
	shardOf   func(key string) string // nil when there is but one
	shares    bool                    // commands may share limits
	lookUp    func()                  // has the client look where nodes are, if they move
	deadlines *deadline.Shared        // of commands, where they may share them
	look      func(context.Context)   // looks what the server is; nil where nobody would know
	looked    atomic.Int64            // when it did last

	closed    atomic.Bool
	closing   context.Context // ends when the front closes
	close     context.CancelFunc
	deliverer atomic.Bool    // a goroutine delivers the queue
	owed      *owedClear     // the Clear that an overflow owes, and how far the deliverer has come with it
	starting  sync.Mutex     // held while something is added to running or settling, or begins or ends to write
	running   sync.WaitGroup // goroutines that Close waits for
	settling  sync.WaitGroup // invalidations on their way, which Close waits for
	writing   int            // writes of Update that run
	written   chan struct{}  // closed when none does, once Close waits for that
	shut      bool           // and no write settles any more
}

// node is one of the backend's servers. It has a breaker for whether it answers,
// and one for whether it stores: a Redis that refuses to store (out of memory, a
// read-only replica, no right to run scripts) still serves what it has and takes
// invalidations.
type node struct {
	*breaker.Breaker
	store *breaker.Breaker
	reads reads
	bulk  reads // of keys whose values are large, each on its own
}

// coversUnder returns a function that reports whether a Clear of prefixes removes key,
// where keys start with keyPrefix. A prefix that is shorter than one of states does not
// name that keyspace, and covers none of its keys.
func coversUnder(keyPrefix string) func(prefixes []string, key string) bool {
	return func(prefixes []string, key string) bool {
		least := 0
		for _, s := range states {
			if rest, ok := strings.CutPrefix(key, keyPrefix); ok && strings.HasPrefix(rest, s) {
				least = len(keyPrefix) + len(s)
			}
		}
		return slices.ContainsFunc(prefixes, func(p string) bool { return len(p) >= least && strings.HasPrefix(key, p) })
	}
}

func newFront(store backend.Backend, cfg Config) *front {
	f := &front{
		backend:   foreign.Backend{Backend: store},
		own:       store,
		cfg:       cfg,
		ttl:       ttlPolicy{byName: cfg.TTLs, jitter: cfg.Jitter},
		log:       slog.New(foreign.Logs{Handler: cfg.Logger.Handler()}),
		logs:      cfg.Logger.Handler(),
		flights:   flights{byKey: make(map[string]*flight)},
		queue:     outbox.New(cfg.QueueSize),
		deadlines: deadline.NewShared(cfg.Timeout),
	}
	f.closing, f.close = context.WithCancel(context.Background())
	wakes := wake.Options{Name: f.name("aside:wake"), Refused: redisstore.Answered, Log: f.log, Stop: f.closing, Go: f.later}
	if b, ok := store.(*redisstore.Store); ok {
		wakes.Listen = func(ctx context.Context, h *wake.Hub) error { return b.Listen(ctx, h.Name, h) }
	}
	f.wakes = wake.New(wakes)
	switch b := store.(type) {
	case noneBackend:
		f.off, f.local, f.backend = true, true, b
	case *memoryBackend:
		f.local, f.memory, f.backend = true, b, b
		b.covers = coversUnder(cfg.KeyPrefix)
	case *redisstore.Store:
		f.useRedis(b)
	}
	maxMemo := max(1, cfg.DecodedMaxBytes) // one byte has room for nothing
	if f.local {                           // it serves callers who share a load, and no further ones
		maxMemo = max(1, cfg.MemoryMaxBytes/16)
	}
	f.memo = entry.NewMemo(maxMemo)
	for _, warning := range cfg.Warnings {
		f.log.Warn("cache: " + warning)
	}
	return f
}

// frontOf returns c as what Open, NewRedis and New make.
func frontOf(c Cache) (*front, error) {
	f, ok := c.(*front)
	if !ok || f == nil {
		return nil, fmt.Errorf("aside: a Cache of type %T was not made by Open, NewRedis or New: want what one of them returns (a store of your own goes to New; what wraps a Cache hands out the one in it)", c)
	}
	return f, nil
}

func (f *front) shard(key string) string {
	if f.shardOf == nil {
		return ""
	}
	return f.shardOf(key)
}

func (f *front) nodeOf(key string) *node {
	if n := f.single.Load(); n != nil {
		return n
	}
	shard := f.shard(key)
	if n, ok := f.nodes.Load(shard); ok {
		return n.(*node)
	}
	probe := f.name(probeKey)
	if shard != "" {
		probe += "{" + redisstore.TagForSlot(redisstore.SlotOf(key)) + "}"
	}
	var connected func() int64
	most := 0
	if b, ok := f.own.(*redisstore.Store); ok {
		turns := b.TurnsOf(key)
		connected, most = turns.Since, turns.Limit()
	}
	n := &node{
		Breaker: f.newBreaker(shard, "answer", connected, func(ctx context.Context) error {
			_, _, err := f.backend.Get(ctx, probe)
			if redisstore.Answered(err) {
				return nil
			}
			return err
		}),
		store: f.newBreaker(shard, "store", nil, func(ctx context.Context) error {
			_, err := f.backend.Lease(ctx, probe, backend.LeaseRequest{TTL: minTTL})
			return err
		}),
	}
	n.reads = reads{f: f, node: n, lanes: batch.Lanes{PerLane: readLane}, index: make(map[string]int), large: make(map[string]bool)}
	n.reads.room = batch.MaxLanes
	n.bulk = reads{f: f, node: n, lanes: batch.Lanes{PerLane: readLane}, index: make(map[string]int), of: &n.reads, room: batch.MinLanes}
	n.reads.many, _ = f.own.(manyReader)
	n.reads.lanes.Most, n.bulk.lanes.Most = most, most
	n.bulk.many = n.reads.many
	actual, _ := f.nodes.LoadOrStore(shard, n)
	if f.shardOf == nil {
		f.single.Store(actual.(*node))
	}
	return actual.(*node)
}

func (f *front) newBreaker(shard, does string, connected func() int64, probe func(context.Context) error) *breaker.Breaker {
	log := f.log
	if shard != "" {
		log = log.With("node", shard)
	}
	silence := f.cfg.Timeout / 3
	if f.cfg.WaitReplicas > 0 {
		silence = 0 // WAIT is silent for as long as the replicas are
	}
	return breaker.New(breaker.Options{
		Does: does, Log: log, Stop: f.closing, Go: f.later, Answers: f.deliver, Silence: silence, Connected: connected,
		Probe: func() error {
			ctx, cancel := context.WithTimeout(f.closing, f.cfg.Timeout)
			defer cancel()
			err := probe(ctx)
			if err != nil && f.lookUp != nil {
				_, _ = foreign.Safely(ctx, func(context.Context) (any, error) { f.lookUp(); return nil, nil }) // go-redis does once a minute, where nobody answers who could say that the keys have moved
			}
			return err
		},
	})
}

// states are the prefixes of keys that say what is going on. They are not cached, so
// a Clear of what is cached leaves them.
var states = []string{generation.Name + ":", cancelSignal.Name + ":"}

func isState(space string) bool { return slices.Contains(states, space+":") }

// probeKey is of a keyspace that every user of the cache has the right to.
var probeKey = cancelSignal.Name + ":aside-probe"

// lookAgain looks what the server is, now and then while it is used, beside the
// commands that use it.
func (f *front) lookAgain(now time.Time) {
	if f.look == nil {
		return
	}
	last := f.looked.Load()
	if now.UnixNano()-last < int64(redisstore.LookInterval) || !f.looked.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	f.later(func() {
		ctx, cancel := context.WithTimeout(f.closing, f.cfg.Timeout)
		defer cancel()
		f.look(ctx)
	})
}

// settles notes that an invalidation is on its way, until settling.Done, unless
// the front is closed.
func (f *front) settles() bool {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.closed.Load() {
		return false
	}
	f.settling.Add(1)
	return true
}

// writes notes that an Update is running, until wrote, unless the front is closed.
func (f *front) writes() bool {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.closed.Load() {
		return false
	}
	f.writing++
	return true
}

func (f *front) wrote() {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.writing--; f.writing == 0 && f.written != nil {
		close(f.written)
		f.written = nil
	}
}

// settlesWrite is settles for a write that began before Close: there is time as long as
// Close waits for it.
func (f *front) settlesWrite() bool {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.shut {
		return false
	}
	f.settling.Add(1)
	return true
}

// lastWrites waits for the writes that run when the front closes, within a budget, and
// returns how many of them nothing is invalidated for any more.
func (f *front) lastWrites() (left int) {
	f.starting.Lock()
	var written chan struct{}
	if f.writing > 0 {
		written = make(chan struct{})
		f.written = written
	}
	f.starting.Unlock()
	if written != nil && !f.local {
		select {
		case <-written:
		case <-time.After(f.cfg.Timeout):
		}
	}
	f.starting.Lock()
	defer f.starting.Unlock()
	f.shut, f.written = true, nil
	if f.local {
		return 0 // it keeps nothing that others could read
	}
	return f.writing
}

// later runs work in a goroutine that nobody waits for but Close. After Close it
// does nothing, and reports false.
func (f *front) later(work func()) bool {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.closing.Err() != nil {
		return false
	}
	f.running.Go(work)
	return true
}

func (f *front) checkSize(key string, value []byte) error {
	if int64(len(value)) > f.cfg.MaxValueBytes {
		return fmt.Errorf("aside: the value of %.200q has %d bytes; at most %d are stored", key, len(value), f.cfg.MaxValueBytes)
	}
	return nil
}

// notStored counts a value that can not be stored.
func (f *front) notStored(space *Keyspace, key string, err error) {
	f.count.encodeErrors.Add(1)
	f.warnOnce(space, key, "cache: loaded values are returned but not stored (logged once per keyspace)", err)
}

func (f *front) warnOnce(space *Keyspace, key, message string, err error) {
	first, last := f.warned.add(space.Name, message)
	if first {
		f.log.Warn(message, "key", key, "err", err)
	}
	if last {
		f.log.Warn("cache: more keyspaces have this trouble, which are not named", "trouble", message)
	}
}

// maxWarned is how many keyspaces a message is logged for.
const maxWarned = 256

// warnings remembers what was logged once for a keyspace, and need not be again. Its
// zero value is ready.
type warnings struct {
	mu    sync.Mutex
	known map[string]map[string]bool // names of keyspaces by message
}

// add reports whether message is the first of its kind for the keyspace, and whether
// it is the last that is logged for any.
func (w *warnings) add(space, message string) (first, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := w.known[message]
	if names[space] || len(names) >= maxWarned {
		return false, false
	}
	if names == nil {
		names = make(map[string]bool)
		if w.known == nil {
			w.known = make(map[string]map[string]bool)
		}
		w.known[message] = names
	}
	names[strings.Clone(space)] = true
	return true, len(names) == maxWarned
}

// replaced warns that a key of another type, which another program must have stored,
// was removed: a value, or a lease, is kept there.
func (f *front) replaced(key, kind string) {
	owner := key
	if of, ok := redisstore.LeasedKey(key); ok {
		owner = of
	}
	f.warnOnce(f.spaceOf(owner), key, "cache: keys of other types, which other programs stored, are removed (logged once per keyspace)",
		fmt.Errorf("aside: the key held a %s", kind))
}

// The backend's commands, each within a budget.

func (f *front) get(ctx context.Context, key string, b *budget) (found, error) {
	if err := f.usable(key); err != nil {
		return found{}, err
	}
	var got found
	var err error
	if f.local {
		got.value, got.ok, err = f.backend.Get(ctx, key)
	} else {
		got, err = f.nodeOf(key).reads.get(ctx, key, b)
	}
	if got.ok && got.value == nil {
		got.value = []byte{} // a backend of somebody else's may have an empty value as nil, which is none here
	}
	return got, err
}

func (f *front) lease(ctx context.Context, key string, b *budget, req backend.LeaseRequest) (backend.Lease, error) {
	lease, err := do(ctx, f, key, b, true, func(ctx context.Context) (backend.Lease, error) {
		return f.backend.Lease(ctx, key, req)
	})
	if lease.State == backend.Present && lease.Value == nil {
		lease.Value = []byte{} // as in get
	}
	return lease, err
}

func (f *front) extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	return do(ctx, f, key, f.newBudget(), true, func(ctx context.Context) (bool, error) {
		return f.backend.Extend(ctx, key, token, ttl)
	})
}

func (f *front) fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	b := budget{left: f.cfg.Timeout, bulk: len(fill.Value) > redisstore.AloneBytes}
	if b.bulk {
		f.filling.Add(1)
		defer f.filling.Add(-1)
	}
	return do(ctx, f, key, &b, true, func(ctx context.Context) (bool, error) {
		return f.backend.Fill(ctx, key, token, fill)
	})
}

// release gives a lease back even while the front closes: others wait for its end.
func (f *front) release(ctx context.Context, key string, b *budget, token string) error {
	_, err := doAnyway(ctx, f, key, b, false, func(ctx context.Context) (any, error) {
		return nil, f.backend.Release(ctx, key, token)
	})
	return err
}

// eachShard runs a command on the keys of each shard, and returns the keys it
// failed for, with the errors. Callers see to it that the front is not closed: what has
// begun before Close is still sent.
func (f *front) eachShard(ctx context.Context, keys []string, b *budget, command func(context.Context, []string) error) (failed []string, err error) {
	groups := make(map[string][]string)
	for _, key := range keys {
		shard := f.shard(key)
		groups[shard] = append(groups[shard], key)
	}
	send := func(b *budget, keys []string) error {
		if err := f.valid(keys[0]); err != nil {
			return err
		}
		_, err := doAnyway(ctx, f, keys[0], b, false, func(ctx context.Context) (any, error) { return nil, command(ctx, keys) })
		return err
	}
	if len(groups) == 1 {
		if err := send(b, keys); err != nil {
			return keys, err
		}
		return nil, nil
	}
	// All at once: sick shards then cost one budget together.
	var mu sync.Mutex
	var wg sync.WaitGroup
	left := b.left
	for _, group := range groups {
		wg.Go(func() {
			own := budget{left: left}
			e := send(&own, group)
			mu.Lock()
			defer mu.Unlock()
			if e != nil {
				failed, err = append(failed, group...), errors.Join(err, e)
				b.left = min(b.left, own.left)
			}
		})
	}
	wg.Wait()
	return failed, err
}
