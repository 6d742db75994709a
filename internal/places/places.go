// Package places bounds how many loads run at a time. Each load takes a place, in the order
// in which they come, and gives it back when it is over.
//
// A load that begins another one, or waits for it, would wait for ever where that stands in
// line behind it. So a load that is needed by one that has a place goes on without one:
// [Seat.Promote].
package places

import (
	"slices"
	"sync"
)

// Places are a number of places and the line for them. Methods may be called concurrently.
// Nil Places are without a bound.
type Places struct {
	mu   sync.Mutex
	free int
	line []*Seat
}

// New returns n places, or nil if n is 0.
func New(n int) *Places {
	if n == 0 {
		return nil
	}
	return &Places{free: n}
}

// Seat is the place of one load, or its turn in line. A nil Seat needs no place. Its methods
// may be called concurrently.
type Seat struct {
	places  *Places
	has     bool          // a place of its own
	over    bool          // it has left
	granted chan struct{} // closed when it may go on
}

// Take takes a place, or a turn in line.
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

// TryTake takes a place if one is free, and reports whether it did.
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

// Turn returns a channel that is closed when the load may go on, or nil if it may already.
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

// Wait waits until the load may go on, or done is closed, and reports whether it may.
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

// Promote has the load go on without a place, if it is in line: one that has a place waits
// for it.
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

// Leave gives the place back to the first in line, or the turn up. Further calls do nothing.
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
