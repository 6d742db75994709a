package asidetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
)

// A test takes a service through an outage of its cache. No caller sees an error, and no reader
// gets the old value.
func ExampleFaulty() {
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	cache, err := aside.New(store, aside.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx, key, row := context.Background(), aside.ChatMessages("A"), "hello"
	read := func() {
		from := "the cache"
		text, err := aside.GetOrLoad(ctx, cache, key, func(context.Context) (string, error) {
			from = "the database"
			return row, nil
		})
		fmt.Println(text, "from", from, err)
	}
	write := func(text string) {
		err := aside.Update(ctx, cache, func(context.Context) error {
			row = text
			return nil
		}, key)
		fmt.Println("write:", err, "pending:", aside.Pending(cache, key))
	}

	read()
	read()
	store.SetFault(func(context.Context, string) error { return errors.New("connection refused") })
	write("hello, world")
	read()
	read()
	store.SetFault(nil)
	for aside.Pending(cache, key) { // until the invalidation is delivered
		time.Sleep(time.Millisecond)
	}
	read()
	read()
	// Output:
	// hello from the database <nil>
	// hello from the cache <nil>
	// write: <nil> pending: true
	// hello, world from the database <nil>
	// hello, world from the database <nil>
	// hello, world from the database <nil>
	// hello, world from the cache <nil>
}

// A fault may concern some methods only. Here the backend is full, so that nothing is stored.
func ExampleFault() {
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	cache, err := aside.New(store, aside.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	store.SetFault(func(_ context.Context, method string) error {
		if method == "Fill" {
			return errors.New("out of memory")
		}
		return nil
	})
	for range 2 {
		text, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			fmt.Println("loading")
			return "hello", nil
		})
		fmt.Println(text, err)
	}
	// Output:
	// loading
	// hello <nil>
	// loading
	// hello <nil>
}

// A backend that hangs costs each call Config.Timeout at most. After three such calls in a row the
// breaker opens, and reads load at once.
func ExampleHang() {
	store := &asidetest.Faulty{Backend: asidetest.Memory()}
	cache, err := aside.New(store, aside.Config{
		Timeout: 20 * time.Millisecond,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	store.SetFault(asidetest.Hang)
	for range 3 {
		text, err := aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
			return "hello", nil
		})
		fmt.Println(text, err)
	}
	status, err := cache.Status(context.Background())
	fmt.Println("breaker", status.Breaker, "answers", err == nil)
	// Output:
	// hello <nil>
	// hello <nil>
	// hello <nil>
	// breaker open answers false
}
