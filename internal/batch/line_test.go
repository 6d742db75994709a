package batch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/batch"
)

type ints = batch.Batch[int, string]

var (
	errClosed = errors.New("closed")
	errLost   = errors.New("lost")
)

// newLine returns a line with one lane, which is taken, and whose batches are of four
// calls and take a second each.
func newLine(send func(*ints) error) *batch.Line[int, string] {
	l := &batch.Line[int, string]{
		Lanes:    batch.Lanes{PerLane: time.Second, Most: 1},
		Go:       func(work func()) bool { go work(); return true },
		Closed:   errClosed,
		PerBatch: func() int { return 4 },
		Send: func(b *ints) ([]string, error) {
			time.Sleep(time.Second)
			if send != nil {
				if err := send(b); err != nil {
					return nil, err
				}
			}
			var results []string
			for _, c := range b.Calls {
				results = append(results, fmt.Sprint(c))
			}
			return results, nil
		},
	}
	l.TryAcquire()
	return l
}

func leave(l *batch.Line[int, string]) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.Leave()
}

type end struct {
	result string
	shared bool
	err    error
}

// join has a caller join the line. The end of its wait is sent to the channel.
func join(ctx context.Context, l *batch.Line[int, string], call int, most time.Duration) <-chan end {
	l.Mu.Lock()
	b, i := l.Join(call)
	l.Mu.Unlock()
	ended := make(chan end, 1)
	go func() {
		result, shared, err := l.Wait(ctx, b, i, most)
		ended <- end{result, shared, err}
	}()
	return ended
}

func TestLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent [][]int
		l := newLine(func(b *ints) error { sent = append(sent, b.Calls); return nil })
		var ends []<-chan end
		for _, call := range []int{1, 2, 2, 3, 4, 5, 6} {
			ends = append(ends, join(t.Context(), l, call, 0))
		}
		if l.Waiting != 7 || l.TryAcquire() {
			t.Errorf("got %d callers in line, want 7, and no lane", l.Waiting)
		}
		leave(l)
		for i, want := range []end{{"1", true, nil}, {"2", true, nil}, {"2", true, nil}, {"3", true, nil}, {"4", true, nil}, {"5", false, nil}, {"6", false, nil}} {
			if got := <-ends[i]; got != want {
				t.Errorf("caller %d: got %v, want %v", i, got, want)
			}
		}
		synctest.Wait()
		if !slices.EqualFunc(sent, [][]int{{1, 2, 3, 4}, {5, 6}}, slices.Equal) || l.Waiting != 0 || l.Busy != 0 {
			t.Errorf("got batches %v, want 1 to 4 and 5, 6; and %d in line, %d lanes taken", sent, l.Waiting, l.Busy)
		}
	})
}

// A caller leaves when its context or its time ends. It is told of the result of its call
// alone, which the others of its batch still get.
func TestLine_CallersThatLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLine(nil)
		var unclaimed []string
		l.Unclaimed = func(_ int, result string) { unclaimed = append(unclaimed, result) }
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancelled, hasty, patient := join(ctx, l, 1, 0), join(t.Context(), l, 2, time.Second/2), join(t.Context(), l, 3, 2*time.Second)
		leave(l)
		time.Sleep(time.Second / 4)
		cancel(gone)
		for i, want := range []error{gone, context.DeadlineExceeded, nil} {
			if got := <-[]<-chan end{cancelled, hasty, patient}[i]; got.err != want {
				t.Errorf("caller %d: got %v, want %v", i, got.err, want)
			}
		}
		synctest.Wait()
		if !slices.Equal(unclaimed, []string{"1", "2"}) {
			t.Errorf("got %q unclaimed, want 1 and 2", unclaimed)
		}
	})
}

// A batch that fails may go again in two pieces, of which each has its own end. Its
// callers leave their pieces as they would have left the whole.
func TestLine_Pieces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLine(func(b *ints) error {
			if slices.Contains(b.Calls, 3) {
				return errLost
			}
			return nil
		})
		l.Ended = func(b *ints, took time.Duration) bool {
			if took != time.Second {
				t.Errorf("a batch took %v, want 1s", took)
			}
			return b.Err != nil && !b.Again
		}
		var ends []<-chan end
		for call := range 4 {
			ends = append(ends, join(t.Context(), l, call, 0))
		}
		late := join(t.Context(), l, 3, 1500*time.Millisecond)
		start := time.Now()
		leave(l)
		if got := <-late; got.err != context.DeadlineExceeded || time.Since(start) != 1500*time.Millisecond {
			t.Errorf("the caller with 1.5s: got %v after %v", got.err, time.Since(start))
		}
		for i, want := range []error{nil, nil, errLost, errLost} {
			if got := <-ends[i]; got.err != want {
				t.Errorf("caller %d: got %v, want %v", i, got.err, want)
			}
		}
	})
}

