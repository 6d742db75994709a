package batch

import (
	"errors"
	"sync"
)

// ErrUnanswered is the end of a command that waited behind one that was not answered.
var ErrUnanswered = errors.New("another command to the server was not answered")

// Gate lets a few commands at a time go to a server, in the order in which they came. A
// wait says nothing of the server, which is at work, until a command is not answered: then
// all commands that wait fail at once.
type Gate struct {
	turns chan struct{} // has one of each command on its way

	mu         sync.Mutex
	unanswered chan struct{} // closed, and replaced, when a command is not answered
}

// NewGate returns a Gate for n commands at a time.
func NewGate(n int) *Gate {
	return &Gate{turns: make(chan struct{}, n), unanswered: make(chan struct{})}
}

// Do runs command when it is its turn, and returns its error, or ErrUnanswered if it did not
// run. answered tells whether an error is the server's answer.
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
