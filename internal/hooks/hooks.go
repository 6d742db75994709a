// Package hooks calls the functions of aside.Config.Hooks. Their panics are logged, once, and
// reach nobody.
package hooks

import (
	"context"
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
	panicked sync.Once

	mu      sync.Mutex
	pending []hook.State // not told of yet
	telling bool         // a goroutine tells of them
	queued  bool         // the last that hooks were told of the queue
}

// New returns Hooks that log panics to log.
func New(all []hook.Hooks, log *slog.Logger) *Hooks {
	h := &Hooks{all: slices.Clone(all), log: log}
	for _, k := range h.all {
		h.Reads = h.Reads || k.Read != nil
		h.Hits = h.Hits || k.Read != nil && k.Hits
		h.Loads = h.Loads || k.Load != nil
		h.Writes = h.Writes || k.Write != nil
		h.states = h.states || k.State != nil
	}
	return h
}

// call calls one hook.
func (h *Hooks) call(one func()) {
	defer func() {
		if p := recover(); p != nil {
			stack := debug.Stack()
			h.panicked.Do(func() {
				h.log.Error("cache: a hook panicked (logged once)", "panic", fmt.Sprint(p), "stack", string(stack))
			})
		}
	}()
	one()
}

// Read tells of a read that has ended.
func (h *Hooks) Read(ctx context.Context, r hook.Read) {
	for _, k := range h.all {
		if k.Read != nil && (k.Hits || r.Outcome != hook.Hit) {
			h.call(func() { k.Read(ctx, r) })
		}
	}
}

// Load tells of a load that begins. It returns the context for the loader, and a function
// that tells of the load's end.
func (h *Hooks) Load(ctx context.Context, l hook.Load) (loader context.Context, ended func(err error)) {
	loader = ctx
	var ends []func(hook.LoadEnd)
	for _, k := range h.all {
		if k.Load == nil {
			continue
		}
		h.call(func() {
			made, end := k.Load(loader, l)
			if made != nil {
				loader = made
			}
			if end != nil {
				ends = append(ends, end)
			}
		})
	}
	start := time.Now()
	return loader, func(err error) {
		e := hook.LoadEnd{Duration: time.Since(start), Err: err}
		for _, end := range slices.Backward(ends) {
			h.call(func() { end(e) })
		}
	}
}

// Write tells of a write that has ended.
func (h *Hooks) Write(ctx context.Context, w hook.Write) {
	for _, k := range h.all {
		if k.Write != nil {
			h.call(func() { k.Write(ctx, w) })
		}
	}
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

func (h *Hooks) tell() {
	for s, ok := h.next(); ok; s, ok = h.next() {
		for _, k := range h.all {
			if k.State != nil {
				h.call(func() { k.State(s) })
			}
		}
	}
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
