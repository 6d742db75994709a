// Package hook has the functions that a Cache calls as it works: the source of traces, and of
// metrics that its counters cannot give.
//
// A hit tells nobody, unless it is asked for: hits are counted, by keyspace, in
// aside.Status. Only slower events are told of: reads that were no hits, loads, writes,
// and trouble that begins and ends. No hook is told of a value, and none of a key: keys are
// too many for a label, and may name a person.
//
// All functions but State may be called concurrently, and must be quick. One that panics is told of
// in the log, once, and changes nothing else.
package hook

import (
	"context"
	"time"
)

// Hooks are functions for a Cache to call, in aside.Config.Hooks. Those that are nil are not
// called, and cost nothing. More fields may be added.
type Hooks struct {
	// Read is called at the end of each GetOrLoad that was no hit, and for each such id of a
	// GetOrLoadMany, in the caller's goroutine and with its context, before the call returns.
	Read func(ctx context.Context, r Read)

	// Hits has Read called for hits as well. Each then looks at the clock twice, which is
	// much of a hit in memory.
	Hits bool

	// Load is called before a loader, in its goroutine, with the context that the loader is
	// to get: of the values of the first caller's context, and an end of its own. The loader
	// gets the context that Load returns, which is ctx or made from it. If ended is not nil,
	// it is called in that goroutine when the loader has returned, panicked or exited.
	Load func(ctx context.Context, l Load) (loader context.Context, ended func(LoadEnd))

	// Write is called at the end of each Update and Invalidate that had a key to invalidate
	// and returns, in the caller's goroutine and with its context.
	Write func(ctx context.Context, w Write)

	// State is called when trouble begins, and when it is over, in order, one call at a time,
	// in a goroutine of its own.
	State func(s State)
}

// Read is a read, at its end.
type Read struct {
	Keyspace string // the name of the key's
	Outcome  string // Hit, Stale, Miss or Off
	Err      error  // that the call returned, or nil

	// Duration is of the whole call; where hits are not told of, without the look into this
	// process's memory that found nothing.
	Duration time.Duration

	// Load is the context that hooks made for the load whose result the read took, with a
	// tracer's span in it. It is nil when there was no load, or it was no longer waited for.
	Load context.Context
}

// The outcomes of a read.
const (
	Hit   = "hit"   // a value that the cache had, or was storing, when the call came
	Stale = "stale" // a value that the cache had, older than its keyspace's RefreshAfter
	Miss  = "miss"  // all else: from the loader, another caller's load, or a later look, and a remembered ErrNotFound
	Off   = "off"   // from the loader, as the cache is switched off
)

// Load is a call of a loader, before it begins.
type Load struct {
	Keyspace string // the name of the key's; of a GetOrLoadMany, of the first key's
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
	Err      error // that the loader returned, perhaps aside.ErrNotFound; an *aside.PanicError if it panicked
}

// Write is an Update or an Invalidate, at its end.
type Write struct {
	Update   bool          // and not an Invalidate
	Keyspace string        // the name of the first key's
	Keys     int           // how many keys it invalidated
	Queued   int           // of these, keys whose invalidation is to be delivered later
	Duration time.Duration // of an Update, with its write
	Err      error         // that the call returned
}

// State is the begin or the end of trouble.
type State struct {
	Trouble string // Answer, Store, Queue or Near
	Begins  bool   // and not ends
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
