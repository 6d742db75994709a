package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/hook"
)

// trace is filled in by the cache's hook and by the loader, and read by the request that
// made it. A hook gets the context of the read, and this is how it finds the request.
type trace struct {
	outcome  string       // HIT, STALE, MISS or OFF
	database atomic.Int64 // nanoseconds in the loader, which may outlive the read
}

type traceKey struct{}

// traced returns a context with a trace, for one read.
func traced(ctx context.Context) (context.Context, *trace) {
	t := &trace{outcome: "OFF"}
	return context.WithValue(ctx, traceKey{}, t), t
}

// timeLoad adds the time until done to the trace of the read that began the load. A
// loader's context has the values of that read's. Reads that join the load have no time in
// the database.
func timeLoad(ctx context.Context) (done func()) {
	t, ok := ctx.Value(traceKey{}).(*trace)
	if !ok {
		return func() {}
	}
	start := time.Now()
	return func() { t.database.Add(int64(time.Since(start))) }
}

// hooks are the cache's hooks: those of the metrics, and one that notes the outcome of each
// read in its trace.
func hooks(m *metrics) []hook.Hooks {
	return []hook.Hooks{m.cache.Hooks(), {Hits: true, Read: func(ctx context.Context, r hook.Read) {
		if t, ok := ctx.Value(traceKey{}).(*trace); ok {
			t.outcome = strings.ToUpper(r.Outcome)
		}
	}}}
}

// chatRead is one read of a conversation, as pages show it.
type chatRead struct {
	ChatID     string    `json:"chat_id"`
	Outcome    string    `json:"outcome"`
	TotalMS    float64   `json:"total_ms"`
	DatabaseMS float64   `json:"database_ms"`
	At         time.Time `json:"at"`
}

const recentReads = 20

// readLog keeps the last reads of this server, and sends new ones to its watchers. The zero
// value is ready to use.
type readLog struct {
	mu       sync.Mutex
	last     []chatRead
	watchers map[chan chatRead]bool
}

func (l *readLog) add(chatID string, t *trace, start time.Time) {
	r := chatRead{chatID, t.outcome, ms(time.Since(start)), ms(time.Duration(t.database.Load())), now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last[max(0, len(l.last)+1-recentReads):], r)
	for w := range l.watchers {
		select {
		case w <- r:
		default: // a slow watcher misses reads; it must not delay this one
		}
	}
}

// watch returns the last reads, and a channel that gets new ones until stop is called. No
// read is in both.
func (l *readLog) watch() (last []chatRead, reads <-chan chatRead, stop func()) {
	w := make(chan chatRead, recentReads)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers == nil {
		l.watchers = make(map[chan chatRead]bool)
	}
	l.watchers[w] = true
	return slices.Clone(l.last), w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, w)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
