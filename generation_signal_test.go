package aside_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

// step has something happen at one of the calls that a process makes to the backend.
// It counts those that concern the room's state, after arm.
type step struct {
	backend.Backend
	mu    sync.Mutex
	armed bool
	at, n int
	do    func(call func() error) error // in place of the call, which it may make
}

// arm has do called in place of the call number at, counted from 0.
func (s *step) arm(at int, do func(call func() error) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.at, s.n, s.do = true, at, 0, do
}

// disarm reports whether the call was made.
func (s *step) disarm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	return s.n > s.at
}

func (s *step) take(key string, call func() error) error {
	if !strings.HasPrefix(key, "generation:") && !strings.HasPrefix(key, "cancel:") {
		return call()
	}
	s.mu.Lock()
	now := s.armed && s.n == s.at
	if s.armed {
		s.n++
	}
	do := s.do
	s.mu.Unlock()
	if now {
		return do(call)
	}
	return call()
}

func (s *step) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	err = s.take(key, func() error { value, ok, err = s.Backend.Get(ctx, key); return err })
	return value, ok, err
}

func (s *step) Lease(ctx context.Context, key string, req backend.LeaseRequest) (l backend.Lease, err error) {
	err = s.take(key, func() error { l, err = s.Backend.Lease(context.WithoutCancel(ctx), key, req); return err })
	return l, err
}

func (s *step) Release(ctx context.Context, key, token string) error {
	return s.take(key, func() error { return s.Backend.Release(context.WithoutCancel(ctx), key, token) })
}

func (s *step) Delete(ctx context.Context, keys ...string) error {
	return s.take(keys[0], func() error { return s.Backend.Delete(context.WithoutCancel(ctx), keys...) })
}

// stepping calls test with two processes over one backend in virtual time, again and
// again, each time with another number of a call, until test reports that there was
// no such call.
func stepping(t *testing.T, test func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool) {
	for n, more := 0, true; more; n++ {
		more = false // where -run leaves out this call, no other follows
		t.Run(fmt.Sprint("call ", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := must(aside.Open(aside.Config{Type: "memory"}))
				defer memory.Close()
				s := &step{Backend: backendOf(memory)}
				process, other := must(aside.New(s, aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
				defer process.Close()
				defer other.Close()
				more = test(t, n, memory, generations(t, process), generations(t, other), s)
			})
		})
		if n == 0 && !more {
			t.Fatal("no call was made")
		}
	}
}

func signal(t *testing.T, memory aside.Cache) {
	t.Helper()
	if err := memory.Set(t.Context(), "cancel:A", []byte("1"), time.Minute); err != nil {
		t.Fatal(err)
	}
}

func wantRunning(t *testing.T, g *aside.Generation) {
	t.Helper()
	time.Sleep(time.Second)
	if g.Context().Err() != nil {
		t.Errorf("a signal from before the generation ended it: %v", context.Cause(g.Context()))
	}
}

func wantCancelled(t *testing.T, g *aside.Generation) {
	t.Helper()
	time.Sleep(250 * time.Millisecond)
	if cause := context.Cause(g.Context()); cause != aside.ErrCancelled {
		t.Errorf("250ms after Cancel returned no error the generation has ended with %v", cause)
	}
}

func wantNoState(t *testing.T, memory aside.Cache) {
	t.Helper()
	for _, key := range []string{"generation:A", "cancel:A"} {
		if v, ok, _ := memory.Get(t.Context(), key); ok {
			t.Errorf("%s is still there: %q", key, v)
		}
	}
}

// A Cancel that comes at any moment of a Start says that nothing runs, or arrives. A
// signal from before never does.
func TestGenerations_CancelDuringAStart(t *testing.T) {
	t.Parallel()
	stepping(t, func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool {
		signal(t, memory)
		err := errors.New("no Cancel")
		s.arm(n, func(call func() error) error {
			done := call()
			err = there.Cancel(t.Context(), "A")
			return done
		})
		g := start(t, here, "A")
		more := s.disarm()
		switch {
		case err == nil:
			wantCancelled(t, g)
		case more && !errors.Is(err, aside.ErrNotGenerating):
			t.Error(err)
		default:
			wantRunning(t, g)
		}
		g.Finish()
		wantNoState(t, memory)
		return more
	})
}

// A command of Start that is carried out late does no harm to a Cancel since.
func TestGenerations_LateCommandsOfStart(t *testing.T) {
	t.Parallel()
	stepping(t, func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool {
		signal(t, memory)
		late := func() error { return nil }
		s.arm(n, func(call func() error) error { late = call; return errDown })
		g := start(t, here, "A")
		more := s.disarm()
		wantRunning(t, g)
		time.Sleep(5 * time.Second)
		if err := there.Cancel(t.Context(), "A"); err != nil {
			t.Error(err)
		}
		_ = late()
		wantCancelled(t, g)
		g.Finish()
		time.Sleep(5 * time.Second)
		wantNoState(t, memory)
		start(t, there, "A").Finish()
		return more
	})
}

