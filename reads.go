package aside

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// manyReader is a backend that reads several keys at a time, for less than as
// many times Get costs.
type manyReader interface {
	// getMany returns what Get returns for each key. It fails as a whole when it
	// could not ask.
	getMany(ctx context.Context, keys []string) ([]found, error)
}

// found is what there is under a key.
type found struct {
	value []byte
	ok    bool
	err   error
}

// lanes is how many commands that read are on their way to a node before further
// reads wait for one of them.
var lanes = 4

const (
	// maxBatch and batchBytes bound what one command reads: the latter by the mean
	// size of recent values, so that small ones do not wait for many large ones.
	maxBatch   = 128
	batchBytes = 256 << 10
)

// reads sends the reads of one node. While few are on their way, each is a GET of
// its own. Those that come meanwhile are gathered, each key once, and go together
// when a lane is free: what costs most is not the key, but the round trip and the
// system calls that it takes on both sides. Nobody waits in order that others may
// come: a read is late by the part of a round trip that it takes until one of the
// lanes is free.
//
// What a read is given was asked for after it came: P1 holds as for a GET of its
// own. It leaves when its context ends; its batch goes on for the others. A batch
// has one budget from the time its first read came, and those before it in line
// had theirs sooner, so nobody waits for longer.
type reads struct {
	f    *front
	node *node
	many manyReader // nil when each read is on its own

	mu      sync.Mutex
	busy    int            // lanes
	line    []*batch       // that wait for a lane
	index   map[string]int // the keys of the last one in line
	waiting int            // reads of all in line
	mean    int            // size of recent values
}

// batch is some reads that go together.
type batch struct {
	keys  []string
	reads int
	born  time.Time

	done  chan struct{} // closed when the fields below are set
	found []found
	err   error
}

func (r *reads) get(ctx context.Context, key string, b *budget) ([]byte, bool, error) {
	if r.many == nil {
		return r.single(ctx, key, b)
	}
	r.mu.Lock()
	if r.busy < lanes {
		r.busy++
		r.mu.Unlock()
		value, ok, err := r.single(ctx, key, b)
		r.leave(len(value), ok)
		return value, ok, err
	}
	if r.node.open.Load() {
		r.mu.Unlock()
		return nil, false, ErrUnavailable
	}
	batch, i := r.join(key)
	r.mu.Unlock()
	return r.wait(ctx, batch, i, b)
}

func (r *reads) single(ctx context.Context, key string, b *budget) ([]byte, bool, error) {
	v, err := do(ctx, r.f, key, b, false, func(ctx context.Context) (found, error) {
		value, ok, err := r.f.backend.Get(ctx, key)
		return found{value: value, ok: ok}, err
	})
	return v.value, v.ok, err
}

// join adds a read to the last batch in line. It needs r.mu.
func (r *reads) join(key string) (b *batch, i int) {
	now := time.Now()
	r.waiting++
	r.node.breaker.asked(now, r.waiting)
	if n := len(r.line); n > 0 {
		b = r.line[n-1]
	}
	i, ok := r.index[key]
	if b == nil || !ok && len(b.keys) >= min(maxBatch, max(1, batchBytes/max(1, r.mean))) {
		b = &batch{born: now, done: make(chan struct{})}
		r.line = append(r.line, b)
		clear(r.index)
		ok = false
	}
	if !ok {
		i = len(b.keys)
		b.keys = append(b.keys, key)
		r.index[key] = i
	}
	b.reads++
	return b, i
}

func (r *reads) wait(ctx context.Context, batch *batch, i int, b *budget) ([]byte, bool, error) {
	var late <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		if d := time.Until(deadline) / 2; d < b.left { // the loader needs time, too
			timer := time.NewTimer(d)
			defer timer.Stop()
			late = timer.C
		}
	}
	select {
	case <-batch.done:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	case <-late:
		b.left -= time.Since(batch.born)
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
	}
	if batch.err != nil {
		b.left -= time.Since(batch.born)
		return nil, false, batch.err
	}
	got := batch.found[i]
	return got.value, got.ok, got.err
}

// leave frees a lane, for what is in line, after a read of its own.
func (r *reads) leave(size int, ok bool) {
	r.mu.Lock()
	if ok {
		r.mean += (size - r.mean) / 4
	}
	if len(r.line) == 0 {
		r.busy--
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	if !r.f.later(r.run) {
		r.refuse()
	}
}

// run sends what is in line until there is nothing more.
func (r *reads) run() {
	for b := r.next(); b != nil; b = r.next() {
		b.found, b.err = do(r.f.closing, r.f, b.keys[0], &budget{r.f.cfg.Timeout - time.Since(b.born)}, false, func(ctx context.Context) ([]found, error) {
			return r.many.getMany(ctx, b.keys)
		})
		r.measure(b.found)
		close(b.done)
		// Those who have their values now ask for the next ones: let them, so that
		// they go together.
		runtime.Gosched()
	}
}

func (r *reads) measure(values []found) {
	size, n := 0, 0
	for _, v := range values {
		if v.ok {
			size += len(v.value)
			n++
		}
	}
	if n > 0 {
		r.mu.Lock()
		r.mean += (size/n - r.mean) / 4
		r.mu.Unlock()
	}
}

// next takes the first batch in line, or frees the lane when there is none.
func (r *reads) next() *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) == 0 {
		r.busy--
		return nil
	}
	b := r.line[0]
	r.line = r.line[1:]
	r.waiting -= b.reads
	if len(r.line) == 0 {
		r.line = nil
		clear(r.index)
	}
	return b
}

// refuse fails what is in line when the front closes.
func (r *reads) refuse() {
	for b := r.next(); b != nil; b = r.next() {
		b.err = ErrClosed
		close(b.done)
	}
}
