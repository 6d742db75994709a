package redisstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/foreign"
)

const (
	// On loopback this makes 8 lanes. With 128 goroutines whose reads all miss, a miss
	// took 1.6 times the processor time of a GET and a SET then, 1.5 with 2 lanes, and
	// 2.1 without; with 16 goroutines 2.5, 3.3 and 2.7.
	scriptLane = 12 * time.Microsecond

	// maxPipeline is how many scripts go together, at most.
	maxPipeline = 64

	// AloneBytes is the size of a value that is stored by itself, and not in a lane:
	// to share a round trip would gain it little, and others would wait for it.
	AloneBytes = 16 << 10
)

// pipeline sends requests for leases and fills to one node. When many miss at once,
// as after a Clear, they share round trips: see batch.Lanes.
type pipeline struct {
	b *Store

	mu    sync.Mutex
	lanes batch.Lanes
	line  []*scriptCall
}

// scriptCall is a script on its way.
type scriptCall struct {
	ctx    context.Context
	script *redis.Script
	keys   []string
	args   []any

	blamed *bool         // of those it was sent with, one has told of their failure; guarded by pipeline.mu
	over   atomic.Bool   // it has its answer, or has left: whichever came first
	done   chan struct{} // closed when the fields below are set
	res    any
	err    error
}

// NotAgain is a failure that another call tells of: they went together, or this one
// was not even sent. It says no more of the node than that.
type NotAgain struct{ Err error }

func (e NotAgain) Error() string { return e.Err.Error() }

func (e NotAgain) Unwrap() error { return e.Err }

var errPanicked = errors.New("the Redis client panicked")

// runInLine is runOn for what many may ask for at once. The call stores so many bytes.
func (b *Store) runInLine(ctx context.Context, script *redis.Script, bytes int, key string, args ...any) (any, error) {
	if bytes > AloneBytes {
		return b.runOn(ctx, script, key, args...)
	}
	shard := b.Shard(key)
	p, ok := b.pipelines.Load(shard)
	if !ok {
		p, _ = b.pipelines.LoadOrStore(shard, &pipeline{b: b, lanes: batch.Lanes{PerLane: scriptLane, Most: cap(b.TurnsOf(key).taken)}})
	}
	return p.(*pipeline).run(&scriptCall{ctx: ctx, script: script, keys: keysOf(script, key), args: args})
}

func (p *pipeline) run(c *scriptCall) (res any, err error) {
	p.mu.Lock()
	if p.lanes.TryAcquire() {
		p.mu.Unlock()
		start := time.Now()
		err = errPanicked
		defer func() { p.leave(err, time.Since(start)) }()
		res, err = p.b.run(c.ctx, c.script, c.keys, c.args...)
		return res, err
	}
	c.done = make(chan struct{})
	p.line = append(p.line, c)
	p.mu.Unlock()
	select {
	case <-c.done:
		return c.res, c.err
	case <-c.ctx.Done():
		if c.over.CompareAndSwap(false, true) {
			return nil, p.blame(c, c.ctx.Err())
		}
		<-c.done
		return c.res, c.err
	}
}

// answer hands a call what is in res and err. If it has left, a lease is given back.
func (p *pipeline) answer(c *scriptCall) {
	if c.over.CompareAndSwap(false, true) {
		if c.err != nil && !isReply(c.err) {
			c.err = p.blame(c, c.err)
		}
		close(c.done)
		return
	}
	if c.script != leaseScript || c.err != nil {
		return
	}
	if l, err := p.b.leaseFrom(c.res, ""); err == nil && l.State == backend.Granted {
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 2*time.Second)
			defer cancel()
			_ = p.b.Release(ctx, c.keys[0], l.Token)
		}()
	}
}

// blame returns err for the first of those that went together, and for the others
// that it is nothing new.
func (p *pipeline) blame(c *scriptCall, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.blamed == nil || *c.blamed {
		return NotAgain{err}
	}
	*c.blamed = true
	return err
}

// leave frees the lane of a script that went alone, for what is in line.
func (p *pipeline) leave(err error, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lanes.Observe(took)
	}
	if len(p.line) == 0 {
		p.lanes.Busy--
		return
	}
	go p.serve()
}

