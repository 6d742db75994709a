// Package places bounds how many loads run at a time (Config.MaxLoads), to protect a database
// from a cache that has lost its entries. Each load takes a place, in the order in which they
// arrive, and gives it back when it is over.
//
// A semaphore alone would deadlock: a load that begins another one, or waits for it, has a
// place, and the other may stand in line behind it. So a load that one with a place waits for
// goes on without a place ([Seat.Promote]). The bound is exceeded by such loads only.
package places

import (
	"slices"
	"sync"
)

// Places is a number of places, and the line of loads that wait for one. A nil *Places has no
// bound. Its methods may be called concurrently.
type Places struct {
	mu   sync.Mutex
	free int     // 0 while line has seats
	line []*Seat // in the order of their arrival
}

// New returns n places, or nil, which is without a bound, if n is 0.
func New(n int) *Places {
	if n == 0 {
		return nil
	}
	return &Places{free: n}
}

// Seat is the place of one load, or its position in line. A nil *Seat is that of a load without
// a bound, and may always go on. Its methods may be called concurrently.
type Seat struct {
	places  *Places
	has     bool          // it has one of the places; false in line, and after Promote
	over    bool          // Leave was called
	granted chan struct{} // closed when the load may go on
}

// Take takes a place, or a position at the end of the line. It does not wait.
func (p *Places) Take() *Seat {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &Seat{places: p, granted: make(chan struct{})}
	if p.free > 0 {
		p.free--
		s.has = true
		close(s.granted)
	} else {
		p.line = append(p.line, s)
	}
	return s
}

// TryTake takes a place if one is free, and reports whether it did. It takes no position in
// line, for loads that can be left out.
func (p *Places) TryTake() (s *Seat, ok bool) {
	if p == nil {
		return nil, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return nil, false
	}
	p.free--
	s = &Seat{places: p, has: true, granted: make(chan struct{})}
	close(s.granted)
	return s, true
}

// Turn returns a channel that is closed when the load may go on, or nil if it may go on now.
func (s *Seat) Turn() <-chan struct{} {
	if s == nil {
		return nil
	}
	select {
	case <-s.granted:
		return nil
	default:
		return s.granted
	}
}

// Wait waits until the load may go on or done is closed. It reports whether the load may go on;
// if not, it is still in line until Leave is called.
func (s *Seat) Wait(done <-chan struct{}) bool {
	if s == nil {
		return true
	}
	select {
	case <-s.granted:
		return true
	case <-done:
		return false
	}
}

// Promote lets the load go on without a place if it is in line. Call it when a load that has a
// place begins to wait for this one.
func (s *Seat) Promote() {
	if s == nil {
		return
	}
	p := s.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.line, s); i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
		close(s.granted)
	}
}

// Leave gives the place to the first in line, or gives up the position in line. Further calls
// do nothing.
func (s *Seat) Leave() {
	if s == nil {
		return
	}
	p := s.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	if i := slices.Index(p.line, s); i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
	}
	if !s.has {
		return
	}
	if len(p.line) == 0 {
		p.free++
		return
	}
	next := p.line[0]
	p.line = slices.Delete(p.line, 0, 1)
	next.has = true
	close(next.granted)
}

// Full reports whether no place is free.
func (p *Places) Full() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free == 0
}
