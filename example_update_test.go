package aside_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

// A write names the keys of all values that it changes. The title of a room is in the list of
// each of its members.
func ExampleUpdate() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, title := context.Background(), "New chat" // title is a column of the database
	show := func() {
		for _, user := range []string{"ann", "ben"} {
			rooms, err := aside.GetOrLoad(ctx, cache, aside.UserChats(user), func(context.Context) ([]string, error) {
				return []string{title}, nil
			})
			fmt.Println(user, rooms, err)
		}
	}

	show()
	err = aside.Update(ctx, cache, func(ctx context.Context) error {
		title = "Holidays" // UPDATE …; it has committed when this function returns
		return nil
	}, aside.UserChats("ann"), aside.UserChats("ben"))
	fmt.Println(err)
	show()
	// Output:
	// ann [New chat] <nil>
	// ben [New chat] <nil>
	// <nil>
	// ann [Holidays] <nil>
	// ben [Holidays] <nil>
}

// A service whose readers must never get a stale value refuses writes while the backend is
// unavailable.
func ExampleUpdate_refuseWrites() {
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	cache, err := aside.New(store, aside.Config{RefuseWrites: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	store.SetFault(func(context.Context, string) error { return errors.New("connection refused") })

	err = aside.Update(context.Background(), cache, func(context.Context) error {
		fmt.Println("not reached")
		return nil
	}, aside.ChatMessages("A"))
	if errors.Is(err, aside.ErrWriteRefused) {
		fmt.Println("503 Service Unavailable")
	}
	// Output:
	// 503 Service Unavailable
}

// An import has changed rows, and no Update could wrap it. While the backend is unavailable, the
// invalidation is queued, and this process reads the key from the database.
func ExampleInvalidate() {
	store := &asidetest.Faulty{Backend: asidetest.Memory()} // in place of a Redis
	cache, err := aside.New(store, aside.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, key := context.Background(), aside.ChatMessages("A")

	err = aside.Invalidate(ctx, cache, key)
	fmt.Println(err, aside.Pending(cache, key))

	store.SetFault(func(context.Context, string) error { return errors.New("connection refused") })
	err = aside.Invalidate(ctx, cache, key)
	fmt.Println(err, aside.Pending(cache, key))

	store.SetFault(nil)
	for aside.Pending(cache, key) {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("delivered")
	// Output:
	// <nil> false
	// <nil> true
	// delivered
}
