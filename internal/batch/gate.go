package batch

import (
	"errors"
	"sync"
)

// ErrUnanswered is the error of a command that was not sent, as one before it was not
// answered.
var ErrUnanswered = errors.New("not sent: another command to the server was not answered")

// Gate lets a few commands at a time go to a server, in the order of their arrival. It is for
// commands that cannot share a round trip and must not fail while the server is healthy, so
// waiting has no time limit. A long wait says nothing about the server, which is at work;
// but when one command is not answered, all that wait fail at once, and none of them has to
// time out in its turn. Its methods may be called concurrently.
type Gate struct {
	turns chan struct{} // holds one element for each command on its way

	mu         sync.Mutex    // guards unanswered
	unanswered chan struct{} // closed, and replaced, when a command is not answered
}

// NewGate returns a Gate for n commands at a time.
func NewGate(n int) *Gate {
	return &Gate{turns: make(chan struct{}, n), unanswered: make(chan struct{})}
}

// Do runs command in the caller's goroutine when it is its turn, and returns its error, or
// ErrUnanswered if it did not run. answered reports whether an error of command is a reply of
// the server. A panic of command gives the turn to the next one.
func (g *Gate) Do(command func() error, answered func(error) bool) error {
	select {
	case g.turns <- struct{}{}:
	default:
		g.mu.Lock()
		unanswered := g.unanswered
		g.mu.Unlock()
		select {
		case g.turns <- struct{}{}:
		case <-unanswered:
			return ErrUnanswered
		}
	}
	defer func() { <-g.turns }()
	err := command()
	if err != nil && !answered(err) {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.unanswered)
		g.unanswered = make(chan struct{})
	}
	return err
}
