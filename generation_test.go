package aside_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redistest"
)

// Start, cancel and finish work within a process whatever the backend does.
func TestGenerations_WithinAProcess(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) aside.Cache{
		"memory": func(t *testing.T) aside.Cache { return must(aside.Open(aside.Config{Type: "memory"})) },
		"none":   func(t *testing.T) aside.Cache { return must(aside.Open(aside.Config{Type: "none"})) },
		"away": func(t *testing.T) aside.Cache {
			c, backend := faulty(t, aside.Config{})
			backend.SetFault(refuse)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := open(t)
				defer c.Close()
				gs := generations(t, c)
				if err := gs.Cancel(t.Context(), "A"); name != "away" && !errors.Is(err, aside.ErrNotGenerating) || err == nil {
					t.Errorf("Cancel of nothing: %v", err)
				}
				g := start(t, gs, "A")
				if _, err := gs.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
					t.Errorf("a second Start: %v", err)
				}
				other := start(t, gs, "B")
				if err := gs.Cancel(t.Context(), "A"); err != nil {
					t.Error(err)
				}
				wantCause(t, g, aside.ErrCancelled, 250*time.Millisecond)
				if other.Context().Err() != nil {
					t.Error("another room's generation was cancelled")
				}
				g.Finish()
				g.Finish()
				start(t, gs, "A").Finish()
				other.Finish()
				if err := gs.Cancel(t.Context(), "B"); err == nil {
					t.Error("Cancel of a finished generation")
				}
			})
		})
	}
}

func TestGenerations_AcrossProcesses(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	client := r.Client()
	one, two := overRedis(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})
	here, there := generations(t, one), generations(t, two)

	g := start(t, here, "A")
	if v, ttl := client.Get(t.Context(), "generation:A").Val(), client.TTL(t.Context(), "generation:A").Val(); v != "1" || ttl < 200*time.Second || ttl > 300*time.Second {
		t.Errorf("generation:A is %q for %v", v, ttl)
	}
	if _, err := there.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
		t.Errorf("Start in another process: %v", err)
	}
	if running, err := there.Running(t.Context(), "A"); !running || err != nil {
		t.Errorf("Running: %v, %v", running, err)
	}
	if err := there.Cancel(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	// The time first: the signal may be handled, and removed, in between.
	if ttl, v := client.TTL(t.Context(), "cancel:A").Val(), client.Get(t.Context(), "cancel:A").Val(); v != "" && (v != "1" || ttl < 30*time.Second || ttl > 60*time.Second) {
		t.Errorf("cancel:A is %q for %v", v, ttl)
	}
	wantCause(t, g, aside.ErrCancelled, time.Minute)

	must(aside.GetOrLoad(t.Context(), two, room, func(context.Context) (string, error) { return "before", nil }))
	g.Finish()
	if keys := client.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("after Finish: %q", keys)
	}

	// A Python service cancels with SETEX; a signal from before is not for us.
	client.Do(t.Context(), "SETEX", "cancel:A", 60, "1")
	g = start(t, there, "A")
	time.Sleep(300 * time.Millisecond)
	if g.Context().Err() != nil {
		t.Error("a signal older than the generation cancelled it")
	}
	client.Do(t.Context(), "SETEX", "cancel:A", 60, "1")
	wantCause(t, g, aside.ErrCancelled, time.Minute)
	g.Finish()

	// It runs a generation of its own.
	client.Do(t.Context(), "SETEX", "generation:A", 300, "1")
	if _, err := here.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
		t.Errorf("Start beside another program's generation: %v", err)
	}
}

func TestGenerations_SignalIsSeenWithin250ms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		process, there := must(aside.New(backendOf(memory), aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
		here := generations(t, process)
		defer process.Close()
		var gs []*aside.Generation
		for i := range 50 {
			gs = append(gs, start(t, here, fmt.Sprint(i)))
		}
		time.Sleep(time.Second)
		for i := range gs {
			if err := generations(t, there).Cancel(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(250 * time.Millisecond)
		for _, g := range gs {
			if context.Cause(g.Context()) != aside.ErrCancelled {
				t.Error("not cancelled within 250ms")
			}
			g.Finish()
		}
	})
}

// While a Start here waits for the answer that it comes too late, a Cancel here is
// for the generation that runs elsewhere.
func TestGenerations_CancelDuringAStartThatComesTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		slow := &asidetest.Faulty{Backend: backendOf(memory)}
		process, other := must(aside.New(slow, aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
		defer process.Close()
		defer other.Close()
		g := start(t, generations(t, other), "A")
		defer g.Finish()
		slow.SetFault(func(_ context.Context, method string) error {
			if method == "Lease" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		here := generations(t, process)
		late := make(chan error)
		go func() {
			_, err := here.Start(t.Context(), "A")
			late <- err
		}()
		time.Sleep(50 * time.Millisecond)
		if err := here.Cancel(t.Context(), "A"); err != nil {
			t.Errorf("Cancel: %v", err)
		}
		wantCause(t, g, aside.ErrCancelled, 250*time.Millisecond)
		if err := <-late; !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("the late Start: %v", err)
		}
	})
}

func TestGenerations_KeyIsKeptAndNeverTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		defer memory.Close()
		away := &asidetest.Faulty{Backend: backendOf(memory)}
		process, other := must(aside.New(away, aside.Config{})), must(aside.New(backendOf(memory), aside.Config{}))
		defer process.Close()
		defer other.Close()
		here, there := generations(t, process), generations(t, other)
		g := start(t, here, "A")
		time.Sleep(time.Hour)
		if _, err := there.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("after an hour: %v", err)
		}
		away.SetFault(refuse) // until its key has expired, and another has it
		time.Sleep(6 * time.Minute)
		theirs := start(t, there, "A")
		away.SetFault(nil)
		time.Sleep(10 * time.Minute)
		g.Finish()
		time.Sleep(time.Minute)
		if running, _ := there.Running(t.Context(), "A"); !running || theirs.Context().Err() != nil {
			t.Error("the old owner ended another's generation")
		}
		if _, ok, _ := memory.Get(t.Context(), "generation:A"); !ok {
			t.Error("the old owner removed another's key")
		}
		theirs.Finish()
		if _, ok, _ := memory.Get(t.Context(), "generation:A"); ok {
			t.Error("Finish left the key")
		}
	})
}

