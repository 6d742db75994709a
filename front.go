// front is the implementation of Cache for all backends. Its parts are spread over files by
// concept; this one has the struct, the names of keys, and the way of a command to the
// backend:
//
//	commands that invalidate  eachShard, inPieces, inTurn: by node, in pieces, in order
//	reads                     get, ask: see reads.go
//	leases and fills          lease, fill, call: alone, or sharing round trips (startCalls)
//	the rest                  extend, release: one command each
//
// Below them, node.go gives each command its time budget and reports its outcome to the
// breaker. Above them are reads (aside.go, many.go), writes (update.go) and the methods of
// Cache (frontcache.go). A backend in this process (local) has no budget, no breaker and no
// line: its methods are called at once.

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

// front is the Cache that Open, NewRedis and New return, before a backend of any kind. It
// adds the key prefix, coalesces loads, gives each call its time budget, opens a breaker when
// the backend is unavailable, keeps the invalidations that could not be delivered, and counts.
//
// Its methods may be called concurrently. Fields without a lock or an atomic type are set
// before the front is handed out, except owed.
type front struct {
	backend backend.Backend // guarded against panics (foreign.Backend), unless it is one of this process
	own     backend.Backend // backend as it was handed in
	cfg     Config
	ttl     ttlPolicy
	log     *slog.Logger
	logs    slog.Handler // the Logger's, which each hit asks whether to log
	off     bool         // the backend stores nothing
	local   bool         // the backend is in this process: it can neither fail nor be slow

	flights flights
	places  *places.Places // of the loads that may run; nil is no bound
	wakes   *wake.Hub
	misses  *expect.Misses // decides which reads ask for a lease at once
	queue   *outbox.Outbox
	counts  counts
	hooks   *hooks.Hooks
	memory  *memoryBackend // backend, when it is one
	memo    *entry.Memo    // remembers decoded values beside the bytes that they came from
	near    *near.Cache    // nil when there is none
	warned  warnonce.Warnings

	nearSpaces map[string]bool // names of the keyspaces in near: Redis announces their changes

	unstored recent.Keys  // keys of values that took too long to store: see fillFailed
	filling  atomic.Int32 // fills of large values on their way

	panicOnce   sync.Once    // logs the first panic of the backend
	auditLogged atomic.Int64 // when an audit's difference was last logged, in Unix nanoseconds

	nodes     sync.Map                // shard name: *node
	single    atomic.Pointer[node]    // the only node, once known, where there can be no other
	shardOf   func(key string) string // names key's shard; nil when there is only one
	shares    bool                    // commands may share deadlines, as the client obeys them
	lookUp    func()                  // makes the client of a Cluster look up its nodes; nil elsewhere
	deadlines *deadline.Shared        // of commands, where shares is set
	look      func(context.Context)   // inspects the server's role; nil where a backend has none
	looked    atomic.Int64            // when it last did, in Unix nanoseconds

	life      *lifecycle.Lifecycle
	deliverer atomic.Bool // a goroutine delivers the queue
	owed      *owedClear  // the deliverer's own; after its end, Close's
}

// probeKey is the key that breakers probe with. It belongs to a keyspace that every Redis
// user of the cache must have the right to.
var probeKey = cancelSignal.Name + ":aside-probe"

// checkSize returns an error if value is larger than Config.MaxValueBytes.
func (f *front) checkSize(key string, value []byte) error {
	if int64(len(value)) > f.cfg.MaxValueBytes {
		return fmt.Errorf("aside: the value of %.200q has %d bytes: want at most %d (Config.MaxValueBytes)", key, len(value), f.cfg.MaxValueBytes)
	}
	return nil
}

// countOf returns the counters of the keyspace of key, which has the key prefix. A key
// without a colon has no keyspace.
func (f *front) countOf(key string) *counters {
	space, _, ok := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	if !ok {
		space = ""
	}
	return f.counts.of(space)
}

// notStored counts and logs a loaded value that cannot be stored. The load's callers have it
// all the same.
func (f *front) notStored(space *Keyspace, key string, err error) {
	f.counts.of(space.Name).encodeErrors.Add(1)
	f.warnOnce(space, key, "aside: loaded values returned but not stored (logged once per keyspace)", err)
}

// warnOnce logs a warning about a key, once for each keyspace and message. After so many
// keyspaces it logs that further ones are not named: see warnonce.
func (f *front) warnOnce(space *Keyspace, key, message string, err error) {
	first, last := f.warned.Add(space.Name, message)
	if first {
		f.log.Warn(message, "key", key, "err", err)
	}
	if last {
		f.log.Warn("aside: same trouble in more keyspaces, not named", "trouble", message)
	}
}

// replaced warns that a key of another Redis type was removed from where a value or a lease
// belongs. Another program must have stored it.
func (f *front) replaced(key, kind string) {
	owner := key
	if of, ok := redisstore.LeasedKey(key); ok {
		owner = of
	}
	f.warnOnce(f.spaceOf(owner), key, "aside: keys of other types, stored by other programs, removed (logged once per keyspace)",
		fmt.Errorf("aside: the key held a %s", kind))
}

// name returns key with the key prefix, as the backend knows it: a key in full.
func (f *front) name(key string) string {
	if f.cfg.KeyPrefix == "" {
		return key
	}
	return f.cfg.KeyPrefix + key
}

// names returns keys with the key prefix.
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

// spaces returns the names of the keyspaces that the cache knows of, sorted: the predefined
// ones, and those that Config names.
func (f *front) spaces() []string {
	var out []string
	for _, s := range append([]Keyspace{chatMessages, userChats, generation, cancelSignal}, f.cfg.Keyspaces...) {
		out = append(out, s.Name)
	}
	out = slices.AppendSeq(out, maps.Keys(f.cfg.TTLs))
	slices.Sort(out)
	return slices.Compact(out)
}

