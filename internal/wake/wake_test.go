package wake_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside/internal/logtest"
	"github.com/cacheaside/aside/internal/wake"
)

var (
	errRefused = errors.New("may not listen")
	errBroken  = errors.New("broken")
)

// store announces the ends of leases to the hub that listens to it.
type store struct {
	*wake.Hub
	listens int           // calls of Listen
	fails   error         // of Listen, at once
	lost    chan error    // ends a Listen
	up      time.Duration // until Listen hears, or less than 0 for never
	log     logtest.Buffer
}

func newStore(t *testing.T) *store {
	s := &store{lost: make(chan error)}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s.Hub = wake.New(wake.Options{
		Name: "wake", Log: slog.New(slog.NewTextHandler(&s.log, nil)), Stop: ctx,
		Refused: func(err error) bool { return err == errRefused },
		Go:      func(work func()) bool { go work(); return true },
		Listen: func(ctx context.Context, h *wake.Hub) error {
			s.listens++
			if s.fails != nil {
				return s.fails
			}
			if s.up >= 0 {
				time.Sleep(s.up)
				h.Up()
			}
			for {
				select {
				case err := <-s.lost:
					return err
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
					if !h.Wanted() {
						return nil
					}
				}
			}
		},
	})
	return s
}

// listening returns a store that the hub listens to.
func listening(t *testing.T) *store {
	s := newStore(t)
	w := s.Waiter("first")
	w.Pause(t.Context(), 0, nil)
	synctest.Wait()
	w.Done()
	return s
}

// paused returns for how long a pause of w lasts when it has waited for so long.
func paused(t *testing.T, w *wake.Waiter, waited time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	if !w.Pause(t.Context(), waited, nil) {
		t.Error("got false of Pause, want true")
	}
	return time.Since(start)
}

// pauses compares how long pauses of w last, after what has been waited for already.
func pauses(t *testing.T, w *wake.Waiter, want map[time.Duration]time.Duration) {
	t.Helper()
	for waited, pause := range want {
		if got := paused(t, w, waited); got != pause {
			t.Errorf("got a pause of %v after %v, want %v", got, waited, pause)
		}
	}
}

var (
	polled = map[time.Duration]time.Duration{ // a sixteenth, within bounds
		0: time.Millisecond, 80 * time.Millisecond: 5 * time.Millisecond, time.Minute: 10 * time.Millisecond,
	}
	notified = map[time.Duration]time.Duration{ // half of it, within bounds
		0: 20 * time.Millisecond, 80 * time.Millisecond: 40 * time.Millisecond, time.Minute: 250 * time.Millisecond,
	}
)

func TestWaiter_PollsAStoreThatAnnouncesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := wake.New(wake.Options{}).Waiter("k")
		if name := w.Channel(); name != "" {
			t.Errorf("got the channel %q, want none", name)
		}
		pauses(t, w, polled)
		w.Done()
	})
}

func TestWaiter_Notified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := listening(t)
		w, other := s.Waiter("k"), s.Waiter("other")
		for _, x := range []*wake.Waiter{w, other} {
			if name := x.Channel(); name != "wake" {
				t.Fatalf("got the channel %q, want wake", name)
			}
		}
		time.AfterFunc(5*time.Millisecond, func() { s.Heard("k") })
		if got := paused(t, w, time.Second); got != 5*time.Millisecond {
			t.Errorf("got a pause of %v, want it to end with the lease, after 5ms", got)
		}
		if got := paused(t, other, time.Second); got != 250*time.Millisecond {
			t.Errorf("got a pause of %v of a waiter for another key, want 250ms", got)
		}
		w.Channel()
		time.AfterFunc(5*time.Millisecond, func() { s.Wake("k") })
		if got := paused(t, w, time.Second); got != 5*time.Millisecond {
			t.Errorf("got a pause of %v, want it to end with a write of this process, after 5ms", got)
		}
	})
}

// A message from before the question is answered by it; one from after it ends the pause
// at once.
func TestWaiter_MessagesAroundTheQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := listening(t)
		w := s.Waiter("k")
		w.Channel()
		s.Heard("k")
		w.Channel()
		pauses(t, w, notified)
		w.Channel()
		s.Heard("k")
		s.Heard("k")
		if got := paused(t, w, time.Second); got != 0 {
			t.Errorf("got a pause of %v after a message, want none", got)
		}
	})
}

func TestWaiter_PauseEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		w := listening(t).Waiter("k")
		w.Channel()
		start := time.Now()
		if w.Pause(ctx, time.Second, nil) || time.Since(start) != 5*time.Millisecond {
			t.Errorf("got true or a pause of %v, want false after 5ms", time.Since(start))
		}
	})
}

// A waiter that asked before the hub listened cannot hear of what it has found.
func TestWaiter_AsksAgainWhenTheHubListens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.up = 3 * time.Millisecond
		w := s.Waiter("k")
		if name := w.Channel(); name != "" {
			t.Errorf("got the channel %q before the hub listens, want none", name)
		}
		if got := paused(t, w, 0); got != 3*time.Millisecond {
			t.Errorf("got a first pause of %v, want it to end when the hub listens, after 3ms", got)
		}
		if got := paused(t, w, time.Second); got != 0 {
			t.Errorf("got a pause of %v without a new question, want none", got)
		}
		w.Channel()
		pauses(t, w, notified)
	})
}

