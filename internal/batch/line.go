package batch

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Line is the line of one kind of call to one server. A caller that gets a lane from
// [Line.TryAcquire] sends its call alone, and ends with [Line.Leave]. Any other caller takes
// a place by [Line.Join], and waits in [Line.Wait] for the result: the calls in line share
// round trips as lanes become free. Equal calls in the last batch share one place.
//
// A goroutine serves the line in each lane that is free, and ends when the line is empty. An
// idle Line has no goroutine.
//
// The fields above Mu are set before the first call. Mu guards the others, those of Lanes
// and of every Batch in line, and any state by which the user's functions decide. The
// functions are called without Mu unless their comments say that they have it; one that has
// it must not wait.
type Line[C comparable, R any] struct {
	Lanes
	Go       func(work func()) bool // runs work in a goroutine, or reports that it no longer starts any
	Closed   error                  // the error of calls in line when Go reports that
	PerBatch func() int             // how many calls go together at most; has Mu

	Within time.Duration // a call that comes this long after a batch's first one goes into the next; 0 is no limit

	// Send carries a batch out, and returns a result for each call.
	Send func(*Batch[C, R]) ([]R, error)

	// The functions below may be nil.
	Room      func() int                             // how many lanes there may be at most; has Mu
	Ended     func(*Batch[C, R], time.Duration) bool // takes a batch and how long it took, and reports whether to send it again in two pieces; has Mu
	Unclaimed func(call C, result R)                 // takes the result of a call if its caller has left

	Mu      sync.Mutex
	Waiting int            // callers in line
	line    []*Batch[C, R] // not sent yet, the oldest first
	last    map[C]int      // the places of the calls in the last batch in line
}

// Batch is calls that go together. Callers must not modify it.
type Batch[C comparable, R any] struct {
	Calls   []C
	Callers int       // more than there are Calls when callers share a call
	Born    time.Time // when the first of Calls came
	Again   bool      // the batch is a piece of one that failed
	Results []R       // one for each of Calls, unless there is Err
	Err     error

	done  chan struct{}  // closed when the fields have their last values
	parts []*Batch[C, R] // sent in the batch's place, with size calls each but the last
	size  int
	left  []int // places of the callers that have left before done
}

// errExited is the error of a batch when Send has ended its goroutine.
var errExited = errors.New("foreign code ended the goroutine that sent the batch")

// TryAcquire takes a lane, if one is free. The caller must hold Mu.
func (l *Line[C, R]) TryAcquire() bool {
	if l.Busy >= l.wide() {
		return false
	}
	l.Busy++
	return true
}

// wide is how many lanes there are. The caller must hold Mu.
func (l *Line[C, R]) wide() int {
	if l.Room != nil {
		return min(l.Limit(), l.Room())
	}
	return l.Limit()
}

// Leave frees a lane, in which the line is then served. The caller must hold Mu.
func (l *Line[C, R]) Leave() {
	l.Busy--
	l.Serve()
}

// Serve starts serving the line in one more lane, if one is free and there are calls. When no
// goroutine can be started, all calls in line fail with Closed. The caller must hold Mu.
func (l *Line[C, R]) Serve() {
	if len(l.line) == 0 || !l.TryAcquire() || l.Go(l.serve) {
		return
	}
	// The process is closing. No lane would ever serve these calls.
	l.Busy--
	for len(l.line) > 0 {
		b := l.take()
		b.Err = l.Closed
		close(b.done)
	}
}

// Join puts a call into the last batch in line, or into a new one, and returns its batch and
// its place there. The caller must hold Mu. Before it lets go of Mu, it must have failed to
// get a lane, or call Serve: otherwise nothing might serve the line. It must then call Wait.
func (l *Line[C, R]) Join(c C) (b *Batch[C, R], i int) {
	l.Waiting++
	if n := len(l.line); n > 0 {
		b = l.line[n-1]
	}
	i, ok := l.last[c]
	if b == nil || !ok && (len(b.Calls) >= l.PerBatch() || l.Within > 0 && time.Since(b.Born) > l.Within) {
		b, ok = &Batch[C, R]{Born: time.Now(), done: make(chan struct{})}, false
		l.line = append(l.line, b)
		clear(l.last)
	}
	if !ok {
		if l.last == nil {
			l.last = make(map[C]int)
		}
		i = len(b.Calls)
		b.Calls = append(b.Calls, c)
		l.last[c] = i
	}
	b.Callers++
	return b, i
}

// ahead is how many batches of one All are in line at a time.
const ahead = 4

// All carries out many calls of one caller, a few batches at a time so that calls of others
// get in between, and calls got with the result of each, in order, as [Line.Wait] returns
// it. It stops putting calls in line when goesOn, which has Mu, or a call of got has returned
// false. It returns how many calls were given to got; the rest was not sent.
func (l *Line[C, R]) All(ctx context.Context, calls []C, goesOn func() bool, got func(i int, result R, shared bool, err error) bool) (done int) {
	type place struct {
		b *Batch[C, R]
		i int
	}
	var places []place
	for more := true; more && done < len(calls); {
		l.Mu.Lock()
		if !goesOn() {
			l.Mu.Unlock()
			return done
		}
		places = places[:0]
		for _, c := range calls[done:min(done+ahead*l.PerBatch(), len(calls))] {
			b, i := l.Join(c)
			places = append(places, place{b, i})
		}
		for range min(ahead, len(l.line)) {
			l.Serve()
		}
		l.Mu.Unlock()
		for _, p := range places {
			result, shared, err := l.Wait(ctx, p.b, p.i, 0)
			more = got(done, result, shared, err) && more
			done++
		}
	}
	return done
}

