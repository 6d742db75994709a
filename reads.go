package aside

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/batch"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/recent"
	"github.com/cacheaside/aside/internal/redisstore"
)

// found is what there is under a key.
type found struct {
	ok    bool
	value []byte
	mark  backend.Mark // if it was asked for
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

// reads sends the reads of one node: alone, or each key once together: see batch.Line.
// Keys whose values are known to be large, or were in a batch that took too long, are
// read one by one in lanes of their own: see node.
//
// A read is given a value that was asked for after the read came: P1 holds as for a GET
// of its own. It leaves when its context ends; its batch goes on for the others. A batch
// has one budget from the time its first read came, and those before it in line
// had theirs sooner, so nobody waits for longer. Only where values are large does its
// budget begin again with each one that arrives before it: the node makes progress.
type reads struct {
	batch.Line[redisstore.Ask, redisstore.Read] // whose Mu guards what follows

	f    *front
	node *node
	of   *reads // the node's other reads, when these are of large values

	peak     int             // the largest of recent values
	progress time.Time       // when a value arrived last, if they are large
	room     int             // lanes that there may be while values are large
	large    map[string]bool // keys that are to be read by themselves; nil when these are
	skip     recent.Keys     // keys that take too long to read even so
}

type readBatch = batch.Batch[redisstore.Ask, redisstore.Read]

// start makes the reads ready for a node to which there may be so many connections.
func (r *reads) start(f *front, n *node, most int) {
	r.f, r.node = f, n
	r.PerLane, r.Most, r.Go, r.Closed = readLane, most, f.life.Go, ErrClosed
	r.PerBatch, r.Room, r.Send, r.Ended = r.perBatch, r.lanes, r.send, r.ended
}

func (r *reads) get(ctx context.Context, ask redisstore.Ask, b *budget) (found, error) {
	key := ask.Key
	if r.node.redis == nil {
		return r.single(ctx, ask, b)
	}
	r.Mu.Lock()
	if len(r.large) > 0 && r.large[key] {
		r.Mu.Unlock()
		if r.node.bulk.skip.Has(key) {
			return found{}, fmt.Errorf("%w: %w", ErrUnavailable, errTooLong)
		}
		return r.node.bulk.get(ctx, ask, b)
	}
	if r.TryAcquire() {
		b.bulk = r.slow()
		r.Mu.Unlock()
		got, err := r.single(ctx, ask, b)
		b.bulk = false
		return got, err
	}
	if r.node.IsOpen() {
		r.Mu.Unlock()
		return found{}, ErrUnavailable
	}
	in, i := r.Join(ask)
	if !r.slow() {
		r.node.crowded(r.Waiting)
	}
	r.Mu.Unlock()
	read, shared, err := await(ctx, &r.Line, in, i, b)
	if err != nil {
		return found{}, err
	}
	if read.Err != nil {
		return found{}, fmt.Errorf("%w: %w", ErrUnavailable, read.Err)
	}
	return found{value: read.Value, mark: read.Mark, ok: read.OK, own: !shared}, nil
}

// askAll reads keys, those of one node together.
func (f *front) askAll(ctx context.Context, asks []redisstore.Ask) []found {
	answers := make([]found, len(asks))
	if left, ok := deadline.Left(ctx); ok && left/2 < f.cfg.Timeout {
		var cancel context.CancelFunc
		ctx, cancel = deadline.Within(ctx, left/2) // the loader needs time, too
		defer cancel()
	}
	f.eachNode(len(asks), func(i int) string { return asks[i].Key }, func(n *node, which []int) {
		var inLine []redisstore.Ask
		var places, alone []int
		r := &n.reads
		r.Mu.Lock()
		for _, i := range which {
			if err := f.usable(asks[i].Key); err != nil {
				answers[i].err = err
			} else if n.redis == nil || r.large[asks[i].Key] {
				alone = append(alone, i)
			} else {
				inLine, places = append(inLine, asks[i]), append(places, i)
			}
		}
		r.Mu.Unlock()
		done := r.All(ctx, inLine, func() bool { return !n.IsOpen() }, func(k int, read redisstore.Read, shared bool, err error) bool {
			a := &answers[places[k]]
			if a.err = err; err == nil {
				*a = found{value: read.Value, mark: read.Mark, ok: read.OK, own: !shared, err: read.Err}
			}
			return err == nil
		})
		for _, i := range places[done:] {
			answers[i].err = ErrUnavailable
		}
		few(len(alone), func(k int) {
			a := &answers[alone[k]]
			if done < len(places) {
				a.err = ErrUnavailable
				return
			}
			got, err := f.ask(ctx, asks[alone[k]], f.newBudget())
			*a, a.err = got, err
		})
	})
	return answers
}

// single reads one key, in a lane if there are lanes.
func (r *reads) single(ctx context.Context, ask redisstore.Ask, b *budget) (got found, err error) {
	key := ask.Key
	var a attempt
	if r.node.redis != nil {
		defer func() { r.leave(key, got, err, a.took) }() // also when a hook of the client panics
	}
	a, err = r.f.attempt(ctx, r.node, b, false)
	if err == nil {
		defer a.abort()
		if ask.Marked {
			got.value, got.mark, got.ok, err = r.f.backend.GetMarked(a.ctx, key)
		} else {
			got.value, got.ok, err = r.f.backend.Get(a.ctx, key)
		}
		if err = a.end(err, b); err == nil {
			got.own = r.node.redis != nil // a backend of somebody else's may keep what it returns
		}
	}
	return got, err
}

// perBatch is how many keys go together. It needs Mu.
func (r *reads) perBatch() int {
	if r.of != nil {
		return 1
	}
	return min(maxBatch, max(1, batchBytes/max(1, r.peak)))
}

// slow reports whether values are so large that others wait for their transfer. It needs
// Mu.
func (r *reads) slow() bool { return r.of != nil || r.peak >= largeBytes }

// leave frees the lane of a read of its own.
func (r *reads) leave(key string, got found, err error, took time.Duration) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if err == nil || !isTimeout(err) || took >= r.f.cfg.Timeout/2 { // or its caller had little time, which says nothing of the value
		r.learn(key, got.value, err)
		r.fits(key, err, took)
	}
	if err == nil {
		r.Observe(took)
	}
	r.Leave()
}

