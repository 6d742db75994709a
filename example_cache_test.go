package aside_test

import (
	"context"
	"fmt"

	"github.com/cacheaside/aside"
)

// A release gives the values of one keyspace another form. Its values are removed once.
func ExampleCache_clear() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, users := context.Background(), aside.Keyspace{Name: "user"}
	read := func(key aside.Key) {
		if _, err := aside.GetOrLoad(ctx, cache, key, func(context.Context) (string, error) {
			fmt.Println("loading", key)
			return "loaded", nil
		}); err != nil {
			panic(err)
		}
	}

	read(users.Key("42"))
	read(aside.ChatMessages("A"))
	if err := cache.Clear(ctx, "user:"); err != nil {
		panic(err)
	}
	read(users.Key("42"))
	read(aside.ChatMessages("A"))
	// Output:
	// loading user:42
	// loading chat_messages:A
	// loading user:42
}

// A health page shows the share of hits by keyspace.
func ExampleCache_status() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx := context.Background()
	for range 4 {
		if _, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		}); err != nil {
			panic(err)
		}
	}
	status, err := cache.Status(ctx)
	if err != nil {
		panic(err)
	}
	for name, stats := range status.Keyspaces {
		fmt.Printf("%s: %d of %d reads were hits\n", name, stats.Hits, stats.Hits+stats.Misses)
	}
	fmt.Println("breaker", status.Breaker)
	// Output:
	// chat_messages: 3 of 4 reads were hits
	// breaker closed
}
