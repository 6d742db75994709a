// Package hooks calls the functions of aside.Config.Hooks. The first panic of each Hooks is
// logged, and none reaches the caller. A function that ends its goroutine, as t.FailNow of a
// test does, keeps none of the others from being called.
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

// Hooks are the hooks of a Cache. The fields say which events some hook is told of; the
// methods may be called concurrently.
type Hooks struct {
	Reads, Hits   bool // reads that are no hits, and hits as well
	Loads, Writes bool

	all      []hook.Hooks
	states   bool
	log      *slog.Logger
	panicked []sync.Once // by the place in all

	mu      sync.Mutex
	pending []hook.State // not told of yet
	telling bool         // a goroutine tells of them
	queued  bool         // whether hooks were told last that invalidations wait
}

// New returns Hooks that log panics to log.
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

// call calls a function of the Hooks at a place.
func (h *Hooks) call(i int, name string, one func()) {
	defer func() {
		if p := recover(); p != nil {
			h.panicked[i].Do(func() {
				h.log.Error("cache: a hook panicked (logged once for each Hooks)", "hook", name, "place", i, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			})
		}
	}()
	one()
}

// each calls one for the Hooks from the place i on, also after a function that ends its
// goroutine.
func (h *Hooks) each(i int, name string, one func(*hook.Hooks)) {
	if i == len(h.all) {
		return
	}
	defer h.each(i+1, name, one)
	h.call(i, name, func() { one(&h.all[i]) })
}

// Read tells of a read that has ended.
func (h *Hooks) Read(ctx context.Context, r hook.Read) {
	h.each(0, "Read", func(k *hook.Hooks) {
		if k.Read != nil && (k.Hits || r.Outcome != hook.Hit) {
			k.Read(ctx, r)
		}
	})
}

// ErrExited is the end of a load whose loader was not called, because a hook ended the
// goroutine.
var ErrExited = errors.New("aside: a hook ended the load's goroutine")

// Load tells of a load that begins. It returns the context for the loader, and a function
// that tells of the load's end.
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

// end is what the Load of the Hooks at a place returned.
type end struct {
	place int
	ended func(hook.LoadEnd)
}

// end tells of a load's end, the last Hooks first, as deferred calls are.
func (h *Hooks) end(ends []end, e hook.LoadEnd) {
	if len(ends) == 0 {
		return
	}
	last := len(ends) - 1
	defer h.end(ends[:last], e)
	h.call(ends[last].place, "Load's end", func() { ends[last].ended(e) })
}

// Write tells of a write that has ended.
func (h *Hooks) Write(ctx context.Context, w hook.Write) {
	h.each(0, "Write", func(k *hook.Hooks) {
		if k.Write != nil {
			k.Write(ctx, w)
		}
	})
}

// State tells of trouble that begins or ends. Hooks are called in a goroutine of their own,
// in order, since the caller may hold locks.
func (h *Hooks) State(s hook.State) {
	if !h.states {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.push(s)
}

// Queue tells of the queue if it waits now and did not before, or the reverse. It asks under
// a lock, so the last that hooks are told is true even when several callers have changed the
// queue at once.
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

// push needs mu.
func (h *Hooks) push(s hook.State) {
	if h.pending = append(h.pending, s); !h.telling {
		h.telling = true
		go h.tell()
	}
}

// tell tells of all that is pending. When a hook ends the goroutine, another goes on.
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
