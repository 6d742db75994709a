package aside_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/backend"
)

// clocks set the clock of a Redis back, and have it go on from there until end is called, or
// stand still.
var clocks = map[string]func(server *miniredis.Miniredis, back time.Duration) (end func()){
	"goes on": func(server *miniredis.Miniredis, back time.Duration) (end func()) {
		done := make(chan struct{})
		server.SetTime(time.Now().Add(-back))
		go func() {
			for {
				select {
				case <-time.After(time.Millisecond):
					server.SetTime(time.Now().Add(-back))
				case <-done:
					return
				}
			}
		}()
		return func() { close(done) }
	},
	"stands still": func(server *miniredis.Miniredis, back time.Duration) (end func()) {
		server.SetTime(time.Now().Add(-back))
		return func() {}
	},
}

// back runs test in a bubble, with two caches over a Redis whose clock is set back when
// the test calls setBack, and then goes on.
func back(t *testing.T, clock string, test func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration))) {
	synctest.Test(t, func(t *testing.T) {
		server, l := miniredis.NewMiniRedis(), &line{}
		server.ClockTTL(true)
		defer server.Close()
		one, end := l.connect(t, server, aside.Config{})
		defer end()
		two, end := l.connect(t, server, aside.Config{})
		defer end()
		test(t, server, one, two, func(by time.Duration) {
			t.Cleanup(clocks[clock](server, by))
			for _, key := range server.Keys() { // in Redis, an expiry is a time of day
				if left := server.TTL(key); left > 0 {
					server.SetTTL(key, left+by)
				}
			}
		})
	})
}

// A process dies with a lease, and Redis's clock is set back, or a master takes over whose
// clock is behind.
func TestP3_ALeaseOfAClockThatWasSetBackIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for clock := range clocks {
		for _, by := range []time.Duration{15 * time.Second, time.Hour} {
			for _, waiting := range []bool{false, true} { // when the clock is set
				back(t, clock, func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration)) {
					key := items.Key("dead")
					if l, err := backendOf(one).Lease(t.Context(), key.String(), backend.LeaseRequest{TTL: 2 * time.Second}); err != nil || l.State != backend.Granted {
						t.Fatal(l, err)
					}
					if waiting {
						time.AfterFunc(100*time.Millisecond, func() { setBack(by) })
					} else {
						setBack(by)
					}
					start := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					v, err := aside.GetOrLoad(ctx, two, key, func(context.Context) (string, error) { return "loaded", nil })
					if v != "loaded" || err != nil {
						t.Errorf("a clock that %s: got %q, %v", clock, v, err)
					}
					if d := time.Since(start); d > 2500*time.Millisecond {
						t.Errorf("a clock that was set back by %v and %s: the reader waited for %v", by, clock, d)
					}
					aside.AwaitFills(two)
					if got, _ := server.Get(key.String()); got != `"loaded"` {
						t.Errorf("a clock that %s: stored %q", clock, got)
					}
				})
			}
		}
	}
}

// A holder that lives keeps its lease when the clock is set back.
func TestP3_ALoadGoesOnWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	back(t, "goes on", func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration)) {
		loads := 0
		load := func(context.Context) (string, error) { loads++; time.Sleep(10 * time.Second); return "loaded", nil }
		time.AfterFunc(3*time.Second, func() { setBack(time.Hour) })
		done := make(chan struct{})
		go func() { defer close(done); must(aside.GetOrLoad(t.Context(), one, items.Key("slow"), load)) }()
		time.Sleep(time.Second)
		must(aside.GetOrLoad(t.Context(), two, items.Key("slow"), load))
		<-done
		if loads != 1 {
			t.Errorf("%d loads, want 1", loads)
		}
	})
}

// The block of a writer that died lasts as long as a block lasts, and no shorter, and so
// do a not-found marker and a claim.
func TestP2_NothingLastsForLongerWhenTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	lease := func(t *testing.T, c aside.Cache, want backend.LeaseState) {
		t.Helper()
		if l, err := backendOf(c).Lease(t.Context(), "item:x", backend.LeaseRequest{TTL: time.Second}); l.State != want || err != nil {
			t.Errorf("state %v, %v; want %v", l.State, err, want)
		}
	}
	back(t, "goes on", func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration)) {
		if err := backendOf(one).Block(t.Context(), "writer", 10*time.Second, "item:x"); err != nil {
			t.Fatal(err)
		}
		setBack(time.Hour)
		lease(t, two, backend.Writing)
		time.Sleep(9 * time.Second)
		lease(t, two, backend.Writing)
		time.Sleep(2 * time.Second)
		lease(t, two, backend.Granted)
	})
	back(t, "goes on", func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration)) {
		token := must(backendOf(one).Lease(t.Context(), "item:x", backend.LeaseRequest{TTL: time.Second})).Token
		if ok, err := backendOf(one).Fill(t.Context(), "item:x", token, backend.Fill{NotFound: true, TTL: time.Minute}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		setBack(time.Hour)
		lease(t, two, backend.Absent)
		time.Sleep(61 * time.Second)
		lease(t, two, backend.Granted)
	})
	back(t, "goes on", func(t *testing.T, server *miniredis.Miniredis, one, two aside.Cache, setBack func(time.Duration)) {
		must(backendOf(one).Lease(t.Context(), aside.GenerationKey("A").String(), backend.LeaseRequest{TTL: 5 * time.Minute, Claim: []byte("1"), Owner: "dead"}))
		setBack(time.Hour)
		generations := must(aside.NewGenerations(two))
		if _, err := generations.Start(t.Context(), "A"); !errors.Is(err, aside.ErrGenerating) {
			t.Errorf("Start: %v", err)
		}
		time.Sleep(5*time.Minute + time.Second)
		g, err := generations.Start(t.Context(), "A")
		if err != nil {
			t.Fatalf("Start after the claim's time: %v", err)
		}
		g.Finish()
	})
}
