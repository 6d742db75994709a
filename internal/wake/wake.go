// Package wake tells waiters for another process's load when to ask again: at once when
// the end of the load's lease is announced, and otherwise from time to time.
//
// A [Hub] listens on one channel for all waiters of a process, while there are any. A
// [Waiter] asks a store for a lease again and again, and sleeps in [Waiter.Pause] between
// its questions. An announcement only ends the sleep early, so one that is lost, late or
// forged costs time and a question, and never a wrong answer.
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
	// A waiter that cannot hear of the end of the lease asks again after a sixteenth of
	// the time that it has waited already, within these bounds. It is late by little, and
	// not a burden while a load takes long.
	pollMin = time.Millisecond
	pollMax = 10 * time.Millisecond
	// A waiter that can hear of it asks after half of that time, within these bounds.
	// No message announces a lease that lapses, as that of a process that died, and a
	// message may be lost.
	notifiedMin = 20 * time.Millisecond
	notifiedMax = 250 * time.Millisecond
	// maxMissed is how many ends in a row that were not told of are no chance any
	// more.
	maxMissed = 3
	// idleAfter is how long a Hub listens when nobody waits. It tries again after
	// retryAfter when it could not, and after refusedAfter when it may not.
	idleAfter    = time.Minute
	retryAfter   = time.Second
	refusedAfter = time.Minute
)

// Hub tells waiters for other processes' loads when to ask again. In
// a process there is one for all of them, which listens while somebody waits and
// for a while after.
//
// A message is a hint that it is time to ask, and says nothing of the answer. Waiters ask
// from time to time as well, so a message that is lost, late or forged costs time and a
// question, and no promise depends on it. Nothing waits for the subscription: until it is
// there, waiters poll.
type Hub struct {
	Options

	mu         sync.Mutex
	waiting    map[string][]*Waiter // by key
	running    bool                 // Listen is called
	subscribed bool                 // what is published from now on is heard
	missed     int                  // ends that were found, and should have been heard of, since the last message
	lastWait   time.Time            // when somebody waited last
	retry      time.Time            // when Listen may be called again
	refused    bool                 // that it may not listen was logged
}

// Options configure a Hub.
type Options struct {
	// Name is that of the channel on which the ends of leases are announced.
	Name string

	// Listen calls Up when it listens, and from then on Heard with the key of each lease
	// whose end is announced. It returns when ctx has ended or the Hub does not want to
	// hear more, and with an error as soon as it knows that it hears nothing, or that it
	// may not listen. It is nil where a store cannot announce anything.
	Listen func(ctx context.Context, h *Hub) error

	// Refused reports whether an error of Listen says that it may not.
	Refused func(error) bool

	Log  *slog.Logger
	Stop context.Context        // of Listen
	Go   func(work func()) bool // runs work in a goroutine, or reports that nothing is begun any more
}

// New returns a Hub.
func New(o Options) *Hub { return &Hub{Options: o, waiting: make(map[string][]*Waiter)} }

// Waiter is one that asks for a lease, and may have to wait. Its methods must not be
// called concurrently.
type Waiter struct {
	hub        *Hub
	key        string
	woken      chan struct{} // nil before it is in hub.waiting, but of several
	enlisted   bool          // it is in hub.waiting
	subscribed bool          // the last question was asked so that the lease's end is heard
	timedOut   bool          // and then nothing was heard until it was time to ask again

	deadline string    // of the lease that was found last
	since    time.Time // when it was found first
}

// Waiter returns one that asks for the lease of key.
func (h *Hub) Waiter(key string) *Waiter { return &Waiter{hub: h, key: key} }

// And returns one that asks for the lease of another key as well: a message for one of them ends
// the pause of any.
func (w *Waiter) And(key string) *Waiter {
	if w.woken == nil {
		w.woken = make(chan struct{}, 1)
	}
	return &Waiter{hub: w.hub, key: key, woken: w.woken}
}

// Channel returns where the end of the lease that the next question finds is to
// be told, and "" when it would not be heard. It comes before all else that is to
// be found out: what is told from then on ends the next pause.
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
	case <-w.woken: // the question comes after what this was about
	default:
	}
	return h.Name
}

// Pause returns when it is time to ask again, or false when ctx has ended. The lease has
// been waited for so long. turn is closed when the waiter may ask for the lease, and nil if
// it may at once: until then it only looks for a value.
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
		return 0 // it listens since, and what was told before is lost
	case h.running && !h.subscribed && waited < pollMax:
		return pollMax - waited // it is about to, and then wakes all
	}
	return polling
}

// Overdue returns the deadline of a lease that was found when it has been the same for
// as long as the lease lasts, by this process's clock, and otherwise "". Its holder has
// not renewed it, and a backend whose clock was set back, or stands still, would keep
// it for longer.
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

// enlist needs h.mu.
func (w *Waiter) enlist() {
	if w.woken == nil {
		w.woken = make(chan struct{}, 1)
	}
	if !w.enlisted {
		w.enlisted = true
		w.hub.waiting[w.key] = append(w.hub.waiting[w.key], w)
	}
}

// Answered takes the answer that ends the waiting. A value that nobody told of is a
// sign that not all is well: those who end leases may not have the right to tell,
// say. One of them may be chance, as the message may be on its way.
func (w *Waiter) Answered(stored bool) {
	if w.timedOut && len(w.woken) == 0 && stored {
		w.hub.mu.Lock()
		w.hub.missed++
		w.hub.mu.Unlock()
	}
}

// Done ends the waiting.
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

// start needs h.mu.
func (h *Hub) start() {
	if !h.running && !h.lastWait.Before(h.retry) {
		h.running = h.Go(h.run)
	}
}

// run listens until it is not needed any more, or cannot.
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
			h.Log.Info("cache: other processes' loads are polled for, as listening for their ends is refused", "channel", h.Name, "err", err)
		}
	default:
		h.retry = time.Now().Add(retryAfter)
	}
	h.wakeAll()
}

// Up says that from now on all is heard. Waiters ask once more, as the end of a lease
// before that was not heard.
func (h *Hub) Up() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subscribed = true
	h.wakeAll()
}

// Heard says that the lease of key has ended.
func (h *Hub) Heard(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.missed = 0
	h.wakeEach(h.waiting[key])
}

// Wanted reports whether there is still a reason to listen.
func (h *Hub) Wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.lastWait) < idleAfter
}

// Wake has the waiters for key ask again.
func (h *Hub) Wake(key string) {
	if h.Listen == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeEach(h.waiting[key])
}

// wakeAll needs h.mu.
func (h *Hub) wakeAll() {
	for _, some := range h.waiting {
		h.wakeEach(some)
	}
}

// wakeEach needs h.mu.
func (h *Hub) wakeEach(some []*Waiter) {
	for _, w := range some {
		select {
		case w.woken <- struct{}{}:
		default: // it has not asked since it was woken last
		}
	}
}
