// Package wake tells waiters for another process's load when to ask again: at once when
// the end of the load's lease is announced, and otherwise from time to time.
//
// A [Hub] listens on one channel for all waiters of a process, while there are any. A
// [Waiter] belongs to a load that asks a store for a lease again and again, and sleeps in
// [Waiter.Pause] between its requests. An announcement only ends the sleep early, so one that
// is lost, late or forged costs time and a request, and never a wrong answer. Nothing waits
// for the subscription: until it is there, waiters poll.
//
// An end that is announced before the subscription hears it would be missed. So a request
// names the channel only if the subscription was there before it was sent
// ([Waiter.Channel]), and when the subscription comes up, all waiters ask once more
// ([Hub.Up]).
package wake

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// A waiter without a live subscription polls, at a sixteenth of the time that it has
	// waited so far, within these bounds. It is late by little, and asks seldom while a
	// load takes long.
	pollMin = time.Millisecond
	pollMax = 10 * time.Millisecond
	// A waiter with a subscription asks after half of the time that it has waited so far,
	// within these bounds: a message may be lost, and none announces a lease that lapses,
	// as that of a process that has died.
	notifiedMin = 20 * time.Millisecond
	notifiedMax = 250 * time.Millisecond
	// maxMissed is how many unannounced ends in a row show that announcements do not
	// work. Waiters then poll until a message arrives.
	maxMissed = 3
	// idleAfter is how long a Hub listens without waiters. After an error it tries again
	// after retryAfter, or after refusedAfter if it lacks the permission.
	idleAfter    = time.Minute
	retryAfter   = time.Second
	refusedAfter = time.Minute
)

// Hub tells the waiters of one process when to ask again. It listens from the first pause of
// a waiter until none has paused for idleAfter. Its methods may be called concurrently. mu is
// never held while Listen or a command runs.
type Hub struct {
	Options

	// mu guards the fields below, and enlisted of every Waiter.
	mu         sync.Mutex
	waiting    map[string][]*Waiter // by key
	running    bool                 // Listen has been called and has not returned
	subscribed bool                 // everything that is published from now on is heard
	missed     int                  // unannounced ends since the last message: see Answered
	lastWait   time.Time            // when a waiter last paused
	retry      time.Time            // when Listen may be called again
	refused    bool                 // the missing permission has been logged
}

// Options configure a Hub.
type Options struct {
	// Name is the name of the channel on which the ends of leases are announced.
	Name string

	// Listen calls Up when it listens, and from then on Heard with the key of each lease
	// whose end is announced. It returns when ctx has ended, with nil when Wanted reports
	// false, and with an error as soon as it knows that it hears nothing or lacks the
	// permission. Listen is nil where a store cannot announce anything.
	Listen func(ctx context.Context, h *Hub) error

	// Refused reports whether an error of Listen says that the permission is missing.
	Refused func(error) bool

	Log  *slog.Logger
	Stop context.Context        // the context that Listen gets
	Go   func(work func()) bool // runs work in a goroutine, or reports that it no longer starts any
}

// New returns a Hub that does not listen yet.
func New(o Options) *Hub { return &Hub{Options: o, waiting: make(map[string][]*Waiter)} }

// Waiter belongs to one load that asks for a lease and may have to wait for another process.
// Its methods must not be called concurrently.
type Waiter struct {
	hub        *Hub
	key        string
	woken      chan struct{} // has room for one wake-up; shared among waiters that And made
	enlisted   bool          // the waiter is in hub.waiting
	subscribed bool          // the last request named the channel, so the lease's end is announced
	timedOut   bool          // the last pause ended by its time although subscribed was set

	deadline string    // of the lease that was found last
	since    time.Time // when a lease with that deadline was first found
}

// Waiter returns a Waiter for the lease of key.
func (h *Hub) Waiter(key string) *Waiter { return &Waiter{hub: h, key: key} }

// And returns a Waiter for the lease of another key, to wait for both at once: a message for
// either ends the pause of either. Only one of them should pause.
func (w *Waiter) And(key string) *Waiter {
	if w.woken == nil {
		w.woken = make(chan struct{}, 1)
	}
	return &Waiter{hub: w.hub, key: key, woken: w.woken}
}

