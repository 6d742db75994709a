package aside

import "time"

// lanes are how many commands of a kind are on their way to one node at a time.
// While one is free, a command goes alone and at once. Those that come meanwhile
// are gathered, and go together when a lane is free: what costs most is not the
// command, but the round trip and the system calls that it takes on both sides.
// Nobody waits in order that others may come: who has to wait is late by the part of
// a round trip that it takes until a lane is free.
//
// There are as many as the quickest round trips take times per, within bounds. Where
// a round trip is little but the work of the two processes, few lanes make large
// batches, which is less work. Where it is mostly the way, to wait for a lane costs
// time that nobody uses.
type lanes struct {
	per  time.Duration // of a round trip, for which there is one lane
	most int           // there can be, as the client has no more connections; 0 when there is no such bound
	busy int
	trip time.Duration // of the quickest recent commands that went alone; 0 before the first
}

const minLanes, maxLanes = 2, 16

// take takes a lane, if one is free.
func (l *lanes) take() bool {
	if l.busy >= l.all() {
		return false
	}
	l.busy++
	return true
}

func (l *lanes) all() int {
	n := maxLanes // until it is known, or what comes at first would wait for long
	if l.trip > 0 {
		n = min(max(int(l.trip/l.per), minLanes), maxLanes)
	}
	if l.most > 0 {
		n = min(n, l.most)
	}
	return n
}

// took notes how long a command took that went alone.
func (l *lanes) took(d time.Duration) {
	if d <= 0 {
		return // it did not get that far
	}
	if l.trip == 0 || d < l.trip {
		l.trip = d
	} else {
		l.trip += (d - l.trip) / 256
	}
}
