package deadline_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/deadline"
)

func detach(ctx context.Context) *deadline.Detached {
	d := &deadline.Detached{}
	d.Detach(ctx)
	return d
}

func TestDetached_End(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		caller, leave := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		d := detach(caller)
		leave()
		child, cancel := context.WithCancel(d)
		defer cancel()
		synctest.Wait()
		if _, has := d.Deadline(); has || d.Err() != nil || child.Err() != nil || child.Value(key{}) != "value" {
			t.Errorf("got %v, value %v when the caller has left, want neither an end, a deadline nor another value", d.Err(), child.Value(key{}))
		}
		done := d.Done()
		d.End()
		d.Limit(time.Second)
		<-done
		<-d.Done()
		<-child.Done()
		if d.Err() != context.Canceled || child.Err() != context.Canceled || context.Cause(child) != context.Canceled {
			t.Errorf("got %v, and %v of a child, want both cancelled", d.Err(), child.Err())
		}
		time.Sleep(time.Minute)
		if d.Err() != context.Canceled {
			t.Errorf("got %v after a limit that was set too late, want it cancelled", d.Err())
		}
		<-detachEnded(t).Done() // asked for after the end
	})
}

func detachEnded(t *testing.T) *deadline.Detached {
	d := detach(t.Context())
	d.End()
	return d
}

func TestDetached_Limit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := detach(t.Context())
		d.Limit(time.Minute)
		d.Limit(time.Hour) // which is not the first
		if at, has := d.Deadline(); !has || time.Until(at) != time.Minute {
			t.Errorf("got an end in %v, want in 1m", time.Until(at))
		}
		time.Sleep(time.Minute - 1)
		if err := d.Err(); err != nil {
			t.Errorf("got %v before the time is over, want none", err)
		}
		time.Sleep(2 * time.Nanosecond)
		<-d.Done()
		d.End()
		if d.Err() != context.DeadlineExceeded {
			t.Errorf("got %v, want that the deadline is exceeded", d.Err())
		}
	})
}

func TestDetached_AfterFunc(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := detach(t.Context())
		var ran [3]bool
		stop := context.AfterFunc(d, func() { ran[0] = true })
		stopped := context.AfterFunc(d, func() { ran[1] = true })
		if !stopped() || stopped() {
			t.Error("stop says true but the first time that it stops")
		}
		d.End()
		synctest.Wait()
		if !ran[0] || ran[1] || stop() {
			t.Errorf("got %v, and stop says %v after it, want the one that was not stopped", ran, stop())
		}
		late := d.AfterFunc(func() { ran[2] = true })
		synctest.Wait()
		if !ran[2] || late() {
			t.Error("a function is not called after the end")
		}
	})
}
