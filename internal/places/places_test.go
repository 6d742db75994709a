package places_test

import (
	"testing"

	"github.com/cacheaside/aside/internal/places"
)

var now = make(chan struct{})

func init() { close(now) }

// may reports whether the seat may go on already.
func may(s *places.Seat) bool {
	for range 100 { // of two channels that are closed, select takes either
		if s.Wait(now) {
			return true
		}
	}
	return false
}

func TestPlaces_Order(t *testing.T) {
	t.Parallel()
	p := places.New(2)
	var seats []*places.Seat
	for range 5 {
		seats = append(seats, p.Take())
	}
	if !may(seats[0]) || !may(seats[1]) || may(seats[2]) {
		t.Fatal("not exactly two may go on")
	}
	if _, ok := p.TryTake(); ok {
		t.Error("a place is free before those in line have one")
	}
	seats[3].Leave() // from the line
	seats[0].Leave()
	seats[0].Leave()
	if !may(seats[2]) || may(seats[4]) {
		t.Error("the place was not given to the first in line, once")
	}
	seats[1].Leave()
	if !may(seats[4]) {
		t.Error("the turn of one that has left was not given up")
	}
	seats[2].Leave()
	seats[4].Leave()
	for range 2 {
		if _, ok := p.TryTake(); !ok {
			t.Fatal("a place was lost")
		}
	}
	if _, ok := p.TryTake(); ok {
		t.Error("there are more places than at first")
	}
}

func TestSeat_Promote(t *testing.T) {
	t.Parallel()
	p := places.New(1)
	first, second, third := p.Take(), p.Take(), p.Take()
	third.Promote()
	third.Promote()
	first.Promote() // it has a place
	if !may(third) || may(second) {
		t.Error("the promoted one cannot go on, or another one can")
	}
	third.Leave()
	if may(second) {
		t.Error("one without a place gave one back")
	}
	first.Leave()
	if !may(second) {
		t.Error("the next in line was not served")
	}
}

func TestPlaces_Unbounded(t *testing.T) {
	t.Parallel()
	p := places.New(0)
	s := p.Take()
	s.Promote()
	if _, ok := p.TryTake(); !ok || !s.Wait(nil) {
		t.Error("there is a bound")
	}
	s.Leave()
}
