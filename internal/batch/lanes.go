// Package batch decides which commands go to a server alone, and which together.
//
// A command costs a server less than the round trip that carries it. So when many are
// asked for at once, a few go alone, each in a lane, and the rest gather until a lane is
// free and then share one round trip. [Lanes] derives from the measured round trips how
// many lanes there should be. [Line] has the commands that wait for one, and sends them;
// its user says how, and decides how many go together. [Gate] is for commands that are
// never sent together: it only bounds how many are on their way.
package batch

import "time"

// Lanes counts the round trips of one kind that are on their way to a server, and says how
// many there may be. While a lane is free, a command goes alone and at once. Commands that
// come meanwhile gather, and go together when a lane is free: a command costs less than the
// round trip and the system calls on both sides. No command is delayed to let others join
// it; a command that waits loses at most the part of a round trip until a lane is free.
//
// There is a lane for each PerLane of the quickest recent round trips, within bounds. Where
// a round trip is mostly work of the two processes, few lanes make large batches, which are
// less work. Where it is mostly time on the network, waiting for a lane would waste time in
// which the server is idle.
//
// Its methods must not be called concurrently.
type Lanes struct {
	PerLane time.Duration // the length of round trip that warrants one lane
	Most    int           // how many connections there may be; 0 is no bound
	Busy    int           // lanes that are taken
	RTT     time.Duration // of the quickest recent commands that went alone; 0 before the first
}

// MinLanes and MaxLanes bound how many lanes there are. Most may lower that further.
const MinLanes, MaxLanes = 2, 16

// Limit returns how many lanes there are.
func (l *Lanes) Limit() int {
	n := MaxLanes // before the first round trip is measured; fewer would delay the first commands
	if l.RTT > 0 {
		n = min(max(int(l.RTT/l.PerLane), MinLanes), MaxLanes)
	}
	if l.Most > 0 {
		n = min(n, l.Most)
	}
	return n
}

// Observe notes how long a command took that went alone. RTT follows a quicker command at
// once and a slower one little by little, since a slow command more often means a busy
// server than a longer way to it.
func (l *Lanes) Observe(rtt time.Duration) {
	if rtt <= 0 {
		return // the command was not sent
	}
	if l.RTT == 0 || rtt < l.RTT {
		l.RTT = rtt
	} else {
		l.RTT += (rtt - l.RTT) / 256
	}
}
