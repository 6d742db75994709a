package proof

import (
	"context"
	"time"

	"github.com/cacheaside/aside"
)

// The calm runs of the simulation check promise P3: all processes together run one
// load of a row at a time. A second load may begin when an Update has ended the lease of the
// first, and after a load that has failed, as its waiters do not wait for another one.
// Callers with a deadline do not count: they may load without a lease, and a command that they
// have given up may still be carried out later.

// rowLoads counts the loads of one row.
type rowLoads struct {
	running int
	since   int64 // when a load last began while none ran
	excused int64 // a load that began before this time may have another beside it
}

// loadBegins checks that a load may begin. It returns a function to call with the load's error.
func (p *process) loadBegins(ctx context.Context, key aside.Key) (ended func(error)) {
	if !p.calm || key == rows[2] { // writes with Invalidate, and generations, end its leases as well
		return func(error) {}
	}
	leader, _ := ctx.Value(callKey{}).(call)
	if !leader.hasty && !p.addLoad(key, 1) {
		p.fail("process %d: loads %v while another load of it runs", p.number, key)
	}
	return func(err error) {
		if err != nil && err != aside.ErrNotFound {
			p.excuse(key, 3*time.Second) // the mark of the failure is gone by then
		}
		if !leader.hasty {
			p.addLoad(key, -1)
		}
	}
}

// addLoad counts a load that begins (n is 1) or ends (-1), and reports whether one more may run.
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

// excuse allows loads of the row that begin within d to run beside others.
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
