// Package hook has the functions that a Cache calls as it works: the source of traces, and of
// metrics that its counters cannot give.
//
// A hit calls no hook, unless Hits is set: hits are counted, by keyspace, in aside.Status.
// Hooks are called for slower events, which are misses, loads, writes, and the beginning and
// the end of trouble. Peek, Clear, generations and the methods of a Cache call none.
//
// Events carry no values and no keys: keys are too many for a label, and may name a person.
// The text of an Err may name one. Keyspaces are named as aside.Status counts them: the
// name is empty for all after the first 256, so it may be a label.
//
// All functions but State may be called concurrently, and must be quick. They may use the
// Cache. The first panic of each Hooks is logged, and none changes anything else.
package hook

import (
	"context"
	"time"
)

// Hooks are functions for a Cache to call, in aside.Config.Hooks. Those that are nil are not
// called, and cost nothing. More fields may be added.
type Hooks struct {
	// Read is called at the end of each GetOrLoad that was no hit, and for each such id of a
	// GetOrLoadMany, in the caller's goroutine and with its context, before the call returns
	// or panics. A call that is refused, as for a bad key, is not a read.
	Read func(ctx context.Context, r Read)

	// Hits has Read called for hits as well. Each then looks at the clock twice, which costs
	// about as much as the rest of a hit in memory.
	Hits bool

	// Load is called before each call of a loader, in the loader's goroutine. Its context has
	// the values of the first caller's context, and a deadline of its own. The loader gets the
	// context that Load returns, which must be ctx or made from it; nil stands for ctx. If
	// ended is not nil, it is called in the same goroutine when the loader has returned,
	// panicked or ended its goroutine, the last Hooks first.
	Load func(ctx context.Context, l Load) (loader context.Context, ended func(LoadEnd))

	// Write is called when an Update or Invalidate returns, in the caller's goroutine and with
	// its context. A call that is refused, as for a bad key, or an Update whose write panics is
	// not a write.
	Write func(ctx context.Context, w Write)

	// State is called when trouble begins, and when it is over, in order, one call at a time,
	// in a goroutine of its own. The last calls may come after Close has returned. Close ends
	// no trouble.
	State func(s State)
}

// Read is a read, at its end.
type Read struct {
	Keyspace string // the name of the key's keyspace
	Outcome  string // Hit, Stale, Miss or Off
	Err      error  // that the call returned, or an *aside.PanicError that it panicked with

	// Duration is the time from the call to its end. If no Hooks sets Hits, it begins after
	// the look in this process's memory. Of an id of GetOrLoadMany, it ends with the id's value.
	Duration time.Duration

	// Load is the context that hooks made for the load whose result the read took, with a
	// tracer's span in it. It is nil when the read took no load's result.
	Load context.Context
}

// The outcomes of a read.
const (
	Hit   = "hit"   // a value that the cache had, or was storing, when the call came
	Stale = "stale" // a value that the cache had, older than its keyspace's RefreshAfter
	Miss  = "miss"  // everything else: loaded, by this or another caller; found by a later look; or a remembered ErrNotFound
	Off   = "off"   // from the loader, as the cache is switched off
)

// Load is a call of a loader, before it begins.
type Load struct {
	Keyspace string // the name of the key's keyspace; of a GetOrLoadMany, of the first key's
	Reason   string // ForMiss, ForRefresh, ForFresh or ForAudit
	Keys     int    // how many keys it is to load
}

// The reasons of a load.
const (
	ForMiss    = "miss"
	ForRefresh = "refresh" // the value is older than its keyspace's RefreshAfter
	ForFresh   = "fresh"   // the caller's context is one of aside.Fresh
	ForAudit   = "audit"   // to be compared with the value of a hit
)

// LoadEnd is the end of a call of a loader.
type LoadEnd struct {
	Duration time.Duration
	Err      error // that the loader returned, perhaps aside.ErrNotFound; an *aside.PanicError if it panicked; another if it ended its goroutine
}

// Write is an Update or an Invalidate, at its end.
type Write struct {
	Update   bool          // true for an Update, false for an Invalidate
	Keyspace string        // the name of the first key's keyspace
	Keys     int           // how many keys it invalidated
	Pending  int           // of these, keys that are pending, as aside.Pending says, at its end
	Duration time.Duration // of an Update, with its write
	Err      error         // that the call returned
}

// State is the beginning or the end of trouble.
type State struct {
	Trouble string // Answer, Store, Queue or Near
	Begins  bool   // true when trouble begins, false when it is over
	Node    string // the address of the node that has it, where there are several
	Err     error  // with which it began, if it did with one
}

// Kinds of trouble.
const (
	Answer = "answer" // a node of the backend does not answer, and is left alone
	Store  = "store"  // a node of the backend refuses to store, and is not asked to
	Queue  = "queue"  // invalidations wait for the backend
	Near   = "near"   // Redis does not tell of changes, so that no near cache is served
)
