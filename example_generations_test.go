package aside_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
)

// A user stops a reply, and the request reaches another process than the one that generates it.
func ExampleGenerations() {
	server, err := miniredis.Run() // a Redis in this process
	if err != nil {
		panic(err)
	}
	defer server.Close()
	open := func() (aside.Cache, *aside.Generations) {
		cache, err := aside.Open(aside.Config{
			Redis:   aside.Redis{Hosts: []string{server.Addr()}},
			Timeout: 10 * time.Second, // for a busy test machine; a service keeps the default
		})
		if err != nil {
			panic(err)
		}
		generations, err := aside.NewGenerations(cache)
		if err != nil {
			panic(err)
		}
		return cache, generations
	}
	ctx := context.Background()

	cache, one := open() // in the first process
	defer cache.Close()
	gen, err := one.Start(ctx, "A")
	if err != nil {
		panic(err)
	}

	cache, two := open() // in the second one
	defer cache.Close()
	_, err = two.Start(ctx, "A")
	fmt.Println("one at a time:", errors.Is(err, aside.ErrGenerating))
	fmt.Println("cancelled:", two.Cancel(ctx, "A"))

	<-gen.Context().Done() // the first process streams until its context ends
	fmt.Println("by the user:", context.Cause(gen.Context()) == aside.ErrCancelled)
	gen.Finish() // when the part that there is has been saved
	fmt.Println(two.Running(ctx, "A"))
	// Output:
	// one at a time: true
	// cancelled: <nil>
	// by the user: true
	// false <nil>
}