// learn takes the end of a read of key. It needs Mu. A value that took too long is
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
		r.of.Mu.Lock() // always after this one
		delete(r.of.large, key)
		r.of.Mu.Unlock()
	}
	if err == nil && r.slow() {
		r.progress = time.Now()
	}
}

// fits takes how long a read of a large value took, and adapts to it how many go at a
// time: fewer after one that timed out, one more after one that was quick. It needs Mu.
func (r *reads) fits(key string, err error, took time.Duration) {
	switch {
	case !r.slow():
	case err == nil && took < r.f.cfg.Timeout/4:
		r.room = min(r.room+1, batch.MaxLanes)
		r.Serve()
	case err != nil && isTimeout(err):
		if r.of != nil && r.Busy == 1 {
			r.f.readTooLong(r.node, key)
		}
		r.room = max(r.room/2, 1)
	}
}

// lanes is how many lanes there may be. It needs Mu.
func (r *reads) lanes() int {
	if r.slow() {
		return r.room
	}
	return batch.MaxLanes
}

// apart has key read by itself from now on. It needs Mu.
func (r *reads) apart(key string) {
	if r.of != nil {
		return
	}
	if len(r.large) >= maxLarge {
		clear(r.large)
	}
	r.large[key] = true
}

func (r *reads) send(b *readBatch) ([]redisstore.Read, error) {
	r.Mu.Lock()
	left := budget{left: r.left(b), bulk: r.slow(), again: b.Again}
	r.Mu.Unlock()
	return do(r.f.life.Context(), r.f, b.Calls[0].Key, &left, false, func(ctx context.Context) ([]redisstore.Read, error) {
		return r.node.redis.GetMany(ctx, b.Calls)
	})
}

// trip returns how long the quickest recent reads took, or 0 when that is not known.
func (r *reads) trip() time.Duration {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return r.RTT
}

// ended takes the end of a batch. One that failed, and has time left, goes again in two
// pieces: it may have been too much for the line. It needs Mu.
func (r *reads) ended(b *readBatch, took time.Duration) (again bool) {
	r.fits(b.Calls[0].Key, b.Err, took)
	if b.Err == nil {
		for i, read := range b.Results {
			if read.Err == nil {
				r.learn(b.Calls[i].Key, read.Value, nil)
			}
		}
		return false
	}
	if isTimeout(b.Err) {
		r.peak = max(r.peak, 2*batchBytes/len(b.Calls)) // half as many fit
		for _, ask := range b.Calls {
			r.apart(ask.Key)
		}
	}
	return len(b.Calls) > 1 && !redisstore.Answered(b.Err) && !r.node.IsOpen() && r.left(b) > 0 && !r.f.life.IsClosed()
}

// left is what a batch may still spend. It needs Mu.
func (r *reads) left(b *readBatch) time.Duration {
	since := b.Born
	if r.slow() && r.progress.After(since) {
		since = r.progress
	}
	return min(r.f.cfg.Timeout-time.Since(since), patience*r.f.cfg.Timeout-time.Since(b.Born))
}

// leftAlone is how long a value that takes longer than the budget is neither read nor
// stored, although the backend answers others: to try each time would cost each caller a
// budget, and the line its room.
const leftAlone = 30 * time.Second

var errTooLong = errors.New("aside: its transfer takes longer than Config.Timeout")

// readTooLong takes a read that timed out while it was the only large one on its way. It is
// about the value if the node answers others, and the value is large: a small one was late
// because the node stood still for a moment, and is read with the others again.
func (f *front) readTooLong(n *node, key string) {
	f.life.Go(func() {
		if n.Probe() != nil {
			return
		}
		n.Success()
		ctx, cancel := context.WithTimeout(f.life.Context(), f.cfg.Timeout)
		defer cancel()
		if size, err := n.redis.Size(ctx, key); err == nil && size < largeBytes {
			n.reads.Mu.Lock()
			defer n.reads.Mu.Unlock()
			delete(n.reads.large, key)
			return
		}
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
