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

// node is one of the backend's servers. It has a breaker for whether it answers,
// and one for whether it stores: a Redis that refuses to store (out of memory, a
// read-only replica, no right to run scripts) still serves what it has and takes
// invalidations.
type node struct {
	*breaker.Breaker
	store  *breaker.Breaker
	redis  *redisstore.Store // nil for a backend of others, whose calls each go alone
	reads  reads
	bulk   reads                                          // of keys whose values are large, each on its own
	calls  batch.Line[*redisstore.Call, redisstore.Reply] // for leases, and fills
	writes *batch.Gate                                    // commands that invalidate
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
	actual, _ := f.nodes.LoadOrStore(shard, n)
	if f.shardOf == nil {
		f.single.Store(actual.(*node))
	}
	return actual.(*node)
}

// eachNode calls work for each node of some keys, with the places of its keys.
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
	var wg sync.WaitGroup // all at once: sick nodes then cost one budget together
	for n, which := range byNode {
		wg.Go(func() { work(n, which) })
	}
	wg.Wait()
}

// few calls work for each of n, some at a time.
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
		Does: does, Log: log,
		Turned: func(open bool, err error) {
			f.hooks.State(hook.State{Trouble: does, Begins: open, Node: shard, Err: err})
		},
		Stop: f.life.Context(), Go: f.life.Go, Answers: f.answers, Silence: silence, Connected: connected,
		Probe: func() error {
			ctx, cancel := context.WithTimeout(f.life.Context(), f.cfg.Timeout)
			defer cancel()
			err := probe(ctx)
			if err != nil && f.lookUp != nil {
				_, _ = foreign.Safely(ctx, func(context.Context) (any, error) { f.lookUp(); return nil, nil }) // go-redis does once a minute, where nobody answers who could say that the keys have moved
			}
			return err
		},
	})
}

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
	f.life.Go(func() {
		ctx, cancel := context.WithTimeout(f.life.Context(), f.cfg.Timeout)
		defer cancel()
		f.look(ctx)
	})
}

// budget is what one call may still spend on commands that fail.
type budget struct {
	left time.Duration
	bulk bool // the command is to carry much: to wait for it says nothing of the node

	again bool // the command failed before with others, which said all that there is to say of the node
}

func (f *front) newBudget() *budget { return &budget{left: f.cfg.Timeout} }

// do runs a backend command on key within the budget. stores says that the
// command is of no use on a backend that refuses to store.
func do[T any](ctx context.Context, f *front, key string, b *budget, stores bool, command func(context.Context) (T, error)) (T, error) {
	if err := f.usable(key); err != nil {
		var zero T
		return zero, err
	}
	return doAnyway(ctx, f, key, b, stores, command)
}

// doAnyway is do even while the front closes.
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

// attempt is a command on its way to a node.
type attempt struct {
	ctx    context.Context // ends when the command has had its time
	cancel context.CancelFunc
	f      *front
	node   *node
	caller context.Context
	stores bool
	start  time.Time
	limit  time.Duration
	brief  bool          // the limit is less than what an answer takes
	took   time.Duration // when it has ended
	ended  bool
	bulk   bool
}

// attempt begins a command, unless the node is left alone or the budget is spent.
func (f *front) attempt(ctx context.Context, n *node, b *budget, stores bool) (attempt, error) {
	if n.IsOpen() || stores && n.store.IsOpen() || b.left <= 0 {
		return attempt{}, ErrUnavailable
	}
	a := attempt{f: f, node: n, caller: ctx, stores: stores, start: time.Now(), limit: b.left, bulk: b.bulk}
	if left, ok := deadline.Left(ctx); ok {
		a.limit = min(a.limit, left/2) // the loader needs time, too
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

// end takes the command's error, and returns what the caller is to be told.
func (a *attempt) end(err error, b *budget) error {
	a.ended = true
	if a.cancel != nil {
		a.cancel()
	}
	now := time.Now()
	a.took = now.Sub(a.start)
	replied := err == nil || redisstore.Answered(err)
	heard := a.node.AnswersSince(a.start)
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
		return context.Cause(a.caller) // the caller's own end, no fault of the backend
	}
	weight := int32(breaker.Ordinary)
	switch {
	case a.took < a.limit:
	case a.brief:
		weight = 0
	case a.limit < a.f.shortTime():
		weight = breaker.Hasty
	}
	if b.again || redis.HasErrorPrefix(err, "TRYAGAIN") || a.f.panicked(err) {
		weight = 0 // a slot is moving, or code of others panicked, which says nothing of the node
	}
	unfit := errors.As(err, new(*redisstore.Misfit))
	if unfit {
		weight = breaker.Opens // it has said what it is
	}
	if redisstore.IsShortage(err) && !a.node.HasFailed() {
		weight = 0 // nothing was sent; after a failure, those that hang may be what it is short of
	}
	if a.bulk && heard && isTimeout(err) {
		weight = 0 // it was too long for the line
	}
	if replied {
		a.node.Success()
	} else {
		a.node.Failure(err, weight)
	}
	if a.stores && !unfit {
		a.node.store.Failure(err, weight)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (a *attempt) over(now time.Time, replied bool) {
	switch {
	case a.brief:
	case !a.bulk:
		a.node.Over(now, replied)
	case replied:
		a.node.Heard(now)
	}
}

// isTimeout reports whether a command ended as its time was over.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// abort is the end of a command that panicked, as a hook of the client may: nothing
// is on its way any more.
func (a *attempt) abort() {
	if a.ended {
		return
	}
	if a.cancel != nil {
		a.cancel()
	}
	a.over(time.Now(), true)
}

func (f *front) usable(key string) error {
	if f.life.IsClosed() {
		return ErrClosed
	}
	return f.valid(key)
}

func (f *front) valid(key string) error {
	if key == f.cfg.KeyPrefix {
		return fmt.Errorf("%w: the key is empty", ErrInvalidKey)
	}
	return nil
}

// crowded notes that so many callers are in line.
func (n *node) crowded(waiting int) {
	if waiting%4 == 2 { // not each: to ask for the time is a fiftieth of a read
		n.Asked(time.Now(), waiting)
	}
}

// shortTime is the time below which a command that times out says little.
func (f *front) shortTime() time.Duration { return f.cfg.Timeout / 5 }

// shortOfTime reports whether a command that has just failed may have had less time than
// that: it had half of what ctx left, and the other half is left now.
func (f *front) shortOfTime(ctx context.Context) bool {
	if f.local {
		return false
	}
	left, ok := deadline.Left(ctx)
	return ok && left < f.shortTime()
}

// panicked reports whether err is a panic's. The first one is told of.
func (f *front) panicked(err error) bool {
	var p *foreign.Panic
	if !errors.As(err, &p) {
		return false
	}
	f.panicOnce.Do(func() {
		f.log.Warn("cache: the backend panicked, which is taken for a failure (logged once)", "panic", fmt.Sprint(p.Value), "stack", string(p.Stack))
	})
	return true
}
