package aside

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Cache stores bytes under keys and hands out the leases that keep what it
// stores fresh. [Open], [NewRedis] and [New] return one that is ready for
// [GetOrLoad], [Update] and [Invalidate]; a backend of one's own implements
// Cache and is handed to New, which adds the time budget, the circuit breaker,
// the queue of undelivered invalidations and the counters. The package
// asidetest has a suite that checks an implementation.
//
// For each key a Cache keeps a value, and beside it at most one reader's lease,
// any number of writers' blocks, and perhaps a not-found marker. Every method
// is atomic for each key that it names, in all processes that share the
// backend. All times run by the backend's own clock. Methods may be called
// concurrently. A miss is not an error; an error means that the outcome is
// unknown: the command may have been carried out, may be later, or never.
//
// Byte slices handed in and out are not modified by either side afterwards.
type Cache interface {
	// Get returns the value stored under key. ok is false on a miss: the key is
	// absent or expired, or holds something that is not a value. An empty value
	// is a hit.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// Set stores value for ttl, which is at least a millisecond, and ends a
	// reader's lease and a not-found marker. Blocks stay. Set is not guarded by
	// a lease: what it stores may be older than the database's.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete removes values and not-found markers and ends readers' leases, so
	// that a load which began before can not be stored. Blocks stay. Absent keys
	// are not an error. When Delete returns an error, some keys may already be
	// gone; calling it again is safe.
	Delete(ctx context.Context, keys ...string) error

	// Lease asks for the right to load the key's value and to store it with
	// Fill. What it found stands in the answer's State; only Granted comes with
	// a lease. Each call that grants makes a token never used before, also when
	// a client library sends the same call twice; a claim's is its Owner.
	Lease(ctx context.Context, key string, req LeaseRequest) (Lease, error)

	// Extend lets the lease or block that token names last for ttl from now. held
	// is false, and nothing changes, when it has ended. The value of a claim
	// ([LeaseRequest]) is extended with it.
	Extend(ctx context.Context, key, token string, ttl time.Duration) (held bool, err error)

	// Fill stores what was loaded under the lease that token names and ends the
	// lease. stored is false, and nothing changes, when the lease has ended.
	Fill(ctx context.Context, key, token string, fill Fill) (stored bool, err error)

	// Release ends the lease that token names without storing anything, and
	// removes the value of a claim, unless another program has overwritten it. A
	// lease that has ended is not an error.
	Release(ctx context.Context, key, token string) error

	// Block does what Delete does, and keeps leases from being granted until
	// Unblock is called with the same token or ttl is over. Several tokens may
	// block one key, each for its own time.
	Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error

	// Unblock does what Delete does, whether or not the block still stands, and
	// removes this token's block.
	Unblock(ctx context.Context, token string, keys ...string) error

	// Clear removes all values and not-found markers whose keys start with one
	// of the prefixes, and ends the leases on such keys before it does. Blocks
	// stay, and so do claims that have not ended ([LeaseRequest]), with their
	// values. Keys that are stored while it runs may remain. A prefix is compared as
	// text, regardless of the keys' owner: "app1" removes "app10:x" as well, and
	// "app1:" does not. An empty prefix is an error.
	//
	// The Caches that Open, NewRedis and New return clear, without prefixes, what
	// they own: all keys under Config.KeyPrefix, or without one the keyspaces
	// chat_messages and user_chats, and those that Config.Keyspaces and Config.TTLs
	// name. The keyspaces generation and cancel hold states and nothing that is
	// cached: theirs are cleared only by a prefix that names the keyspace, such as
	// "cancel:", or by a backend of one's own under a KeyPrefix. On Redis a Clear
	// takes many small steps, for as long as ctx lasts, and returns ErrUnavailable
	// when one of them is not answered within Config.Timeout.
	Clear(ctx context.Context, prefixes ...string) error

	// Status describes the backend. It asks it, so it fails when the backend
	// does not answer.
	Status(ctx context.Context) (Status, error)

	// Close releases what the Cache holds. Later calls return ErrClosed. Closing
	// twice is not an error. The Caches that Open, NewRedis and New return try
	// once more to deliver their queued invalidations, for 5 seconds at most (or one
	// Config.Timeout, where that is longer) and only while the backend answers, and
	// return an error that says how many are left. They wait for writes of Update
	// that run, within Config.Timeout, and the error says how many of those were
	// left. Finish generations before: one that is finished later invalidates
	// nothing.
	Close() error
}

