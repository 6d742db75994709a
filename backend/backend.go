// Package backend is for authors of stores. It has the interface that a store implements
// to be the backend of an [aside.Cache], and the leases that keep stored values from
// being stale. A service that uses one of aside's own backends does not need it.
//
// An implementation is passed to aside.New, which adds the time budget, the circuit
// breaker, the queue of undelivered invalidations and the counters. The suite in package
// asidetest checks it. The terms are those of package aside.
//
// [aside.Cache]: https://pkg.go.dev/github.com/cacheaside/aside#Cache
package backend

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// ErrClosed is returned by a Backend's methods after Close.
var ErrClosed = errors.New("aside: the cache is closed")

// Backend stores bytes under keys and grants leases on them.
//
// For each key a Backend keeps a value and, beside it, at most one reader's lease, any
// number of writers' blocks, and perhaps a not-found marker or a freshness mark. A
// not-found marker remembers that the database has no value. A mark says that the value
// is fresh.
//
// Every method is atomic for each key that it names, in all processes that share the
// store. All durations are measured by the store's clock. Methods may be called
// concurrently.
//
// A miss is not an error. An error means that the outcome is unknown: the command may
// have been carried out, may be carried out later, or never. The caller waits until a
// method returns, so a method that waits must return when ctx ends.
//
// A Cache names at most a few hundred keys in a call, and makes several calls if there
// are more. Neither side may modify a byte slice after it was passed or returned.
type Backend interface {
	// Get returns the value stored under key. ok is false on a miss: the key is
	// absent or expired, or holds something that is not a value. An empty value
	// is a hit.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// GetMarked is Get, and also tells whether the value is fresh. On a miss, mark is
	// NotFound if the key has a not-found marker. Otherwise it is any other mark, and means
	// nothing: of a key without a value that has a lease, one store may say Leased and
	// another Unmarked.
	GetMarked(ctx context.Context, key string) (value []byte, mark Mark, ok bool, err error)

	// TTL returns how long the value stored under key will still be kept. ok is false if
	// there is no value. ttl is 0 if the value has no end, which only another program can
	// have stored.
	TTL(ctx context.Context, key string) (ttl time.Duration, ok bool, err error)

	// Set stores value for ttl, at least a millisecond, and ends a reader's lease, a
	// not-found marker and a mark. Blocks stay. No lease guards Set, so the value may be
	// older than the database's.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Delete removes values with their marks, and not-found markers. It ends readers'
	// leases, so that a load that began before cannot be stored. Blocks stay. Absent keys
	// are not an error. When Delete returns an error, some keys may already be gone; calling
	// it again is safe.
	Delete(ctx context.Context, keys ...string) error

	// Lease asks for the right to load the value of key and to store it with Fill. The State
	// of the answer says whether it is granted; no other answer than Granted comes with a
	// lease.
	//
	// Undecodable, if it is the stored value, is removed before anything else. To a request
	// without a Claim or a Refresh, the answer is the first of these that applies:
	//
	//  1. Present, if the key has a value.
	//  2. Absent, if it has a not-found marker.
	//  3. Writing, if it is blocked.
	//  4. Unleased, if there is a lease, and WaitedFor is the last one that was released
	//     without a value.
	//  5. Loading, if there is a lease. One that is Overdue has ended, here and in 4.
	//  6. Granted.
	//
	// A value comes before a block, so that no reader of a stored value loads because of a
	// writer. It comes before a lease, as a caller may ask just after the load that it waited
	// for has stored. [LeaseRequest] has the answers to a Claim and to a Refresh.
	//
	// Every granted lease must have a fresh token, even if a client library sends the
	// request twice: a token that was used before could let a load that lost its lease store
	// after all. The token of a claim is its Owner.
	Lease(ctx context.Context, key string, req LeaseRequest) (Lease, error)

	// Extend makes the lease or block of token last for ttl from now, on each of keys. held
	// is false if it has ended on one of them; there Extend changes nothing, and it must not
	// revive a lease. The others are extended all the same. The value of a claim
	// ([LeaseRequest]) is extended with it; if another program has overwritten it, the claim
	// has ended.
	Extend(ctx context.Context, token string, ttl time.Duration, keys ...string) (held bool, err error)

	// Fill stores the result of a load under the lease of token, and ends the lease. stored
	// is false if it did not store.
	//
	// If the lease has ended, or is a claim, Fill changes nothing. If the lease was granted
	// for a Refresh, Fill ends it without storing when the value is no longer the one that
	// the lease was granted for: another value, the same one stored again, or one removed
	// before its end. A store may fail to notice a value that another program has put there
	// with the same length and the same end, and may store in place of a value that it has
	// evicted itself or removed as Undecodable.
	Fill(ctx context.Context, key, token string, fill Fill) (stored bool, err error)

	// Release ends the lease of token without storing anything. A lease that has ended is
	// not an error. Release of a claim removes its value, unless another program has
	// overwritten it.
	//
	// Release of a lease for a Refresh leaves the value and its end as they are, and starts
	// a cool-down during which no further one is granted. It lasts for FailedFor. If the
	// next one, granted within as much time after the cool-down, is released as well, the
	// cool-down doubles, up to MaxCooldown. A lease with Always on a fresh value may start
	// none.
	Release(ctx context.Context, key, token string) error

	// Block deletes keys as Delete does, and keeps leases on them from being granted until
	// Unblock is called with the same token or ttl is over. Several tokens may block one
	// key, each for its own time.
	Block(ctx context.Context, token string, ttl time.Duration, keys ...string) error

	// Unblock deletes keys as Delete does, whether or not the block still stands, and
	// removes this token's block. A lost block may have let a reader store the old value,
	// hence the deletion.
	Unblock(ctx context.Context, token string, keys ...string) error

	// Clear removes all values and not-found markers with keys that start with one of the
	// prefixes. It ends the leases on such keys first, so that no running load stores behind
	// it. Blocks stay, and so do running claims ([LeaseRequest]) with their values. Keys
	// that are stored while it runs may remain. A prefix is compared as text, whichever
	// program owns a key: "app1" also removes "app10:x", and "app1:" does not.
	Clear(ctx context.Context, prefixes ...string) error

	// Info describes the store. It queries the store, and fails if there is no answer.
	Info(ctx context.Context) (Info, error)

	// Close releases the resources of the Backend. Later calls return ErrClosed. Closing
	// twice is not an error.
	Close() error
}

