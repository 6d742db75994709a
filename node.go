// A node is one server of the backend, with its breakers and its lines of commands. An
// attempt is one command on its way to a node: do and doAnyway begin it, run the command
// within the rest of the call's time budget, and report its end to the node's breakers.
// This file decides which ends count as a failure of the node, and how much.

package aside

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/breaker"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/redisstore"
)

// node is one of the backend's servers. It has two breakers, one for whether it answers and
// one for whether it stores: a Redis that refuses to store (out of memory, no right to run
// scripts) still serves its values and takes invalidations. Reads, large reads, leases with
// fills, and invalidations have separate lines, so that none of them waits for another kind.
//
// Locks: reads.Mu, bulk.Mu and calls.Mu are separate. bulk.Mu may be held when reads.Mu is
// taken, never the reverse, and neither is held with calls.Mu.
type node struct {
	*breaker.Breaker                   // opens when the node does not answer
	store            *breaker.Breaker  // opens when the node does not store
	redis            *redisstore.Store // nil for a foreign backend: each of its calls goes alone
	reads            reads
	bulk             reads                                          // of keys with large values, one key a command
	calls            batch.Line[*redisstore.Call, redisstore.Reply] // leases and fills
	writes           *batch.Gate                                    // commands that invalidate
}

// shard returns the name of the node that has key, or "" where there is only one.
func (f *front) shard(key string) string {
	if f.shardOf == nil {
		return ""
	}
	return f.shardOf(key)
}

// nodeOf returns the node that has key. Nodes are made when their first key is asked for,
// and are never removed: a Cluster has few. Each probes with a key in its own slots.
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
	n := &node{
		reads: reads{large: make(map[string]bool), room: batch.MaxLanes},
		store: f.newBreaker(shard, "store", nil, func(ctx context.Context) error {
			_, err := f.backend.Lease(ctx, probe, backend.LeaseRequest{TTL: minTTL})
			return err
		}),
	}
	n.writes = batch.NewGate(batch.MaxLanes)
	n.bulk = reads{of: &n.reads, room: batch.MinLanes}
	var connected func() int64
	most := 0
	if n.redis, _ = f.own.(*redisstore.Store); n.redis != nil {
		turns := n.redis.TurnsOf(key)
		connected, most = turns.Since, turns.Limit()
	}
	n.reads.start(f, n, most)
	n.bulk.start(f, n, most)
	f.startCalls(n, most)
	n.Breaker = f.newBreaker(shard, "answer", connected, func(ctx context.Context) error {
		_, _, err := f.backend.Get(ctx, probe)
		if redisstore.Answered(err) {
			return nil
		}
		return err
	})
	// Another caller may have made the node meanwhile. This one has no goroutine yet, and is
	// dropped.
	actual, _ := f.nodes.LoadOrStore(shard, n)
	if f.shardOf == nil {
		f.single.Store(actual.(*node))
	}
	return actual.(*node)
}

// eachNode calls work for each node of some keys, with the indices of its keys. The calls
// run concurrently, so that several sick nodes cost one time budget together.
func (f *front) eachNode(keys int, key func(i int) string, work func(n *node, which []int)) {
	if keys == 0 {
		return
	}
	byNode := make(map[*node][]int)
	for i := range keys {
		n := f.nodeOf(key(i))
		byNode[n] = append(byNode[n], i)
	}
	if len(byNode) == 1 {
		for n, which := range byNode {
			work(n, which)
		}
		return
	}
	var wg sync.WaitGroup
	for n, which := range byNode {
		wg.Go(func() { work(n, which) })
	}
	wg.Wait()
}

// few calls work for each i below n, at most batch.MaxLanes at a time.
func few(n int, work func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(n, batch.MaxLanes) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				work(int(i))
			}
		})
	}
	wg.Wait()
}

