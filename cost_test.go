package aside_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

// updateRefused makes a call of Update of n keys whose blocks the backend refuses.
func updateRefused(tb testing.TB, n int) (update func()) {
	tb.Helper()
	backend := &asidetest.Faulty{Cache: must(aside.Open(aside.Config{Type: aside.TypeMemory}))}
	c := must(aside.New(backend, aside.Config{QueueSize: 2 * n}))
	tb.Cleanup(func() { backend.SetFault(nil); c.Close() })
	backend.SetFault(refuse)
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

// The time that an Update takes grows as the number of its keys does, also while the
// backend refuses them: not as its square. Both times are the least of several, and
// what is compared is their ratio, which is 16 or so, and was some 250: a slow machine
// is slow at both.
func TestUpdate_CostGrowsWithTheNumberOfKeys(t *testing.T) {
	// Not parallel: it compares times.
	few, many := updateRefused(t, 1000), updateRefused(t, 16_000)
	least := func(update func(), before time.Duration) time.Duration {
		start := time.Now()
		update()
		return min(before, time.Since(start))
	}
	a, b := time.Hour, time.Hour
	for range 7 {
		a, b = least(few, a), least(many, b)
	}
	if b > 100*a {
		t.Errorf("16 times as many keys cost %.0f times as much: %v, %v", float64(b)/float64(a), a, b)
	}
}

func BenchmarkUpdateRefused(b *testing.B) {
	for _, n := range []int{1000, 60_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			update := updateRefused(b, n)
			for b.Loop() {
				update()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/key")
		})
	}
}
