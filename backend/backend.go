// Package backend is for authors of stores: the interface that a store implements to be
// the backend of an [aside.Cache], and the leases that keep stored values fresh. A service
// that uses one of aside's own backends does not need it. An implementation is handed to
// aside.New, which adds the time budget, the circuit breaker, the queue of undelivered
// invalidations and the counters; the package asidetest has a suite that checks it.
//
// [aside.Cache]: https://pkg.go.dev/github.com/cacheaside/aside#Cache
package backend

import (
	"context"
	"errors"
	"time"
)

// ErrClosed is returned by a Backend's methods after Close.
var ErrClosed = errors.New("aside: the cache is closed")

// Backend stores bytes under keys and hands out leases on them.
//
// For each key a Backend keeps a value, and beside it at most one reader's lease,
// any number of writers' blocks, and perhaps a not-found marker. Every method
// is atomic for each key that it names, in all processes that share the
// store. All times run by the store's own clock. Methods may be called
// concurrently. A miss is not an error; an error means that the outcome is
// unknown: the command may have been carried out, may be later, or never. A caller
// waits for a method to return, however long that takes: one that waits for something
// returns when ctx ends. A Cache names a few hundred keys in a call at most, and
// makes several calls where it has more.
//
// Byte slices handed in and out are not modified by either side afterwards.
type Backend interface {
	// Get returns the value stored under key. ok is false on a miss: the key is
	// absent or expired, or holds something that is not a value. An empty value
	// is a hit.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// GetMarked is Get, and tells whether the value is fresh.
	GetMarked(ctx context.Context, key string) (value []byte, mark Mark, ok bool, err error)

	// TTL returns how long the value stored under key will still be kept. ok is false
	// when there is no value. ttl is 0 when the value has no end, which only another
	// program can have stored.
	TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error)

	// Set stores value for ttl, which is at least a millisecond, and ends a
	// reader's lease, a not-found marker and a freshness mark. Blocks stay. Set is not guarded by
	// a lease: the value may be older than the database's.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete removes values with their marks, and not-found markers, and ends readers' leases, so
	// that a load which began before cannot be stored. Blocks stay. Absent keys
	// are not an error. When Delete returns an error, some keys may already be
	// gone; calling it again is safe.
	Delete(ctx context.Context, keys ...string) error

	// Lease asks for the right to load the key's value and to store it with
	// Fill. The answer's State says whether it is granted; only Granted comes with
	// a lease. Each call that grants makes a token never used before, also when
	// a client library sends the same call twice; a claim's is its Owner.
	Lease(ctx context.Context, key string, req LeaseRequest) (Lease, error)

	// Extend lets the lease or block that token names last for ttl from now, on each
	// of keys. held is false when it has ended on one of them, where nothing changes;
	// the others are extended all the same. The value of a claim ([LeaseRequest]) is
	// extended with it.
	Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (held bool, err error)

	// Fill stores the result of a load under the lease that token names, and ends the
	// lease. stored is false, and nothing changes, when the lease has ended. It is
	// false, and the lease ends, when that was granted for a Refresh and the key has
	// another value by now than it had then, or the same one stored again, or the value
	// was removed before its end. A store may fail to tell apart a value that another
	// program has put there with the same length and the same end.
	Fill(ctx context.Context, key, token string, fill Fill) (stored bool, err error)

	// Release ends the lease that token names without storing anything. One that was
	// granted for a Refresh leaves the value and its end as they are, and keeps further
	// ones from being granted for a while: for FailedFor, and after each that is granted
	// within as much time again and released for twice as long, up to MaxCooldown. Release
	// removes the value of a claim, unless another program has overwritten it. A
	// lease that has ended is not an error.
	Release(ctx context.Context, key, token string) error

	// Block deletes keys as Delete does, and keeps leases from being granted until
	// Unblock is called with the same token or ttl is over. Several tokens may
	// block one key, each for its own time.
	Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error

	// Unblock deletes keys as Delete does, whether or not the block still stands, and
	// removes this token's block.
	Unblock(ctx context.Context, token string, keys ...string) error

	// Clear removes all values and not-found markers whose keys start with one
	// of the prefixes, and ends the leases on such keys before it does. Blocks
	// stay, and so do claims that have not ended ([LeaseRequest]), with their
	// values. Keys that are stored while it runs may remain. A prefix is compared as
	// text, regardless of the keys' owner: "app1" removes "app10:x" as well, and
	// "app1:" does not.
	Clear(ctx context.Context, prefixes ...string) error

	// Info describes the store. It asks it, so it fails when the store does not
	// answer.
	Info(ctx context.Context) (Info, error)

	// Close releases the resources of the Backend. Later calls return ErrClosed. Closing
	// twice is not an error.
	Close() error
}

