package aside_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/internal/redistest"
)

func TestMeasure(t *testing.T) {
	r := redistest.Start(t)
	one, two := overRedis(t, r.Addr, aside.Config{}), overRedis(t, r.Addr, aside.Config{})
	count := func(names ...string) int {
		stats := r.Client().Info(t.Context(), "commandstats").Val()
		var n int
		for _, name := range names {
			_, rest, _ := strings.Cut(stats, "cmdstat_"+name+":calls=")
			text, _, _ := strings.Cut(rest, ",")
			i, _ := strconv.Atoi(text)
			n += i
		}
		return n
	}
	for _, takes := range []time.Duration{50 * time.Millisecond, 500 * time.Millisecond} {
		var late []time.Duration
		before := count("evalsha", "eval")
		const n = 60
		for i := range n / int(takes/(50*time.Millisecond)) {
			key := aside.Keyspace{Name: "m"}.Key(fmt.Sprint(takes, i))
			var wg sync.WaitGroup
			var loaded time.Time
			loading := make(chan struct{})
			wg.Go(func() {
				aside.GetOrLoad(t.Context(), one, key, func(context.Context) (string, error) {
					close(loading)
					time.Sleep(takes)
					loaded = time.Now()
					return "v", nil
				})
			})
			<-loading
			aside.GetOrLoad(t.Context(), two, key, func(context.Context) (string, error) { return "x", nil })
			got := time.Now()
			wg.Wait()
			late = append(late, got.Sub(loaded))
		}
		scripts := count("evalsha", "eval") - before
		slices.Sort(late)
		fmt.Printf("load %v: late p50 %v p90 %v max %v; scripts of who waits a load: %.1f\n", takes, late[len(late)/2], late[len(late)*9/10], late[len(late)-1], float64(scripts)/float64(len(late))-2)
	}
}
