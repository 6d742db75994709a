package proof

import (
	"context"
	"time"

	"github.com/cacheaside/aside"
)

// Promise P3, in the calm runs of the simulation: a row is loaded once at a time,
// in whatever process. A second load may begin when an Update has ended the first
// one's lease, and beside a load that has failed: who waited for it waits for no
// other. Callers with a deadline are left out: they may go without a lease, and a
// command that they gave up on comes late.

// rowLoads are the loads of one row.
type rowLoads struct {
	running int
	since   int64 // when there was none the last time, and one began
	excused int64 // until when one that began may have another one beside it
}

// loadBegins checks that the load may begin, and returns what to call with its error.
func (p *process) loadBegins(ctx context.Context, key aside.Key) (ended func(error)) {
	if !p.calm || key == rows[2] { // which writes with Invalidate and generations end the leases of, too
		return func(error) {}
	}
	leader, _ := ctx.Value(callKey{}).(call)
	if !leader.hasty && !p.addLoad(key, 1) {
		p.fail("process %d: loads %v while another load of it runs", p.number, key)
	}
	return func(err error) {
		if err != nil && err != aside.ErrNotFound {
			p.excuse(key, 3*time.Second) // its mark is gone by then
		}
		if !leader.hasty {
			p.addLoad(key, -1)
		}
	}
}

// addLoad counts one load more or less, and reports whether one more may be.
func (w *world) addLoad(key aside.Key, n int) (may bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.rowLoads[key.String()]
	if l.running == 0 {
		l.since = w.now()
	}
	may = l.running == 0 || l.since <= l.excused || w.isWritten(key)
	l.running += n
	return may
}

// excuse says that until d from now loads of the row may begin beside others.
func (w *world) excuse(key aside.Key, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.rowLoads[key.String()]
	l.excused = max(l.excused, w.now()+int64(d))
	w.longestExcuse = max(w.longestExcuse, d)
}

// isWritten needs w.mu.
func (w *world) isWritten(key aside.Key) bool {
	for o := range w.writes {
		if o.Key == key.String() {
			return true
		}
	}
	return false
}
