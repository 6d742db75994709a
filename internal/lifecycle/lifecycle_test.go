package lifecycle_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/lifecycle"
)

// closing closes l, and returns how many writes were left and how long it took.
func closing(l *lifecycle.Lifecycle, patience time.Duration) (left int, took time.Duration) {
	start := time.Now()
	l.Close()
	left = l.AwaitWrites(patience)
	l.End()
	return left, time.Since(start)
}

func TestCloseWaits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(t *testing.T, l *lifecycle.Lifecycle)
		waits time.Duration
		left  int
	}{
		"for nothing":         {func(*testing.T, *lifecycle.Lifecycle) {}, 0, 0},
		"for an invalidation": {func(_ *testing.T, l *lifecycle.Lifecycle) { l.Settle(); time.AfterFunc(3*time.Second, l.Settled) }, 3 * time.Second, 0},
		"for a goroutine":     {func(_ *testing.T, l *lifecycle.Lifecycle) { l.Go(func() { time.Sleep(3 * time.Second) }) }, 3 * time.Second, 0},
		"for the last of two writes": {func(_ *testing.T, l *lifecycle.Lifecycle) {
			l.BeginWrite()
			l.BeginWrite()
			time.AfterFunc(time.Second, l.EndWrite)
			time.AfterFunc(3*time.Second, l.EndWrite)
		}, 3 * time.Second, 0},
		"for a write no longer than it may": {func(_ *testing.T, l *lifecycle.Lifecycle) {
			l.BeginWrite()
			time.AfterFunc(time.Minute, l.EndWrite)
		}, 10 * time.Second, 1},
		"for the invalidation of a write": {func(t *testing.T, l *lifecycle.Lifecycle) {
			l.BeginWrite()
			time.AfterFunc(time.Second, func() {
				if !l.SettleWrite() {
					t.Error("got false of SettleWrite while the write is waited for, want true")
				}
				time.AfterFunc(2*time.Second, l.Settled)
				l.EndWrite()
			})
		}, 3 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := lifecycle.New()
				test.begin(t, l)
				if left, took := closing(l, 10*time.Second); left != test.left || took != test.waits {
					t.Errorf("got %d left after %v, want %d after %v", left, took, test.left, test.waits)
				}
				time.Sleep(time.Minute) // the work that was given up ends
			})
		})
	}
}

// Goroutines are told to end once the invalidations have, which may need them.
func TestContextOutlivesInvalidations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := lifecycle.New()
		l.Settle()
		ended := make(chan bool)
		go closing(l, time.Second)
		synctest.Wait()
		if !l.IsClosed() || l.IsOver() {
			t.Errorf("got closed %v, over %v while an invalidation is on its way, want true, false", l.IsClosed(), l.IsOver())
		}
		if !l.Go(func() { <-l.Context().Done(); close(ended) }) {
			t.Error("got no goroutine while an invalidation is on its way, want one")
		}
		l.Settled()
		<-ended
	})
}

func TestNothingBeginsAfterTheEnd(t *testing.T) {
	t.Parallel()
	l := lifecycle.New()
	l.BeginWrite()
	if left, _ := closing(l, 0); left != 1 {
		t.Errorf("got %d writes left, want 1", left)
	}
	for name, began := range map[string]bool{
		"Settle": l.Settle(), "SettleWrite": l.SettleWrite(), "BeginWrite": l.BeginWrite(),
		"Go": l.Go(func() { t.Error("it runs") }), "a second Close": l.Close(),
	} {
		if began {
			t.Errorf("got true of %s, want false", name)
		}
	}
	l.EndWrite() // of the write that was given up on
}
