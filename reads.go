package aside

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/recent"
	"github.com/cacheaside/aside/internal/redisstore"
)

// manyReader is a backend that reads several keys at a time, for less than as
// many times Get costs.
type manyReader interface {
	// GetMany returns what Get returns for each key. It fails as a whole when it
	// could not ask.
	GetMany(ctx context.Context, keys []string) ([]redisstore.Read, error)
}

// found is what there is under a key.
type found struct {
	ok    bool
	value []byte
	own   bool         // nobody else has value
	entry *entry.Entry // with value, when that is kept in this process
	err   error        // where several are read at once
}

const (
	// With 128 goroutines on loopback a read took 2.0 us with 2 lanes, which this makes
	// there, 2.4 and 3.5 with 4 and 8, and 12 without.
	readLane = 25 * time.Microsecond

	// maxBatch and batchBytes bound what one command reads: the latter by the largest
	// of recent values, so that small ones do not wait for many large ones.
	maxBatch   = 128
	batchBytes = 256 << 10

	// largeBytes is the size from which values are read by themselves, so that small ones
	// do not wait for them. maxLarge is how many of their keys are remembered.
	largeBytes = 64 << 10
	maxLarge   = 4096

	// patience is how many budgets a read waits, at most, while values so large that they
	// take long come one after the other.
	patience = 10
)

// reads sends the reads of one node: alone, or each key once together: see batch.Lanes.
// Keys whose values are known to be large, or were in a batch that took too long, are
// read one by one in lanes of their own: see node.
//
// A read is given a value that was asked for after the read came: P1 holds as for a GET
// of its own. It leaves when its context ends; its batch goes on for the others. A batch
// has one budget from the time its first read came, and those before it in line
// had theirs sooner, so nobody waits for longer. Only where values are large does its
// budget begin again with each one that arrives before it: the node makes progress.
type reads struct {
	f    *front
	node *node
	many manyReader // nil when each read is on its own
	of   *reads     // the node's other reads, when these are of large values

	mu       sync.Mutex
	lanes    batch.Lanes
	line     []*readBatch    // that wait for a lane
	index    map[string]int  // the keys of the last one in line
	waiting  int             // reads of all in line
	peak     int             // the largest of recent values
	progress time.Time       // when a value arrived last, if they are large
	room     int             // lanes that the line has room for while values are large
	large    map[string]bool // keys that are to be read by themselves; nil when these are
	skip     recent.Keys     // keys that take too long to read even so
}

// readBatch is some reads that go together.
type readBatch struct {
	keys   []string
	reads  int
	again  bool // it is a piece of one that failed
	shared bool // several reads of a key may be in it, whatever reads says
	born   time.Time

	done  chan struct{} // closed when the fields below are set
	found []redisstore.Read
	err   error
	parts []*readBatch // in place of both: it goes in pieces of size keys
	size  int
}

func (r *reads) get(ctx context.Context, key string, b *budget) (found, error) {
	if r.many == nil {
		return r.single(ctx, key, b)
	}
	r.mu.Lock()
	if len(r.large) > 0 && r.large[key] {
		r.mu.Unlock()
		if r.node.bulk.skip.Has(key) {
			return found{}, fmt.Errorf("%w: %w", ErrUnavailable, errTooLong)
		}
		return r.node.bulk.get(ctx, key, b)
	}
	if r.lanes.Busy < r.wide() && r.lanes.TryAcquire() {
		b.bulk = r.slow()
		r.mu.Unlock()
		got, err := r.single(ctx, key, b)
		b.bulk = false
		return got, err
	}
	if r.node.IsOpen() {
		r.mu.Unlock()
		return found{}, ErrUnavailable
	}
	in, i := r.join(key)
	r.mu.Unlock()
	return r.wait(ctx, in, i, b)
}

