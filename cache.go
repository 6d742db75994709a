package aside

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/deadline"
	"github.com/cacheaside/aside/internal/entry"
	"github.com/cacheaside/aside/internal/expect"
	"github.com/cacheaside/aside/internal/foreign"
	"github.com/cacheaside/aside/internal/hooks"
	"github.com/cacheaside/aside/internal/lifecycle"
	"github.com/cacheaside/aside/internal/outbox"
	"github.com/cacheaside/aside/internal/places"
	"github.com/cacheaside/aside/internal/redisstore"
	"github.com/cacheaside/aside/internal/wake"
)

// Cache holds the cached values of a service. [Open], [NewRedis] and [New] return one,
// and [GetOrLoad], [Update] and [Invalidate] use it. Its own methods are for values that
// no loader makes, and for administration.
//
// Methods may be called concurrently. A miss is not an error. If the backend is
// unavailable, a method that needs its answer returns [ErrUnavailable] within
// Config.Timeout. After Close, methods return [ErrClosed].
//
// Keys are given without Config.KeyPrefix, as [Key.String] returns them. Neither side may
// modify a byte slice after it was passed or returned.
//
// Only a Cache from Open, NewRedis or New can be used; a wrapper around one is an error
// in GetOrLoad and its like. A store of your own implements [backend.Backend] and is
// passed to New.
type Cache interface {
	// Get returns the value stored under key. ok is false on a miss: the key is absent,
	// expired or distrusted, or holds something that is not a value. An empty value is a
	// hit.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// Set stores value for ttl, from 1 ms to a year. A load of the key that began before is
	// not stored. No lease guards Set, so the value may be older than the database's: prefer
	// GetOrLoad.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete removes values. A load of one of the keys that began before is not stored.
	// Absent keys are not an error. A Delete that cannot be delivered is queued, which is
	// not an error, as for Invalidate. The exception is a key of no known keyspace: once the
	// queue has twice as many entries as Config.QueueSize, it is refused with
	// ErrUnavailable.
	Delete(ctx context.Context, keys ...string) error

	// Clear removes all values whose keys start with one of the prefixes. No load that began
	// before is stored. Blocks stay, and so do running generations. Keys that are stored
	// while it runs may remain. A prefix is compared as text: "app1" also removes "app10:x",
	// and "app1:" does not. An empty prefix is an error.
	//
	// Without prefixes, Clear removes the keys that the Cache owns. These are all keys under
	// Config.KeyPrefix. If there is none, they are the keyspaces chat_messages and
	// user_chats, and those named in Config.Keyspaces and Config.TTLs.
	//
	// The keyspaces generation and cancel hold states, not cached values. Only a prefix that
	// names the keyspace, such as "cancel:", clears them, or a custom backend under a
	// KeyPrefix.
	//
	// On Redis, Clear takes many small steps, as long as ctx lasts. It returns
	// ErrUnavailable if a step is not answered within Config.Timeout.
	Clear(ctx context.Context, prefixes ...string) error

	// Status queries the backend, even while the breaker is open, and returns ErrUnavailable
	// if it does not answer. The fields about this process are valid even then.
	Status(ctx context.Context) (Status, error)

	// Close releases the Cache. It waits, within Config.Timeout, for writes of Update, and
	// tries once more to deliver the queued invalidations, for at most 5 seconds (or one
	// Config.Timeout if that is longer) and only while the backend answers. Its error says
	// how many writes were still running, and how many invalidations are left. Closing twice
	// is not an error.
	//
	// Finish running generations before calling Close: a later Finish invalidates nothing.
	Close() error
}

// Open returns a Cache with the backend that cfg.Type names, Redis by default. It does
// not connect, so an unavailable Redis is not an error. The caller must Close it.
func Open(cfg Config) (Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Type == typeNone:
		return newFront(noneBackend{}, cfg), nil
	case cfg.Type == typeMemory:
		return newFront(newMemoryBackend(cfg.MemoryMaxBytes), cfg), nil
	default:
		client, notes, err := cfg.Redis.client()
		if err != nil {
			return nil, err
		}
		cfg.Warnings = slices.Concat(cfg.Warnings, notes)
		o := redisstore.Options{Owned: true, Master: strings.TrimSpace(cfg.Redis.SentinelMaster),
			SentinelUser: strings.TrimSpace(cfg.Redis.SentinelUsername), SentinelPassword: cfg.Redis.SentinelPassword}
		return newFront(newRedisStore(client, cfg, o), cfg), nil
	}
}

// New returns a Cache in front of a custom backend, and takes ownership of it: Close
// closes both. It ignores cfg's Type and Redis.
func New(store backend.Backend, cfg Config) (Cache, error) {
	cfg.Type = typeNone // so that withDefaults does not check cfg.Redis
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(store); store == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("aside: New: backend is nil (%T); want a backend.Backend", store)
	}
	return newFront(store, cfg), nil
}

// newFront puts a front before a store. A store of this package needs less of it: memory
// and none can neither fail nor block, so their calls skip the guards against foreign
// code, time budget and breakers.
func newFront(store backend.Backend, cfg Config) *front {
	f := &front{
		backend:   foreign.Backend{Backend: store},
		own:       store,
		cfg:       cfg,
		ttl:       ttlPolicy{byName: cfg.TTLs, refreshes: cfg.RefreshAfter, jitter: cfg.Jitter},
		log:       slog.New(foreign.Logs{Handler: cfg.Logger.Handler()}),
		logs:      foreign.Enabler(cfg.Logger.Handler()),
		misses:    expect.New(),
		flights:   flights{byKey: make(map[string]*flight)},
		places:    places.New(cfg.MaxLoads),
		queue:     outbox.New(cfg.QueueSize),
		deadlines: deadline.NewShared(cfg.Timeout),
		life:      lifecycle.New(),
	}
	f.hooks = hooks.New(cfg.Hooks, f.log)
	wakes := wake.Options{Name: f.name("aside:wake"), Refused: redisstore.Answered, Log: f.log, Stop: f.life.Context(), Go: f.life.Go}
	if b, ok := store.(*redisstore.Store); ok {
		wakes.Listen = func(ctx context.Context, h *wake.Hub) error { return b.Listen(ctx, h.Name, h) }
	}
	f.wakes = wake.New(wakes)
	switch b := store.(type) {
	case noneBackend:
		f.off, f.local, f.backend = true, true, b
	case *memoryBackend:
		f.local, f.memory, f.backend = true, b, b
		b.covers = coversUnder(cfg.KeyPrefix)
	case *redisstore.Store:
		f.useRedis(b)
	}
	maxMemo := max(1, cfg.DecodedMaxBytes) // one byte is too little for any entry
	if f.local {                           // only for callers that share a load: memory itself keeps decoded values
		maxMemo = max(1, cfg.MemoryMaxBytes/16)
	}
	f.memo = entry.NewMemo(maxMemo)
	for _, warning := range cfg.Warnings {
		f.log.Warn("aside: " + warning)
	}
	return f
}

// frontOf returns the front behind c. A wrapper is an error rather than unwrapped: calls
// that the wrapper means to intercept would go past it in silence.
func frontOf(c Cache) (*front, error) {
	f, ok := c.(*front)
	if !ok || f == nil {
		return nil, fmt.Errorf("aside: Cache of type %T: want one from Open, NewRedis or New (pass a store of your own to New, and the Cache inside a wrapper instead of the wrapper)", c)
	}
	return f, nil
}

var (
	_ Cache           = (*front)(nil)
	_ backend.Backend = (*front)(nil)
)
