package batch_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/batch"
)

var errSilent = errors.New("silent")

func answered(err error) bool { return err != errSilent }

func TestGate_LetsAFewAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := batch.NewGate(3)
		var now, most, done atomic.Int32
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := g.Do(func() error {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(time.Second)
					now.Add(-1)
					done.Add(1)
					return errors.New("an answer")
				}, answered); err == nil || err == batch.ErrUnanswered {
					t.Errorf("got %v, want the command's error", err)
				}
			})
		}
		all.Wait()
		if most.Load() != 3 || done.Load() != 100 {
			t.Errorf("%d ran, %d at a time, want 100, 3 at a time", done.Load(), most.Load())
		}
	})
}

func TestGate_FailsWhoWaitsWhenOneIsNotAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := batch.NewGate(3)
		var ran, failed atomic.Int32
		var all sync.WaitGroup
		start := time.Now()
		for range 100 {
			all.Go(func() {
				err := g.Do(func() error {
					ran.Add(1)
					time.Sleep(time.Second)
					return errSilent
				}, answered)
				if err == batch.ErrUnanswered {
					failed.Add(1)
				}
			})
		}
		all.Wait()
		if ran.Load() > 6 || ran.Load()+failed.Load() != 100 || time.Since(start) > 2*time.Second {
			t.Errorf("%d ran and %d failed in %v, want 3 and the rest at once", ran.Load(), failed.Load(), time.Since(start))
		}
		if err := g.Do(func() error { return nil }, answered); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
