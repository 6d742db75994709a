package aside_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cacheaside/aside"
)

// A "reload" button shows the newest value, which later readers then get from the cache.
func ExampleFresh() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	prices := aside.Keyspace{Name: "price", TTL: time.Hour}
	row := "10 €" // another program writes to the database
	price := func(ctx context.Context) string {
		price, err := aside.GetOrLoad(ctx, cache, prices.Key("A"), func(context.Context) (string, error) {
			return row, nil
		})
		if err != nil {
			panic(err)
		}
		return price
	}

	ctx := context.Background()
	fmt.Println("first:", price(ctx))
	row = "12 €"
	fmt.Println("cached:", price(ctx))
	fmt.Println("reloaded:", price(aside.Fresh(ctx)))
	fmt.Println("cached:", price(ctx))
	// Output:
	// first: 10 €
	// cached: 10 €
	// reloaded: 12 €
	// cached: 12 €
}

// The issuer of a token says how long it is valid. It is not kept for longer.
func ExampleKeepFor() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	tokens := aside.Keyspace{Name: "token", TTL: time.Hour}
	ctx := context.Background()

	token, err := aside.GetOrLoad(ctx, cache, tokens.Key("maps"), func(ctx context.Context) (string, error) {
		token, expiresIn := "abc", 5*time.Minute // the issuer's answer
		aside.KeepFor(ctx, expiresIn-10*time.Second)
		return token, nil
	})
	fmt.Println(token, err)
	_, left, _, err := aside.Peek[string](ctx, cache, tokens.Key("maps"))
	fmt.Println(left.Round(time.Minute), err)
	// Output:
	// abc <nil>
	// 5m0s <nil>
}

// A support page shows whether a value is cached, and causes no load.
func ExamplePeek() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	users := aside.Keyspace{Name: "user", TTL: time.Hour}
	ctx := context.Background()
	show := func() {
		name, left, ok, err := aside.Peek[string](ctx, cache, users.Key("42"))
		fmt.Printf("%q %v %v %v\n", name, left.Round(time.Minute), ok, err)
	}

	show()
	if _, err := aside.GetOrLoad(ctx, cache, users.Key("42"), func(context.Context) (string, error) { return "Ann", nil }); err != nil {
		panic(err)
	}
	show()
	// Output:
	// "" 0s false <nil>
	// "Ann" 1h0m0s true <nil>
}

// A panic of a loader reaches every caller that waited for it, with the stack of the loader.
func ExamplePanicError() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	defer func() { // a middleware of the service
		if p, ok := recover().(*aside.PanicError); ok {
			fmt.Println("500 Internal Server Error:", p.Value, len(p.Stack) > 0)
		}
	}()
	_, _ = aside.GetOrLoad(context.Background(), cache, aside.ChatMessages("A"), func(context.Context) (string, error) {
		panic("no such column")
	})
	// Output:
	// 500 Internal Server Error: no such column true
}