// Channel returns the channel for the next lease request to name, or "" if the end of the
// lease that it finds would not be heard. Call it before anything that the request depends
// on: messages from then on end the next pause, older ones do not.
func (w *Waiter) Channel() string {
	h := w.hub
	if h.Listen == nil {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.subscribed = h.subscribed; !w.subscribed {
		return ""
	}
	w.enlist()
	select {
	case <-w.woken: // the request is sent after this message, and finds the lease ended
	default:
	}
	return h.Name
}

// Pause waits until it is time to ask again and returns true, or false when ctx has ended.
// waited is how long the load has waited so far. turn, if not nil, is closed when the load
// may ask for the lease, which ends the pause; until then it only looks for a value.
func (w *Waiter) Pause(ctx context.Context, waited time.Duration, turn <-chan struct{}) bool {
	timer := time.NewTimer(w.patience(waited, turn == nil))
	defer timer.Stop()
	w.timedOut = false
	select {
	case <-w.woken:
	case <-turn:
	case <-timer.C:
		w.timedOut = w.subscribed
	case <-ctx.Done():
		return false
	}
	return true
}

// patience returns how long the next pause lasts, and starts listening if nothing does.
func (w *Waiter) patience(waited time.Duration, mayAsk bool) time.Duration {
	h := w.hub
	polling := min(max(waited/16, pollMin), pollMax)
	if h.Listen == nil {
		return polling
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w.enlist()
	h.lastWait = time.Now()
	h.start()
	switch {
	case w.subscribed && h.missed < maxMissed:
		return min(max(waited/2, notifiedMin), notifiedMax)
	case h.subscribed && !w.subscribed && mayAsk:
		return 0 // the Hub has begun to listen since the request: send another that names the channel
	case h.running && !h.subscribed && waited < pollMax:
		return pollMax - waited // the Hub is about to listen, and then wakes all waiters
	}
	return polling
}

// Overdue takes the deadline of a lease that a request has found (backend.Lease.Deadline),
// and returns it once it has stayed the same for as long as the lease lasts, by this
// process's clock; otherwise it returns "". Such a lease was not renewed and has ended, even
// if a store whose clock was set back, or stands still, would keep it for longer.
func (w *Waiter) Overdue(leaseDeadline string) string {
	if leaseDeadline != w.deadline {
		w.deadline, w.since = leaseDeadline, time.Now()
	}
	_, lasts, _ := strings.Cut(w.deadline, " ")
	if ms, err := strconv.ParseInt(lasts, 10, 64); err != nil || time.Since(w.since) < time.Duration(ms)*time.Millisecond {
		return ""
	}
	return w.deadline
}

// enlist puts the waiter where messages for its key find it. The caller must hold hub.mu.
func (w *Waiter) enlist() {
	if w.woken == nil {
		w.woken = make(chan struct{}, 1)
	}
	if !w.enlisted {
		w.enlisted = true
		w.hub.waiting[w.key] = append(w.hub.waiting[w.key], w)
	}
}

// Answered takes the answer that ends the waiting, and whether it is a stored value or a
// not-found marker. One that was stored without an announcement is a sign that announcements
// do not work: other processes may lack the permission to publish. A single one may be
// chance, as its message may be on its way.
func (w *Waiter) Answered(stored bool) {
	if w.timedOut && len(w.woken) == 0 && stored {
		w.hub.mu.Lock()
		w.hub.missed++
		w.hub.mu.Unlock()
	}
}

// Done ends the waiting. The Waiter must not be used after it.
func (w *Waiter) Done() {
	if !w.enlisted {
		return
	}
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	others := slices.DeleteFunc(h.waiting[w.key], func(y *Waiter) bool { return y == w })
	if h.waiting[w.key] = others; len(others) == 0 {
		delete(h.waiting, w.key)
	}
}

// start calls Listen in a goroutine, unless it runs or has failed a moment ago. The caller
// must hold h.mu.
func (h *Hub) start() {
	if !h.running && !h.lastWait.Before(h.retry) {
		h.running = h.Go(h.run)
	}
}

// run listens until no waiter needs it or Listen fails, and then wakes all waiters: they
// poll from then on.
func (h *Hub) run() {
	err := h.Listen(h.Stop, h)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running, h.subscribed = false, false
	switch {
	case err == nil:
		h.retry = time.Time{}
	case h.Refused(err):
		h.retry = time.Now().Add(refusedAfter)
		if !h.refused {
			h.refused = true
			h.Log.Info("aside: SUBSCRIBE refused, polling for other processes' loads", "channel", h.Name, "err", err)
		}
	default:
		h.retry = time.Now().Add(retryAfter)
	}
	h.wakeAll()
}

// Up is called by Listen when everything that is published from now on is heard. Waiters ask
// once more, as an end before that was not heard.
func (h *Hub) Up() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subscribed = true
	h.wakeAll()
}

// Heard is called by Listen when the end of the lease of key is announced.
func (h *Hub) Heard(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missed = 0
	h.wakeEach(h.waiting[key])
}

// Wanted reports whether Listen is to go on: a waiter has paused within idleAfter.
func (h *Hub) Wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.lastWait) < idleAfter
}

// Wake makes the waiters for key ask again, as Heard does, for an event of this process.
func (h *Hub) Wake(key string) {
	if h.Listen == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeEach(h.waiting[key])
}

// wakeAll wakes all waiters. The caller must hold h.mu.
func (h *Hub) wakeAll() {
	for _, some := range h.waiting {
		h.wakeEach(some)
	}
}

// wakeEach wakes some waiters. The caller must hold h.mu.
func (h *Hub) wakeEach(some []*Waiter) {
	for _, w := range some {
		select {
		case w.woken <- struct{}{}:
		default: // it has a wake-up that it has not taken yet
		}
	}
}
