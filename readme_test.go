package aside_test

//lint:file-ignore SA4006 excerpts leave out what is done with each error

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"os"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cacheaside/aside"
)

// The excerpts of README.md and docs/ are below, so that they are compiled. pages_test.go
// finds each of them here or in another test file.

type User struct{ Name string }

func selectUser(context.Context, string) (User, error) { return User{}, sql.ErrNoRows }

func saveReply(context.Context, string) error { return nil }

func usageOpen(client redis.UniversalClient) (aside.Cache, error) {
	var users = aside.Keyspace{Name: "user", TTL: 10 * time.Minute, NotFoundTTL: 30 * time.Second}

	cache, err := aside.NewRedis(client, aside.Config{Keyspaces: []aside.Keyspace{users}})
	return cache, err
}

func usageRead(ctx context.Context, cache aside.Cache) (User, error) {
	user, err := aside.GetOrLoad(ctx, cache, users.Key("42"), func(ctx context.Context) (User, error) {
		user, err := selectUser(ctx, "42")
		if errors.Is(err, sql.ErrNoRows) {
			return user, aside.ErrNotFound // remembered for NotFoundTTL
		}
		return user, err
	})
	return user, err
}

var rates = aside.Keyspace{Name: "rate", TTL: time.Hour, RefreshAfter: 5 * time.Minute}

var users = aside.Keyspace{Name: "user"}

func selectUsers(context.Context, []int64) (map[int64]User, error) { return nil, nil }

func usersByID(ctx context.Context, cache aside.Cache, ids []int64) (map[int64]User, error) {
	key := func(id int64) aside.Key { return users.Key(strconv.FormatInt(id, 10)) }
	return aside.GetOrLoadMany(ctx, cache, ids, key, selectUsers) // SELECT … WHERE id = ANY($1)
}

func settingsOpen() error {
	cfg, err := aside.ConfigFromEnv(os.Environ())
	if err != nil {
		return err // every variable that is wrong, with the values that would be right
	}
	cfg.Keyspaces = []aside.Keyspace{users} // Clear removes them, and a near cache keeps them
	cache, err := aside.Open(cfg)
	_ = cache
	return err
}

type llm interface {
	Stream(ctx context.Context, prompt string) iter.Seq[string]
}

func readmeGenerations(ctx context.Context, generations *aside.Generations, model llm, chatID, prompt string) error {
	var reply string
	gen, err := generations.Start(ctx, chatID) // aside.ErrGenerating when one is running
	if err != nil {
		return err
	}
	defer gen.Finish()
	for token := range model.Stream(gen.Context(), prompt) {
		reply += token // until generations.Cancel(ctx, chatID), from any process
	}
	return saveReply(ctx, reply)
}

func usageGenerations(ctx context.Context, cache aside.Cache, model llm, chatID, prompt string) error {
	var reply string
	generations, err := aside.NewGenerations(cache)

	gen, err := generations.Start(ctx, chatID) // aside.ErrGenerating when one is running
	if err != nil {
		return err
	}
	defer gen.Finish() // removes generation:, cancel: and chat_messages:, so save the reply before
	for token := range model.Stream(gen.Context(), prompt) {
		reply += token // until it ends, or a caller cancels
	}
	cancelled := errors.Is(context.Cause(gen.Context()), aside.ErrCancelled)
	err = saveReply(context.WithoutCancel(ctx), reply)
	_ = cancelled
	return err
}

var _, _, _, _, _, _, _ = usageOpen, usageRead, usersByID, settingsOpen, readmeGenerations, usageGenerations, rates
