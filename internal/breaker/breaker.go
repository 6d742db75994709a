// Package breaker keeps calls away from a server that does not answer.
//
// Its user asks [Breaker.IsOpen] before each command, calls [Breaker.Sent] and
// [Breaker.Over] around it, and reports its outcome to [Breaker.Success] or
// [Breaker.Failure]. The breaker opens after some failures in a row, or when several
// commands wait for a server that has answered nothing for some time. While it is open,
// a goroutine of its own probes the server, and closes it after the first answer. A
// Breaker knows nothing of the commands: a weight says how much a failure counts.
package breaker

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// Failures that weigh Opens in a row open a breaker: three ordinary
	// ones. One that had little time to answer, as its caller had a short
	// deadline, says less.
	Opens    = 12
	Ordinary = 4
	Hasty    = 1
	// A node that has been silent for a third of the budget, while more commands than
	// these wait for it for half of that time, is left alone before one times out.
	silentWaiting = 3
	// probeInterval is how long an open breaker waits between its probes.
	probeInterval = 250 * time.Millisecond
)

var errSilent = errors.New("several commands wait for it, and it is silent")

// Breaker keeps calls away from a node that does not answer. It opens after
// some failures in a row, or when several commands wait for a node that is silent;
// then a goroutine of its own probes the node until it answers, and closes it. No
// caller ever pays for a probe, which is why this is not a breaker of the usual
// kind, with a half-open state that lets some calls through.
type Breaker struct {
	Options
	failures atomic.Int32
	open     atomic.Bool
	waiting  atomic.Int32 // commands on their way
	heard    atomic.Int64 // when the node last answered, or was asked while nothing was on its way
	crowded  atomic.Int64 // since when more than silentWaiting wait for it, or 0
	looking  atomic.Bool  // a probe finds out whether it answers anything
	looked   atomic.Int64 // when the first probe since it was heard began
}

// Options configure a Breaker.
type Options struct {
	Does    string                     // the task of the node, for the log: "answer", or "store"
	Probe   func() error               // asks the node something small
	Answers func()                     // is called when the breaker has closed
	Turned  func(open bool, err error) // is called when it has opened, with the error that did it, or is about to close; may be nil
	Silence time.Duration              // how long the node may be silent while commands wait; 0 is for ever
	Log     *slog.Logger
	Stop    context.Context        // after which nothing is probed
	Go      func(work func()) bool // runs work in a goroutine, or reports that nothing is begun any more

	// Connected, when not nil, returns until when the commands on their way had no
	// connection to be sent on, in Unix nanoseconds.
	Connected func() int64
}

// New returns a Breaker that is closed.
func New(o Options) *Breaker {
	if o.Turned == nil {
		o.Turned = func(bool, error) {}
	}
	return &Breaker{Options: o}
}

// IsOpen reports whether the node is to be left alone.
func (b *Breaker) IsOpen() bool { return b.open.Load() }

// HasFailed reports whether the last command failed.
func (b *Breaker) HasFailed() bool { return b.failures.Load() != 0 }

// Heard notes that the node has answered something.
func (b *Breaker) Heard(now time.Time) { b.heard.Store(now.UnixNano()) }

// Sent notes a command on its way, until over.
func (b *Breaker) Sent(now time.Time) {
	if b.waiting.Load() == 0 {
		b.heard.Store(now.UnixNano()) // before anyone can see that something waits
	}
	b.waiting.Add(1)
	b.Asked(now, 0)
}

// Asked notes that more callers wait for the node, beside the commands that are on their
// way.
func (b *Breaker) Asked(now time.Time, more int) {
	if b.Silence <= 0 {
		return
	}
	if int(b.waiting.Load())+more <= silentWaiting {
		b.crowded.Store(0)
		return
	}
	b.crowded.CompareAndSwap(0, now.UnixNano())
	heard := b.heard.Load()
	if b.Connected != nil {
		heard = max(heard, b.Connected()) // until then they waited for a connection
	}
	silent, crowded := now.UnixNano()-heard, now.UnixNano()-b.crowded.Load()
	if silent > int64(b.Silence/2) && b.looking.CompareAndSwap(false, true) {
		if b.looked.Load() <= heard {
			b.looked.Store(now.UnixNano())
		}
		b.Go(b.look)
	}
	if silent > int64(b.Silence) && crowded > int64(b.Silence/2) && // or they have only just come
		now.UnixNano()-b.looked.Load() > int64(b.Silence/3) { // or nobody has come to look until now
		b.Failure(errSilent, Opens)
	}
}

// look asks a silent node something small. The replies on their way may be long ones over
// a slow line, which is not silence.
func (b *Breaker) look() {
	defer b.looking.Store(false)
	if b.ask() == nil {
		b.heard.Store(time.Now().UnixNano())
	}
}

var errExited = errors.New("the probe ended its goroutine")

// ask probes in a goroutine of its own, which code of a client may end.
func (b *Breaker) ask() error {
	done := make(chan error, 1)
	go func() {
		err := errExited
		defer func() { done <- err }()
		err = b.Probe()
	}()
	return <-done
}

// AnswersSince reports whether the node has answered something since then.
func (b *Breaker) AnswersSince(then time.Time) bool { return b.heard.Load() > then.UnixNano() }

// Over notes the end of a command that sent was called for.
func (b *Breaker) Over(now time.Time, answered bool) {
	b.waiting.Add(-1)
	if answered {
		b.heard.Store(now.UnixNano())
	}
}

// Success notes a command that succeeded.
func (b *Breaker) Success() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

// Failure notes a command that failed, and how much the failure counts.
func (b *Breaker) Failure(err error, weight int32) {
	if b.failures.Add(weight) < Opens || b.Stop.Err() != nil || !b.open.CompareAndSwap(false, true) {
		return
	}
	b.Log.Warn("cache backend does not "+b.Does+": going on without it", "err", err)
	b.Turned(true, err)
	b.Go(b.untilAnswered)
}

// untilAnswered probes, one at a time, until the node answers.
func (b *Breaker) untilAnswered() {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for b.ask() != nil {
		select {
		case <-tick.C:
		case <-b.Stop.Done():
			return
		}
	}
	b.failures.Store(0)
	b.heard.Store(time.Now().UnixNano())
	b.Turned(false, nil)
	b.open.Store(false)
	b.Log.Warn("cache backend " + b.Does + "s again")
	b.Answers()
}
