package aside_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cacheaside/aside"
	"github.com/cacheaside/aside/asidetest"
	"github.com/cacheaside/aside/internal/logtest"
)

// A write that has run is not reported as one that has not: what it returns is what
// Update returns, also when Close came meanwhile. Close waits for it within its budget,
// so that its keys are invalidated, and otherwise says that they are not.
func TestUpdate_WhoseWriteRunsDuringClose(t *testing.T) {
	t.Parallel()
	failed := errors.New("a constraint")
	for name, test := range map[string]struct {
		lasts    time.Duration
		returns  error
		fault    asidetest.Fault
		unblocks int64
		says     string
	}{
		"a short one":             {100 * time.Millisecond, nil, nil, 1, ""},
		"a short one that fails":  {100 * time.Millisecond, failed, nil, 1, ""},
		"a long one":              {time.Second, nil, nil, 0, "1 writes of Update were running"},
		"a long one that fails":   {time.Second, failed, nil, 0, "1 writes of Update were running"},
		"one that is not blocked": {time.Second, nil, refuse, 0, "1 writes of Update were running"},
		"a short one, not blocked, and the backend stays away": {100 * time.Millisecond, nil, refuse, 1, "1 invalidations undelivered"},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, backend := faulty(t, aside.Config{})
			var unblocks atomic.Int64
			backend.SetFault(func(ctx context.Context, method string) error {
				if method == "Unblock" {
					unblocks.Add(1)
				}
				if test.fault != nil {
					return test.fault(ctx, method)
				}
				return nil
			})
			got := make(chan error, 1)
			go func() {
				got <- aside.Update(t.Context(), c, func(context.Context) error { time.Sleep(test.lasts); return test.returns }, room)
			}()
			synctest.Wait()
			start := time.Now()
			err := c.Close()
			if took := time.Since(start); took > 300*time.Millisecond {
				t.Errorf("%s: Close took %v", name, took)
			}
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%s: Close returned %v, want %q", name, err, test.says)
			}
			if err := <-got; err != test.returns {
				t.Errorf("%s: Update returned %v, want %v", name, err, test.returns)
			}
			if unblocks.Load() != test.unblocks {
				t.Errorf("%s: the keys were unblocked %d times", name, unblocks.Load())
			}
			err = aside.Update(t.Context(), c, func(context.Context) error { t.Error("it ran after Close"); return nil }, room)
			if !errors.Is(err, aside.ErrClosed) {
				t.Errorf("%s: after Close, Update returned %v", name, err)
			}
		})
	}
}

// A generation that is finished after Close leaves the room's messages as they are, and
// that is said.
func TestGenerations_FinishedAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		c, _ := faulty(t, aside.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		g := start(t, generations(t, c), "A")
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Finish()
		if !strings.Contains(log.String(), "not invalidated") || !strings.Contains(log.String(), room.String()) {
			t.Errorf("the log says %q", log.String())
		}
	})
}
