package aside

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// On loopback this makes 8 lanes. With 128 goroutines whose reads all miss, a miss
	// took 1.6 times the processor time of a GET and a SET then, 1.5 with 2 lanes, and
	// 2.1 without; with 16 goroutines 2.5, 3.3 and 2.7.
	scriptLane = 12 * time.Microsecond

	// maxPipeline and pipelineBytes bound what goes together, the latter by the values
	// that are stored.
	maxPipeline   = 64
	pipelineBytes = 256 << 10
)

// pipeline sends the scripts of misses to one node: requests for leases and fills.
// When many miss at once, as after a Clear, they share round trips: see lanes.
type pipeline struct {
	b *redisBackend

	mu    sync.Mutex
	lanes lanes
	line  []*scriptCall
}

// scriptCall is a script on its way.
type scriptCall struct {
	ctx    context.Context
	script *redis.Script
	keys   []string
	args   []any
	bytes  int // of the value that it stores

	done chan struct{} // closed when the fields below are set
	res  any
	err  error
}

// runInLine is runOn for what many may ask for at once. The call stores so many bytes.
func (b *redisBackend) runInLine(ctx context.Context, script *redis.Script, bytes int, key string, args ...any) (any, error) {
	shard := b.shard(key)
	p, ok := b.pipelines.Load(shard)
	if !ok {
		p, _ = b.pipelines.LoadOrStore(shard, &pipeline{b: b, lanes: lanes{per: scriptLane}})
	}
	return p.(*pipeline).run(&scriptCall{ctx: ctx, script: script, keys: []string{key, leaseKey(key)}, args: args, bytes: bytes})
}

func (p *pipeline) run(c *scriptCall) (any, error) {
	p.mu.Lock()
	if p.lanes.take() {
		p.mu.Unlock()
		start := time.Now()
		res, err := p.b.run(c.ctx, c.script, c.keys, c.args...)
		p.leave(err, time.Since(start))
		return res, err
	}
	c.done = make(chan struct{})
	p.line = append(p.line, c)
	p.mu.Unlock()
	select {
	case <-c.done:
		return c.res, c.err
	case <-c.ctx.Done(): // it may be carried out all the same
		return nil, c.ctx.Err()
	}
}

// leave frees the lane of a script that went alone, for what is in line.
func (p *pipeline) leave(err error, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.lanes.took(took)
	}
	if len(p.line) == 0 {
		p.lanes.busy--
		return
	}
	go func() {
		for calls := p.next(); calls != nil; calls = p.next() {
			p.send(calls)
		}
	}()
}

// next takes what goes together next, or frees the lane when there is nothing.
func (p *pipeline) next() []*scriptCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = slices.DeleteFunc(p.line, func(c *scriptCall) bool { return c.ctx.Err() != nil }) // they have left
	if len(p.line) == 0 || p.lanes.busy > p.lanes.all() {
		p.lanes.busy--
		return nil
	}
	n, bytes := 0, 0
	for n < min(len(p.line), maxPipeline) && (n == 0 || bytes+p.line[n].bytes <= pipelineBytes) {
		bytes += p.line[n].bytes
		n++
	}
	calls := p.line[:n:n]
	if p.line = p.line[n:]; len(p.line) == 0 {
		p.line = nil
	}
	return calls
}

// send sends scripts together. One that Redis does not know is sent by itself, with
// its text, and the others once more.
func (p *pipeline) send(calls []*scriptCall) {
	for len(calls) > 0 {
		cmds, err := p.sendOnce(calls)
		var unknown []*scriptCall
		for i, c := range calls {
			if c.err = err; i < len(cmds) {
				c.res, c.err = cmds[i].(*redis.Cmd).Result()
			}
			if redis.HasErrorPrefix(c.err, "NOSCRIPT") {
				unknown = append(unknown, c)
			} else {
				close(c.done)
			}
		}
		if len(unknown) > 0 {
			c := unknown[0]
			c.res, c.err = p.b.run(c.ctx, c.script, c.keys, c.args...)
			close(c.done)
			unknown = unknown[1:]
		}
		calls = unknown
	}
}

// sendOnce gives them as long as the last of them has. Each returns when its own time
// is over.
func (p *pipeline) sendOnce(calls []*scriptCall) ([]redis.Cmder, error) {
	ctx := context.WithoutCancel(calls[0].ctx)
	if last, ok := lastDeadline(calls); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, last)
		defer cancel()
	}
	return within(ctx, p.b, func(ctx context.Context) ([]redis.Cmder, error) {
		return p.b.client.Pipelined(ctx, func(together redis.Pipeliner) error {
			for _, c := range calls {
				c.script.EvalSha(ctx, together, c.keys, c.args...)
			}
			return nil
		})
	})
}

func lastDeadline(calls []*scriptCall) (last time.Time, ok bool) {
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
