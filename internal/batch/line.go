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
// [Line.TryAcquire] sends its call alone, and ends with [Line.Leave]. Any other takes
// a place by [Line.Join], and waits in [Line.Wait] for the result: the calls in line
// share round trips as lanes become free. A call that the last batch in line has
// already takes no place of its own.
//
// The fields above Mu are set before the first call. Mu guards all else, and whatever
// the user decides by; the functions are called without it unless they say otherwise.
type Line[C comparable, R any] struct {
	Lanes
	Go       func(work func()) bool // runs work in a goroutine, or reports that nothing is begun any more
	Closed   error                  // of the calls that are in line then
	PerBatch func() int             // how many calls go together at most; has Mu

	Within time.Duration // of its first call the others of a batch come; 0 is at any time

	// Send carries a batch out, and returns a result for each call.
	Send func(*Batch[C, R]) ([]R, error)

	// Each of these may be nil.
	Room      func() int                             // how many lanes there may be at most; has Mu
	Ended     func(*Batch[C, R], time.Duration) bool // takes a batch and how long it took, and reports whether it goes again in two pieces; has Mu
	Unclaimed func(call C, result R)                 // takes the result of a call whose caller had left

	Mu      sync.Mutex
	Waiting int // callers in line
	line    []*Batch[C, R]
	last    map[C]int // the places in the last batch in line
}

// Batch is some calls that go together.
type Batch[C comparable, R any] struct {
	Calls   []C
	Callers int       // more than there are calls when some have asked for the same
	Born    time.Time // when the first of them came
	Again   bool      // it is a piece of a batch that failed
	Results []R       // of Calls, or Err
	Err     error

	done  chan struct{}  // closed when its fields are not changed any more
	parts []*Batch[C, R] // that it goes in instead, of size calls each
	size  int
	left  []int // calls whose callers have left
}

var errExited = errors.New("the goroutine that sent the batch has ended")

// TryAcquire takes a lane, if one is free. It needs Mu.
func (l *Line[C, R]) TryAcquire() bool {
	if l.Busy >= l.wide() {
		return false
	}
	l.Busy++
	return true
}

// wide is how many lanes there are. It needs Mu.
func (l *Line[C, R]) wide() int {
	if l.Room != nil {
		return min(l.Limit(), l.Room())
	}
	return l.Limit()
}

// Leave frees a lane, for the calls in line. It needs Mu.
func (l *Line[C, R]) Leave() {
	l.Busy--
	l.Serve()
}

// Serve has one more lane serve the line, if there is one to be had. It needs Mu.
func (l *Line[C, R]) Serve() {
	if len(l.line) == 0 || !l.TryAcquire() || l.Go(l.serve) {
		return
	}
	l.Busy--
	for len(l.line) > 0 {
		b := l.take()
		b.Err = l.Closed
		close(b.done)
	}
}

// Join puts a call that got no lane into the last batch in line, and returns its
// place. It needs Mu.
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

// ahead is how many batches of one caller's calls are in line at a time.
const ahead = 4

// All puts many calls of one caller in line, a few batches at a time so that those of others
// come in between, and hands out the result of each as [Line.Wait] does. It stops when
// goesOn, which has Mu, says no, or got has said no of a result, and returns how many have
// been handed out.
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

// Wait waits for the result of a call in line, until ctx ends, or for so long, when that
// is not 0: the error is ctx's cause then, or [context.DeadlineExceeded]. Its batch goes on
// for the others. shared says that others may have the result, too.
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

// leave has a caller leave, unless the result is there.
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

// serve sends the batches in line until there are none.
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
		// The callers that have their results now ask for the next ones: let them, so
		// that they go together.
		runtime.Gosched()
	}
	over = true
}

// next takes the first batch in line. It frees the lane when there is none, or when there
// are more lanes than there are to be: then others serve the line.
func (l *Line[C, R]) next() *Batch[C, R] {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if len(l.line) == 0 || l.Busy > l.wide() {
		l.Busy--
		return nil
	}
	b := l.take()
	if n := l.PerBatch(); len(b.Calls) > n { // it was another number when they came
		l.cut(b, n)
		b = l.take()
	}
	return b
}

// take takes the first batch in line. It needs Mu.
func (l *Line[C, R]) take() *Batch[C, R] {
	b := l.line[0]
	l.line[0] = nil // not kept until the line is empty
	l.line = l.line[1:]
	l.Waiting -= b.Callers
	if len(l.line) == 0 {
		l.line = nil
		clear(l.last)
	}
	return b
}

// cut has a batch go in pieces of n calls, which are the next in line. It needs Mu.
func (l *Line[C, R]) cut(b *Batch[C, R], n int) {
	if len(l.line) == 0 {
		clear(l.last)
	}
	b.size = n
	for calls := range slices.Chunk(b.Calls, n) {
		p := &Batch[C, R]{Calls: calls, Callers: len(calls), Born: b.Born, Again: b.Again || b.Err != nil, done: make(chan struct{})}
		if b.Callers > len(b.Calls) {
			p.Callers++ // for all that is known
		}
		l.Waiting += p.Callers
		b.parts = append(b.parts, p)
	}
	l.line = slices.Insert(l.line, 0, b.parts...)
	close(b.done)
}

func (l *Line[C, R]) send(b *Batch[C, R]) {
	start := time.Now()
	b.Err = errExited // unless Send returns
	defer func() { l.end(b, time.Since(start)) }()
	b.Results, b.Err = l.Send(b)
}

// end hands a batch's results out, unless it goes again.
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