// LeaseRequest is a request to [Backend.Lease].
type LeaseRequest struct {
	// TTL is how long the lease lasts unless extended; at least a millisecond.
	TTL time.Duration

	// WaitedFor is the token of the lease that the caller waited for, if any. When
	// that lease was released without a value, and somebody else holds one now,
	// the answer is Unleased in place of Loading: no one waits for failing loads
	// one after another.
	WaitedFor string

	// Undecodable, when not nil, is a stored value that the caller could not decode.
	// It is removed if it is still the stored value.
	Undecodable []byte

	// Claim, when not nil, is stored as the key's value with the lease, and for
	// as long: a lease that other programs can see. It is granted exactly when
	// the key has no value, or that of a claim with the same Owner. With
	// Undecodable, it is granted exactly when it takes that value's place, or the same
	// Owner's claim stands; the answer is Absent where the key has no value.
	Claim []byte

	// Refresh, when not nil, asks for the right to load anew a value that is no longer
	// fresh. The value stays. The answer is Granted; Loading, when there is a lease, or
	// there has been one for a Refresh that was released a short while ago, of which the
	// Token is empty; Writing; Marked, when the value is fresh or Refresh says that it
	// is; or Gone. It comes without the other fields but TTL and WakeOn.
	Refresh *Refresh

	// Owner is the token of a claim. Its owner chooses it, and uses it for no
	// other claim, so that one whose answer was lost can be asked for again, or
	// released.
	Owner string

	// WakeOn, when not empty, is the channel on which the end of another's lease that
	// this call finds is to be announced, with the key as the message. It is a hint: a
	// store that cannot announce anything ignores it.
	WakeOn string

	// Overdue, when not empty, is the Deadline of the lease that WaitedFor names, when
	// by the caller's own clock that has passed. A lease with the same Deadline still
	// has ended, even if the store's clock says otherwise; a store whose clock cannot be set back
	// ignores it.
	Overdue string
}

// Refresh says which values without a mark are fresh: those that will be kept for more
// than Over, and for Within at most. Another program has stored such a value, or it was
// stored before its keyspace had marks. It is marked as fresh until it will be kept for
// Over.
//
// Always asks for the lease whether or not there is a value, and however fresh it is: the
// answer is Granted, Loading or Writing.
type Refresh struct {
	Over, Within time.Duration
	Always       bool
}

// Mark is the answer of [Backend.GetMarked] about a value's age.
type Mark int

const (
	Unmarked Mark = iota // it is not known to be fresh
	Fresh                // Fill has stored it so, and Fill.FreshFor is not over
	Leased               // it is not known to be fresh, and somebody has a lease on the key
	NotFound             // there is no value, and a not-found marker says so
)

// FailedFor is how long a store remembers of a lease that it was released without a
// value: see LeaseRequest.WaitedFor.
const FailedFor = 2 * time.Second

// MaxCooldown is the longest time that a store grants no lease for a Refresh after others
// that were released: see [Backend.Release].
const MaxCooldown = time.Minute

// LeaseState is the outcome of [Backend.Lease].
type LeaseState int

const (
	Granted  LeaseState = iota + 1 // the lease is the caller's: load, then Fill or Release
	Loading                        // another holds the lease: wait, then ask again
	Writing                        // a writer blocks the key: load, store nothing
	Unleased                       // the load waited for failed: load, store nothing
	Present                        // the key has a value
	Absent                         // the key has a not-found marker
	Marked                         // to a Refresh: the key has a value that is fresh
	Gone                           // to a Refresh: the key has no value
)

// Lease is the answer of [Backend.Lease].
type Lease struct {
	State LeaseState
	Token string // the lease's: the caller's own when Granted, the other's when Loading
	Value []byte // the value, when Present

	// Deadline is the other's, when Loading: a text that differs after each renewal, and
	// ends in a blank and how many milliseconds the lease was made or renewed for. It is ""
	// where the store cannot tell.
	Deadline string
}

// Fill is the result of a load, for [Backend.Fill]: Value, or with NotFound set a marker
// that says that there is nothing to be found. It is kept for TTL.
type Fill struct {
	Value    []byte
	NotFound bool          // a value that the lease was to refresh is removed
	TTL      time.Duration // 0, with NotFound, leaves no marker

	// FreshFor, when not 0, is how long the value is marked as fresh.
	FreshFor time.Duration
}

// Info describes a store. Fields that it cannot tell are left empty.
type Info struct {
	Name      string // of the store
	Version   string // the server's, where there is one
	UsedBytes int64  // memory of the server or the store; 0 where that is not known
	Keys      int64  // in the store: all keys, not only the cache's
}