// The claim's reply is lost: the key is there, and it is ours.
func TestGenerations_LostReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		backend := &loseReplies{Backend: backendOf(memory)}
		c := must(aside.New(backend, aside.Config{}))
		defer c.Close()
		gs := generations(t, c)
		for _, wait := range []time.Duration{0, 5 * time.Second} {
			backend.lost.Store(1)
			g := start(t, gs, "A")
			time.Sleep(wait)
			if err := memory.Set(t.Context(), "cancel:A", []byte("1"), time.Minute); err != nil {
				t.Fatal(err)
			}
			time.Sleep(250 * time.Millisecond)
			if context.Cause(g.Context()) != aside.ErrCancelled {
				t.Errorf("after %v: the generation does not see its cancel signal", wait)
			}
			g.Finish()
			if _, ok, _ := memory.Get(t.Context(), "generation:A"); ok {
				t.Errorf("after %v: Finish left the key", wait)
			}
		}
	})
}

// loseReplies loses the replies of as many Lease calls.
type loseReplies struct {
	backend.Backend
	lost atomic.Int64
}

func (l *loseReplies) Lease(ctx context.Context, key string, req backend.LeaseRequest) (backend.Lease, error) {
	lease, err := l.Backend.Lease(ctx, key, req)
	if l.lost.Add(-1) >= 0 {
		return backend.Lease{}, errDown
	}
	return lease, err
}

func TestGenerations_TwoFinishedWhileAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{})
		defer c.Close()
		gs := generations(t, c)
		g := start(t, gs, "A")
		backend.SetFault(refuse)
		g.Finish()
		g = start(t, gs, "A")
		time.Sleep(5 * time.Second)
		g.Finish()
		backend.SetFault(nil)
		time.Sleep(2 * time.Second)
		start(t, gs, "A").Finish()
	})
}

func TestGenerations_FinishedWhileAwayIsRemovedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{})
		defer c.Close()
		gs := generations(t, c)
		g := start(t, gs, "A")
		backend.SetFault(refuse)
		time.Sleep(time.Second)
		g.Finish()
		backend.SetFault(nil)
		time.Sleep(2 * time.Second)
		if _, ok, _ := backend.Backend.Get(t.Context(), "generation:A"); ok {
			t.Error("generation:A is still there")
		}
		// Started while away: the key is written when the backend is back.
		backend.SetFault(refuse)
		g = start(t, gs, "A")
		backend.SetFault(nil)
		time.Sleep(3 * time.Second)
		if _, ok, _ := backend.Backend.Get(t.Context(), "generation:A"); !ok {
			t.Error("generation:A was not written when the backend was back")
		}
		g.Finish()
	})
}

// A Start whose caller left leaves nothing behind that keeps the next one out.
func TestGenerations_AnAbandonedStartKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, backend := faulty(t, aside.Config{})
		defer c.Close()
		gs := generations(t, c)
		for range 50 {
			ctx, leave := context.WithCancel(t.Context())
			backend.SetFault(func(_ context.Context, method string) error {
				if method == "Lease" {
					leave()
				}
				return nil
			})
			if _, err := gs.Start(ctx, "A"); !errors.Is(err, context.Canceled) {
				t.Fatalf("the abandoned Start: %v", err)
			}
			backend.SetFault(nil)
			g, err := gs.Start(t.Context(), "A")
			if err != nil {
				t.Fatalf("the next Start: %v", err)
			}
			g.Finish()
		}
	})
}

// While the queue has overflowed, what runs elsewhere is still seen.
func TestGenerations_AnOverflowHidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := must(aside.Open(aside.Config{Type: "memory"}))
		backend := &asidetest.Faulty{Backend: backendOf(memory)}
		here, there := must(aside.New(backend, aside.Config{QueueSize: 1})), must(aside.New(backendOf(memory), aside.Config{}))
		defer there.Close()
		defer here.Close()
		g, err := generations(t, there).Start(t.Context(), "A")
		if err != nil {
			t.Fatal(err)
		}
		backend.SetFault(func(_ context.Context, method string) error {
			if method == "Delete" || method == "Clear" {
				return errDown
			}
			return nil
		})
		if err := aside.Invalidate(t.Context(), here, aside.UserChats("1"), aside.UserChats("2")); err != nil {
			t.Fatal(err)
		}
		gs := generations(t, here)
		if running, err := gs.Running(t.Context(), "A"); !running || err != nil {
			t.Errorf("Running: %v, %v", running, err)
		}
		if _, err := gs.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("Start: %v", err)
		}
		backend.SetFault(nil)
		g.Finish()
		time.Sleep(time.Second)
	})
}
