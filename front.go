package aside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/expect"
	"github.com/cacheaside/aside/internal/hooks"
	"github.com/cacheaside/aside/internal/lifecycle"
	"github.com/cacheaside/aside/internal/near"
	"github.com/cacheaside/aside/internal/outbox"
	"github.com/cacheaside/aside/internal/places"
	"github.com/cacheaside/aside/internal/recent"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/wake"
	"github.com/cacheaside/aside/internal/warnonce"
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
	places  *places.Places // of the loads that may run; nil is no bound
	wakes   *wake.Hub
	misses  *expect.Misses // which reads ask for a lease at once
	queue   *outbox.Outbox
	counts  counts
	hooks   *hooks.Hooks
	memory  *memoryBackend // backend, when it is one
	memo    *entry.Memo
	near    *near.Cache // nil when there is none
	warned  warnonce.Warnings

	nearSpaces map[string]bool // names of the keyspaces whose changes Redis announces to near

	unstored recent.Keys  // values that take too long to store
	filling  atomic.Int32 // fills of large values on their way

	panicOnce   sync.Once    // tells of a backend that panicked
	auditLogged atomic.Int64 // when a difference was logged last

	nodes     sync.Map                // shard name: *node
	single    atomic.Pointer[node]    // the one there is, if there can be no other
	shardOf   func(key string) string // nil when there is but one
	shares    bool                    // commands may share limits
	lookUp    func()                  // has the client look where nodes are, if they move
	deadlines *deadline.Shared        // of commands, where they may share them
	look      func(context.Context)   // looks what the server is; nil where nobody would know
	looked    atomic.Int64            // when it did last

	life      *lifecycle.Lifecycle
	answers   func()      // is called when a node answers again
	deliverer atomic.Bool // a goroutine delivers the queue
	owed      *owedClear  // the Clear that an overflow owes, and how far the deliverer has come with it
}

// probeKey is of a keyspace that every user of the cache has the right to.
var probeKey = cancelSignal.Name + ":aside-probe"

func (f *front) checkSize(key string, value []byte) error {
	if int64(len(value)) > f.cfg.MaxValueBytes {
		return fmt.Errorf("aside: the value of %.200q has %d bytes; at most %d are stored", key, len(value), f.cfg.MaxValueBytes)
	}
	return nil
}

// countOf returns the counters of a key in full. A key without a colon is of no keyspace.
func (f *front) countOf(key string) *counters {
	space, _, ok := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	if !ok {
		space = ""
	}
	return f.counts.of(space)
}

// notStored counts a value that cannot be stored.
func (f *front) notStored(space *Keyspace, key string, err error) {
	f.counts.of(space.Name).encodeErrors.Add(1)
	f.warnOnce(space, key, "cache: loaded values are returned but not stored (logged once per keyspace)", err)
}

func (f *front) warnOnce(space *Keyspace, key, message string, err error) {
	first, last := f.warned.Add(space.Name, message)
	if first {
		f.log.Warn(message, "key", key, "err", err)
	}
	if last {
		f.log.Warn("cache: more keyspaces have this trouble, which are not named", "trouble", message)
	}
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

func (f *front) name(key string) string {
	if f.cfg.KeyPrefix == "" {
		return key
	}
	return f.cfg.KeyPrefix + key
}

func (f *front) names(keys []string) []string {
	if f.cfg.KeyPrefix == "" {
		return keys
	}
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = f.name(key)
	}
	return out
}

