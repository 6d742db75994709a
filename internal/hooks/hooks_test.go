package hooks_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/cacheaside/aside/hook"
	"github.com/cacheaside/aside/internal/hooks"
)

// The last that a hook is told of the queue is true, also when one caller fills it and
// another empties it at once.
func TestHooks_Queue(t *testing.T) {
	t.Parallel()
	told := make(chan bool, 2)
	h := hooks.New([]hook.Hooks{{State: func(s hook.State) { told <- s.Begins }}}, slog.New(slog.DiscardHandler))
	emptied := make(chan struct{})
	h.Queue(func() bool {
		go func() { // after the look that found it full
			defer close(emptied)
			h.Queue(func() bool { return false }, nil)
		}()
		select {
		case <-emptied:
		case <-time.After(100 * time.Millisecond): // it waits for this look to be told of
		}
		return true
	}, nil)
	<-emptied
	for _, want := range []bool{true, false} {
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %v, want %v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told %v", want)
		}
	}
	h.Queue(func() bool { return false }, nil)
	if len(told) > 0 {
		t.Error("told twice of the same")
	}
}