// Wait waits for the result of the call at place i of b, until ctx ends, or for at most most,
// if that is not 0: the error is then ctx's cause, or [context.DeadlineExceeded]. The batch
// goes on for its other callers, and the result of a caller that has left goes to Unclaimed.
// shared says that other callers may have the same result, which must not be modified.
func (l *Line[C, R]) Wait(ctx context.Context, b *Batch[C, R], i int, most time.Duration) (result R, shared bool, err error) {
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-b.done:
		case <-ctx.Done():
			if l.leave(b, i) {
				return result, false, context.Cause(ctx)
			}
		case <-late:
			if l.leave(b, i) {
				return result, false, context.DeadlineExceeded
			}
		}
		switch {
		case b.parts != nil:
			b, i = b.parts[i/b.size], i%b.size
		case b.Err != nil:
			return result, false, b.Err
		default:
			return b.Results[i], b.Callers > len(b.Calls), nil
		}
	}
}

// leave notes that a caller leaves, or returns false if the result is there: the caller must
// then take it, as it is too late for Unclaimed.
func (l *Line[C, R]) leave(b *Batch[C, R], i int) bool {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	for b.parts != nil {
		b, i = b.parts[i/b.size], i%b.size
	}
	select {
	case <-b.done:
		return false
	default:
		b.left = append(b.left, i)
		return true
	}
}

// serve sends the batches in line, one after the other, until there are none. It owns one
// lane, which next frees.
func (l *Line[C, R]) serve() {
	over := false
	defer func() {
		if !over { // foreign code has ended this goroutine
			l.Mu.Lock()
			defer l.Mu.Unlock()
			l.Leave()
		}
	}()
	for b := l.next(); b != nil; b = l.next() {
		l.send(b)
		// The callers that have got their results will ask for the next ones. Let them run
		// first, so that their calls go together.
		runtime.Gosched()
	}
	over = true
}

// next takes the first batch in line. When there is none, or more lanes are busy than there
// may be by now, it frees the lane and returns nil; other lanes then serve the line.
func (l *Line[C, R]) next() *Batch[C, R] {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if len(l.line) == 0 || l.Busy > l.wide() {
		l.Busy--
		return nil
	}
	b := l.take()
	if n := l.PerBatch(); len(b.Calls) > n { // it has shrunk since the calls came
		l.cut(b, n)
		b = l.take()
	}
	return b
}

// take takes the first batch out of the line. The caller must hold Mu.
func (l *Line[C, R]) take() *Batch[C, R] {
	b := l.line[0]
	l.line[0] = nil // or the slice would keep the batch in memory
	l.line = l.line[1:]
	l.Waiting -= b.Callers
	if len(l.line) == 0 {
		l.line = nil
		clear(l.last)
	}
	return b
}

// cut replaces a batch by pieces of n calls each, which are the next in line. Waiters of the
// batch find their piece in Wait. The caller must hold Mu.
func (l *Line[C, R]) cut(b *Batch[C, R], n int) {
	if len(l.line) == 0 {
		clear(l.last)
	}
	b.size = n
	for calls := range slices.Chunk(b.Calls, n) {
		p := &Batch[C, R]{Calls: calls, Callers: len(calls), Born: b.Born, Again: b.Again || b.Err != nil, done: make(chan struct{})}
		if b.Callers > len(b.Calls) {
			p.Callers++ // which calls are shared is not known: take each for shared
		}
		l.Waiting += p.Callers
		b.parts = append(b.parts, p)
	}
	// The pieces go before the calls in line, which came later.
	l.line = slices.Insert(l.line, 0, b.parts...)
	close(b.done)
}

// send sends a batch and ends it, even when Send does not return.
func (l *Line[C, R]) send(b *Batch[C, R]) {
	start := time.Now()
	b.Err = errExited // until Send returns
	defer func() { l.end(b, time.Since(start)) }()
	b.Results, b.Err = l.Send(b)
}

// end hands out a batch's results, or puts the batch in line again in two pieces. Results of
// callers that have left go to Unclaimed, after Mu is released.
func (l *Line[C, R]) end(b *Batch[C, R], took time.Duration) {
	l.Mu.Lock()
	if l.Ended != nil && l.Ended(b, took) {
		l.cut(b, (len(b.Calls)+1)/2)
	} else {
		close(b.done)
	}
	l.Mu.Unlock()
	if l.Unclaimed != nil && b.Err == nil {
		for _, i := range b.left {
			l.Unclaimed(b.Calls[i], b.Results[i])
		}
	}
}
