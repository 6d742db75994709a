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
	ok    bool
	value []byte
	own   bool    // nobody else has value
	kept  *stored // value, when it is kept in this process
	err   error
}

const (
	// With 128 goroutines on loopback a read took 2.0 us with 2 lanes, which this makes
	// there, 2.4 and 3.5 with 4 and 8, and 12 without.
	readLane = 25 * time.Microsecond

	// maxBatch and batchBytes bound what one command reads: the latter by the mean
	// size of recent values, so that small ones do not wait for many large ones.
	maxBatch   = 128
	batchBytes = 256 << 10
)

// reads sends the reads of one node: alone, or each key once together: see lanes.
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
	lanes   lanes
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

func (r *reads) get(ctx context.Context, key string, b *budget) (found, error) {
	if r.many == nil {
		return r.single(ctx, key, b)
	}
	r.mu.Lock()
	if r.lanes.take() {
		r.mu.Unlock()
		return r.single(ctx, key, b)
	}
	if r.node.open.Load() {
		r.mu.Unlock()
		return found{}, ErrUnavailable
	}
	batch, i := r.join(key)
	r.mu.Unlock()
	return r.wait(ctx, batch, i, b)
}

// single reads one key, in a lane if there are lanes.
func (r *reads) single(ctx context.Context, key string, b *budget) (got found, err error) {
	var a attempt
	if r.many != nil {
		defer func() { r.leave(got, err, a.took) }() // also when a hook of the client panics
	}
	a, err = r.f.attempt(ctx, r.node, b, false)
	if err == nil {
		defer a.abort()
		got.value, got.ok, err = r.f.backend.Get(a.ctx, key)
		if err = a.end(err, b); err == nil {
			got.own = r.many != nil // a backend of somebody else's may keep what it returns
		}
	}
	return got, err
}

// join adds a read to the last batch in line. It needs r.mu.
func (r *reads) join(key string) (b *batch, i int) {
	if r.waiting++; r.waiting%4 == 2 { // not each: to ask for the time is a fiftieth of a read
		r.node.breaker.asked(time.Now(), r.waiting)
	}
	if n := len(r.line); n > 0 {
		b = r.line[n-1]
	}
	i, ok := r.index[key]
	if b == nil || !ok && len(b.keys) >= min(maxBatch, max(1, batchBytes/max(1, r.mean))) {
		b = &batch{born: time.Now(), done: make(chan struct{})}
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

func (r *reads) wait(ctx context.Context, batch *batch, i int, b *budget) (found, error) {
	var late <-chan time.Time
	if left, ok := timeLeft(ctx); ok {
		if left /= 2; left < b.left { // the loader needs time, too
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		}
	}
	select {
	case <-batch.done:
	case <-ctx.Done():
		return found{}, context.Cause(ctx)
	case <-late:
		b.left -= time.Since(batch.born)
		return found{}, fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
	}
	if batch.err != nil {
		b.left -= time.Since(batch.born)
		return found{}, batch.err
	}
	got := batch.found[i]
	if got.err != nil {
		return found{}, fmt.Errorf("%w: %w", ErrUnavailable, got.err)
	}
	got.own = len(batch.keys) == batch.reads // or another may have asked for the same
	return got, nil
}

// leave frees the lane of a read of its own, for what is in line.
func (r *reads) leave(got found, err error, took time.Duration) {
	r.mu.Lock()
	if got.ok {
		r.mean += (len(got.value) - r.mean) / 4
	}
	if err == nil {
		r.lanes.took(took)
	}
	if len(r.line) == 0 {
		r.lanes.busy--
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

// trip returns how long the quickest recent reads took, or 0 when that is not known.
func (r *reads) trip() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lanes.trip
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
	if len(r.line) == 0 || r.lanes.busy > r.lanes.all() {
		r.lanes.busy--
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
