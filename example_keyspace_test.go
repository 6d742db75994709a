package aside_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cacheaside/aside"
)

// A keyspace is a variable of the package that owns its values.
func ExampleKeyspace() {
	users := aside.Keyspace{Name: "user", TTL: 10 * time.Minute}
	cache, err := aside.Open(aside.Config{
		Type:      "memory",
		Keyspaces: []aside.Keyspace{users}, // for Clear, and for a near cache
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	type user struct{ Name, Language string }
	ann, err := aside.GetOrLoad(context.Background(), cache, users.Key("42"), func(context.Context) (user, error) {
		return user{Name: "Ann", Language: "ko"}, nil // SELECT … WHERE id = 42
	})
	fmt.Println(users.Key("42"), ann, err)
	// Output:
	// user:42 {Ann ko} <nil>
}

// The absence of a row is an answer, too. It is kept for NotFoundTTL.
func ExampleKeyspace_notFound() {
	users := aside.Keyspace{Name: "user", TTL: 10 * time.Minute, NotFoundTTL: 30 * time.Second}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	queryName := func(ctx context.Context, id string) (string, error) {
		fmt.Println("SELECT name FROM users WHERE id =", id)
		return "", sql.ErrNoRows
	}
	for range 2 {
		_, err := aside.GetOrLoad(context.Background(), cache, users.Key("42"), func(ctx context.Context) (string, error) {
			name, err := queryName(ctx, "42")
			if errors.Is(err, sql.ErrNoRows) {
				return "", aside.ErrNotFound
			}
			return name, err
		})
		if errors.Is(err, aside.ErrNotFound) {
			fmt.Println("404 Not Found")
		}
	}
	// Output:
	// SELECT name FROM users WHERE id = 42
	// 404 Not Found
	// 404 Not Found
}

// A model's description is large and never modified once it is loaded, so that all readers may
// have the same one: their hits decode and copy nothing.
func ExampleKeyspace_share() {
	models := aside.Keyspace{Name: "model", TTL: time.Hour, Share: true}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	type model struct {
		Name   string
		Prices map[string]float64
	}
	get := func() *model {
		m, err := aside.GetOrLoad(context.Background(), cache, models.Key("small"), func(context.Context) (*model, error) {
			return &model{Name: "small", Prices: map[string]float64{"input": 0.1, "output": 0.4}}, nil
		})
		if err != nil {
			panic(err)
		}
		return m
	}
	get() // a miss
	a, b := get(), get()
	fmt.Println(a.Prices["output"], a == b)
	// Output:
	// 0.4 true
}

// A rendered page is text already, and is stored as it is.
func ExampleCodec_bytes() {
	pages := aside.Keyspace{Name: "page", TTL: time.Hour, Codec: aside.Bytes}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx := context.Background()
	if _, err := aside.GetOrLoad(ctx, cache, pages.Key("help"), func(context.Context) (string, error) {
		return "<h1>Help</h1>", nil
	}); err != nil {
		panic(err)
	}
	stored, _, err := cache.Get(ctx, "page:help")
	fmt.Println(string(stored), err)
	// Output:
	// <h1>Help</h1> <nil>
}
