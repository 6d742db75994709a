// Package breaker keeps calls away from a server that does not answer.
//
// Its user asks [Breaker.IsOpen] before each command, calls [Breaker.Sent] and
// [Breaker.Over] around it, and reports its outcome to [Breaker.Success] or
// [Breaker.Failure]. The breaker opens after some failures in a row, or when several
// commands wait for a server that has answered nothing for some time. While it is open,
// a goroutine of its own probes the server, and closes it after the first answer. A
// Breaker knows nothing of the commands: a weight says how much a failure counts.
//
// The second way to open, by silence, exists since commands to a server that hangs would
// otherwise each wait for their full time before the breaker opens. A reply to any command,
// or to a probe sent meanwhile, ends the silence: the server is slow then, and not gone.
package breaker

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// Failures in a row whose weights reach Opens open a breaker: three Ordinary ones. A
	// Hasty failure had little time, as its caller had a short deadline, and says less
	// about the node.
	Opens    = 12
	Ordinary = 4
	Hasty    = 1
	// silentWaiting is how many commands may wait for a silent node. When more have been
	// waiting for half of Options.Silence, and the node has been silent for all of it,
	// the breaker opens before one of them times out.
	silentWaiting = 3
	// probeInterval is how long an open breaker waits between its probes.
	probeInterval = 250 * time.Millisecond
)

// errSilent is the error with which silence opens a breaker.
var errSilent = errors.New("no reply while several commands are waiting")

// Breaker keeps calls away from a node that does not answer. While it is open, a goroutine
// of its own probes the node. It has no half-open state, which would let a few calls through
// to try the node: no caller ever pays for a probe.
//
// Its methods may be called concurrently. They take no locks, as each command of a process
// calls several of them, and do not wait. One that opens the breaker logs that and calls
// Options.Turned. Times are in Unix nanoseconds.
type Breaker struct {
	Options
	failures atomic.Int32 // the weight of the failures in a row
	open     atomic.Bool
	waiting  atomic.Int32 // commands on their way
	heard    atomic.Int64 // when the node last answered, or was asked while nothing was on its way
	crowded  atomic.Int64 // since when more than silentWaiting have been waiting, or 0
	looking  atomic.Bool  // look is running
	looked   atomic.Int64 // when the first look since heard began
}

// Options configure a Breaker.
type Options struct {
	Does    string                     // the task of the node, for the log: "answer", or "store"
	Probe   func() error               // asks the node something small
	Turned  func(open bool, err error) // called after it has opened, with the error that did it, and before it closes; may be nil
	Silence time.Duration              // how long the node may be silent while commands wait; 0 is for ever
	Log     *slog.Logger
	Stop    context.Context        // ends the probing; the breaker then stays as it is
	Go      func(work func()) bool // runs work in a goroutine, or reports that it no longer starts any

	// Connected, when not nil, returns until when the commands on their way had no
	// connection to be sent on, in Unix nanoseconds. The node owes no reply from before.
	Connected func() int64
}

// New returns a Breaker that is closed.
func New(o Options) *Breaker {
	if o.Turned == nil {
		o.Turned = func(bool, error) {}
	}
	return &Breaker{Options: o}
}

// IsOpen reports whether the breaker is open: no command should be sent to the node.
func (b *Breaker) IsOpen() bool { return b.open.Load() }

// HasFailed reports whether a command has failed since the last success.
func (b *Breaker) HasFailed() bool { return b.failures.Load() != 0 }

// Heard notes that the node has answered something.
func (b *Breaker) Heard(now time.Time) { b.heard.Store(now.UnixNano()) }

// Sent notes a command on its way, until Over. It may open the breaker: see Asked.
func (b *Breaker) Sent(now time.Time) {
	if b.waiting.Load() == 0 {
		b.heard.Store(now.UnixNano()) // before other callers can see that a command waits
	}
	b.waiting.Add(1)
	b.Asked(now, 0)
}

// Asked notes that more callers wait for the node in addition to the commands on their way,
// and opens the breaker if the node has been silent for too long. Nothing else looks at the
// time: silence is noticed when the next command is sent or the next caller gets in line.
//
// After half of Silence, a probe is sent, since the replies on their way may be long ones
// over a slow connection. The breaker opens only if that probe, too, has had time to be
// answered, and only if the commands have not all just come.
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
		heard = max(heard, b.Connected())
	}
	silent, crowded := now.UnixNano()-heard, now.UnixNano()-b.crowded.Load()
	if silent > int64(b.Silence/2) && b.looking.CompareAndSwap(false, true) {
		if b.looked.Load() <= heard {
			b.looked.Store(now.UnixNano())
		}
		b.Go(b.look)
	}
	if silent > int64(b.Silence) && crowded > int64(b.Silence/2) && // not all have just come
		now.UnixNano()-b.looked.Load() > int64(b.Silence/3) { // the probe has had its time
		b.Failure(errSilent, Opens)
	}
}

// look probes a node that seems silent. Its answer ends the silence.
func (b *Breaker) look() {
	defer b.looking.Store(false)
	if b.ask() == nil {
		b.heard.Store(time.Now().UnixNano())
	}
}

// errExited is the error of a probe that has ended its goroutine.
var errExited = errors.New("foreign code ended the goroutine of the probe")

// ask probes the node, in a goroutine of its own that foreign code of a client may end.
func (b *Breaker) ask() error {
	done := make(chan error, 1)
	go func() {
		err := errExited
		defer func() { done <- err }()
		err = b.Probe()
	}()
	return <-done
}

// AnswersSince reports whether the node has answered any command since then.
func (b *Breaker) AnswersSince(then time.Time) bool { return b.heard.Load() > then.UnixNano() }

// Over notes the end of a command that Sent was called for, and whether it was answered.
func (b *Breaker) Over(now time.Time, answered bool) {
	b.waiting.Add(-1)
	if answered {
		b.heard.Store(now.UnixNano())
	}
}

// Success notes a command that succeeded: earlier failures no longer count.
func (b *Breaker) Success() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

// Failure notes a command that failed with err, and how much the failure counts. If that
// opens the breaker, Failure logs err and starts the probing.
func (b *Breaker) Failure(err error, weight int32) {
	if b.failures.Add(weight) < Opens || b.Stop.Err() != nil || !b.open.CompareAndSwap(false, true) {
		return
	}
	b.Log.Warn("aside: breaker opened, backend does not "+b.Does, "err", err)
	b.Turned(true, err)
	b.Go(b.untilAnswered)
}

// untilAnswered probes until the node answers, one probe at a time, and closes the breaker.
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
	b.Log.Info("aside: breaker closed, backend " + b.Does + "s again")
}