// Nor does one of Finish to a Cancel of the next generation, and the signal of the one
// that has ended does not reach the next one.
func TestGenerations_LateCommandsOfFinish(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		t.Run(map[bool]string{true: "same process", false: "another process"}[same], func(t *testing.T) {
			stepping(t, func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool {
				g := start(t, here, "A")
				if err := there.Cancel(t.Context(), "A"); err != nil {
					t.Error(err)
				}
				late := func() error { return nil }
				s.arm(n, func(call func() error) error { late = call; return errDown })
				wantCancelled(t, g)
				g.Finish()
				more := s.disarm()
				time.Sleep(5 * time.Second)
				next := there
				if same {
					next = here
				}
				g = start(t, next, "A")
				wantRunning(t, g)
				signal(t, memory)
				_ = late()
				wantCancelled(t, g)
				g.Finish()
				time.Sleep(5 * time.Second)
				wantNoState(t, memory)
				return more
			})
		})
	}
}

// One of two that start at once runs, and the signal from before ends neither.
func TestGenerations_TwoStartsAndAnOlderSignal(t *testing.T) {
	t.Parallel()
	stepping(t, func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool {
		signal(t, memory)
		var theirs *aside.Generation
		var err error
		s.arm(n, func(call func() error) error {
			theirs, err = there.Start(t.Context(), "A")
			return call()
		})
		g, e := here.Start(t.Context(), "A")
		more := s.disarm()
		if err != nil && !errors.Is(err, aside.ErrGenerating) || e != nil && !errors.Is(e, aside.ErrGenerating) {
			t.Fatal(err, e)
		}
		if g == nil {
			g = theirs
		} else if theirs != nil {
			t.Fatal("both run")
		}
		wantRunning(t, g)
		if err := there.Cancel(t.Context(), "A"); err != nil {
			t.Error(err)
		}
		wantCancelled(t, g)
		g.Finish()
		wantNoState(t, memory)
		return more
	})
}

// A Start that is refused leaves the signal for the generation that runs.
func TestGenerations_ARefusedStartLeavesTheSignal(t *testing.T) {
	t.Parallel()
	stepping(t, func(t *testing.T, n int, memory aside.Cache, here, there *aside.Generations, s *step) bool {
		var g *aside.Generation
		signal(t, memory) // an older one, so that the Start has something to remove
		s.arm(n, func(call func() error) error {
			if running, _ := there.Running(t.Context(), "A"); !running {
				g = start(t, there, "A")
				signal(t, memory)
			}
			return call()
		})
		mine, err := here.Start(t.Context(), "A")
		more := s.disarm()
		if g != nil && !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("Start beside another: %v", err)
		}
		if g != nil {
			wantCancelled(t, g)
			g.Finish()
		} else {
			mine.Finish()
		}
		wantNoState(t, memory)
		return more
	})
}

// Of two that have both seen a signal, one marks what the other has marked: both still
// know it for an older one.
func TestGenerations_ASignalThatTwoHaveMarked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		slow, deaf := &step{Backend: backendOf(memory)}, &asidetest.Faulty{Backend: backendOf(memory)}
		late, process := must(aside.New(slow, aside.Config{})), must(aside.New(deaf, aside.Config{}))
		defer late.Close()
		defer process.Close()
		signal(t, memory)
		var g *aside.Generation
		slow.arm(2, func(call func() error) error { // it has looked, and found that nothing runs
			deaf.SetFault(func(_ context.Context, method string) error {
				if method == "Release" {
					return errDown // the mark stays
				}
				return nil
			})
			g = start(t, generations(t, process), "A")
			return call()
		})
		if _, err := generations(t, late).Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) || g == nil {
			t.Errorf("Start beside another: %v", err)
		}
		deaf.SetFault(nil)
		wantRunning(t, g)
		signal(t, memory)
		wantCancelled(t, g)
		g.Finish()
		wantNoState(t, memory)
	})
}

// Another program knows nothing of claims: what it stores over one stays.
func TestClaims_LeaveWhatAnotherProgramStored(t *testing.T) {
	t.Parallel()
	for _, s := range []struct{ name, addr string }{{"miniredis", miniredis.RunT(t).Addr()}, {"redis", ""}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if s.addr == "" {
				s.addr = redistest.Start(t).Addr
			}
			c := overRedis(t, s.addr, aside.Config{})
			client := redis.NewClient(&redis.Options{Addr: s.addr})
			defer client.Close()
			claim := backend.LeaseRequest{TTL: time.Minute, Claim: []byte("1 mine"), Owner: "mine"}
			must(backendOf(c).Lease(t.Context(), "s:1", claim))
			client.Do(t.Context(), "SETEX", "s:1", 600, "1")
			if l := must(backendOf(c).Lease(t.Context(), "s:1", claim)); l.State != backend.Present || string(l.Value) != "1" {
				t.Errorf("the claim again: %v, %q", l.State, l.Value)
			}
			if held := must(backendOf(c).Extend(t.Context(), "mine", time.Minute, "s:1")); held {
				t.Error("the claim was extended")
			}
			if left := client.TTL(t.Context(), "s:1").Val(); left < 5*time.Minute {
				t.Errorf("the other program's value is kept for %v", left)
			}
			if err := backendOf(c).Release(t.Context(), "s:1", "mine"); err != nil {
				t.Error(err)
			}
			if v := client.Get(t.Context(), "s:1").Val(); v != "1" {
				t.Errorf("after Release: %q", v)
			}
			if n := client.Exists(t.Context(), "{s:1}:lease").Val(); n != 0 {
				t.Error("the claim is still there")
			}
		})
	}
}