// A batch is cut where fewer go together than when its calls came.
func TestLine_FewerGoTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		l := newLine(func(b *ints) error { sizes = append(sizes, len(b.Calls)); return nil })
		var ends []<-chan end
		for call := range 4 {
			ends = append(ends, join(t.Context(), l, call, 0))
		}
		l.PerBatch = func() int { return 3 }
		leave(l)
		for i := range ends {
			if got := <-ends[i]; got.result != fmt.Sprint(i) {
				t.Errorf("caller %d: got %v", i, got)
			}
		}
		if !slices.Equal(sizes, []int{3, 1}) {
			t.Errorf("got batches of %v, want 3 and 1", sizes)
		}
	})
}

// A call that comes long after the first one of a batch goes in the next.
func TestLine_Within(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent [][]int
		l := newLine(func(b *ints) error { sent = append(sent, b.Calls); return nil })
		l.Within = time.Second
		var ends []<-chan end
		for call := range 3 {
			ends = append(ends, join(t.Context(), l, call, 0))
			time.Sleep(800 * time.Millisecond)
		}
		leave(l)
		for _, ended := range ends {
			<-ended
		}
		if !slices.EqualFunc(sent, [][]int{{0, 1}, {2}}, slices.Equal) {
			t.Errorf("got batches %v, want 0, 1 and 2", sent)
		}
	})
}

// Code that ends the goroutine which sends a batch takes no lane for good.
func TestLine_Goexit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLine(func(b *ints) error {
			if b.Calls[0] == 0 {
				runtime.Goexit()
			}
			return nil
		})
		var ends []<-chan end
		for call := range 5 {
			ends = append(ends, join(t.Context(), l, call, 0))
		}
		leave(l)
		for i, ended := range ends {
			if got := <-ended; (got.err == nil) != (i == 4) {
				t.Errorf("caller %d: got %v", i, got.err)
			}
		}
		synctest.Wait()
		if l.Busy != 0 {
			t.Errorf("got %d lanes taken at the end, want none", l.Busy)
		}
	})
}

// Calls that are in line when nothing is begun any more are told so.
func TestLine_Closed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLine(nil)
		l.Go = func(func()) bool { return false }
		one, two := join(t.Context(), l, 1, 0), join(t.Context(), l, 2, 0)
		leave(l)
		for _, ended := range []<-chan end{one, two} {
			if got := <-ended; got.err != errClosed {
				t.Errorf("got %v, want %v", got.err, errClosed)
			}
		}
		if l.Busy != 0 {
			t.Errorf("got %d lanes taken, want none", l.Busy)
		}
	})
}

// Batches that were sent are not kept until the line is empty.
func TestLine_ForgetsWhatWasSent(t *testing.T) {
	t.Parallel()
	type call [1000]byte
	freed, held := make(chan int, 1), make(chan struct{})
	l := &batch.Line[*call, int]{
		Lanes:    batch.Lanes{PerLane: time.Second, Most: 1},
		Go:       func(work func()) bool { go work(); return true },
		PerBatch: func() int { return 1 },
	}
	first := true
	l.Send = func(b *batch.Batch[*call, int]) ([]int, error) {
		if !first {
			<-held
		}
		first = false
		return make([]int, 1), nil
	}
	l.Mu.Lock()
	l.TryAcquire()
	for i := range 3 {
		c := new(call)
		if i == 0 {
			runtime.AddCleanup(c, func(i int) { freed <- i }, i)
		}
		l.Join(c)
	}
	l.Leave()
	l.Mu.Unlock()
	defer close(held)
	for range 100 {
		runtime.GC()
		select {
		case <-freed:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Error("what was sent is kept")
}

// Many calls of one caller are in line a few batches at a time, in turn with those of others.
func TestLine_All(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		goesOn bool
		stopAt int
		done   int
	}{"all": {true, -1, 35}, "none": {false, -1, 0}, "until one fails": {true, 18, 32}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var sent [][]int
				l := newLine(func(b *ints) error { sent = append(sent, b.Calls); return nil })
				leave(l)
				calls, got := make([]int, 35), []string(nil)
				for i := range calls {
					calls[i] = i
				}
				other := make(chan end, 1)
				if c.goesOn {
					go func() {
						time.Sleep(time.Second / 2)
						other <- <-join(t.Context(), l, 100, 0)
					}()
				}
				done := l.All(t.Context(), calls, func() bool { return c.goesOn }, func(i int, result string, shared bool, err error) bool {
					if got = append(got, result); i != len(got)-1 || result != fmt.Sprint(i) || err != nil {
						t.Errorf("got %q, %v for %d in place %d", result, err, i, len(got)-1)
					}
					return i != c.stopAt
				})
				if done != c.done || len(got) != done {
					t.Errorf("got %d of %d, want %d", len(got), done, c.done)
				}
				if c.goesOn && ((<-other).result != "100" || !slices.Contains(sent[4], 100)) {
					t.Errorf("got %v, want another's call after the first four batches", sent)
				}
				synctest.Wait()
				if l.Waiting != 0 || l.Busy != 0 {
					t.Errorf("%d in line, %d lanes taken", l.Waiting, l.Busy)
				}
			})
		})
	}
}
