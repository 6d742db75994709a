package aside

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// Failures that weigh breakerOpens in a row open a breaker: three ordinary
	// ones. One that had little time to answer, as its caller had a short
	// deadline, says less.
	breakerOpens  = 12
	ordinaryFails = 4
	hastyFails    = 1
	// probeInterval is how long an open breaker waits between its probes.
	probeInterval = 250 * time.Millisecond
)

// breaker keeps calls away from a node that does not answer. It opens after
// some failures in a row; then a goroutine of its own probes the node
// until it answers, and closes it. No caller ever pays for a probe, which is why
// this is not a breaker of the usual kind, with a half-open state that lets some
// calls through.
type breaker struct {
	failures atomic.Int32
	open     atomic.Bool
	probe    func() error
	onChange func()
	log      *slog.Logger
	stop     context.Context
	spawn    func(work func())
}

func (b *breaker) success() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

func (b *breaker) failure(err error, weight int32) {
	if b.failures.Add(weight) < breakerOpens || b.stop.Err() != nil || !b.open.CompareAndSwap(false, true) {
		return
	}
	b.log.Warn("cache backend does not answer: going on without it", "err", err)
	b.spawn(b.untilAnswered)
}

// untilAnswered probes, one at a time, until the node answers.
func (b *breaker) untilAnswered() {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-b.stop.Done():
			return
		}
		if b.probe() == nil {
			b.failures.Store(0)
			b.open.Store(false)
			b.log.Warn("cache backend answers again")
			b.onChange()
			return
		}
	}
}
