package aside_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
)

func TestP3_AColdKeyIsLoadedOnce(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		caches := []aside.Cache{newCache(t)}
		if s, _ := caches[0].Status(t.Context()); s.Backend != "memory" {
			caches = append(caches, newCache(t), newCache(t)) // other processes
		}
		for try := range 10 {
			var loads counter
			var wg sync.WaitGroup
			start := time.Now()
			for i := range 300 {
				wg.Go(func() {
					v, err := aside.GetOrLoad(t.Context(), caches[i%len(caches)], items.Key(fmt.Sprint(try)), func(context.Context) (string, error) {
						loads.Add(1)
						time.Sleep(50 * time.Millisecond)
						return "v", nil
					})
					if v != "v" || err != nil {
						t.Errorf("got %q, %v", v, err)
					}
				})
			}
			wg.Wait()
			if loads.Load() == 1 {
				return
			}
			if time.Since(start) < 2*time.Second || try == 9 { // else a lease has lapsed, as this process stood still
				t.Fatalf("%d loads, want 1", loads.Load())
			}
		}
	})
}

func TestP3_AHolderThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory"}))
		defer c.Close()
		must(backendOf(c).Lease(t.Context(), room.String(), backend.LeaseRequest{TTL: 2 * time.Second})) // as a process that dies now
		start := time.Now()
		read(t, c, func(context.Context) (string, error) { return "v", nil })
		if took := time.Since(start); took > 2500*time.Millisecond {
			t.Errorf("replaced after %v, want at most 2.5s", took)
		}
	})
}

func TestP3_ALongLoadKeepsItsLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		one, two := must(aside.New(backendOf(memory), aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
		defer one.Close()
		var loads counter
		load := func(context.Context) (string, error) {
			loads.Add(1)
			time.Sleep(3 * time.Minute)
			return "v", nil
		}
		var wg sync.WaitGroup
		for _, c := range []aside.Cache{one, two} {
			wg.Go(func() { read(t, c, load) })
		}
		wg.Wait()
		if loads.Load() != 1 {
			t.Errorf("%d loads, want 1", loads.Load())
		}
		if got := read(t, two, fails(t)); got != "v" {
			t.Errorf("stored %q", got)
		}
	})
}

// Eight processes ask for what cannot be loaded: the last one must not wait for
// seven loads.
func TestP3_FailingLoadsAreNotWaitedForInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		failed := errors.New("database down")
		start := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			c := must(aside.New(backendOf(memory), aside.Config{}))
			wg.Go(func() {
				defer aside.AwaitFills(c)
				_, err := aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) {
					time.Sleep(time.Second)
					return "", failed
				})
				if err != failed {
					t.Errorf("got %v, want the loader's error", err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("the last process got its error after %v, want at most three loads' time", took)
		}
	})
}

func TestP4_TheFirstCallersLeavingHarmsNobody(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		var loads counter
		loading, release := make(chan struct{}), make(chan struct{})
		load := func(ctx context.Context) (string, error) {
			if loads.Add(1) == 1 {
				close(loading)
			}
			select {
			case <-release:
				return "v", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		first, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := aside.GetOrLoad(first, c, room, load)
			left <- err
		}()
		<-loading
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if v, err := aside.GetOrLoad(t.Context(), c, room, load); v != "v" || err != nil {
					t.Errorf("a waiter got %q, %v", v, err)
				}
			})
		}
		time.Sleep(300 * time.Millisecond) // the waiters wait: one at least, on a busy machine, too
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		close(release)
		wg.Wait()
		if n := loads.Load(); n > 2 { // the second is of who came late on a busy machine
			t.Errorf("%d loads, want 1", n)
		}
	})
}

func TestP4_AWaiterLeavesAtItsOwnDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory"}))
		defer c.Close()
		finish := slowLoad(t, c, "v")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := aside.GetOrLoad(ctx, c, room, fails(t))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		if v := finish(); v != "v" {
			t.Errorf("the other caller got %q", v)
		}
	})
}

func TestP4_TheLastWaiterEndsTheLoadAndNobodyJoinsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory"}))
		defer c.Close()
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go aside.GetOrLoad(ctx, c, room, func(ctx context.Context) (string, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			time.Sleep(time.Minute) // does not obey at once
			return "", ctx.Err()
		})
		synctest.Wait()
		leave()
		if err := <-ended; err != context.Canceled {
			t.Errorf("the load's context ended with %v", err)
		}
		start := time.Now()
		v := read(t, c, func(ctx context.Context) (string, error) { return "new", ctx.Err() })
		// At once: the lease was given back, though the loader still runs.
		if v != "new" || time.Since(start) > 100*time.Millisecond {
			t.Errorf("a newcomer got %q after %v", v, time.Since(start))
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestP4_TheLoadKeepsTheCallersValuesAndHasATimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Minute}))
		defer c.Close()
		type ctxKey struct{}
		ctx := context.WithValue(t.Context(), ctxKey{}, "trace")
		_, err := aside.GetOrLoad(ctx, c, room, func(ctx context.Context) (string, error) {
			if ctx.Value(ctxKey{}) != "trace" {
				t.Error("the load's context has lost the caller's values")
			}
			<-ctx.Done()
			return "", ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the load's timeout", err)
		}
	})
}