// single reads one key, in a lane if there are lanes.
func (r *reads) single(ctx context.Context, key string, b *budget) (got found, err error) {
	var a attempt
	if r.many != nil {
		defer func() { r.leave(key, got, err, a.took) }() // also when a hook of the client panics
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
func (r *reads) join(key string) (b *readBatch, i int) {
	if r.waiting++; r.waiting%4 == 2 && !r.slow() { // not each: to ask for the time is a fiftieth of a read
		r.node.Asked(time.Now(), r.waiting)
	}
	if n := len(r.line); n > 0 {
		b = r.line[n-1]
	}
	i, ok := r.index[key]
	if b == nil || !ok && len(b.keys) >= r.most() {
		b = &readBatch{born: time.Now(), done: make(chan struct{})}
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

// most is how many keys go together. It needs r.mu.
func (r *reads) most() int {
	if r.of != nil {
		return 1
	}
	return min(maxBatch, max(1, batchBytes/max(1, r.peak)))
}

// slow reports whether values are so large that others wait for their transfer. It needs
// r.mu.
func (r *reads) slow() bool { return r.of != nil || r.peak >= largeBytes }

func (r *reads) wait(ctx context.Context, in *readBatch, i int, b *budget) (found, error) {
	var late <-chan time.Time
	if left, ok := deadline.Left(ctx); ok {
		if left /= 2; left < b.left { // the loader needs time, too
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		}
	}
	for {
		select {
		case <-in.done:
		case <-ctx.Done():
			return found{}, context.Cause(ctx)
		case <-late:
			b.left -= time.Since(in.born)
			return found{}, fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
		}
		if in.parts == nil {
			break
		}
		in, i = in.parts[i/in.size], i%in.size
	}
	if in.err != nil {
		b.left -= time.Since(in.born)
		return found{}, in.err
	}
	read := in.found[i]
	if read.Err != nil {
		return found{}, fmt.Errorf("%w: %w", ErrUnavailable, read.Err)
	}
	got := found{value: read.Value, ok: read.OK}
	got.own = len(in.keys) == in.reads && !in.shared // or another may have asked for the same
	return got, nil
}

// leave frees the lane of a read of its own, for what is in line.
func (r *reads) leave(key string, got found, err error, took time.Duration) {
	r.mu.Lock()
	if err == nil || !isTimeout(err) || took >= r.f.cfg.Timeout/2 { // or its caller had little time, which says nothing of the value
		r.learn(key, got.value, err)
		r.fits(key, err, took)
	}
	if err == nil {
		r.lanes.Observe(took)
	}
	if len(r.line) == 0 {
		r.lanes.Busy--
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	if !r.f.life.Go(r.run) {
		r.refuse()
	}
}

// learn takes the end of a read of key. It needs r.mu. A value that took too long is
// taken for a large one: its size is not known.
func (r *reads) learn(key string, value []byte, err error) {
	isLarge := len(value) >= largeBytes || err != nil && isTimeout(err)
	if r.of == nil {
		r.peak -= r.peak / 64
		r.peak = max(r.peak, len(value))
		if isLarge {
			r.apart(key)
		}
	} else if !isLarge && err == nil {
		r.of.mu.Lock() // always after r.mu
		delete(r.of.large, key)
		r.of.mu.Unlock()
	}
	if err == nil && r.slow() {
		r.progress = time.Now()
	}
}

// fits takes how long a read of a large value took, and adapts to it how many go at a
// time: fewer after one that timed out, one more after one that was quick. It needs r.mu.
func (r *reads) fits(key string, err error, took time.Duration) {
	switch {
	case !r.slow():
	case err == nil && took < r.f.cfg.Timeout/4:
		r.room = min(r.room+1, batch.MaxLanes)
		if len(r.line) > 0 && r.lanes.Busy < r.wide() {
			if r.lanes.Busy++; !r.f.life.Go(r.run) {
				r.lanes.Busy--
			}
		}
	case err != nil && isTimeout(err):
		if r.of != nil && r.lanes.Busy == 1 {
			r.f.readTooLong(r.node, key)
		}
		r.room = max(r.room/2, 1)
	}
}

// wide is how many lanes there are. It needs r.mu.
func (r *reads) wide() int {
	if r.slow() {
		return min(r.lanes.Limit(), r.room)
	}
	return r.lanes.Limit()
}

// apart has keys read by themselves from now on. It needs r.mu.
func (r *reads) apart(keys ...string) {
	if r.of != nil {
		return
	}
	if len(r.large)+len(keys) > maxLarge {
		clear(r.large)
	}
	for _, key := range keys {
		r.large[key] = true
	}
}

// run sends what is in line until there is nothing more.
func (r *reads) run() {
	over := false
	defer func() {
		if !over && !r.f.life.Go(r.run) { // code of the client has ended this goroutine
			r.refuse()
		}
	}()
	for b, left := r.next(); b != nil; b, left = r.next() {
		r.send(b, left)
		// Those who have their values now ask for the next ones: let them, so that
		// they go together.
		runtime.Gosched()
	}
	over = true
}

func (r *reads) send(b *readBatch, left *budget) {
	start := time.Now()
	b.err = foreign.ErrExited // unless it returns
	defer func() {
		if r.ended(b, time.Since(start)) {
			close(b.done)
		}
	}()
	b.found, b.err = do(r.f.life.Context(), r.f, b.keys[0], left, false, func(ctx context.Context) ([]redisstore.Read, error) {
		found, err := r.many.GetMany(ctx, b.keys)
		if err != nil && b.again {
			err = redisstore.NotAgain{Err: err}
		}
		return found, err
	})
}

// trip returns how long the quickest recent reads took, or 0 when that is not known.
func (r *reads) trip() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lanes.RTT
}

// ended takes the end of a batch, and reports whether that is what its callers get. A
// batch that failed, and has time left, goes again in two pieces: it may have been too
// much for the line.
func (r *reads) ended(b *readBatch, took time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fits(b.keys[0], b.err, took)
	if b.err == nil {
		for i, read := range b.found {
			if read.Err == nil {
				r.learn(b.keys[i], read.Value, nil)
			}
		}
		return true
	}
	if isTimeout(b.err) {
		r.peak = max(r.peak, 2*batchBytes/len(b.keys)) // half as many fit
		r.apart(b.keys...)
	}
	if len(b.keys) == 1 || redisstore.Answered(b.err) || r.node.IsOpen() || r.left(b) <= 0 || r.f.life.IsClosed() {
		return true
	}
	r.cut(b, (len(b.keys)+1)/2, 0)
	return false
}

// cut has a batch go in pieces of n keys, which come into line at i. It needs r.mu.
func (r *reads) cut(b *readBatch, n, i int) {
	b.size = n
	for keys := range slices.Chunk(b.keys, n) {
		b.parts = append(b.parts, &readBatch{keys: keys, reads: len(keys), again: b.again || b.err != nil, shared: b.shared || b.reads != len(b.keys), born: b.born, done: make(chan struct{})})
	}
	if i == len(r.line) {
		clear(r.index) // of the one that is the last no more
	}
	r.line = slices.Insert(r.line, i, b.parts...)
	r.waiting += len(b.keys)
	b.err = nil
	close(b.done)
}

// left is what a batch may still spend. It needs r.mu.
func (r *reads) left(b *readBatch) time.Duration {
	since := b.born
	if r.slow() && r.progress.After(since) {
		since = r.progress
	}
	return min(r.f.cfg.Timeout-time.Since(since), patience*r.f.cfg.Timeout-time.Since(b.born))
}

// next takes the first batch in line, with its budget, or frees the lane when there is
// none.
func (r *reads) next() (*readBatch, *budget) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) == 0 || r.lanes.Busy > r.wide() {
		r.lanes.Busy--
		return nil, nil
	}
	b := r.take()
	if n := r.most(); len(b.keys) > n { // it was not known how large its values are
		r.cut(b, n, 0)
		b = r.take()
	}
	return b, &budget{left: r.left(b), bulk: r.slow()}
}

// take takes the first batch in line. It needs r.mu.
func (r *reads) take() *readBatch {
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
	for b, _ := r.next(); b != nil; b, _ = r.next() {
		b.err = ErrClosed
		close(b.done)
	}
}

// leftAlone is how long a value that takes longer than the budget is neither read nor
// stored, although the backend answers others: to try each time would cost each caller a
// budget, and the line its room.
const leftAlone = 30 * time.Second

var errTooLong = errors.New("aside: its transfer takes longer than Config.Timeout")

// readTooLong takes a read that timed out while it was the only large one on its way.
// It is about the value if the node answers others.
func (f *front) readTooLong(n *node, key string) {
	f.life.Go(func() {
		if n.Probe() != nil {
			return
		}
		n.Success()
		n.bulk.skip.Add(key, leftAlone)
		f.warnOnce(f.spaceOf(key), key, "cache: stored values take too long to read, and are loaded (logged once per keyspace)", errTooLong)
	})
}

// fillFailed takes a fill that failed. If it was one of a large value that timed out, and
// the node answers others, it is about the value; and to send it again is of no use for
// a while, unless other large values shared the line with it.
func (f *front) fillFailed(space *Keyspace, key string, size int, err error) {
	if f.local || size <= redisstore.AloneBytes || !isTimeout(err) {
		return
	}
	n, alone := f.nodeOf(key), f.filling.Load() == 0
	f.life.Go(func() {
		if n.Probe() != nil {
			return
		}
		n.Success()
		if alone {
			f.unstored.Add(key, leftAlone)
		}
		f.notStored(space, key, fmt.Errorf("%w: it has %d bytes", errTooLong, size))
	})
}

// spaceOf returns a keyspace with the name of the key's.
func (f *front) spaceOf(key string) *Keyspace {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	return &Keyspace{Name: name}
}
