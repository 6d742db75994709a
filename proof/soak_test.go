//go:build soak

package proof

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

var soak = flag.Duration("soak", 5*time.Minute, "how long TestSoak lasts")

// TestSoak uses a great many keys for minutes, with callers that leave, with generations, and with
// a Redis that stops, dies and kills connections. The number of goroutines and the memory must
// not grow, and no lease may be left.
//
//	go test -tags soak -run Soak -timeout 30m ./proof -soak 5m
func TestSoak(t *testing.T) {
	r := redistest.Start(t)
	admin := r.Client()
	var caches []aside.Cache
	for range 3 {
		cfg := configOf(t, envOf(r.Addr))
		cfg.Logger, cfg.QueueSize = slog.New(slog.DiscardHandler), 500
		cfg.TTLs["row"] = 2 * time.Second
		cfg.MemoryMaxBytes, cfg.DecodedMaxBytes = 2<<20, 2<<20 // full at the end of the first churn, decoded values included
		caches = append(caches, open(t, cfg))
	}
	churn := func(d time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		for _, c := range caches {
			for range 20 {
				wg.Go(func() { use(ctx, t, c) })
			}
		}
		for ctx.Err() == nil {
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
			switch rand.IntN(4) {
			case 0:
				r.Pause()
				time.Sleep(time.Second)
				r.Resume()
			case 1:
				r.Kill()
				time.Sleep(500 * time.Millisecond)
				r.Start()
			case 2:
				admin.Do(ctx, "CLIENT", "KILL", "TYPE", "normal")
			}
		}
		wg.Wait()
		// Without faults queued invalidations are delivered, and leases and blocks end.
		redistest.Eventually(t, "no lease is left", func() bool {
			keys := admin.Keys(t.Context(), "*lease*").Val()
			return len(keys) == 0 && admin.Ping(t.Context()).Err() == nil
		})
	}
	churn(20 * time.Second) // pools and maps have grown by then
	goroutines, heap := measure()
	for start := time.Now(); time.Since(start) < *soak; {
		churn(min(30*time.Second, *soak))
		g, h := measure()
		t.Logf("%5v: %d goroutines, %d KiB", time.Since(start).Round(time.Second), g, h>>10)
		if g > goroutines+50 || h > 2*heap+16<<20 {
			t.Fatalf("it grows: there were %d goroutines and %d KiB", goroutines, heap>>10)
		}
	}
}

func measure() (goroutines int, heap uint64) {
	time.Sleep(2 * time.Second)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// use makes the calls of a service, with a great many keys.
func use(ctx context.Context, t *testing.T, c aside.Cache) {
	gens, err := aside.NewGenerations(c)
	if err != nil {
		t.Error(err)
		return
	}
	for ctx.Err() == nil {
		id := fmt.Sprint(rand.IntN(100_000))
		key := tableSpace.Key(id)
		call, leave := context.WithTimeout(context.Background(), time.Duration(rand.IntN(200))*time.Millisecond)
		switch rand.IntN(10) {
		case 0:
			err = aside.Update(call, c, func(context.Context) error { return nil }, key)
		case 1:
			err = aside.Invalidate(call, c, key)
		case 2:
			var g *aside.Generation
			if g, err = gens.Start(call, id); err == nil {
				g.Finish()
			}
		default:
			_, err = aside.GetOrLoad(call, c, key, func(ctx context.Context) (string, error) {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				return strings.Repeat("x", rand.IntN(1000)), nil
			})
		}
		if err != nil && call.Err() == nil && !errors.Is(err, aside.ErrGenerating) {
			t.Error(err)
		}
		leave()
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	}
}