// serve sends what is in line until there is nothing more.
func (p *pipeline) serve() {
	over := false
	defer func() {
		if !over { // code of the client has ended this goroutine; the calls wait out their time
			go p.serve()
		}
	}()
	for calls := p.next(); calls != nil; calls = p.next() {
		p.send(calls)
	}
	over = true
}

// next takes what goes together next. It frees the lane when there is nothing, or when
// there are more lanes than there are to be: then others serve the line.
func (p *pipeline) next() []*scriptCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = slices.DeleteFunc(p.line, func(c *scriptCall) bool { return c.ctx.Err() != nil }) // they have left
	if len(p.line) == 0 || p.lanes.Busy > p.lanes.Limit() {
		p.lanes.Busy--
		return nil
	}
	n := min(len(p.line), maxPipeline)
	calls := slices.Clone(p.line[:n])
	p.line = slices.Delete(p.line, 0, n)
	blamed := new(bool)
	for _, c := range calls {
		c.blamed = blamed
	}
	return calls
}

// send sends scripts together, and once more those that Redis does not know, with the
// text of each.
func (p *pipeline) send(calls []*scriptCall) {
	cmds, err := p.sendOnce(calls, false)
	unknown := p.settle(calls, cmds, err, true)
	if len(unknown) > 0 {
		cmds, err = p.sendOnce(unknown, true)
		p.settle(unknown, cmds, err, false)
	}
}

// settle gives each call its answer, but for those that are to be sent again.
func (p *pipeline) settle(calls []*scriptCall, cmds []redis.Cmder, err error, again bool) (unknown []*scriptCall) {
	for i, c := range calls {
		if c.err = err; i < len(cmds) {
			c.res, c.err = cmds[i].(*redis.Cmd).Result()
			c.err = p.b.told(foreign.Examined(c.err))
		}
		if c.res == nil && c.err == nil {
			c.err = err // of a hook: no script answers nil
		}
		switch {
		case again && redis.HasErrorPrefix(c.err, "NOSCRIPT") && c.ctx.Err() == nil:
			unknown = append(unknown, c)
		case p.b.cluster != nil && isElsewhere(c.err):
			go func() {
				c.res, c.err = foreign.Safely(c.ctx, func(ctx context.Context) (any, error) { return p.b.run(ctx, c.script, c.keys, c.args...) })
				p.answer(c)
			}()
		default:
			p.answer(c)
		}
	}
	return unknown
}

// isElsewhere reports whether a node of a Cluster says that the key is, or will be,
// another's. The client knows how to follow it, with one command at a time.
func isElsewhere(err error) bool {
	for _, prefix := range []string{"MOVED", "ASK", "TRYAGAIN", "READONLY"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

// sendOnce gives them as long as the last of them has. Each returns when its own time
// is over. Hooks of the client see the values of the first one's context. On Cluster
// they go to the node itself: its client would send all of them again where one is
// elsewhere, those on their way included.
func (p *pipeline) sendOnce(calls []*scriptCall, withText bool) (_ []redis.Cmder, err error) {
	defer foreign.Catch(&err)
	ctx := context.WithoutCancel(calls[0].ctx)
	if last, ok := lastDeadline(calls); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, last)
		defer cancel()
	}
	return inTurn(ctx, p.b, calls[0].keys[0], func(ctx context.Context) ([]redis.Cmder, error) {
		node, err := p.b.masterOf(ctx, calls[0].keys[0])
		if err != nil {
			return nil, err
		}
		told := make(map[*redis.Script]bool)
		return node.Pipelined(ctx, func(together redis.Pipeliner) error {
			for _, c := range calls {
				if withText && !told[c.script] {
					told[c.script] = true
					c.script.Eval(ctx, together, c.keys, c.args...)
				} else {
					c.script.EvalSha(ctx, together, c.keys, c.args...)
				}
			}
			return nil
		})
	})
}

// lastDeadline returns the last of their deadlines, if each has one.
func lastDeadline(calls []*scriptCall) (last time.Time, all bool) {
	for _, c := range calls {
		deadline, ok := c.ctx.Deadline()
		if !ok {
			return time.Time{}, false
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return last, true
}
