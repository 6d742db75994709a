// Package hook has the functions that a Cache calls as it works. They are the source of
// traces, and of metrics that its counters cannot give. The terms are those of package
// aside.
//
// Hits are counted, by keyspace, in aside.Status; a hit calls no hook unless Hits is set,
// because a call and two looks at the clock would cost as much as a hit in memory. Hooks
// are called for reads that are not hits, loads, writes, and trouble that begins and
// ends. Peek, Clear, generations and the methods of a Cache call none.
//
// No hook receives a value, or a key: keys are too many for a label, and may identify a
// person. The text of an Err may name one. Keyspaces have the names under which aside.Status
// counts them, so the name is empty for all after the first 256, and may be a label.
//
// All functions but State may be called concurrently. They must be quick, as callers wait
// for them, and may use the Cache. The first panic of each Hooks is logged, and none has any
// other effect.
package hook

import (
	"context"
	"time"
)

// Hooks are functions for a Cache to call, in aside.Config.Hooks. A nil function costs
// nothing. More fields may be added, so name the fields.
type Hooks struct {
	// Read is called at the end of each GetOrLoad that is not a hit, and of each such id of
	// a GetOrLoadMany. It runs in the caller's goroutine, with the caller's context, before
	// the call returns or panics. A call that is refused, as for a bad key, is not a read.
	Read func(ctx context.Context, r Read)

	// Hits makes the Cache call Read for hits as well. Each hit then looks at the clock
	// twice, which is a large part of the cost of a hit in memory.
	Hits bool

	// Load is called before a loader, in its goroutine. ctx is the context for the loader:
	// it has the values of the first caller's context, and an end of its own. The loader
	// receives the context that Load returns, which must be ctx or derived from it; nil
	// stands for ctx. ended, if not nil, is called in the same goroutine when the loader has
	// returned, panicked or exited, that of the last Hooks first.
	Load func(ctx context.Context, l Load) (loader context.Context, ended func(LoadEnd))

	// Write is called at the end of each Update and Invalidate that returns and had a key to
	// invalidate. It runs in the caller's goroutine, with the caller's context.
	Write func(ctx context.Context, w Write)

	// State is called when trouble begins and when it ends, in that order, one call at a
	// time. It runs in a goroutine of its own, as the code that notices trouble holds locks,
	// so the last call may come after Close has returned. Close ends no trouble.
	State func(s State)
}

// Read describes a read, at its end.
type Read struct {
	Keyspace string // the name of the key's keyspace
	Outcome  string // Hit, Stale, Miss or Off
	Err      error  // the error that the call returned, or the *aside.PanicError that it panicked with

	// Duration is the time of the whole call. Without Hits, it leaves out the look into this
	// process's memory that found nothing.
	Duration time.Duration

	// Load is the context, as hooks made it, of the load that the read took its result from.
	// A tracer's span is in it. It is nil if there was no load, or the read stopped waiting
	// for it.
	Load context.Context
}

// The outcomes of a read.
const (
	Hit   = "hit"   // the cache had the value, or was storing it, when the call began
	Stale = "stale" // the cache had a value older than its keyspace's RefreshAfter
	Miss  = "miss"  // any other: from a load, from a later look, or a remembered ErrNotFound
	Off   = "off"   // from the loader, as the cache is off
)

// Load describes a call of a loader, before it begins.
type Load struct {
	Keyspace string // the name of the keyspace, in a GetOrLoadMany of the first key's
	Reason   string // ForMiss, ForRefresh, ForFresh or ForAudit
	Keys     int    // the number of keys to load
}

// The reasons of a load.
const (
	ForMiss    = "miss"    // the cache has no value
	ForRefresh = "refresh" // the value is older than its keyspace's RefreshAfter
	ForFresh   = "fresh"   // the caller's context comes from aside.Fresh
	ForAudit   = "audit"   // the result is compared with the value of a hit
)

// LoadEnd describes the end of a call of a loader.
type LoadEnd struct {
	Duration time.Duration
	Err      error // the loader's error, possibly aside.ErrNotFound; an *aside.PanicError if it panicked, another if it exited
}

// Write describes an Update or an Invalidate, at its end.
type Write struct {
	Update   bool          // an Update, not an Invalidate
	Keyspace string        // the name of the first key's keyspace
	Keys     int           // the number of keys
	Pending  int           // keys, among these, that are pending at the end of the call: see aside.Pending
	Duration time.Duration // of the call, in an Update with its write
	Err      error         // the error that the call returned
}

// State describes the beginning or the end of trouble.
type State struct {
	Trouble string // Answer, Store, Queue or Near
	Begins  bool   // it begins; false if it ends
	Node    string // the address of the node, if there are several
	Err     error  // the error with which it began, if any
}

// The kinds of trouble.
const (
	Answer = "answer" // the breaker of a node is open: it does not answer
	Store  = "store"  // a node refuses to store, and is not asked to
	Queue  = "queue"  // invalidations are queued
	Near   = "near"   // Redis announces no changes, so the near cache is not used
)
