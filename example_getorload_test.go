package aside_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside"
)

// The first read loads the messages of a room, and the second finds them in the cache.
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

// A thousand readers ask for a room that is not cached. One of them loads it, and the others
// take the result.
func ExampleGetOrLoad_concurrent() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	var queries, served atomic.Int64
	var readers sync.WaitGroup
	for range 1000 {
		readers.Go(func() {
			messages, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) ([]string, error) {
				queries.Add(1)
				return []string{"hello"}, nil
			})
			if err == nil && len(messages) == 1 {
				served.Add(1)
			}
		})
	}
	readers.Wait()
	fmt.Println(served.Load(), "readers,", queries.Load(), "query")
	// Output:
	// 1000 readers, 1 query
}

// A query of PostgreSQL has at most 65,535 parameters, so the loader makes several queries
// where more ids are missing.
func ExampleGetOrLoadMany() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := aside.Keyspace{Name: "user", NotFoundTTL: time.Minute}
	key := func(id int) aside.Key { return users.Key(strconv.Itoa(id)) }
	table := map[int]string{7: "Ann", 8: "Ben", 9: "Cho"}
	selectUsers := func(ctx context.Context, ids []int) (map[int]string, error) {
		fmt.Println("loading", ids)
		found := make(map[int]string, len(ids))
		for some := range slices.Chunk(ids, 65_535) { // SELECT … WHERE id IN ($1, $2, …)
			for _, id := range some {
				if name, ok := table[id]; ok {
					found[id] = name
				}
			}
		}
		return found, nil
	}

	names, err := aside.GetOrLoadMany(context.Background(), cache, []int{7, 8, 123}, key, selectUsers)
	fmt.Println(names, err)
	names, err = aside.GetOrLoadMany(context.Background(), cache, []int{7, 8, 9, 123}, key, selectUsers)
	fmt.Println(names, err) // user 123 is remembered as not found
	// Output:
	// loading [7 8 123]
	// map[7:Ann 8:Ben] <nil>
	// loading [9]
	// map[7:Ann 8:Ben 9:Cho] <nil>
}

// A service loads the users that most requests ask for before it accepts requests. Those that are
// cached already are not loaded, and processes that start together load each once.
func ExampleGetOrLoadMany_warmUp() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := aside.Keyspace{Name: "user"}
	key := func(id int) aside.Key { return users.Key(strconv.Itoa(id)) }
	selectUsers := func(ctx context.Context, ids []int) (map[int]string, error) {
		found := make(map[int]string, len(ids))
		for _, id := range ids {
			found[id] = fmt.Sprint("user ", id)
		}
		return found, nil
	}
	var popular []int // SELECT id FROM users ORDER BY last_seen DESC LIMIT 2000
	for id := range 2000 {
		popular = append(popular, id)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a cold cache must not keep the service from starting
	defer cancel()
	warm := 0
	for some := range slices.Chunk(popular, 500) {
		names, err := aside.GetOrLoadMany(ctx, cache, some, key, selectUsers)
		if err != nil {
			fmt.Println(err)
			break
		}
		warm += len(names)
	}
	fmt.Println(warm, "users are cached")
	// Output:
	// 2000 users are cached
}
