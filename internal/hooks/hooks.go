// Package hooks calls the functions of aside.Config.Hooks. A hook that panics does not harm
// its caller, and the first panic of each Hooks is logged. A hook that exits its goroutine, as
// t.FailNow of a test does, keeps none of the others from being called.
//
// Hooks of reads, loads and writes are called at once, in the goroutine of the event, and
// their caller first looks at the fields of [Hooks] to find out whether there are any. Hooks
// of states are called in a goroutine of their own, one at a time and in order, as a state
// changes while its caller holds locks ([Hooks.State], [Hooks.Queue]).
package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/cacheaside/aside/hook"
)

// Hooks are the hooks of a Cache. Its methods may be called concurrently.
type Hooks struct {
	// These say for which events there is a hook. They do not change.
	Reads  bool // reads that are no hits
	Hits   bool // all reads
	Loads  bool
	Writes bool

	all      []hook.Hooks
	states   bool // there is a hook for states
	log      *slog.Logger
	panicked []sync.Once // log the first panic of each of all

	// mu guards the fields below. It is not held while a hook runs.
	mu      sync.Mutex
	pending []hook.State // not yet handed to the hooks, the oldest first
	telling bool         // tell is running
	queued  bool         // whether the last state of the queue was a begin
}

// New returns Hooks that call all, in order, and log a panic to log.
func New(all []hook.Hooks, log *slog.Logger) *Hooks {
	h := &Hooks{all: slices.Clone(all), log: log, panicked: make([]sync.Once, len(all))}
	for _, k := range h.all {
		h.Reads = h.Reads || k.Read != nil
		h.Hits = h.Hits || k.Read != nil && k.Hits
		h.Loads = h.Loads || k.Load != nil
		h.Writes = h.Writes || k.Write != nil
		h.states = h.states || k.State != nil
	}
	return h
}

// call calls a function of the Hooks at an index of all, and recovers from its panic.
func (h *Hooks) call(i int, name string, one func()) {
	defer func() {
		if p := recover(); p != nil {
			h.panicked[i].Do(func() {
				h.log.Error("aside: hook panic (logged once for each Hooks)", "hook", name, "index", i, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			})
		}
	}()
	one()
}

// each calls one for the Hooks from index i on, also after one that exits the goroutine.
func (h *Hooks) each(i int, name string, one func(*hook.Hooks)) {
	if i == len(h.all) {
		return
	}
	defer h.each(i+1, name, one)
	h.call(i, name, func() { one(&h.all[i]) })
}

// Read reports a read that has ended.
func (h *Hooks) Read(ctx context.Context, r hook.Read) {
	h.each(0, "Read", func(k *hook.Hooks) {
		if k.Read != nil && (k.Hits || r.Outcome != hook.Hit) {
			k.Read(ctx, r)
		}
	})
}

// ErrExited is the end of a load whose loader was not called, because a hook exited the
// goroutine.
var ErrExited = errors.New("aside: a hook exited the load's goroutine")

// Load reports a load that begins. It returns the context for the loader, which the hooks
// have made one from the other, and a function that reports the load's end: it calls the
// hooks in the reverse order, so that the last span to begin is the first to end.
func (h *Hooks) Load(ctx context.Context, l hook.Load) (loader context.Context, ended func(err error)) {
	loader = ctx
	var ends []end
	start := time.Now()
	begun := false
	defer func() {
		if !begun {
			h.end(ends, hook.LoadEnd{Duration: time.Since(start), Err: ErrExited})
		}
	}()
	for i, k := range h.all {
		if k.Load == nil {
			continue
		}
		h.call(i, "Load", func() {
			// A hook that panics here, or returns nil, leaves the context as it was.
			made, ended := k.Load(loader, l)
			if made != nil {
				loader = made
			}
			if ended != nil {
				ends = append(ends, end{i, ended})
			}
		})
	}
	begun = true
	start = time.Now()
	return loader, func(err error) {
		h.end(ends, hook.LoadEnd{Duration: time.Since(start), Err: err})
	}
}

// end is the function that the Load of the Hooks at an index returned.
type end struct {
	index int
	ended func(hook.LoadEnd)
}

// end reports a load's end to the last of ends, and then to those before it.
func (h *Hooks) end(ends []end, e hook.LoadEnd) {
	if len(ends) == 0 {
		return
	}
	last := len(ends) - 1
	defer h.end(ends[:last], e)
	h.call(ends[last].index, "Load's end", func() { ends[last].ended(e) })
}

// Write reports a write that has ended.
func (h *Hooks) Write(ctx context.Context, w hook.Write) {
	h.each(0, "Write", func(k *hook.Hooks) {
		if k.Write != nil {
			k.Write(ctx, w)
		}
	})
}

// State reports trouble that begins or ends. It does not wait for the hooks: the caller may
// hold locks.
func (h *Hooks) State(s hook.State) {
	if !h.states {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.push(s)
}

// Queue reports the trouble of undelivered invalidations if its state has changed since the
// last report: waits says whether there are any, and err why. Queue asks waits under its
// lock, so that the last report is right even when several callers change the queue at once.
func (h *Hooks) Queue(waits func() bool, err error) {
	if !h.states {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := waits(); now != h.queued {
		h.queued = now
		s := hook.State{Trouble: hook.Queue, Begins: now}
		if now {
			s.Err = err
		}
		h.push(s)
	}
}

// push hands a state to the goroutine that calls the hooks, and starts it if there is none.
// The caller must hold mu.
func (h *Hooks) push(s hook.State) {
	if h.pending = append(h.pending, s); !h.telling {
		h.telling = true
		go h.tell()
	}
}

// tell calls the hooks with the pending states until there are none. When a hook exits the
// goroutine, another goes on.
func (h *Hooks) tell() {
	empty := false
	defer func() {
		if !empty {
			go h.tell()
		}
	}()
	for s, ok := h.next(); ok; s, ok = h.next() {
		h.each(0, "State", func(k *hook.Hooks) {
			if k.State != nil {
				k.State(s)
			}
		})
	}
	empty = true
}

// next takes the oldest pending state. If there is none, ok is false, and the next push
// starts a new goroutine.
func (h *Hooks) next() (s hook.State, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.telling = len(h.pending) > 0; !h.telling {
		h.pending = nil
		return s, false
	}
	s, h.pending = h.pending[0], h.pending[1:]
	return s, true
}
