package aside_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
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

func ExampleKeyspace_refreshAfter() {
	rates := aside.Keyspace{Name: "rate", TTL: time.Hour, RefreshAfter: 10 * time.Millisecond} // minutes, in a service
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	var database atomic.Value // which another program writes to
	read := func() string {
		rate, err := aside.GetOrLoad(context.Background(), cache, rates.Key("EUR"), func(context.Context) (string, error) {
			return database.Load().(string), nil
		})
		if err != nil {
			panic(err)
		}
		return rate
	}
	database.Store("1.10")
	fmt.Println("at first", read())
	database.Store("1.20")
	rate := read() // at once, whatever its age
	fmt.Println("then", rate)
	for rate == "1.10" { // its age passes, one read has it loaded again, and no read waits
		time.Sleep(time.Millisecond)
		rate = read()
	}
	fmt.Println("soon", rate)
	// Output:
	// at first 1.10
	// then 1.10
	// soon 1.20
}

// A refresh runs when the read that began it has returned. Its loader takes what it needs
// out of the request before, and uses the context that it is given and the pool of
// connections. The request's own context has been cancelled by then, its body closed, and
// its transaction committed: a loader that captured them would fail at each refresh.
func ExampleKeyspace_refreshAfterLoader() {
	names := aside.Keyspace{Name: "user_name", TTL: time.Hour, RefreshAfter: 10 * time.Millisecond}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	var version atomic.Int64
	selectName := func(ctx context.Context, id string) (string, error) { // pool.QueryRow(ctx, "SELECT …", id), in a service
		return fmt.Sprintf("user %s, version %d", id, version.Add(1)), ctx.Err()
	}
	handle := func(r *http.Request) string {
		id := r.FormValue("id") // here, not in the loader
		name, err := aside.GetOrLoad(r.Context(), cache, names.Key(id), func(ctx context.Context) (string, error) {
			return selectName(ctx, id) // with ctx, which has the values of r.Context(), and does not end with it
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
	s, err := cache.Status(context.Background())
	fmt.Println(s.Stats.RefreshErrors, "refreshes failed", err)
	// Output:
	// user 42, version 1
	// 0 refreshes failed <nil>
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
	// aside: CACHE_TYPE: want redis, memory or none
	// aside: REDIS_PORT="70000": want a port from 1 to 65535
	// memory 30m0s <nil>
}

// A token is good for as long as its issuer says, and is kept no longer.
func ExampleKeepFor() {
	tokens := aside.Keyspace{Name: "token", TTL: time.Hour}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx := context.Background()
	token, err := aside.GetOrLoad(ctx, cache, tokens.Key("maps"), func(ctx context.Context) (string, error) {
		token, expiresIn := "abc", 5*time.Minute // what the issuer answered
		aside.KeepFor(ctx, expiresIn-10*time.Second)
		return token, nil
	})
	fmt.Println(token, err)
	for { // what was loaded is stored a moment later
		if _, left, ok, err := aside.Peek[string](ctx, cache, tokens.Key("maps")); ok || err != nil {
			fmt.Println(left.Round(time.Minute), err)
			break
		}
	}
	// Output:
	// abc <nil>
	// 5m0s <nil>
}

// A page that says "reload" shows the newest, and the next reader gets that.
func ExampleFresh() {
	prices := aside.Keyspace{Name: "price", TTL: time.Hour}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	database := "10 €" // which another program writes to
	price := func(ctx context.Context) string {
		price, err := aside.GetOrLoad(ctx, cache, prices.Key("A"), func(context.Context) (string, error) {
			return database, nil
		})
		if err != nil {
			panic(err)
		}
		return price
	}
	ctx := context.Background()
	fmt.Println(price(ctx))
	database = "12 €"
	fmt.Println(price(ctx), "from the cache")
	fmt.Println(price(aside.Fresh(ctx)), "for who asks for the newest")
	fmt.Println(price(ctx), "from the cache")
	// Output:
	// 10 €
	// 10 € from the cache
	// 12 € for who asks for the newest
	// 12 € from the cache
}

func ExamplePeek() {
	users := aside.Keyspace{Name: "user", TTL: time.Hour}
	cache, err := aside.Open(aside.Config{Type: "memory"})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	ctx := context.Background()
	_, _, ok, err := aside.Peek[string](ctx, cache, users.Key("42"))
	fmt.Println(ok, err)
	if err := cache.Set(ctx, "user:42", []byte(`"Ann"`), time.Hour); err != nil {
		panic(err)
	}
	name, left, ok, err := aside.Peek[string](ctx, cache, users.Key("42"))
	fmt.Println(name, left.Round(time.Minute), ok, err)
	// Output:
	// false <nil>
	// Ann 1h0m0s true <nil>
}

// Before a service takes requests, it has what most of them will ask for in the cache. Under
// Fresh this renews what is there already. Processes that start together load each id once.
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // and no longer: a cold cache is no fault
	defer cancel()
	warm := 0
	for some := range slices.Chunk(popular, 500) {
		names, err := aside.GetOrLoadMany(aside.Fresh(ctx), cache, some, key, selectUsers)
		if err != nil {
			fmt.Println(err)
			break
		}
		warm += len(names)
	}
	fmt.Println(warm, "users are in the cache")
	// Output:
	// 2000 users are in the cache
}

// A writer has changed the database and not told the cache. An audit of hits finds it.
func ExampleConfig_audit() {
	cache, err := aside.Open(aside.Config{
		Type:   "memory",
		Audit:  1, // all hits; a service has one in a thousand loaded once more
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	prices := aside.Keyspace{Name: "price", TTL: time.Hour}
	var database atomic.Value
	ctx := context.Background()
	price := func() {
		if _, err := aside.GetOrLoad(ctx, cache, prices.Key("A"), func(context.Context) (string, error) {
			return database.Load().(string), nil
		}); err != nil {
			panic(err)
		}
	}
	database.Store("10 €")
	price()
	database.Store("12 €")
	for { // the log names the key
		price()
		status, err := cache.Status(ctx)
		if err != nil {
			panic(err)
		}
		if status.Stats.AuditDifferences > 0 {
			fmt.Println("a value that nobody invalidated was found")
			break
		}
		time.Sleep(time.Millisecond)
	}
	// Output:
	// a value that nobody invalidated was found
}

// sealing encrypts values, each so that it can be read under its own key only.
type sealing struct {
	aead cipher.AEAD
	key  string
}

// ForKey is called for each read, with the key as it stands in the backend.
func (s sealing) ForKey(key string) aside.Codec {
	s.key = key
	return s
}

func (s sealing) Encode(value any) ([]byte, error) {
	plain, err := aside.JSON.Encode(value)
	if err != nil {
		return nil, err
	}
	return s.aead.Seal(nil, nil, plain, []byte(s.key)), nil
}

func (s sealing) Decode(data []byte, ptr any) error {
	plain, err := s.aead.Open(nil, nil, data, []byte(s.key))
	if err != nil {
		return err
	}
	return aside.JSON.Decode(plain, ptr)
}

func ExampleCodec_forKey() {
	block, err := aes.NewCipher(make([]byte, 32)) // a key from the service's secrets
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	cache, err := aside.Open(aside.Config{Type: "memory", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer cache.Close()
	notes := aside.Keyspace{Name: "note", Codec: sealing{aead: aead}}
	ctx := context.Background()
	read := func(id string) {
		note, err := aside.GetOrLoad(ctx, cache, notes.Key(id), func(context.Context) (string, error) {
			fmt.Println("loading", id)
			return "the note " + id, nil
		})
		fmt.Println(note, err)
	}
	read("A")
	read("A")
	// Somebody puts A's bytes under B, to have them shown to B's reader.
	bytes, _, _ := cache.Get(ctx, "note:A")
	_ = cache.Set(ctx, "note:B", bytes, time.Hour)
	read("B")
	// Output:
	// loading A
	// the note A <nil>
	// the note A <nil>
	// loading B
	// the note B <nil>
}