// The hub listens while somebody waits and a minute longer, and then once more.
func TestHub_ListensWhileWanted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := listening(t)
		if s.listens != 1 || !s.Wanted() {
			t.Errorf("got %d calls of Listen, wanted %v, want 1, true", s.listens, s.Wanted())
		}
		time.Sleep(59 * time.Second)
		if w := s.Waiter("k"); !s.Wanted() || w.Channel() == "" {
			t.Error("got a hub that does not listen after 59 seconds, want it to")
		}
		time.Sleep(3 * time.Second)
		w := s.Waiter("k")
		if s.Wanted() || w.Channel() != "" {
			t.Error("got a hub that listens after more than a minute, want it not to")
		}
		w.Pause(t.Context(), 0, nil)
		synctest.Wait()
		if s.listens != 2 {
			t.Errorf("got %d calls of Listen, want 2", s.listens)
		}
	})
}

// Nobody relies on a subscription that is lost: waiters ask at once, and poll.
func TestHub_LosesItsSubscription(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err   error
		retry time.Duration
		logs  int
	}{
		"a broken one":  {errBroken, time.Second, 0},
		"a refused one": {errRefused, time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := listening(t)
				w := s.Waiter("k")
				w.Channel()
				s.fails = test.err
				time.AfterFunc(5*time.Millisecond, func() { s.lost <- test.err })
				if got := paused(t, w, time.Second); got != 5*time.Millisecond {
					t.Errorf("got a pause of %v, want it to end with the subscription, after 5ms", got)
				}
				lost := time.Now()
				for s.listens == 1 && time.Since(lost) < time.Hour {
					if name := w.Channel(); name != "" {
						t.Fatalf("got the channel %q without a subscription, want none", name)
					}
					if got := paused(t, w, time.Second); got > 10*time.Millisecond {
						t.Fatalf("got a pause of %v without a subscription, want 10ms at most", got)
					}
				}
				if late := time.Since(lost) - test.retry; late < 0 || late > 20*time.Millisecond {
					t.Errorf("got it tried again %v after it was lost, want %v", late+test.retry, test.retry)
				}
				for range 1000 { // it is tried again, and fails again
					w.Pause(t.Context(), time.Second, nil)
				}
				if n := strings.Count(s.log.String(), "\n"); n != test.logs {
					t.Errorf("got %d lines of log, want %d:\n%s", n, test.logs, &s.log)
				}
			})
		})
	}
}

// Ends that are found without a message three times in a row are a sign that no messages
// come, until one does.
func TestHub_MissedMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := listening(t)
		finds := func(stored bool) {
			w := s.Waiter("k")
			w.Channel()
			w.Pause(t.Context(), 0, nil)
			w.Answered(stored)
			w.Done()
		}
		w := s.Waiter("other")
		for range 5 {
			finds(false) // nothing that a message would have been about
		}
		finds(true)
		finds(true)
		w.Channel()
		pauses(t, w, notified)
		finds(true)
		w.Channel()
		pauses(t, w, polled)
		s.Heard("any")
		w.Channel()
		pauses(t, w, notified)
	})
}

// A lease is overdue when its deadline has been the same for as long as the lease lasts.
func TestWaiter_Overdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := listening(t).Waiter("k")
		overdue := func(deadline, want string) {
			t.Helper()
			if got := w.Overdue(deadline); got != want {
				t.Errorf("got %q of the deadline %q, want %q", got, deadline, want)
			}
		}
		overdue("100 2000", "")
		time.Sleep(2*time.Second - 1)
		overdue("100 2000", "")
		time.Sleep(time.Nanosecond)
		overdue("100 2000", "100 2000")
		overdue("200 2000", "") // renewed
		time.Sleep(time.Second)
		overdue("200 2000", "")
		time.Sleep(time.Second)
		overdue("200 2000", "200 2000")
		overdue("", "")
		overdue("a text", "")
		time.Sleep(time.Hour)
		overdue("a text", "")
	})
}

// The waiters of several keys share their pauses.
func TestWaiter_And(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := listening(t)
		a := s.Waiter("a")
		b := a.And("b")
		if a.Channel() == "" || b.Channel() == "" {
			t.Fatal("the hub does not listen")
		}
		for _, key := range []string{"a", "b"} {
			start := time.Now()
			go func() {
				time.Sleep(time.Millisecond)
				s.Heard(key)
			}()
			if !a.Pause(t.Context(), time.Second, nil) || time.Since(start) != time.Millisecond {
				t.Errorf("%s: woken after %v, want a millisecond", key, time.Since(start))
			}
		}
		b.Done()
		start := time.Now()
		go s.Heard("b")
		if a.Pause(t.Context(), time.Second, nil); time.Since(start) < 100*time.Millisecond {
			t.Error("woken for a key that is not waited for any more")
		}
		a.Done()
	})
}