// LeaseRequest is a request to [Backend.Lease].
type LeaseRequest struct {
	// TTL is how long the lease lasts unless extended, at least a millisecond.
	TTL time.Duration

	// WaitedFor is the token of the lease that the caller waited for, if any. If that lease
	// was released without a value and another caller holds one now, the answer is Unleased
	// instead of Loading. Otherwise waiters of a load that fails would wait for each other's
	// failing loads one after another.
	WaitedFor string

	// Undecodable, if not nil, is a stored value that the caller could not decode. It is
	// removed if it is still the stored value.
	Undecodable []byte

	// Claim, if not nil, is stored as the key's value together with the lease, for as long:
	// a lease that other programs can see. The answer is the first of these that applies,
	// after Undecodable is removed if it is the stored value:
	//
	//  1. Granted, if the key has the value of a claim with the same Owner. That claim
	//     stays as it is, and so does its end.
	//  2. Present, if the key has any other value.
	//  3. Absent, if Undecodable is set and was not the stored value: such a claim may only
	//     replace that value.
	//  4. Granted.
	//
	// A claim is granted on a blocked key, where the block stays. It takes the place of a
	// not-found marker, and ends a reader's lease.
	Claim []byte

	// Refresh, if not nil, asks for the right to load a value again that is no longer fresh.
	// The value stays. The answer is the first of these that applies:
	//
	//  1. Gone, if the key has no value. A lease, a block or a not-found marker does not
	//     change that.
	//  2. Loading, if there is a lease. Token may be empty if it is a claim.
	//  3. Marked, if the value has a mark that is not over.
	//  4. Writing, if the key is blocked.
	//  5. Loading with an empty Token, in the cool-down after a Release.
	//  6. Marked, if the value has no mark and is fresh by the rule of [Refresh]. A store
	//     may count a mark that is over as none.
	//  7. Granted.
	//
	// With Always, only 2, 4 and 7 apply. Of the other fields only TTL and WakeOn are set
	// with a Refresh.
	Refresh *Refresh

	// Owner is the token of a claim. The owner chooses it and uses it for no other claim, so
	// that a claim with a lost answer can be requested again, or released.
	Owner string

	// WakeOn, if not empty, is a channel. If this call finds another caller's lease, the end
	// of that lease is to be announced on the channel, with the key as the message. It is a
	// hint: a store that cannot announce anything ignores it.
	WakeOn string

	// Overdue, if not empty, is the Deadline of the lease of WaitedFor, which has passed by
	// the caller's clock. A lease that still has this Deadline has ended, even if the
	// store's clock, which may have been set back, says otherwise. It does not concern claims,
	// and a store with a clock that cannot be set back ignores it.
	Overdue string
}