// LeaseRequest says what a caller of [Cache.Lease] wants.
type LeaseRequest struct {
	// TTL is how long the lease lasts unless extended; at least a millisecond.
	TTL time.Duration

	// Waited is the token of the lease that the caller waited for, if any. When
	// that lease was released without a value, and somebody else holds one now,
	// the answer is Unleased in place of Loading: no one waits for failing loads
	// one after another.
	Waited string

	// Bad, when not nil, is a stored value that the caller could not decode. It
	// is removed if it is still what is stored.
	Bad []byte

	// Claim, when not nil, is stored as the key's value with the lease, and for
	// as long: a lease that other programs can see. It is granted exactly when
	// the key has no value, or that of a claim with the same Owner. With Bad, it
	// is granted exactly when it takes Bad's place, or the same Owner's claim
	// stands; the answer is Absent where the key has no value.
	Claim []byte

	// Owner is the token of a claim. Its owner chooses it, and uses it for no
	// other claim, so that one whose answer was lost can be asked for again, or
	// released.
	Owner string

	channel string // where the end of another's lease is to be told: see teller
	overdue string // the deadline of the lease named by Waited, when it has passed by the caller's own clock
}

// LeaseState is what [Cache.Lease] found.
type LeaseState int

const (
	Granted  LeaseState = iota + 1 // the lease is the caller's: load, then Fill or Release
	Loading                        // another holds the lease: wait, then ask again
	Writing                        // a writer blocks the key: load, store nothing
	Unleased                       // the load waited for failed: load, store nothing
	Present                        // the key has a value
	Absent                         // the key has a not-found marker
)

// Lease is the answer of [Cache.Lease].
type Lease struct {
	State LeaseState
	Token string // the lease's: the caller's own when Granted, the other's when Loading
	Value []byte // the value, when Present

	deadline string // the other's, when Loading, or "": it differs after each renewal
}

// Fill is what [Cache.Fill] stores: Value, or with NotFound set a marker that
// says that there is nothing to be found, for TTL.
type Fill struct {
	Value    []byte
	NotFound bool
	TTL      time.Duration
}

// Open returns a Cache with the backend that cfg.Type names, Redis by default,
// or with none when cfg.Disabled is set. It does not connect: a Redis that is
// away is no error. Close it when done.
func Open(cfg Config) (Cache, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Disabled, cfg.Type == TypeNone:
		return newFront(noneBackend{}, cfg), nil
	case cfg.Type == TypeMemory:
		return newFront(newMemoryBackend(cfg.MemoryMaxBytes), cfg), nil
	default:
		client, notes, err := cfg.Redis.client()
		if err != nil {
			return nil, err
		}
		cfg.Warnings = slices.Concat(cfg.Warnings, notes)
		b := newRedisBackend(client, cfg)
		b.owned, b.master = true, strings.TrimSpace(cfg.Redis.SentinelMaster)
		return newFront(b, cfg), nil
	}
}

// New returns a Cache in front of a backend of the caller's own, which is
// closed with it. cfg's Type and Redis are not used.
func New(backend Cache, cfg Config) (Cache, error) {
	cfg.Type = TypeNone // whatever it says, it names no backend here
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if backend == nil {
		return nil, fmt.Errorf("aside: New: the backend is nil; hand in a Cache")
	}
	return newFront(backend, cfg), nil
}