// coversUnder returns a function that reports whether a Clear of prefixes removes key, where
// keys start with keyPrefix. Keys of the keyspaces in states, which are not copies of
// database rows but the only record of a running generation, are covered by a prefix only if
// it is long enough to name their keyspace.
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

// owedClear is a Clear that an overflow of the queue owes, and its progress. A failed step
// leaves the progress as it was.
type owedClear struct {
	*redisstore.Sweep
	prefixes []string
	seq      uint64        // the queue's sequence number when the Clear began
	whole    time.Duration // the time for one try, on a backend that cannot resume a Clear
}

// eachShard runs a command on the keys of each shard, and returns the keys that it failed
// for, with the errors. The shards run concurrently, so that several sick nodes cost one time
// budget together; the largest time spent is taken off b. eachShard does not look whether
// the front is closed: an invalidation that began before Close is still sent.
func (f *front) eachShard(ctx context.Context, keys []string, b *budget, command func(context.Context, []string) error) (failed []string, err error) {
	groups := make(map[string][]string)
	for _, key := range keys {
		shard := f.shard(key)
		groups[shard] = append(groups[shard], key)
	}
	if len(groups) == 1 {
		return f.inPieces(ctx, keys, b, command)
	}
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

// pieceKeys is how many keys one command of eachShard has at most. A script that invalidates
// this many holds Redis for about a millisecond.
const pieceKeys = 200

// inPieces runs a command on keys of one shard, one piece after the other. A piece that
// succeeds costs nothing of the budget, so the number of keys is not bounded by it. A piece
// that Redis refuses fails alone. After a piece that is not answered the rest fails unsent.
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
			failed, err = append(failed, piece...), cmp.Or(err, e) // the first of several errors
		default:
			return append(failed, keys[start:]...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// inTurn runs a command that invalidates when it is its turn at key's node (see batch.Gate).
// The wait behind other invalidations costs nothing of the time budget: the node is at work.
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

// get reads the value of key, which is in full, within the budget.
func (f *front) get(ctx context.Context, key string, b *budget) (found, error) {
	return f.ask(ctx, redisstore.Ask{Key: key}, b)
}

// ask reads the value of a key, and its mark if that is asked for, within the budget. A hit
// has a value that is not nil.
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
		got.value = []byte{} // a foreign backend may return nil for an empty value
	}
	return got, err
}

// lease asks for the lease of key within the budget. If the answer is lost, the lease lapses.
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

// fill stores the result of a load under the lease of token, within a time budget of its
// own: the callers of the load do not wait for it. It also works while the front closes.
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

// extend extends the lease of token, within a time budget of its own.
func (f *front) extend(ctx context.Context, key, token string, ttl time.Duration) (bool, error) {
	return do(ctx, f, key, f.newBudget(), true, func(ctx context.Context) (bool, error) {
		return f.backend.Extend(ctx, token, ttl, key)
	})
}

// release ends the lease of token without a value. It also works while the front closes, as
// other processes wait for the lease to end.
func (f *front) release(ctx context.Context, key string, b *budget, token string) error {
	_, err := doAnyway(ctx, f, key, b, false, func(ctx context.Context) (any, error) {
		return nil, f.backend.Release(ctx, key, token)
	})
	return err
}

const (
	// callLane is the length of round trip that warrants one lane for leases and fills. On
	// loopback it makes 8 lanes. With 128 goroutines whose reads all miss, a miss then took
	// 1.6 times the processor time of a GET and a SET, 1.5 with 2 lanes, and 2.1 without;
	// with 16 goroutines 2.5, 3.3 and 2.7.
	callLane = 12 * time.Microsecond

	// maxCalls is how many leases and fills share a round trip at most.
	maxCalls = 64
)

// startCalls sets up a node's line for leases and fills. most is how many connections there
// may be, or 0. A batch has one time budget from the arrival of its first call, as a batch of
// reads has. A call that comes much later goes into the next batch: little of the budget
// would be left for a fill, after a load that has been paid for.
//
// While the front closes, only batches with a call other than a lease request are sent. A
// lease for a caller that has left the line is released.
func (f *front) startCalls(n *node, most int) {
	l := &n.calls
	l.PerLane, l.Most, l.Go, l.Closed = callLane, most, f.life.Go, ErrClosed
	l.PerBatch, l.Within = func() int { return maxCalls }, f.shortTime()
	l.Send = func(in *batch.Batch[*redisstore.Call, redisstore.Reply]) (replies []redisstore.Reply, err error) {
		if f.life.IsClosed() && !slices.ContainsFunc(in.Calls, func(c *redisstore.Call) bool { return c.Lease == nil }) {
			return nil, ErrClosed // Close waits for fills, not for leases
		}
		b := budget{left: f.cfg.Timeout - time.Since(in.Born)}
		_, err = doAnyway(context.Background(), f, in.Calls[0].Key, &b, true, func(ctx context.Context) (any, error) {
			replies, err = n.redis.Together(ctx, in.Calls)
			return nil, err
		})
		if replies != nil {
			err = nil // each reply has its own
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

// call carries out a lease request or a fill: alone while a lane is free, and in line
// otherwise. A call that a Cluster's node sends elsewhere is carried out again by itself, as
// the client can follow a redirection for one command.
func (f *front) call(ctx context.Context, b *budget, c *redisstore.Call) (r redisstore.Reply, err error) {
	if c.Lease != nil { // a fill is sent even while the front closes
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
		defer func() { // deferred, as a hook of the client may panic
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

// await waits for the result of a call in line. It takes at most half of the time that ctx
// has left, and charges a failure to the budget. The batch goes on for its other callers.
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