func TestGenerations_SignalsOverRedis(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		backend := newCache(t)
		s := &step{Backend: backendOf(backend)}
		here, there := must(aside.New(s, aside.Config{Timeout: 20 * time.Second})), must(aside.New(backendOf(backend), aside.Config{Timeout: 20 * time.Second}))
		t.Cleanup(func() { here.Close(); there.Close() })
		for n, more := 0, true; more; n++ {
			signal(t, backend)
			err := errors.New("no Cancel")
			s.arm(n, func(call func() error) error {
				done := call()
				err = generations(t, there).Cancel(t.Context(), "A")
				return done
			})
			g := start(t, generations(t, here), "A")
			more = s.disarm()
			if err == nil {
				wantCause(t, g, aside.ErrCancelled, time.Minute)
			}
			g.Finish()
			if v, ok, _ := backend.Get(t.Context(), "cancel:A"); ok {
				t.Errorf("call %d: cancel:A is still there: %q", n, v)
			}
		}
	})
}

// A Start, a Finish and a Cancel cost one time budget each, whichever commands hang.
func TestGenerations_OneBudget(t *testing.T) {
	t.Parallel()
	for _, methods := range []string{"Lease Delete Release", "Delete Release", "Lease", "Get", "Extend", "Extend Release", "Get Lease Extend Delete Release Set"} {
		t.Run(methods, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				memory := must(aside.Open(aside.Config{Type: "memory"}))
				slow := &asidetest.Faulty{Backend: backendOf(memory)}
				c := must(aside.New(slow, aside.Config{}))
				defer c.Close()
				gs := generations(t, c)
				hang := func(ctx context.Context, method string) error {
					if strings.Contains(methods, method) {
						return asidetest.Hang(ctx, method)
					}
					return nil
				}
				within := func(what string, do func()) {
					t.Helper()
					begun := time.Now()
					do()
					if took := time.Since(begun); took > 250*time.Millisecond {
						t.Errorf("%s took %v", what, took)
					}
				}
				// At several moments of what goes on behind, so that some meet it half way: the key
				// is written again 100 s after the Start.
				for _, pause := range []time.Duration{0, 40, 90, 110, 200, 300, 450, 40_050, 40_150, 40_250, 99_950, 100_050} {
					var g *aside.Generation
					signal(t, memory)
					slow.SetFault(hang)
					within("Start", func() { g = start(t, gs, "A") })
					time.Sleep(pause * time.Millisecond)
					within("Cancel", func() { _ = gs.Cancel(t.Context(), "A") })
					within("Finish", g.Finish)
					time.Sleep(pause * time.Millisecond)
					within("the next Start", func() { g = start(t, gs, "A") })
					slow.SetFault(nil)
					time.Sleep(time.Minute)
					slow.SetFault(hang)
					time.Sleep(pause * time.Millisecond)
					within("Finish of one that ran", g.Finish)
					slow.SetFault(nil)
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// A key that is gone all the same is there again when its owner has looked.
func TestGenerations_AKeyThatIsGoneIsClaimedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		process, other := must(aside.New(backendOf(memory), aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
		defer process.Close()
		defer other.Close()
		here, there := generations(t, process), generations(t, other)
		g := start(t, here, "A")
		for _, while := range []time.Duration{10 * time.Millisecond, 10 * time.Second, 2 * time.Minute} {
			time.Sleep(while)
			if err := memory.Delete(t.Context(), "generation:A"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(150 * time.Millisecond)
			if _, err := there.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
				t.Fatalf("after %v: Start beside another: %v", while, err)
			}
		}
		if err := there.Cancel(t.Context(), "A"); err != nil {
			t.Error(err)
		}
		wantCancelled(t, g)
		g.Finish()
		wantNoState(t, memory)

		// Another process is sooner: the key is its own.
		g = start(t, here, "A")
		time.Sleep(time.Second)
		if err := memory.Delete(t.Context(), "generation:A"); err != nil {
			t.Fatal(err)
		}
		theirs := start(t, there, "A")
		time.Sleep(10 * time.Minute)
		g.Finish()
		if _, ok, _ := memory.Get(t.Context(), "generation:A"); !ok || theirs.Context().Err() != nil {
			t.Error("the old owner ended another's generation")
		}
		theirs.Finish()
		wantNoState(t, memory)
	})
}

// A signal may come before the key is claimed again.
func TestGenerations_ASignalAndAKeyThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		g := start(t, generations(t, memory), "A")
		time.Sleep(time.Second)
		signal(t, memory)
		if err := memory.Delete(context.Background(), "generation:A"); err != nil {
			t.Fatal(err)
		}
		wantCancelled(t, g)
		g.Finish()
		time.Sleep(time.Second)
		wantNoState(t, memory)
	})
}
