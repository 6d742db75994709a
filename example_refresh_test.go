package aside_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/cacheaside/aside"
)

// A value older than RefreshAfter is served at once, and loaded again in the background.
func ExampleKeyspace_refreshAfter() {
	server, err := miniredis.Run() // a Redis in this process, whose clock can be put forward
	if err != nil {
		panic(err)
	}
	defer server.Close()
	cache, err := aside.Open(aside.Config{
		Redis:   aside.Redis{Hosts: []string{server.Addr()}},
		Timeout: 10 * time.Second, // for a busy test machine; a service keeps the default
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	rates := aside.Keyspace{Name: "rate", TTL: time.Hour, RefreshAfter: 5 * time.Minute}
	var row atomic.Value // another program writes to the database
	read := func() string {
		rate, err := aside.GetOrLoad(context.Background(), cache, rates.Key("EUR"), func(context.Context) (string, error) {
			return row.Load().(string), nil
		})
		if err != nil {
			panic(err)
		}
		return rate
	}

	row.Store("1.10")
	fmt.Println("at first:", read())
	row.Store("1.20")
	fmt.Println("while it is young:", read())
	server.FastForward(6 * time.Minute)
	fmt.Println("when it is too old:", read()) // this read begins the refresh, and does not wait
	for read() == "1.10" {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("soon after:", read())
	// Output:
	// at first: 1.10
	// while it is young: 1.10
	// when it is too old: 1.10
	// soon after: 1.20
}

// A refresh runs when the read that began it has returned. Its loader takes what it needs out
// of the request beforehand, and uses the context that it is given and the connection pool. By
// then the request's context has ended, its body is closed, and its transaction is over, so a
// loader that captured them would fail at each refresh.
func ExampleKeyspace_refreshAfterLoader() {
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	names := aside.Keyspace{Name: "user_name", TTL: time.Hour, RefreshAfter: 10 * time.Millisecond} // minutes in a service
	var version atomic.Int64
	selectName := func(ctx context.Context, id string) (string, error) { // pool.QueryRow(ctx, "SELECT …", id) in a service
		return fmt.Sprintf("user %s, version %d", id, version.Add(1)), ctx.Err()
	}
	handle := func(r *http.Request) string {
		id := r.FormValue("id") // here, not in the loader
		name, err := aside.GetOrLoad(r.Context(), cache, names.Key(id), func(ctx context.Context) (string, error) {
			return selectName(ctx, id) // ctx has the values of r.Context(), and does not end with it
		})
		if err != nil {
			panic(err)
		}
		return name
	}
	serve := func() string {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel() // as net/http does when a handler returns
		return handle(httptest.NewRequestWithContext(ctx, "GET", "/name?id=42", nil))
	}

	fmt.Println(serve())
	for serve() == "user 42, version 1" {
		time.Sleep(time.Millisecond)
	}
	status, err := cache.Status(context.Background())
	fmt.Println(status.Stats.RefreshErrors, "refreshes failed", err)
	// Output:
	// user 42, version 1
	// 0 refreshes failed <nil>
}
