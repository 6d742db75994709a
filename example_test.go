package aside_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/cacheaside/aside"
)

func ExampleGetOrLoad() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	for range 2 {
		messages, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(ctx context.Context) ([]string, error) {
			fmt.Println("loading")
			return []string{"hello"}, nil
		})
		fmt.Println(messages, err)
	}
	// Output:
	// loading
	// [hello] <nil>
	// [hello] <nil>
}

// A query of PostgreSQL has at most 65,535 parameters, so the loader makes several where more
// ids are missing.
func ExampleGetOrLoadMany() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := aside.Keyspace{Name: "user", NotFoundTTL: time.Minute}
	key := func(id int) aside.Key { return users.Key(strconv.Itoa(id)) }
	selectUsers := func(ctx context.Context, ids []int) (map[int]string, error) {
		fmt.Println("loading", len(ids))
		found := make(map[int]string, len(ids))
		for some := range slices.Chunk(ids, 65_535) {
			for _, id := range some { // rows of SELECT … WHERE id IN ($1, $2, …)
				if id < 100_000 {
					found[id] = fmt.Sprint("user ", id)
				}
			}
		}
		return found, nil
	}
	for range 2 {
		names, err := aside.GetOrLoadMany(context.Background(), cache, []int{7, 8, 123_456}, key, selectUsers)
		fmt.Println(names, err)
	}
	// Output:
	// loading 3
	// map[7:user 7 8:user 8] <nil>
	// map[7:user 7 8:user 8] <nil>
}

func ExampleUpdate() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, title := context.Background(), "old"
	read := func() {
		v, err := aside.GetOrLoad(ctx, cache, aside.ChatMessages("A"), func(context.Context) (string, error) { return title, nil })
		fmt.Println(v, err)
	}
	read()
	err = aside.Update(ctx, cache, func(context.Context) error {
		title = "new" // the database, in a service
		return nil
	}, aside.ChatMessages("A"))
	fmt.Println(err)
	read()
	// Output:
	// old <nil>
	// <nil>
	// new <nil>
}

func ExampleKeyspace() {
	users := aside.Keyspace{Name: "user", TTL: 10 * time.Minute, NotFoundTTL: 30 * time.Second}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	for range 2 {
		_, err := aside.GetOrLoad(context.Background(), cache, users.Key("42"), func(context.Context) (string, error) {
			fmt.Println("no row for", users.Key("42"))
			return "", aside.ErrNotFound
		})
		fmt.Println(errors.Is(err, aside.ErrNotFound))
	}
	// Output:
	// no row for user:42
	// true
	// true
}

func ExampleGenerations() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	generations, err := aside.NewGenerations(cache)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	gen, err := generations.Start(ctx, "A")
	if err != nil {
		panic(err)
	}
	defer gen.Finish()
	_, err = generations.Start(ctx, "A")
	fmt.Println(err)
	fmt.Println(generations.Cancel(ctx, "A"))
	<-gen.Context().Done()
	fmt.Println(context.Cause(gen.Context()))
	// Output:
	// aside: a generation is already running
	// <nil>
	// aside: the generation was cancelled
}

func ExampleConfigFromEnv() {
	_, err := aside.ConfigFromEnv([]string{"CACHE_TYPE=memcached", "REDIS_PORT=70000"})
	fmt.Println(err)
	cfg, err := aside.ConfigFromEnv([]string{"CACHE_TYPE=memory", "CACHE_TTL_CHAT_MESSAGES=30m"})
	fmt.Println(cfg.Type, cfg.TTLs["chat_messages"], err)
	// Output:
	// aside: CACHE_TYPE="memcached": redis, memory or none is accepted
	// aside: REDIS_PORT="70000": a port from 1 to 65535 is accepted
	// memory 30m0s <nil>
}
