// Reads of one node. A few reads go alone, each in a lane; the rest share commands
// (batch.Line). This file adds to the line the rules that come from values: how many keys fit
// into one command (perBatch), and how large values are kept from delaying small ones.
// Values from largeBytes on are read one by one in the node's bulk line, fewer at a time when
// they are slow (fits). A value that takes longer than the time budget although the node
// answers others is neither read nor stored for a while (readTooLong, fillFailed).

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

// found is the answer to a read of one key.
type found struct {
	ok    bool
	value []byte
	mark  backend.Mark // if it was asked for
	own   bool         // value is the caller's alone, and may be decoded without a copy
	entry *entry.Entry // has value, when that is kept in this process
	err   error        // of this key, where several are read at once
}

const (
	// readLane is the length of round trip that warrants one lane for reads. On loopback
	// it makes 2 lanes. With 128 goroutines a read then took 2.0 us, against 2.4 and 3.5
	// with 4 and 8 lanes, and 12 without lanes.
	readLane = 25 * time.Microsecond

	// maxBatch and batchBytes bound how many keys one command reads. batchBytes counts
	// each key as the largest of recent values, so that a small value does not wait for
	// the transfer of many large ones.
	maxBatch   = 128
	batchBytes = 256 << 10

	// largeBytes is the size from which values are read by themselves, so that small ones
	// do not wait for them. maxLarge is how many of their keys are remembered.
	largeBytes = 64 << 10
	maxLarge   = 4096

	// patience is how many time budgets a read waits at most while large values keep
	// arriving before it.
	patience = 10
)

// reads is the line of a node's reads: see batch.Line. A node has two, one for all keys and
// one, bulk, for keys that are known to have large values or were in a batch that took too
// long.
//
// A read's result was requested after the read began, so promise 1 holds as for a GET of its
// own. A caller leaves when its context ends; its batch goes on for the others. The budget of a
// batch runs from the arrival of its first read. Earlier batches have started earlier, so no
// caller waits longer than one budget in line. Where values are large, the budget starts
// again with each value that arrives, up to patience times: the node makes progress.
type reads struct {
	batch.Line[redisstore.Ask, redisstore.Read] // its Mu guards peak, progress, room and large

	f    *front
	node *node
	of   *reads // in bulk, the node's other reads; else nil

	peak     int             // the size of the largest of recent values, decaying
	progress time.Time       // when a value last arrived while values were large
	room     int             // how many lanes there may be while values are large
	large    map[string]bool // keys that belong to bulk; nil in bulk
	skip     recent.Keys     // in bulk: keys that take too long to read even alone
}

type readBatch = batch.Batch[redisstore.Ask, redisstore.Read]

// start sets the line up for a node. most is how many connections there may be, or 0.
func (r *reads) start(f *front, n *node, most int) {
	r.f, r.node = f, n
	r.PerLane, r.Most, r.Go, r.Closed = readLane, most, f.life.Go, ErrClosed
	r.PerBatch, r.Room, r.Send, r.Ended = r.perBatch, r.lanes, r.send, r.ended
}

// get reads one key within the budget: in a lane if one is free, in line otherwise, or in
// bulk if its value is known to be large.
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

// askAll reads keys, those of one node together, and returns an answer for each, in their
// order. It takes at most half of the time that ctx has left. After a node has failed to
// answer, the rest of its keys fail unsent.
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

// single reads one key by a command of its own, and frees the lane that its caller has taken
// for it, if the backend is Redis.
func (r *reads) single(ctx context.Context, ask redisstore.Ask, b *budget) (got found, err error) {
	key := ask.Key
	var a attempt
	if r.node.redis != nil {
		defer func() { r.leave(key, got, err, a.took) }() // deferred, as a hook of the client may panic
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
			got.own = r.node.redis != nil // a foreign backend may keep the bytes that it returns
		}
	}
	return got, err
}

// perBatch is how many keys one command reads at most. The caller must hold Mu.
func (r *reads) perBatch() int {
	if r.of != nil {
		return 1
	}
	return min(maxBatch, max(1, batchBytes/max(1, r.peak)))
}

// slow reports whether values are so large that their transfer delays others. The caller
// must hold Mu.
func (r *reads) slow() bool { return r.of != nil || r.peak >= largeBytes }

// leave frees the lane of a read that went alone, and learns from its end. A time-out after
// less than half of the time budget is not learnt from: its caller had little time, which
// says nothing about the value.
func (r *reads) leave(key string, got found, err error, took time.Duration) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if err == nil || !isTimeout(err) || took >= r.f.cfg.Timeout/2 {
		r.learn(key, got.value, err)
		r.fits(key, err, took)
	}
	if err == nil {
		r.Observe(took)
	}
	r.Leave()
}

