package aside_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

// updateOf makes a call of Update of n keys whose blocks the backend takes, or refuses.
func updateOf(tb testing.TB, n int, fault asidetest.Fault) (update func()) {
	tb.Helper()
	backend := &asidetest.Faulty{Backend: asidetest.Memory()}
	c := must(aside.New(backend, aside.Config{QueueSize: 2 * n, Timeout: time.Minute}))
	tb.Cleanup(func() { backend.SetFault(nil); c.Close() })
	backend.SetFault(fault)
	keys := make([]aside.Key, n)
	for i := range keys {
		keys[i] = items.Key("an id of some length " + strconv.Itoa(100_000+i))
	}
	return func() {
		if err := aside.Update(tb.Context(), c, func(context.Context) error { return nil }, keys...); err != nil {
			tb.Fatal(err)
		}
	}
}

// An Update of many keys that the backend refuses costs about what one costs that it
// takes: both go through the keys, and neither goes through them for each of them. Both
// times are the least of several, and are of one length on any machine. The first was
// 20 times the second and more.
func TestUpdate_CostOfManyKeysThatAreRefused(t *testing.T) {
	// Not parallel: it compares times.
	refused, taken := updateOf(t, 60_000, refuse), updateOf(t, 60_000, nil)
	least := func(update func(), before time.Duration) time.Duration {
		start := time.Now()
		update()
		return min(before, time.Since(start))
	}
	a, b := time.Hour, time.Hour
	for range 3 {
		a, b = least(refused, a), least(taken, b)
		if a < 6*b {
			return
		}
	}
	t.Errorf("refused %v, taken %v", a, b)
}

func BenchmarkUpdateRefused(b *testing.B) {
	for _, n := range []int{1000, 60_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			update := updateOf(b, n, refuse)
			for b.Loop() {
				update()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/key")
		})
	}
}