// spaces are the names of the keyspaces that the cache knows of.
func (f *front) spaces() []string {
	var out []string
	for _, s := range append([]Keyspace{chatMessages, userChats, generation, cancelSignal}, f.cfg.Keyspaces...) {
		out = append(out, s.Name)
	}
	out = slices.AppendSeq(out, maps.Keys(f.cfg.TTLs))
	slices.Sort(out)
	return slices.Compact(out)
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

// owedClear is a Clear that an overflow owes, and how far it has come.
type owedClear struct {
	*redisstore.Sweep
	prefixes []string
	seq      uint64        // of the queue, when it began
	whole    time.Duration // what a backend that cannot go on where it was is given for it
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
	if len(groups) == 1 {
		return f.inPieces(ctx, keys, b, command)
	}
	// All at once: sick shards then cost one budget together.
	var mu sync.Mutex
	var wg sync.WaitGroup
	left := b.left
	for _, group := range groups {
		wg.Go(func() {
			own := budget{left: left}
			lost, e := f.inPieces(ctx, group, &own, command)
			mu.Lock()
			defer mu.Unlock()
			if e != nil {
				failed, err = append(failed, lost...), errors.Join(err, e)
				b.left = min(b.left, own.left)
			}
		})
	}
	wg.Wait()
	return failed, err
}

// pieceKeys is how many keys one command of eachShard has: a script that invalidates so many
// holds Redis for about a millisecond.
const pieceKeys = 200

// inPieces runs a command on keys of one shard, a piece after the other. Each piece that
// succeeds leaves the budget as it was, so that the work may be of any size. After one that
// is not answered the rest fails without being sent, and costs nothing.
func (f *front) inPieces(ctx context.Context, keys []string, b *budget, command func(context.Context, []string) error) (failed []string, err error) {
	for start := 0; start < len(keys); start += pieceKeys {
		piece := keys[start:min(start+pieceKeys, len(keys))]
		e := f.valid(piece[0])
		if e == nil {
			e = f.inTurn(piece[0], func() error {
				_, err := doAnyway(ctx, f, piece[0], b, false, func(ctx context.Context) (any, error) { return nil, command(ctx, piece) })
				return err
			})
		}
		switch {
		case e == nil:
		case redisstore.Answered(e) || errors.Is(e, ErrInvalidKey):
			failed, err = append(failed, piece...), cmp.Or(err, e) // of several, the first
		default:
			return append(failed, keys[start:]...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// inTurn runs a command that invalidates when few others are on their way to key's node. A
// healthy node makes it wait for as long as its work takes, which costs no budget.
func (f *front) inTurn(key string, command func() error) error {
	if f.local {
		return command()
	}
	err := f.nodeOf(key).writes.Do(command, redisstore.Answered)
	if err == batch.ErrUnanswered {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// The backend's commands, each within a budget.

func (f *front) get(ctx context.Context, key string, b *budget) (found, error) {
	return f.ask(ctx, redisstore.Ask{Key: key}, b)
}

func (f *front) ask(ctx context.Context, ask redisstore.Ask, b *budget) (found, error) {
	if err := f.usable(ask.Key); err != nil {
		return found{}, err
	}
	var got found
	var err error
	if f.local {
		got.value, got.mark, got.ok, err = f.backend.GetMarked(ctx, ask.Key)
	} else {
		got, err = f.nodeOf(ask.Key).reads.get(ctx, ask, b)
	}
	if got.ok && got.value == nil {
		got.value = []byte{} // a backend of somebody else's may have an empty value as nil, which is none here
	}
	return got, err
}

func (f *front) lease(ctx context.Context, key string, b *budget, req backend.LeaseRequest) (backend.Lease, error) {
	if f.local {
		if err := f.usable(key); err != nil {
			return backend.Lease{}, err
		}
		return f.backend.Lease(ctx, key, req)
	}
	r, err := f.call(ctx, b, &redisstore.Call{Key: key, Lease: &req})
	if r.Lease.State == backend.Present && r.Lease.Value == nil {
		r.Lease.Value = []byte{} // as in get
	}
	return r.Lease, err
}

func (f *front) fill(ctx context.Context, key, token string, fill backend.Fill) (bool, error) {
	if f.local {
		return f.backend.Fill(ctx, key, token, fill)
	}
	b := budget{left: f.cfg.Timeout, bulk: len(fill.Value) > redisstore.AloneBytes}
	if b.bulk {
		f.filling.Add(1)
		defer f.filling.Add(-1)
	}
	r, err := f.call(ctx, &b, &redisstore.Call{Key: key, Token: token, Fill: fill})
	return r.Stored, err
}

func (f *front) extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	return do(ctx, f, key, f.newBudget(), true, func(ctx context.Context) (bool, error) {
		return f.backend.Extend(ctx, token, ttl, key)
	})
}

// release gives a lease back even while the front closes: others wait for its end.
func (f *front) release(ctx context.Context, key string, b *budget, token string) error {
	_, err := doAnyway(ctx, f, key, b, false, func(ctx context.Context) (any, error) {
		return nil, f.backend.Release(ctx, key, token)
	})
	return err
}

const (
	// On loopback this makes 8 lanes. With 128 goroutines whose reads all miss, a miss
	// took 1.6 times the processor time of a GET and a SET then, 1.5 with 2 lanes, and
	// 2.1 without; with 16 goroutines 2.5, 3.3 and 2.7.
	callLane = 12 * time.Microsecond

	maxCalls = 64 // that go together
)

// startCalls makes a node's line for leases and fills ready. A batch has one budget from
// the time its first call came, as one of reads has. Calls that come much later go in the
// next one: the rest of the budget would be little for a fill, whose value is made already.
func (f *front) startCalls(n *node, most int) {
	l := &n.calls
	l.PerLane, l.Most, l.Go, l.Closed = callLane, most, f.life.Go, ErrClosed
	l.PerBatch, l.Within = func() int { return maxCalls }, f.shortTime()
	l.Send = func(in *batch.Batch[*redisstore.Call, redisstore.Reply]) (replies []redisstore.Reply, err error) {
		if f.life.IsClosed() && !slices.ContainsFunc(in.Calls, func(c *redisstore.Call) bool { return c.Lease == nil }) {
			return nil, ErrClosed // Close waits for fills, and for no lease
		}
		b := budget{left: f.cfg.Timeout - time.Since(in.Born)}
		_, err = doAnyway(context.Background(), f, in.Calls[0].Key, &b, true, func(ctx context.Context) (any, error) {
			replies, err = n.redis.Together(ctx, in.Calls)
			return nil, err
		})
		if replies != nil {
			err = nil // each has its own
		}
		return replies, err
	}
	l.Unclaimed = func(c *redisstore.Call, r redisstore.Reply) {
		back := func() { _ = f.release(context.Background(), c.Key, f.newBudget(), r.Lease.Token) }
		if r.Lease.State == backend.Granted && !f.life.Go(back) {
			back()
		}
	}
}

// call asks for a lease, or fills, alone or in line.
func (f *front) call(ctx context.Context, b *budget, c *redisstore.Call) (r redisstore.Reply, err error) {
	if c.Lease != nil { // a fill goes on while the front closes
		if err := f.usable(c.Key); err != nil {
			return r, err
		}
	}
	alone := func() (redisstore.Reply, error) {
		return doAnyway(ctx, f, c.Key, b, true, func(ctx context.Context) (redisstore.Reply, error) { return c.Do(ctx, f.backend) })
	}
	if c.Alone() {
		return alone()
	}
	n := f.nodeOf(c.Key)
	if n.redis == nil {
		return alone()
	}
	l := &n.calls
	l.Mu.Lock()
	if l.TryAcquire() {
		l.Mu.Unlock()
		start, answered := time.Now(), false
		defer func() { // also when a hook of the client panics
			l.Mu.Lock()
			defer l.Mu.Unlock()
			if answered {
				l.Observe(time.Since(start))
			}
			l.Leave()
		}()
		r, err = alone()
		answered = err == nil
		return r, err
	}
	if n.IsOpen() || n.store.IsOpen() {
		l.Mu.Unlock()
		return r, ErrUnavailable
	}
	in, i := l.Join(c)
	n.Asked(time.Now(), l.Waiting)
	l.Mu.Unlock()
	r, _, err = await(ctx, l, in, i, b)
	if err != nil || r.Err == nil {
		return r, err
	}
	b.left -= time.Since(in.Born)
	if r.Elsewhere {
		return alone()
	}
	return r, fmt.Errorf("%w: %w", ErrUnavailable, r.Err)
}

// await waits for a call in line: for as long as its caller has, and its batch.
func await[C comparable, R any](ctx context.Context, l *batch.Line[C, R], in *batch.Batch[C, R], i int, b *budget) (result R, shared bool, err error) {
	var most time.Duration
	if left, ok := deadline.Left(ctx); ok && left/2 < b.left {
		most = left / 2 // the loader needs time, too
	}
	result, shared, err = l.Wait(ctx, in, i, most)
	if err == nil || ctx.Err() != nil {
		return result, shared, err
	}
	b.left -= time.Since(in.Born)
	if err == context.DeadlineExceeded {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return result, shared, err
}
