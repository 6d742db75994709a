package deadline_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/deadline"
)

type key struct{}

// past is a context whose deadline has passed, and that lives on.
type past struct{ context.Context }

func (past) Deadline() (time.Time, bool) { return time.Now().Add(-time.Minute), true }

func TestLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, c := range map[string]struct {
			ctx  context.Context
			left time.Duration
			ok   bool
		}{
			"no deadline":                        {t.Context(), 0, false},
			"a deadline":                         {soon, time.Second, true},
			"one that has ended the context":     {ended, -time.Second, true},
			"a past one of a context that lives": {past{t.Context()}, -time.Minute, false},
		} {
			if left, ok := deadline.Left(c.ctx); ok != c.ok || left != c.left {
				t.Errorf("%s: got %v, %v, want %v, %v", name, left, ok, c.left, c.ok)
			}
		}
	})
}

func TestWithin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, c := range map[string]struct {
			ctx  context.Context
			want time.Duration
		}{
			"no deadline": {t.Context(), time.Minute}, "a sooner one": {soon, time.Second}, "a past one": {past{t.Context()}, time.Minute},
		} {
			ctx, cancel := deadline.Within(c.ctx, time.Minute)
			if until, ok := ctx.Deadline(); !ok || time.Until(until) != c.want {
				t.Errorf("%s: got a deadline in %v, want in %v", name, time.Until(until), c.want)
			}
			cancel()
		}
		if _, ok := deadline.Without(soon).Deadline(); ok {
			t.Error("Without: got a deadline, want none")
		}
	})
}

func TestShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := deadline.NewShared(32 * time.Second)
		caller, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		one := shared.Context(caller, time.Now())
		leave()
		if one.Err() != nil || one.Value(key{}) != "value" {
			t.Errorf("got %v, value %v when the caller has left, want neither an end nor another value", one.Err(), one.Value(key{}))
		}
		time.Sleep(time.Second - 1)
		two := shared.Context(t.Context(), time.Now())
		time.Sleep(1 + 31*time.Second)
		synctest.Wait()
		if one.Err() != context.DeadlineExceeded || two.Err() != context.DeadlineExceeded {
			t.Errorf("got %v and %v after the time, want both ended", one.Err(), two.Err())
		}
		three := shared.Context(t.Context(), time.Now())
		if until, _ := three.Deadline(); three.Err() != nil || time.Until(until) != 32*time.Second {
			t.Errorf("got %v, an end in %v of one that begins anew, want none, in 32s", three.Err(), time.Until(until))
		}
		<-three.Done()
	})
}

func TestEvery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		stop := deadline.Every(time.Second, func(context.Context) bool { return calls.Add(1) < 5 })
		time.Sleep(3*time.Second + time.Millisecond)
		if got := calls.Load(); got != 3 {
			t.Errorf("got %d calls in 3 s, want 3", got)
		}
		time.Sleep(time.Minute)
		if got := calls.Load(); got != 5 {
			t.Errorf("got %d calls of work that says no at the fifth, want 5", got)
		}
		stop()
		stop = deadline.Every(time.Second, func(context.Context) bool { t.Error("it is called after stop"); return true })
		stop()
		time.Sleep(time.Minute)
	})
}
