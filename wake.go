package aside

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cacheaside/aside/backend"
	"github.com/cacheaside/aside/internal/redisstore"
)

const (
	// Who can not hear of the end of the lease it waits for asks after a sixteenth
	// of the time it has waited already, within these bounds: late by little, and
	// not a burden while a load takes long.
	pollMin = time.Millisecond
	pollMax = 10 * time.Millisecond
	// Who can hear of it asks after half of that time, within these bounds: nobody
	// tells of a lease that lapses, as that of a process that died, and a message
	// may be lost.
	heardMin = 20 * time.Millisecond
	heardMax = 250 * time.Millisecond
	// doubtful is how many ends in a row that were not told of are no chance any
	// more.
	doubtful = 3
	// idleAfter is how long wakes listens when nobody waits. It tries again after
	// retryAfter when it could not, and after refusedAfter when it may not.
	idleAfter    = time.Minute
	retryAfter   = time.Second
	refusedAfter = time.Minute
)

// wakes lets those who wait for other processes' loads know when to ask again. In
// a process there is one for all of them, which listens while somebody waits and
// for a while after.
//
// What is heard is a hint: it says that it is time to ask, and nothing of what the
// answer will be. Those who wait ask from time to time as well. So a message that
// is lost, late or forged costs time and a question, and no promise hangs on it.
// Nor is anything waited for here: while it does not listen, those who wait poll.
type wakes struct {
	listen  func(ctx context.Context, channel string, l redisstore.Listener) error // nil when the backend can not tell
	channel string
	log     *slog.Logger
	stop    context.Context
	spawn   func(work func()) bool

	mu      sync.Mutex
	waiting map[string][]*waiter // by key
	running bool                 // tell is called
	live    bool                 // what is told from now on is heard
	missed  int                  // ends that were found, and should have been heard of, since the last message
	needed  time.Time            // when somebody waited last
	retry   time.Time            // when tell may be called again
	refused bool                 // that it may not listen was logged
}

// waiter is a flight that asks for a lease and may have to wait.
type waiter struct {
	w     *wakes
	key   string
	woken chan struct{} // nil before it is in w.waiting
	told  bool          // the last question was asked so that the lease's end is heard
	late  bool          // and then nothing was heard until it was time to ask again

	deadline string    // of the lease that was found last
	since    time.Time // when it was found first
}

func (w *wakes) waiter(key string) *waiter { return &waiter{w: w, key: key} }

// channel returns where the end of the lease that the next question finds is to
// be told, and "" when it would not be heard. It comes before all else that is to
// be found out: what is told from then on ends the next pause.
func (x *waiter) channel() string {
	w := x.w
	if w.listen == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.told = w.live; !x.told {
		return ""
	}
	x.enlist()
	select {
	case <-x.woken: // the question comes after what this was about
	default:
	}
	return w.channel
}

// pause returns when it is time to ask again, or false when ctx has ended. The
// lease has been waited for so long.
func (x *waiter) pause(ctx context.Context, waited time.Duration) bool {
	timer := time.NewTimer(x.patience(waited))
	defer timer.Stop()
	x.late = false
	select {
	case <-x.woken:
	case <-timer.C:
		x.late = x.told
	case <-ctx.Done():
		return false
	}
	return true
}

func (x *waiter) patience(waited time.Duration) time.Duration {
	w := x.w
	polling := min(max(waited/16, pollMin), pollMax)
	if w.listen == nil {
		return polling
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x.enlist()
	w.needed = time.Now()
	w.start()
	switch {
	case x.told && w.missed < doubtful:
		return min(max(waited/2, heardMin), heardMax)
	case w.live && !x.told:
		return 0 // it listens since, and what was told before is lost
	case w.running && !w.live && waited < pollMax:
		return pollMax - waited // it is about to, and then wakes all
	}
	return polling
}

// overdue returns the deadline of a lease that was found when it has been the same for
// as long as the lease lasts, by this process's clock, and otherwise "". Its holder has
// not renewed it, and a backend whose clock was set back, or stands still, would keep
// it for longer.
func (x *waiter) overdue(found backend.Lease) string {
	if found.Deadline != x.deadline {
		x.deadline, x.since = found.Deadline, time.Now()
	}
	_, lasts, _ := strings.Cut(x.deadline, " ")
	if ms, err := strconv.ParseInt(lasts, 10, 64); err != nil || time.Since(x.since) < time.Duration(ms)*time.Millisecond {
		return ""
	}
	return x.deadline
}

// enlist needs w.mu.
func (x *waiter) enlist() {
	if x.woken == nil {
		x.woken = make(chan struct{}, 1)
		x.w.waiting[x.key] = append(x.w.waiting[x.key], x)
	}
}

// found takes the answer that ends the waiting. A value that nobody told of is a
// sign that not all is well: those who end leases may not have the right to tell,
// say. One of them may be chance, as the message may be on its way.
func (x *waiter) found(state backend.LeaseState) {
	if x.late && len(x.woken) == 0 && (state == backend.Present || state == backend.Absent) {
		x.w.mu.Lock()
		x.w.missed++
		x.w.mu.Unlock()
	}
}

// over ends the waiting.
func (x *waiter) over() {
	if x.woken == nil {
		return
	}
	w := x.w
	w.mu.Lock()
	defer w.mu.Unlock()
	others := slices.DeleteFunc(w.waiting[x.key], func(y *waiter) bool { return y == x })
	if w.waiting[x.key] = others; len(others) == 0 {
		delete(w.waiting, x.key)
	}
}

// start needs w.mu.
func (w *wakes) start() {
	if !w.running && !w.needed.Before(w.retry) {
		w.running = w.spawn(w.run)
	}
}

// run listens until it is not needed any more, or can not.
func (w *wakes) run() {
	err := w.listen(w.stop, w.channel, w)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.live = false, false
	switch {
	case err == nil:
		w.retry = time.Time{}
	case redisstore.Answered(err):
		w.retry = time.Now().Add(refusedAfter)
		if !w.refused {
			w.refused = true
			w.log.Info("cache: other processes' loads are polled for, as listening for their ends is refused", "channel", w.channel, "err", err)
		}
	default:
		w.retry = time.Now().Add(retryAfter)
	}
	w.wakeAll()
}

// Up says that from now on all is heard. Those who wait ask once more: what ended
// before was not.
func (w *wakes) Up() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = true
	w.wakeAll()
}

// Heard says that the lease of key has ended.
func (w *wakes) Heard(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missed = 0
	w.wakeEach(w.waiting[key])
}

// Wanted reports whether there is still a reason to listen.
func (w *wakes) Wanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.needed) < idleAfter
}

// wake lets those who wait for key ask again.
func (w *wakes) wake(key string) {
	if w.listen == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakeEach(w.waiting[key])
}

// wakeAll needs w.mu.
func (w *wakes) wakeAll() {
	for _, some := range w.waiting {
		w.wakeEach(some)
	}
}

// wakeEach needs w.mu.
func (w *wakes) wakeEach(some []*waiter) {
	for _, x := range some {
		select {
		case x.woken <- struct{}{}:
		default: // it has not asked since it was woken last
		}
	}
}