// newBreaker returns a breaker for a node. does is its task: "answer" or "store". probe must
// be a command of that task. After a failed probe the client of a Cluster looks up its nodes
// again, as the keys may have moved away from a node that is gone; go-redis itself does so
// only once a minute while nothing answers.
func (f *front) newBreaker(shard, does string, connected func() int64, probe func(context.Context) error) *breaker.Breaker {
	log := f.log
	if shard != "" {
		log = log.With("node", shard)
	}
	silence := f.cfg.Timeout / 3
	if f.cfg.WaitReplicas > 0 {
		silence = 0 // a WAIT gets no reply while the replicas are slow, which is not the node's silence
	}
	return breaker.New(breaker.Options{
		Does: does, Log: log,
		Turned: func(open bool, err error) {
			f.hooks.State(hook.State{Trouble: does, Begins: open, Node: shard, Err: err})
		},
		Stop: f.life.Context(), Go: f.life.Go, Silence: silence, Connected: connected,
		Probe: func() error {
			ctx, cancel := context.WithTimeout(f.life.Context(), f.cfg.Timeout)
			defer cancel()
			err := probe(ctx)
			if err != nil && f.lookUp != nil {
				_, _ = foreign.Safely(ctx, func(context.Context) (any, error) { f.lookUp(); return nil, nil })
			}
			return err
		},
	})
}

// lookAgain inspects the server's role in the background, at most once per
// redisstore.LookInterval and only while commands are sent: a master that has become a
// replica would otherwise be read from as before.
func (f *front) lookAgain(now time.Time) {
	if f.look == nil {
		return
	}
	last := f.looked.Load()
	if now.UnixNano()-last < int64(redisstore.LookInterval) || !f.looked.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	f.life.Go(func() {
		ctx, cancel := context.WithTimeout(f.life.Context(), f.cfg.Timeout)
		defer cancel()
		f.look(ctx)
	})
}

// budget is the time that one call may still spend on commands that fail. Commands that
// succeed cost nothing of it. It is not used concurrently.
type budget struct {
	left time.Duration
	bulk bool // the command carries a large value: that it takes long is no sign of silence

	again bool // the command has failed as a part of a larger batch, which was counted as a failure
}

// newBudget returns the time budget of one call: Config.Timeout.
func (f *front) newBudget() *budget { return &budget{left: f.cfg.Timeout} }

// do runs a backend command on key within the budget. The error is ErrClosed, wraps
// ErrInvalidKey or ErrUnavailable, or is the cause of ctx's end; on a local backend it is the
// command's own. With stores, the command is not sent to a node that refuses to store.
func do[T any](ctx context.Context, f *front, key string, b *budget, stores bool, command func(context.Context) (T, error)) (T, error) {
	if err := f.usable(key); err != nil {
		var zero T
		return zero, err
	}
	return doAnyway(ctx, f, key, b, stores, command)
}

// doAnyway is do for a command that is sent even while the front closes.
func doAnyway[T any](ctx context.Context, f *front, key string, b *budget, stores bool, command func(context.Context) (T, error)) (T, error) {
	var zero T
	if f.local {
		return command(ctx)
	}
	a, err := f.attempt(ctx, f.nodeOf(key), b, stores)
	if err != nil {
		return zero, err
	}
	defer a.abort()
	v, err := command(a.ctx)
	if err = a.end(err, b); err != nil {
		return zero, err
	}
	return v, nil
}

// attempt is a command on its way to a node. It ends by end, or by abort if the command
// panics.
type attempt struct {
	ctx    context.Context    // of the command; ends after limit
	cancel context.CancelFunc // nil where ctx is shared
	f      *front
	node   *node
	caller context.Context
	stores bool // the outcome counts for the node's store breaker, too
	start  time.Time
	limit  time.Duration
	brief  bool          // a healthy node may need more time than limit
	took   time.Duration // set when ended is
	ended  bool
	bulk   bool // see budget
}

// attempt begins a command, unless the node's breaker is open or the budget is spent. The
// command gets the rest of the budget, and at most half of the time that ctx has left.
// Commands that get a whole budget share deadlines where the client obeys them (see
// deadline.Shared), and then do not end with ctx: the client would not interrupt them anyway.
func (f *front) attempt(ctx context.Context, n *node, b *budget, stores bool) (attempt, error) {
	if n.IsOpen() || stores && n.store.IsOpen() || b.left <= 0 {
		return attempt{}, ErrUnavailable
	}
	a := attempt{f: f, node: n, caller: ctx, stores: stores, start: time.Now(), limit: b.left, bulk: b.bulk}
	if left, ok := deadline.Left(ctx); ok {
		a.limit = min(a.limit, left/2) // the loader needs the other half
		a.brief = a.limit < f.shortTime() && a.limit < max(f.cfg.Timeout/250, n.reads.trip())
	}
	if !a.brief && !a.bulk {
		n.Sent(a.start)
	}
	f.lookAgain(a.start)
	if a.limit == f.cfg.Timeout && f.shares {
		a.ctx = f.deadlines.Context(ctx, a.start)
	} else {
		a.ctx, a.cancel = context.WithTimeout(deadline.Without(ctx), a.limit)
	}
	return a, nil
}

