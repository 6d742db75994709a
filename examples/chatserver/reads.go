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

// trace tells a request how its read of the cache went.
type trace struct {
	outcome  string       // HIT, STALE, MISS or OFF
	database atomic.Int64 // nanoseconds in its loader
}

type traceKey struct{}

// traced returns a context whose read is traced.
func traced(ctx context.Context) (context.Context, *trace) {
	t := &trace{outcome: "OFF"}
	return context.WithValue(ctx, traceKey{}, t), t
}

// timeLoad times a loader: its context has the values of the first caller's.
func timeLoad(ctx context.Context) (done func()) {
	t, ok := ctx.Value(traceKey{}).(*trace)
	if !ok {
		return func() {}
	}
	start := time.Now()
	return func() { t.database.Add(int64(time.Since(start))) }
}

// hooks are the cache's: those of the metrics, and one that is called with the context of
// each read.
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

// readLog has the last reads of this server, and tells those who watch of new ones.
// Its zero value is ready.
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
		default: // it is slow, and reads on in the log when it connects again
		}
	}
}

// watch returns the last reads, and a channel of those that come, until stop.
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
