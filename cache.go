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

// Cache holds the cached values of a service. [Open], [NewRedis] and [New] make one, and
// [GetOrLoad], [Update] and [Invalidate] use it. Its methods are for all else: values that
// no loader makes, and the service's own administration.
// They may be called concurrently. A miss is not an error. A backend that does not
// answer is [ErrUnavailable], within Config.Timeout, and after Close the error is
// [ErrClosed].
//
// Keys are given without Config.KeyPrefix, as [Key.String] has them. Byte slices handed
// in and out must not be modified afterwards by either side.
//
// A Cache that is none of these, such as one that has another in it, is an error where
// it is used. To have a store of your own, implement [backend.Backend], and call New.
type Cache interface {
	// Get returns the value stored under key. ok is false on a miss: the key is
	// absent or expired, holds something that is not a value, or is distrusted in this
	// process (see Invalidate). An empty value is a hit.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// Set stores value for ttl, from a millisecond to a year. A load of the key that
	// began before is not stored. No lease guards what Set stores, so it may be older
	// than the database's: prefer GetOrLoad.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete removes values. A load of one of the keys that began before is not
	// stored. Absent keys are not an error. A Delete that cannot be delivered is
	// queued, which is no error, as for Invalidate. Once the queue has twice as many
	// entries as Config.QueueSize, a key of no known keyspace is refused with
	// ErrUnavailable.
	Delete(ctx context.Context, keys ...string) error

	// Clear removes all values whose keys start with one of the prefixes, and no load
	// that began before is stored. Writers' blocks stay, and so do generations that
	// run. Keys that are stored while it runs may remain. A prefix is compared as text:
	// "app1" removes "app10:x" as well, and "app1:" does not. An empty prefix is an error.
	//
	// Without prefixes Clear removes the keys that the Cache owns: all those under
	// Config.KeyPrefix, or without one the keyspaces
	// chat_messages and user_chats, and those that Config.Keyspaces and Config.TTLs
	// name. The keyspaces generation and cancel hold states and nothing that is
	// cached: theirs are cleared only by a prefix that names the keyspace, such as
	// "cancel:", or by a backend of one's own under a KeyPrefix. On Redis a Clear
	// takes many small steps, for as long as ctx lasts, and returns ErrUnavailable
	// when one of them is not answered within Config.Timeout.
	Clear(ctx context.Context, prefixes ...string) error

	// Status describes the Cache. It asks the backend, even while the breaker is open,
	// so it fails when the backend does not answer. The fields that describe this
	// process are filled in even then.
	Status(ctx context.Context) (Status, error)

	// Close tries once more to deliver the queued invalidations, for 5 seconds at most
	// (or one Config.Timeout, where that is longer) and only while the backend answers,
	// and returns an error that says how many are left. It waits for writes of Update
	// that run, within Config.Timeout, and the error says how many of those were
	// left. Closing twice is not an error. Finish generations before: one that is
	// finished later invalidates nothing.
	Close() error
}

// Open returns a Cache with the backend that cfg.Type names, Redis by default. It does not connect: a Redis that is
// away is no error. Close it when done.
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

// New returns a Cache in front of a backend of the caller's own, which is
// closed with it. cfg's Type and Redis are not used.
func New(store backend.Backend, cfg Config) (Cache, error) {
	cfg.Type = typeNone // it names no backend here
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(store); store == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("aside: New: the backend is nil (%T); hand in a backend.Backend", store)
	}
	return newFront(store, cfg), nil
}

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
	f.answers = f.deliver
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
	maxMemo := max(1, cfg.DecodedMaxBytes) // one byte has room for nothing
	if f.local {                           // it serves callers who share a load, and no further ones
		maxMemo = max(1, cfg.MemoryMaxBytes/16)
	}
	f.memo = entry.NewMemo(maxMemo)
	for _, warning := range cfg.Warnings {
		f.log.Warn("cache: " + warning)
	}
	return f
}

// frontOf returns c as a front, which Open, NewRedis and New make.
func frontOf(c Cache) (*front, error) {
	f, ok := c.(*front)
	if !ok || f == nil {
		return nil, fmt.Errorf("aside: a Cache of type %T was not made by Open, NewRedis or New: want what one of them returns (a store of your own goes to New; what wraps a Cache hands out the one in it)", c)
	}
	return f, nil
}

var (
	_ Cache           = (*front)(nil)
	_ backend.Backend = (*front)(nil)
)