// end ends the attempt with the command's error, and returns the error for the caller. A
// failure is taken off the budget and counts against the node with a weight: an ordinary one
// by default, a hasty one if the command had little time, and none if the failure says
// nothing of the node.
func (a *attempt) end(err error, b *budget) error {
	a.ended = true
	if a.cancel != nil {
		a.cancel()
	}
	now := time.Now()
	a.took = now.Sub(a.start)
	replied := err == nil || redisstore.Answered(err) // an error reply shows that the node answers
	heard := a.node.AnswersSince(a.start)             // any command, before over counts this one
	a.over(now, replied)
	if err == nil {
		a.node.Success()
		if a.stores {
			a.node.store.Success()
		}
		return nil
	}
	b.left -= a.took
	if a.caller.Err() != nil {
		return context.Cause(a.caller) // the caller has left, which is no failure of the node
	}
	// The caller waits at most for one budget, so a command with a small rest of it or of
	// ctx may time out on a healthy node: such a failure weighs less, or nothing.
	weight := int32(breaker.Ordinary)
	switch {
	case a.took < a.limit: // it failed before its time was over
	case a.brief:
		weight = 0
	case a.limit < a.f.shortTime():
		weight = breaker.Hasty
	}
	if b.again || redis.HasErrorPrefix(err, "TRYAGAIN") || a.f.panicked(err) {
		weight = 0 // a slot is moving, or foreign code panicked
	}
	unfit := errors.As(err, new(*redisstore.Misfit))
	if unfit {
		weight = breaker.Opens // one such reply is enough
	}
	if redisstore.IsShortage(err) && !a.node.HasFailed() {
		weight = 0 // nothing was sent; after a failure, hanging commands may hold the connections
	}
	if a.bulk && heard && isTimeout(err) {
		weight = 0 // the node answered others: the value was too large for the connection
	}
	if replied {
		a.node.Success()
	} else {
		a.node.Failure(err, weight)
	}
	if a.stores && !unfit { // a misfit is the answer breaker's: one breaker opens for it
		a.node.store.Failure(err, weight)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// over tells the breaker that the command is no longer on its way. A large one never counted
// as on its way; its reply shows that the node is not silent.
func (a *attempt) over(now time.Time, replied bool) {
	switch {
	case a.brief:
	case !a.bulk:
		a.node.Over(now, replied)
	case replied:
		a.node.Heard(now)
	}
}

// isTimeout reports whether err says that a command's time was over.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// abort ends an attempt that end has not ended, as the command panicked: a hook of the client
// may. Otherwise it does nothing.
func (a *attempt) abort() {
	if a.ended {
		return
	}
	if a.cancel != nil {
		a.cancel()
	}
	a.over(time.Now(), true)
}

// usable returns ErrClosed if the front is closed, or why key is not valid.
func (f *front) usable(key string) error {
	if f.life.IsClosed() {
		return ErrClosed
	}
	return f.valid(key)
}

// valid returns an error if key, in full, has nothing but the key prefix.
func (f *front) valid(key string) error {
	if key == f.cfg.KeyPrefix {
		return fmt.Errorf("%w: the key is empty", ErrInvalidKey)
	}
	return nil
}

// crowded tells the breaker how many callers are in line for the node.
func (n *node) crowded(waiting int) {
	if waiting%4 == 2 { // not each time: asking for the time is a fiftieth of a read
		n.Asked(time.Now(), waiting)
	}
}

// shortTime is the time limit below which a command's time-out says little about the node.
func (f *front) shortTime() time.Duration { return f.cfg.Timeout / 5 }

// shortOfTime reports whether a command that has just failed may have had less time than
// shortTime: it had half of the time that ctx had left, and the other half is left now.
func (f *front) shortOfTime(ctx context.Context) bool {
	if f.local {
		return false
	}
	left, ok := deadline.Left(ctx)
	return ok && left < f.shortTime()
}

// panicked reports whether err is a panic of foreign code, and logs the first one.
func (f *front) panicked(err error) bool {
	var p *foreign.Panic
	if !errors.As(err, &p) {
		return false
	}
	f.panicOnce.Do(func() {
		f.log.Warn("aside: backend panic, taken for a failure (logged once)", "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	})
	return true
}
