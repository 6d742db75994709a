package aside_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside"
)

// A program writes to the database and invalidates nothing. An audit of hits finds it.
func ExampleConfig_audit() {
	cache, err := aside.Open(aside.Config{
		Type:   "memory",
		Audit:  1, // every hit; a service takes one in a thousand, 0.001
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	prices := aside.Keyspace{Name: "price", TTL: time.Hour}
	var row atomic.Value
	ctx := context.Background()
	read := func() {
		if _, err := aside.GetOrLoad(ctx, cache, prices.Key("A"), func(context.Context) (string, error) {
			return row.Load().(string), nil
		}); err != nil {
			panic(err)
		}
	}

	row.Store("10 €")
	read()
	row.Store("12 €") // without Update or Invalidate
	for {
		read()
		status, err := cache.Status(ctx)
		if err != nil {
			panic(err)
		}
		if status.Stats.AuditDifferences > 0 {
			fmt.Println("a stale value was served; the log names its key")
			break
		}
		time.Sleep(time.Millisecond)
	}
	// Output:
	// a stale value was served; the log names its key
}
