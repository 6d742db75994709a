package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
)

// A service hands in the client that it has. Close of the cache leaves the client open.
func ExampleNewRedis() {
	server, err := miniredis.Run() // a Redis in this process
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
	defer client.Close()

	users := aside.Keyspace{Name: "user", TTL: 10 * time.Minute}
	cache, err := aside.NewRedis(client, aside.Config{
		Keyspaces: []aside.Keyspace{users},
		Timeout:   10 * time.Second, // for a busy test machine; a service keeps the default
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	name, err := aside.GetOrLoad(ctx, cache, users.Key("42"), func(context.Context) (string, error) { return "Ann", nil })
	fmt.Println(name, err)
	if err := cache.Close(); err != nil {
		panic(err)
	}
	fmt.Println(client.Get(ctx, "user:42").Result())
	// Output:
	// Ann <nil>
	// "Ann" <nil>
}

// Two processes with near caches share a Redis. A hit in this process's memory asks Redis
// nothing, and Redis announces the changes that other processes make.
func ExampleConfig_nearCache() {
	server, err := miniredis.Run() // a Redis in this process; as it announces nothing, it is asked each time
	if err != nil {
		panic(err)
	}
	defer server.Close()
	open := func() aside.Cache {
		cache, err := aside.Open(aside.Config{
			Redis:        aside.Redis{Hosts: []string{server.Addr()}},
			NearMaxBytes: 32 << 20,
			Timeout:      10 * time.Second, // for a busy test machine; a service keeps the default
		})
		if err != nil {
			panic(err)
		}
		return cache
	}
	one, two := open(), open() // each in a process of its own
	defer one.Close()
	defer two.Close()

	ctx, row := context.Background(), "hello" // row is in the database of both
	read := func(cache aside.Cache) string {
		text, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return row, nil
		})
		if err != nil {
			panic(err)
		}
		return text
	}
	fmt.Println(read(one), read(two))
	if err := aside.Update(ctx, two, func(context.Context) error {
		row = "hello, world"
		return nil
	}, aside.ChatMessages("A")); err != nil {
		panic(err)
	}
	fmt.Println(read(two)) // at once in the process that wrote
	for read(one) != "hello, world" {
		time.Sleep(time.Millisecond) // in the other one, when Redis's message has arrived
	}
	fmt.Println(read(one))
	// Output:
	// hello hello
	// hello, world
	// hello, world
}
