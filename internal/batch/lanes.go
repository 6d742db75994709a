// Package batch decides which commands go to a server alone, and which together.
//
// A command costs a server less than the round trip that carries it. So when many are
// asked for at once, a few go alone, each in a lane, and the rest gather until a lane is
// free and then share one round trip. [Lanes] derives from the measured round trips how
// many lanes there should be. [Line] has the commands that wait for one, and sends them;
// its user says how, and decides how many go together.
package batch

import "time"

// Lanes are the commands of a kind that are on their way to one node at a time.
// While a lane is free, a command goes alone and at once. Commands that come meanwhile
// are gathered, and go together when a lane is free: the command itself costs less than
// the round trip and the system calls that it takes on both sides. No command waits in
// order that others may come; one that has to wait is late by the part of
// a round trip that it takes until a lane is free.
//
// There are as many lanes as the quickest round trips take times PerLane, within bounds.
// Where a round trip is little but the work of the two processes, few lanes make large
// batches, which is less work. Where it is mostly the way, to wait for a lane costs
// time that nobody uses.
//
// Its methods must not be called concurrently.
type Lanes struct {
	PerLane time.Duration // of a round trip, for which there is one lane
	Most    int           // there can be, as the client has no more connections; 0 when there is no such bound
	Busy    int           // lanes that are taken
	RTT     time.Duration // of the quickest recent commands that went alone; 0 before the first
}

// The bounds of how many lanes there are.
const MinLanes, MaxLanes = 2, 16

// Limit returns how many lanes there are.
func (l *Lanes) Limit() int {
	n := MaxLanes // until it is known, or what comes at first would wait for long
	if l.RTT > 0 {
		n = min(max(int(l.RTT/l.PerLane), MinLanes), MaxLanes)
	}
	if l.Most > 0 {
		n = min(n, l.Most)
	}
	return n
}

// Observe notes how long a command took that went alone.
func (l *Lanes) Observe(rtt time.Duration) {
	if rtt <= 0 {
		return // it did not get that far
	}
	if l.RTT == 0 || rtt < l.RTT {
		l.RTT = rtt
	} else {
		l.RTT += (rtt - l.RTT) / 256
	}
}