func TestP4_APanicReachesWhoWaited(t *testing.T) {
	t.Parallel()
	storing(t, func(t *testing.T, newCache func(*testing.T) aside.Cache) {
		c := newCache(t)
		call := func() (p any) {
			defer func() { p = recover() }()
			aside.GetOrLoad(t.Context(), c, room, explode)
			return nil
		}
		var wg sync.WaitGroup
		var stacks atomic.Int64
		for range 10 {
			wg.Go(func() {
				p, ok := call().(*aside.PanicError)
				if !ok || p.Value != "boom" {
					t.Errorf("recovered %v", p)
				} else if strings.Contains(string(p.Stack), "explode") {
					stacks.Add(1)
				}
			})
		}
		wg.Wait()
		if stacks.Load() != 10 {
			t.Errorf("%d of 10 had the loader's stack", stacks.Load())
		}
		if got := read(t, c, func(context.Context) (string, error) { return "v", nil }); got != "v" {
			t.Errorf("after the panic: %q", got)
		}
	})
}

func TestP4_ALoaderThatExitsItsGoroutineHangsNobody(t *testing.T) {
	t.Parallel()
	c := open(t, aside.Config{Type: "memory"})
	_, err := aside.GetOrLoad(t.Context(), c, room, func(context.Context) (string, error) {
		runtime.Goexit()
		return "", nil
	})
	if err == nil {
		t.Error("got no error")
	}
}

// A caller who has met trouble does not wait for a flight that meets it again.
func TestP5_OneBudgetForACallThatJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		backend := &asidetest.Faulty{Backend: backendOf(memory)}
		c := must(aside.New(backend, aside.Config{}))
		defer c.Close()
		var gets atomic.Int64
		backend.SetFault(func(ctx context.Context, method string) error {
			if method == "Get" && gets.Add(1) == 1 {
				time.Sleep(100 * time.Millisecond) // the first caller's goes through, late
				return nil
			}
			return asidetest.Hang(ctx, method)
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				start := time.Now()
				read(t, c, func(context.Context) (string, error) { return "v", nil })
				if took := time.Since(start); took > 250*time.Millisecond {
					t.Errorf("a call took %v", took)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}

// A caller with next to no time fails to ask the backend: that is no reason for
// those who wait to load by themselves.
func TestP3_ACallerInAHurryHurriesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		var loads counter
		load := func(context.Context) (string, error) {
			loads.Add(1)
			time.Sleep(time.Second)
			return "v", nil
		}
		var caches []aside.Cache
		for range 3 {
			slow := &asidetest.Faulty{Backend: backendOf(memory)}
			slow.SetFault(func(ctx context.Context, _ string) error {
				select {
				case <-time.After(2 * time.Millisecond):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			caches = append(caches, must(aside.New(slow, aside.Config{})))
		}
		for _, c := range caches {
			go aside.GetOrLoad(t.Context(), c, room, load)
			time.Sleep(10 * time.Millisecond)
		}
		for _, c := range caches {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
			aside.GetOrLoad(ctx, c, room, load)
			cancel()
		}
		time.Sleep(5 * time.Second)
		if loads.Load() != 1 {
			t.Errorf("%d loads, want 1", loads.Load())
		}
		for _, c := range caches {
			c.Close()
		}
	})
}

// A loader that never returns keeps its lease for as long as a load may take.
func TestP3_ALoaderThatHangsIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		one, two := must(aside.New(backendOf(memory), aside.Config{LoadTimeout: time.Minute})), must(aside.New(backendOf(memory), aside.Config{}))
		defer one.Close()
		hangs := make(chan struct{})
		go aside.GetOrLoad(t.Context(), one, room, func(context.Context) (string, error) { <-hangs; return "old", nil })
		synctest.Wait()
		start := time.Now()
		read(t, two, func(context.Context) (string, error) { return "new", nil })
		if took := time.Since(start); took < time.Minute || took > time.Minute+10*time.Second {
			t.Errorf("replaced after %v", took)
		}
		close(hangs)
		time.Sleep(time.Second)
		if got := read(t, two, fails(t)); got != "new" {
			t.Errorf("stored %q", got)
		}
	})
}

// Callers whose results cannot be shared load by themselves in the end, with the
// same protection.
func TestP4_ALoadOfOnesOwnIsProtected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := must(aside.Open(aside.Config{Type: "memory", LoadTimeout: time.Minute}))
		defer c.Close()
		type unstorable struct{ C chan int }
		var panics atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				defer func() {
					if p, ok := recover().(*aside.PanicError); ok && p.Value == "boom" {
						panics.Add(1)
					}
				}()
				aside.GetOrLoad(t.Context(), c, room, func(ctx context.Context) (unstorable, error) {
					if _, ok := ctx.Deadline(); !ok {
						t.Error("a load has no timeout")
					}
					time.Sleep(time.Second)
					if time.Now().Second() > 1 { // the first is not alone
						panic("boom")
					}
					return unstorable{}, nil
				})
			})
		}
		wg.Wait()
		if panics.Load() == 0 {
			t.Error("no load panicked: this shows nothing")
		}
	})
}

// Waiters read the fields of a flight only after they were written (for the race detector).
func TestP5_AWaiterInTroubleMeetsAFillThatFails(t *testing.T) {
	t.Parallel()
	c, backend := faulty(t, aside.Config{})
	for range 50 {
		var gets atomic.Bool
		backend.SetFault(func(_ context.Context, method string) error {
			if method == "Fill" || method == "Get" && gets.Load() {
				return errDown
			}
			return nil
		})
		loading, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			read(t, c, func(context.Context) (string, error) { close(loading); <-release; return "v", nil })
		})
		<-loading
		gets.Store(true)
		wg.Go(func() { read(t, c, func(context.Context) (string, error) { return "v", nil }) })
		time.Sleep(time.Millisecond)
		close(release)
		wg.Wait()
		backend.SetFault(nil)
		writes["Invalidate"](t, c)
	}
}
