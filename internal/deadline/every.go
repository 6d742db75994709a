package deadline

import (
	"context"
	"time"
)

// Every calls work every d, at first after d, until it returns false or stop is called. stop
// ends the context of a call that runs and does not wait for it.
//
// There is only a timer, no goroutine, until d has passed once: most loads and writes are over
// by then.
func Every(d time.Duration, work func(context.Context) (again bool)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	first := time.AfterFunc(d, func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for work(ctx) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		first.Stop()
		cancel()
	}
}
