package deadline

import (
	"context"
	"time"
)

// Every does work every d until it says not to or stop is called. Until d has
// passed once there is no goroutine: most loads and writes are over by then.
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