// Refresh is a request to load again, and the rule for values without a mark, which
// another program has stored, or which are older than their keyspace's marks. Such a
// value is fresh if it will be kept for more than Over and for at most Within. It is then
// marked as fresh until it will be kept for Over.
//
// With Always, the lease is granted whether or not there is a value, even if it is fresh
// and even in a cool-down, which ends: the answer is Loading if there is a lease, else
// Writing if the key is blocked, else Granted. A not-found marker may end when such a lease
// is granted, or stay until its Fill; the answer to other requests is Loading or Absent. When
// such a lease ends, the value's mark may end too; until then it may outlast its FreshFor.
type Refresh struct {
	Over, Within time.Duration
	Always       bool
}

// Mark is the age of a value, as [Backend.GetMarked] returns it.
type Mark int

const (
	Unmarked Mark = iota // the value is not known to be fresh
	Fresh                // Fill has stored the value with a FreshFor that is not over
	Leased               // the value is not known to be fresh, and there is a lease on the key
	NotFound             // there is no value but a not-found marker
)

// String returns the name of the constant m, or else a text such as "Mark(9)".
func (m Mark) String() string {
	names := [...]string{"Unmarked", "Fresh", "Leased", "NotFound"}
	if m < Unmarked || m > NotFound {
		return "Mark(" + strconv.Itoa(int(m)) + ")"
	}
	return names[m]
}

// FailedFor is how long a store remembers that a lease was released without a value: see
// LeaseRequest.WaitedFor. When another lease is granted within that time, the store may
// remember the failure for as long as that lease and its cool-down last, or forget it when
// that lease is for a Refresh or ends.
const FailedFor = 2 * time.Second

// MaxCooldown is the longest cool-down after leases for a Refresh were released: see
// [Backend.Release].
const MaxCooldown = time.Minute

// LeaseState is the outcome of [Backend.Lease].
type LeaseState int

const (
	Granted  LeaseState = iota + 1 // the caller has the lease: load, then Fill or Release
	Loading                        // another caller has the lease: wait, then ask again
	Writing                        // a writer blocks the key: load, store nothing
	Unleased                       // the load waited for failed: load, store nothing
	Present                        // the key has a value
	Absent                         // the key has a not-found marker
	Marked                         // to a Refresh: the key has a value that is fresh
	Gone                           // to a Refresh: the key has no value
)

// String returns the name of the constant s, or else a text such as "LeaseState(9)".
func (s LeaseState) String() string {
	names := [...]string{"Granted", "Loading", "Writing", "Unleased", "Present", "Absent", "Marked", "Gone"}
	if s < Granted || s > Gone {
		return "LeaseState(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s-Granted]
}

// Lease is the answer of [Backend.Lease].
type Lease struct {
	State LeaseState
	Token string // the token of the caller's lease when Granted, of the other one when Loading
	Value []byte // the value, when Present

	// Deadline, when Loading, tells the renewals of the other lease apart. It is a text
	// without blanks that differs after each renewal, a blank, and the milliseconds that the
	// lease was made or renewed for. It is "" if the store cannot tell.
	Deadline string
}

// Fill is the result of a load, for [Backend.Fill]: Value, or with NotFound a not-found
// marker. It is kept for TTL.
type Fill struct {
	Value    []byte
	NotFound bool          // also removes the value that the lease was to refresh
	TTL      time.Duration // 0, with NotFound, leaves no marker

	// FreshFor, if not 0, is how long the value is marked as fresh.
	FreshFor time.Duration
}

// Info describes a store. Fields that it does not know are left zero.
type Info struct {
	Name      string // of the store
	Version   string // of the server, if there is one
	UsedBytes int64  // memory of the server or the store
	Keys      int64  // in the store: all keys, not only the cache's
}
