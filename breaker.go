package aside

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cacheaside/aside/internal/redisstore"
)

const (
	// Failures that weigh breakerOpens in a row open a breaker: three ordinary
	// ones. One that had little time to answer, as its caller had a short
	// deadline, says less.
	breakerOpens  = 12
	ordinaryFails = 4
	hastyFails    = 1
	// A node that has been silent for a third of the budget, while more commands than
	// these wait for it for half of that time, is left alone before one times out.
	silentWaiting = 3
	// probeInterval is how long an open breaker waits between its probes.
	probeInterval = 250 * time.Millisecond
)

// breaker keeps calls away from a node that does not answer. It opens after
// some failures in a row, or when several commands wait for a node that is silent;
// then a goroutine of its own probes the node until it answers, and closes it. No
// caller ever pays for a probe, which is why this is not a breaker of the usual
// kind, with a half-open state that lets some calls through.
type breaker struct {
	failures atomic.Int32
	open     atomic.Bool
	waiting  atomic.Int32      // commands on their way
	heard    atomic.Int64      // when the node last answered, or was asked while nothing was on its way
	crowded  atomic.Int64      // since when more than silentWaiting wait for it, or 0
	looking  atomic.Bool       // a probe finds out whether it answers anything
	looked   atomic.Int64      // when the first probe since it was heard began
	silence  time.Duration     // how long it may be silent; 0 is for ever
	turns    *redisstore.Turns // of the commands that are sent to it, or nil when there are none
	does     string            // what it has to do: "answer", or "store"
	probe    func() error
	onChange func()
	log      *slog.Logger
	stop     context.Context
	spawn    func(work func()) bool
}

// sent notes a command on its way, until over.
func (b *breaker) sent(now time.Time) {
	if b.waiting.Load() == 0 {
		b.heard.Store(now.UnixNano()) // before anyone can see that something waits
	}
	b.waiting.Add(1)
	b.asked(now, 0)
}

// asked says that somebody waits for the node, and how many do so beside those
// whose commands are on their way.
func (b *breaker) asked(now time.Time, more int) {
	if b.silence <= 0 {
		return
	}
	if int(b.waiting.Load())+more <= silentWaiting {
		b.crowded.Store(0)
		return
	}
	b.crowded.CompareAndSwap(0, now.UnixNano())
	heard := b.heard.Load()
	if b.turns != nil {
		heard = max(heard, b.turns.Since()) // until then they waited for a connection
	}
	silent, crowded := now.UnixNano()-heard, now.UnixNano()-b.crowded.Load()
	if silent > int64(b.silence/2) && b.looking.CompareAndSwap(false, true) {
		if b.looked.Load() <= heard {
			b.looked.Store(now.UnixNano())
		}
		b.spawn(b.look)
	}
	if silent > int64(b.silence) && crowded > int64(b.silence/2) && // or they have only just come
		now.UnixNano()-b.looked.Load() > int64(b.silence/3) { // or nobody has come to look until now
		b.failure(errSilent, breakerOpens)
	}
}

// look asks a silent node something small: what is on its way may be long replies over
// a slow line, which are no silence.
func (b *breaker) look() {
	defer b.looking.Store(false)
	if b.probe() == nil {
		b.heard.Store(time.Now().UnixNano())
	}
}

// answersSince reports whether the node has answered something since then.
func (b *breaker) answersSince(then time.Time) bool { return b.heard.Load() > then.UnixNano() }

// over notes the end of a command that sent was called for.
func (b *breaker) over(now time.Time, answered bool) {
	b.waiting.Add(-1)
	if answered {
		b.heard.Store(now.UnixNano())
	}
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
	b.log.Warn("cache backend does not "+b.does+": going on without it", "err", err)
	b.spawn(b.untilAnswered)
}

// untilAnswered probes, one at a time, until the node answers.
func (b *breaker) untilAnswered() {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for b.probe() != nil {
		select {
		case <-tick.C:
		case <-b.stop.Done():
			return
		}
	}
	b.failures.Store(0)
	b.heard.Store(time.Now().UnixNano())
	b.open.Store(false)
	b.log.Warn("cache backend " + b.does + "s again")
	b.onChange()
}