// learn notes the size of the value of key after a read, and moves the key to bulk or back.
// A value that took too long counts as large, as its size is not known. The caller
// must hold Mu.
func (r *reads) learn(key string, value []byte, err error) {
	isLarge := len(value) >= largeBytes || err != nil && isTimeout(err)
	if r.of == nil {
		// The peak decays, so that batches grow again after large values have gone.
		r.peak -= r.peak / 64
		r.peak = max(r.peak, len(value))
		if isLarge {
			r.apart(key)
		}
	} else if !isLarge && err == nil {
		r.of.Mu.Lock() // always after bulk's own Mu
		delete(r.of.large, key)
		r.of.Mu.Unlock()
	}
	if err == nil && r.slow() {
		r.progress = time.Now()
	}
}

// fits adapts how many large values are read at a time to how long the last one took: half
// as many after a time-out, one more after a quick one. When a value times out alone, it does
// not fit at all: see readTooLong. The caller must hold Mu.
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

// lanes is how many lanes there may be. The caller must hold Mu.
func (r *reads) lanes() int {
	if r.slow() {
		return r.room
	}
	return batch.MaxLanes
}

// apart moves key to bulk, where it is read by itself. When there are too many such keys, all
// of the others are forgotten, and found again at their next read. The caller must hold Mu.
func (r *reads) apart(key string) {
	if r.of != nil {
		return
	}
	if len(r.large) >= maxLarge {
		clear(r.large)
	}
	r.large[key] = true
}

// send reads a batch within the rest of its time budget. Its context is that of the
// front, not of a caller: the batch goes on when one of its callers leaves.
func (r *reads) send(b *readBatch) ([]redisstore.Read, error) {
	r.Mu.Lock()
	left := budget{left: r.left(b), bulk: r.slow(), again: b.Again}
	r.Mu.Unlock()
	return do(r.f.life.Context(), r.f, b.Calls[0].Key, &left, false, func(ctx context.Context) ([]redisstore.Read, error) {
		return r.node.redis.GetMany(ctx, b.Calls)
	})
}

// trip returns how long the quickest recent reads took, or 0 before the first.
func (r *reads) trip() time.Duration {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return r.RTT
}

// ended takes the end of a batch, and reports whether it is sent again in two pieces. That
// is so when it failed with time left: it may have been too much for the connection. The
// caller must hold Mu.
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
		// One of the values may be too large, and it is not known which: read each by
		// itself, and take half as many keys into the next batches.
		r.peak = max(r.peak, 2*batchBytes/len(b.Calls))
		for _, ask := range b.Calls {
			r.apart(ask.Key)
		}
	}
	return len(b.Calls) > 1 && !redisstore.Answered(b.Err) && !r.node.IsOpen() && r.left(b) > 0 && !r.f.life.IsClosed()
}

// left is the rest of a batch's time budget. The caller must hold Mu.
func (r *reads) left(b *readBatch) time.Duration {
	since := b.Born
	if r.slow() && r.progress.After(since) {
		since = r.progress
	}
	return min(r.f.cfg.Timeout-time.Since(since), patience*r.f.cfg.Timeout-time.Since(b.Born))
}

// leftAlone is how long a value that takes longer than the time budget is neither read nor
// stored while the backend answers others. Trying it each time would cost each caller a
// budget, and large values their room in the line.
const leftAlone = 30 * time.Second

// errTooLong is the error of a value that is too large for the connection and the time
// budget.
var errTooLong = errors.New("aside: the transfer of the value takes longer than Config.Timeout")

// readTooLong takes a read that timed out while it was the only large one on its way. If the
// node answers a probe, and the value is large, the value is to blame, and is skipped for
// leftAlone. A small value was late because the node stood still for a moment: it is read
// with the others again.
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
		f.warnOnce(f.spaceOf(key), key, "aside: stored values too slow to read, loaded instead (logged once per keyspace)", errTooLong)
	})
}

// fillFailed takes a fill that failed. If it was a large value that timed out, and the node
// answers a probe, the value is to blame, and counts as not stored. It is not sent again for
// leftAlone, unless other large values shared the connection with it.
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

// spaceOf returns a keyspace that has the name of the key's, and nothing else of it.
func (f *front) spaceOf(key string) *Keyspace {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, f.cfg.KeyPrefix), ":")
	return &Keyspace{Name: name}
}
